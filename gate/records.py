"""What a run came to: comparisons, findings, and `GateRecord`, the one document."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from gate.diagnosis import Diagnosis
from gate.exhibits import Flips, PastPoint, Plot, Waiver
from gate.policy import Budget, JudgedFrom, Policy
from gate.recipes import Recipe
from gate.registered import ReleaseInfo
from gate.values import Candidate, FloatWeights, Int8Model, Island, Saturation, Value

Outcome = Literal["pass", "fail", "inconclusive", "waived"]
Stage = Literal["pr", "release"]
SCHEMA_VERSION = 1
Count = Annotated[int, Field(ge=0, lt=2**53)]  # canonical JSON writes no larger number
Probability = Annotated[float, Field(ge=0, le=1)]


class Counts(Value):
    """A 2 × 2 table of paired outcomes, FP32 by INT8."""

    both_right: Count
    lost: Count
    """FP32 right, INT8 wrong."""
    gained: Count
    """FP32 wrong, INT8 right."""
    both_wrong: Count

    @property
    def n(self) -> int:
        """All pairs."""
        return self.both_right + self.lost + self.gained + self.both_wrong


class Comparison(Value):
    """One metric, on one slice, INT8 held against a reference."""

    metric: str
    slice: str | None = None
    """`column=value`, or None for the whole set."""
    against: str = "fp32"
    n: Count
    """Examples."""
    reference: float | None
    """The reference's value; None where it is undefined."""
    int8: float | None
    """The INT8 model's value; None where it is undefined."""
    degradation: float | None
    """How much worse INT8 is, in `quantity`: positive is worse, always."""
    quantity: Literal["drop", "relative_drop", "value", "ratio"] = "drop"
    """What `lower` and `upper` bound: the drop, the relative drop, INT8's own value, INT8/FP32."""
    lower: float | None = None
    """Lower end of the two-sided interval at confidence 1 − 2α, for reading."""
    upper: float | None = None
    """Upper end, for reading."""
    p_pass: Probability | None = None
    """One-sided p-value against "the budget is violated"; None without a budget."""
    p_fail: Probability | None = None
    """One-sided p-value against "within the budget"; None without a budget."""
    method: str
    """How interval and p-values were made; `exact number` where there is no sampling error,
    `undefined` where the metric has no value."""
    counts: Counts | None = None
    """The paired table, for proportions."""
    note: str | None = None
    """Why it is undefined, or what to know when reading it: `asymptotic`, `worst case: …`."""
    changed: Count | None = None
    """Independent units whose output INT8 changed, where the worst case rests on them."""
    units: Count | None = None
    """All independent units, where `changed` counts some of them."""


class Finding(Value):
    """What one budget came to on one slice."""

    budget: str
    """The budget's id."""
    slice: str | None = None
    """`column=value`, or None for the whole set."""
    comparison: Comparison | None
    """None where there was nothing to compare: the reason says why."""
    outcome: Outcome
    reason: str
    """One sentence."""
    blocking: bool
    """Whether this finding keeps the verdict from being a pass."""
    examples_needed: Count | None = None
    """Examples at which this budget would be decided with 80 % power, where that is known."""
    provable: float | None = None
    """The strictest limit that these examples could have proven, where they did not suffice."""

    @model_validator(mode="before")
    @classmethod
    def _without_code(cls, value: Any) -> Any:
        """record.json tells it to readers; it follows from the rest (`gate.story`)."""
        return {k: v for k, v in value.items() if k != "code"} if type(value) is dict else value


@dataclass(frozen=True, slots=True)
class Measured:
    """A budget, on one slice, with what was measured for it: what `decide` decides on."""

    budget: Budget
    slice: str | None
    comparison: Comparison | None
    """None where there was nothing to compare."""
    reason: str | None = None
    """Why there was nothing to compare."""
    excused: bool = False
    """Whether that is as it should be: a first release has none before it to be held against."""


class Verdict(Value):
    """What all budgets came to."""

    outcome: Outcome
    findings: tuple[Finding, ...]


class TensorInfo(Value):
    """A model's input or output."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


class CandidateInfo(Value):
    """The candidate, as it was judged."""

    source: str
    sha256: str
    fp32_sha256: str
    bytes: Count
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    opset: int
    steps: tuple[str, ...]

    @classmethod
    def of(cls, candidate: Candidate) -> Self:
        """What a record tells of a candidate."""
        told = {name: getattr(candidate, name) for name in cls.model_fields}
        for side in ("inputs", "outputs"):
            told[side] = tuple(TensorInfo(**asdict(spec)) for spec in told[side])
        return cls(**told)


class Rounds(Value):
    """A timed metric of both models, one value a round."""

    reference: tuple[float, ...]
    int8: tuple[float, ...]


class Cost(Value):
    """What two steps cost in one metric: from the reference to the candidate, and to INT8."""

    metric: str
    candidate: Comparison
    """The candidate's FP32 (as `int8`) held against the reference: what pruning cost."""
    quantization: Comparison
    """INT8 held against the candidate's FP32."""


class Attestation(Value):
    """A model that ran elsewhere, as whoever ran it describes it: nothing of it was seen."""

    source: str
    """The file of outputs, as the user named it."""
    outputs_sha256: str
    """Of that file."""
    artifact_sha256: str
    runtime: str
    device: str


class ProcessInfo(Value):
    """What running both models in a quiet process showed, as far as budgets asked for it."""

    rounds: dict[str, Rounds] = Field(default_factory=dict)
    """By timed metric: milliseconds an inference, examples a second."""
    peak_memory: tuple[int, int] | None = None
    """Bytes: FP32's and INT8's."""

    @property
    def numbers(self) -> dict[str, tuple[float | None, float]]:
        """What has one value a model, by metric."""
        if self.peak_memory is None:
            return {}
        return {"peak_memory": (float(self.peak_memory[0]), float(self.peak_memory[1]))}

    @property
    def measured(self) -> set[str]:
        """Names of the metrics that were measured."""
        return {*self.rounds, *self.numbers}


class Int8Info(Value):
    """The INT8 artifact, as it was judged."""

    sha256: str
    bytes: Count
    recipe: Recipe | None
    """What made it; None where it was made elsewhere."""
    quantized_nodes: tuple[str, ...]
    skipped_nodes: tuple[str, ...]
    int8_share: float
    kernels: dict[str, int]
    source: str | None = None
    """As the user named it, where it was made elsewhere."""
    islands: tuple[Island, ...] = ()
    """What stays in floating point, and why; most work first."""
    float_weights: FloatWeights | None = None
    """What keeps the artifact large; None where it has none."""
    saturating: tuple[Saturation, ...] | None = None
    """Layers that overflow on x86 without VNNI, the worst first; None: nothing tells."""

    @property
    def origin(self) -> str:
        """What tells it from another INT8 model of the same candidate, in one canonical text."""
        return f"int8:{self.sha256}" if self.recipe is None else self.recipe.model_dump_json()

    @classmethod
    def of(cls, model: Int8Model) -> Self:
        """What a record tells of an INT8 model."""
        return cls(**{name: getattr(model, name) for name in cls.model_fields})


class SplitInfo(Value):
    """A split, as it was used."""

    source: str
    sha256: str
    examples: Count
    duplicates: Count
    """Examples whose inputs equal an earlier one's."""
    units: Count | None = None
    """Independent units, where the data name them."""
    population: str | None = None
    """Hash of inputs and targets of all examples that there were before `limit`."""
    truncated: Count = 0
    """Texts with more tokens than `max_length`, of which the model saw the first."""
    missing: Count = 0
    """Images that do not decode and were left out, as many as the policy allows."""


class Splits(Value):
    """The splits of a run."""

    held_out: SplitInfo
    calibration: SplitInfo | None = None
    tuning: SplitInfo | None = None


class Part(Value):
    """A table that a task adds to the report."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    """What is worth most first."""


class PolicySource(Value):
    """Where the policy was written, so that a report can point at a line."""

    file: str
    lines: dict[str, int]
    """Budget id to the line it begins on."""
    base: str = ""
    """The folder that the policy's paths are relative to; empty where that is the file's own."""
    policy: str = ""
    """The policy's own file, where its budgets stand in one that it extends."""


class Baseline(Value):
    """FP32 held against what training reported."""

    metric: str
    expected: float
    measured: float
    within: float


class Provenance(Value):
    """What else the verdict depends on."""

    git: str | None
    """Commit of the working folder, `-dirty` where it was changed; None outside git."""
    versions: dict[str, str]
    cpu: dict[str, Any]
    """Model name, architecture, and the features INT8 kernels use."""
    seed: int
    policy_sha256: str
    threads: int
    batch_size: int
    plugins: dict[str, str] = Field(default_factory=dict)
    """sha256 by file name of the plugins that the command line named."""


class PreviousRelease(Value):
    """The last PASS of the same model, and what is different now."""

    when: datetime
    run: str
    """The tracker's id."""
    changes: tuple[str, ...]
    """One phrase each: weights, recipe, data, policy, onnxruntime, CPU, FP32 moved, INT8 moved."""


class GateRecord(Value):
    """Everything about one run of the gate: the only document that later steps read."""

    schema_version: Literal[1] = 1
    id: str
    """Unique, sortable: UTC time and the candidate's hash."""
    created: datetime
    model: str
    stage: Stage
    policy: Policy
    """Resolved: `extends` merged, recipe and defaults filled in."""
    policy_source: PolicySource
    judged_from: JudgedFrom | None = None
    """Where `judge` is from, where it was held to another revision."""
    candidate: CandidateInfo
    int8: Int8Info
    splits: Splits
    preprocessing_sha256: str
    reference: CandidateInfo | None = None
    """The FP32 model that INT8 was held against; None: the candidate's own."""
    attested: tuple[Attestation, ...] = ()
    """FP32's and INT8's, where models ran elsewhere and only their outputs were judged."""
    releases: tuple[ReleaseInfo, ...] = ()
    """Those that budgets `against: production` and `against: anchor` are about."""
    bootstrap: bool = False
    """Whether it is a first release: what is against an earlier one is listed, and not judged."""
    costs: tuple[Cost, ...] = ()
    """Where there is a reference: what the candidate itself and what quantization lost."""
    baseline: tuple[Baseline, ...]
    """Empty where the policy says `expect_fp32: unknown`."""
    comparisons: tuple[Comparison, ...]
    """Every budget's, then every other metric of the task."""
    parts: tuple[Part, ...] = ()
    """What the task tells besides, for reading."""
    flips: Flips | None = None
    """Examples whose answer INT8 changed, for reading; None where the task cannot tell."""
    plots: tuple[Plot, ...] = ()
    """Curves, for reading."""
    past: tuple[PastPoint, ...] = ()
    """The runs of this model before this one, oldest first, the last of them; for reading."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)]
    """One-sided error allowed of each PASS; a FAIL is allowed the policy's."""
    attempt_key: str | None = None
    """What tells this attempt from others; None without a ledger."""
    attempt: Annotated[int, Field(ge=1, lt=2**53)] | None = None
    """Attempt on this held-out set since the last PASS; None without a ledger."""
    consulted: Count | None = None
    """Other candidates judged on this held-out set since the last release that passed; None where
    nothing remembers."""
    ledger: Literal["none", "tracker"] = "none"
    """What counts attempts: a record without a ledger cannot be promoted."""
    waivers: tuple[Waiver, ...] = ()
    """Those of this model that held when it was judged, used or not."""
    verdict: Verdict
    previous: PreviousRelease | None = None
    provenance: Provenance
    diagnosis: Diagnosis | None = None
    """Why, where the verdict is a fail."""
    process: ProcessInfo = ProcessInfo()
    """Latency and memory, so that other budgets can be judged on them."""
    durations: dict[str, float]
    """Seconds by step."""
    examples_evaluated: Count
    examples_total: Count
    stopped: str | None = None
    """Why evaluation ended before every example was seen; None where it did not. Such rows were
    selected by their outcome, and are not compared with again."""
    outputs_sha256: str | None = None
    """Of outputs.npz beside the record; None in records that did not tell."""
    rows_sha256: str
    """Of rows.npz beside the record."""

    def lacks(self, against: str) -> bool:
        """Whether it is a first release, which has none before it to be held against."""
        held = {"fp32", *(release.against for release in self.releases)}
        return self.bootstrap and against not in held

    @property
    def exit_code(self) -> int:
        """What the command line exits with: 0 pass or waived, 1 exceeded, 3 inconclusive."""
        if self.policy.judge.mode == "observe" or self.verdict.outcome in ("pass", "waived"):
            return 0
        if self.verdict.outcome == "inconclusive":
            return 0 if self.policy.judge.on_inconclusive == "warn" else 3
        return 1
