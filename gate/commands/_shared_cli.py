"""Options that several commands share, for the command line."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

Command = Callable[..., Any]
_ENGINE = (
    click.option("--engine", default="local", show_default=True, help="local or ray."),
    click.option("--workers", type=click.IntRange(min=1), help="Models that run at once."),
    click.option("--shard-timeout", type=click.FloatRange(min=1), default=600.0, show_default=True),
)


def plugged(command: Command) -> Command:
    """With `--plugin`; what the files bring is there while the command runs."""

    @click.option(
        "--plugin",
        "plugins",
        multiple=True,
        type=click.Path(path_type=Path),
        metavar="FILE.py",
        help="Python that adds tasks, formats and decoders; trusted.",
    )
    @wraps(command)
    def with_plugins(*arguments: Any, plugins: tuple[Path, ...], **options: Any) -> Any:
        if not plugins:
            return command(*arguments, **options)
        if options.get("judge_from") is not None:
            from gate.commands._base_policy import demand_plugins

            demand_plugins(plugins, options["policies"], options["judge_from"])
        from gate.plugins import plugged_in

        with plugged_in(plugins):
            return command(*arguments, **options)

    return with_plugins


def engined(command: Command) -> Command:
    """With what runs the models."""
    for option in reversed(_ENGINE):
        command = option(command)
    return command


def limited(command: Command) -> Command:
    """With what a run may take of the machine."""

    @click.option(
        "--max-memory",
        type=click.FloatRange(min=0, min_open=True),
        metavar="GIB",
        help="Memory of its own that the run may have; default: no limit.",
    )
    @click.option(
        "--max-minutes",
        type=click.FloatRange(min=0, min_open=True),
        metavar="M",
        help="After which the run is ended; default: no limit.",
    )
    @wraps(command)
    def with_limits(
        *arguments: Any, max_memory: float | None, max_minutes: float | None, **options: Any
    ) -> Any:
        from gate.limits import limit

        limit(memory_gib=max_memory, minutes=max_minutes)
        return command(*arguments, **options)

    return with_limits
