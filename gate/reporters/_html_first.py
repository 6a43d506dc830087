"""What a reader sees first: the verdict, why, what changed since the last PASS, what to do."""

import shlex
from collections.abc import Iterator

from gate import facts, reasons, story, wording
from gate.records import GateRecord
from gate.reporters._html_tags import Html, code, join, section, tag

_BLOCKERS = 10


def banner(record: GateRecord) -> Html:
    """The outcome, with one sentence that says why."""
    outcome = record.verdict.outcome
    where = f"stage {record.stage}, {story.exit_text(record)}; {story.moment(record.created)}"
    return tag(
        "header",
        tag("h1", f"{outcome.upper()}: {record.model}"),
        tag("p", because(record), class_="because"),
        tag("p", where, class_="faint"),
        class_=f"banner {outcome}",
    )


def because(record: GateRecord) -> str:
    """One sentence: the worst that blocks, or that nothing does."""
    blockers = story.blockers(record)
    if record.verdict.outcome == "pass" or not blockers:
        return story.summary(record)
    return blockers[0]


def first(record: GateRecord) -> Html:
    """What must be known before any number."""
    return join((_blocked(record), _notices(record), _since(record), _to_do(record)))


def _blocked(record: GateRecord) -> Html:
    blockers = story.blockers(record)
    if record.verdict.outcome == "pass" or len(blockers) < 2:  # noqa: PLR2004 - the banner has one
        return Html()
    items = [tag("li", blocker) for blocker in blockers[:_BLOCKERS]]
    hidden = len(blockers) - _BLOCKERS
    if hidden > 0:
        items.append(tag("li", f"and {wording.plural(hidden, 'more budget')}, below"))
    title = "Blocked by" if record.exit_code else "Would be blocked by"
    return section("blocked", title, tag("ul", *items))


def _notices(record: GateRecord) -> Html:
    told = [tag("p", notice, class_="notice") for notice in facts.notices(record)]
    return section("notices", "Not to be overlooked", *told)


def _since(record: GateRecord) -> Html:
    return section("since", "What changed since the last PASS", tag("p", story.since(record)))


# ── what to do ────────────────────────────────────────────────────────────────────────────


def _to_do(record: GateRecord) -> Html:
    steps = {"pass": _passed, "waived": _passed, "inconclusive": _unproven, "fail": _failed}
    return section("to-do", "What to do", *steps[record.verdict.outcome](record))


def _passed(record: GateRecord) -> Iterator[Html]:
    if record.verdict.outcome == "waived":
        yield tag("p", "Mend what was waived before the waiver ends; until then it is no PASS.")
    elif record.stage == "pr":
        yield tag("p", "Nothing: it may be merged. What is released is judged at --stage release.")
    elif record.ledger == "none" or record.policy.judge.mode == "observe":
        yield tag("p", "Nothing that this record allows: it cannot be promoted, as said above.")
    else:
        yield tag("p", "Put it into production, with the folder that holds this report:")
        yield code("gate promote RECORD --alias production")


def _unproven(record: GateRecord) -> Iterator[Html]:
    found = [f.examples_needed for f in record.verdict.findings if f.blocking and f.examples_needed]
    if found:
        have, need = wording.whole(record.examples_total), wording.whole(max(found))
        yield tag("p", f"Bring more held-out examples: {have} here, about {need} would decide.")
    else:
        yield tag("p", "Bring more held-out examples.")
    yield tag("p", "What these data can decide, budget by budget:")
    yield code(shlex.join(["gate", "plan", record.policy_source.file]))


def _failed(record: GateRecord) -> Iterator[Html]:
    found = record.diagnosis
    if found is not None and found.advice is not None:
        yield tag("p", f"{_sentence(found.advice.why)} Paste this into the policy:")
        yield code(f"build:\n  {reasons.recipe(found.advice)}")
    if record.attested:
        yield tag("p", "INT8 was made elsewhere: mend it there, and bring its outputs again.")
        return
    if record.int8.recipe is None:
        yield tag(
            "p", "INT8 was made elsewhere: mend it there, or let the policy's recipe make it."
        )
    yield tag("p", "Search for a recipe that meets the budgets with the most integer work:")
    yield code(shlex.join(["gate", "recover", *_subject(record)]))
    yield tag("p", "The whole of why it degraded, with the folder that holds this report:")
    yield code("gate diagnose RECORD")


def _sentence(phrase: str) -> str:
    return f"{phrase[:1].upper()}{phrase[1:].rstrip('.')}."


def _subject(record: GateRecord) -> tuple[str, ...]:
    return record.policy_source.file, "--candidate", record.candidate.source


def reproduce(record: GateRecord) -> str:
    """The one command that judges this again."""
    parts = ["gate", "run", record.policy_source.file]
    if record.attested:
        flags = ("--fp32-outputs", "--int8-outputs")
        for flag, one in zip(flags, record.attested, strict=False):
            parts += [flag, one.source]
    else:
        parts += ["--candidate", record.candidate.source]
    if record.reference is not None:
        parts += ["--reference", record.reference.source]
    if record.int8.source is not None and not record.attested:
        parts += ["--int8", record.int8.source]
    parts += ["--stage", record.stage, *(["--bootstrap"] if record.bootstrap else [])]
    parts += [part for name in record.provenance.plugins for part in ("--plugin", name)]
    if not record.attested:
        parts += ["--threads", str(record.provenance.threads)]
    return shlex.join(parts)
