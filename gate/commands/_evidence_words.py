"""What an auditor's archive says in words: how to reproduce a verdict, and by which policy."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from gate.policy import Policy
from gate.recipes import spelled
from gate.records import GateRecord
from gate.registered import registered_name
from gate.wording import plain

_LONG = 1000
_NOT_INSTALLED = ("python", "gate")
_HEAD = """\
# How to reproduce record {id}

{model}, stage {stage}: **{outcome}**, made {created}.

## Is this archive whole?

```console
$ sha256sum -c SHA256SUMS
```

`record.json` vouches for the rest: it holds the sha256 of `rows.npz` (`rows_sha256`), of
`outputs.npz` (`outputs_sha256`) where that is here, of the policy, of the held-out data and of both
models. The reports are rendered from it.

## The same software

Python {python}, {cpu}.

```console
{install}
```

## The same verdict, from the stored rows

No model and no data are needed: the tests are computed again from `rows.npz`.

```console
$ gate judge .{plugin}
```

It exits with 4 where the numbers in `record.json` are not what the rows give.

## The same run, from the model and the data

The policy's paths are relative to its folder, which was `{base}`: put `policy/resolved.yaml` there.
Run this where the gate ran, as the folder itself may be relative to that. {git}

```console
{run}
```

| what | sha256 |
|---|---|
{hashes}

## The INT8 model

It is not in this archive. {where}

```console
$ {digest}
{int8}
```

External data, in `model.int8.onnx.data`, count after the model, as the command reads them.
"""


def how_to_reproduce(record: GateRecord, registered: str | None) -> str:
    """Commands, versions and hashes, in Markdown; `registered` is the version's URI."""
    used = record.provenance
    name = registered_name(record.model)
    where = (
        f"It is registered as `{registered}`." if registered else f"No version of {name} names it."
    )
    plugins = "".join(f" --plugin {shlex.quote(file)}" for file in used.plugins)
    return _HEAD.format(
        id=plain(record.id),
        model=plain(record.model),
        stage=record.stage,
        outcome=record.verdict.outcome.upper(),
        created=record.created.isoformat(timespec="seconds"),
        python=used.versions.get("python", "of unknown version"),
        cpu=_cpu(used.cpu),
        install=_install(used.versions),
        plugin=plugins,
        base=plain(_base(record), _LONG),
        git=f"The sources were at commit `{used.git}`." if used.git else "They lay in no git.",
        run=_run(record, plugins),
        hashes="\n".join(f"| {what} | `{digest}` |" for what, digest in _hashes(record).items()),
        where=where,
        digest="cat model.int8.onnx $(ls model.int8.onnx.data 2>/dev/null) | sha256sum",
        int8=record.int8.sha256,
    )


def _cpu(cpu: Mapping[str, Any]) -> str:
    features = ", ".join(map(str, cpu.get("features") or ())) or "no INT8 features"
    model, architecture = cpu.get("model") or "unknown", cpu.get("architecture") or "?"
    return f"on a CPU {model} ({architecture}, {features})"


def _install(versions: Mapping[str, str]) -> str:
    own = f"int8-gate=={versions.get('gate', '?')}"
    libraries = [f"{name}=={v}" for name, v in versions.items() if name not in _NOT_INSTALLED]
    return f"$ pip install {shlex.join([own, *libraries])}"


def _base(record: GateRecord) -> Path:
    told = record.policy_source
    return Path(told.base or Path(told.file).parent)


def _run(record: GateRecord, plugins: str) -> str:
    parts = ["gate", "run", str(_base(record) / "resolved.yaml"), *_subject(record)]
    if record.reference is not None:
        parts += ["--reference", record.reference.source]
    if record.int8.source is not None:
        parts += ["--int8", record.int8.source]
    parts += ["--stage", record.stage, "--threads", str(record.provenance.threads)]
    if record.bootstrap:
        parts.append("--bootstrap")
    return f"$ {shlex.join(parts)}{plugins}"


def _subject(record: GateRecord) -> Iterator[str]:
    """What was judged: a candidate, or outputs of models that ran elsewhere."""
    if record.attested:
        for side, told in zip(("fp32", "int8"), record.attested, strict=True):
            yield from (f"--{side}-outputs", told.source)
        return
    yield from ("--candidate", record.candidate.source)
    if record.candidate.source.endswith(".pt2"):
        yield "--trust"


def _hashes(record: GateRecord) -> dict[str, str]:
    splits = record.splits
    told = {
        "candidate, as it came": record.candidate.sha256,
        "FP32, normalised": record.candidate.fp32_sha256,
        "INT8": record.int8.sha256,
        f"held-out data ({splits.held_out.source}), content": splits.held_out.sha256,
        "preprocessing": record.preprocessing_sha256,
        "policy, resolved": record.provenance.policy_sha256,
    }
    for name, split in (("calibration", splits.calibration), ("tuning", splits.tuning)):
        if split is not None:
            told[f"{name} data ({split.source}), content"] = split.sha256
    for release in record.releases:
        told[f"{release.against}, {release.name} version {release.version}"] = release.int8_sha256
    return told | {f"plugin {file}": sha for file, sha in record.provenance.plugins.items()}


def resolved_yaml(policy: Policy) -> str:
    """A resolved policy as a person would write it: `gate` reads it, to the same digest."""
    told = policy.model_dump(mode="json", by_alias=True, exclude_none=True)
    told["build"]["recipe"] = spelled(policy.build.recipe)
    expected = told["judge"]["expect_fp32"]
    if isinstance(expected, dict):
        told["judge"]["expect_fp32"] = {**expected.pop("metrics"), **expected}
    return yaml.safe_dump(told, sort_keys=False, allow_unicode=True)
