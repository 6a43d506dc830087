"""What a verdict rests on, as short lines: models, data, proof of INT8, machine, warnings."""

from collections.abc import Iterator, Sequence

from gate import wording
from gate.policy import JudgedFrom
from gate.recipes import RECIPES, Recipe
from gate.records import Baseline, Comparison, Cost, GateRecord, Int8Info, SplitInfo
from gate.statistics import ledger
from gate.values import Saturation
from gate.wording import plain

_LARGE = 0.4
"""Times FP32's size: an artifact above it is asked why."""
_NAMES = 4
_KERNELS = 8
_COSTS = 3
_STEPS = 5
_SENTENCE = 400
_BUILD_CHANGES = 8


def notices(record: GateRecord) -> tuple[str, ...]:
    """What a reader must not overlook, whatever the verdict."""
    held = () if record.judged_from is None else held_to(record.judged_from)
    return (*held, *_notices(record))


def codes(record: GateRecord) -> tuple[str, ...]:
    """What else to know of a verdict, as `gate explain` knows it; sorted."""
    judge, outcome = record.policy.judge, record.verdict.outcome
    known = {
        "G300": record.stopped is not None,
        "G301": judge.decision == "point",
        "G302": judge.mode == "observe",
        "G303": outcome == "inconclusive" and judge.on_inconclusive == "warn",
        "G304": judge.expect_fp32 == "unknown",
        "G305": record.bootstrap,
        "G306": (record.attempt or 0) > 1,
        "G307": record.stage == "pr" and bool(record.consulted),
        "G308": record.stage == "release" and record.ledger == "none",
        "G309": record.judged_from is not None and bool(record.judged_from.looser),
        "G310": bool(record.attested),
    }
    return tuple(code for code, so in known.items() if so)


def _notices(record: GateRecord) -> Iterator[str]:
    judge = record.policy.judge
    yield from _unseen(record)
    if judge.expect_fp32 == "unknown":
        yield (
            "The FP32 baseline is not checked (expect_fp32: unknown): wrong preprocessing or "
            "labels would go unnoticed. Write what training reported into the policy."
        )
    if judge.mode == "observe":
        yield "Observed, not enforced (mode: observe): exit 0 whatever the verdict, never promoted."
    if record.verdict.outcome == "inconclusive" and judge.on_inconclusive == "warn":
        yield "Too little evidence only warns (on_inconclusive: warn): this cannot be promoted."
    waived = [one for one in record.verdict.findings if one.outcome == "waived"]
    for waiver in record.waivers:
        if not any(waiver.holds_for(one.budget, one.slice) for one in waived):
            continue
        where = f" on {plain(waiver.slice, 60)}" if waiver.slice else ""
        yield (
            f"WAIVED, not passed: {plain(waiver.budget)}{where}, by {plain(waiver.who, 60)} until "
            f"{waiver.expires}: {plain(waiver.reason, 200)}"
        )
    if judge.decision == "point":
        yield "Decided by point estimates (decision: point): chance alone can pass or fail it."
    if record.attempt is not None and record.attempt >= ledger.FRESH_AT:
        yield (
            f"This is attempt {record.attempt} on this held-out set since the last PASS: a PASS "
            f"now needs α = {record.alpha:.2g}. Seal a fresh held-out set."
        )
    if record.stage == "pr" and record.consulted:
        looks = record.consulted + 1
        chance = ledger.reuse_error(record.alpha, looks)
        yield (
            f"This held-out set has judged {wording.plural(looks, 'candidate')} since the last "
            f"release: the chance that any one passes falsely is at most {100 * chance:.0f} %, not "
            f"{100 * record.alpha:.2g} %. A release counts its attempts."
        )
    if record.stage == "release" and record.ledger == "none":
        yield "No ledger counted this attempt (ledger: none): this cannot be promoted."
    yield from _of_data(record.splits.held_out)


def held_to(told: JudgedFrom) -> Iterator[str]:
    """What a change's own policy says that did not count here, or that nobody could hold it to."""
    where = f"{plain(told.rev, 60)} ({wording.short(told.commit)})"
    if told.policy:
        yield f"Judged by `judge` of {plain(told.policy)} at {where}; `build` is the change's own."
    yield from (f"{plain(note, _SENTENCE)}." for note in told.notes)
    for change in told.looser:
        yield f"LOOSER in this change, and not in force here: {plain(change, _SENTENCE)}."
    for change in told.changes:
        yield f"In this change, and not in force here: {plain(change, _SENTENCE)}."
    if told.build_changes:
        changes = wording.listing((plain(one) for one in told.build_changes), _BUILD_CHANGES)
        yield f"This change builds otherwise than {plain(told.rev, 60)}: {changes}."


def _of_data(held_out: SplitInfo) -> Iterator[str]:
    if held_out.duplicates:
        duplicates = wording.plural(held_out.duplicates, "duplicate")
        yield f"The held-out set contains {duplicates}: it says less than its size suggests."
    if held_out.truncated:
        texts = wording.plural(held_out.truncated, "held-out text")
        yield f"Cut off at `max_length`: {texts}, of which the model saw only the beginning."
    if held_out.missing:
        missing = wording.plural(held_out.missing, "held-out image")
        yield f"Left out, as `may_miss` allows: {missing} that did not decode."


def _unseen(record: GateRecord) -> Iterator[str]:
    if record.attested:
        yield (
            "No model ran here: the verdict is about outputs that somebody attests. That INT8 did "
            "the work, its size and its speed were not seen."
        )


def facts(record: GateRecord) -> tuple[tuple[str, str], ...]:
    """What was compared and how, as label and text."""
    splits = record.splits
    lines = [
        *(_attested(record) or _models(record)),
        ("Held-out", _split(splits.held_out) + _seen_of(record)),
        *([("Calibration", _split(splits.calibration))] if splits.calibration else []),
        *(_seen(record) if not record.attested else ()),
        *_earlier(record),
        *_plugins(record),
        ("FP32 check", _baseline(record)),
        *([("Lost where", _lost(record.costs))] if record.costs else []),
        ("Judged", _judged(record)),
        ("Judged on" if record.attested else "Ran on", _machine(record)),
        *(() if record.attested else _saturation(record.int8)),
        ("Source", _source(record)),
    ]
    return tuple(lines)


def _models(record: GateRecord) -> Iterator[tuple[str, str]]:
    candidate, reference = record.candidate, record.reference
    steps = wording.listing(map(plain, candidate.steps), _STEPS)
    prepared = f"; first: {steps}" if steps else ""
    name = f"{plain(candidate.source)} (sha256 {wording.short(candidate.sha256)})"
    yield "Candidate", f"{name}{prepared}"
    if reference is not None:
        text = f"{plain(reference.source)} (sha256 {wording.short(reference.sha256)})"
        yield "Reference", f"{text}: what INT8 is held against as FP32"
    yield "Recipe", _recipe(record.int8)


_HOW = {
    "stored": "by the rows that its own run left on these examples",
    "stored, by content": "by the rows of those examples that its own held-out set still holds",
    "evaluated": "by running its model on these examples",
}


def _earlier(record: GateRecord) -> Iterator[tuple[str, str]]:
    """Releases of the past that INT8 was held against."""
    for one in record.releases:
        name = f"{plain(one.uri)} (INT8 {wording.short(one.int8_sha256)})"
        yield one.against.capitalize(), f"{name}, {_HOW[one.rows]}"
    if record.bootstrap:
        yield "Bootstrap", "a first release: what is against an earlier one is not judged"


def _plugins(record: GateRecord) -> Iterator[tuple[str, str]]:
    """Code of the user's own that the verdict rests on."""
    named = record.provenance.plugins.items()
    text = ", ".join(f"{plain(name)} (sha256 {wording.short(sha256)})" for name, sha256 in named)
    if text:
        yield "Plugins", text


def _seen(record: GateRecord) -> Iterator[tuple[str, str]]:
    """What this machine saw of the models themselves."""
    before, after = wording.size(record.candidate.bytes), wording.size(record.int8.bytes)
    yield "INT8 proof", _proof(record)
    yield "Size", f"{before} → {after}{_ratio(record)}"


def _attested(record: GateRecord) -> list[tuple[str, str]]:
    """Models that ran elsewhere, as whoever ran them describes them."""
    return [
        (
            side,
            f"ATTESTED, not seen: {plain(one.source)} (sha256 {wording.short(one.outputs_sha256)}),"
            f" outputs of model {wording.short(one.artifact_sha256)} by {plain(one.runtime, 60)} "
            f"on {plain(one.device, 60)}",
        )
        for side, one in zip(("FP32", "INT8"), record.attested, strict=False)
    ]


def _lost(costs: Sequence[Cost]) -> str:
    """Of the first metrics, what making the candidate cost and what quantizing it did."""
    return "; ".join(
        f"{wording.metric_name(cost.metric)}: candidate {_loss(cost.candidate)}, "
        f"quantization {_loss(cost.quantization)}"
        for cost in costs[:_COSTS]
    )


def _loss(comparison: Comparison) -> str:
    unit = wording.unit_of(comparison.metric, comparison)
    return wording.measured_text(comparison, "drop", unit)


def _recipe(int8: Int8Info) -> str:
    recipe = int8.recipe
    if recipe is None:
        name = plain(int8.source or "unnamed")
        return f"none: made elsewhere, {name} (sha256 {wording.short(int8.sha256)})"
    per = "per channel" if recipe.per_channel else "per tensor"
    text = f"{plain(recipe.name)}: {recipe.activation_type} activations, "
    text += f"{'7-bit ' if recipe.reduce_range else ''}{recipe.weight_type} weights {per}"
    if recipe.calibration:
        share = f" {recipe.percentile:g}" if recipe.calibration == "percentile" else ""
        text += f", {recipe.calibration}{share} ranges"
    if recipe.target:
        text += f", for {recipe.target}"
    text += "".join(f", {told}" for told in _refinements(recipe))
    preset = RECIPES.get(recipe.name)
    if preset is None or recipe.op_types != preset.op_types:
        text += f"; only {wording.listing(map(plain, recipe.op_types), _NAMES)}"
    excluded = [plain(name, 60) for name in (*recipe.exclude_op_types, *recipe.exclude_nodes)]
    return f"{text}; not {wording.listing(excluded, _NAMES)}" if excluded else text


def _refinements(recipe: Recipe) -> Iterator[str]:
    if recipe.smooth is not None:
        yield f"outliers smoothed by {recipe.smooth:g}"
    if recipe.equalize:
        yield "channels equalized"
    if recipe.correct_bias:
        yield "biases corrected"
    if recipe.float_outputs:
        yield f"results of {wording.listing(recipe.float_outputs, _NAMES)} in floating point"
    if recipe.overrides:
        yield f"other ranges for {wording.plural(len(recipe.overrides), 'tensor')}"


def _split(split: SplitInfo) -> str:
    text = f"{wording.plural(split.examples, 'example')} of {plain(split.source)}"
    text += f" (sha256 {wording.short(split.sha256)})"
    if split.units is not None:
        text += f", {wording.plural(split.units, 'independent unit')}"
    if split.duplicates:
        text += f", {wording.plural(split.duplicates, 'duplicate')}"
    if split.truncated:
        text += f", {wording.whole(split.truncated)} cut off at max_length"
    return f"{text}, {split.missing} left out that did not decode" if split.missing else text


def _seen_of(record: GateRecord) -> str:
    if record.examples_evaluated == record.examples_total:
        return ""
    seen, total = wording.whole(record.examples_evaluated), wording.whole(record.examples_total)
    why = f", as {record.stopped}" if record.stopped else ""
    return f"; stopped early after {seen} of {total}{why}"


def _proof(record: GateRecord) -> str:
    int8 = record.int8
    kernels = (f"{plain(op, 40)} ×{count}" for op, count in int8.kernels.items())
    text = f"{wording.decimal(int8.int8_share * 100, 1)} % of the multiply–accumulate work ran as "
    text += f"integers; kernels run: {wording.listing(kernels, _KERNELS)}"
    if not int8.skipped_nodes:
        return text
    islands = [
        f"{plain(one.node, 60)} ({wording.decimal(100 * one.share, 1)} %: {plain(one.reason)})"
        for one in int8.islands
    ]
    names = islands or [plain(node, 60) for node in int8.skipped_nodes]
    return f"{text}; still FP32: {wording.listing(names, _NAMES)}"


def _ratio(record: GateRecord) -> str:
    if not record.candidate.bytes:
        return ""
    ratio = record.int8.bytes / record.candidate.bytes
    return f", {wording.amount(ratio, 'ratio', 'bytes')}{_why_large(record.int8, ratio)}"


def _why_large(int8: Int8Info, ratio: float) -> str:
    """INT8 weights take a quarter; what else there is stayed in floating point."""
    floats = int8.float_weights
    if ratio <= _LARGE or floats is None or 2 * floats.bytes < int8.bytes:
        return ""
    names = wording.listing((plain(name, 60) for name in floats.largest), _NAMES)
    return f"; {wording.size(floats.bytes)} of it are weights that stay FP32: {names}"


def _baseline(record: GateRecord) -> str:
    if not record.baseline:
        return "NOT CHECKED (expect_fp32: unknown)"
    return "; ".join(_check(check, partly=record.stopped is not None) for check in record.baseline)


def _check(check: Baseline, *, partly: bool) -> str:
    unit = wording.unit_of(check.metric)
    measured, expected = (
        wording.amount(value, "value", unit) for value in (check.measured, check.expected)
    )
    within = wording.amount(check.within, "drop", unit, limit=True)
    near = abs(check.measured - check.expected) <= check.within
    # only a FAIL stops before FP32 is sure
    verdict = "as" if near else "so far not as" if partly else "NOT as"
    name = wording.metric_name(check.metric)
    return f"{name} {measured}, {verdict} training reported ({expected} ± {within})"


def _judged(record: GateRecord) -> str:
    confidence = wording.exact(record.policy.judge.confidence * 100, 0).rstrip(".")
    attempt = "" if record.attempt is None else f", attempt {record.attempt} on this held-out set"
    return f"at {confidence} % confidence a budget, α = {record.alpha:.3g}{attempt}"


def _machine(record: GateRecord) -> str:
    made = record.provenance
    cpu, versions = made.cpu, made.versions
    model = plain(cpu.get("model") or cpu.get("architecture") or "unknown CPU", 80)
    vnni = cpu.get("vnni")
    has = "with VNNI" if vnni is True else "without VNNI" if vnni is False else "VNNI unknown"
    return (
        f"onnxruntime {plain(versions.get('onnxruntime', 'unknown'), 40)}, {model} {has}, "
        f"{wording.plural(made.threads, 'thread')}, batch {made.batch_size}, seed {made.seed}"
    )


def _saturation(int8: Int8Info) -> Iterator[tuple[str, str]]:
    where = "x86, no VNNI"
    if int8.saturating is None:
        yield (
            where,
            (
                "not checked: nothing tells its activations; `gate replay --cpu haswell` runs "
                "it there"
            ),
        )
    elif int8.saturating:
        yield where, _overflow(int8.saturating)


def _overflow(found: Sequence[Saturation]) -> str:
    shares = (f"{plain(one.node, 60)} {100 * one.share:.1g} %" for one in found)
    layers = wording.plural(len(found), "layer")
    return (
        f"{layers} would overflow there (share of products: {wording.listing(shares, _NAMES)}); "
        "`target: x86` (7-bit weights) does not, nor does session.x64quantprecision=1"
    )


def _source(record: GateRecord) -> str:
    git = record.provenance.git
    commit = "no git" if git is None else f"git {plain(git[:12])}" + _dirty(git)
    policy = (
        f"{plain(record.policy_source.file)} ({wording.short(record.provenance.policy_sha256)})"
    )
    return f"{commit}, policy {policy}, record {plain(record.id)}"


def _dirty(git: str) -> str:
    return "-dirty" if git.endswith("-dirty") else ""
