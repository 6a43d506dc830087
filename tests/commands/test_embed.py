"""Pictures and texts of changed examples, on one page, only when they are asked for."""

import base64
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.project import CNN, WIDE_RANGE, Project

import gate
from gate.cli import exit_code_of
from gate.commands import _embed as embed
from gate.commands.report import load_record
from gate.exhibits import Flipped, Flips
from gate.records import GateRecord


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


def failed(project: Project) -> GateRecord:
    out = project.folder / "out"
    return gate.run_gate(project.policy, WIDE_RANGE, tracker="none", threads=1, out=out).record


def page(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert exit_code_of(["report", "out", "--format", "html", *arguments]) == 0
    return capfd.readouterr().out


def test_a_page_has_pictures_only_when_they_are_asked_for(
    project: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    record = failed(project)
    assert record.flips is not None
    for text in (page(capfd), (project.folder / "out" / "report.html").read_text()):
        assert "<img" not in text
        assert "img-src" not in text
    text = page(capfd, "--embed-examples")
    sources = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="example ([^"]+)"', text)
    assert [key for _, key in sources] == [one.id for one in record.flips.shown]
    assert "img-src data:" in text
    columns = project.data("held_out")
    place = columns["id"].tolist().index(sources[0][1])
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(sources[0][0]))))
    raw = columns["image"][place, 0]
    assert shown.shape == (96, 96)
    assert np.array_equal(shown[::12, ::12], np.round(255 * raw / raw.max()).astype(np.uint8))


def test_the_record_holds_no_picture(project: Project) -> None:
    failed(project)
    assert "base64" not in (project.folder / "out" / "record.json").read_text()


def test_data_that_moved_are_named_and_others_are_refused(
    project: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    failed(project)
    shutil.move(project.folder / "held_out.npz", project.folder / "moved.npz")
    arguments = ["report", "out", "--format", "html", "--embed-examples"]
    assert exit_code_of(arguments) == 2
    assert "--data" in capfd.readouterr().err
    assert exit_code_of([*arguments, "--data", "moved.npz"]) == 0
    assert "<img" in capfd.readouterr().out
    assert exit_code_of([*arguments, "--data", "calibration.npz"]) == 2


def test_only_html_shows_pictures(project: Project, capfd: pytest.CaptureFixture[str]) -> None:
    failed(project)
    assert exit_code_of(["report", "out", "--embed-examples"]) == 2
    assert "--format html" in capfd.readouterr().err


def test_nothing_that_changed_is_nothing_to_show(
    project: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    gate.run_gate(project.policy, CNN, tracker="none", threads=1, out=project.folder / "out")
    record = load_record(Path("out"))
    assert record.flips is not None
    none = record.model_copy(
        update={"flips": Flips(metric="accuracy", lost=0, gained=0, other=0, shown=())}
    )
    assert embed.examples(none, None) == {}
    gone = Flipped(id="nobody", change="lost")
    odd = record.flips.model_copy(update={"shown": (gone, *record.flips.shown)})
    found = embed.examples(record.model_copy(update={"flips": odd}), None)
    assert "nobody" not in found


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((8, 6), (8, 6, 1)), ((3, 8, 6), (8, 6, 3)), ((8, 6, 3), (8, 6, 3)), ((5,), None),
     ((4, 8, 6), None), ((1, 1, 9), None), ((2, 3, 4, 5), None)],
)  # fmt: skip
def test_what_is_an_image(shape: tuple[int, ...], expected: tuple[int, ...] | None) -> None:
    found = embed._pixels(np.linspace(-1, 1, int(np.prod(shape))).reshape(shape))
    assert (None if found is None else found.shape) == expected
    if found is not None:
        assert (found.min(), found.max()) == (0, 255)


def test_a_flat_image_is_black_and_bytes_stay_as_they_are() -> None:
    flat = embed._pixels(np.full((4, 4), 0.5))
    assert flat is not None
    assert flat.max() == 0
    raw = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert embed._pixels(raw) is raw


def test_texts_and_encoded_images_are_shown() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (300, 200), (255, 0, 0)).save(stream, "JPEG")
    column = np.empty(1, dtype=object)
    column[0] = stream.getvalue()
    ((_, seen),) = embed._seen(["a"], {"image": column})
    assert Image.open(io.BytesIO(base64.b64decode(seen.data))).size == (96, 64)
    ((_, text),) = embed._seen(["a"], {"n": np.ones(1), "text": np.array(["<b>hi</b>"])})
    assert text == ("text", "<b>hi</b>")
