"""The commands that tell what the gate knows, for the command line."""

from pathlib import Path

import click

_FORMAT = click.option(
    "--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True
)


@click.argument("policies", nargs=-1, required=True, metavar="POLICY...")
@_FORMAT
def check(policies: tuple[str, ...], format_: str) -> int:
    """Validate policies: syntax, names, columns and files."""
    from gate.commands._told import more
    from gate.commands.check import as_json, checked, lines
    from gate.errors import worst

    found = checked([Path(policy) for policy in policies])
    if format_ == "json":
        click.echo(as_json(found), nl=False)
    else:
        for text, bad in lines(found):
            click.echo(text, err=bad)
        for code in sorted({one.error.code for one in found if one.error is not None}):
            more(code)
    return worst(one.exit_code for one in found)


@click.argument("policy")
@click.option("--html", type=click.Path(path_type=Path), help="Also write the plan as one page.")
@click.option("--tracker", default="mlflow", show_default=True, help="mlflow or none.")
@_FORMAT
def plan(policy: str, html: Path | None, tracker: str, format_: str) -> int:
    """Tell how many examples each budget needs, and what the held-out set can decide."""
    from gate.commands.plan import plan as plan_policy

    click.echo(plan_policy(policy, tracker=tracker, html=html, format_=format_), nl=False)
    return 0


@click.argument("task", required=False)
@_FORMAT
def tasks(task: str | None, format_: str) -> int:
    """List what models can be judged for, or a TASK's decoders and metrics."""
    from gate.commands.tasks import as_json, print_tasks

    if format_ == "json":
        click.echo(as_json(task), nl=False)
        return 0
    return print_tasks(task)


@click.argument("names", nargs=-1, metavar="[RECIPE]...")
@_FORMAT
def recipes(names: tuple[str, ...], format_: str) -> int:
    """List the INT8 recipes and when to use which, or all that a RECIPE sets."""
    from gate.commands.recipes import recipes as listed

    click.echo(listed(names, format_), nl=False)
    return 0


def schema() -> int:
    """Print the JSON Schema of a policy, for editors."""
    import json

    from gate.commands.schema import schema as policy_schema

    click.echo(json.dumps(policy_schema(), indent=2))
    return 0


@click.argument("codes", nargs=-1, metavar="[CODE]...")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "markdown", "json"]),
    default="text",
    show_default=True,
)
def explain(codes: tuple[str, ...], format_: str) -> int:
    """Tell what a CODE of an error or a finding means, why, and what to do; or list all."""
    from gate.commands.explain import explain as explained

    click.echo(explained(codes, format_), nl=False)
    return 0


PLUGGED = (check, plan, tasks)
"""What plugins add to."""
PLAIN = (recipes, schema, explain)
