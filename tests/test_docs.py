"""Every page of the documentation: where its links lead, and whether its commands are right."""

import contextlib
import io
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from support.markdown import PAGES, ROOT, Command, anchors, blocks, consoles, links, prose, told

from gate.cli import cli, exit_code_of

DOCS = ROOT / "docs"
QUICK = {"check", "recipes", "tasks", "schema", "plan", "policy diff"}
"""Commands that need nothing but the repository."""
HELPERS = {"sed", "cp", "echo"}
"""What may stand beside them in a block that is run."""
ANYTHING = "…"
"""A line that stands for any number of lines."""
page = pytest.mark.parametrize("page", PAGES, ids=told)


# ── links ─────────────────────────────────────────────────────────────────────────────────


@page
def test_every_link_leads_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in links(text):
        name, _, heading = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{told(page)}: nothing is at {link}"
        assert target.is_relative_to(ROOT), f"{told(page)}: {link} leads out of the repository"
        if heading:
            assert heading in anchors(target.read_text(encoding="utf-8")), f"no heading {link}"


def test_every_page_stands_in_the_index_once() -> None:
    index = links((DOCS / "README.md").read_text(encoding="utf-8"))
    pages = sorted(path.name for path in PAGES[1:] if path.name != "README.md")
    assert sorted(link for link in index if link.endswith(".md") and "/" not in link) == pages


@page
def test_every_file_of_the_repository_that_is_named_is_there(page: Path) -> None:
    named = re.findall(
        r"`((?:tests|docs|benchmarks|policies|gate)/[\w./-]+\.\w+)`", page.read_text("utf-8")
    )
    written = (name for name in named if not Path(name).stem.isupper())  # MODEL.yaml is anybody's
    assert [name for name in written if not (ROOT / name).exists()] == []


@page
def test_every_test_that_is_named_exists(page: Path) -> None:
    for file, name in re.findall(r"`?(tests/[\w/]+\.py)::(\w+)", page.read_text("utf-8")):
        assert f"\ndef {name}(" in (ROOT / file).read_text("utf-8"), f"no {file}::{name}"


# ── commands ──────────────────────────────────────────────────────────────────────────────


def gate_lines(text: str) -> Iterator[list[str]]:
    """Arguments of every call of the gate, in console blocks and in a workflow's steps."""
    for commands in consoles(text):
        for command in commands:
            yield from (words[1:] for words in command.parts if words[:1] == ["gate"])
    for body in blocks(text, "yaml"):
        for line in re.findall(r"^ *- (?:run: )?(gate .*)$", body, re.M):
            yield from (words[1:] for words in Command(line).parts)


def parsed(arguments: list[str]) -> click.Context:
    """Click's context of a command, its options and arguments checked, without running it.

    Raises:
        click.UsageError: an option, an argument or a command is not there.
    """
    command: click.Command = cli
    context, name = click.Context(cli, info_name="gate"), "gate"
    rest = [word for word in arguments if word != "\n"]
    while isinstance(command, click.Group):
        if not rest or rest[0].startswith("-"):
            break
        name, *rest = rest
        found = command.get_command(context, name)
        if found is None:
            raise click.UsageError(f"there is no command {name!r}")
        command = found
        context = click.Context(command, info_name=name, parent=context)
    with contextlib.suppress(click.exceptions.Exit):  # --help and --version
        return command.make_context(name, rest, parent=context.parent)
    return context


def without_redirection(words: list[str]) -> list[str]:
    """Only what the command itself gets."""
    kept: list[str] = []
    skip = False
    for word in words:
        if skip or (set(word) <= set("<>") and word):
            skip = not skip
            continue
        kept.append(word)
    return kept


@page
def test_every_command_has_the_options_that_it_is_shown_with(page: Path) -> None:
    for arguments in gate_lines(page.read_text(encoding="utf-8")):
        try:
            parsed(without_redirection(arguments))
        except click.UsageError as error:
            pytest.fail(f"{told(page)}: gate {' '.join(arguments)}: {error.format_message()}")


@pytest.mark.parametrize(
    "line",
    [
        "run",
        "run p.yaml --no-such-option",
        "run p.yaml --stage production",
        "no-such-command",
        "workflow no-such-command",
        "recover p.yaml --trials none",
        "promote",
    ],
)
def test_a_wrong_command_would_be_noticed(line: str) -> None:
    with pytest.raises(click.UsageError):
        parsed(line.split())


def test_the_pages_hold_commands() -> None:
    every = [line for page in PAGES for line in gate_lines(page.read_text(encoding="utf-8"))]
    assert len(every) > 50
    assert {line[0] for line in every if line} >= {"run", "check", "promote", "history", "recover"}


# ── quick commands are run, and print what is shown ───────────────────────────────────────


def name_of(words: list[str]) -> str:
    """`policy diff` of `gate policy diff A B`."""
    return " ".join(words[1:3] if words[1:2] == ["policy"] else words[1:2])


def is_quick(commands: list[Command]) -> bool:
    """Whether a block can be run as it stands, with files that it makes or the repository has."""
    every = [words for command in commands for words in command.parts]
    quick = [words for words in every if words[:1] == ["gate"] and name_of(words) in QUICK]
    others = [words for words in every if words not in quick and words[:1][0] not in HELPERS]
    made = {command.line.rpartition(">")[2].strip() for command in commands}
    files = [word for words in quick for word in words if re.search(r"\.(ya?ml|py)$", word)]
    there = all(word in made or any(ROOT.glob(word)) for word in files)
    return bool(quick) and not others and there


RUN = [
    pytest.param(commands, id=f"{told(page)}: {commands[0].line}"[:80])
    for page in PAGES
    for commands in consoles(page.read_text(encoding="utf-8"))
    if commands and is_quick(commands)
]


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The repository's policies, in a folder of their own."""
    shutil.copytree(ROOT / "policies", tmp_path / "policies")
    shutil.copytree(ROOT / "docs" / "examples", tmp_path / "docs" / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


@pytest.mark.parametrize("commands", RUN)
def test_a_quick_command_prints_what_is_shown(copy: Path, commands: list[Command]) -> None:
    code = 0
    for command in commands:
        if command.line == "echo $?":
            printed = f"{code}\n"
        else:
            printed, code = executed(command)
        if command.shown:
            assert_shown(command, printed)


def executed(command: Command) -> tuple[str, int]:
    """What a command prints on both streams, and its exit code; `> FILE` is written."""
    words = command.parts[0]
    if words[0] != "gate":
        shell = ["bash", "-c", command.line]
        done = subprocess.run(shell, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout, 0
    to = words[words.index(">") + 1] if ">" in words else None
    arguments = [one for word in without_redirection(words)[1:] for one in globbed(word)]
    stream = io.StringIO()
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        code = exit_code_of(arguments)
    assert code in (0, 1, 2), stream.getvalue()
    if to is None:
        return stream.getvalue(), code
    Path(to).write_text(stream.getvalue(), encoding="utf-8")
    return "", code


def globbed(word: str) -> list[str]:
    """As a shell would."""
    found = sorted(path.as_posix() for path in Path().glob(word)) if "*" in word else []
    return found or [word]


def assert_shown(command: Command, printed: str) -> None:
    shown = "\n".join(command.shown).strip("\n")
    pattern = "".join(
        r"(?:.*\n)*" if line == ANYTHING else re.escape(line) + r" *\n"
        for line in shown.split("\n")
    )
    assert re.fullmatch(pattern, printed.strip("\n") + "\n"), (
        f"$ {command.line}\nis shown with\n{shown}\n\nand prints\n{printed}"
    )


def test_all_quick_commands_are_shown_somewhere() -> None:
    run = {
        name_of(words)
        for one in RUN
        for command in one.values[0]
        for words in command.parts
        if words[:1] == ["gate"]
    }
    assert run == QUICK


def test_what_is_not_printed_would_be_noticed() -> None:
    shown = Command("gate recipes", ["a", ANYTHING, "c"])
    assert_shown(shown, "a\nb\nb\nc\n")
    assert_shown(shown, "a\nc\n")
    for other in ("a\nb\n", "b\nc\n", "a\nb\nc\nd\n"):
        with pytest.raises(AssertionError):
            assert_shown(shown, other)


def test_the_schema_that_is_shown_is_one(copy: Path) -> None:
    executed(Command("gate schema > policy.schema.json"))
    assert json.loads(Path("policy.schema.json").read_text())["title"] == "gate policy"


# ── words ─────────────────────────────────────────────────────────────────────────────────


@page
def test_no_page_holds_what_was_to_be_filled_in(page: Path) -> None:
    assert not re.search(r"\b(TODO|FIXME|TBD|lorem)\b", prose(page.read_text(encoding="utf-8")))
