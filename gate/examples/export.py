"""The examples' torch modules as ONNX."""

import logging
import warnings
from collections.abc import Sequence
from typing import Any


def exported(
    model: Any, given: tuple[Any, ...], inputs: Sequence[str], outputs: Sequence[str]
) -> Any:
    """A module as an ONNX ModelProto with a free batch dimension.

    Args:
        model: a `torch.nn.Module` in evaluation mode.
        given: a tensor (2, …) an input, each an object of its own.
        inputs: their names.
        outputs: the outputs' names.
    """
    import torch

    logging.getLogger("torch").setLevel(logging.ERROR)  # it warns of torchvision
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations
        program = torch.onnx.export(
            model,
            given,
            dynamo=True,
            input_names=[*inputs],
            output_names=[*outputs],
            dynamic_shapes=tuple({0: batch} for _ in given),
            verbose=False,
        )
    proto = program.model_proto
    del proto.metadata_props[:]
    for node in proto.graph.node:
        del node.metadata_props[:]  # absolute paths of the exporting machine
    return proto
