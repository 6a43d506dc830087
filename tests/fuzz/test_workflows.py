"""Workflows that are anything: told what is wrong with them, at which place."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import strategies as st
from support import mutation
from support.fuzzing import Worker, command, demand_clean, long, quick
from support.tally import Tally

from gate.workflows import write

KIND = "workflows"
OWN = Path(__file__).parents[2] / ".github" / "workflows"
GOOD = write.compose("policies/*.yaml", [write.Gated("policies/a.yaml", "a")], "0.1.0")
LOOSENED = (
    ("    timeout-minutes: 5\n", "    timeout-minutes: 5\n    continue-on-error: true\n"),
    ("    if: always()\n    needs: [plan, gate]", "    needs: [plan, gate]"),
    ("if: always()\n    needs", "if: success()\n    needs"),
    ("needs: [plan, gate]", "needs: [plan]"),
    ("${{ needs.gate.result }}", "success"),
)
"""Ways around the gate; nothing that is put beside them makes up for them."""


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    worker = Worker(tmp_path_factory.mktemp("workflows"))
    (worker.folder / "policies").mkdir()
    (worker.folder / "policies" / "a.yaml").write_text("version: 1\nmodel: a\n")
    (worker.folder / ".github" / "workflows").mkdir(parents=True)
    yield worker
    worker.stop()


def texts() -> list[str]:
    return [GOOD, *(file.read_text("utf-8") for file in sorted(OWN.glob("*.yml")))]


def strategy() -> Any:
    """A text with bytes edited, or its document edited and written again."""
    documents = [yaml.load(text, yaml.BaseLoader) for text in texts()]
    whole = [
        st.tuples(st.just(i), mutation.edits(document), st.lists(st.nothing(), max_size=0))
        for i, document in enumerate(documents)
    ]
    return st.one_of(
        *whole,
        st.tuples(
            st.integers(0, len(documents) - 1), st.just([]), mutation.byte_edits()
        ),
    )  # fmt: skip


def content(drawn: Any) -> bytes:
    which, edits, byte_edits = drawn
    text = texts()[which]
    if edits:
        document = mutation.changed(yaml.load(text, yaml.BaseLoader), edits)
        text = yaml.safe_dump(document, sort_keys=False)
    return mutation.bytes_changed(text.encode("utf-8", "surrogatepass"), byte_edits)


def case_of(worker: Worker, tally: Tally) -> Any:
    file = worker.folder / ".github" / "workflows" / "gate.yml"

    def case(drawn: Any) -> None:
        file.write_bytes(content(drawn))
        ended = tally.count(worker.run(command, ["workflow", "check", str(file)]))
        demand_clean(ended)
        assert ended.code in (0, 2)

    return case


def loosened_case_of(worker: Worker, tally: Tally) -> Any:
    """A workflow with a way around the gate, and anything added that YAML ignores or not."""
    file = worker.folder / ".github" / "workflows" / "gate.yml"

    def case(drawn: Any) -> None:
        (old, new), padding = drawn
        assert old in GOOD
        file.write_text(GOOD.replace(old, new, 1) + padding, encoding="utf-8", newline="")
        ended = tally.count(worker.run(command, ["workflow", "check", str(file)]))
        demand_clean(ended)
        assert ended.code == 2, ended

    return case


def loosened() -> Any:
    words = st.text(st.characters(codec="utf-8"), max_size=30)
    job = words.map(lambda word: f"\n  extra:\n    runs-on: x\n    name: {word!r}\n")
    return st.tuples(st.sampled_from(LOOSENED), st.one_of(words.map("\n# {}\n".format), job))


def test_a_workflow_is_right_or_told_why_not(worker: Worker, record_property: Any) -> None:
    tally = Tally(KIND, record_property)
    quick(case_of(worker, tally), strategy(), 60, tally)
    quick(loosened_case_of(worker, tally), loosened(), 15, tally)


@pytest.mark.slow
def test_a_workflow_is_right_or_told_why_not_whatever_it_is(
    worker: Worker, record_property: Any
) -> None:
    tally = Tally(KIND, record_property)
    both = st.one_of(strategy().map(lambda one: (0, one)), loosened().map(lambda one: (1, one)))
    cases = (case_of(worker, tally), loosened_case_of(worker, tally))
    long(lambda drawn: cases[drawn[0]](drawn[1]), both, tally)
