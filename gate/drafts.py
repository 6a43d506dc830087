"""INT8 models by one recipe after another, for trials: what two have in common is made once.

Calibration runs once for all recipes that start from the same FP32, and the graph is written once
for all that differ in ranges alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gate import calibrate, data
from gate.int8 import at, corrected, observed, rescaled
from gate.recipes import Recipe
from gate.run import Run
from gate.values import Candidate, Split

_OF_RANGES = ("name", "summary", "calibration", "percentile", "overrides", "correct_bias")
"""Parts of a recipe that change no more of an INT8 model than its ranges, and biases."""


@dataclass(slots=True)
class Drafts:
    """Of one candidate."""

    run: Run
    candidate: Candidate
    calibration: Split | None
    _bases: dict[str, Candidate] = field(default_factory=dict)
    _seen: dict[str, calibrate.Observed] = field(default_factory=dict)
    _structures: dict[Path, str] = field(default_factory=dict)
    """Of the INT8 models that are there: their recipes, but for what chooses ranges."""

    def base(self, recipe: Recipe) -> Candidate:
        """FP32, rescaled where the recipe asks for it."""
        if not recipe.is_rescaled:
            return self.candidate
        key = _rescaling(recipe)
        if key not in self._bases:
            assert self.calibration is not None
            path = rescaled(
                self.run.backend,
                self.candidate.path,
                recipe,
                self.calibration,
                fixed=data.fixed_batch(self.candidate),
                threads=self.run.threads,
                destination=self.run.scratch / f"base-{len(self._bases)}.onnx",
            )
            self._bases[key] = at(self.candidate, path)
        return self._bases[key]

    def int8(self, recipe: Recipe) -> Path:
        """The INT8 model, as a run makes it; the next of the same base takes its place.

        Raises:
            QuantizationError, EvaluationError: as a run.
        """
        base = self.base(recipe)
        sources = self.run.backend.activations(base.path, recipe)
        ranges = {}
        if sources:
            ranges = calibrate.ranges_of(self._observed(base, sources), recipe, sources)
        int8 = self._made(recipe, base, base.path, ranges)
        if not recipe.correct_bias:
            return int8
        assert self.calibration is not None
        better = corrected(
            self.run.backend,
            base.path,
            recipe,
            int8,
            self.calibration,
            fixed=data.fixed_batch(self.candidate),
            threads=self.run.threads,
            destination=self.run.scratch / "corrected.onnx",
        )
        return self._made(recipe, base, better, ranges)

    def _made(
        self, recipe: Recipe, base: Candidate, fp32: Path, ranges: Mapping[str, tuple[float, float]]
    ) -> Path:
        place = base.path.with_name(f"{base.path.stem}.draft.onnx")
        structure = recipe.model_dump_json(exclude={*_OF_RANGES})
        like = place if self._structures.pop(place, None) == structure else None
        self.run.backend.quantize(fp32, recipe, ranges, place, like=like)
        self._structures[place] = structure
        return place

    def _observed(self, base: Candidate, sources: Mapping[str, str]) -> calibrate.Observed:
        """One pass for all recipes: what a later one needs besides is observed as well."""
        seen = dict(self._seen.get(base.fp32_sha256, {}))
        missing = [name for name in dict.fromkeys(sources.values()) if name not in seen]
        if missing:
            assert self.calibration is not None
            seen |= observed(self.run, base, self.calibration, missing)
            self._seen[base.fp32_sha256] = seen
        return seen


def _rescaling(recipe: Recipe) -> str:
    """What two recipes have in common that rescale FP32 in the same way."""
    parts = {"equalize", "per_channel", "smooth"}
    if recipe.smooth is not None:  # which products are smoothed depends on which are quantized
        parts |= {"op_types", "exclude_op_types", "exclude_nodes"}
    return recipe.model_dump_json(include=parts)
