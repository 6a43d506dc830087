"""How many hostile inputs were tried, and what they came to."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

_PROPERTY = "fuzz"


class Tally:
    """Of one kind of input; the test's report tells it, whichever process ran the test."""

    def __init__(self, kind: str, record_property: Callable[[str, object], None]) -> None:
        self._kind = kind
        self._codes: Counter[int] = Counter()
        self._record = record_property

    def count(self, ended: Any) -> Any:
        """It, counted."""
        self._codes[ended.code] += 1
        return ended

    @contextmanager
    def told_at_end(self, seed: int | None = None) -> Iterator[None]:
        """`policies 1,234 in 20 s: 12 × 0, 1,222 × 2 (FUZZ_SEED=7)`, though it may have failed."""
        began = time.monotonic()
        try:
            yield
        finally:
            codes = ", ".join(f"{count:,} × {code}" for code, count in sorted(self._codes.items()))
            of = "the same every time" if seed is None else f"FUZZ_SEED={seed}"
            total, seconds = self._codes.total(), time.monotonic() - began
            self._record(_PROPERTY, f"{self._kind} {total:,} in {seconds:.0f} s: {codes} ({of})")


def executions(reports: Iterable[Any]) -> list[str]:
    """What tests tell that they tried."""
    return [
        told
        for report in reports
        for name, told in getattr(report, "user_properties", ())
        if name == _PROPERTY and report.when == "call"
    ]
