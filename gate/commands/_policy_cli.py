"""The commands that read policies, for the command line."""

import click


@click.group()
def policy() -> None:
    """Hold policies against each other."""


@policy.command("diff")
@click.argument("policies", nargs=-1, required=True, metavar="A B | POLICY...")
@click.option("--base", metavar="REV", help="Hold each POLICY against the one at REV.")
@click.option(
    "--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True
)
def diff(policies: tuple[str, ...], base: str | None, format_: str) -> int:
    """Tell what policy B lets through that A does not; each is a file, or REV:path.

    With --base every POLICY, a file or a glob, is held against the base's. Budget by budget and key
    by key: stricter, looser or neutral. Exits with 0 where nothing is looser, with 1 where
    something is; what nobody can say counts as looser.
    """
    from gate.commands._policy_diff_text import render
    from gate.commands.policy_diff import policy_diff, since
    from gate.errors import UsageError, worst

    if base is None and len(policies) != 2:  # noqa: PLR2004
        raise UsageError("name two policies, A and B, or --base REV and any number of them")
    found = since(policies, base) if base is not None else (policy_diff(*policies),)
    click.echo(render(found, format_), nl=False)
    return worst(one.exit_code for one in found)
