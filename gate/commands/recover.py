"""`gate recover`: the artifact with the most integer work that meets the budgets.

Recipes are tried on tuning data, which the held-out set has no part in; the best one then meets
the held-out set once, through the ordinary gate. Every trial is kept as it ends, so that what was
interrupted goes on where it was.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from gate import backends, data, decoding, engines, plugins, publish, trackers
from gate.commands._recover_plot import plot
from gate.drafts import Drafts
from gate.engines import SHARD_TIMEOUT_S, Crew
from gate.errors import QuantizationError, UsageError
from gate.evaluate import first_outputs, opening
from gate.given import named_candidate
from gate.jobs import outputs_of
from gate.judgeable import unsupported
from gate.pipeline import BACKEND, Finished, run_gate
from gate.policy_file import LoadedPolicy, digest, load_policy
from gate.preflight import preflight
from gate.progress import Progress, Silent
from gate.provenance import cpu
from gate.recipes import Recipe
from gate.records import Stage
from gate.release import releases
from gate.run import By, Run
from gate.search import search
from gate.subject import Given, bring_fp32, prove_same
from gate.tasks import BoundTask
from gate.trackers import Tracker
from gate.trials import PLOT, Journal, Trial, question_digest
from gate.tuning import Tuning
from gate.values import Array, Candidate, Ragged, Split, Values, joined

TRIALS = 40
_CARVED = 0.5
"""Share of the calibration data that trials are judged on, where there are no tuning data."""
_FEW = 2
"""Examples that show which kernels execute."""
_THRESHOLD = 0.5
"""Score above which a binary classifier says yes."""
_CALIBRATED = 256
"""Calibration examples of a trial, at the most; the winner is calibrated on all of them."""
_SCORES = 2
"""Axes of scores by class."""
_SMALLEST = 30
"""Tuning examples below which trials tell nothing."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """What came of it."""

    model: str
    trials: tuple[Trial, ...]
    winner: Trial | None
    """With the most integer work among those that met the budgets on tuning data."""
    ended: str | None
    """Why the search ended before its end; None where it did not."""
    finished: Finished | None
    """The winner's run on the held-out set."""
    folder: Path
    """Where the trials are kept."""
    seconds: float
    """That the search took, without the winner's run."""
    tuned_on: str
    main: str
    """Id of the budget that trials are shown by."""

    @property
    def exit_code(self) -> int:
        """That of the winner's verdict; 1 where nothing met the budgets."""
        return 1 if self.finished is None else self.finished.exit_code


def recover(
    policy: str | os.PathLike[str],
    candidate: Any = None,
    *,
    stage: Stage = "pr",
    out: Path | None = None,
    tracker: str = "mlflow",
    trials: int = TRIALS,
    minutes: float | None = None,
    trust: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
    bootstrap: bool = False,
    engine: str = "local",
    workers: int | None = None,
    shard_timeout: float = SHARD_TIMEOUT_S,
) -> Recovery:
    """Search for the recipe with the most integer work, and gate its model.

    Args:
        policy: its file.
        candidate: as `run_gate`.
        stage, out: of the winner's run.
        tracker: as `run_gate`.
        trials: at the most, those of an interrupted search included.
        minutes: after which no trial begins or goes on; default: no limit.
        progress: told of each step.
        trust, threads, bootstrap: as `run_gate`.
        engine, workers, shard_timeout: what runs trials and the winner; each comes to the same.

    Raises:
        GateError: nothing could be tried, or the winner could not be judged.
    """
    loaded, told = load_policy(Path(policy)), progress or Silent()
    preflight(loaded, unsupported=unsupported, needs_candidate=candidate is None)
    engines.get(engine).demand()
    given = candidate if candidate is not None else named_candidate(loaded)
    with publish.claimed(out):  # before all the work, and not after it
        pass
    keeper, asked = trackers.get(tracker), Given(candidate=given, trust=trust)
    keeper.prepare()
    by = By(engine, threads, workers, shard_timeout)
    with publish.scratch() as scratch:
        run = _begun(loaded, stage, by, scratch, told)
        releases(keeper, loaded.policy, run.scratch, bootstrap=bootstrap)  # or it fails here
        found = _searched(run, asked, _limits(trials, minutes), keeper)
    if found.winner is None:
        return found
    winner = with_recipe(loaded, found.winner.recipe)
    options = {"stage": stage, "out": out, "tracker": tracker, "trust": trust}
    finished = _gated(winner, given, by, progress=told, bootstrap=bootstrap, **options)
    return replace(found, finished=finished)


def _gated(loaded: LoadedPolicy, given: Any, by: By, **options: Any) -> Finished:
    return run_gate(
        loaded,
        given,
        threads=by.threads,
        engine=by.engine,
        workers=by.workers,
        shard_timeout=by.shard_timeout_s,
        **options,
    )


def _begun(loaded: LoadedPolicy, stage: Stage, by: By, scratch: Path, told: Progress) -> Run:
    return Run(
        loaded=loaded,
        stage=stage,
        backend=backends.get(BACKEND),
        threads=by.threads or os.cpu_count() or 1,
        scratch=scratch,
        progress=told,
        known=publish.Known(),
        by=by,
    )


def _searched(run: Run, given: Given, limits: "Limits", keeper: Tracker) -> Recovery:
    """The search, on tuning data alone."""
    begun, policy = time.monotonic(), run.policy
    with engines.get(run.by.engine).crew(workers=run.by.workers, threads=run.threads) as crew:
        tuning, folder = _prepared(run, given, limits, keeper, crew)
        winner, ended = search(tuning.attempt, tuning.blame, policy.build.recipe, tuning.work)
    _demand_tried(tuning.tried, ended)
    estimated = (one.budget for trial in tuning.tried for one in trial.estimates)
    main = next(estimated, policy.judge.budgets[0].id)
    with publish.writing(folder):
        (folder / PLOT).write_text(plot(tuning.tried, main), encoding="utf-8")
    return Recovery(
        model=policy.model,
        trials=tuple(tuning.tried),
        winner=winner,
        ended=ended,
        finished=None,
        folder=folder,
        seconds=time.monotonic() - begun,
        tuned_on=f"{len(tuning.tuning)} examples of {tuning.tuning.name}",
        main=main,
    )


def _demand_tried(trials: Sequence[Trial], ended: str | None) -> None:
    """One trial at least came to an end: else nothing is known of any budget."""
    if all(trial.outcome == "failed" for trial in trials):
        why = trials[0].error if trials else ended
        raise QuantizationError(f"no recipe could be tried: {why}")


def with_recipe(loaded: LoadedPolicy, recipe: Recipe) -> LoadedPolicy:
    """The policy with another recipe."""
    build = loaded.policy.build.model_copy(update={"recipe": recipe})
    policy = loaded.policy.model_copy(update={"build": build})
    return replace(loaded, policy=policy, sha256=digest(policy))


# ── what trials need ──────────────────────────────────────────────────────────────────────


Limits = tuple[Callable[[int], str | None], Callable[[], str | None]]
"""Why no trial counts after so many, and why none may begin or go on."""


def _prepared(
    run: Run, given: Given, limits: Limits, keeper: Tracker, crew: Crew
) -> tuple[Tuning, Path]:
    source, candidate = bring_fp32(run, given)
    with run.step("data"):
        calibration, tuning = _splits(run, candidate)
    # fails here, and not in every trial, where the policy's recipe names what does not exist
    own = run.policy.build.recipe
    if own.is_rescaled:  # which makes tensors of its own, whose ranges it may override
        own = own.model_copy(update={"overrides": {}})
    run.backend.activations(candidate.path, own)
    splits = [tuning] if calibration is None else [calibration, tuning]
    size = data.batch_size(run.policy, candidate, splits)
    shown = opening(tuning, size)
    prove_same(run, source, candidate, shown)
    gives = outputs_of(run, candidate, tuning, size, crew)
    with run.step("fp32", total=len(tuning)), closing(gives(candidate.path)) as shards:
        outputs = [ran.outputs for ran in chain.from_iterable(shards)]
    question = _question(run, candidate, calibration, tuning)
    folder = publish.RUNS / run.policy.model / "recover" / question_digest(question)[:12]
    runner = run.backend.open(candidate.path, threads=run.threads)
    first = first_outputs(lambda batch: runner.run(batch.feeds), shown)

    def bound(targets: Values) -> BoundTask:
        home = run.loaded.base
        return decoding.bind(run.policy, candidate.outputs, targets, first, home=home)

    targets = _targets(tuning, outputs, bound) if tuning.targets is None else tuning.targets
    left, late = limits
    few = data.fixed_batch(candidate) or min(_FEW, len(shown[0].ids))
    sample = {name: values[:few] for name, values in shown[0].feeds.items()}
    made = Tuning(
        run=run,
        candidate=candidate,
        drafts=Drafts(run, candidate, calibration),
        tuning=tuning,
        batch_size=size,
        journal=Journal(folder, question),
        left=lambda: left(len(made.tried)),
        late=late,
        gives=gives,
        keep=lambda trial: keeper.log_trial(run.policy.model, search=folder.name, trial=trial),
        task=bound(targets),
        targets=targets,
        fp32=outputs,
        sample=sample,
        kernels=run.backend.profile(candidate.path, sample, optimize=False),
    )
    made.demand_reachable()
    return made, folder


def _splits(run: Run, candidate: Candidate) -> tuple[Split | None, Split]:
    """Calibration data, if any, and tuning data: the policy's own, or half of the former."""
    calibration, tuning = _opened(run, candidate)
    seed = run.policy.judge.seed
    if tuning is None:
        if calibration is None:
            raise UsageError(
                f"{run.loaded.file} has no data to try recipes on, and the held-out set must not "
                "be used for that: add `build: {tuning: {path: …}}`, some hundreds of examples "
                "that are neither held out nor trained on"
            )
        count = _whole(int(_CARVED * len(calibration)), candidate)
        calibration, tuning = data.carved(calibration, count / len(calibration), seed=seed)
    if calibration is not None and len(calibration) > (most := _whole(_CALIBRATED, candidate)):
        _, calibration = data.carved(calibration, most / len(calibration), seed=seed)
    if len(tuning) < _SMALLEST:
        raise UsageError(
            f"there are {len(tuning)} examples to try recipes on ({tuning.source}), and at least "
            f"{_SMALLEST} are needed: add `build.tuning` with some hundreds"
        )
    return calibration, data.shuffled(tuning, seed)  # a trial may end after any of them


def _whole(count: int, candidate: Candidate) -> int:
    """So many examples, or a few less that fill the batches that a model is fixed to."""
    size = data.fixed_batch(candidate) or 1
    return max(1, count // size) * size


def _opened(run: Run, candidate: Candidate) -> tuple[Split | None, Split | None]:
    """Calibration and tuning data; what trials are judged on comes with the targets it has."""
    build = run.policy.build
    judged_on = build.tuning or build.calibration
    calibration, tuning = (
        None
        if source is None
        else data.open_split(
            name,
            source,
            base=run.loaded.base,
            inputs=candidate.inputs,
            preprocess=build.preprocess,
            seed=run.policy.judge.seed,
            scratch=run.scratch / name,
            needs_target=source is judged_on and data.has_target(name, source, run.loaded.base),
            classes=build.classes,
        )
        for name, source in (("calibration", build.calibration), ("tuning", build.tuning))
    )
    used = [split for split in (calibration, tuning) if split is not None]
    # read here to show that they are others, and for nothing else
    held_out = data.open_split(
        "held_out",
        run.policy.judge.held_out,
        base=run.loaded.base,
        inputs=candidate.inputs,
        preprocess=build.preprocess,
        seed=run.policy.judge.seed,
        scratch=run.scratch / "held_out",
        needs_target=False,
    )
    data.prove_disjoint((*used, held_out))
    return calibration, tuning


def _targets(
    tuning: Split, outputs: Sequence[Mapping[str, Array]], bound: Callable[[Array], BoundTask]
) -> Array:
    """What FP32 predicts, where the data have none: then each flip counts as an error."""
    task = bound(np.zeros(len(tuning), dtype=np.int64))
    scores = joined([task.decode(given) for given in outputs])
    if isinstance(scores, Ragged) or scores.ndim != _SCORES:
        raise UsageError(
            f"{tuning.name} ({tuning.source}) has no column 'target', and what FP32 predicts is no "
            "class that could stand in for it: name labelled data in `build.tuning`"
        )
    if scores.shape[1] == 1:
        return np.asarray(scores[:, 0] > _THRESHOLD, dtype=np.int64)
    return np.asarray(scores.argmax(axis=1))


def _limits(trials: int, minutes: float | None) -> Limits:
    begun = time.monotonic()

    def late() -> str | None:
        if minutes is not None and time.monotonic() - begun > 60 * minutes:
            return f"--minutes {minutes:g} are over"
        return None

    def left(done: int) -> str | None:
        return f"--trials {trials} allows no more" if done >= trials else None

    return left, late


def _question(
    run: Run, candidate: Candidate, calibration: Split | None, tuning: Split
) -> Mapping[str, Any]:
    """All that a trial's result depends on besides its recipe."""
    build, judge = run.policy.build, run.policy.judge
    return {
        "task": run.policy.task,
        "candidate": candidate.fp32_sha256,
        "calibration": None if calibration is None else calibration.sha256,
        "tuning": tuning.sha256,
        "build": build.model_dump(mode="json", include={"preprocess", "decode", "classes"}),
        "budgets": [budget.model_dump(mode="json") for budget in judge.budgets],
        "batch_size": judge.batch_size,
        "seed": judge.seed,
        "plugins": dict(plugins.active()),
        "versions": run.backend.versions() | {"gate": version("int8-gate")},
        "cpu": cpu(),
        "threads": run.threads,
    }
