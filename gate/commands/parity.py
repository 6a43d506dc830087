"""`gate data parity`: whether a policy prepares examples as a team's own function does.

Two models that are fed wrong inputs agree perfectly, so no comparison of FP32 with INT8 finds what
this does: that the policy's `preprocess` is not what serves.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gate import census, data, pictures, preprocess, remote, tokens
from gate.commands import _parity_images, _parity_tokens
from gate.commands._parity_found import Cause, Gap, Parity, Side, gap_of
from gate.commands._parity_function import Function, fed, loaded
from gate.errors import DataError, UsageError
from gate.pictures import PicturesError
from gate.policy_file import LoadedPolicy, load_policy
from gate.progress import Progress, Silent
from gate.sources import DataSource, Preprocess
from gate.table import Table, by_role, raw_inputs
from gate.values import Array, Column, TensorSpec

EXAMPLES = 64
_IMAGE_AXES = 3
_IDS = ("input_ids", "ids")


def parity(
    policy: str,
    against: str,
    *,
    split: str = "held_out",
    examples: int = EXAMPLES,
    progress: Progress | None = None,
) -> Parity:
    """Hold what a policy feeds the model against what a function does, on the same examples.

    No model is opened: the function's dict names the model's inputs. An array that comes without a
    name is the input named as its column, or `input_ids` where text becomes tokens.

    Args:
        policy: the policy's file.
        against: `FILE.py:function`. It is given the raw values of one example, one positional
            argument a column (`bytes` of an encoded image, `str` of text, an array), and returns
            an array, or arrays by input name, with or without a batch axis of one.
        split: held_out, calibration or tuning.
        examples: how many, drawn with the policy's seed.
        progress: told of each step.

    Raises:
        UsageError: the function cannot be had, fails, or gives no numbers; or the policy has no
            such split.
        DataError: the data are damaged, or do not fit the policy's `preprocess`.
    """
    told = progress or Silent()
    written = load_policy(policy)
    steps = written.policy.build.preprocess
    if steps is not None and steps.graph is not None:
        raise UsageError(
            f"{written.mark('build', 'preprocess', 'graph')}: `graph` is part of the model as far "
            "as a transform is concerned: compare by a copy of the policy without it"
        )
    with tempfile.TemporaryDirectory(prefix="gate-parity-") as scratch, loaded(against) as call:
        told.step("draw examples")
        drawn = _drawn(written, split, examples, Path(scratch))
        told.step("run the function", total=len(drawn))
        theirs = _fed(against, call, drawn, told)
        told.step("compare")
        return _compared(written, against, split, drawn, theirs)


def _fed(
    against: str, call: Function, drawn: "_Drawn", progress: Progress
) -> dict[str, list[Array]]:
    """What the function feeds the model: an array an example by input name."""
    found: dict[str, list[Array]] = {}
    for one in fed(against, call, drawn.examples()):
        for name, array in one.items():
            found.setdefault(name, []).append(array)
        progress.advance(1)
    return found


# ── the examples ──────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Drawn:
    """Some examples as they are stored."""

    table: Table
    rows: Array
    labels: Sequence[str]
    """Ids, or rows where there are none."""

    def __len__(self) -> int:
        """How many."""
        return len(self.rows)

    def values(self, place: int) -> list[Any]:
        """One raw value a column, as a function takes it."""
        row = self.rows[place : place + 1]
        return [_value(column[row]) for column in self.table.inputs.values()]

    def examples(self) -> Iterator[tuple[str, list[Any]]]:
        """Label and raw values of each."""
        return ((label, self.values(place)) for place, label in enumerate(self.labels))

    @cached_property
    def raw(self) -> list[dict[str, Array]]:
        """(1, …) by column, of each example."""
        return [
            {name: column[self.rows[place : place + 1]] for name, column in self.columns.items()}
            for place in range(len(self))
        ]

    @property
    def columns(self) -> Mapping[str, Column]:
        """What the model is fed from."""
        return self.table.inputs


def _value(block: Array) -> Any:
    """Of a block (1, …): `bytes`, `str`, or an array of its own."""
    one = block[0]
    if block.dtype.kind in "OU":
        return bytes(one) if block.dtype.kind == "O" else str(one)
    return np.array(one)


def _drawn(loaded: LoadedPolicy, split: str, examples: int, scratch: Path) -> _Drawn:
    source = _source(loaded, split)
    path = data.locate(split, source, loaded.base)
    where = f"{split} ({remote.shown(source.path, path)})"
    columns = data.read(split, source, loaded.base, scratch)
    names, specs = _fed_from(where, columns, loaded.policy.build.preprocess)
    table = by_role(where, columns, names, specs, needs_target=False)
    rows = census.sample(table, examples, seed=loaded.policy.judge.seed, split=split)
    labels = rows if table.id is None else np.asarray(table.id[rows])
    return _Drawn(table, rows, [str(label) for label in labels])


def _source(loaded: LoadedPolicy, split: str) -> DataSource:
    section = loaded.policy.judge if split == "held_out" else loaded.policy.build
    source: DataSource | None = getattr(section, split)
    if source is None:
        raise UsageError(f"{loaded.file} has no {split} data; choose another --split")
    return source


def _fed_from(
    where: str, columns: Mapping[str, Column], steps: Preprocess | None
) -> tuple[tuple[str, ...], tuple[TensorSpec, ...]]:
    """Columns that the model is fed from, by the policy or because nothing else holds examples."""
    _, found = raw_inputs(columns)
    if steps is not None and steps.tokenizer is not None:
        texts = steps.tokenizer.columns
        return texts, tuple(TensorSpec(name, "object", (None,)) for name in texts)
    names = tuple(spec.name for spec in found if spec.name in columns)
    if steps is not None and steps.image is not None:
        names = (steps.image,)
    if not names or (steps is not None and len(names) > 1):
        told = ", ".join(map(repr, names)) or "no column of images or arrays"
        raise UsageError(
            f"{where} has {told}, and `build.preprocess` is of one: name it there as `image:`"
        )
    return names, found


# ── the policy's side ─────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Ours:
    """What a policy feeds the model, as far as that is known without the model."""

    home: Path
    drawn: _Drawn
    theirs: Side

    def made(self, steps: Preprocess | None, most: int | None = None) -> dict[str, list[Array]]:
        """An array an example by input name, of the first examples.

        Raises:
            DataError: the data do not fit `steps`.
        """
        steps = self._named(steps)
        specs = self._specs(steps)
        where, columns = self.drawn.table.where, self.drawn.columns
        prepare = preprocess.fit(where, columns, specs, steps, self.home)
        fed = [self._prepared(prepare, place) for place in range(len(self.drawn.raw[:most]))]
        return {spec.name: [one[spec.name][0] for one in fed] for spec in specs}

    def _prepared(self, prepare: preprocess.Prepare, place: int) -> Mapping[str, Array]:
        try:
            return prepare(self.drawn.raw[place])
        except PicturesError as error:
            (why,) = error.faults.values()
            example = f"example {self.drawn.labels[place]!r}"
            raise DataError(f"{self.drawn.table.where}: {example}: {why}") from error

    def _named(self, steps: Preprocess | None) -> Preprocess | None:
        """With its column told, as the function's name for the input need not be it."""
        if steps is None or steps.tokenizer is not None:
            return steps
        return steps.model_copy(update={"image": next(iter(self.drawn.columns))})

    def _specs(self, steps: Preprocess | None) -> list[TensorSpec]:
        if steps is not None and steps.tokenizer is not None:
            return [
                TensorSpec(name, dtype if dtype in ("int32", "int64") else "int64", (None, None))
                for name, dtype in ((name, one[0].dtype.name) for name, one in self.theirs.items())
            ]
        return [
            TensorSpec(name, self._dtype(name, column, steps), (None,) * _rank(column))
            for name, column in zip(self.theirs, self.drawn.columns.values(), strict=True)
        ]

    def _dtype(self, name: str, column: Column, steps: Preprocess | None) -> str:
        """`preprocess` makes float32, but for images that are only moved and stay bytes."""
        if steps is None and not pictures.is_encoded(column):
            return preprocess.dtype_name(column.dtype)
        moved = steps is not None and steps.scale == 1 and not steps.mean and not steps.std
        bytes_ = column.dtype == np.uint8 or pictures.is_encoded(column)
        as_bytes = bytes_ and moved and self.theirs[name][0].dtype == np.uint8
        return "uint8" if as_bytes else "float32"


def _rank(column: Column) -> int:
    return 1 + _IMAGE_AXES if pictures.is_encoded(column) else len(column.shape)


def _matched(
    against: str, drawn: _Drawn, steps: Preprocess | None, theirs: Mapping[str, list[Array]]
) -> dict[str, list[Array]]:
    """The function's arrays under the names of inputs."""
    reads_text = steps is not None and steps.tokenizer is not None
    wanted = (_IDS[0],) if reads_text else tuple(drawn.columns)
    if "" in theirs and len(wanted) > 1:
        raise UsageError(
            f"{against} gives one array, and the data have columns {', '.join(wanted)}: return a "
            "dict of arrays by input name"
        )
    if "" in theirs:
        return {wanted[0]: theirs[""]}
    if reads_text or (len(wanted) == len(theirs) == 1):
        return dict(theirs)
    if set(wanted) != set(theirs):
        raise UsageError(
            f"{against} gives {', '.join(theirs)}, and the data have columns "
            f"{', '.join(wanted)}: name the arrays alike"
        )
    return {name: theirs[name] for name in wanted}


# ── the comparison ────────────────────────────────────────────────────────────────────────


def _compared(
    loaded: LoadedPolicy,
    against: str,
    split: str,
    drawn: _Drawn,
    found: Mapping[str, list[Array]],
) -> Parity:
    steps = loaded.policy.build.preprocess
    named = _matched(against, drawn, steps, found)
    ours = _Ours(loaded.base, drawn, named)
    policys = ours.made(steps)
    theirs = {name: _unbatched(policys[name], arrays) for name, arrays in named.items()}
    gaps = [gap_of(name, policys[name], theirs[name]) for name in theirs]
    result = Parity(
        policy=str(loaded.file),
        function=against,
        split=split,
        examples=len(drawn),
        gaps=tuple(gaps),
    )
    if result.alike:
        return result
    if steps is not None and steps.tokenizer is not None:
        return _with_tokens(result, ours, steps, theirs)
    if len(theirs) == 1:
        return _with_images(result, ours, steps, theirs)
    return result.model_copy(update={"causes": tuple(_dtypes(gaps))})


def _unbatched(ours: Sequence[Array], theirs: Sequence[Array]) -> list[Array]:
    """Without the batch axis of one that the policy's arrays do not have either."""
    return [
        other[0] if other.ndim == mine.ndim + 1 and other.shape[0] == 1 else other
        for mine, other in zip(ours, theirs, strict=True)
    ]


def _with_images(result: Parity, ours: _Ours, steps: Preprocess | None, theirs: Side) -> Parity:
    ((name, arrays),) = theirs.items()
    (column,) = ours.drawn.columns.values()
    inner = column.shape[1:]
    is_image = len(inner) == _IMAGE_AXES and column.dtype == np.uint8 and inner[2] in (1, 3)

    def made(changed: Preprocess, most: int) -> list[Array]:
        return ours.made(changed, most)[name]

    images = _parity_images.Images(
        given=steps or Preprocess(),
        made=made,
        theirs=arrays,
        drawn=is_image or pictures.is_encoded(column),
    )
    causes, unexplained, changed = _parity_images.explained(images)
    update = {"causes": (*causes, *_dtypes(result.gaps)), "unexplained": unexplained}
    return result.model_copy(update=update | _proven(ours, changed, theirs))


def _with_tokens(result: Parity, ours: _Ours, steps: Preprocess, theirs: Side) -> Parity:
    spec = steps.tokenizer
    ids = next((theirs[name] for name in _IDS if name in theirs), None)
    assert spec is not None
    if ids is None or any(one.ndim != 1 for one in ids):
        return result.model_copy(update={"causes": tuple(_dtypes(result.gaps))})

    def load() -> Any:
        return tokens.tokenizer_of(spec, tokens.place(spec, ours.home))

    texts = [_text(ours.drawn.values(place)) for place in range(len(ours.drawn))]
    causes, changed = _parity_tokens.explained(load, texts, ids, spec)
    told = None if changed is None else steps.model_copy(update={"tokenizer": changed})
    update = {"causes": (*causes, *_dtypes(result.gaps))}
    return result.model_copy(update=update | _proven(ours, told, theirs))


def _text(values: Sequence[str]) -> _parity_tokens.Text:
    return values[0] if len(values) == 1 else (values[0], values[1])


def _dtypes(gaps: Sequence[Gap]) -> Iterator[Cause]:
    """Types that differ, which no change of values mends."""
    for gap in gaps:
        types = [told.partition(" ")[0] for told in (gap.policy, gap.function)]
        if types[0] != types[1]:
            yield Cause(
                name="type",
                detail=f"{gap.input}: the function gives {types[1]}, the policy {types[0]}",
                mean_before=gap.mean,
                mean_after=gap.mean,
                share_before=gap.share,
                share_after=gap.share,
            )


def _proven(ours: _Ours, changed: Preprocess | None, theirs: Side) -> dict[str, Any]:
    """What to paste, where it gives what the function gives on every example."""
    if changed is None:
        return {}
    try:
        made = ours.made(changed)
    except DataError:
        return {}
    if any(gap_of(name, made[name], theirs[name]).unlike for name in theirs):
        return {}
    told = changed.model_dump(mode="json", exclude_defaults=True)
    if "tokenizer" in told:
        told["tokenizer"].pop("sha256", None)
    return {"preprocess": told}
