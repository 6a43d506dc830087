"""What is wrong with a policy, in words: validation errors as file:line:column, what, instead."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from gate.door import unknown
from gate.errors import Mark
from gate.policy import (
    Budget,
    Build,
    Judge,
    PlacedError,
    Policy,
)
from gate.recipes import UnknownRecipeError
from gate.sources import DataSource, Decode, Graph, Letterbox, Preprocess, Resize, Tokenizer
from gate.strict_yaml import Document, Loc

Finding = tuple[Mark, str]

_MODELS: Mapping[Loc, type[BaseModel]] = {
    (): Policy,
    ("build",): Build,
    ("build", "calibration"): DataSource,
    ("build", "tuning"): DataSource,
    ("build", "preprocess"): Preprocess,
    ("build", "preprocess", "resize"): Resize,
    ("build", "preprocess", "letterbox"): Letterbox,
    ("build", "preprocess", "tokenizer"): Tokenizer,
    ("build", "preprocess", "graph"): Graph,
    ("build", "decode"): Decode,
    ("build", "decode", "graph"): Graph,
    ("judge",): Judge,
    ("judge", "held_out"): DataSource,
    ("judge", "budgets"): Budget,
}
_EXPECT = ("judge", "expect_fp32")
_EXAMPLES = {
    "version": "version: 1",
    "model": "model: digits-cnn",
    "task": "task: classification",
    "build": "build: {recipe: dynamic}",
    "recipe": "recipe: static",
    "as": "as: logits",
    "judge": "judge: {held_out: {path: data.npz}, expect_fp32: unknown, budgets: […]}",
    "held_out": "held_out: {path: digits/held_out.npz}",
    "path": "path: digits/held_out.npz",
    "file": "file: path/to/file",
    "max_length": "max_length: 128",
    "size": "size: [224, 224]",
    "within": "within: 0.02",
    "budgets": "budgets: [{metric: accuracy, max_drop: 0.01}]",
    "metric": "metric: accuracy",
}
_NO_EXPECTATION = (
    "judge.expect_fp32 is missing: two models that are fed wrong inputs agree perfectly, so "
    "without what training reported, wrong preprocessing passes any drop budget; add e.g. "
    "`expect_fp32: {accuracy: 0.96, within: 0.02}`, or write `expect_fp32: unknown`, which every "
    "report will show"
)
_PATTERNS = {
    "sha256": "64 hexadecimal digits in lower case, as `sha256sum` prints",
    "model": "letters, digits, `.`, `_` and `-`, beginning with a letter or digit",
}
_MAX_SHOWN = 60


def faults(error: ValidationError, written: Document) -> list[Finding]:
    """Every error of a validation, where it was written.

    Args:
        error: of `Policy.model_validate` on the document's data.
        written: the document.
    """
    raw = [_Fault(cast(dict[str, Any], item), written) for item in error.errors(include_url=False)]
    misspelt = {fault.meant for fault in raw if fault.type == "extra_forbidden"}
    return [
        (fault.mark, fault.message)
        for fault in raw
        if not fault.spurious and not (fault.type == "missing" and fault.path in misspelt)
    ]


@dataclass(frozen=True, slots=True)
class _Fault:
    """One error of the validation library."""

    raw: Mapping[str, Any]
    written: Document

    @property
    def type(self) -> str:
        return str(self.raw["type"])

    @property
    def input(self) -> Any:
        return self.raw["input"]

    @property
    def cause(self) -> object:
        return self.raw.get("ctx", {}).get("error")

    @property
    def path(self) -> Loc:
        """Its place in the file, without what the library adds: names of union members."""
        found: list[str | int] = []
        for step in self.raw["loc"]:
            if self.written.exists(*found, step):
                found.append(step)
        if self.type == "missing":
            found.append(self.raw["loc"][-1])
        return (*found, *_deeper(self.cause))

    @property
    def mark(self) -> Mark:
        if self.type == "missing":
            return self.written.mark(*self.path[:-1])
        if self.type == "extra_forbidden" or _is_key(self.cause):
            return self.written.key_mark(*self.path)
        return self.written.mark(*self.path)

    @property
    def meant(self) -> Loc:
        """The known key that an unknown one resembles."""
        close = get_close_matches(str(self.path[-1]), _known(self.path[:-1]), n=1)
        return (*self.path[:-1], *close)

    @property
    def spurious(self) -> bool:
        """Whether another error says the same better: the library tries each member of a union."""
        if self.path == _EXPECT:
            written_out = isinstance(self.written.value(*_EXPECT), Mapping)
            return self.type == "model_type" or (self.type == "literal_error" and written_out)
        if _is_slice_value(self.path):
            return bool(self.raw["loc"][-1] != "str")
        return self.type == "too_short" and bool(self.input)

    @property
    def message(self) -> str:
        if self.path == _EXPECT and self.type == "missing":
            return _NO_EXPECTATION
        if self.path == _EXPECT and self.type == "literal_error":
            return self._must_be("a mapping such as {accuracy: 0.96, within: 0.02}, or `unknown`")
        if _is_slice_value(self.path):
            return self._must_be("text, a number, true or false")
        if self.type in _WORDS:
            return self._must_be(_WORDS[self.type](self)) + _instead(self.type, self.input)
        return self._other()

    def _other(self) -> str:
        name = dotted(self.path)
        if self.type == "missing":
            return f"{name} is missing; add e.g. `{_EXAMPLES[str(self.path[-1])]}`"
        if self.type == "extra_forbidden":
            around = f"{dotted(self.path[:-1])}: " if len(self.path) > 1 else ""
            return around + unknown("key", self.path[-1], _known(self.path[:-1]))
        if self.type == "value_error":
            return str(self.cause)
        return f"{name}: {self.raw['msg']}, not {shown(self.input)}"

    def _must_be(self, what: str) -> str:
        return f"{dotted(self.path)} must be {what}, not {shown(self.written.value(*self.path))}"


_WORDS: Mapping[str, Callable[[_Fault], str]] = {
    "float_type": lambda _: "a number",
    "int_type": lambda _: "a whole number",
    "int_from_float": lambda _: "a whole number",
    "string_type": lambda _: "text",
    "bool_type": lambda _: "true or false",
    "tuple_type": lambda _: "a list, [a, b]",
    "dict_type": lambda _: "a mapping, {key: value}",
    "model_type": lambda fault: _mapping_wanted(fault.path),
    "literal_error": lambda fault: str(fault.raw["ctx"]["expected"]),
    "greater_than": lambda fault: f"more than {fault.raw['ctx']['gt']:g}",
    "greater_than_equal": lambda fault: f"{fault.raw['ctx']['ge']:g} or more",
    "less_than": lambda fault: f"less than {fault.raw['ctx']['lt']:g}",
    "less_than_equal": lambda fault: f"{fault.raw['ctx']['le']:g} or less",
    "string_pattern_mismatch": lambda fault: _PATTERNS[str(fault.path[-1])],
    "string_too_long": lambda fault: f"at most {fault.raw['ctx']['max_length']} characters",
    "too_short": lambda _: "a list of at least one budget",
}


def _mapping_wanted(path: Loc) -> str:
    if path == ("build", "recipe"):
        return "a recipe's name, or a mapping with `base`"
    if path == ("build", "decode"):
        return "a decoder's name, or a mapping with `as`"
    if _MODELS.get(path) is Graph:
        return "an ONNX file's path, or a mapping with `file`"
    example = _EXAMPLES["path"] if _MODELS.get(path) is DataSource else "key: value"
    return f"a mapping, {{{example}}}"


def _instead(kind: str, value: Any) -> str:
    """What to write, where the value tells."""
    if kind == "string_type" and isinstance(value, bool | int | float):
        return f'; write "{str(value).lower()}", in quotes'
    if kind not in ("float_type", "int_type") or not isinstance(value, str):
        return ""
    percent = re.fullmatch(r"\s*([-+]?[0-9]{1,9}(?:\.[0-9]{1,9})?)\s*%\s*", value)
    if percent:
        return f"; write {(Decimal(percent[1]) / 100).normalize():f}"
    if re.fullmatch(r"[-+]?[0-9]{1,9}(\.[0-9]{1,9})?([eE][-+]?[0-9]{1,3})?", value):
        return f"; write {value}, without quotes"
    return ""


def _known(around: Loc) -> tuple[str, ...]:
    """The keys that a mapping may hold."""
    model = _MODELS[tuple(step for step in around if not isinstance(step, int))]
    names = [field.alias or name for name, field in model.model_fields.items()]
    return tuple(["extends", *names] if model is Policy else names)


def _deeper(cause: object) -> Loc:
    if isinstance(cause, PlacedError):
        return cause.loc
    if isinstance(cause, UnknownRecipeError) and cause.key is not None:
        return (cause.key,)
    return ()


def _is_key(cause: object) -> bool:
    """Whether an error is about a key, not its value."""
    unknown_key = isinstance(cause, UnknownRecipeError) and cause.key not in (None, "base")
    return unknown_key or isinstance(cause, PlacedError)


def _is_slice_value(path: Loc) -> bool:
    return len(path) == len(("judge", "budgets", 0, "slice", "column")) and path[3] == "slice"


def dotted(loc: Loc) -> str:
    """`("judge", "budgets", 2, "metric")` as `judge.budgets[2].metric`."""
    return "".join(map(_step, loc)).removeprefix(".")


def _step(step: str | int) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    return f".{step if step.isprintable() else repr(step)}"


def shown(value: object) -> str:
    """A value as a person wrote it, near enough, and short enough for a line."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"
