"""A torch module and a loop in, INT8 out: what is rounded, what runs, and what is refused."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from support.project import Project

from gate import errors, training
from gate.backends.onnxruntime import BACKEND
from gate.pipeline import run_gate
from gate.rounding import is_seen, roundings
from gate.training import Prepared, prepare, quantization_aware

torch = pytest.importorskip("torch")
pytest.importorskip("torchao")
nn = torch.nn

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """New layers have the same weights in every run."""
    torch.manual_seed(0)


def images(count: int = 4, *, channels: int = 1, seed: int = 1) -> Any:
    return torch.rand(count, channels, 8, 8, generator=torch.Generator().manual_seed(seed))


def layers(*parts: Any, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    for part in parts:
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()
    return nn.Sequential(*parts)


class Net(nn.Module):  # type: ignore[misc,name-defined]
    """conv + BN + ReLU twice, a residual depthwise one, a linear layer: (N, 1, 8, 8) -> (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8, eps=1e-3), nn.ReLU()
        )
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6())
        self.third = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8))
        self.pool = nn.MaxPool2d(2)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(128, 10)

    def forward(self, image: Any) -> Any:
        x = self.second(self.first(image))
        x = self.pool(torch.relu(x + self.third(x)))
        return self.head(self.drop(x.flatten(1)))


def fit(module: Any, *, steps: int = 4, rate: float = 1e-2, size: int = 16) -> None:
    """A few steps towards nothing in particular."""
    optimizer = torch.optim.SGD(module.parameters(), lr=rate)
    module.train()
    for step in range(steps):
        loss = (module(images(size, seed=step)) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def trained(module: Any, example: Any, *, steps: int = 4, **options: Any) -> Prepared:
    ready = prepare(module, example, **options)
    values = tuple(ready.examples.values())
    for _ in range(steps):
        ready.module(*values)
    return ready


def ran(path: Path, **feeds: Any) -> dict[str, Any]:
    given = {name: np.asarray(value) for name, value in feeds.items()}
    return BACKEND.open(path, threads=1).run(given)


def work(path: Path, **feeds: Any) -> dict[str, bool]:
    """Kernels that multiply and accumulate, and whether in integers."""
    given = {name: np.asarray(value) for name, value in feeds.items()}
    return {k.node: k.integer for k in BACKEND.profile(path, given) if k.macs}


def state(module: Any) -> dict[str, Any]:
    return {name: value.clone() for name, value in module.state_dict().items()}


class Story(NamedTuple):
    """`Net` before and after it was prepared and trained for a moment; tests leave it as it is."""

    original: Any
    weights: dict[str, Any]
    ready: Prepared
    untrained: dict[str, Any]
    foreseen: Any
    """What it gave before training."""


@pytest.fixture(scope="module")
def story() -> Story:
    original = Net().eval()
    weights = state(original)
    made = prepare(original, {"image": images()})
    untrained = state(made.module)
    assert not any(is_seen(part) for part in roundings(made.module).values())
    with torch.no_grad():
        foreseen = made.module.eval()(images())
    made.module.train()
    torch.manual_seed(3)
    fit(made.module)
    return Story(original, weights, made, untrained, foreseen)


@pytest.fixture(scope="module")
def ready(story: Story) -> Prepared:
    return story.ready


@pytest.fixture(scope="module")
def exported(ready: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ready.export(tmp_path_factory.mktemp("net") / "net.onnx")


# ── what comes out ────────────────────────────────────────────────────────────────────────


def test_every_layer_runs_in_integers(exported: Path) -> None:
    kernels = work(exported, image=images())
    assert len(kernels) == 4
    assert all(kernels.values())


def test_batch_norm_is_gone_and_weights_are_int8(exported: Path) -> None:
    model = onnx.load(exported)
    operators = {node.op_type for node in model.graph.node}
    assert "BatchNormalization" not in operators
    assert {"QuantizeLinear", "DequantizeLinear", "Conv", "Gemm"} <= operators
    large = [tensor for tensor in model.graph.initializer if np.prod(tensor.dims) > 100]
    assert {tensor.data_type for tensor in large} == {onnx.TensorProto.INT8}


def test_layers_bear_the_names_of_their_modules(exported: Path) -> None:
    nodes = {node.name for node in onnx.load(exported).graph.node}
    assert {"first.0", "second.0", "third.0", "head"} <= nodes


@pytest.mark.parametrize("count", [1, 4, 7])
def test_it_computes_what_was_trained_on_any_batch(
    ready: Prepared, exported: Path, count: int
) -> None:
    batch = images(count, seed=9)
    with torch.no_grad():
        expected = ready.module.eval()(batch).numpy()
    ready.module.train()
    (got,) = ran(exported, image=batch).values()
    assert got.shape == (count, 10)
    assert np.mean(got == expected) > 0.9  # a few roundings fall the other way
    assert np.abs(got - expected).max() <= 2 * _output_scale(exported)


def _output_scale(path: Path) -> float:
    graph = onnx.load(path).graph
    last = next(node for node in graph.node if node.output[0] == graph.output[0].name)
    (scale,) = (tensor for tensor in graph.initializer if tensor.name == last.input[1])
    return float(onnx.numpy_helper.to_array(scale))


def test_inputs_and_outputs_are_named_as_the_gate_names_those_of_the_module(
    exported: Path,
) -> None:
    session = BACKEND.open(exported, threads=1)
    assert [(spec.name, spec.shape) for spec in session.inputs] == [("image", (None, 1, 8, 8))]
    assert [spec.name for spec in session.outputs] == ["linear"]


def test_names_can_be_given_and_may_be_taken_inside(tmp_path: Path) -> None:
    made = trained(layers(nn.Linear(8, 4), nn.ReLU()), {"relu": np.zeros((2, 8), np.float32)},
                   output_names=["linear"])  # fmt: skip
    path = made.export(tmp_path / "m.onnx")
    onnx.checker.check_model(onnx.load(path), full_check=True)
    assert list(ran(path, relu=np.ones((3, 8), np.float32))) == ["linear"]


def test_equal_weights_give_equal_bytes(ready: Prepared, exported: Path, tmp_path: Path) -> None:
    again = ready.export(tmp_path / "elsewhere" / "again.onnx")
    assert again.read_bytes() == exported.read_bytes()


@pytest.mark.slow
def test_another_process_in_another_folder_gives_the_same_bytes(tmp_path: Path) -> None:
    program = (
        "import torch, numpy as np, sys\n"
        "from gate.training import quantization_aware\n"
        "torch.manual_seed(0); torch.set_num_threads(1)\n"
        "m = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4))\n"
        "x = torch.linspace(-1, 1, 72).reshape(2, 1, 6, 6)\n"
        "quantization_aware(m, lambda q: q(x), (x,), 'm.onnx')\n"
    )
    found = set()
    for name, seed in (("one", "1"), ("two", "2")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / f"{name}.py").write_text(program)
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run(
            [sys.executable, "-W", "error", f"{name}.py"], cwd=folder, env=environment, check=True
        )
        found.add(hashlib.sha256((folder / "m.onnx").read_bytes()).hexdigest())
    assert len(found) == 1


def test_nothing_of_the_machine_is_left_in_the_file(exported: Path) -> None:
    content = exported.read_bytes()
    for trace in (str(Path.cwd()), "site-packages", ".py", "stack_trace", "name_scopes"):
        assert trace.encode() not in content


def test_the_gate_judges_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    project = Project(tmp_path)
    project.spec["judge"]["expect_fp32"] = "unknown"
    project.budget(metric="int8_share", at_least=0.99)
    module = layers(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    made = prepare(module, {"image": images()})
    fit(made.module, rate=0.0)
    int8 = made.export(tmp_path / "model.onnx")
    found = run_gate(project.policy, module, int8=int8, tracker="none")
    assert found.verdict.outcome == "pass"
    assert found.record.int8.int8_share == 1.0


# ── what is rounded ───────────────────────────────────────────────────────────────────────


class Wired(nn.Module):  # type: ignore[misc,name-defined]
    """Layers put together by a function."""

    def __init__(self, wire: Callable[..., Any], *parts: Any) -> None:
        super().__init__()
        self.wire, self.parts = wire, nn.ModuleList(parts)

    def forward(self, x: Any) -> Any:
        return self.wire(x, *self.parts)


def _attention(x: Any, into: Any, out: Any) -> Any:
    q, k, v = into(x).chunk(3, -1)
    return out(torch.softmax(q @ k.transpose(1, 2) / 4, -1) @ v)


def _excite(x: Any, conv: Any, gate: Any) -> Any:
    found = nn.functional.silu(conv(x))
    return found * torch.sigmoid(gate(nn.functional.adaptive_avg_pool2d(found, 1)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "shape", "count"),
    [
        (lambda: layers(nn.Linear(8, 6), nn.BatchNorm1d(6, affine=False), nn.ReLU()), (8,), 1),
        (lambda: layers(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Conv1d(4, 2, 3)), (2, 9), 2),
        (lambda: layers(nn.BatchNorm2d(2), nn.Conv2d(2, 4, 3), nn.Hardtanh()), (2, 6, 6), 1),
        (lambda: Wired(lambda x, a, b: b(torch.cat([x, a(x)], 1)), nn.Conv2d(2, 2, 1),
                       nn.Conv2d(4, 2, 3)), (2, 6, 6), 2),
        (lambda: Wired(lambda x, a: a(torch.relu(a(x))), nn.Conv2d(2, 2, 1)), (2, 6, 6), 2),
        (lambda: Wired(lambda x, a, b: b(a(x).mean((2, 3))), nn.Conv2d(2, 4, 3),
                       nn.Linear(4, 2)), (2, 6, 6), 2),
        (lambda: Wired(_excite, nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1)), (2, 6, 6), 2),
        (lambda: Wired(_attention, nn.Linear(16, 48), nn.Linear(16, 16)), (5, 16), 4),
    ],
    ids=["linear-bn", "conv1d", "bn-first", "cat", "shared", "mean", "squeeze-excite", "attention"],
)  # fmt: skip
def test_all_products_run_in_integers(
    make: Callable[[], Any], shape: tuple[int, ...], count: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    values = torch.randn(4, *shape)
    made = trained(make(), values)
    path = made.export(tmp_path / "m.onnx", at_least=1.0)
    (name,) = made.examples
    assert len(work(path, **{name: values})) == count
    with torch.no_grad():
        expected = made.module.eval()(values).numpy()
    (got,) = ran(path, **{name: values}).values()
    assert np.abs(got - expected).max() <= 0.05 * np.abs(expected).max() + 1e-6


@pytest.mark.parametrize(("per_channel", "reduce_range"), [(True, False), (False, True)])
def test_weights_have_the_scales_and_the_bits_that_were_asked_for(
    per_channel: bool, reduce_range: bool, tmp_path: Path
) -> None:
    module = layers(nn.Conv2d(1, 4, 3), nn.ReLU())
    made = trained(module, images(), per_channel=per_channel, reduce_range=reduce_range)
    model = onnx.load(made.export(tmp_path / "m.onnx"))
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    node = next(n for n in model.graph.node if tensors.get(n.input[0], np.empty(0)).ndim == 4)
    assert np.abs(tensors[node.input[0]].astype(int)).max() == (64 if reduce_range else 127)
    assert tensors[node.input[1]].size == (4 if per_channel else 1)


@pytest.mark.slow
def test_a_fixed_batch_stays_fixed(tmp_path: Path) -> None:
    module = Wired(lambda x, a: a(x.reshape(3, -1)), nn.Linear(4, 2))
    with pytest.raises(errors.CandidateError, match="dynamic_batch=False"):
        prepare(module, torch.rand(3, 2, 2))
    path = trained(module, torch.rand(3, 2, 2), dynamic_batch=False).export(tmp_path / "m.onnx")
    assert BACKEND.open(path, threads=1).inputs[0].shape == (3, 2, 2)


@pytest.mark.slow
def test_batch_norm_with_gamma_zero_trains_and_folds(tmp_path: Path) -> None:
    norm = nn.BatchNorm2d(4)
    module = layers(nn.Conv2d(1, 4, 3), norm, nn.ReLU(), nn.Conv2d(4, 2, 1))
    with torch.no_grad():
        norm.weight[:] = torch.tensor([0.0, 0.0, -1.0, 1.0])
        norm.bias[:] = torch.tensor([50.0, 1.0, 0.0, 0.0])
    made = trained(module, images())
    with torch.no_grad():
        expected = made.module.eval()(images()).numpy()
    (got,) = ran(made.export(tmp_path / "m.onnx"), input=images()).values()
    assert np.abs(got - expected).max() <= 0.02 * np.abs(expected).max()


# ── how it trains ─────────────────────────────────────────────────────────────────────────


def test_before_training_it_is_the_module_but_for_its_weights(story: Story) -> None:
    with torch.no_grad():
        expected = story.original(images())
    assert float((expected - story.foreseen).abs().max()) < 0.02 * float(expected.abs().max())


def test_the_loop_moves_the_weights_through_the_rounding(story: Story) -> None:
    before, after = story.untrained, story.ready.module.state_dict()
    moved = [n for n in before if n.endswith("weight") and not torch.equal(before[n], after[n])]
    assert {"first.0.weight", "first.1.weight", "third.0.weight", "head.weight"} <= set(moved)
    assert not torch.equal(before["first.1.running_var"], after["first.1.running_var"])
    assert all(is_seen(part) for part in roundings(story.ready.module).values())


def test_training_lowers_a_loss_that_rounding_raised() -> None:
    torch.manual_seed(0)
    teacher = layers(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    with torch.no_grad():
        teacher[0].weight[0] *= 100  # one channel sets the scale of all
        teacher[2].weight[:, 0] /= 100
    values = torch.randn(256, 8)
    with torch.no_grad():
        wanted = teacher(values)
    module = trained(teacher, values).module
    losses = []
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    for _ in range(120):
        loss = (module(values) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:3])


def test_the_original_is_untouched(story: Story) -> None:
    now = story.original.state_dict()
    assert not story.original.training
    assert all(torch.equal(value, now[name]) for name, value in story.weights.items())


def test_evaluating_teaches_it_nothing(ready: Prepared) -> None:
    ready.module.eval()
    with torch.no_grad():
        first = ready.module(images())  # weights are looked at again, after their last step
        before = {name: value.clone() for name, value in ready.module.state_dict().items()}
        ready.module(100 * images())
        second = ready.module(images())
    after = ready.module.state_dict()
    ready.module.train()
    assert torch.equal(first, second)
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_batch_norm_keeps_its_eps_and_its_momentum() -> None:
    norm = nn.BatchNorm2d(4, eps=0.5, momentum=0.25)
    module = prepare(layers(nn.Conv2d(1, 4, 3, bias=False), norm), images()).module
    (node,) = (node for node in module.graph.nodes if "batch_norm" in str(node.target))
    assert node.args[5:8] == (True, 0.25, 0.5)
    module.eval()
    assert node.args[5:8] == (False, 0.25, 0.5)


def test_dropout_in_attention_stops_in_evaluation() -> None:
    torch.manual_seed(0)
    module = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.5, batch_first=True)
    made = trained(module, torch.rand(2, 3, 8))
    values = torch.rand(2, 3, 8)
    assert not torch.equal(made.module(values), made.module(values))
    made.module.eval()
    assert torch.equal(made.module(values), made.module(values))


def test_it_can_be_exported_along_the_way_and_train_on(tmp_path: Path) -> None:
    module = layers(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 2))
    made = prepare(module, images())
    fit(made.module, steps=2)
    first = made.export(tmp_path / "first.onnx").read_bytes()
    assert made.module.training
    fit(made.module, steps=2)
    second = made.export(tmp_path / "first.onnx").read_bytes()
    assert first != second
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.onnx"]


@pytest.mark.slow
def test_a_saved_state_goes_on_where_it_was(
    ready: Prepared, exported: Path, tmp_path: Path
) -> None:
    resumed = prepare(Net(), images())
    resumed.module.load_state_dict(ready.module.state_dict())
    assert resumed.export(tmp_path / "m.onnx").read_bytes() == exported.read_bytes()


def test_the_short_way_is_the_long_way(tmp_path: Path) -> None:
    seen = []

    def loop(module: Any) -> None:
        seen.append(module)
        fit(module, steps=1)

    path = quantization_aware(
        layers(nn.Conv2d(1, 2, 3), nn.ReLU()),
        loop,
        images(),
        tmp_path / "m.onnx",
        per_channel=False,
    )
    assert path == tmp_path / "m.onnx"
    assert roundings(seen[0])


# ── what is refused ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ("digits", "'input' must be a torch tensor or a numpy array of numbers, not str"),
        ({"input": [1, 2]}, "'input' must be a torch tensor or a numpy array of numbers, not list"),
        (np.array(["a"]), "not ndarray"),
        ((), "no example inputs were given"),
        ({}, "no example inputs were given"),
        ((torch.rand(2, 4), torch.rand(2, 4)), r"2 example inputs were given.* takes 1: input"),
        ({"a": torch.rand(2, 4), "b": torch.rand(2, 4)}, "2 example inputs were given"),
        (torch.tensor(1.0), r"'input' has shape \(\)"),
        (torch.rand(0, 4), r"'input' has shape \(0, 4\)"),
    ],
)
def test_examples_of_the_wrong_kind(example: Any, message: str) -> None:
    with pytest.raises(errors.UsageError, match=message):
        prepare(layers(nn.Linear(4, 2)), example)


@pytest.mark.parametrize(
    ("module", "error", "message"),
    [
        ("net.pt", errors.UsageError, "expected a torch.nn.Module to train, not str"),
        (nn.Linear(4, 2).double(), errors.UsageError, r"parameters of torch.float64.*\.float\(\)"),
        (nn.Sequential(nn.ReLU()), errors.QuantizationError, "no convolution and no linear layer"),
        (nn.Linear(5, 2), errors.CandidateError, "Linear cannot be traced by torch.export"),
        (
            Wired(lambda x, a: a(x) if x.sum() > 0 else -a(x), nn.Linear(4, 2)),
            errors.CandidateError,
            "Wired cannot be traced by torch.export",
        ),
        (
            Wired(lambda x, a: a(x) * (2 if a.training else 1), nn.Linear(4, 2)),
            errors.CandidateError,
            "something else than in evaluation mode",
        ),
    ],
    ids=["no module", "double", "no layers", "other shape", "branches", "asks its mode"],
)
def test_modules_that_cannot_be_trained(
    module: Any, error: type[errors.GateError], message: str
) -> None:
    with pytest.raises(error, match=message):
        prepare(module, torch.rand(2, 4))


def test_pruning_that_is_not_permanent(tmp_path: Path) -> None:
    from torch.nn.utils import prune

    layer = nn.Linear(4, 2)
    prune.l1_unstructured(layer, "weight", 0.5)
    with pytest.raises(errors.CandidateError, match=r"cannot be copied.*prune\.remove"):
        prepare(nn.Sequential(layer), torch.rand(2, 4))


def test_output_names_of_another_number() -> None:
    with pytest.raises(errors.UsageError, match="the module has 1 outputs"):
        prepare(layers(nn.Linear(4, 2)), torch.rand(2, 4), output_names=["a", "b"])


@pytest.fixture
def small() -> Prepared:
    return prepare(layers(nn.Linear(4, 2)), torch.rand(2, 4))


def _nan(module: Any) -> None:
    module(torch.rand(2, 4))
    with torch.no_grad():
        next(module.parameters())[0] = float("nan")


def _off(module: Any) -> None:
    from torchao.quantization.pt2e import disable_fake_quant

    module(torch.rand(2, 4))
    module.apply(disable_fake_quant)


def _cast(module: Any) -> None:
    module(torch.rand(2, 4))
    module.half()


@pytest.mark.parametrize(
    ("loop", "message"),
    [
        (lambda module: None, "no batch went through the prepared module"),
        (lambda module: module.eval()(torch.rand(2, 4)), "no batch went through"),
        (_nan, "training left NaN or infinite values in 0.weight"),
        (_off, "left rounding switched off"),
        (_cast, "the loop cast 0.weight"),
    ],
    ids=["nothing trained", "only evaluated", "NaN", "rounding off", "half"],
)
def test_a_loop_that_leaves_it_in_a_state(
    small: Prepared, loop: Callable[[Any], object], message: str, tmp_path: Path
) -> None:
    loop(small.module)
    with pytest.raises(errors.QuantizationError, match=message):
        small.export(tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_layers_that_stay_in_floating_point_are_named(tmp_path: Path) -> None:
    module = layers(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 4, 3))
    made = trained(module, images())
    message = r"would do [\d.]+% of the work, and 80% is asked for: .*\(ConvTranspose, [\d.]+%\)"
    with pytest.raises(errors.QuantizationError, match=message):
        made.export(tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
    assert made.export(tmp_path / "m.onnx", at_least=0.1).is_file()


def test_a_loop_that_diverges_is_told_so(tmp_path: Path) -> None:
    def loop(module: Any) -> None:
        module.train()
        module(torch.full((2, 4), torch.nan))

    with pytest.raises(errors.QuantizationError, match="NaN or infinite values"):
        quantization_aware(layers(nn.Linear(4, 2)), loop, torch.rand(2, 4), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_errors_of_the_loop_pass_through(tmp_path: Path) -> None:
    def loop(module: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        quantization_aware(layers(nn.Linear(4, 2)), loop, torch.rand(2, 4), tmp_path / "m.onnx")
    with pytest.raises(errors.UsageError, match="`fit` must be a function"):
        quantization_aware(layers(nn.Linear(4, 2)), 3, torch.rand(2, 4), tmp_path / "m.onnx")  # type: ignore[arg-type]


def test_paths_that_cannot_be_written(small: Prepared, tmp_path: Path) -> None:
    small.module(torch.rand(2, 4))
    with pytest.raises(errors.UsageError, match=r"name it \*\.onnx"):
        small.export(tmp_path / "model.pt")
    (tmp_path / "file").touch()
    with pytest.raises(errors.UsageError, match="cannot write"):
        small.export(tmp_path / "file" / "m.onnx")


@pytest.mark.parametrize("missing", ["torch", "torchao", "onnxscript"])
def test_without_torch_it_says_what_to_install(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> Any:
        if name == missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return sys.modules[name]

    monkeypatch.setattr(training, "import_module", absent)
    with pytest.raises(errors.UsageError, match=rf"needs {missing}: .*int8-gate\[torch\]"):
        prepare(nn.Linear(4, 2), torch.rand(2, 4))


# ── the examples ──────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "told"),
    [("qat", ["FAIL", "PASS"]), ("prune", ["PASS"]), ("vision", ["PASS"]), ("text", ["PASS"])],
)
def test_the_examples_tell_their_story(name: str, told: list[str], tmp_path: Path) -> None:
    script = EXAMPLES / f"{name}.py"
    if not script.is_file():
        pytest.skip("the package is installed without its examples")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script), "out"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(told)
    assert all(outcome in line for outcome, line in zip(told, lines, strict=True))
