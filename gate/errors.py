"""The exceptions that mean "the gate could not judge", their exit codes and their codes.

A degraded model is never an exception: it is a `Verdict`. ::

    GateError                  4  G100  could not run or record
    ├── UsageError             2  G101  the command line or a named file is wrong
    │   └── PolicyError        2  G102  the policy is wrong, at file:line:column
    ├── CandidateError         4  G103  the model cannot be read, converted or trusted
    │   └── FetchError         4  G114  its files are out of reach, perhaps only for now
    ├── DataError              4  G104  a split cannot be read or does not fit the model
    │   └── OverlapError       4  G105  calibration, tuning and held-out share examples
    ├── QuantizationError      4  G106  the recipe failed, or nothing runs as INT8
    ├── EvaluationError        4  G107  a model failed on the data, or FP32 gave NaN
    │   └── BaselineError      4  G108  FP32 is not what training reported
    ├── PluginError            4  G109  the code of a `--plugin` raised
    ├── ReleaseError           4  G110  a release is gone, not what was judged, or not proven
    ├── RecordError            4  G111  a record is missing, damaged or of another schema
    ├── TrackerError           4  G112  the tracker refused or cannot be reached
    └── EngineError            4  G113  workers are gone, differ, or did not finish a shard

`G…` is the error's code: stable, and `gate explain G102` prints its page. G1 are errors, G2 what a
budget came to (`gate.story`), G3 what else to know of a verdict.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

EXIT_PASS = 0
EXIT_FAIL = 1
EXIT_USAGE = 2
EXIT_INCONCLUSIVE = 3
EXIT_ERROR = 4
EXIT_INTERRUPTED = 130

INTERRUPTED = "G190"
"""Code of a run that was cancelled."""
DEFECT = "G199"
"""Code of an error that is no `GateError`."""


_WORST_FIRST = (EXIT_INTERRUPTED, EXIT_ERROR, EXIT_USAGE, EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_PASS)


def worst(codes: Iterable[int]) -> int:
    """The exit code of several policies together: the worst of 4 > 2 > 1 > 3 > 0.

    A code that is none of these counts as 4, and so does no code at all.
    """
    known = {code if code in _WORST_FIRST else EXIT_ERROR for code in codes}
    return next((code for code in _WORST_FIRST if code in known), EXIT_ERROR)


class GateError(Exception):
    """The gate could not judge; the message says what is wrong, where, and what to do."""

    exit_code: ClassVar[int] = EXIT_ERROR
    code: ClassVar[str] = "G100"
    """Its page: `gate explain CODE`. A class has one code for ever."""


class UsageError(GateError):
    """The command line is wrong, or names something that does not exist."""

    exit_code: ClassVar[int] = EXIT_USAGE
    code: ClassVar[str] = "G101"


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a file a person wrote; line and column count from 1."""

    file: Path
    line: int
    column: int

    def __str__(self) -> str:
        """As editors and compilers write it."""
        return f"{self.file}:{self.line}:{self.column}"


class PolicyError(UsageError):
    """The policy is wrong; the message begins with `file:line:column`."""

    code: ClassVar[str] = "G102"

    def __init__(self, message: str, mark: Mark | None = None) -> None:
        """Put `mark`, when there is one, in front of `message`."""
        super().__init__(f"{mark}: {message}" if mark else message)
        self.mark = mark
        self.message = message


class CandidateError(GateError):
    """The candidate cannot be read, converted or trusted."""

    code: ClassVar[str] = "G103"


class FetchError(CandidateError):
    """The candidate's files are out of reach, perhaps only for now."""

    code: ClassVar[str] = "G114"


class DataError(GateError):
    """A split cannot be read, or does not fit the model."""

    code: ClassVar[str] = "G104"


class OverlapError(DataError):
    """Two splits that must be disjoint share examples."""

    code: ClassVar[str] = "G105"


class QuantizationError(GateError):
    """The recipe failed, or its result does not run as INT8."""

    code: ClassVar[str] = "G106"


class EvaluationError(GateError):
    """A model failed on the data, or the FP32 baseline gave NaN or Inf."""

    code: ClassVar[str] = "G107"


class BaselineError(EvaluationError):
    """The FP32 model does not measure what training reported."""

    code: ClassVar[str] = "G108"


class PluginError(GateError):
    """The code of a plugin raised; the message says at which line of which file."""

    code: ClassVar[str] = "G109"


class ReleaseError(GateError):
    """A release to hold against, or to promote, is gone, changed, or backed by no PASS."""

    code: ClassVar[str] = "G110"


class RecordError(GateError):
    """A record is missing, damaged, or of a schema that this version cannot read."""

    code: ClassVar[str] = "G111"


class TrackerError(GateError):
    """The tracker refused, or cannot be reached."""

    code: ClassVar[str] = "G112"


class EngineError(GateError):
    """Workers cannot be had, are not alike, or did not finish a shard."""

    code: ClassVar[str] = "G113"
