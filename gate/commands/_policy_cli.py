"""The commands that read policies, for the command line."""

import click


@click.group()
def policy() -> None:
    """Hold policies against each other."""


@policy.command("diff")
@click.argument("a")
@click.argument("b")
@click.option(
    "--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True
)
def diff(a: str, b: str, format_: str) -> int:
    """Tell what policy B lets through that A does not; each is a file, or REV:path.

    Budget by budget and key by key: stricter, looser or neutral. Exits with 0 where nothing is
    looser, with 1 where something is; what nobody can say counts as looser.
    """
    from gate.commands._policy_diff_text import render
    from gate.commands.policy_diff import policy_diff

    found = policy_diff(a, b)
    click.echo(render(found, format_), nl=False)
    return found.exit_code
