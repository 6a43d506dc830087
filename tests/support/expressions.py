"""The few expressions of GitHub Actions that the gate's own workflows use, evaluated."""

import re
from collections.abc import Callable, Mapping
from typing import Any

_TOKEN = re.compile(r"\s*('(?:[^']|'')*'|&&|\|\||==|!=|!|\(|\)|\[|\]|,|[A-Za-z_][\w.*-]*|\d+)")
_WHOLE = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)


def substituted(text: Any, contexts: Mapping[str, Any], status: str = "success") -> Any:
    """A value of a workflow with its `${{ }}` filled in, as text."""
    if isinstance(text, dict):
        return {key: substituted(value, contexts, status) for key, value in text.items()}
    if isinstance(text, bool):
        return "true" if text else "false"
    return _WHOLE.sub(lambda m: shown(evaluate(m[1], contexts, status)), str(text))


def condition(text: str | None, contexts: Mapping[str, Any], status: str) -> bool:
    """An `if:`; without a function of the status, nothing runs after a failure."""
    if text is None:
        return status == "success"
    inner = str(text).strip().removeprefix("${{").removesuffix("}}")
    found = truth(evaluate(inner, contexts, status))
    if re.search(r"\b(always|failure|success|cancelled)\(\)", inner):
        return found
    return found and status == "success"


def evaluate(text: str, contexts: Mapping[str, Any], status: str = "success") -> Any:
    """One expression.

    Raises:
        NotImplementedError: it holds what nothing here evaluates.
    """
    return _Parser(text, contexts, status).whole()


def truth(value: Any) -> bool:
    return bool(value)


def shown(value: Any) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


class _Parser:
    def __init__(self, text: str, contexts: Mapping[str, Any], status: str) -> None:
        self.tokens: list[str] = []
        place = 0
        while text[place:].strip():
            found = _TOKEN.match(text, place)
            if found is None:
                raise NotImplementedError(text[place:])
            self.tokens.append(found[1])
            place = found.end()
        self.contexts = contexts
        self.functions: dict[str, Callable[[], bool]] = {
            "always": lambda: True,
            "success": lambda: status == "success",
            "failure": lambda: status == "failure",
            "cancelled": lambda: status == "cancelled",
        }

    def whole(self) -> Any:
        value = self.either()
        if self.tokens:
            raise NotImplementedError(self.tokens)
        return value

    def next(self, *expected: str) -> bool:
        if self.tokens and self.tokens[0] in expected:
            self.tokens.pop(0)
            return True
        return False

    def either(self) -> Any:
        value = self.both()
        while self.next("||"):
            other = self.both()
            value = value if truth(value) else other
        return value

    def both(self) -> Any:
        value = self.compared()
        while self.next("&&"):
            other = self.compared()
            value = other if truth(value) else value
        return value

    def compared(self) -> Any:
        value = self.single()
        if self.next("=="):
            return shown(value).lower() == shown(self.single()).lower()
        if self.next("!="):
            return shown(value).lower() != shown(self.single()).lower()
        return value

    def single(self) -> Any:
        if self.next("!"):
            return not truth(self.single())
        if self.next("("):
            value = self.either()
            assert self.next(")")
            return value
        token = self.tokens.pop(0)
        if token.startswith("'"):
            return token[1:-1].replace("''", "'")
        if self.next("("):
            if token not in self.functions or not self.next(")"):
                raise NotImplementedError(token)
            return self.functions[token]()
        return self.looked_up(token)

    def looked_up(self, path: str) -> Any:
        if path in ("true", "false"):
            return path == "true"
        value: Any = self.contexts
        for step in path.split("."):
            value = value.get(step) if isinstance(value, Mapping) else None
        if path.partition(".")[0] not in self.contexts:
            raise NotImplementedError(path)
        return value
