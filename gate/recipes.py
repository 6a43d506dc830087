"""Named INT8 recipes, as data."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from gate.door import unknown

IntegerType = Literal["int8", "uint8"]


class Recipe(BaseModel):
    """How an FP32 model becomes INT8; everything a backend needs to know, and nothing else."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str
    """The preset it is or refines."""
    scheme: Literal["static", "dynamic"]
    """static: activation ranges are calibrated; dynamic: they are taken from each batch."""
    weight_type: IntegerType = "int8"
    """Integer type of the weights."""
    activation_type: IntegerType = "uint8"
    """Integer type of the activations."""
    per_channel: bool = True
    """One scale per output channel of a weight, instead of one per tensor."""
    calibration: Literal["min-max"] | None = "min-max"
    """How ranges are taken from what calibration saw; None for a dynamic scheme."""
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
            summary="int8 activations: TensorRT, ARM, x86 without VNNI (as slow as FP32 on VNNI)",
        ),
        Recipe(
            name="static-per-tensor",
            scheme="static",
            per_channel=False,
            summary="one scale a weight tensor: runtimes without per-channel kernels",
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

REFINABLE = frozenset(Recipe.model_fields) - {"name", "scheme", "calibration", "summary"}
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
    return Recipe.model_validate(preset.model_dump() | frozen, strict=True)


def _preset(name: object, *, key: str | None) -> Recipe:
    if not isinstance(name, str) or name not in RECIPES:
        raise UnknownRecipeError(unknown("recipe", name, tuple(sorted(RECIPES))), key)
    return RECIPES[name]
