"""A record, a folder as a run leaves it, and stores: copies of one empty template, and real ones.

Real ones are started once a session and emptied before each test that asks for one.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from trackers import links, stores
from trackers.releases import a_move

from gate import recipes
from gate.policy import Policy
from gate.records import (
    CandidateInfo,
    Comparison,
    Finding,
    GateRecord,
    Int8Info,
    PolicySource,
    Provenance,
    SplitInfo,
    Splits,
    TensorInfo,
    Verdict,
)
from gate.trackers import _mlflow_store as store

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
Kept = tuple[GateRecord, Path]
Server = tuple[str, str]
"""Its address, and the database behind it."""


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def budgets() -> list[dict[str, Any]]:
    return [
        {"metric": "accuracy", "max_drop": 0.01},
        {"metric": "accuracy", "max_drop": 0.03, "each": "site"},
        {"metric": "size", "max_ratio": 0.5},
    ]


def comparison(metric: str = "accuracy", slice_: str | None = None, **values: Any) -> Comparison:
    shape = {"metric": metric, "slice": slice_, "n": 1000, "method": "tango"}
    numbers = {"reference": 0.961, "int8": 0.959, "degradation": 0.002}
    return Comparison(**shape | numbers | {"lower": -0.001, "upper": 0.005} | values)


def finding(budget: str, made: Comparison, outcome: str = "pass") -> Finding:
    return Finding(
        budget=budget,
        slice=made.slice,
        comparison=made,
        outcome=outcome,
        reason=f"{budget} came to {outcome}",
        blocking=outcome not in ("pass", "waived"),
    )


def build_record(number: int = 0, *, outcome: str = "pass", **changes: Any) -> GateRecord:
    policy = Policy.model_validate(
        {
            "version": 1,
            "model": "digits-cnn",
            "task": "classification",
            "build": {"recipe": "static", "calibration": {"path": "d/calibration.npz"}},
            "judge": {
                "held_out": {"path": "d/held_out.npz"},
                "expect_fp32": "unknown",
                "budgets": budgets(),
            },
        }
    )
    whole = comparison()
    sites = [comparison(slice_=f"site={name}") for name in ("north", "süd, [a=b]/c:d")]
    size = comparison("size", reference=90000.0, int8=30000.0, degradation=0.33, quantity="ratio")
    findings = (
        finding("accuracy.max_drop", whole, outcome),
        *(finding("accuracy.max_drop[each site]", site) for site in sites),
        finding("size.max_ratio", size),
    )
    created = START + timedelta(hours=number)
    record = GateRecord(
        id=f"{created:%Y%m%dT%H%M%S%fZ}-{sha(f'candidate {number}')[:12]}",
        created=created,
        model="digits-cnn",
        stage="pr",
        policy=policy,
        policy_source=PolicySource(file="digits.yaml", lines={}),
        candidate=CandidateInfo(
            source="models:/digits-cnn/3",
            sha256=sha(f"candidate {number}"),
            fp32_sha256=sha("fp32"),
            bytes=90000,
            inputs=(TensorInfo(name="x", dtype="float32", shape=(None, 4)),),
            outputs=(TensorInfo(name="y", dtype="float32", shape=(None, 2)),),
            opset=17,
            steps=(),
        ),
        int8=Int8Info(
            sha256=sha("int8"),
            bytes=30000,
            recipe=recipes.RECIPES["static"],
            quantized_nodes=("conv",),
            skipped_nodes=(),
            int8_share=1.0,
            kernels={"QLinearConv": 1},
        ),
        splits=Splits(
            held_out=SplitInfo(
                source="d/held_out.npz", sha256=sha("held"), examples=1000, duplicates=0
            ),
            calibration=SplitInfo(
                source="d/calibration.npz", sha256=sha("calibration"), examples=256, duplicates=1
            ),
        ),
        preprocessing_sha256=sha("preprocessing"),
        baseline=(),
        comparisons=(whole, *sites, size),
        alpha=0.05,
        verdict=Verdict(outcome=outcome, findings=findings),
        provenance=Provenance(
            git="a" * 40 + "-dirty",
            versions={"onnxruntime": "1.31.1", "onnx": "1.23.2", "numpy": np.__version__},
            cpu={"model": "Xeon", "architecture": "x86_64", "features": ["avx512_vnni"]},
            seed=7,
            policy_sha256=sha("policy"),
            threads=2,
            batch_size=64,
        ),
        durations={"quantize": 1.5, "evaluate": 2.0},
        examples_evaluated=1000,
        examples_total=1000,
        rows_sha256=sha("rows"),
    )
    return record.model_copy(update=changes)


def matmul(path: Path, *, external: bool = False) -> None:
    """y = x · 1, (N, 4) -> (N, 2)."""
    ones = helper.make_tensor("w", TensorProto.FLOAT, [4, 2], np.ones(8, "f4").tobytes(), raw=True)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 2])],
        [ones],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    where = {"location": f"{path.name}.data", "size_threshold": 0} if external else {}
    onnx.save_model(model, path, save_as_external_data=external, **where)


def keep(record: GateRecord, folder: Path, *, external: bool = False) -> Kept:
    """What `gate run` leaves in `--out`, and the record with the hash of its INT8 model."""
    folder.mkdir(parents=True)
    matmul(folder / "model.int8.onnx", external=external)
    files = sorted(folder.glob("model.int8.onnx*"))
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    record = record.model_copy(
        update={"int8": record.int8.model_copy(update={"sha256": digest})}, deep=True
    )
    (folder / "record.json").write_text(record.model_dump_json(), encoding="utf-8")
    (folder / "report.md").write_text("# pass\n\n| a | b |\n|---|---|\n", encoding="utf-8")
    for name in ("rows.npz", "outputs.npz", "model.fp32.onnx", ".record.json.partial"):
        (folder / name).write_bytes(b"bytes")
    return record, folder


@pytest.fixture
def kept(tmp_path: Path) -> Callable[..., Kept]:
    """Make the n-th record and its folder: `kept(2, stage="release", outcome="fail")`."""

    def make(number: int = 0, *, external: bool = False, **changes: Any) -> Kept:
        folder = tmp_path / "out" / str(number)
        return keep(build_record(number, **changes), folder, external=external)

    return make


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path) -> Path:
    """The working folder, with a store in it and no `MLFLOW_TRACKING_URI`."""
    folder = tmp_path / "work"
    folder.mkdir()
    shutil.copyfile(empty_store, folder / "mlflow.db")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    monkeypatch.delenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", raising=False)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def released(
    tmp_path_factory: pytest.TempPathFactory, empty_store: Path
) -> tuple[Path, GateRecord, GateRecord]:
    """A sqlite store with two releases, made once; its artifacts stay where it was made."""
    from gate.trackers.mlflow import TRACKER

    folder = tmp_path_factory.mktemp("released")
    shutil.copyfile(empty_store, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TRACKING_URI", "REGISTRY_URI", "DEFAULT_ARTIFACT_ROOT"):
            patch.delenv(f"MLFLOW_{name}", raising=False)
        patch.chdir(folder)
        kept = [keep(build_record(n, stage="release"), folder / str(n)) for n in range(2)]
        for one in kept:
            TRACKER.log(*one)
    return folder / "mlflow.db", kept[0][0], kept[1][0]


@pytest.fixture
def client(workplace: Path) -> Any:
    from mlflow import MlflowClient

    uri = f"sqlite:///{workplace / 'mlflow.db'}"
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


@pytest.fixture
def two(
    client: Any, workplace: Path, released: tuple[Path, GateRecord, GateRecord]
) -> tuple[GateRecord, GateRecord]:
    """Two releases; production names the first."""
    from gate.trackers.mlflow import TRACKER

    shutil.copyfile(released[0], workplace / "mlflow.db")
    assert TRACKER.registry is not None
    TRACKER.registry.move(a_move(released[1], "1", None))
    return released[1], released[2]


# ── real stores ───────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A PostgreSQL cluster: the URI of its databases, without their name."""
    programs = stores.postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with stores.postgres(programs) as base:
        yield base


@pytest.fixture(scope="session")
def s3() -> Iterator[dict[str, str]]:
    """An S3-compatible store with the bucket `gate`: the environment that reaches it."""
    with stores.s3() as reach:
        yield reach


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Server]:
    """An MLflow server on sqlite, with artifacts in a folder."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copyfile(empty_store, folder / "mlflow.db")
    database = f"sqlite:///{folder / 'mlflow.db'}"
    with stores.server(folder, database, str(folder / "artifacts")) as address:
        yield address, database


@pytest.fixture(scope="session")
def postgres_database(postgres: str) -> str:
    """An MLflow database of that cluster, reached directly."""
    from gate.trackers.mlflow import TRACKER

    stores.execute(f"{postgres}/postgres", "CREATE DATABASE direct")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"{postgres}/direct")
        TRACKER.prepare()
    return f"{postgres}/direct"


@pytest.fixture(scope="session")
def large_server(
    tmp_path_factory: pytest.TempPathFactory, postgres: str, s3: dict[str, str]
) -> Iterator[str]:
    """An MLflow server on PostgreSQL, with artifacts on S3; not emptied by anybody."""
    stores.execute(f"{postgres}/postgres", "CREATE DATABASE served")
    folder = tmp_path_factory.mktemp("large-server")
    with stores.server(folder, f"{postgres}/served", "s3://gate/server", s3) as address:
        yield address


@pytest.fixture
def linked(
    server: tuple[str, str], workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[links.Link]:
    stores.emptied(server[1])
    monkeypatch.setitem(store.PATIENT, "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(store, "_PAUSES_S", (0.01,))
    with links.link(server[0]) as found:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", found.address)
        yield found


@pytest.hookimpl(tryfirst=True)  # before the groups are read
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One worker starts the servers, and runs whatever asks them."""
    served = {"server", "postgres", "s3", "postgres_database", "large_server"}
    kinds = [kind for kind in stores.KINDS if kind != "sqlite"]
    for item in items:
        asked = getattr(getattr(item, "callspec", None), "params", {}).values()
        named = any(isinstance(one, str) and one in kinds for one in asked)
        if named or served & {*getattr(item, "fixturenames", ())}:
            item.add_marker(pytest.mark.xdist_group("stores"))
