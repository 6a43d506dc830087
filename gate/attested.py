"""Outputs of models that ran elsewhere: what they gave, by example, and what they say they are.

A file is a table with one row an example: `id`; a column for each output, (N,) or (N, …); and
`artifact_sha256`, `runtime` and `device`, each with one value in all rows. Nothing of it can be
checked here but that it belongs to the held-out examples, so a record calls it attested.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gate import artifact, formats
from gate.errors import DataError, EvaluationError, UsageError
from gate.records import Attestation
from gate.values import Array, Batch, Candidate, Column, Int8Model, TensorSpec
from gate.wording import few

_SUFFIXES = (".npz", ".parquet")
_TOLD = ("artifact_sha256", "runtime", "device")
_HEX, _DIGITS = frozenset("0123456789abcdef"), 64


@dataclass(frozen=True, slots=True)
class Outputs:
    """One model's outputs."""

    where: str
    """Flag and file, as every message begins."""
    columns: Mapping[str, Column]
    """(N, …) by output."""
    rows: Mapping[str, int]
    """Row by id."""
    told: Attestation

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """What the outputs are."""
        return tuple(
            TensorSpec(name=name, dtype=column.dtype.name, shape=(None, *column.shape[1:]))
            for name, column in self.columns.items()
        )

    def demand(self, ids: Array) -> None:
        """There is a row for every one of these examples.

        Raises:
            EvaluationError: there is not.
        """
        missing = [key for key in ids.tolist() if key not in self.rows]
        if missing:
            raise EvaluationError(
                f"{self.where} has no outputs for {len(missing)} of {len(ids)} held-out examples "
                f"(ids {few(missing)}): run the model on every example"
            )

    def give(self, batch: Batch) -> dict[str, Array]:
        """Outputs by name, (B, …), of the examples of a batch, which `demand` has shown."""
        index = np.array([self.rows[key] for key in batch.ids.tolist()])
        return {name: np.asarray(column[index]) for name, column in self.columns.items()}


def open_outputs(flag: str, path: Path, scratch: Path) -> Outputs:
    """Read a file of outputs.

    Args:
        flag: as a message names it, `--int8-outputs`.
        path: npz or parquet.
        scratch: a private folder to unpack to.

    Raises:
        UsageError: no such file or format.
        DataError: it is damaged, has no or repeated ids, no outputs, or does not say what made it.
    """
    where = f"{flag} {path}"
    if not path.is_file():
        raise UsageError(f"{where}: there is no such file")
    if path.suffix not in _SUFFIXES:
        raise UsageError(f"{where}: outputs are read from {' or '.join(_SUFFIXES)} files")
    columns = dict(formats.of(path, None).read(path, scratch))
    ids = _ids(where, columns.pop("id", None))
    told = {name: _told(where, name, columns.pop(name, None)) for name in _TOLD}
    digest = told["artifact_sha256"]
    if len(digest) != _DIGITS or not _HEX.issuperset(digest):
        raise DataError(
            f"{where}: artifact_sha256 is {digest!r}; give the model's sha256, 64 hexadecimal "
            "digits in lower case, as `sha256sum` prints it"
        )
    outputs = {name: column for name, column in columns.items() if column.dtype.kind in "fiub"}
    if not outputs:
        raise DataError(f"{where} has no column of outputs: add one for each, under its own name")
    return Outputs(
        where=where,
        columns=outputs,
        rows={key: row for row, key in enumerate(ids)},
        told=Attestation(source=str(path), outputs_sha256=artifact.sha256_of(path), **told),
    )


def _ids(where: str, column: Column | None) -> list[str]:
    if column is None:
        raise DataError(f"{where} has no column 'id': outputs belong to examples by their ids")
    _demand_flat(where, "id", column)
    ids: list[str] = np.asarray(column[:]).astype(str).tolist()
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        twice = next(key for key in ids if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise DataError(f"{where}: id {twice!r} occurs more than once; every example has one row")
    return ids


def _told(where: str, name: str, column: Column | None) -> str:
    """The one value of a column."""
    if column is None:
        raise DataError(
            f"{where} does not say its {name}: add that column, the same text in every row, so "
            "that the verdict is bound to what was run"
        )
    _demand_flat(where, name, column)
    values = np.unique(np.asarray(column[:]).astype(str))
    if len(values) != 1:
        raise DataError(
            f"{where}: column {name!r} has {len(values)} values and has to have one: outputs of "
            "different models or machines cannot be judged as one"
        )
    if not values[0].strip():
        raise DataError(f"{where}: column {name!r} is blank: say what the outputs were made with")
    return str(values[0])


def _demand_flat(where: str, name: str, column: Column) -> None:
    if len(column.shape) != 1:
        raise DataError(
            f"{where}: column {name!r} has shape {column.shape}, and needs one value an example"
        )


# ── in the place of models ────────────────────────────────────────────────────────────────


def demand_same_outputs(fp32: Outputs, int8: Outputs) -> None:
    """Both files hold the same outputs, of the same type and shape but for the width of floats.

    Raises:
        DataError: they do not, or they are of one and the same model.
    """
    if fp32.told.artifact_sha256 == int8.told.artifact_sha256:
        raise DataError(
            f"{fp32.where} and {int8.where} are outputs of one artifact "
            f"({int8.told.artifact_sha256[:12]}…): a model held against itself loses nothing. Give "
            "those of the FP32 model and of the INT8 model"
        )
    mine, theirs = (
        {name: (column.dtype.kind, column.shape[1:]) for name, column in side.columns.items()}
        for side in (fp32, int8)
    )
    if mine != theirs:
        raise DataError(
            f"{fp32.where} holds {_listed(fp32)} and {int8.where} {_listed(int8)}: they cannot be "
            "compared; write the same outputs for both models"
        )


def _listed(outputs: Outputs) -> str:
    return ", ".join(f"{name} {column.shape[1:]}" for name, column in outputs.columns.items())


def as_candidate(outputs: Outputs) -> Candidate:
    """FP32 that was not seen: no file, no size."""
    return Candidate(
        path=Path(outputs.told.source),
        sha256=outputs.told.artifact_sha256,
        fp32_sha256=outputs.told.artifact_sha256,
        bytes=0,
        inputs=(),
        outputs=outputs.specs,
        opset=0,
        source=outputs.told.source,
    )


def as_int8(outputs: Outputs) -> Int8Model:
    """INT8 that was not seen: nothing proves that integers did the work."""
    return Int8Model(
        path=Path(outputs.told.source),
        sha256=outputs.told.artifact_sha256,
        bytes=0,
        recipe=None,
        quantized_nodes=(),
        skipped_nodes=(),
        int8_share=0.0,
        kernels={},
        source=outputs.told.source,
    )
