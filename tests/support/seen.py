"""What a probe saw, written by hand."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gate.backends import READINGS, Point
from gate.causes import Seen
from gate.diagnosis import Cause, LayerError


def point(tensor: str, op: str = "Conv", *sources: str, **changes: Any) -> Point:
    """Tensor `t` of node `node_t`; of `Input` there is no node."""
    fields: dict[str, Any] = {
        "tensor": tensor,
        "node": "" if op == "Input" else f"node_{tensor}",
        "op": "" if op == "Input" else op,
        "sources": sources,
        "is_output": False,
        "ends": (0.0, 1.0),
        "rank": 4,
        "groups": 1,
        "weights": None,
        "scales": 0,
    }
    return Point(**(fields | changes))


def seen(
    readings: Mapping[str, Mapping[str, float]],
    *points: Point,
    peaks: Mapping[str, Any] | None = None,
) -> Seen:
    """Readings by tensor and name: a signal of 1, and otherwise 0 where none is given."""
    rows = [
        [readings.get(one.tensor, {}).get(name, float(name == "signal")) for name in READINGS]
        for one in points
    ]
    places = {one.tensor: place for place, one in enumerate(points)}
    largest = {places[name]: np.asarray(values) for name, values in (peaks or {}).items()}
    return Seen(points, np.array(rows, dtype=float), largest, 8)


def layer(node: str = "conv", share: float = 0.6, cause: str | None = None, **changes: Any) -> Any:
    """A layer that loses something."""
    fields: dict[str, Any] = {
        "node": node,
        "op": "Conv",
        "tensor": f"{node}_out",
        "readers": (f"after_{node}",),
        "loses": "activations",
        "share": share,
        "own_sqnr": 20.0,
        "sqnr": 10.0,
        "cause": None if cause is None else Cause(name=cause, detail="3 of 4"),
    }
    return LayerError(**(fields | changes))
