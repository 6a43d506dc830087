"""No network, for a process, its threads and all that it starts."""

import os
import subprocess
import sys

import pytest

from gate import offline

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="seccomp is Linux's")
_PROGRAM = """
import ctypes, errno, os, socket, subprocess, sys, threading
from gate import offline
before = socket.socketpair()
waiting = threading.Event()
def late():
    waiting.wait()
    {act}
thread = threading.Thread(target=late)
thread.start()
assert offline.begin() is None
waiting.set()
thread.join()
{act}
"""


def said(act: str) -> str:
    program = _PROGRAM.format(act=act)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


@LINUX
@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK"])
def test_no_socket_is_made_by_any_thread(family: str) -> None:
    act = f"print(ctypes.CDLL(None, use_errno=True).socket(socket.{family}, 2, 0))"
    assert said(act) == "-1\n-1\n"


@LINUX
def test_what_it_starts_has_none_either() -> None:
    inner = "import urllib.request as u; u.urlopen('http://127.0.0.1:9')"
    run = f"subprocess.run([sys.executable, '-c', {inner!r}], capture_output=True)"
    act = f"print({run}.stderr[-60:])"
    assert said(act).count("Network is unreachable") == 2


@LINUX
@pytest.mark.parametrize(
    ("call", "error"), [("101, 0, 0, 0, 0", "EPERM"), ("425, 8, 0", "ENOSYS"),
                        ("310, 1, 0, 0, 0, 0, 0", "EPERM"), ("311, 1, 0, 0, 0, 0, 0", "EPERM"),
                        ("438, 0, 0, 0", "EPERM"), ("0x40000000 + 41, 2, 1, 0", "EPERM")],
)  # fmt: skip
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="by x86-64's numbers")
def test_ways_around_are_refused(call: str, error: str) -> None:
    act = (
        f"libc = ctypes.CDLL(None, use_errno=True); libc.syscall({call}); "
        f"print(errno.errorcode[ctypes.get_errno()])"
    )
    assert said(act) == f"{error}\n{error}\n"


@LINUX
def test_pipes_pairs_and_files_go_on() -> None:
    act = (
        "pair = socket.socketpair(); pair[0].send(b'x'); before[0].send(b'y'); "
        "print(pair[1].recv(1), before[1].recv(1), open('/proc/self/comm').read() != '')"
    )
    assert said(act) == "b'x' b'y' True\n" * 2


@LINUX
def test_a_hidden_process_stays_so() -> None:
    program = (
        "import ctypes; from gate import offline; offline.hide(); "
        "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout == b"0\n"


def test_a_system_that_has_no_filter_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "has no filter that is known here" in str(offline.begin())
    offline.hide()
