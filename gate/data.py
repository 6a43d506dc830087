"""Opens calibration, tuning and held-out splits, checks and identifies every example.

A split's digest is that of its ids, raw inputs and targets, after `limit`, whatever the format
and the order of the file. Unit and slice columns are not part of it, nor is a target in a split
that needs none. `gate.identity` says how it is made.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import combinations
from pathlib import Path

import numpy as np

from gate import artifact, formats, identity
from gate.errors import DataError, OverlapError, UsageError
from gate.policy import DataSource, Policy, Preprocess
from gate.preprocess import fit
from gate.records import SplitInfo
from gate.table import Table, by_role, raw_inputs, take
from gate.values import Array, Candidate, Column, Split, TensorSpec

Prepare = Callable[[Array], Array]
_SHOWN = 5
_DEFAULT_BATCH = 64

_LAST_CODE = 0x10FFFF
_SURROGATES = (0xD800, 0xDFFF)


def open_split(
    name: str,
    source: DataSource,
    *,
    base: Path,
    inputs: tuple[TensorSpec, ...] | None,
    preprocess: Preprocess | None,
    seed: int,
    scratch: Path,
    needs_target: bool,
) -> Split:
    """Open a split for a model with `inputs`, check all of it once, and identify its examples.

    Without `inputs` no model is fed here: what has more than one axis is raw data.

    `source.path` is relative to `base`. Inputs stay on disk; ids, targets, slice and unit columns
    are held in memory. A `limit` above N takes all N examples.

    Raises:
        UsageError: no such file or format, or `preprocess` for a model with several inputs.
        DataError: the file is damaged, does not fit the model, holds NaN or Inf, repeats an id,
            is empty, or is not what the pin says.
    """
    path = locate(name, source, base)
    where = f"{name} ({path})"
    columns = formats.of(path, source.format).read(path, scratch)
    if inputs is None:
        columns, inputs = raw_inputs(columns)
        preprocess = None
    table = by_role(where, columns, inputs, needs_target=needs_target)
    prepare = fit(where, table.inputs, inputs, preprocess)
    rows = _sample(table, source.limit, seed=seed, split=name)
    examples = _identify(table, rows, prepare if preprocess else None)
    _check_pin(source, path, table, examples)
    return Split(
        name=name,
        source=source.path,
        ids=examples.ids,
        explicit_ids=table.id is not None,
        content=examples.content,
        inputs=table.inputs,
        targets=examples.targets,
        slices=examples.slices,
        unit=examples.unit,
        sha256=examples.sha256,
        population=_population(table, examples),
        order=rows,
        prepare=prepare,
    )


def _population(table: Table, examples: "_Examples") -> str:
    """Of every example that there was to draw from: a sample, or other ids, are no other data."""
    if len(examples.ids) == len(table):
        return identity.population(examples.hashes, examples.targets)
    every = np.arange(len(table), dtype=np.int64)
    hashes = np.concatenate([identity.hash_rows(block) for _, block in table.blocks(every)])
    return identity.population(hashes, None if table.target is None else take(table.target, every))


def locate(name: str, source: DataSource, base: Path) -> Path:
    """The split's path, absolute; `UsageError` where nothing is there."""
    path = (base / source.path).resolve()
    if not path.exists():
        raise UsageError(
            f"{name}: there is no {path}; `path: {source.path}` is relative to {base.resolve()}"
        )
    return path


def shuffled(split: Split, seed: int) -> Split:
    """The same examples in an order drawn from what they are, so that any head is a sample."""
    order = np.argsort(identity.lots({"id": split.ids}, seed, "visit"), kind="stable")
    return replace(
        split,
        ids=split.ids[order],
        content=split.content[order],
        targets=None if split.targets is None else split.targets[order],
        slices={name: values[order] for name, values in split.slices.items()},
        unit=None if split.unit is None else split.unit[order],
        order=split.order[order],
    )


def prove_disjoint(splits: Sequence[Split]) -> None:
    """Show that no two splits share an example, by content or by an id that the data brought.

    Raises:
        OverlapError: two do; names them, how many examples, and the first of them.
    """
    for first, second in combinations(splits, 2):
        by_content = np.isin(identity.keys(second.content), identity.keys(first.content))
        by_id = np.zeros(len(second), dtype=bool)
        if first.explicit_ids and second.explicit_ids:
            by_id = np.isin(second.ids, first.ids)
        shared = by_content | by_id
        if shared.any():
            raise OverlapError(
                f"{first.name} ({first.source}) and {second.name} ({second.source}) share "
                f"{int(shared.sum())} examples ({int(by_content.sum())} by content, "
                f"{int(by_id.sum())} by id): {_listed(second.ids[shared])}; a model must not be "
                f"judged on what built it: take them out of {first.name}"
            )


def duplicates(split: Split) -> int:
    """How many examples have the same inputs as an earlier one."""
    return len(split) - len(np.unique(identity.keys(split.content)))


def info(split: Split) -> SplitInfo:
    """The split, as the record tells it."""
    return SplitInfo(
        source=split.source,
        sha256=split.sha256,
        population=split.population,
        examples=len(split),
        duplicates=duplicates(split),
        units=None if split.unit is None else len(np.unique(split.unit)),
    )


def fixed_batch(candidate: Candidate) -> int | None:
    """The batch that the model is fixed to; None where it takes any."""
    return next(iter(_fixed_batches(candidate)), None)


def _fixed_batches(candidate: Candidate) -> set[int]:
    sizes = {spec.shape[0] for spec in candidate.inputs if spec.shape}
    return {size for size in sizes if size is not None}


def carved(split: Split, share: float, *, seed: int) -> tuple[Split, Split]:
    """A split in two by lot: what is left, and `share` of its examples for another purpose.

    Raises:
        DataError: one of them would be empty.
    """
    count = round(share * len(split))
    if not 0 < count < len(split):
        raise DataError(
            f"{split.name} ({split.source}) has {len(split)} examples, too few to set some apart"
        )
    taken = np.zeros(len(split), dtype=bool)
    taken[np.random.default_rng(seed).permutation(len(split))[:count]] = True
    return _part(split, ~taken, "rest"), _part(split, taken, "part")


def _part(split: Split, mask: Array, what: str) -> Split:
    told = f"{split.sha256} {what} {np.packbits(mask).tobytes().hex()}"
    return replace(
        split,
        ids=split.ids[mask],
        content=split.content[mask],
        targets=None if split.targets is None else split.targets[mask],
        slices={name: values[mask] for name, values in split.slices.items()},
        unit=None if split.unit is None else split.unit[mask],
        order=split.order[mask],
        sha256=sha256(told.encode()).hexdigest(),
    )


def batch_size(
    policy: Policy, candidate: Candidate, splits: Iterable[Split], *, alone: bool = False
) -> int:
    """The policy's batch, or the one that the model is fixed to.

    `alone`: by default one example at a time, as a batch would change what the model gives.

    Raises:
        DataError: they disagree, or a split does not divide into fixed batches.
    """
    fixed = _fixed_batches(candidate)
    if not fixed:
        return policy.batch_size or (1 if alone else _DEFAULT_BATCH)
    size = next(iter(fixed)) or _DEFAULT_BATCH
    asked = policy.judge.batch_size
    if len(fixed) > 1 or asked not in (None, size):
        raise DataError(
            f"candidate {candidate.source} is fixed to batches of {sorted(map(str, fixed))}, and "
            f"the policy asks for {asked}; remove `batch_size`, or export a free batch dimension"
        )
    for split in splits:
        if len(split) % size:
            raise DataError(
                f"{split.name} has {len(split)} examples, and {candidate.source} is fixed to "
                f"batches of {size}: export it with a free batch dimension, or drop "
                f"{len(split) % size} examples"
            )
    return size


# ── identity of examples ──────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Examples:
    """Rows of a table, identified; as in `Split`."""

    ids: Array
    content: Array
    targets: Array | None
    slices: Mapping[str, Array]
    unit: Array | None
    sha256: str
    hashes: Array
    """(N, 32) uint8 of the inputs as stored."""


def _sample(table: Table, limit: int | None, *, seed: int, split: str) -> Array:
    """(min(N, limit),) of int64, ascending: all rows, or those whose lots come first.

    An example's lot is drawn from what it is, never from where it stands, so that the order of
    the file chooses nothing. Without ids that takes one pass over the inputs.
    """
    every = np.arange(len(table), dtype=np.int64)
    if limit is None or limit >= len(table):
        return every
    if table.id is not None:
        told = {"id": _explicit_ids(table.where, table.id, every)}
    else:
        hashed = [identity.hash_rows(blocks) for _, blocks in table.blocks(every)]
        others = {f"column {name}": take(column, every) for name, column in table.others.items()}
        told = {"inputs": np.concatenate(hashed), **others}
    return np.sort(np.argsort(identity.lots(told, seed, split), kind="stable")[:limit])


def _identify(table: Table, rows: Array, prepare: Prepare | None) -> _Examples:
    """`prepare` is what makes different raw values the same to the model, where there is such."""
    explicit = None if table.id is None else _explicit_ids(table.where, table.id, rows)
    hashes, content = _hash_inputs(table, rows, explicit, prepare)
    labels = identity.heads(hashes) if explicit is None else explicit
    values = {
        name: _checked(table.where, name, column, rows, labels)
        for name, column in table.others.items()
    }
    ids = identity.distinct(labels, list(values.values())) if explicit is None else explicit
    targets, unit = values.pop("target", None), values.pop("unit", None)
    return _Examples(
        ids=ids,
        content=content[:, :16].copy(),
        targets=targets,
        slices=values,
        unit=unit,
        sha256=identity.digest(ids, hashes, targets),
        hashes=hashes,
    )


def _checked(where: str, name: str, column: Column, rows: Array, labels: Array) -> Array:
    values = take(column, rows)
    _refuse_bad(where, name, values, rows, labels)
    return values


def _explicit_ids(where: str, column: Column, rows: Array) -> Array:
    raw = take(column, rows)
    if raw.dtype.kind not in "iuU":
        raise DataError(f"{where}: column 'id' is {raw.dtype}; ids are text or integers")
    _refuse_bad(where, "id", raw, rows, labels=None)
    ids = raw.astype(str)
    values, counts = np.unique(ids, return_counts=True)
    repeated = values[counts > 1]
    if repeated.size:
        raise DataError(
            f"{where}: {repeated.size} ids occur more than once: {_listed(repeated)}; every "
            "example needs its own id, or leave the column out"
        )
    return ids


def _hash_inputs(
    table: Table, rows: Array, ids: Array | None, prepare: Prepare | None
) -> tuple[Array, Array]:
    """(N, 32) uint8 each: sha256 of the inputs as stored, and as the model gets them; read once."""
    stored = np.empty((len(rows), 32), dtype=np.uint8)
    prepared = np.empty_like(stored) if prepare else stored
    for part, blocks in table.blocks(rows):
        stored[part] = identity.hash_rows(blocks)
        labels = identity.heads(stored[part]) if ids is None else ids[part]
        for name, block in blocks.items():
            _refuse_bad(table.where, name, block, rows[part], labels)
        if prepare:
            prepared[part] = identity.hash_rows({n: prepare(block) for n, block in blocks.items()})
    return stored, prepared


def _refuse_bad(where: str, name: str, block: Array, rows: Array, labels: Array | None) -> None:
    """NaN, infinities, and text that is not Unicode never enter a verdict."""
    if block.dtype.kind == "f":
        good = np.isfinite(block)
    elif block.dtype.kind == "U":
        codes = block.reshape(-1).view(np.uint32)
        good = (codes <= _LAST_CODE) & ((codes < _SURROGATES[0]) | (codes > _SURROGATES[1]))
    else:
        return
    bad = np.flatnonzero(~good.reshape(len(block), -1).all(axis=1))
    if bad.size:
        example = "" if labels is None else f" of example {str(labels[bad[0]])!r}"
        what = "NaN or infinite" if block.dtype.kind == "f" else "not Unicode text"
        raise DataError(
            f"{where}: column {name!r}{example} (row {int(rows[bad[0]])}, counting from 0) is "
            f"{what}; correct the value, or leave the example out"
        )


def _check_pin(source: DataSource, path: Path, table: Table, examples: _Examples) -> None:
    """The pin is the file's sha256, or the digest of all of its examples."""
    if source.sha256 is None:
        return
    of_file = artifact.sha256_of(path) if path.is_file() else "a folder has none"
    if source.sha256 == of_file:
        return
    sampled = len(examples.ids) < len(table)
    every = np.arange(len(table))
    content = _identify(table, every, None).sha256 if sampled else examples.sha256
    if source.sha256 != content:
        raise DataError(
            f"{table.where} is not the data that the policy pins: pinned {source.sha256}, file "
            f"{of_file}, content {content}. Restore the pinned data, or, if the change is meant, "
            "write the file's or the content's sha256 into the policy"
        )


def _listed(ids: Array) -> str:
    more = ", …" if len(ids) > _SHOWN else ""
    return ", ".join(repr(str(value)) for value in ids[:_SHOWN]) + more
