"""What the verdict rests on, and the one command that judges it again."""

from collections.abc import Iterator

from gate import facts, wording
from gate.records import GateRecord
from gate.reporters._html_first import reproduce
from gate.reporters._html_tags import Html, code, folded, number, row, section, table, tag

_LABELS = ("What", "As judged")


def made(record: GateRecord) -> Html:
    """Models, data, machine, hashes, seconds by step."""
    rows = [row(label, text) for label, text in facts.facts(record)]
    return section(
        "made",
        "What it rests on, and how to judge it again",
        tag("p", "With the same files, versions and CPU, this gives the same verdict:"),
        code(reproduce(record)),
        table("What was compared, and how", _LABELS, rows, most=60_000),
        folded("Hashes, versions and seconds", *_details(record)),
    )


def _details(record: GateRecord) -> Iterator[Html]:
    hashes = [row(name, tag("code", digest)) for name, digest in _hashes(record)]
    yield table("sha256", ("Of", "sha256"), hashes, most=30_000)
    versions = [row(name, version) for name, version in record.provenance.versions.items()]
    yield table("Versions", ("Library", "Version"), versions, most=30_000)
    seconds = [
        row(step, number(f"{wording.decimal(value, 3)} s"))
        for step, value in record.durations.items()
    ]
    yield table("Seconds by step", ("Step", "Seconds"), seconds, most=30_000, numbers=("Seconds",))


def _hashes(record: GateRecord) -> Iterator[tuple[str, str]]:
    splits = record.splits
    yield "candidate", record.candidate.sha256
    yield "candidate's FP32, normalized", record.candidate.fp32_sha256
    if record.reference is not None:
        yield "reference", record.reference.sha256
    yield "INT8", record.int8.sha256
    for name in ("held_out", "calibration", "tuning"):
        split = getattr(splits, name)
        if split is not None:
            yield name.replace("_", "-"), split.sha256
    yield "preprocessing", record.preprocessing_sha256
    yield "policy", record.provenance.policy_sha256
    yield from ((f"plugin {name}", digest) for name, digest in record.provenance.plugins.items())
    yield "rows.npz", record.rows_sha256
    if record.outputs_sha256 is not None:
        yield "outputs.npz", record.outputs_sha256
