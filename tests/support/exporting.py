"""`torch.onnx.export`, without reading its library of operators again each time."""

from functools import cache
from importlib import import_module

import pytest


def keep_operators(patch: pytest.MonkeyPatch) -> None:
    """Each export parses the sources of 500 functions, most of its time; the first does it for all.

    What it gets is a registry of its own, so that one that an export adds to is no other's.
    """
    registry = import_module("torch.onnx._internal.exporter._registration").ONNXRegistry
    read = cache(registry.from_torchlib)

    def copied(**options: int) -> object:
        known, made = read(**options), registry()
        made._opset_version = known.opset_version
        made.functions = {target: [*found] for target, found in known.functions.items()}
        return made

    patch.setattr(registry, "from_torchlib", staticmethod(copied))
