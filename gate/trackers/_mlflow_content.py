"""What a record becomes in MLflow: legal names, params, metrics, tags, the files to send. Pure."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from gate.policy import Budget
from gate.recipes import Recipe
from gate.records import Comparison, Finding, GateRecord, SplitInfo

LONGEST_KEY = 250
LONGEST_TAG = 8000
LONGEST_PARAM = 6000
LONGEST_DATASET = 500
LONGEST_DIGEST = 36
PREFIX = "gate."
BUDGET = "budget/"
NOTE = "mlflow.note.content"
RECORD = "record.json"
VERDICT = "report.md"
MODEL = "model.int8.onnx"
_STAYS = ("outputs.npz",)

_ILLEGAL = re.compile(r"[^\w\-. ]")
_ESCAPE = re.compile(r"::(10[0-9a-f]{4}|[0-9a-f]{1,5}):|:")


# ── names ─────────────────────────────────────────────────────────────────────────────────


def encode(*parts: str) -> str:
    """`("accuracy.max_drop", "site=north", "drop")` as a key: `accuracy.max_drop/site:north/drop`.

    A key may hold letters, digits and `_-. :/`. The first of several `=` becomes `:`; any other
    character that is not allowed, and `:` and `/` inside a part, become `::<code in hex>:`.
    Where that is too long the middle is cut and a hash of the whole put in its place.
    """
    texts = [_ILLEGAL.sub(_escaped, part) for part in parts]
    key = "/".join(texts)
    if len(key) <= LONGEST_KEY:
        return key
    tail = f"-{hashlib.sha256(key.encode()).hexdigest()[:16]}/{texts[-1]}"
    return "/".join(texts[:-1])[: LONGEST_KEY - len(tail)].rstrip("/") + tail


def decode(key: str) -> str:
    """The parts that `encode` made a key of, with `/` between them."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)) if match[1] else "=", key)


def _escaped(match: re.Match[str]) -> str:
    second = match.string[: match.start()].endswith("=")
    return ":" if match[0] == "=" and not second else f"::{ord(match[0]):x}:"


_ELSEWHERE = "made elsewhere"


def shortened(text: str, limit: int) -> str:
    """`text`, cut where MLflow demands it, with a mark that says so."""
    mark = " … (cut)"
    return text if len(text) <= limit else text[: limit - len(mark)] + mark


# ── params and metrics ────────────────────────────────────────────────────────────────────


def _recipe(recipe: Recipe | None) -> dict[str, object]:
    if recipe is None:
        return {"recipe": _ELSEWHERE}
    return {
        "recipe": recipe.name,
        "scheme": recipe.scheme,
        "target": recipe.target or "none",
        "weight_type": recipe.weight_type,
        "activation_type": recipe.activation_type,
        "per_channel": recipe.per_channel,
        "reduce_range": recipe.reduce_range,
        "calibration_method": recipe.calibration or "none",
        "exclude_op_types": ", ".join(recipe.exclude_op_types) or "none",
        "exclude_nodes": ", ".join(recipe.exclude_nodes) or "none",
    }


def params(record: GateRecord) -> dict[str, str]:
    """How the run was made and judged, each budget's limit included."""
    policy, used = record.policy, record.provenance
    values: dict[str, object] = {
        "stage": record.stage,
        "task": policy.task,
        **_recipe(record.int8.recipe),
        "batch_size": used.batch_size,
        "seed": used.seed,
        "threads": used.threads,
        "confidence": policy.judge.confidence,
        "mode": policy.judge.mode,
        "on_inconclusive": policy.judge.on_inconclusive,
        "opset": record.candidate.opset,
    }
    values |= {encode("budget", budget.id): budget.limit for budget in policy.judge.budgets}
    return {key: shortened(str(value), LONGEST_PARAM) for key, value in values.items()}


def metrics(record: GateRecord) -> dict[str, float]:
    """Every number of the verdict by legal key: per metric, per budget and slice, seconds."""
    found: dict[str, float] = {}
    for comparison in record.comparisons:
        name = _name(comparison.metric, comparison.against)
        bounds = comparison.quantity == "drop"
        found |= _values(name, comparison.slice, comparison, bounds=bounds)
    for finding in record.verdict.findings:
        if finding.comparison is not None:
            name = _budget_name(record, finding)
            found |= _values(name, finding.slice, finding.comparison, bounds=True)
    found |= {encode("seconds", step): value for step, value in record.durations.items()}
    return found


def _values(
    name: str, slice_: str | None, comparison: Comparison, *, bounds: bool
) -> dict[str, float]:
    values = {comparison.against: comparison.reference, "int8": comparison.int8}
    if bounds:
        values |= {"drop": comparison.degradation}
        values |= {"lower": comparison.lower, "upper": comparison.upper}
    where = (name,) if slice_ is None else (name, slice_)
    return {encode(*where, key): value for key, value in values.items() if value is not None}


def _name(metric: str, against: str) -> str:
    return metric if against == "fp32" else f"{metric}@{against}"


def _budget_name(record: GateRecord, finding: Finding) -> str:
    """`accuracy.max_drop`: the budget's id without what the slice says already."""
    budget = _budgets(record).get(finding.budget)
    if budget is None:
        return finding.budget
    return _name(f"{budget.metric}.{budget.threshold}", budget.against)


def _budgets(record: GateRecord) -> dict[str, Budget]:
    return {budget.id: budget for budget in record.policy.judge.budgets}


# ── tags ──────────────────────────────────────────────────────────────────────────────────


def opening_tags(record: GateRecord) -> dict[str, str]:
    """What a run is called and is about, known before anything else is logged."""
    commit = (record.provenance.git or "").removesuffix("-dirty")
    tags = {
        "mlflow.source.name": "gate",
        "mlflow.source.type": "JOB",
        f"{PREFIX}record": record.id,
        f"{PREFIX}model": record.model,
        f"{PREFIX}stage": record.stage,
        f"{PREFIX}candidate": record.candidate.sha256,
        f"{PREFIX}complete": "false",
    }
    if record.ledger == "tracker":
        tags[f"{PREFIX}population"] = str(record.splits.held_out.population)
        tags[f"{PREFIX}attempt_key"] = str(record.attempt_key)
        tags[f"{PREFIX}demands"] = record.policy.demands
    return tags | ({"mlflow.source.git.commit": commit} if commit else {})


def tags(record: GateRecord) -> dict[str, str]:
    """Hashes, versions, and what a history shows; all but the outcome."""
    used, splits = record.provenance, record.splits
    values: dict[str, str | None] = {
        "source": record.candidate.source,
        "fp32_sha256": record.candidate.fp32_sha256,
        "int8_sha256": record.int8.sha256,
        "held_out": splits.held_out.sha256,
        "calibration": splits.calibration.sha256 if splits.calibration else None,
        "preprocessing": record.preprocessing_sha256,
        "policy": used.policy_sha256,
        "rows": record.rows_sha256,
        "recipe": record.int8.recipe.name if record.int8.recipe else _ELSEWHERE,
        "git": used.git,
        "cpu": " ".join(_cpu(record)),
        "onnxruntime": used.versions.get("onnxruntime"),
        "gate": used.versions.get("gate"),
        "mode": record.policy.judge.mode,
        "decision": record.policy.judge.decision,
        "ledger": record.ledger,
        "bootstrap": "true" if record.bootstrap else None,
        "attested": record.attested[-1].runtime if record.attested else None,
        "stopped": record.stopped,
        "attempt": None if record.attempt is None else str(record.attempt),
        "schema_version": str(record.schema_version),
        "blocked": ", ".join(_blocked(record)) or None,
        **_primary_tags(record),
    }
    values |= {release.against: release.uri for release in record.releases}
    return {
        f"{PREFIX}{key}": shortened(value, LONGEST_TAG)
        for key, value in values.items()
        if value is not None
    }


def error_tags(model: str, *, stage: str, source: str, error: str) -> dict[str, str]:
    """Of a run that could not judge."""
    text = shortened(error, LONGEST_TAG)
    return {
        "mlflow.source.name": "gate",
        "mlflow.source.type": "JOB",
        f"{PREFIX}model": model,
        f"{PREFIX}stage": stage,
        f"{PREFIX}source": shortened(source, LONGEST_TAG),
        f"{PREFIX}error": text,
        f"{PREFIX}complete": "false",
        NOTE: shortened(f"**error**: {error}", LONGEST_TAG),
    }


def version_tags(record: GateRecord) -> dict[str, str]:
    """What a registered INT8 version says of where it comes from; its outcome follows last."""
    wanted = ("source", "fp32_sha256", "int8_sha256", "held_out", "policy", "rows", "recipe", "git")
    known = tags(record) | opening_tags(record)
    keys = [f"{PREFIX}{key}" for key in ("record", "model", "stage", "candidate", *wanted)]
    return {key: known[key] for key in keys if key in known}


def _cpu(record: GateRecord) -> Iterator[str]:
    cpu = record.provenance.cpu
    yield str(cpu.get("model") or "unknown")
    yield str(cpu.get("architecture") or "")
    yield from map(str, cpu.get("features") or ())


def _blocked(record: GateRecord) -> Iterator[str]:
    for finding in record.verdict.findings:
        if finding.blocking:
            yield f"{finding.budget}{f' at {finding.slice}' if finding.slice else ''}"


def _primary_tags(record: GateRecord) -> dict[str, str]:
    """The metric that stands for the run in a history, and what its interval bounds."""
    finding = _primary(record)
    if finding is None or finding.comparison is None:
        return {}
    where = f"/{finding.slice}" if finding.slice else ""
    return {
        "metric": f"{_budget_name(record, finding)}{where}",
        "quantity": finding.comparison.quantity,
        **_better(finding.comparison),
    }


def _better(found: Comparison) -> dict[str, str]:
    """Whether the metric is better high or low, as far as its values tell."""
    before, after, worse = found.reference, found.int8, found.degradation
    if before is None or after is None or worse is None or found.quantity == "ratio":
        return {}
    if before == after or worse == 0:
        return {}
    return {"better": "high" if (before > after) == (worse > 0) else "low"}


def _primary(record: GateRecord) -> Finding | None:
    """The first budget's finding, preferring those that are not one of many slices."""
    compared = [finding for finding in record.verdict.findings if finding.comparison]
    known = _budgets(record)
    whole = [f for f in compared if f.budget in known and known[f.budget].each is None]
    return next(iter(whole or compared), None)


# ── data sets ─────────────────────────────────────────────────────────────────────────────


def datasets(record: GateRecord) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Each split's role, its whole sha256, and the fields of MLflow's `Dataset`."""
    for role in ("held_out", "calibration", "tuning"):
        split: SplitInfo | None = getattr(record.splits, role)
        if split is not None:
            yield role, split.sha256, _dataset(split)


def _dataset(split: SplitInfo) -> dict[str, str]:
    counts = {"examples": split.examples, "duplicates": split.duplicates, "units": split.units}
    name = split.source.rstrip("/").rpartition("/")[2] or split.source
    return {
        "name": name[-LONGEST_DATASET:],
        "digest": split.sha256[:LONGEST_DIGEST],
        "source_type": "local",
        "source": json.dumps({"uri": split.source}),
        "profile": json.dumps({key: n for key, n in counts.items() if n is not None}),
    }


# ── files ─────────────────────────────────────────────────────────────────────────────────


def evidence(folder: Path) -> list[Path]:
    """Files beside the record that are kept with it: rows and reports, no models, no outputs."""
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name not in _STAYS and not path.name.startswith((".", "model."))
    ]


def model_files(folder: Path) -> list[Path]:
    """The INT8 model, followed by its external data files."""
    return sorted(folder.glob(f"{MODEL}*"))
