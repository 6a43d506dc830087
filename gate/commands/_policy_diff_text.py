"""What `gate policy diff` shows."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from gate import wording
from gate.commands.policy_diff import Difference
from gate.wording import plain

_SENTENCE = 400


def render(found: Sequence[Difference], format_: str) -> str:
    """As text, or as JSON: an object for one difference, a list for several."""
    if format_ != "json":
        return "".join(map(_text, found))
    documents = [_document(one) for one in found]
    return json.dumps(documents[0] if len(documents) == 1 else documents, indent=2) + "\n"


def _document(found: Difference) -> dict[str, object]:
    return {
        "before": found.before,
        "after": found.after,
        "looser": bool(found.looser),
        "changes": [{**asdict(change), "looser": change.is_looser} for change in found.changes],
        "build": list(found.build),
        "new": found.is_new,
    }


def _text(found: Difference) -> str:
    lines = [f"{plain(found.after)} against {plain(found.before)}: {_summary(found)}"]
    for change in found.changes:
        mark = "LOOSER" if change.is_looser else change.effect
        lines.append(f"  {mark:<8}  {plain(change.sentence, _SENTENCE)}")
    lines += [f"  build     {plain(change, _SENTENCE)}" for change in found.build]
    return "\n".join(lines) + "\n"


def _summary(found: Difference) -> str:
    if found.is_new:
        return "a new policy, which only observes until it is merged."
    if not found.changes:
        return "`judge` asks for the same."
    tally = Counter("looser" if one.is_looser else one.effect for one in found.changes)
    told = ", ".join(f"{wording.whole(count)} {effect}" for effect, count in tally.items())
    verdict = "it lets more through" if found.looser else "it lets nothing more through"
    return f"{verdict} ({told})."
