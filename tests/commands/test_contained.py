"""What runs models is kept from the network, and from a folder that others share.

A decoder of a plugin stands for code that a model came to run.
"""

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.linked import linked
from support.project import CNN, Project

from gate import limits, offline
from gate.cli import exit_code_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="seccomp is Linux's")
_PLUGIN = """
import os, socket, sys, tempfile

def act(outputs):
    {act}
    raise SystemExit("acted")

DECODERS = {{"act": act}}
"""
_CALL = "socket.create_connection(('127.0.0.1', {port}), 5).sendall(b'secret')"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        yield server


def heard(listener: socket.socket) -> bytes:
    try:
        connection, _ = listener.accept()
    except TimeoutError:
        return b""
    with connection:
        return connection.recv(100)


def run(
    tmp_path: Path, act: str, *options: str, tracker: str = "none"
) -> subprocess.CompletedProcess[str]:
    project = Project(tmp_path)
    (tmp_path / "act.py").write_text(_PLUGIN.format(act=act))
    project.spec["build"]["decode"] = "act"
    project.write()
    return subprocess.run(
        [sys.executable, "-m", "gate", "run", str(project.policy), "--candidate", str(CNN),
         "--tracker", tracker, "--threads", "1", "--quiet", "--plugin", str(tmp_path / "act.py"),
         *options],
        cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def test_what_runs_models_reaches_no_network(tmp_path: Path, listener: socket.socket) -> None:
    done = run(tmp_path, _CALL.format(port=listener.getsockname()[1]))
    assert done.returncode == 4
    assert "Network is unreachable" in done.stderr
    assert heard(listener) == b""


def test_unless_that_is_asked_for(tmp_path: Path, listener: socket.socket) -> None:
    done = run(tmp_path, _CALL.format(port=listener.getsockname()[1]), "--network")
    assert "Network is unreachable" not in done.stderr
    assert heard(listener) == b"secret"


def test_a_tracker_is_reached_nevertheless(
    tmp_path: Path, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the process that runs no model."""
    asked: list[bytes] = []

    def refuse() -> None:
        listener.settimeout(60)
        connection, _ = listener.accept()
        with connection:
            asked.append(connection.recv(4096))
            connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        listener.close()

    thread = threading.Thread(target=refuse)
    thread.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{listener.getsockname()[1]}")
    run(tmp_path, "pass", tracker="mlflow")
    thread.join()
    assert b"mlflow" in asked[0]


@pytest.mark.parametrize("end", ["os.abort()", "raise ValueError"])
def test_temporary_files_are_its_own_and_go(tmp_path: Path, end: str) -> None:
    act = f"open(tempfile.mkstemp()[1], 'w'); print(tempfile.gettempdir(), flush=True); {end}"
    done = run(tmp_path, act)
    assert done.returncode == 4, done.stderr
    folder = Path(re.findall(r"\S+/gate-\S+", done.stdout)[0])
    assert not folder.exists()


def test_its_folder_is_closed_to_others_and_its_memory_the_machines(tmp_path: Path) -> None:
    act = (
        "import resource; print('limit', resource.getrlimit(resource.RLIMIT_DATA)); "
        "print('mode', oct(os.stat(tempfile.gettempdir()).st_mode), flush=True)"
    )
    said = run(tmp_path, act).stdout
    assert "mode 0o40700\n" in said
    there = limits.machine_gib()
    assert there is not None
    most = int(there * limits.GIB)
    assert f"limit ({most}, {most})" in said


def test_where_the_system_refuses_it_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(offline, "begin", lambda: "Function not implemented")
    monkeypatch.setattr(limits, "limit", lambda **_: None)
    with linked():
        assert exit_code_of(["diagnose", str(tmp_path)]) != 0
    told = "gate: models are not kept from the network here: Function not implemented\n"
    assert told in capsys.readouterr().err


def test_no_folder_for_temporary_files_is_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception before the command begins would end Python with 1, as a FAIL does."""
    program = (
        "import tempfile\n"
        "def none(**_): raise FileNotFoundError(2, 'No usable temporary directory found')\n"
        "tempfile.mkdtemp = none\n"
        "from gate.cli import main\n"
        "main(['run', 'policy.yaml'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 4
    assert "no temporary folder to be had" in done.stderr
    assert "Traceback" not in done.stderr
