"""What people read of a promotion, whole."""

from datetime import UTC, datetime
from typing import Any

import pytest

from gate.commands._promote_backing import Reason
from gate.commands._promote_checks import Check
from gate.commands._promote_text import promotion_json, render_promotion
from gate.commands.promote import Promotion
from gate.registered import Move

MOVE = Move(
    model="digits",
    alias="production",
    version="2",
    previous="1",
    kind="promote",
    record="r2",
    int8_sha256="ab" * 32,
    who="ann",
    why="PASS: 1 budget",
    when=datetime(2026, 3, 1, 12, 30, tzinfo=UTC),
)
HOLDS = Check("verdict PASS", ())
ONE = Check("policy in force", (Reason("it is another", 2),))
TWO = Check("never rolled back", (Reason("it was"), Reason("and twice")))


def promotion(outcome: Any, *checks: Check, **fields: Any) -> Promotion:
    known = {"model": "digits", "record": "r2", "alias": "production", "version": "2",
             "previous": "1"}  # fmt: skip
    return Promotion(outcome=outcome, checks=checks, **(known | fields))


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (
            promotion("moved", HOLDS, move=MOVE),
            "PROMOTED  digits-int8 version 2, record r2\n"
            "  production moved from version 1 to version 2.\n"
            "  by ann: PASS: 1 budget\n"
            "  To go back: gate rollback digits\n",
        ),
        (
            promotion("moved", HOLDS, move=MOVE, alias="canary", previous=None),
            "PROMOTED  digits-int8 version 2, record r2\n"
            "  canary moved from no version to version 2.\n"
            "  by ann: PASS: 1 budget\n",
        ),
        (
            promotion("moved", HOLDS, move=MOVE, alias="canary"),
            "PROMOTED  digits-int8 version 2, record r2\n"
            "  canary moved from version 1 to version 2.\n"
            "  by ann: PASS: 1 budget\n"
            "  To go back: gate rollback digits --alias canary\n",
        ),
        (
            promotion("would move", HOLDS, previous=None),
            "WOULD PROMOTE  digits-int8 version 2, record r2\n"
            "  production would move from no version to version 2.\n",
        ),
        (
            promotion("already there", HOLDS, previous="2"),
            "NOTHING TO DO  digits-int8 version 2, record r2\n"
            "  production names version 2 already.\n",
        ),
        (
            promotion("completed", HOLDS, previous="2", move=MOVE),
            "COMPLETED  digits-int8 version 2, record r2\n"
            "  production names version 2; the entry of its move is complete now.\n",
        ),
        (
            promotion("refused", HOLDS, ONE, version=None),
            "NOT PROMOTED  digits-int8 no version, record r2\n"
            "- it is another\n"
            "  1 reason against it; production still names version 1.\n",
        ),
        (
            promotion("refused", ONE, TWO, previous=None),
            "NOT PROMOTED  digits-int8 version 2, record r2\n"
            "- it is another\n"
            "- it was\n"
            "- and twice\n"
            "  3 reasons against it; production still names no version.\n",
        ),
    ],
)
def test_every_outcome_is_told(found: Promotion, text: str) -> None:
    assert render_promotion(found) == text


def test_a_dry_run_tells_every_check() -> None:
    assert render_promotion(promotion("refused", HOLDS, TWO), checks=True) == (
        "NOT PROMOTED  digits-int8 version 2, record r2\n"
        "  ok  verdict PASS\n"
        "  no  never rolled back\n"
        "        it was\n"
        "        and twice\n"
        "  2 reasons against it; production still names version 1.\n"
    )


def test_scripts_get_the_same() -> None:
    text = promotion_json(promotion("moved", HOLDS, ONE, move=MOVE))
    assert text.startswith('{\n  "model": "digits",\n  "record": "r2",\n  "alias": "production",\n')
    assert '"when": "2026-03-01T12:30:00+00:00"' in text
    assert text.endswith('"exit_code": 2\n}\n')
