"""What verify and reproduce found, for people and for scripts."""

from collections.abc import Iterator
from dataclasses import asdict

from gate.commands._promote_text import checked
from gate.commands.reproduce import Reproduction
from gate.commands.verify import Verification
from gate.wording import json_text, plain

_LONG = 2000


def render(found: Verification | Reproduction, format_: str) -> str:
    """What holds, and what does not."""
    if format_ == "json":
        told = asdict(found) | {"exit_code": found.exit_code}
        return json_text(told)
    lines = _verified(found) if isinstance(found, Verification) else _reproduced(found)
    return "\n".join(lines) + "\n"


def _head(head: str, found: Verification | Reproduction) -> str:
    return f"{head}  {plain(found.model)}, record {plain(found.record)}: {found.verdict.upper()}"


def _verified(found: Verification) -> Iterator[str]:
    head = _head("NOT VERIFIED" if found.reasons else "VERIFIED", found)
    yield f"{head} at stage {found.stage}"
    yield from checked(found.checks)
    if found.attested:
        yield "  --  models ran elsewhere: `--int8 FILE` holds one against what was attested"
    for what in found.skipped:
        yield f"  --  {what} not looked at (--skip)"
    if found.signed:
        yield f"  signed by key {found.signed[:16]}…"
    elif not found.reasons:
        yield "  not signed: these files go together, and nothing shows who made them (`gate sign`)"


def _reproduced(found: Reproduction) -> Iterator[str]:
    yield _head("NOT REPRODUCED" if found.exit_code else "REPRODUCED", found)
    for one in found.held:
        how = f": {plain(one.differs, _LONG)}" if one.differs else ""
        yield f"  {'differs' if one.differs else 'same':<8}{one.what}{how}"
    for told in found.elsewhere:
        yield f"  here: {plain(told, _LONG)}"
    for budget in found.left_out:
        yield f"  not run again, as it is against an earlier release: {plain(budget)}"
