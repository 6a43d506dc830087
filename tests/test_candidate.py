"""Candidates from files, MLflow folders, URIs and torch modules."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.onnx_models import cnn, images, save

from gate.candidate import fetch, input_columns
from gate.errors import CandidateError, UsageError


def no_examples(parameters: tuple[str, ...]) -> Mapping[str, Any]:
    raise AssertionError("an ONNX candidate is not traced")


def fetched(candidate: Any, scratch: Path, *, trust: bool = False) -> Any:
    return fetch(candidate, scratch=scratch, trust=trust, examples=no_examples)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def test_an_onnx_file_is_taken_where_it_lies(tmp_path: Path, scratch: Path) -> None:
    path = save(cnn(), tmp_path / "model.onnx")
    source = fetched(path, scratch)
    assert (source.onnx, source.name, source.reference) == (path, str(path), None)
    assert list(scratch.iterdir()) == []


def test_a_missing_file_is_a_usage_error(tmp_path: Path, scratch: Path) -> None:
    with pytest.raises(UsageError, match=r"no-such\.onnx does not exist"):
        fetched(tmp_path / "no-such.onnx", scratch)


@pytest.mark.parametrize("endless", ["/dev/zero", "pipe"])
def test_what_never_ends_is_no_candidate(tmp_path: Path, scratch: Path, endless: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "model.onnx").symlink_to(tmp_path / endless)
    with pytest.raises(UsageError, match="is a device or a pipe: name a file"):
        fetched(tmp_path / "model.onnx", scratch)


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "model.pkl"])
def test_pickles_are_refused_even_when_trusted(tmp_path: Path, scratch: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"anything")
    with pytest.raises(UsageError, match="pickled torch file"):
        fetched(tmp_path / name, scratch, trust=True)


def test_a_pt2_file_needs_trust(tmp_path: Path, scratch: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(b"anything")
    with pytest.raises(UsageError, match=r"runs code when it is loaded; pass --trust"):
        fetched(tmp_path / "model.pt2", scratch)


def test_a_pt2_file_that_is_none_is_a_candidate_error(tmp_path: Path, scratch: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "model.pt2").write_bytes(b"anything")
    with pytest.raises(CandidateError, match=r"not a \.pt2 program"):
        fetched(tmp_path / "model.pt2", scratch, trust=True)


def test_something_that_is_no_model_is_a_usage_error(scratch: Path) -> None:
    pytest.importorskip("torch")
    with pytest.raises(UsageError, match="expected a path, an MLflow URI"):
        fetched(42, scratch)


# ── MLflow folders ────────────────────────────────────────────────────────────────────────


def mlflow_folder(folder: Path, mlmodel: str, *, model: bool = True) -> Path:
    folder.mkdir()
    (folder / "MLmodel").write_text(mlmodel)
    if model:
        save(cnn(), folder / "model.onnx")
    return folder


def test_the_onnx_flavour_is_found_by_what_mlmodel_says(tmp_path: Path, scratch: Path) -> None:
    folder = mlflow_folder(
        tmp_path / "m", "flavors: {onnx: {data: model.onnx}, python_function: {}}"
    )
    assert fetched(folder, scratch).onnx == folder / "model.onnx"


def test_the_pytorch_flavour_needs_trust(tmp_path: Path, scratch: Path) -> None:
    folder = mlflow_folder(tmp_path / "m", "flavors: {pytorch: {model_data: data}}")
    with pytest.raises(UsageError, match=r"unpickles data, which runs code .* it; pass --trust"):
        fetched(folder, scratch)


def test_code_beside_the_pytorch_flavour_is_told(tmp_path: Path, scratch: Path) -> None:
    folder = mlflow_folder(tmp_path / "m", "flavors: {pytorch: {model_data: data, code: code}}")
    with pytest.raises(UsageError, match="and imports what lies in code; pass --trust"):
        fetched(folder, scratch)


@pytest.mark.parametrize(
    ("mlmodel", "message"),
    [
        ("flavors: {sklearn: {}}", "has the flavours sklearn"),
        ("flavors: {transformers: {model_binary: ../other}}", "points outside its folder"),
        ("flavors: {transformers: {model_binary: 7}}", "points outside its folder"),
        ("flavors: {transformers: {model_binary: model}}", "'model', which holds no config"),
        ("flavors: {transformers: {}}", "was logged without its weights"),
        ("flavors: {transformers: {peft_adaptor: peft}}", "is an adapter"),
        ("flavors: {onnx: {data: ../../etc/passwd}}", "points outside its folder"),
        ("flavors: {onnx: {data: /etc/passwd}}", "points outside its folder"),
        ("flavors: {onnx: {}}", "points outside its folder"),
        ("flavors: {onnx: {data: other.onnx}}", "names 'other.onnx', which is missing"),
        ("flavors: [", "MLmodel file is damaged"),
        ("{}", "MLmodel file is damaged"),
        ("flavors: !!python/object/apply:os.system ['true']", "MLmodel file is damaged"),
    ],
)
def test_what_mlmodel_may_not_say(
    tmp_path: Path, scratch: Path, mlmodel: str, message: str
) -> None:
    folder = mlflow_folder(tmp_path / "m", mlmodel)
    with pytest.raises(CandidateError, match=message):
        fetched(folder, scratch, trust=True)


def test_a_folder_of_nothing_that_is_known(tmp_path: Path, scratch: Path) -> None:
    with pytest.raises(
        CandidateError, match="folder without MLmodel, which MLflow writes, and without"
    ):
        fetched(tmp_path, scratch)


# ── MLflow registry ───────────────────────────────────────────────────────────────────────


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path) -> str:
    """A local store with `digits` version 1, alias champion."""
    import mlflow

    shutil.copy(empty_store, tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.create_registered_model("digits")
    folder = mlflow_folder(tmp_path / "live", "flavors: {onnx: {data: model.onnx}}")
    client.create_model_version("digits", folder.as_uri())
    client.set_registered_model_alias("digits", "champion", "1")
    return str(folder)


@pytest.mark.parametrize("uri", ["models:/digits/1", "models:/digits@champion"])
def test_a_registered_version_is_copied_and_named(registry: str, scratch: Path, uri: str) -> None:
    source = fetched(uri, scratch)
    assert source.name == "models:/digits/1"
    assert source.onnx.is_relative_to(scratch)
    assert source.onnx.read_bytes() == (Path(registry) / "model.onnx").read_bytes()


@pytest.mark.parametrize("uri", ["models:/digits/9", "models:/nobody/1", "models:/digits@nobody"])
def test_a_version_that_is_not_there(registry: str, scratch: Path, uri: str) -> None:
    with pytest.raises(CandidateError, match="cannot be fetched from sqlite"):
        fetched(uri, scratch)


# ── torch ─────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def module() -> Any:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 10)
    ).eval()


def examples_of(parameters: tuple[str, ...]) -> Mapping[str, Any]:
    return {"image": images(1)}


def test_a_module_becomes_onnx_that_computes_the_same(module: Any, scratch: Path) -> None:
    from gate import backends

    source = fetch(module, scratch=scratch, trust=False, examples=examples_of)
    assert source.name == "module:Sequential"
    runner = backends.get("onnxruntime").open(source.onnx, threads=1)
    assert [spec.name for spec in runner.inputs] == ["image"]
    feeds = {"image": images(5)}
    assert source.reference is not None
    expected, got = source.reference(feeds), runner.run(feeds)
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, atol=1e-5)


def test_the_pytorch_flavour_is_unpickled_when_trusted(
    module: Any, tmp_path: Path, scratch: Path
) -> None:
    import torch

    told = f"flavors: {{pytorch: {{model_data: data, pytorch_version: {torch.__version__}}}}}"
    folder = mlflow_folder(tmp_path / "m", told, model=False)
    (folder / "data").mkdir()
    torch.save(module, folder / "data" / "model.pth")
    (folder / "data" / "pickle_module_info.txt").write_text("mlflow.pytorch.pickle_module")
    source = fetch(folder, scratch=scratch, trust=True, examples=examples_of)
    assert source.reference is not None
    with torch.no_grad():
        expected = module(torch.from_numpy(images(3))).numpy()
    (value,) = source.reference({"image": images(3)}).values()
    np.testing.assert_allclose(value, expected, atol=1e-6)


def test_the_pytorch_flavour_as_a_traced_program(
    module: Any, tmp_path: Path, scratch: Path
) -> None:
    import torch

    folder = mlflow_folder(tmp_path / "m", "flavors: {pytorch: {model_data: data}}", model=False)
    (folder / "data").mkdir()
    program = torch.export.export(module, (torch.from_numpy(images(2)),))
    torch.export.save(program, folder / "data" / "model.pt2")
    with pytest.raises(UsageError, match=r"a \.pt2 file runs code when it is loaded"):
        fetched(folder, scratch)
    source = fetched(folder, scratch, trust=True)
    assert source.reference is not None
    with torch.no_grad():
        expected = module(torch.from_numpy(images(2))).numpy()
    (value,) = source.reference({"input": images(2)}).values()
    np.testing.assert_allclose(value, expected, atol=1e-6)


def test_a_pickle_that_cannot_be_loaded_is_a_candidate_error(
    module: Any, tmp_path: Path, scratch: Path
) -> None:
    folder = mlflow_folder(tmp_path / "m", "flavors: {pytorch: {model_data: data}}", model=False)
    (folder / "data").mkdir()
    (folder / "data" / "model.pth").write_bytes(b"anything")
    (folder / "data" / "pickle_module_info.txt").write_text("mlflow.pytorch.pickle_module")
    with pytest.raises(CandidateError, match=r"cannot be unpickled: .*; the gate has to find"):
        fetched(folder, scratch, trust=True)


def test_the_hash_of_a_module_is_that_of_its_weights(module: Any, tmp_path: Path) -> None:
    import torch

    hashes = []
    for turn in range(3):
        folder = tmp_path / str(turn)
        folder.mkdir()
        if turn == 2:
            with torch.no_grad():
                module[0].bias[0] += 1.0
        source = fetch(module, scratch=folder, trust=False, examples=examples_of)
        hashes.append(source.sha256)
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.slow
def test_the_same_weights_in_other_code_are_another_candidate(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self, slope: float) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.linear = torch.nn.Linear(64, 10).bfloat16()
            self.slope = slope

        def forward(self, image: Any) -> Any:
            return self.linear(image.flatten(1).bfloat16()).float() * self.slope

    hashes = []
    for turn, slope in enumerate((1.0, 1.0, 2.0)):
        (tmp_path / str(turn)).mkdir()
        module = Net(slope).train()
        source = fetch(module, scratch=tmp_path / str(turn), trust=False, examples=examples_of)
        assert module.training  # the caller's module is left as it was
        hashes.append(source.sha256)
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_pt2_program_becomes_onnx(module: Any, tmp_path: Path, scratch: Path) -> None:
    import torch

    batch = torch.export.Dim("batch")
    program = torch.export.export(
        module, (torch.from_numpy(images(2)),), dynamic_shapes=({0: batch},)
    )
    path = tmp_path / "model.pt2"
    torch.export.save(program, path)
    source = fetched(path, scratch, trust=True)
    assert onnx.load(source.onnx).graph.node
    assert source.reference is not None
    assert next(iter(source.reference({"input": images(3)}).values())).shape == (3, 10)


def test_columns_are_found_by_name_or_by_being_the_only_one() -> None:
    shapes = {"image": (9, 1, 8, 8), "target": (9,), "ink": (9,)}
    assert input_columns(("image",), shapes) == ("image",)
    assert input_columns(("input",), shapes) == ["image"]
    with pytest.raises(UsageError, match="pass example_inputs"):
        input_columns(("left", "right"), shapes)
