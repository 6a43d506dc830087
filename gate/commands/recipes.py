"""`gate recipes`: how models become INT8, by name."""

import json
from collections.abc import Iterator, Sequence

from gate.door import unknown
from gate.errors import UsageError
from gate.recipes import RECIPES, TARGETS, Recipe
from gate.wording import json_text


def recipes(names: Sequence[str], format_: str = "text") -> str:
    """The recipes of `names` with all that they set, or without any a line for each.

    Raises:
        UsageError: there is no such recipe; the message suggests one.
    """
    for name in names:
        if name not in RECIPES:
            raise UsageError(unknown("recipe", name, tuple(RECIPES)))
    chosen = [RECIPES[name] for name in names or RECIPES]
    if format_ == "json":
        return _json(chosen)
    return "\n".join(_details(chosen) if names else _listing()) + "\n"


def _json(chosen: Sequence[Recipe]) -> str:
    told = {
        "recipes": [recipe.model_dump(mode="json") for recipe in chosen],
        "targets": [{"name": name, "summary": one.summary} for name, one in TARGETS.items()],
    }
    return json_text(told)


def _listing() -> Iterator[str]:
    width = max(map(len, (*RECIPES, *TARGETS)))
    for name, recipe in RECIPES.items():
        yield f"{name:<{width}}  {recipe.summary}"
    yield "\nTargets, as in `recipe: {base: static, target: x86}`"
    for name, target in TARGETS.items():
        yield f"{name:<{width}}  {target.summary}"


def _details(chosen: Sequence[Recipe]) -> Iterator[str]:
    """Every field, as a policy would write it; JSON's flow style is YAML."""
    for recipe in chosen:
        yield f"{recipe.name}: {recipe.summary}"
        for field, value in recipe.model_dump(mode="json", exclude={"name", "summary"}).items():
            yield f"  {field}: {json.dumps(value)}"
