"""`gate schema`: the JSON Schema of a policy as a person writes it, for editors."""

import ast
import copy
import inspect
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from typing import Any

from pydantic import BaseModel

from gate.policy import THRESHOLDS, Policy
from gate.recipes import RECIPES, REFINABLE, Recipe
from gate.sources import Strict

_Schema = dict[str, Any]
_MERGED = ("Build", "DataSource", "Decode", "ExpectFp32", "Judge", "Policy", "Preprocess", "Recipe")
"""What `extends` merges key by key, so that a file with `extends` may leave any key out."""
_EXTENDS = (
    "Another policy in this file's folder or below. It is merged key by key, and this file wins; "
    "lists are replaced as a whole."
)


def schema() -> _Schema:
    """The schema, draft 2020-12; the same in every run.

    A file that extends another may leave out what that one says, so it is held against
    definitions that require nothing; any other file against the full ones.
    """
    describe(Recipe, *_below(Strict))
    policy = Policy.model_json_schema(by_alias=True)
    definitions: _Schema = policy.pop("$defs")
    definitions["Policy"] = policy
    _as_written(definitions)
    partial = {f"Partial{name}": _partial(definitions[name]) for name in _MERGED}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "gate policy",
        "description": policy["description"],
        "type": "object",
        "if": {"required": ["extends"]},
        "then": {"$ref": "#/$defs/PartialPolicy"},
        "else": {"$ref": "#/$defs/Policy"},
        "$defs": dict(sorted(_untitled(definitions | partial).items())),
    }


@cache
def describe(*models: type[BaseModel]) -> None:
    """Give every field the docstring that stands under it.

    Only here, as reading sources takes longer than all else that importing a policy does.
    """
    for model in models:
        for base in reversed(model.__mro__):
            if base is not BaseModel and issubclass(base, BaseModel):
                for name, text in _docstrings(base):
                    model.model_fields[name].description = text
        model.model_rebuild(force=True)


def _below(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """In the order in which they are defined: what a type holds comes before it."""
    for below in model.__subclasses__():
        yield below
        yield from _below(below)


def _docstrings(model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """The fields that a class itself defines, and what stands under them."""
    (definition,) = ast.parse(inspect.getsource(model)).body
    assert isinstance(definition, ast.ClassDef)
    for field, text in pairwise(definition.body):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            yield field.target.id, inspect.cleandoc(str(text.value.value))


def _as_written(definitions: _Schema) -> None:
    """Put the forms that people write in place of those that a record holds."""
    extends = {"type": "string", "minLength": 1, "description": _EXTENDS}
    policy = definitions["Policy"]
    policy["properties"] = {"extends": extends, **policy["properties"]}
    definitions["Recipe"] = _recipe(definitions["Recipe"])
    definitions["Decode"] = _either(
        {"type": "string", "description": "A decoder of the task."}, definitions["Decode"]
    )
    definitions["Graph"] = _either(
        {"type": "string", "description": "An ONNX file, relative to the policy."},
        definitions["Graph"],
    )
    definitions["ExpectFp32"] = _expect_fp32(definitions["ExpectFp32"])
    definitions["Budget"] |= {
        "oneOf": [{"required": [name]} for name in THRESHOLDS],
        "not": {"required": ["slice", "each"]},
    }


def _recipe(recorded: _Schema) -> _Schema:
    """A preset's name, or a mapping that refines one."""
    presets = [{"const": name, "description": item.summary} for name, item in RECIPES.items()]
    base = {"description": "The preset that is refined.", "oneOf": presets}
    # defaults are the preset's, not the type's
    refined = {
        name: {key: value for key, value in field.items() if key != "default"}
        for name, field in recorded["properties"].items()
        if name in REFINABLE
    }
    mapping = recorded | {"properties": {"base": base, **refined}, "required": ["base"]}
    return _either({"oneOf": presets}, mapping)


def _expect_fp32(recorded: _Schema) -> _Schema:
    """One flat mapping of metrics, with `within`."""
    metrics, within = recorded["properties"]["metrics"], recorded["properties"]["within"]
    return recorded | {
        "properties": {"within": within},
        "additionalProperties": metrics["additionalProperties"],
        "required": ["within"],
        "minProperties": 2,
    }


def _either(short: _Schema, mapping: _Schema) -> _Schema:
    return {"description": mapping["description"], "anyOf": [short, mapping]}


def _partial(definition: Any) -> Any:
    """The same, with nothing required and every reference to a partial definition."""
    if isinstance(definition, list):
        return [_partial(item) for item in definition]
    if not isinstance(definition, Mapping):
        return copy.copy(definition)
    changed = {
        key: _partial(value)
        for key, value in definition.items()
        if key not in ("required", "minProperties")
    }
    name = str(changed.get("$ref", "")).removeprefix("#/$defs/")
    return changed | ({"$ref": f"#/$defs/Partial{name}"} if name in _MERGED else {})


def _untitled(definitions: Any) -> Any:
    """Without titles, which only repeat the keys."""
    if isinstance(definitions, list):
        return [_untitled(item) for item in definitions]
    if not isinstance(definitions, Mapping):
        return definitions
    return {key: _untitled(value) for key, value in definitions.items() if key != "title"}
