"""`gate tasks`: what models can be judged for, and by which metrics."""

from dataclasses import asdict
from typing import Any

import click

from gate import decoding, tasks
from gate.metrics import MODEL_METRICS, Traits
from gate.wording import json_text


def print_tasks(key: str | None) -> int:
    """Print every task, or one's decoders and metrics; 0.

    Raises:
        UsageError: there is no such task.
    """
    if key is None:
        _print_all()
    else:
        _print_one(key)
    return 0


def as_json(key: str | None) -> str:
    """Every task, or one, for scripts.

    Raises:
        UsageError: there is no such task.
    """
    if key is not None:
        told = _fields(key)
    else:
        told = {"tasks": [_fields(name) for name in sorted(tasks.names())]}
    return json_text(told)


def _fields(key: str) -> dict[str, Any]:
    task = tasks.get(key)
    return {
        "task": key,
        "unit": task.unit,
        "decoders": [*decoding.names(key)],
        "metrics": {name: asdict(traits) for name, traits in task.known.items()},
        "metrics_of_every_model": [*MODEL_METRICS],
    }


def _print_all() -> None:
    names = sorted(tasks.names())
    width = max(map(len, names))
    for name in names:
        click.echo(f"{name:<{width}}  {', '.join(decoding.names(name))}")
    click.echo("\nAfter each the decoders that it knows; its metrics: gate tasks TASK")


def _print_one(key: str) -> None:
    task = tasks.get(key)
    click.echo(f"{key}: independent by {task.unit}, unless the data have a column `unit`")
    click.echo(f"decoders  {', '.join(decoding.names(key))}\n")
    width = max(map(len, (*task.known, *MODEL_METRICS)))
    for name, traits in task.known.items():
        click.echo(f"{name:<{width}}  {_told(traits)}")
    click.echo(f"\nand of every model: {', '.join(MODEL_METRICS)}")


def _told(traits: Traits) -> str:
    """`higher is better, 0 to 1, share of examples; undefined without examples`."""
    ends = ["−∞" if traits.low is None else f"{traits.low:g}"]
    ends.append("∞" if traits.high is None else f"{traits.high:g}")
    parts = [f"{'higher' if traits.higher_is_better else 'lower'} is better", " to ".join(ends)]
    if traits.proportion:
        parts.append("a share of examples")
    if traits.relative:
        parts.append("INT8 beside FP32, no labels")
    return f"{', '.join(parts)}; undefined {traits.undefined}"
