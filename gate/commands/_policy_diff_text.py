"""What `gate policy diff` shows."""

import json
from collections import Counter
from dataclasses import asdict

from gate import wording
from gate.commands.policy_diff import Difference
from gate.wording import plain

_SENTENCE = 400


def render(found: Difference, format_: str) -> str:
    """As text or as JSON."""
    return _json(found) if format_ == "json" else _text(found)


def _json(found: Difference) -> str:
    document = {
        "before": found.before,
        "after": found.after,
        "looser": bool(found.looser),
        "changes": [{**asdict(change), "looser": change.is_looser} for change in found.changes],
        "build": list(found.build),
    }
    return json.dumps(document, indent=2) + "\n"


def _text(found: Difference) -> str:
    lines = [f"{plain(found.after)} against {plain(found.before)}: {_summary(found)}"]
    for change in found.changes:
        mark = "LOOSER" if change.is_looser else change.effect
        lines.append(f"  {mark:<8}  {plain(change.sentence, _SENTENCE)}")
    lines += [f"  build     {plain(change, _SENTENCE)}" for change in found.build]
    return "\n".join(lines) + "\n"


def _summary(found: Difference) -> str:
    if not found.changes:
        return "`judge` asks for the same."
    tally = Counter("looser" if one.is_looser else one.effect for one in found.changes)
    told = ", ".join(f"{wording.whole(count)} {effect}" for effect, count in tally.items())
    verdict = "it lets more through" if found.looser else "it lets nothing more through"
    return f"{verdict} ({told})."
