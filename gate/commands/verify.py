"""`gate verify`: whether a verdict can be proven, from what lies beside its record."""

import json
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gate import artifact, plugins
from gate.commands._promote_backing import Reason, differing
from gate.commands._promote_checks import Check, exit_code_of, reasons_of
from gate.commands._promote_policy import held_out_reasons, in_force
from gate.commands._replay_stored import FP32, INT8, OUTPUTS, ROWS
from gate.commands.judge import demand_untouched, rejudge
from gate.commands.report import load_record, record_file
from gate.commands.sign import signed
from gate.errors import GateError, RecordError, UsageError
from gate.records import GateRecord
from gate.signing import demand_signed
from gate.statement import FILE, Envelope, statement_of
from gate.wording import few

SKIPPED = ("data", "models", "policy")
"""What may be left out, where it is not at hand."""
SIGNED = "signed by the key that is trusted"
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
    attested: bool
    """Whether models ran elsewhere, so that none lies here."""
    signed: str | None
    """The key that signed it and is trusted, by its sha256; None without one."""

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """All that stands against it."""
        return reasons_of(self.checks)

    @property
    def exit_code(self) -> int:
        """0 where everything that was checked holds, whatever the verdict is."""
        return exit_code_of(self.checks)


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
        skip: of `SKIPPED`; without the policy nothing says where the data are.

    Raises:
        UsageError: there is no record, or no such key, or what is named is to be left out.
        RecordError: the record is damaged.
    """
    _demand_looked_at(skip, policy=policy, models=int8)
    left_out = {*skip, "data"} if "policy" in skip else {*skip}
    record, folder = load_record(path), record_file(path).parent
    checks = [
        Check(_what(record), tuple(_decided(record, folder))),
        Check(f"{OUTPUTS} as it was written", tuple(_outputs(record, folder))),
    ]
    if "models" not in left_out:
        checks += _models(record, folder, int8)
    if "policy" not in left_out:
        loaded, reasons = in_force(record, policy)
        checks.append(Check("policy as it was judged by", reasons))
        if "data" not in left_out:
            data = tuple(held_out_reasons(loaded, record, folder))
            checks.append(Check("held-out data as they were judged on", data))
    name, check = _signature(record, folder, key)
    return Verification(
        model=record.model,
        record=record.id,
        verdict=record.verdict.outcome,
        stage=record.stage,
        checks=(*checks, *([] if check is None else [check])),
        skipped=tuple(one for one in SKIPPED if one in left_out),
        attested=bool(record.attested),
        signed=name,
    )


def _demand_looked_at(skip: Collection[str], **named: object) -> None:
    """Raises UsageError where what is named would not be looked at."""
    for what, value in named.items():
        if value is not None and what in skip:
            flag = {"models": "int8"}.get(what, what)
            raise UsageError(f"--{flag} names what --skip {what} leaves out: drop one of them")


def signature_reasons(record: GateRecord, folder: Path, key: Path) -> Iterator[Reason]:
    """Why a record is not shown to be signed by this key.

    Raises:
        UsageError: there is no such key.
    """
    _, check = _signature(record, folder, key)
    if check is not None:
        yield from check.reasons


# ── each check ────────────────────────────────────────────────────────────────────────────


def _what(record: GateRecord) -> str:
    """What is decided again, and from what."""
    if record.policy.judge.stopping == "early":  # what was seen on the way is not kept
        return "the same verdict from its own numbers, and the rows that it ended with"
    return "the same verdict from the stored rows"


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
    if record.outputs_sha256 is None:
        yield Reason(f"record {record.id} does not tell their hash, as those of every run do")
    else:
        yield from _same([folder / OUTPUTS], record.outputs_sha256, record)


def _models(record: GateRecord, folder: Path, named: Path | None) -> Iterator[Check]:
    """Of models that ran elsewhere, the one that is named alone."""
    if named is not None or not record.attested:
        files = artifact.files(named or folder / INT8)
        reasons = tuple(_same(files, record.int8.sha256, record))
        yield Check("INT8 artifact as it was judged", reasons)
    if not record.attested:
        files = artifact.files(folder / FP32)
        reasons = tuple(_same(files, record.candidate.fp32_sha256, record))
        yield Check("FP32 model as it was judged", reasons)


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
    expected = statement_of(record)
    if found.statement != expected:
        raise RecordError(
            f"{folder / FILE} is signed, and is not about this record: "
            f"{_parted(expected, found.statement)} differ. Fetch the record that was signed"
        )
    return name


def _parted(expected: bytes, said: bytes) -> str:
    """What a statement says otherwise, as far as it can be named: its bytes are what counts."""
    try:
        names = [name for name in differing(json.loads(expected), json.loads(said)) if name]
    except (ValueError, RecursionError):
        names = []
    return few(names, _NAMED) if names else "its bytes"
