"""A record as JUnit XML, for the test pages of Jenkins, GitLab, Azure and their like."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from xml.sax.saxutils import escape, quoteattr

from gate import facts, story, wording
from gate.records import GateRecord

_MESSAGE = 1000
_NAME = 300


class JunitReporter:
    """One test suite a record, and in it a test case for each budget on each of its slices."""

    key = "junit"
    filename: str | None = "junit.xml"

    def render(self, record: GateRecord) -> str:
        """The document, in ASCII.

        What blocks is a failure, with its reason. What is not judged, not proven, waived, or would
        block if the policy did not let it through is skipped, with its reason: a green test case is
        a budget that was met. A record that exits red has a failure, always.
        """
        cases = [_case(record, case) for case in story.cases(record)]
        if record.exit_code != 0 and not any(case.kind == "failure" for case in cases):
            cases.append(_verdict(record))
        document = "\n".join(_lines(record, cases)) + "\n"
        return document.encode("ascii", "xmlcharrefreplace").decode("ascii")


REPORTER = JunitReporter()


@dataclass(frozen=True, slots=True)
class _Case:
    name: str
    kind: Literal["passed", "failure", "skipped"]
    attributes: dict[str, str]
    """Of the failure, or of what was skipped."""


def _case(record: GateRecord, case: story.Case) -> _Case:
    if case.finding.outcome == "pass":
        return _Case(case.name, "passed", {})
    why = f"{story.sentence(case, record.alpha)} [{case.code}]"
    if case.finding.blocking and record.exit_code != 0:
        return _Case(case.name, "failure", {"message": why, "type": case.finding.outcome})
    return _Case(case.name, "skipped", {"message": f"{_status(record, case)}: {why}"})


def _verdict(record: GateRecord) -> _Case:
    """A verdict that no finding explains."""
    outcome = record.verdict.outcome
    return _Case("verdict", "failure", {"message": story.summary(record), "type": outcome})


def _status(record: GateRecord, case: story.Case) -> str:
    """Why a budget that was not met is no failure."""
    if case.finding.blocking:
        return f"{case.outcome}, {story.exit_text(record)}"
    return case.outcome


def _lines(record: GateRecord, cases: Sequence[_Case]) -> Iterator[str]:
    tallies = {
        "name": f"gate {_cut(record.model)}",
        "tests": len(cases),
        "failures": sum(case.kind == "failure" for case in cases),
        "errors": 0,
        "skipped": sum(case.kind == "skipped" for case in cases),
        "time": f"{sum(record.durations.values()):.3f}",
    }
    yield '<?xml version="1.0" encoding="UTF-8"?>'
    yield f"<testsuites {_attributes(tallies)}>"
    when = record.created.replace(microsecond=0).isoformat()
    yield f"<testsuite {_attributes(tallies | {'timestamp': when})}>"
    yield from _properties(record)
    for case in cases:
        named = {"classname": f"gate.{_cut(record.model)}", "name": _cut(case.name), "time": 0}
        inner = "" if case.kind == "passed" else f"<{case.kind} {_attributes(case.attributes)}/>"
        yield f"<testcase {_attributes(named)}>{inner}</testcase>"
    yield f"<system-out>{escape(wording.plain(_told(record), 4 * _MESSAGE))}</system-out>"
    yield "</testsuite>"
    yield "</testsuites>"


def _properties(record: GateRecord) -> Iterator[str]:
    told = {
        "outcome": record.verdict.outcome,
        "exit code": record.exit_code,
        "stage": record.stage,
        "record": record.id,
        "candidate": record.candidate.sha256,
        "policy": record.policy_source.file,
    }
    yield "<properties>"
    for name, value in told.items():
        yield f"<property {_attributes({'name': name, 'value': _cut(value)})}/>"
    yield "</properties>"


def _told(record: GateRecord) -> str:
    """What stands before any budget: the sentence, what changed, and what to know."""
    blockers = story.blockers(record)
    first = f"{len(blockers)} blocking" if blockers else story.summary(record)
    return " | ".join((first, story.since(record), *facts.notices(record)))


def _cut(value: object) -> str:
    return wording.plain(value, _NAME)


def _attributes(values: Mapping[str, object]) -> str:
    """Escaped; what `plain` lets through holds no character that XML forbids."""
    cut = {name: wording.plain(value, _MESSAGE) for name, value in values.items()}
    return " ".join(f"{name}={quoteattr(value)}" for name, value in cut.items())
