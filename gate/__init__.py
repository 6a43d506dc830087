"""An INT8 regression gate for production models.

The public names; each is imported when it is first used, so that `import gate` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gate.errors import GateError
    from gate.pipeline import Finished, run_gate
    from gate.policy import Policy
    from gate.policy_file import load_policy
    from gate.records import GateRecord

__all__ = ["Finished", "GateError", "GateRecord", "Policy", "load_policy", "run_gate"]

_HOMES = {
    "Finished": "gate.pipeline",
    "GateError": "gate.errors",
    "GateRecord": "gate.records",
    "Policy": "gate.policy",
    "load_policy": "gate.policy_file",
    "run_gate": "gate.pipeline",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'gate' has no attribute {name!r}")
