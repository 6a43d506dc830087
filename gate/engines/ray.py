"""Shards on a Ray cluster: an existing one by RAY_ADDRESS, or one for the run.

Workers are core actors, each with its models and its data open.
"""

import logging
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gate.engines._ray_crew import RayCrew, first_line
from gate.errors import EngineError, UsageError

_ADDRESS = "RAY_ADDRESS"
_OWN = (None, "", "local")
"""Addresses that mean a cluster for this run alone."""
_PROBE_S = 5.0
_CHATTER = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


class Ray:
    """The engine; it holds no state."""

    key = "ray"

    def demand(self) -> None:
        """Ray is installed, and where an address is given, something answers there.

        Raises:
            UsageError, EngineError: as `Engine.demand`.
        """
        ray, address = _imported(), os.environ.get(_ADDRESS)
        if not ray.is_initialized() and address not in _OWN:
            _demand_answer(address or "")

    @contextmanager
    def crew(self, *, workers: int | None, threads: int) -> Iterator[RayCrew]:
        """As `Engine.crew`; as many workers as the cluster has room for, unless it is said."""
        ray = _connected()
        with _as_engine_error(ray):
            found = RayCrew(ray, workers, threads)
            try:
                yield found
            finally:
                found.dismiss()


ENGINE = Ray()


# ── the cluster ───────────────────────────────────────────────────────────────────────────


def _connected() -> Any:
    """Ray, connected to a cluster; it stays so until the process ends: policies of a set share it.

    Raises:
        UsageError: Ray is not installed, or the address is none.
        EngineError: the cluster cannot be reached, or has another version.
    """
    ray = _imported()
    if not ray.is_initialized():
        with _own_signals():
            _start(ray, os.environ.get(_ADDRESS))
    return ray


@contextmanager
def _as_engine_error(ray: Any) -> Iterator[None]:
    """What Ray itself raises, such as for want of disk, is no defect of the gate."""
    try:
        yield
    except ray.exceptions.RayError as error:
        raise EngineError(f"Ray cannot go on: {first_line(error)}") from error


def _imported() -> Any:
    """Raises UsageError where Ray is not installed."""
    for name, value in _CHATTER.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            "--engine ray needs Ray, which is not installed: pip install 'int8-gate[ray]'"
        ) from error
    return ray


def _start(ray: Any, address: str | None) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address in _OWN:
            ray.init(address="local", include_dashboard=False, **quiet)
        else:
            ray.init(address=_demand_answer(address or ""), **quiet)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        told = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
        raise EngineError(
            f"the Ray cluster at {address or 'this machine'} cannot be used: {told} Start one with "
            f"`ray start --head`, give its address in {_ADDRESS}, and install the same Ray and "
            "Python there; without it the gate starts one of its own"
        ) from error


def _demand_answer(address: str) -> str:
    """The address, where something listens there: Ray itself would wait for it without an end.

    Raises:
        UsageError: it is none.
        EngineError: nothing answers.
    """
    known = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir())) / "ray/ray_current_cluster"
    found = known.read_text("utf-8").strip() if address == "auto" and known.is_file() else address
    host, _, port = found.rpartition(":")
    if found == "auto":
        raise EngineError(f"{_ADDRESS} is auto, and no Ray cluster runs here: `ray start --head`")
    if "://" in found or not (host and port.isdigit()):
        raise UsageError(
            f"{_ADDRESS} is {found!r}: write `auto`, or the head's host:port (6379 by default). "
            "From outside a cluster, submit the run: `ray job submit -- gate run … --engine ray`"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_S).close()
    except OSError as error:
        raise EngineError(
            f"no Ray cluster answers at {found} ({error}): start its head, or mend {_ADDRESS}"
        ) from error
    return address


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray takes SIGTERM for itself, and would end the process with an exit code of its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
