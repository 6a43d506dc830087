"""`gate verify`: whether a verdict can be proven, from what lies beside its record."""

import json
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from gate import artifact, plugins
from gate.commands._promote_backing import Reason
from gate.commands._promote_checks import Check
from gate.commands._promote_policy import held_out_reasons, in_force
from gate.commands._replay_stored import FP32, INT8, OUTPUTS, ROWS
from gate.commands.judge import demand_untouched, rejudge
from gate.commands.report import load_record, record_file
from gate.commands.sign import signed
from gate.errors import EXIT_PASS, GateError, RecordError, worst
from gate.records import GateRecord
from gate.signing import demand_signed
from gate.statement import FILE, Envelope, differences
from gate.wording import few, plain

SKIPPED = ("data", "models", "policy")
"""What may be left out, where it is not at hand."""
SIGNED = "signed by the key that is trusted"
_LONG = 2000
_NAMED = 6


@dataclass(frozen=True, slots=True)
class Verification:
    """What was checked of a record."""

    model: str
    record: str
    verdict: str
    stage: str
    checks: tuple[Check, ...]
    skipped: tuple[str, ...]
    """What was not looked at, because it was asked for so."""
    signed: str | None
    """The key that signed it and is trusted, by its sha256; None without one."""

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """All that stands against it."""
        return tuple(reason for check in self.checks for reason in check.reasons)

    @property
    def exit_code(self) -> int:
        """0 where everything that was checked holds, whatever the verdict is."""
        return worst(reason.code for reason in self.reasons) if self.reasons else EXIT_PASS


def verify(
    path: Path,
    *,
    key: Path | None = None,
    policy: str | None = None,
    int8: Path | None = None,
    skip: Collection[str] = (),
) -> Verification:
    """Check a record against its rows, its models, its policy, its data and its signature.

    Args:
        path: record.json, with its rows beside it, or the folder that holds both.
        key: the public key that is trusted; then the record has to be signed by it.
        policy: file of the policy in force, where it is not where the record says.
        int8: the artifact that is to be served, instead of the one beside the record.
        skip: of `SKIPPED`.

    Raises:
        UsageError: there is no record, or no such key.
        RecordError: the record is damaged.
    """
    record, folder = load_record(path), record_file(path).parent
    checks = [
        Check("the same verdict from the stored rows", tuple(_decided(record, folder))),
        Check(f"{OUTPUTS} as it was written", tuple(_outputs(record, folder))),
    ]
    if "models" not in skip and not record.attested:
        checks.append(Check("INT8 artifact as it was judged", tuple(_int8(record, folder, int8))))
        checks.append(Check("FP32 model as it was judged", tuple(_fp32(record, folder))))
    if "policy" not in skip:
        loaded, reasons = in_force(record, policy)
        checks.append(Check("policy as it was judged by", reasons))
        if "data" not in skip:
            data = tuple(held_out_reasons(loaded, record, folder))
            checks.append(Check("held-out data as they were judged on", data))
    name, check = _signature(record, folder, key)
    return Verification(
        model=record.model,
        record=record.id,
        verdict=record.verdict.outcome,
        stage=record.stage,
        checks=(*checks, *([] if check is None else [check])),
        skipped=tuple(one for one in SKIPPED if one in skip),
        signed=name,
    )


def signature_reasons(record: GateRecord, folder: Path, key: Path) -> Iterator[Reason]:
    """Why a record is not shown to be signed by this key.

    Raises:
        UsageError: there is no such key.
    """
    _, check = _signature(record, folder, key)
    if check is not None:
        yield from check.reasons


# ── each check ────────────────────────────────────────────────────────────────────────────


def _decided(record: GateRecord, folder: Path) -> Iterator[Reason]:
    rows = folder / ROWS
    if not rows.is_file():
        yield Reason(f"{rows} is missing: fetch the whole folder of record {record.id}")
        return
    yield from _told(lambda: plugins.demand_same(record.provenance.plugins))
    yield from _told(lambda: demand_untouched(record, rows))
    yield from _told(lambda: rejudge(record))


def _told(demand: Callable[[], object]) -> Iterator[Reason]:
    try:
        demand()
    except GateError as error:
        yield Reason(str(error), error.exit_code)


def _outputs(record: GateRecord, folder: Path) -> Iterator[Reason]:
    if record.outputs_sha256 is not None:
        yield from _same([folder / OUTPUTS], record.outputs_sha256, record)


def _int8(record: GateRecord, folder: Path, named: Path | None) -> Iterator[Reason]:
    yield from _same(artifact.files(named or folder / INT8), record.int8.sha256, record)


def _fp32(record: GateRecord, folder: Path) -> Iterator[Reason]:
    yield from _same(artifact.files(folder / FP32), record.candidate.fp32_sha256, record)


def _same(files: Iterable[Path], sha256: str, record: GateRecord) -> Iterator[Reason]:
    """Why files are not those with that hash."""
    first, *others = files
    try:
        found = artifact.sha256_of(first, *others)
    except OSError as error:
        yield Reason(
            f"{first} cannot be read ({error.strerror}): fetch the whole folder of record "
            f"{record.id}"
        )
        return
    if found != sha256:
        yield Reason(
            f"{first} is not what record {record.id} vouches for: its sha256 is {found[:12]}…, and "
            f"that was {sha256[:12]}…. It was changed or replaced: fetch it again"
        )


def _signature(
    record: GateRecord, folder: Path, key: Path | None
) -> tuple[str | None, Check | None]:
    """The trusted key's name, and whether the record is signed by it."""
    try:
        found = signed(folder)
        if found is None and key is None:
            return None, None
        name = _demand_trusted(found, record, folder, key)
    except RecordError as error:
        return None, Check(SIGNED, (Reason(str(error)),))
    return name, Check(SIGNED, ())


def _demand_trusted(
    found: Envelope | None, record: GateRecord, folder: Path, key: Path | None
) -> str:
    """The key's name.

    Raises:
        RecordError: nobody who is trusted says what the record says.
        UsageError: there is no such key.
    """
    if found is None:
        raise RecordError(f"there is no {FILE} in {folder}: `gate sign` makes one")
    if key is None:
        raise RecordError(
            f"it is signed by the key {found.key[:16]}…, and nothing here says whose that is: name "
            "the public key that you trust with --key"
        )
    try:
        name = demand_signed(found, key)
    except RecordError as error:
        raise RecordError(f"{folder / FILE}: {error}") from error
    if changed := differences(found.statement, record):
        raise RecordError(
            f"{folder / FILE} is signed, and is not about this record: {few(changed, _NAMED)} "
            "differ. Fetch the record that was signed"
        )
    return name


# ── for people, and for scripts ───────────────────────────────────────────────────────────


def render(found: Verification, format_: str) -> str:
    """What was checked, and what stands against it."""
    if format_ == "json":
        told = asdict(found) | {"exit_code": found.exit_code}
        return json.dumps(told, indent=2, ensure_ascii=False) + "\n"
    return "\n".join(_lines(found)) + "\n"


def _lines(found: Verification) -> Iterator[str]:
    head = "NOT VERIFIED" if found.reasons else "VERIFIED"
    yield (
        f"{head}  {plain(found.model)}, record {plain(found.record)}: {found.verdict.upper()} at "
        f"stage {found.stage}"
    )
    for check in found.checks:
        yield f"  {'no' if check.reasons else 'ok':<4}{check.what}"
        yield from (f"        {plain(reason.text, _LONG)}" for reason in check.reasons)
    for what in found.skipped:
        yield f"  --  {what} not looked at (--skip {what})"
    if found.signed:
        yield f"  signed by key {found.signed[:16]}…"
    elif not found.reasons:
        yield "  not signed: these files go together, and nothing shows who made them (`gate sign`)"
