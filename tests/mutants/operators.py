"""What is changed: one place of a module's syntax tree at a time.

Applied are: a comparison to its boundary and to its opposite; + to −, × to ÷, & to | and back;
`and` to `or`; `not` and − left out; numbers one more and one less; True to False; words that are
values ("drop", a key) to others; conditions forced to either side; filters of comprehensions left
out; min to max, any to all, ceil to floor; a value returned to None; `continue` to `break`; calls,
`yield`, `raise`, `del` and additions in place left out.

Not applied to docstrings, annotations, `__all__`, `assert`, the words of messages (a string with a
space, the text of an f-string, what is raised), and what `@dataclass` is told.
"""

import ast
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

Function = ast.FunctionDef | ast.AsyncFunctionDef
_OPPOSITE: dict[type, tuple[type, ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_ARITHMETIC: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.MatMult: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
}
_NAMES = {
    "min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum",
    "any": "all", "all": "any", "ceil": "floor", "floor": "ceil",
    "startswith": "endswith", "endswith": "startswith",
}  # fmt: skip
_LEFT_OUT = (ast.Raise, ast.Delete, ast.AugAssign)
_WORD = re.compile(r"\S*")
_NO_VALUE = re.compile(r"__all__ = |\w+ = (TypeVar\(|Literal\[)")


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one file."""

    line: int
    column: int
    was: str
    now: str
    at_import: bool
    """Whether the changed code runs when the module is loaded, and not in a function."""
    node: ast.AST
    field: str
    index: int | None
    new: ast.AST

    def __str__(self) -> str:
        return f"{_short(self.was)}  →  {_short(self.now)}"


def mutants(tree: ast.Module) -> list[Mutant]:
    """All of a module's, in the order of their places."""
    found = [*_walk(tree, at_import=True)]
    return sorted(found, key=lambda one: (one.line, one.column))


@contextmanager
def applied(mutant: Mutant) -> Iterator[None]:
    """The tree that it was made of, with the change."""
    old = _get(mutant)
    ast.fix_missing_locations(ast.copy_location(mutant.new, old))
    _set(mutant, mutant.new)
    try:
        yield
    finally:
        _set(mutant, old)


def _get(mutant: Mutant) -> Any:
    found = getattr(mutant.node, mutant.field)
    return found if mutant.index is None else found[mutant.index]


def _set(mutant: Mutant, new: Any) -> None:
    if mutant.index is None:
        setattr(mutant.node, mutant.field, new)
    else:
        getattr(mutant.node, mutant.field)[mutant.index] = new


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 70 else f"{line[:45]} … {line[-22:]}"


# ── where there is something to change ────────────────────────────────────────────────────


def _walk(node: ast.AST, *, at_import: bool) -> Iterator[Mutant]:
    for field, index, child in _children(node):
        inner = at_import and not (isinstance(node, Function | ast.Lambda) and field == "body")
        for new in _changes(child, node, at_import=inner):
            yield Mutant(
                line=getattr(child, "lineno", 0),
                column=getattr(child, "col_offset", 0),
                was=ast.unparse(child),
                now=ast.unparse(new),
                at_import=inner,
                node=node,
                field=field,
                index=index,
                new=new,
            )
        yield from _walk(child, at_import=inner)


def _children(node: ast.AST) -> Iterator[tuple[str, int | None, ast.AST]]:
    for field, value in ast.iter_fields(node):
        if isinstance(value, ast.AST) and not _is_skipped(node, field, value):
            yield field, None, value
        elif isinstance(value, list):
            for index, child in enumerate(value):
                if isinstance(child, ast.AST) and not _is_skipped(node, field, child):
                    yield field, index, child


def _is_skipped(node: ast.AST, field: str, child: ast.AST) -> bool:
    if field in ("annotation", "returns", "format_spec", "exc", "cause", "ctx", "ops", "op"):
        return True
    if isinstance(child, ast.Assert | ast.Import | ast.ImportFrom):
        return True
    if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
        return True
    if isinstance(node, ast.JoinedStr) and isinstance(child, ast.Constant):
        return True
    if field == "decorator_list":
        return "dataclass" in ast.unparse(child)
    return isinstance(child, ast.Assign) and bool(_NO_VALUE.match(ast.unparse(child)))


# ── what it is changed to ─────────────────────────────────────────────────────────────────


def _changes(child: ast.AST, node: ast.AST, *, at_import: bool) -> Iterator[ast.AST]:
    if isinstance(node, ast.If | ast.IfExp) and child is node.test:
        yield from (ast.Constant(value) for value in (True, False))
    elif isinstance(node, ast.While) and child is node.test:
        yield ast.Constant(False)
    elif isinstance(node, ast.comprehension) and child in node.ifs:
        yield ast.Constant(True)
    if at_import and isinstance(child, ast.BinOp) and isinstance(child.op, ast.BitOr):
        return  # a type
    make = _MADE.get(type(child))
    if make is not None:
        yield from make(child, node)
    if isinstance(child, _LEFT_OUT):
        yield ast.Pass()


def _compared(child: Any, node: ast.AST) -> Iterator[ast.AST]:
    for index, operator in enumerate(child.ops):
        for other in _OPPOSITE[type(operator)]:
            ops = [*child.ops[:index], other(), *child.ops[index + 1 :]]
            yield ast.Compare(child.left, ops, child.comparators)


def _calculated(child: Any, node: ast.AST) -> Iterator[ast.AST]:
    if not any(_is_text(side) for side in (child.left, child.right)):
        yield ast.BinOp(child.left, _ARITHMETIC[type(child.op)](), child.right)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _added(child: Any, node: ast.AST) -> Iterator[ast.AST]:
    if not _is_text(child.value):
        yield ast.AugAssign(child.target, _ARITHMETIC[type(child.op)](), child.value)


def _joined(child: Any, node: ast.AST) -> Iterator[ast.AST]:
    yield ast.BoolOp(ast.Or() if isinstance(child.op, ast.And) else ast.And(), child.values)


def _signed(child: Any, node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(child.op, ast.Not | ast.USub):
        yield child.operand


def _other_value(child: Any, node: ast.AST) -> Iterator[ast.AST]:
    value = child.value
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, int | float):
        # of a list of one, the last is the first
        steps = (1,) if isinstance(node, ast.Subscript) else (1, -1)
        yield from (ast.Constant(value + step) for step in steps if value + step != value)
    elif isinstance(value, str) and _WORD.fullmatch(value):
        yield ast.Constant(f"{value}!")


def _returned(child: Any, node: ast.AST) -> Iterator[ast.AST]:
    if child.value is not None and ast.unparse(child.value) != "None":
        yield ast.Return(ast.Constant(None))


def _called(child: Any, node: ast.AST) -> Iterator[ast.AST]:
    """Of a statement that is a call or a yield."""
    if isinstance(child.value, ast.Call | ast.Yield | ast.YieldFrom):
        yield ast.Pass()


def _named(child: Any, node: ast.AST) -> Iterator[ast.AST]:
    if child.id in _NAMES and isinstance(child.ctx, ast.Load):
        yield ast.Name(_NAMES[child.id], child.ctx)


def _attribute(child: Any, node: ast.AST) -> Iterator[ast.AST]:
    if child.attr in _NAMES:
        yield ast.Attribute(child.value, _NAMES[child.attr], child.ctx)


_MADE: dict[type, Callable[[Any, ast.AST], Iterator[ast.AST]]] = {
    ast.Compare: _compared,
    ast.BinOp: _calculated,
    ast.BoolOp: _joined,
    ast.UnaryOp: _signed,
    ast.Constant: _other_value,
    ast.Return: _returned,
    ast.Expr: _called,
    ast.AugAssign: _added,
    ast.Name: _named,
    ast.Attribute: _attribute,
    ast.Continue: lambda child, node: iter([ast.Break()]),
    ast.Break: lambda child, node: iter([ast.Continue()]),
}
