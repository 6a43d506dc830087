"""Why a release lost accuracy, as a record keeps it."""

from typing import Any, Literal

from gate.values import Value


class Cause(Value):
    """What spoils a layer."""

    name: str
    """A phrase that tools can count: `saturation`, `range outlier`, `unequal channels`, …"""
    detail: str
    """One phrase, with the numbers."""


class LayerError(Value):
    """What a layer costs."""

    node: str
    """FP32's node; a model input's own name."""
    op: str
    """Its operator; `Input` for a model input."""
    tensor: str
    """What it computes."""
    readers: tuple[str, ...]
    """Nodes that read it."""
    loses: Literal["activations", "weights"]
    """Whether rounding what it computes costs more than rounding its weights."""
    share: float
    """Of the error at the outputs, 0..1; those of all layers sum to 1."""
    own_sqnr: float | None
    """dB: signal over what the layer loses on FP32's own inputs, each channel as those who read it
    feel it; None where that is nothing."""
    sqnr: float | None
    """dB: signal over INT8's whole error there; None where there is none."""
    cause: Cause | None = None
    """Why, where that can be told."""


class SliceLoss(Value):
    """A slice that loses more than the other examples."""

    slice: str
    """`column=value`."""
    n: int
    """Examples in it."""
    loss: float
    """Mean loss in the slice."""
    rest: float
    """Mean loss of the others."""
    p: float
    """That chance alone makes any slice look so, of all that were looked at."""


class Flip(Value):
    """An example whose prediction INT8 changed."""

    id: str
    target: str
    fp32: str
    """FP32's prediction and its score."""
    int8: str
    margin: float
    """By how much the score of FP32's class over INT8's fell."""


class Advice(Value):
    """What to try next."""

    why: str
    """One sentence."""
    recipe: dict[str, Any]
    """As `build.recipe` of the policy."""


class Diagnosis(Value):
    """Why a release lost accuracy."""

    examples: int = 0
    """On which the layers were compared."""
    split: str = ""
    """Of which split."""
    layers: tuple[LayerError, ...] = ()
    """The ones that cost most, first."""
    others: int = 0
    """Layers that lose something and are not listed."""
    lost: str = ""
    """What `loss` of a slice counts."""
    slices: tuple[SliceLoss, ...] = ()
    """Those that lose more than the rest, beyond chance."""
    looked_at: int = 0
    """Slices that were looked at."""
    flips: tuple[Flip, ...] = ()
    """The largest changes first."""
    flipped: int | None = None
    """Examples whose prediction changed; None where the task has none."""
    advice: Advice | None = None
    problems: tuple[str, ...] = ()
    """What could not be told, and why."""
