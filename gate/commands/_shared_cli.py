"""Options that several commands share, for the command line."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from gate.commands._told import say
from gate.limits import MINUTES

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


def contained(minutes: float | None = MINUTES) -> Callable[[Command], Command]:
    """With what a process that runs models may take of the machine, and reach.

    `minutes`: after which it is ended where no flag says; None: never.
    """

    def with_options(command: Command) -> Command:
        @click.option(
            "--max-memory",
            type=click.FloatRange(min=0, min_open=True),
            metavar="GIB",
            help="That models may have for themselves; default: the machine's.",
        )
        @click.option(
            "--max-minutes",
            type=click.FloatRange(min=0, min_open=True),
            metavar="M",
            help="After which it is ended; default: "
            + ("never." if minutes is None else f"{minutes:g}."),
        )
        @click.option("--network", is_flag=True, help="Let plugins and models reach it, too.")
        @wraps(command)
        def with_limits(
            *arguments: Any,
            max_memory: float | None,
            max_minutes: float | None,
            network: bool,
            **options: Any,
        ) -> Any:
            from gate import limits, outside

            if outside.linked():  # a process of its own
                max_memory = max_memory or limits.machine_gib()
                max_minutes = max_minutes or minutes
                if not network and options.get("engine") != "ray":
                    _stay_offline()
            limits.limit(memory_gib=max_memory, minutes=max_minutes)
            return command(*arguments, **options)

        return with_limits

    return with_options


def _stay_offline() -> None:
    from gate import offline

    if (why := offline.begin()) is not None:
        say(f"gate: models are not kept from the network here: {why}")
