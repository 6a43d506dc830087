"""silero-vad: all of its weights lie inside an If, where quantizers do not look."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from real.gating import Release, closeness, distribution, package

pytestmark = pytest.mark.real

SAMPLES = 576
"""64 of context and 512 new ones, at 16 kHz."""


def one_window(folder: Path) -> Path:
    """The detector on a first window: its state is zero, and the rate comes as a column."""
    model = onnx.load(package("silero_vad", "silero-vad") / "data" / "silero_vad.onnx")
    graph = model.graph
    rename = {"state": "state_", "sr": "sr_"}
    for node in graph.node:
        for body in _all_graphs(node):
            for inner in body.node:
                inner.input[:] = [rename.get(name, name) for name in inner.input]
        node.input[:] = [rename.get(name, name) for name in node.input]
    before = [
        helper.make_node("Shape", ["input"], ["n"], end=1),
        helper.make_node("Concat", ["two", "n", "width"], ["state_shape"], axis=0),
        helper.make_node("ConstantOfShape", ["state_shape"], ["state_"]),
        helper.make_node("ReduceMax", ["sr"], ["sr_"], keepdims=0),
    ]
    nodes = [*before, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(
        onnx.numpy_helper.from_array(np.array([value], np.int64), name)
        for name, value in (("two", 2), ("width", 128))
    )
    del graph.input[:], graph.output[1:]
    graph.input.extend(
        [
            helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["N", "samples"]),
            helper.make_tensor_value_info("sr", onnx.TensorProto.INT64, ["N"]),
        ]
    )
    onnx.save(model, folder / "silero.onnx")
    return folder / "silero.onnx"


def of_one_rate(file: Path) -> Path:
    """The same with the rate as a constant: the runtime then knows which branch it takes."""
    model = onnx.load(file)
    graph = model.graph
    (reader,) = (node for node in graph.node if node.output[0] == "sr_")
    graph.node.remove(reader)
    graph.initializer.append(onnx.numpy_helper.from_array(np.int64(16_000), "sr_"))
    del graph.input[1:]
    onnx.save(model, file.with_name("one-rate.onnx"))
    return file.with_name("one-rate.onnx")


def _all_graphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    own = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return [*own, *(deeper for body in own for n in body.node for deeper in _all_graphs(n))]


def windows(count: int, seed: int) -> dict[str, np.ndarray]:
    """Noise and tones: none of it is speech."""
    rng = np.random.default_rng(seed)
    tone = np.sin(np.arange(SAMPLES) / 16_000 * 2 * np.pi * rng.uniform(100, 4000, (count, 1)))
    sound = 0.1 * tone + 0.01 * rng.normal(size=(count, SAMPLES))
    return {
        "input": sound.astype(np.float32),
        "sr": np.full(count, 16_000),
        "target": np.arange(count) % 2,
    }


@pytest.mark.parametrize("recipe", ["static", "dynamic"])
def test_nothing_in_it_can_be_quantized(tmp_path: Path, recipe: str) -> None:
    release = Release(
        folder=tmp_path,
        name=distribution("silero-vad", "silero_vad.onnx"),
        candidate=one_window(tmp_path),
        held_out=windows(64, seed=0),
        calibration=windows(32, seed=1),
        build={"decode": "probabilities"},
    )
    outcome = release.run(recipe)
    assert outcome.exit_code == 4
    assert "all of the model's work is inside subgraphs" in outcome.reason
    assert "Export it without control flow" in outcome.reason


def test_without_the_branch_its_convolutions_run_as_integers(tmp_path: Path) -> None:
    sound = [{"input": windows(32, seed=seed)["input"]} for seed in (0, 1)]
    model = of_one_rate(one_window(tmp_path))
    fp32, int8, made = closeness(tmp_path, model, "static-conv", *sound)
    assert made.int8_share > 0.7
    assert [island.op for island in made.islands] == ["LSTM"]
    assert np.abs(fp32["output"] - int8["output"]).max() < 0.05
