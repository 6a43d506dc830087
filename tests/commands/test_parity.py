"""`gate data parity`: a team's own transform, in all the ways in which it may be another one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from support.project import Project

from gate.cli import exit_code_of
from gate.commands._parity_found import Parity, gap_of
from gate.commands.parity import parity
from gate.errors import DataError, UsageError

SIZE = 24
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
POLICY: dict[str, Any] = {
    "resize": {"shortest": 28},
    "crop": [SIZE, SIZE],
    "scale": 1 / 255,
    "mean": [*MEAN],
    "std": [*STD],
}

TRANSFORM = """
import io
import numpy as np
from PIL import Image

MEAN = np.array((0.485, 0.456, 0.406), np.float32)
STD = np.array((0.229, 0.224, 0.225), np.float32)

def opened(data):
    return Image.open(io.BytesIO(data)).convert("RGB")

def resized(image, short=28, how=Image.Resampling.BILINEAR):
    scale = short / min(image.size)
    return image.resize((int(image.width * scale), int(image.height * scale)), how)

def cropped(image, size=24, down=0, right=0):
    left, top = round((image.width - size) / 2) + right, round((image.height - size) / 2) + down
    return np.asarray(image.crop((left, top, left + size, top + size)))

def fed(pixels, mean=MEAN, std=STD, scale=1 / 255):
    return ((pixels.astype(np.float32) * np.float32(scale) - mean) / std).transpose(2, 0, 1)

def prepare(data):
    return fed(cropped(resized(opened(data))))
"""


def photos(folder: Path, count: int = 12) -> None:
    """Smooth colourful pictures of many sizes, with some noise."""
    rng = np.random.default_rng(5)
    for index in range(count):
        small = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        size = (int(rng.integers(36, 70)), int(rng.integers(36, 70)))
        image = np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC))
        noisy = np.clip(image + rng.normal(0, 12, image.shape), 0, 255).astype(np.uint8)
        target = folder / "cat" / f"{index}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy).save(target)


class Case:
    """A policy on a folder of images, and a file of transforms."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.file = project.folder / "transforms.py"
        photos(project.folder / "held_out")
        project.spec["judge"]["held_out"] = {"path": "held_out"}
        self.policy(**POLICY)
        self.code("")

    def policy(self, **preprocess: Any) -> None:
        self.project.spec["build"]["preprocess"] = preprocess
        self.project.write()

    def code(self, more: str) -> None:
        self.file.write_text(TRANSFORM + more)

    def found(self, body: str | None = None, **options: Any) -> Parity:
        """With `def prepare(data): return <body>`."""
        if body is not None:
            self.code(f"\ndef prepare(data):\n    return {body}\n")
        return parity(str(self.project.policy), f"{self.file}:prepare", **options)

    def mended(self, found: Parity) -> Parity:
        """After pasting what was proposed."""
        assert found.preprocess is not None
        self.policy(**found.preprocess)
        return self.found()


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(Project(tmp_path))


def names(found: Parity) -> list[str]:
    return [cause.name for cause in found.causes]


# ── alike ─────────────────────────────────────────────────────────────────────────────────


def test_the_same_transform_is_alike(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    policy = str(case.project.policy)
    assert exit_code_of(["data", "parity", policy, "--against", f"{case.file}:prepare"]) == 0
    out = capsys.readouterr().out
    assert "feed the model the same, on 12 examples of held_out" in out
    assert "float32 (3, 24, 24)" in out


@pytest.mark.parametrize(
    "body",
    [
        "fed(cropped(resized(opened(data))))[None]",
        "{'pixel_values': fed(cropped(resized(opened(data))))}",
        "[*fed(cropped(resized(opened(data))))]",
    ],
)
def test_a_batch_axis_a_name_or_a_list_change_nothing(case: Case, body: str) -> None:
    assert case.found(body).alike


def test_examples_are_drawn_with_the_policys_seed(case: Case) -> None:
    case.code(
        "\nplain = prepare\ndef prepare(data):\n"
        "    with open(__file__ + '.log', 'ab') as log:\n        log.write(data[-80:])\n"
        "    return plain(data)\n"
    )
    log = case.file.with_name("transforms.py.log")
    drawn = []
    for seed in (0, 0, 1):
        case.project.spec["judge"]["seed"] = seed
        case.project.write()
        assert case.found(examples=3).examples == 3
        drawn.append(log.read_bytes())
        log.unlink()
    assert drawn[0] == drawn[1] != drawn[2]


# ── where they part ───────────────────────────────────────────────────────────────────────

PARTED = {
    "fed(cropped(resized(opened(data)))[..., ::-1])": ["channel order"],
    "fed(cropped(resized(opened(data))), mean=0, std=1)": ["normalisation"],
    "fed(cropped(resized(opened(data))), scale=1)": ["normalisation"],
    "fed(cropped(resized(opened(data))), mean=0.5, std=0.5)": ["normalisation"],
    "fed(cropped(resized(opened(data))), mean=0.1, std=0.33)": ["normalisation"],
    "fed(cropped(resized(opened(data)))).transpose(1, 2, 0)": ["layout"],
    "fed(cropped(resized(opened(data), how=Image.Resampling.BICUBIC)))": ["resampling"],
    "fed(cropped(resized(opened(data), how=Image.Resampling.NEAREST)))": ["resampling"],
    "fed(np.asarray(opened(data).resize((24, 24), Image.Resampling.BILINEAR)))": ["framing"],
    "fed(np.asarray(opened(data).resize((20, 16), Image.Resampling.BILINEAR)))": ["size"],
    "fed(cropped(resized(opened(data), how=Image.Resampling.BICUBIC))[..., ::-1], 0, 1)": [
        "channel order", "normalisation", "resampling",
    ],
    "np.asarray(opened(data).convert('L').resize((24, 24)), np.float32)[None]": [
        "number of channels", "normalisation", "framing", "resampling",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("body", "expected"), [*PARTED.items()], ids=[*map(str, range(12))])
def test_each_cause_is_named_and_pasting_mends_it(
    case: Case, body: str, expected: list[str]
) -> None:
    found = case.found(body)
    assert found.exit_code == 1
    assert names(found) == expected
    assert found.causes[-1].share_after == 0
    assert found.causes[0].share_before > 0
    assert case.mended(found).exit_code == 0


def test_a_policy_without_antialiasing_is_told(case: Case) -> None:
    case.policy(**{**POLICY, "resize": {"shortest": 28, "antialias": False}})
    found = case.found()
    assert names(found) == ["resampling"]
    assert "the policy's bilinear without antialiasing" in found.causes[0].detail
    assert case.mended(found).alike


def test_bars_are_compared_by_place_and_grey(case: Case) -> None:
    case.policy(letterbox={"size": [SIZE, SIZE]}, scale=1 / 255)
    case.code("""
def prepare(data):
    image = opened(data)
    scale = 24 / max(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), 2)
    canvas = np.zeros((24, 24, 3), np.uint8)
    canvas[:image.height, :image.width] = np.asarray(image)
    return fed(canvas, 0, 1)
""")
    found = case.found()
    assert set(names(found)) <= {"framing", "bars"}
    assert "bars are 0, top_left" in found.causes[-1].detail
    assert found.preprocess is not None
    assert found.preprocess["letterbox"]["fill"] == 0
    assert case.mended(found).alike


def test_normalising_twice_has_a_name(case: Case) -> None:
    found = case.found("(fed(cropped(resized(opened(data)))) - MEAN[:, None, None]) "
                       "/ STD[:, None, None]")  # fmt: skip
    assert found.causes[0].detail.startswith("the function applies mean and std twice")
    assert case.mended(found).alike


def test_a_shift_is_measured_and_no_policy_is_proposed(case: Case) -> None:
    found = case.found("fed(cropped(resized(opened(data)), down=1, right=-2))")
    assert names(found) == ["shift"]
    assert "by -1 pixels down and 2 to the right" in found.causes[0].detail
    assert found.causes[0].mean_after == pytest.approx(0, abs=1e-5)
    assert found.preprocess is None


def test_rounding_is_within_one_grey_level(case: Case) -> None:
    case.code("""
def prepare(data):
    image = resized(opened(data))
    planes = [image.getchannel(c).convert("F") for c in range(3)]
    pixels = np.asarray(image, np.float32)
    noise = np.random.default_rng(len(data)).uniform(-0.5, 0.5, pixels.shape)
    left, top = round((image.width - 24) / 2), round((image.height - 24) / 2)
    return fed((pixels + noise)[top:top + 24, left:left + 24])
""")
    found = case.found()
    assert names(found)[-1] == "rounding"
    assert "100 % of the values are within one grey level" in found.causes[-1].detail
    assert found.causes[-1].share_after == 0
    assert found.preprocess is None


def test_a_type_is_told(case: Case) -> None:
    found = case.found("fed(cropped(resized(opened(data)))).astype(np.float64)")
    assert names(found) == ["type"]
    assert "the function gives float64, the policy float32" in found.causes[0].detail


def test_what_nothing_explains_is_said(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    case.code("\ndef prepare(data):\n    rng = np.random.default_rng(len(data))\n"
              "    return rng.random((3, 24, 24), dtype=np.float32)\n")  # fmt: skip
    policy = str(case.project.policy)
    assert exit_code_of(["data", "parity", policy, "--against", f"{case.file}:prepare"]) == 1
    out = capsys.readouterr().out
    assert "None of the usual causes brings them nearer." in out
    assert "Left: 9" in out or "Left: 100 %" in out


def test_the_text_can_be_pasted_and_json_holds_all(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    case.code("\ndef prepare(data):\n    return fed(cropped(resized(opened(data)))[..., ::-1])\n")
    command = ["data", "parity", str(case.project.policy), "--against", f"{case.file}:prepare"]
    assert exit_code_of(command) == 1
    text = capsys.readouterr().out.split("12 examples:\n")[1]
    assert yaml.safe_load(text)["build"]["preprocess"]["color"] == "BGR"
    assert exit_code_of([*command, "--format", "json"]) == 1
    found = Parity.model_validate(json.loads(capsys.readouterr().out))
    assert names(found) == ["channel order"]
    assert found.gaps[0].unlike == 12


# ── arrays ────────────────────────────────────────────────────────────────────────────────


def test_arrays_without_preprocess(tmp_path: Path) -> None:
    project = Project(tmp_path)
    file = tmp_path / "own.py"
    file.write_text("def same(image):\n    return image\n"
                    "def more(image):\n    return image * 2 + 1\n")  # fmt: skip
    assert parity(str(project.policy), f"{file}:same").alike
    found = parity(str(project.policy), f"{file}:more", split="calibration")
    assert names(found) == ["normalisation"]
    project.spec["build"]["preprocess"] = found.preprocess
    project.write()
    assert parity(str(project.policy), f"{file}:more").alike


def test_channels_of_plain_arrays_in_reverse(tmp_path: Path) -> None:
    project = Project(tmp_path)
    images = np.random.default_rng(0).random((6, 3, 9, 8), dtype=np.float32)
    project.save("held_out", image=images, target=np.arange(6))
    file = tmp_path / "own.py"
    file.write_text("def turned(image):\n    return image[::-1]\n")
    found = parity(str(project.policy), f"{file}:turned")
    assert names(found) == ["channel order"]
    assert found.causes[0].mean_after == pytest.approx(0, abs=1e-6)
    assert found.preprocess is None


def test_several_inputs_are_given_by_position_and_returned_by_name(tmp_path: Path) -> None:
    project = Project(tmp_path)
    rng = np.random.default_rng(0)
    project.save("held_out", a=rng.random((8, 3)), b=rng.random((8, 2)), target=np.arange(8))
    file = tmp_path / "own.py"
    file.write_text("def named(a, b):\n    return {'b': b, 'a': a}\n"
                    "def one(a, b):\n    return a\n"
                    "def off(a, b):\n    return {'a': a, 'b': b + 1}\n")  # fmt: skip
    assert parity(str(project.policy), f"{file}:named").alike
    assert [gap.unlike for gap in parity(str(project.policy), f"{file}:off").gaps] == [0, 8]
    with pytest.raises(UsageError, match="return a dict of arrays by input name"):
        parity(str(project.policy), f"{file}:one")


# ── tokens ────────────────────────────────────────────────────────────────────────────────

TOKENS = """
from tokenizers import Tokenizer
import numpy as np
from pathlib import Path
own = Tokenizer.from_file(str(Path(__file__).parent / "tokenizer.json"))

def prepare(text, length=8, pad="right", cut="right", special=True, lower=False):
    own.enable_truncation(length, direction=cut)
    own.enable_padding(length=length, direction=pad, pad_id=0, pad_token="[PAD]")
    found = own.encode(text.lower() if lower else text, add_special_tokens=special)
    return {"input_ids": np.array(found.ids), "attention_mask": np.array(found.attention_mask)}
"""
TEXTS = ["one Two three", "Four five", "six", "One two Three four five six seven eight nine ten"]


@pytest.fixture
def tokens(tmp_path: Path) -> Project:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    project = Project(tmp_path)
    words = sorted({word for text in TEXTS for word in (*text.split(), *text.lower().split())})
    vocabulary = {word: at for at, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    lines = [json.dumps({"text": text, "target": 0}) for text in TEXTS]
    (tmp_path / "held_out.jsonl").write_text("\n".join(lines) + "\n")
    project.spec["task"] = "text_classification"
    project.spec["judge"]["held_out"] = {"path": "held_out.jsonl"}
    project.spec["build"]["preprocess"] = {"tokenizer": {"file": "tokenizer.json", "max_length": 8}}
    project.write()
    (tmp_path / "own.py").write_text(TOKENS)
    return project


def told(project: Project, arguments: str) -> Parity:
    file = project.folder / "own.py"
    file.write_text(f"{TOKENS}\ndef asked(text):\n    return prepare(text, {arguments})\n")
    return parity(str(project.policy), f"{file}:asked")


def test_the_same_tokens(tokens: Project) -> None:
    assert told(tokens, "").alike


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("pad='left'", ["padding side"]),
        ("cut='left'", ["truncation side"]),
        ("special=False", ["special tokens"]),
        ("lower=True", ["case"]),
        ("special=False, lower=True", ["special tokens", "case"]),
    ],
)
def test_what_the_tokenizers_file_says(
    tokens: Project, arguments: str, expected: list[str]
) -> None:
    found = told(tokens, arguments)
    assert sorted(names(found)) == sorted(expected)
    assert found.causes[-1].share_after == 0
    assert found.preprocess is None


def test_another_length_can_be_pasted(tokens: Project) -> None:
    found = told(tokens, "length=6")
    assert names(found) == ["length"]
    assert found.preprocess == {"tokenizer": {"file": "tokenizer.json", "max_length": 6}}


def test_int32_tokens_are_what_a_model_may_take(tokens: Project) -> None:
    file = tokens.folder / "own.py"
    file.write_text(f"{TOKENS}\ndef asked(text):\n    return prepare(text)['input_ids']"
                    ".astype(np.int32)\n")  # fmt: skip
    assert parity(str(tokens.policy), f"{file}:asked").alike


# ── villains ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("against", "why"),
    [
        ("transforms.py", "has to be FILE.py:function"),
        ("transforms.py:", "has to be FILE.py:function"),
        ("none.py:prepare", r"there is no none\.py"),
        ("transforms.py:absent", r"no function 'absent'; it has opened, resized, cropped, fed"),
        ("broken.py:prepare", "fails when it is loaded: ZeroDivisionError"),
        ("transforms.py:raises", r"fails on example 'cat/\d+\.png': KeyError.*It is given bytes"),
        ("transforms.py:ends", r"fails on example 'cat/\d+\.png': SystemExit: 0"),
        ("transforms.py:text", "gives str for example .* which holds no numbers"),
        ("transforms.py:nan", "gives NaN or infinite values for example"),
        ("transforms.py:empty", "gives an empty dict"),
        ("transforms.py:ragged", "gives list for example .* which makes no array"),
        ("transforms.py:fickle", "return the same inputs for all"),
    ],
)
def test_functions_that_are_none(
    case: Case, monkeypatch: pytest.MonkeyPatch, against: str, why: str
) -> None:
    monkeypatch.chdir(case.project.folder)
    Path("broken.py").write_text("1 / 0\n")
    case.code("\ndef raises(data):\n    return {}['x']\n"
              "def ends(data):\n    raise SystemExit(0)\ndef text(data):\n    return 'x'\n"
              "def nan(data):\n    return np.array([np.nan])\n"
              "def empty(data):\n    return {}\n"
              "def ragged(data):\n    return [[1], [2, 3]]\n"
              "def fickle(data):\n    return {str(len(data)): 1.0}\n")  # fmt: skip
    with pytest.raises(UsageError, match=why):
        parity("policy.yaml", against)


def test_an_image_that_the_policy_cannot_feed_is_named(case: Case) -> None:
    deep = np.random.default_rng(0).integers(0, 65535, (40, 40), dtype=np.uint16)
    Image.fromarray(deep).save(case.project.folder / "held_out" / "cat" / "deep.png")
    with pytest.raises(DataError, match=r"example 'cat/deep\.png': mode I;16 has more than 8 bits"):
        case.found("np.zeros((3, 24, 24), np.float32)")


def test_images_need_a_preprocess(case: Case) -> None:
    del case.project.spec["build"]["preprocess"]
    case.project.write()
    with pytest.raises(DataError, match=r"say in `build\.preprocess` how they enter"):
        case.found()


def test_what_the_function_prints_is_not_the_report(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    case.code("\nplain = prepare\ndef prepare(data):\n    print('hello')\n    return plain(data)\n")
    command = ["data", "parity", str(case.project.policy), "--against", f"{case.file}:prepare"]
    assert exit_code_of([*command, "--format", "json"]) == 0
    assert Parity.model_validate_json(capsys.readouterr().out).alike


def test_a_split_that_the_policy_does_not_have(case: Case) -> None:
    with pytest.raises(UsageError, match="has no tuning data; choose another --split"):
        case.found(split="tuning")


# ── how far apart ─────────────────────────────────────────────────────────────────────────


def test_a_gap_is_counted_by_value() -> None:
    ours = [np.zeros((2, 2), np.float32), np.ones((2, 2), np.float32)]
    theirs = [ours[0] + np.float32(4e-6), ours[1] + np.float32([[0, 0], [0, 3]])]
    gap = gap_of("x", ours, theirs)
    assert (gap.unlike, gap.share, gap.largest) == (1, 1 / 8, 3)
    assert gap.mean == pytest.approx((4 * 4e-6 + 3) / 8)


def test_integers_differ_at_all() -> None:
    gap = gap_of("x", [np.array([1, 2, 3])], [np.array([1, 2, 4])])
    assert (gap.unlike, gap.share) == (1, 1 / 3)


def test_sequences_of_other_lengths() -> None:
    gap = gap_of("x", [np.array([1, 2, 3])], [np.array([1, 2, 3, 0])])
    assert (gap.unlike, gap.share, gap.mean) == (1, 1 / 4, None)
    assert (gap.policy, gap.function) == ("int64 (3)", "int64 (4)")
