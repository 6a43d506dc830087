"""A process that cannot reach any network, whatever code it comes to run.

Linux's seccomp, which asks for no rights: the kernel refuses to make a socket, in this process, its
threads and all that it starts, for good. Pipes and pairs of sockets go on working, and so does what
was open before. Refused as well is what would reach around it: another process's memory and
descriptors, io_uring, and system calls of another architecture.
"""

import ctypes
import errno
import os
import struct
import sys

_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER, _ARCHITECTURE = 0, 4
"""Offsets in what the kernel shows a filter."""
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000
_NO_NEW_PRIVILEGES, _FILTER, _ALL_THREADS = 38, 1, 1
_DUMPABLE = 4
_X32 = 0x40000000
_LINE = "=HBBI"
"""`struct sock_filter`."""
_MACHINES = {
    "x86_64": (
        0xC000003E, 317,
        {"socket": 41, "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311,
         "io_uring_setup": 425, "pidfd_getfd": 438},
    ),
    "aarch64": (
        0xC00000B7, 277,
        {"socket": 198, "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271,
         "io_uring_setup": 425, "pidfd_getfd": 438},
    ),
}  # fmt: skip
"""By machine: how the kernel names it, the number of `seccomp` itself, and of what is refused."""
_ERRORS = {"socket": errno.ENETUNREACH, "io_uring_setup": errno.ENOSYS}
"""Of what is refused; the others are not permitted."""


def begin() -> str | None:
    """From here on, no network; None, or why this system does not do that."""
    machine = os.uname().machine
    if sys.platform != "linux" or machine not in _MACHINES:
        return f"{sys.platform} on {machine} has no filter that is known here"
    lines, number = _lines(machine), _MACHINES[machine][1]
    code = ctypes.create_string_buffer(b"".join(struct.pack(_LINE, *line) for line in lines))
    program = _Program(len(lines), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    refused = libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or libc.syscall(
        number, _FILTER, _ALL_THREADS, ctypes.byref(program)
    )
    return os.strerror(ctypes.get_errno()) if refused else None


def hide() -> None:
    """Let no process of the same user, without root's rights, into this one's memory."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DUMPABLE, 0, 0, 0, 0)


class _Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))


def _lines(machine: str) -> list[tuple[int, int, int, int]]:
    """Classic BPF: of each system call, whether it is allowed or with what error it is refused."""
    architecture, _, refused = _MACHINES[machine]
    never = _REFUSE | errno.EPERM
    lines = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, never),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, never),
    ]
    for name, number in refused.items():
        error = _REFUSE | _ERRORS.get(name, errno.EPERM)
        lines += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, error)]
    lines.append((_RETURN, 0, 0, _ALLOW))
    return lines
