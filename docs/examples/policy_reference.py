"""Prints docs/policy.md: every key of a policy, from the models that read it.

    python docs/examples/policy_reference.py > docs/policy.md

Keys, types, defaults and their sentences are those of `gate schema`; the examples stand here.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from gate.commands.schema import describe, schema
from gate.exhibits import Waiver

TITLE = """\
# Policy reference

Every key of a policy, as `gate schema` gives it to editors. This page is printed by
[`examples/policy_reference.py`](examples/policy_reference.py) from the models that read
policies, and a test holds it to them. What the words mean: [the verdict](verdict-explained.md),
[data](data.md), [releases](releases.md).

```yaml
# yaml-language-server: $schema=policy.schema.json
version: 1
model: digits-cnn
task: classification
build:
  recipe: static
  calibration: {path: calibration.npz, limit: 256}
judge:
  held_out: {path: held_out.npz}
  expect_fp32: {accuracy: 0.961, within: 0.02}
  budgets:
    - {metric: accuracy, max_drop: 0.01}
    - {metric: accuracy, max_drop: 0.03, each: target}
```

```console
$ gate schema > policy.schema.json
$ gate check policies/digits.yaml
…
```

- The YAML is strict: unknown and repeated keys are errors, with file:line:column. Numbers are
  finite.
- Paths are relative to the policy file.
- A file with `extends` may leave out what the other file says. The two are merged key by key.
- An example stands where the key does: in the mapping that the section is about.
"""
END = """\
## What no type tells

| rule | where |
|---|---|
| exactly one of `max_drop`, `max_relative_drop`, `at_least`, `at_most`, `max_ratio` | each budget |
| `slice` or `each`, not both | each budget |
| no two budgets of one id: metric, kind of limit, slice and reference | `judge.budgets` |
| a static recipe needs `calibration` | `build` |
| one of `size`, `shortest`, `longest` | `resize` |
| `letterbox` without `resize`; `tokenizer` without anything of images | `preprocess` |
| `crop` no larger than what `resize` makes | `preprocess` |
| one value, or one for each channel | `mean`, `std` |
| `expires` at most 90 days away, a budget that the policy has | each waiver |
"""
SECTIONS: tuple[tuple[str, str, str], ...] = (
    ("Policy", "The file", ""),
    ("Build", "`build`", "In a pull request it counts from the change."),
    ("Recipe", "`build.recipe`", "A name that `gate recipes` lists, or a mapping."),
    (
        "DataSource",
        "`held_out`, `calibration`, `tuning`",
        "More: [data](data.md). The three must not share an example.",
    ),
    ("Preprocess", "`build.preprocess`", "More: [data](data.md)."),
    ("Resize", "`build.preprocess.resize`", ""),
    ("Letterbox", "`build.preprocess.letterbox`", ""),
    ("Tokenizer", "`build.preprocess.tokenizer`", "More: [text](text.md)."),
    ("Graph", "`graph`", "A file's name, or a mapping. More: [plugins](plugins.md)."),
    ("Decode", "`build.decode`", "A decoder's name, or a mapping. `gate tasks` lists them."),
    (
        "Judge",
        "`judge`",
        "In a pull request it counts from the base branch: [base](base.md).",
    ),
    (
        "ExpectFp32",
        "`judge.expect_fp32`",
        "Or the word `unknown`, which every report then shows. Other keys are metrics, with their "
        "values.",
    ),
    ("Budget", "`judge.budgets`", "A list; every one counts. More: [the verdict](verdict.md)."),
    (
        "Waiver",
        "`waivers` in `waivers.yaml`",
        "A file of its own beside the policies: [waivers](waivers.md).",
    ),
)
EXAMPLES: Mapping[str, Mapping[str, str]] = {
    "Policy": {
        "extends": "extends: library/classification.yaml",
        "version": "version: 1",
        "model": "model: digits-cnn",
        "task": "task: classification",
        "build": "build: {recipe: dynamic}",
        "judge": "judge: {held_out: {path: held_out.npz}, expect_fp32: unknown, "
        "budgets: [{metric: accuracy, max_drop: 0.01}]}",
    },
    "Build": {
        "candidate": "candidate: models:/digits@candidate",
        "recipe": "recipe: {base: static, calibration: mse}",
        "calibration": "calibration: {path: calibration.npz, limit: 256}",
        "tuning": "tuning: {path: tuning.npz}",
        "preprocess": "preprocess: {scale: 0.00392156862745098, layout: NCHW}",
        "decode": "decode: probabilities",
        "classes": "classes: [cat, dog]",
        "code": 'code: ["train.py", "src/**/*.py"]',
    },
    "Recipe": {
        "base": "{base: static-mse}",
        "target": "{base: static, target: x86}",
        "weight_type": "{base: static, weight_type: uint8}",
        "activation_type": "{base: static, activation_type: int8}",
        "per_channel": "{base: static, per_channel: false}",
        "reduce_range": "{base: static, reduce_range: true}",
        "calibration": "{base: static, calibration: entropy}",
        "overrides": "{base: static, overrides: {conv_12: percentile}}",
        "percentile": "{base: static-percentile, percentile: 99.9}",
        "smooth": "{base: static-matmul, smooth: 0.7}",
        "correct_bias": "{base: static, correct_bias: true}",
        "float_outputs": "{base: static-matmul, float_outputs: [MatMul]}",
        "equalize": "{base: static, equalize: true}",
        "op_types": "{base: static, op_types: [Conv, MatMul]}",
        "exclude_op_types": "{base: static, exclude_op_types: [Add, Softmax]}",
        "exclude_nodes": "{base: static, exclude_nodes: [head]}",
    },
    "DataSource": {
        "path": "{path: digits/held_out.npz}",
        "format": "{path: photos, format: image_folder}",
        "limit": "{path: calibration.npz, limit: 256}",
        "sha256": "{path: held_out.npz, sha256: "
        "efd9c00791c1bb052e713b9b0e4f6ed468002ec21cb58f9b83cea6231fe72cc8}",
        "images": "{path: annotations.json, format: coco, images: photos}",
        "may_miss": "{path: photos, may_miss: 3}",
    },
    "Preprocess": {
        "image": "{image: photo}",
        "color": "{color: BGR}",
        "resize": "{resize: {shortest: 256}}",
        "crop": "{resize: {shortest: 256}, crop: [224, 224]}",
        "letterbox": "{letterbox: {size: [640, 640]}}",
        "tokenizer": "{tokenizer: {max_length: 128}}",
        "graph": "{graph: before.onnx}",
        "scale": "{scale: 0.00392156862745098}",
        "mean": "{mean: [0.485, 0.456, 0.406]}",
        "std": "{std: [0.229, 0.224, 0.225]}",
        "to_channels_first": "{to_channels_first: true}",
        "layout": "{layout: NHWC}",
    },
    "Resize": {
        "interpolation": "{shortest: 256, interpolation: bicubic}",
        "antialias": "{size: [224, 224], antialias: false}",
        "size": "{size: [224, 224]}",
        "shortest": "{shortest: 256}",
        "longest": "{longest: 640}",
    },
    "Letterbox": {
        "interpolation": "{size: [640, 640], interpolation: nearest}",
        "antialias": "{size: [640, 640], antialias: false}",
        "size": "{size: [640, 640]}",
        "fill": "{size: [640, 640], fill: 0}",
        "align": "{size: [640, 640], align: top_left}",
    },
    "Tokenizer": {
        "file": "{file: tokenizer.json, max_length: 128}",
        "columns": "{columns: [question, context], max_length: 384}",
        "max_length": "{max_length: 128}",
        "padding": "{max_length: 128, padding: longest}",
        "allow_empty": "{max_length: 128, allow_empty: true}",
        "sha256": "{file: tokenizer.json, max_length: 128, sha256: "
        "efd9c00791c1bb052e713b9b0e4f6ed468002ec21cb58f9b83cea6231fe72cc8}",
    },
    "Graph": {
        "file": "{file: after.onnx}",
        "sha256": "{file: after.onnx, sha256: "
        "efd9c00791c1bb052e713b9b0e4f6ed468002ec21cb58f9b83cea6231fe72cc8}",
    },
    "Decode": {
        "as": "{as: probabilities}",
        "output": "{as: logits, output: scores}",
        "graph": "{as: probabilities, graph: after.onnx}",
        "outputs": "{as: logits, outputs: {start: start_logits, end: end_logits}}",
        "score": "{as: yolox, score: 0.01}",
        "iou": "{as: yolox, iou: 0.5}",
        "most": "{as: yolox, most: 100}",
        "strides": "{as: yolox, strides: [8, 16, 32]}",
        "size": "{as: yolox, size: [640, 640]}",
        "boxes": "{as: boxes-scores-labels, boxes: cxcywh}",
        "peaks": "{as: centernet, peaks: false}",
        "normalized": "{as: boxes-scores-labels, normalized: true}",
        "flip_score": "{as: yolox, flip_score: 0.5}",
    },
    "Judge": {
        "held_out": "held_out: {path: held_out.npz}",
        "expect_fp32": "expect_fp32: {accuracy: 0.961, within: 0.02}",
        "budgets": "budgets: [{metric: accuracy, max_drop: 0.01}]",
        "confidence": "confidence: 0.99",
        "decision": "decision: point",
        "stopping": "stopping: early",
        "batch_size": "batch_size: 1",
        "anchor": "anchor: models:/digits-cnn-int8/1",
        "on_inconclusive": "on_inconclusive: warn",
        "mode": "mode: observe",
        "seed": "seed: 7",
    },
    "ExpectFp32": {"within": "{accuracy: 0.961, f1_macro: 0.958, within: 0.02}"},
    "Budget": {
        "metric": "{metric: size, max_ratio: 0.5}",
        "max_drop": "{metric: accuracy, max_drop: 0.01}",
        "max_relative_drop": "{metric: accuracy, max_relative_drop: 0.01}",
        "at_least": "{metric: int8_share, at_least: 0.9}",
        "at_most": "{metric: prediction_flips, at_most: 0.03}",
        "max_ratio": "{metric: latency_p95, max_ratio: 0.8}",
        "slice": "{metric: accuracy, max_drop: 0.03, slice: {site: north, night: true}}",
        "each": "{metric: accuracy, max_drop: 0.03, each: target}",
        "against": "{metric: accuracy, max_drop: 0.015, against: anchor}",
        "require": "{metric: accuracy, max_drop: 0.05, each: site, require: proof}",
        "min_examples": "{metric: accuracy, max_drop: 0.03, each: site, min_examples: 50}",
    },
    "Waiver": {
        "model": "model: digits-cnn",
        "budget": "budget: accuracy.max_drop[each target]",
        "slice": "slice: target=9",
        "reason": "reason: class 9 is retired with the March firmware",
        "who": "who: ann@example.com",
        "expires": "expires: 2027-01-31",
    },
}


UNSAID = {"reason": "Why it may go out all the same."}
"""Where a model has no sentence of its own."""
MANY = 5


def definitions() -> dict[str, dict[str, Any]]:
    """Each mapping as a person writes it, by name."""
    found: dict[str, Any] = schema()["$defs"]
    describe(Waiver)
    waiver = Waiver.model_json_schema()
    return {name: _mapping((found | {"Waiver": waiver})[name]) for name, _, _ in SECTIONS}


def _mapping(definition: dict[str, Any]) -> dict[str, Any]:
    """Without the short form."""
    return next((one for one in definition.get("anyOf", ()) if "properties" in one), definition)


def page() -> str:
    """docs/policy.md."""
    found = definitions()
    sections = "\n".join(_section(name, title, note, found) for name, title, note in SECTIONS)
    return f"{TITLE}\n{sections}\n{END}"


def _section(name: str, title: str, note: str, found: Mapping[str, dict[str, Any]]) -> str:
    head = f"## {title}\n\n{_cell(found[name]['description'])} {note}".rstrip()
    columns = "| key | type | default | meaning | example |\n|---|---|---|---|---|\n"
    rows = "".join(f"| {' | '.join(row)} |\n" for row in _rows(name, found))
    return f"{head}\n\n{columns}{rows}"


def _rows(name: str, found: Mapping[str, dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    required = found[name].get("required", ())
    for key, field in found[name]["properties"].items():
        yield (
            f"`{key}`",
            _type(field),
            _default(name, field, required=key in required),
            _meaning(key, field, found),
            f"`{EXAMPLES[name][key]}`",
        )


def _meaning(key: str, field: Mapping[str, Any], found: Mapping[str, dict[str, Any]]) -> str:
    """Its own sentence, else that of what it leads to."""
    if "description" in field:
        return _cell(field["description"])
    if "$ref" in field:
        return _cell(found[field["$ref"].rpartition("/")[2]]["description"])
    return UNSAID[key]


def _default(name: str, field: dict[str, Any], *, required: bool) -> str:
    if required:
        return "**required**"
    if name == "Recipe":
        return "the preset's"
    if isinstance(field.get("default"), dict):
        return f"`{next(iter(field['default'].values()))}`"
    return "–" if field.get("default") is None else f"`{json.dumps(field['default'])}`"


def _type(field: Mapping[str, Any]) -> str:
    """In words, with its limits."""
    if "$ref" in field:
        return _linked(field["$ref"].rpartition("/")[2])
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return _either([f"`{one}`" for one in field["enum"]])
    if some := field.get("anyOf") or field.get("oneOf"):
        return _either(list(dict.fromkeys(_type(one) for one in some if one.get("type") != "null")))
    return _plain(field)


def _either(words: list[str]) -> str:
    return (", " if len(words) >= MANY else " or ").join(words)


def _plain(field: Mapping[str, Any]) -> str:
    kind = field["type"]
    if kind == "array":
        return _list(field)
    if kind == "object":
        return f"mapping of text to {_type(field['additionalProperties'])}"
    if kind == "string":
        return {"^[0-9a-f]{64}$": "64 hex digits", None: field.get("format", "text")}.get(
            field.get("pattern"), f"text, `{field.get('pattern')}`"
        )
    return f"{kind} {', '.join(_limits(field))}".rstrip()


def _list(field: Mapping[str, Any]) -> str:
    if "prefixItems" in field:
        return f"list of {len(field['prefixItems'])}, each {_type(field['prefixItems'][0])}"
    return f"list of {_type(field['items'])}"


def _limits(field: Mapping[str, Any]) -> Iterator[str]:
    words = {
        "minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<",
    }  # fmt: skip
    return (f"{sign} {field[key]:,}" for key, sign in words.items() if key in field)


def _linked(name: str) -> str:
    """A word that leads to a section, by its heading's anchor."""
    title = next(title for key, title, _ in SECTIONS if key == name)
    anchor = "".join(c for c in title.lower() if c.isalnum() or c in " _-").replace(" ", "-")
    words = {"DataSource": "data", "ExpectFp32": "mapping", "Budget": "budget"}
    return f"[{words.get(name, name.lower())}](#{anchor})"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(page())
