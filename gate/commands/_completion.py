"""What every command has: `--quiet`, and completion of names where a shell asks for it."""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from gate.commands._told import QUIET

Names = Callable[[str], Iterable[str]]
"""What has been typed -> what could be meant."""
_MODEL = re.compile(r"^model:\s*[\"']?([A-Za-z0-9][A-Za-z0-9._-]*)", re.MULTILINE)
_HEAD = 10_000


def equip(group: click.Group) -> None:
    """Give every command, `group` itself among them, `--quiet`, and its words completion."""
    for command in _all(group):
        command.params.append(_quiet())
        for param in command.params:
            if param.type is click.STRING and (kind := _kind(param)) is not None:
                param.type = kind


def _all(group: click.Group) -> Iterator[click.Command]:
    yield group
    for command in group.commands.values():
        if isinstance(command, click.Group):
            yield from _all(command)
        else:
            yield command


def _quiet() -> click.Option:
    def keep(context: click.Context, _: click.Parameter, value: bool) -> None:
        context.meta[QUIET] = context.meta.get(QUIET, False) or value

    return click.Option(
        ["-q", "--quiet"],
        is_flag=True,
        expose_value=False,
        callback=keep,
        help="Of what is told on stderr, errors alone.",
    )


# ── completion ────────────────────────────────────────────────────────────────────────────


class Word(click.types.StringParamType):
    """Text, of which a shell can complete some."""

    def __init__(self, names: Names) -> None:
        """`names` runs when the shell asks, so it asks no server."""
        self._names = names

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's signature, as the next
        param: click.Parameter,  # noqa: ARG002
        incomplete: str,
    ) -> list[CompletionItem]:
        """Those that begin with what has been typed."""
        return [CompletionItem(n) for n in self._names(incomplete) if n.startswith(incomplete)]


class File(click.types.StringParamType):
    """Text that may name a file."""

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's signature, as the next
        param: click.Parameter,  # noqa: ARG002
        incomplete: str,
    ) -> list[CompletionItem]:
        """The shell's own."""
        return [CompletionItem(incomplete, type="file")]


_FILES = frozenset(
    {"candidate", "int8", "reference", "fp32_outputs", "int8_outputs", "data", "calibration"}
    | {"held_out", "a", "b"}
)


def _kind(param: click.Parameter) -> Any:
    """The type that completes a parameter, by its name; None where nothing does."""
    name = param.name or ""
    if name == "model":
        return Word(models) if isinstance(param, click.Argument) else File()
    names: dict[str, Names] = {
        "policy": policies,
        "policies": policies,
        "task": _tasks,
        "names": _recipes,
        "tracker": _trackers,
        "format_": _reporters,
        "formats": _reporters,
        "codes": _codes,
    }
    return Word(names[name]) if name in names else File() if name in _FILES else None


def policies(typed: str) -> list[str]:
    """Policies in the folder that is typed, and one below."""
    folder = Path(typed if typed.endswith("/") else Path(typed).parent)
    found = [path for pattern in ("*.y*ml", "*/*.y*ml") for path in folder.glob(pattern)]
    lead = "./" if typed.startswith("./") else ""
    return sorted(lead + str(path) for path in found if path.suffix in (".yaml", ".yml"))


def models(_: str) -> list[str]:
    """Models that policies nearby name: a tracker may be far away, or dead, and is not asked."""
    found: set[str] = set()
    for name in policies(""):
        try:
            with Path(name).open(encoding="utf-8", errors="replace") as stream:
                found |= set(_MODEL.findall(stream.read(_HEAD)))
        except OSError:  # a name that is not offered; the command itself will say why
            continue
    return sorted(found)


def _tasks(_: str) -> Iterable[str]:
    from gate import tasks

    return tasks.names()


def _recipes(_: str) -> Iterable[str]:
    from gate.recipes import RECIPES

    return RECIPES


def _trackers(_: str) -> Iterable[str]:
    from gate import door, trackers

    return door.names(trackers.GROUP, trackers.TRACKERS)


def _reporters(_: str) -> Iterable[str]:
    from gate import reporters

    return reporters.names()


def _codes(_: str) -> Iterable[str]:
    from gate.commands.explain import known

    return known()
