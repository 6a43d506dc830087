"""The candidate as `gate init` sees it: fetched, normalised, and which recipe suits it."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from gate import backends, graph, publish, strict_yaml
from gate.candidate import Source
from gate.commands._init_text import Spec, compose
from gate.pipeline import BACKEND
from gate.policy import MODEL_URIS
from gate.policy_file import LoadedPolicy, load_policy
from gate.progress import Progress
from gate.run import Run
from gate.subject import Given, bring_fp32
from gate.values import Candidate, TensorSpec
from gate.wording import few, plain

_CONVOLUTIONS = ("Conv", "ConvTranspose")
_RECURRENT = ("LSTM", "GRU", "RNN")
_OF_TRANSFORMERS = ("Softmax", "LayerNormalization", "SkipLayerNormalization", "Attention")


@dataclass(frozen=True, slots=True)
class Model:
    """A candidate."""

    source: Source
    candidate: Candidate
    operators: Counter[str]

    def described(self) -> str:
        """`image float32 (N, 1, 8, 8) -> logits float32 (N, 10)`."""
        told = (few([_told(one) for one in side]) for side in self._sides())
        return " -> ".join(told)

    def _sides(self) -> tuple[tuple[TensorSpec, ...], ...]:
        return self.candidate.inputs, self.candidate.outputs

    def recipe(self, *, calibrated: bool) -> tuple[str, str]:
        """A preset's name, and why; without data to calibrate on what needs none."""
        ops = self.operators
        if not calibrated or any(ops[name] for name in _RECURRENT):
            return "dynamic", "needs no calibration data; `gate recipes` lists the others"
        products = ops["MatMul"] + ops["Gemm"]
        if any(ops[name] for name in _CONVOLUTIONS) or not products:
            return "static", "`gate recipes` lists the others"
        if any(ops[name] for name in _OF_TRANSFORMERS):
            return "static-matmul", "a transformer's; `gate recipes` lists the others"
        return "static", "`gate recipes` lists the others"

    @property
    def needs_calibration(self) -> bool:
        """Whether what runs without calibration data would leave its work in floating point."""
        return any(self.operators[name] for name in _CONVOLUTIONS)


def _told(spec: TensorSpec) -> str:
    inner = ", ".join(["N", *("?" if size is None else str(size) for size in spec.shape[1:])])
    return f"{plain(spec.name, 40)} {spec.dtype} ({inner})"


def bring(run: Run, named: str, *, trust: bool) -> Model:
    """The model as a run would have it.

    Raises:
        UsageError, CandidateError: it is not there, not to be trusted, or cannot be read.
    """
    source, candidate = bring_fp32(run, Given(candidate=named, trust=trust))
    nodes = graph.walk(graph.read(candidate.path, weights=False))
    return Model(source, candidate, Counter(node.op_type for node, _ in nodes))


def begin(loaded: LoadedPolicy, scratch: Path, progress: Progress) -> Run:
    """A run that no tracker knows of."""
    return Run(
        loaded=loaded,
        stage="pr",
        backend=backends.get(BACKEND),
        threads=os.cpu_count() or 1,
        scratch=scratch,
        progress=progress,
        known=publish.Known(),
    )


def drafted(spec: Spec, out: Path) -> LoadedPolicy:
    """What would be written to `out`, as a run would read it.

    Raises:
        PolicyError: what was asked for makes no policy.
    """
    text = compose(spec)
    return load_policy(out, read=lambda file, _: strict_yaml.parse(text, file))


def relative(named: str, folder: Path) -> str:
    """A path from the current folder as a policy in `folder` writes it; URIs stay as they are."""
    if named.startswith(MODEL_URIS) or "://" in named:
        return named
    path = Path(named)
    here = os.path.join(os.path.realpath(path.parent), path.name)
    return Path(os.path.relpath(here, os.path.realpath(folder))).as_posix()
