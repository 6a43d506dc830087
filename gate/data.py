"""Opens calibration, tuning and held-out splits, checks and identifies every example.

A split's digest is that of its ids, raw inputs and targets, after `limit`, whatever the format
and the order of the file. Unit and slice columns are not part of it, nor is a target in a split
that needs none. `gate.identity` says how it is made.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import combinations
from pathlib import Path

import numpy as np

from gate import artifact, census, formats, hashes, identity, mapped, remote
from gate.errors import DataError, OverlapError, UsageError
from gate.pictures import Files, Names
from gate.policy import Policy
from gate.preprocess import Prepare, by_itself, entering, fit, raw_names
from gate.records import SplitInfo
from gate.sources import DataSource, Preprocess
from gate.table import Table, by_role, raw_inputs
from gate.values import Array, Candidate, Column, Split, TensorSpec

_DEFAULT_BATCH = 64


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
    home: Path | None = None,
    classes: tuple[str, ...] = (),
    paranoid: bool = False,
) -> Split:
    """Open a split for a model with `inputs`, check all of it once, and identify its examples.

    Without `inputs` no model is fed here: what has more than one axis is raw data.

    `source.path` is relative to `base`, and what `preprocess` names to `home`, by default the
    same; `classes` are the policy's. Only inputs stay on disk. A `limit` above N takes all N.

    What `gate.hashes` remembers of earlier openings is not read again, unless `paranoid`: then
    everything is, and has to be what is remembered. A pin is held against the bytes in any case.

    Raises:
        UsageError: no such file or format, or `preprocess` for a model with several inputs.
        DataError: the file is damaged, does not fit the model or `classes`, holds NaN or Inf,
            repeats an id, is empty, is not the pinned one, misses more images than `may_miss`, or
            is not what is remembered of a file of this size and time.
    """
    found = open_table(
        name,
        source,
        base=base,
        inputs=inputs,
        preprocess=preprocess,
        scratch=scratch,
        needs_target=needs_target,
        home=home,
    )
    census.check(found.table, found.preprocess, classes)
    home, trust = home or base, not paranoid
    return _identified(name, source, found, inputs=inputs or (), home=home, seed=seed, trust=trust)


@dataclass(frozen=True, slots=True)
class Opened:
    """A split's table, of which nothing has been checked yet, and what feeds a model from it."""

    table: Table
    prepare: Prepare
    preprocess: Preprocess | None
    """As it applies: raw outputs that are judged need none."""
    path: Path
    stamp: hashes.Stamp
    """Of the path, before anything was read."""
    alike: Prepare | None
    """What of an example is hashed to tell it from others; None: what is stored."""


def open_table(
    name: str,
    source: DataSource,
    *,
    base: Path,
    inputs: tuple[TensorSpec, ...] | None,
    preprocess: Preprocess | None,
    scratch: Path,
    needs_target: bool,
    home: Path | None = None,
) -> Opened:
    """The table behind a split, read lazily, as `open_split` does before it looks at an example.

    Raises:
        UsageError, DataError: as `open_split`.
    """
    path = locate(name, source, base)
    stamp = hashes.stamp_of(path)
    where = f"{name} ({remote.shown(source.path, path)})"
    columns = read(name, source, base, scratch)
    if inputs is None:
        columns, inputs = raw_inputs(columns)
        preprocess = None
    files = home or base
    fed = entering(inputs, preprocess, files)
    names = raw_names(columns, fed, preprocess)
    table = by_role(where, columns, names, fed, needs_target=needs_target)
    prepare = fit(where, table.inputs, inputs, preprocess, files)
    alike = None if preprocess is None else prepare
    if (telling := by_itself(preprocess)) != preprocess:
        alike = fit(where, table.inputs, inputs, telling, files)
    return Opened(table, prepare, preprocess, path, stamp, alike)


def _identified(
    name: str,
    source: DataSource,
    found: Opened,
    *,
    inputs: tuple[TensorSpec, ...],
    home: Path,
    seed: int,
    trust: bool,
) -> Split:
    """Every example checked and hashed, as far as that is not remembered, or not trusted."""
    table, preprocess = found.table, found.preprocess
    of_file = _sha256_of_file(source, found.path, table)
    pinned = source.sha256 != of_file
    origin = hashes.Origin(found.path, found.stamp, source.format, pinned=pinned)
    memory = hashes.Memory(table, origin, inputs, preprocess, home)
    known = memory.recall(trust=trust)
    rows = census.sample(table, source.limit, seed=seed, split=name, known=known)
    examples = census.identify(table, rows, found.alike, may_miss=source.may_miss, known=known)
    _check_pin(source, of_file, table, examples)
    population = census.population(table, examples, known)
    truncated = census.truncated(table, examples.rows, preprocess, home, known)
    memory.keep(known)
    if not trust:
        memory.demand_same(known)
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
        population=population,
        order=examples.rows,
        prepare=found.prepare,
        named_by_files=isinstance(table.id, Names),
        truncated=truncated,
        missing=examples.missing,
    )


def _sha256_of_file(source: DataSource, path: Path, table: Table) -> str | None:
    """Of the bytes, where there is a pin and one file holds all."""
    alone = path.is_file() and not any(isinstance(c, Files) for c in table.inputs.values())
    return artifact.sha256_of(path) if alone and source.sha256 is not None else None


def _check_pin(
    source: DataSource, of_file: str | None, table: Table, examples: census.Examples
) -> None:
    """The pin is the sha256 of a file that holds all, or the digest of all of its examples.

    Neither comes from what is remembered: of content that is pinned nothing is.
    """
    if source.sha256 in (None, of_file):
        return
    sampled = len(examples.ids) < len(table)
    every = np.arange(len(table))
    content = census.identify(table, every, None).sha256 if sampled else examples.sha256
    if source.sha256 != content:
        raise DataError(
            f"{table.where} is not the data that the policy pins: pinned {source.sha256}, "
            f"{'file ' + of_file + ', ' if of_file else ''}content {content}. Restore the pinned "
            f"data; if the change is meant, write `sha256: {of_file or content}` into the policy"
        )


def read(name: str, source: DataSource, base: Path, scratch: Path) -> Mapping[str, Column]:
    """A split's columns, as they are stored.

    Raises:
        UsageError: no such file, folder of images or format.
        DataError: the file is damaged, or cannot be fetched.
    """
    path = locate(name, source, base)
    return formats.read(path, source.format, scratch, _images(name, source, base))


def locate(name: str, source: DataSource, base: Path) -> Path:
    """The split's path on this machine, absolute; what is behind a URI is fetched.

    Raises:
        UsageError: nothing is there.
        DataError: it cannot be fetched.
    """
    path = remote.local(source.path, base).resolve()
    if not path.exists():
        raise UsageError(
            f"{name}: there is no {path}; `path: {source.path}` is relative to {base.resolve()}"
        )
    if artifact.is_endless(path):
        raise UsageError(f"{name}: {path} is a device or a pipe; name a file or a folder")
    return path


def _images(name: str, source: DataSource, base: Path) -> Path | None:
    if source.images is None:
        return None
    folder = remote.local(source.images, base).resolve()
    if not folder.is_dir():
        raise UsageError(
            f"{name}: there is no folder {folder}; `images: {source.images}` is relative to "
            f"{base.resolve()}"
        )
    return folder


def has_target(name: str, source: DataSource, base: Path) -> bool:
    """Whether the data say what is true of each example."""
    path = locate(name, source, base)
    return "target" in formats.of(path, source.format).columns(path)


def shuffled(split: Split, seed: int) -> Split:
    """The same examples in an order drawn from what they are, so that any head is a sample."""
    order = np.argsort(identity.lots({"id": split.ids}, seed, "visit"), kind="stable")
    return laid(split.take(order))


def laid(split: Split) -> Split:
    """The same, of which only what is used is in memory.

    Raises:
        DataError: the disk is full.
    """
    targets, unit = split.targets, split.unit
    return replace(
        split,
        ids=mapped.laid(split.ids),
        content=mapped.laid(split.content),
        targets=mapped.laid(targets) if isinstance(targets, np.ndarray) else targets,
        slices={name: mapped.laid(values) for name, values in split.slices.items()},
        unit=None if unit is None else mapped.laid(unit),
        order=mapped.laid(split.order),
    )


def prove_disjoint(splits: Sequence[Split]) -> None:
    """Show that no two splits share an example, by content or by an id that the data brought.

    Raises:
        OverlapError: two do; names them, how many examples, and the first of them.
    """
    for first, second in combinations(splits, 2):
        by_content = identity.shared(first.content, second.content)
        by_id = np.zeros(len(second), dtype=bool)
        named = first.explicit_ids and second.explicit_ids
        if named and not (first.named_by_files or second.named_by_files):
            by_id = np.isin(second.ids, first.ids)
        shared = by_content | by_id
        if shared.any():
            raise OverlapError(
                f"{first.name} ({first.source}) and {second.name} ({second.source}) share "
                f"{int(shared.sum())} examples ({int(by_content.sum())} by content, "
                f"{int(by_id.sum())} by id): {census.listed(second.ids[shared])}; a model must not "
                f"be judged on what built it: take them out of {first.name}"
            )


def duplicates(split: Split) -> int:
    """How many examples have the same inputs as an earlier one."""
    return len(split) - identity.count_distinct(identity.keys(split.content))


def info(split: Split) -> SplitInfo:
    """The split, as the record tells it."""
    return SplitInfo(
        source=split.source,
        sha256=split.sha256,
        population=split.population,
        examples=len(split),
        duplicates=duplicates(split),
        units=None if split.unit is None else identity.count_distinct(split.unit),
        truncated=split.truncated,
        missing=len(split.missing),
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
    return replace(split.take(mask), sha256=sha256(told.encode()).hexdigest())


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
