"""What `gate init` was told, and who answers what it was not."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import click

from gate import strict_yaml
from gate.commands._told import say
from gate.errors import PolicyError, UsageError
from gate.wording import plain


@dataclass(frozen=True, slots=True)
class Asked:
    """The flags."""

    model: str | None = None
    data: str | None = None
    calibration: str | None = None
    task: str | None = None
    name: str | None = None
    expect: tuple[str, ...] = ()
    """`metric=value`, or `unknown`."""
    preprocess: str | None = None
    """A mapping as `build.preprocess` has it."""
    decode: str | None = None
    """As `build.decode` has it."""
    classes: str | None = None
    """Names with commas between them, or a list of YAML."""
    split: int | None = None
    """Seed with which the one file of data is taken apart."""
    out: Path | None = None
    workflow: bool = False
    force: bool = False
    trust: bool = False


class Dialogue(Protocol):
    """Who answers what no flag says, and hears what was found."""

    asks: bool
    """Whether somebody is there."""

    def ask(self, flag: str, question: str, guess: str | None) -> str:
        """The answer, which may be the guess.

        Raises:
            UsageError: nobody is there, and there is no guess; names the flag.
        """

    def tell(self, text: str) -> None:
        """Something that was found."""


class Terminal:
    """A person."""

    asks = True

    def ask(self, flag: str, question: str, guess: str | None) -> str:
        """With the guess as what a bare Enter means."""
        return str(click.prompt(f"{question} ({flag})", default=guess, err=True)).strip()

    def tell(self, text: str) -> None:
        """On stderr."""
        say(f"gate: {text}")


class Unattended:
    """Nobody: guesses count, and what cannot be guessed has to be a flag."""

    asks = False

    def ask(self, flag: str, question: str, guess: str | None) -> str:
        """The guess."""
        if guess is None:
            raise UsageError(f"{flag} is missing, and nothing here tells it: {question}")
        return guess

    def tell(self, text: str) -> None:
        """On stderr."""
        say(f"gate: {text}")


def answer(who: Dialogue, given: str | None, flag: str, question: str, guess: str | None) -> str:
    """What the flag says, else what `who` does; never empty."""
    found = who.ask(flag, question, guess) if given is None else given
    if not found:
        raise UsageError(f"{flag} is empty: {question}")
    return found


def found_here(*patterns: str) -> str | None:
    """The only file that fits one of the globs, from the current folder; None for none or several.

    The first glob that finds anything counts.
    """
    for pattern in patterns:
        files = sorted(file for file in Path().glob(pattern) if file.exists())
        if files:
            return str(files[0]) if len(files) == 1 else None
    return None


def yaml_of(flag: str, text: str) -> Any:
    """What a flag's YAML holds.

    Raises:
        UsageError: it is none.
    """
    try:
        return strict_yaml.parse(text, Path(flag)).data
    except PolicyError as error:
        raise UsageError(f"{flag} is no YAML of a policy: {error.message}") from error


def listed(flag: str, text: str) -> tuple[str, ...]:
    """Names with commas between them, or a list of YAML where a name has one."""
    if not text.lstrip().startswith("["):
        return tuple(name.strip() for name in text.split(","))
    found = yaml_of(flag, text)
    if not all(isinstance(name, str) for name in found):
        raise UsageError(f"{flag} holds what is no text ({plain(text)}): put names in quotes")
    return tuple(found)


def expected(given: tuple[str, ...]) -> dict[str, float] | None:
    """`--expect`: metric to value, None for `unknown`.

    Raises:
        UsageError: one is neither `metric=value` nor `unknown`.
    """
    if given == ("unknown",):
        return None
    found = {}
    for text in given:
        metric, _, value = text.partition("=")
        try:
            found[metric.strip()] = float(value)
        except ValueError as error:
            raise UsageError(
                f"--expect {plain(text)}: write metric=value, such as accuracy=0.96, as training "
                "reported it, or `unknown`"
            ) from error
    return found
