"""Waivers, and archives of strangers that are anything: an error with words, or none."""

import shutil
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import strategies as st
from support import mutation
from support.fuzzing import Worker, command, demand_clean, long, quick
from support.project import Project
from support.tally import Tally

from gate.reporters import get

KINDS = ("waivers", "archives")


@pytest.fixture(scope="module")
def samples(make_record: Any) -> dict[str, bytes]:
    expires = (datetime.now(UTC).date() + timedelta(days=30)).isoformat()
    waiver = {"model": "digits-cnn", "budget": "accuracy.max_drop", "reason": "a known drift"}
    waivers = {"version": 1, "waivers": [{**waiver, "who": "a@example.com", "expires": expires}]}
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("record.json", get("json").render(make_record("pass", slices=1)))
    return {"waivers": yaml.safe_dump(waivers).encode(), "archives": stream.getvalue()}


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    worker = Worker(tmp_path_factory.mktemp("handed-in"))
    Project(worker.folder)
    yield worker
    worker.stop()


def strategy(samples: dict[str, bytes], kind: str) -> Any:
    ways = [st.tuples(st.just([]), mutation.byte_edits())]
    if kind == "waivers":
        document = yaml.safe_load(samples[kind])
        ways.append(st.tuples(mutation.edits(document), st.just([])))
    return st.one_of(ways)


def content(sample: bytes, drawn: Any) -> bytes:
    edits, byte_edits = drawn
    if edits:
        sample = yaml.safe_dump(mutation.changed(yaml.safe_load(sample), edits)).encode()
    return mutation.bytes_changed(sample, byte_edits)


def arguments(folder: Path, kind: str, handed: bytes) -> list[str]:
    """What reads it, with all in its place."""
    if kind == "waivers":
        (folder / "waivers.yaml").write_bytes(handed)
        return ["check", str(folder / "policy.yaml")]
    (folder / "handed.zip").write_bytes(handed)
    shutil.rmtree(folder / "out", ignore_errors=True)
    return ["workflow", "unpack", str(folder / "handed.zip"), "--out", str(folder / "out")]


def case_of(worker: Worker, sample: bytes, kind: str, tally: Tally) -> Any:
    def case(drawn: Any) -> None:
        asked = arguments(worker.folder, kind, content(sample, drawn))
        ended = tally.count(worker.run(command, asked))
        demand_clean(ended)
        assert ended.code in (0, 2, 4)
        written = {path.name for path in worker.folder.rglob("out/*/*")}
        assert written <= {"record.json"}

    return case


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_handed_in_is_taken_or_refused(
    worker: Worker, samples: dict[str, bytes], kind: str, record_property: Any
) -> None:
    tally = Tally(kind, record_property)
    quick(case_of(worker, samples[kind], kind, tally), strategy(samples, kind), 60, tally)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_handed_in_is_taken_or_refused_whatever_it_is(
    worker: Worker, samples: dict[str, bytes], kind: str, record_property: Any
) -> None:
    tally = Tally(kind, record_property)
    long(case_of(worker, samples[kind], kind, tally), strategy(samples, kind), tally)


@pytest.mark.parametrize("kind", KINDS)
def test_the_samples_are_good(worker: Worker, samples: dict[str, bytes], kind: str) -> None:
    ended = worker.run(command, arguments(worker.folder, kind, samples[kind]))
    assert ended.code == 0, ended
