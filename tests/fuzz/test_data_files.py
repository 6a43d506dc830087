"""Data files that are anything: opened with every example checked, or refused."""

import json
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import strategies as st
from support import hostile_data, mutation
from support.fuzzing import Worker, demand_clean, long, quick
from support.tally import Tally

KINDS = ("npz", "parquet", "jsonl", "coco", "images")
TEXTS: dict[str, tuple[Any, Callable[[Any], bytes]]] = {
    "jsonl": (hostile_data.rows(), hostile_data.lines),
    "images": (hostile_data.pictured(), hostile_data.lines),
    "coco": (hostile_data.coco(), lambda told: json.dumps(told).encode()),
}
BINARIES: dict[str, list[bytes]] = {
    "npz": [hostile_data.npz(), hostile_data.packed_npz()],
    "parquet": [hostile_data.parquet(), hostile_data.parquet("zstd")],
    "images": hostile_data.picture_kinds(),
}


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    worker = Worker(tmp_path_factory.mktemp("data"))
    for name, content in hostile_data.pictures().items():
        (worker.folder / name).write_bytes(content)
    yield worker
    worker.stop()


# ── what is drawn: how the file is made, of what, with which edits ─────────────────────────


def strategy(kind: str) -> Any:
    ways = []
    if kind in TEXTS:
        document, _ = TEXTS[kind]
        ways.append(st.tuples(st.just("document"), st.just(0), mutation.edits(document)))
        ways.append(st.tuples(st.just("text"), st.just(0), mutation.byte_edits()))
    if kind in BINARIES:
        which = st.integers(0, len(BINARIES[kind]) - 1)
        ways.append(st.tuples(st.just("bytes"), which, mutation.byte_edits()))
    if kind == "npz":
        which = st.integers(0, len(hostile_data.members()) - 1)
        ways.append(st.tuples(st.just("member"), which, mutation.byte_edits(most=2)))
    return st.one_of(*ways)


def content(kind: str, drawn: Any) -> bytes:
    how, which, edits = drawn
    if how == "document":
        document, written = TEXTS[kind]
        return written(mutation.changed(document, edits))
    if how == "text":
        document, written = TEXTS[kind]
        return mutation.bytes_changed(written(document), edits)
    if how == "member":
        members = hostile_data.members()
        name = sorted(members)[which]
        return hostile_data.npz_of(members | {name: mutation.bytes_changed(members[name], edits)})
    return mutation.bytes_changed(BINARIES[kind][which], edits)


def case_of(worker: Worker, kind: str, tally: Tally) -> Any:
    folder = worker.folder
    picture = hostile_data.pictures()["0.png"]

    def case(drawn: Any) -> None:
        file = folder / hostile_data.NAMES[kind]
        if drawn[0] == "bytes" and kind == "images":
            file.write_bytes(hostile_data.lines(hostile_data.pictured()))
            file = folder / "0.png"
        file.write_bytes(content(kind, drawn))
        shutil.rmtree(folder / "scratch", ignore_errors=True)
        (folder / "scratch").mkdir()
        try:
            ended = tally.count(worker.run(hostile_data.opened, str(folder), kind))
        finally:
            (folder / "0.png").write_bytes(picture)
        demand_clean(ended)
        assert ended.code in (0, 2, 4)

    return case


@pytest.mark.parametrize("kind", KINDS)
def test_data_are_opened_or_refused(worker: Worker, kind: str, record_property: Any) -> None:
    tally = Tally(kind, record_property)
    quick(case_of(worker, kind, tally), strategy(kind), 60, tally)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_data_are_opened_or_refused_whatever_they_are(
    worker: Worker, kind: str, record_property: Any
) -> None:
    tally = Tally(kind, record_property)
    long(case_of(worker, kind, tally), strategy(kind), tally)


@pytest.mark.parametrize("kind", KINDS)
def test_the_samples_are_good(worker: Worker, kind: str) -> None:
    made = TEXTS[kind][1](TEXTS[kind][0]) if kind in TEXTS else BINARIES[kind][0]
    (worker.folder / hostile_data.NAMES[kind]).write_bytes(made)
    shutil.rmtree(worker.folder / "scratch", ignore_errors=True)
    (worker.folder / "scratch").mkdir()
    ended = worker.run(hostile_data.opened, str(worker.folder), kind)
    assert ended.code == 0, ended
