"""Named INT8 recipes, as data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gate.door import unknown

IntegerType = Literal["int8", "uint8"]
Calibration = Literal["min-max", "moving-average", "percentile", "entropy", "mse"]
Target = Literal["x86-vnni", "x86", "arm64", "tensorrt"]


class Recipe(BaseModel):
    """How an FP32 model becomes INT8; everything a backend needs to know, and nothing else."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    name: str
    """The preset it is or refines."""
    scheme: Literal["static", "dynamic"]
    """static: activation ranges are calibrated; dynamic: they are taken from each batch."""
    target: Target | None = None
    """The hardware it is made for, where that chose the integer types."""
    weight_type: IntegerType = "int8"
    """Integer type of the weights."""
    activation_type: IntegerType = "uint8"
    """Integer type of the activations."""
    per_channel: bool = True
    """One scale per output channel of a weight, instead of one per tensor."""
    reduce_range: bool = False
    """7-bit weights: what unsigned activations times signed weights need where x86 lacks VNNI."""
    calibration: Calibration | None = "min-max"
    """How ranges are taken from what calibration saw; None for a dynamic scheme."""
    overrides: dict[str, Calibration] = Field(default_factory=dict)
    """Another method for single tensors, by name."""
    percentile: float = Field(99.99, gt=50, le=100)
    """Percentage of values that calibration `percentile` keeps."""
    smooth: float | None = Field(None, ge=0, le=1)
    """SmoothQuant's α: how much of the activations' outliers the weights take; None: nothing."""
    correct_bias: bool = False
    """Biases made up for what rounding the weights shifts on average over the calibration data."""
    float_outputs: tuple[str, ...] = ()
    """Operators that multiply integers and give floating point: MatMul, Gemm."""
    equalize: bool = False
    """Channels between two layers brought to like ranges, which FP32 does not notice."""
    op_types: tuple[str, ...] = ()
    """Operators to quantize; empty: all that the backend can."""
    exclude_op_types: tuple[str, ...] = ()
    """Operators left in FP32."""
    exclude_nodes: tuple[str, ...] = ()
    """Nodes left in FP32, by name."""
    summary: str = ""
    """When to use it, one line."""

    @property
    def needs_calibration(self) -> bool:
        """Whether a calibration split is needed."""
        return self.scheme == "static"

    @property
    def is_rescaled(self) -> bool:
        """Whether FP32 is rescaled before it is quantized."""
        return self.smooth is not None or self.equalize

    @property
    def is_symmetric(self) -> bool:
        """Whether activations have their zero point in the middle: int8 does, uint8 does not."""
        return self.activation_type == "int8"

    @model_validator(mode="after")
    def _fits_its_scheme(self) -> Self:
        if (self.calibration is None) == self.needs_calibration:
            raise ValueError(
                "a static recipe needs a calibration method, and a dynamic one takes none"
            )
        if self.overrides and self.calibration is None:
            raise ValueError("`overrides` choose ranges, and a dynamic recipe has none")
        if self.correct_bias and not self.needs_calibration:
            raise ValueError("`correct_bias` needs calibration data: use a static recipe")
        if self.is_rescaled and not self.needs_calibration:
            key = "equalize" if self.equalize else "smooth"
            raise ValueError(f"`{key}` needs calibration data: use a static recipe")
        if beyond := set(self.float_outputs) - {"Gemm", "MatMul"}:
            raise ValueError(
                f"`float_outputs` takes Gemm and MatMul, not {', '.join(sorted(beyond))}: no other "
                "operator multiplies integers and gives floating point"
            )
        if self.float_outputs and not self.needs_calibration:
            raise ValueError("`float_outputs` is of static recipes: a dynamic one has no others")
        if self.target is not None:
            self._demand_fit(TARGETS[self.target])
        return self

    def _demand_fit(self, hardware: "Hardware") -> None:
        """A refinement does not take back what the target asks for."""
        if self.scheme == "dynamic" and hardware.activation_type == "int8":
            raise ValueError(
                f"target {self.target!r} takes int8 activations, and dynamic ones are uint8: use "
                "a static recipe"
            )
        for key in ("activation_type", "weight_type", "reduce_range"):
            asked, has = getattr(hardware, key), getattr(self, key)
            if has != asked:
                raise ValueError(
                    f"target {self.target!r} asks for `{key}: {str(asked).lower()}`, and the "
                    f"recipe says {str(has).lower()}: leave one of them out"
                )


_MATRIX_OPS = ("MatMul", "Gemm", "Attention", "EmbedLayerNormalization")
RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="static",
            scheme="static",
            summary="QDQ, per-channel int8 weights, uint8 activations: fast on x86 with VNNI",
        ),
        Recipe(
            name="static-signed",
            scheme="static",
            activation_type="int8",
            summary="int8 activations, zero at the middle: TensorRT, which takes no other, and ARM",
        ),
        Recipe(
            name="static-7bit",
            scheme="static",
            reduce_range=True,
            summary="7-bit weights: exact and fast on every x86, a little less precise",
        ),
        Recipe(
            name="static-per-tensor",
            scheme="static",
            per_channel=False,
            summary="one scale a weight tensor: runtimes without per-channel kernels",
        ),
        Recipe(
            name="static-percentile",
            scheme="static",
            calibration="percentile",
            summary="cuts 0.01 % of the activations: where rare outliers stretch the ranges",
        ),
        Recipe(
            name="static-entropy",
            scheme="static",
            calibration="entropy",
            summary="least KL divergence (TensorRT's choice): CNNs with long-tailed activations",
        ),
        Recipe(
            name="static-mse",
            scheme="static",
            calibration="mse",
            summary="least squared error of the activations: the best first try after min-max",
        ),
        Recipe(
            name="static-equalized",
            scheme="static",
            equalize=True,
            calibration="mse",
            summary="channels rescaled to like ranges first: CNNs with channels that differ",
        ),
        Recipe(
            name="static-matmul",
            scheme="static",
            op_types=_MATRIX_OPS,
            summary="matrix products alone: transformers, which Add, Softmax or LayerNorm break",
        ),
        Recipe(
            name="static-conv",
            scheme="static",
            op_types=("Conv", "ConvTranspose"),
            summary="convolutions alone: detectors and CNNs whose heads or joins break",
        ),
        Recipe(
            name="smoothquant",
            scheme="static",
            smooth=0.5,
            op_types=_MATRIX_OPS,
            summary="outliers moved into the weights, then matrix products: large transformers",
        ),
        Recipe(
            name="dynamic",
            scheme="dynamic",
            calibration=None,
            op_types=("MatMul", "Gemm", "Attention", "LSTM", "EmbedLayerNormalization"),
            summary="weights int8, activation ranges per batch: transformers and LSTMs, no data",
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a kind of hardware computes exactly, and fastest among that."""

    activation_type: IntegerType
    reduce_range: bool
    summary: str
    weight_type: IntegerType = "int8"


TARGETS: dict[str, Hardware] = {
    "x86-vnni": Hardware(
        "uint8", False, "uint8 activations, int8 weights: Cascade Lake, Zen 4, later"
    ),
    "x86": Hardware("uint8", True, "7-bit weights: without VNNI sums of 8-bit ones are cut off"),
    "arm64": Hardware("int8", False, "int8 activations and weights"),
    "tensorrt": Hardware("int8", False, "int8 activations, zero at the middle: it takes no others"),
}
"""x86 without VNNI gains nothing by signed activations: ONNX Runtime makes them unsigned there."""

REFINABLE = frozenset(Recipe.model_fields) - {"name", "scheme", "summary"}
"""What a mapping may say besides `base`."""


class UnknownRecipeError(ValueError):
    """A recipe or one of its keys is not known; `key` says which part of the mapping."""

    def __init__(self, message: str, key: str | None = None) -> None:
        """Keep `key` so that the caller can point at it."""
        super().__init__(message)
        self.key = key


def resolve(spec: str | Mapping[str, Any]) -> Recipe:
    """Turn a preset's name, or a mapping that refines one by `base`, into a `Recipe`.

    Raises:
        UnknownRecipeError: the name or a key is not known; the message lists those that are.
        pydantic.ValidationError: a refined value has the wrong type.
    """
    if isinstance(spec, str):
        return _preset(spec, key=None)
    if "base" not in spec:
        raise UnknownRecipeError("a recipe mapping needs `base`, the preset that it refines")
    preset = _preset(spec["base"], key="base")
    changes = {key: value for key, value in spec.items() if key != "base"}
    for key in changes:
        if key not in REFINABLE:
            raise UnknownRecipeError(unknown("recipe key", key, tuple(sorted(REFINABLE))), key)
    frozen = {k: tuple(v) if isinstance(v, list) else v for k, v in changes.items()}
    return Recipe.model_validate(preset.model_dump() | _for(frozen, preset) | frozen, strict=True)


def spelled(recipe: Recipe) -> str | dict[str, Any]:
    """What `resolve` makes this recipe of, in the fewest words."""
    preset, left = RECIPES[recipe.name], {"name", "summary"}
    if recipe.target is not None:  # which asks for these
        left |= {"activation_type", "weight_type", "reduce_range"}
    changed = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in recipe
        if key not in left and value != getattr(preset, key)
    }
    return {"base": recipe.name} | changed if changed else recipe.name


def _for(changes: Mapping[str, Any], preset: Recipe) -> dict[str, Any]:
    """What the target that the changes name asks for; a dynamic recipe's activations are uint8."""
    target = changes.get("target")
    if target is None:
        return {}
    if not isinstance(target, str) or target not in TARGETS:
        raise UnknownRecipeError(unknown("target", target, tuple(TARGETS)), "target")
    hardware = TARGETS[target]
    asked: dict[str, Any] = {
        "weight_type": hardware.weight_type,
        "reduce_range": hardware.reduce_range,
    }
    if preset.scheme == "static":
        asked["activation_type"] = hardware.activation_type
    return asked


def _preset(name: object, *, key: str | None) -> Recipe:
    if not isinstance(name, str) or name not in RECIPES:
        raise UnknownRecipeError(unknown("recipe", name, tuple(sorted(RECIPES))), key)
    return RECIPES[name]
