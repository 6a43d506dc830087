"""The ledger of attempts on one held-out set: each further try since the last PASS costs more.

Whoever retries until a release passes asks the same examples again and again, and one of the
answers is wrong sooner or later. So the j-th attempt must pass at ::

    α_j = α / j²,   Σ over all j of α_j = (π² / 6) α ≤ 1.65 α

which bounds the chance that such a series ends in a false PASS, however many attempts there are
and however alike they are (a union bound). It prices retrying, not tuning: a candidate made from
the answers on this set is outside any such bound. Without the ledger the chance after j attempts
is at most 1 − (1 − α)^j where they are independent or positively dependent, as those on one
held-out set are.

An attempt is a candidate, the recipe that made it, and the draw: what else the answer depends on,
such as the calibration data, which examples a `limit` takes, in which order they are visited where
evaluation may stop early, and every fresh measurement of time. Judging the same one again is no new
attempt: it sees the same answer, which no retry has chosen. An attempt is entered before it is
evaluated, and one that never finished counts. Only a PASS of the same demands starts the count
again.

D. P. Foster, R. A. Stine (2008), "α-investing: a procedure for sequential control of expected
false discoveries", JRSS B 70; A. Blum, M. Hardt (2015), "The Ladder", ICML.
"""

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

FRESH_AT = 10
"""Attempts at which a fresh sealed split is recommended: from here on α is below a hundredth."""
PASS = "pass"  # noqa: S105

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One release judged, or about to be, on the held-out set."""

    key: str
    """As `attempt_key` makes it."""
    outcome: str | None
    """Of the verdict, "pass" for a PASS; None while unfinished."""
    demands: str = ""
    """Of what it had to meet; empty where a PASS of it proves nothing."""


def alpha_of_attempt(alpha: float, attempt: int) -> float:
    """α that the `attempt`-th attempt since the last PASS is judged at: α / attempt².

    Raises:
        ValueError: `alpha` is not between 0 and 1, or `attempt` is not a whole number from 1.
    """
    _check(alpha, attempt)
    return alpha / attempt**2


def attempt_number(past: Sequence[Attempt], key: str, demands: str = "") -> int:
    """Which attempt judging `key` now is, counting different keys since the last PASS from 1.

    A key that is among them keeps its number. Only a PASS of the same demands starts again: a
    waived release does not, nor does one that a looser policy let through.

    Args:
        past: what was judged on this held-out set, oldest first; `key` itself may be there.
        key: as `attempt_key` makes it.
        demands: what is to be met now.

    Raises:
        ValueError: a key is empty.
    """
    if not key or not all(attempt.key for attempt in past):
        raise ValueError("an attempt must have a key")
    numbers: dict[str, int] = {}
    for attempt in past:
        if attempt.outcome == PASS and attempt.demands == demands:
            numbers.clear()
        else:
            numbers.setdefault(attempt.key, len(numbers) + 1)
    return numbers.get(key, len(numbers) + 1)


def reuse_error(alpha: float, attempts: int) -> float:
    """Chance of at least one false PASS if each of `attempts` looks had been judged at plain α.

    1 − (1 − α)^attempts, exact for independent looks and an upper bound for those on one held-out
    set, whose errors go together; for a report's sentence, not for a verdict.

    Raises:
        ValueError: `alpha` is not between 0 and 1, or `attempts` is not a whole number from 0.
    """
    _check(alpha, attempts, least=0)
    return -math.expm1(attempts * math.log1p(-alpha))


def attempt_key(candidate_sha256: str, recipe: str, draw: str = "") -> str:
    """What tells one attempt from another: sha256 of the candidate's digest, recipe and draw.

    Args:
        candidate_sha256: 64 hexadecimal digits, lower case.
        recipe: the resolved recipe, in one canonical text.
        draw: what else chance had a hand in; empty where every run sees the same.

    Raises:
        ValueError: `candidate_sha256` is no digest, or `recipe` is empty.
    """
    if not _SHA256.fullmatch(candidate_sha256):
        raise ValueError(f"candidate_sha256 must be 64 hexadecimal digits: {candidate_sha256!r}")
    if not recipe:
        raise ValueError("a resolved recipe must not be empty")
    # The digest has a fixed length, so no two pairs give the same text.
    tail = f"\n{draw}" if draw else ""
    return hashlib.sha256((candidate_sha256 + recipe + tail).encode()).hexdigest()


def _check(alpha: float, attempts: int, least: int = 1) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, not {alpha}")
    if not (least <= attempts < math.inf and attempts % 1 == 0):
        raise ValueError(f"attempts must be a whole number of at least {least}, not {attempts}")
