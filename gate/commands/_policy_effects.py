"""What a change of one word of `judge` does to who gets through; what nobody can say is looser."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gate.policy import Budget, ExpectFp32, Judge
from gate.policy_file import LoadedPolicy
from gate.remote import is_uri
from gate.sources import DataSource

Effect = Literal["added", "removed", "stricter", "looser", "neutral"]
_LOOSER: tuple[Effect, ...] = ("removed", "looser")


@dataclass(frozen=True, slots=True)
class Change:
    """One word of a policy, or one budget, that is not as it was."""

    what: str
    """A budget's id, or the dotted name of a key of `judge`."""
    effect: Effect
    why: str
    """One sentence."""
    before: str | None = None
    """As YAML would say it; None where it was not there."""
    after: str | None = None

    @property
    def is_looser(self) -> bool:
        """Whether something may get through that did not before."""
        return self.effect in _LOOSER

    @property
    def sentence(self) -> str:
        """`accuracy.max_drop: 0.01 → 0.05 is looser: a larger loss is let through`."""
        values = " → ".join(value for value in (self.before, self.after) if value is not None)
        if self.before is None or self.after is None:
            return f"{self.what} is {self.effect} ({values}): {self.why}"
        return f"{self.what}: {values} is {self.effect}: {self.why}"


_Rated = tuple[Effect, str]
"""An effect, and why."""


def said(value: Any) -> str:
    """A value as a policy would say it, on one line."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {said(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(said, value)) + "]"
    return str(value)


def _rated(stricter: bool, why: str, otherwise: str) -> _Rated:
    return ("stricter", why) if stricter else ("looser", otherwise)


# ── budgets ───────────────────────────────────────────────────────────────────────────────


def of_budgets(before: Judge, after: Judge) -> Iterator[Change]:
    """Every budget that is new, gone, or not what it was; they are told apart by their ids."""
    old = {budget.id: budget for budget in before.budgets}
    new = {budget.id: budget for budget in after.budgets}
    for name, budget in old.items():
        if name not in new:
            near = next((one for one in new if one not in old and _is_near(budget, new[one])), "")
            instead = f"; {near} is something else, and nobody can say that it holds as much"
            why = f"what it held back gets through{instead if near else ''}"
            yield Change(name, "removed", why, before=_limit(budget))
        elif budget != new[name]:
            yield from _of_budget(name, budget, new[name])
    for name, budget in new.items():
        if name not in old:
            why = "one more limit to meet"
            yield Change(name, "added", why, after=_limit(budget))


def _is_near(one: Budget, other: Budget) -> bool:
    return one.metric == other.metric


def _limit(budget: Budget) -> str:
    return f"{budget.threshold} {said(budget.limit)}, {budget.require}"


def _of_budget(name: str, old: Budget, new: Budget) -> Iterator[Change]:
    for field in Budget.model_fields:
        was, now = getattr(old, field), getattr(new, field)
        if was == now and type(was) is type(now):
            continue
        effect, why = _OF_BUDGET.get(field, _unknown)(was, now)
        yield Change(f"{name} {field}", effect, why, said(was), said(now))


def _unknown(_was: Any, _now: Any) -> _Rated:
    return "looser", "what that lets through nobody can say without measuring, so it counts as more"


def _ceiling(was: float, now: float) -> _Rated:
    return _rated(now < was, "less is let through", "more is let through")


def _floor(was: float, now: float) -> _Rated:
    return _rated(now > was, "more is asked for", "less is asked for")


def _require(_was: str, now: str) -> _Rated:
    return _rated(now == "proof", "it has to be proven", "only proven harm still blocks")


def _min_examples(was: int, now: int) -> _Rated:
    return _rated(
        now < was, "smaller slices are judged, too", "smaller slices are not judged any more"
    )


def _slice(_was: Any, _now: Any) -> _Rated:
    return "neutral", "the same examples, written otherwise"  # the id holds what they are


_OF_BUDGET: Mapping[str, Callable[[Any, Any], _Rated]] = {
    **dict.fromkeys(("max_drop", "max_relative_drop", "at_most", "max_ratio"), _ceiling),
    "at_least": _floor,
    "require": _require,
    "min_examples": _min_examples,
    "slice": _slice,
}
"""`metric`, `each`, `against` and the kind of limit are part of the id."""


# ── the other keys ────────────────────────────────────────────────────────────────────────


def of_keys(before: Judge, after: Judge) -> Iterator[Change]:
    """Every other key of `judge` that is not what it was."""
    for key in Judge.model_fields:
        was, now = getattr(before, key), getattr(after, key)
        if key == "budgets" or was == now:
            continue
        if isinstance(was, DataSource):
            yield from _of_data(f"judge.{key}", was, now)
        elif key == "expect_fp32":
            yield from _of_expected(was, now)
        else:
            proof = _all_proof(before, after)
            effect, why = _OF_KEY.get(key, _any_of_key)(was, now, proof)
            yield Change(f"judge.{key}", effect, why, said(was), said(now))


def _all_proof(*judges: Judge) -> bool:
    """Whether every budget of all is met only by proof: then more doubt never lets more through."""
    return all(budget.require == "proof" for judge in judges for budget in judge.budgets)


def _any_of_key(was: Any, now: Any, _proof: bool) -> _Rated:
    return _unknown(was, now)


def _confidence(was: float, now: float, proof: bool) -> _Rated:
    if now < was:
        return "looser", "a PASS may be wrong more often"
    if proof:
        return "stricter", "a PASS may be wrong less often"
    return "looser", "budgets with `no_proven_harm` block only what is proven, and now more rarely"


def _decision(_was: str, now: str, proof: bool) -> _Rated:
    if now == "point":
        return "looser", "chance alone can pass a release"
    if proof:
        return "stricter", "an estimate within the limit no longer suffices"
    return "looser", "budgets with `no_proven_harm` then block only what is proven"


def _stopping(_was: str, now: str, _proof: bool) -> _Rated:
    return _rated(now == "full", "every example is looked at", "fewer examples are looked at")


def _anchor(was: str | None, now: str | None, _proof: bool) -> _Rated:
    if was is None:
        return "neutral", "what is held against it are budgets, which are listed by themselves"
    if now is None:
        return "looser", "nothing is held against it any more"
    return "looser", "drift is counted from another release, which may be a worse one"


def _on_inconclusive(_was: str, now: str, _proof: bool) -> _Rated:
    return _rated(now == "block", "too little evidence blocks", "too little evidence exits 0")


def _mode(_was: str, now: str, _proof: bool) -> _Rated:
    return _rated(now == "enforce", "the verdict counts", "no verdict blocks any more")


def _seed(_was: int, _now: int, _proof: bool) -> _Rated:
    return "looser", "another draw: a seed can be picked with which it passes"


def _batch_size(_was: Any, _now: Any, _proof: bool) -> _Rated:
    return "looser", "outputs of dynamic recipes depend on it, and a size can be picked that passes"


_OF_KEY: Mapping[str, Callable[[Any, Any, bool], _Rated]] = {
    "confidence": _confidence,
    "decision": _decision,
    "stopping": _stopping,
    "batch_size": _batch_size,
    "anchor": _anchor,
    "on_inconclusive": _on_inconclusive,
    "mode": _mode,
    "seed": _seed,
}


# ── data, and what FP32 is expected to measure ────────────────────────────────────────────


def _of_data(where: str, old: DataSource, new: DataSource) -> Iterator[Change]:
    pinned = old.sha256 is not None and old.sha256 == new.sha256
    for field in DataSource.model_fields:
        was, now = getattr(old, field), getattr(new, field)
        if was != now:
            effect, why = _of_source(field, was, now, pinned=pinned)
            yield Change(f"{where}.{field}", effect, why, said(was), said(now))


def _of_source(field: str, was: Any, now: Any, *, pinned: bool) -> _Rated:
    if field in ("path", "images", "format") and pinned:
        return "neutral", "the pin is the same, so the data are"
    rate = _OF_SOURCE.get(field, _unknown)
    return rate(was, now)


def _exchanged(_was: Any, _now: Any) -> _Rated:
    return "looser", "other data, which may be easier"


def _pin(was: str | None, now: str | None) -> _Rated:
    if was is None:
        return "stricter", "the data cannot be exchanged any more"
    return _exchanged(was, now) if now is not None else ("looser", "the data can be exchanged")


def _sampled(was: int | None, now: int | None) -> _Rated:
    more = now is None or (was is not None and now > was)
    return _rated(more, "more examples show more harm", "fewer examples show less harm")


def _may_miss(was: int, now: int) -> _Rated:
    return _rated(now < was, "fewer images may be left out", "more images may be left out")


_OF_SOURCE: Mapping[str, Callable[[Any, Any], _Rated]] = {
    **dict.fromkeys(("path", "images", "format"), _exchanged),
    "sha256": _pin,
    "limit": _sampled,
    "may_miss": _may_miss,
}


def _of_expected(old: ExpectFp32 | str, new: ExpectFp32 | str) -> Iterator[Change]:
    where = "judge.expect_fp32"
    if not isinstance(old, ExpectFp32) or not isinstance(new, ExpectFp32):
        effect, why = _rated(
            isinstance(new, ExpectFp32), "wrong inputs are noticed", "wrong inputs go unnoticed"
        )
        yield Change(where, effect, why, _expected(old), _expected(new))
        return
    for name in dict.fromkeys([*old.metrics, *new.metrics]):
        was, now = old.metrics.get(name), new.metrics.get(name)
        if was == now:
            continue
        effect, why = _of_metric(was, now)
        told = [None if value is None else said(value) for value in (was, now)]
        yield Change(f"{where}.{name}", effect, why, *told)
    if old.within != new.within:
        effect, why = _ceiling(old.within, new.within)
        yield Change(f"{where}.within", effect, why, said(old.within), said(new.within))


def _of_metric(was: float | None, now: float | None) -> _Rated:
    if was is None:
        return "added", "one more value that FP32 has to have"
    if now is None:
        return "removed", "FP32 is not held to it any more"
    return "looser", "another FP32 is let in, which may be a broken one"


def _expected(value: ExpectFp32 | str) -> str:
    if not isinstance(value, ExpectFp32):
        return value
    return said({**value.metrics, "within": value.within})


# ── two policies ──────────────────────────────────────────────────────────────────────────


def differences(before: LoadedPolicy, after: LoadedPolicy) -> tuple[Change, ...]:
    """What another version of a policy says of `judge`, `model` and `task`, what is looser first.

    Paths are held against each other as they are from where `before` lies.
    """
    was, now = (moved(one.policy.judge, one.base, before.base) for one in (before, after))
    found = [*_of_subject(before, after), *of_budgets(was, now), *of_keys(was, now)]
    return tuple(sorted(found, key=lambda change: not change.is_looser))


def _of_subject(before: LoadedPolicy, after: LoadedPolicy) -> Iterator[Change]:
    for key, why in (
        ("version", "another language"),
        ("model", "another name has no history to be held against"),
        ("task", "another task measures something else"),
    ):
        was, now = getattr(before.policy, key), getattr(after.policy, key)
        if was != now:
            yield Change(key, "looser", why, said(was), said(now))


def moved(judge: Judge, home: Path, to: Path) -> Judge:
    """The same, with the paths of its data relative to another folder, and without `..` on the way.

    A link that a change puts there could lead such a path elsewhere than where it is looked at.
    """
    here, there = os.path.abspath(home), os.path.abspath(to)

    def path(text: str | None) -> str | None:
        if text is None or is_uri(text) or os.path.isabs(text):
            return text
        return Path(os.path.relpath(os.path.join(here, text), there)).as_posix()

    source = judge.held_out
    data = source.model_copy(update={"path": path(source.path), "images": path(source.images)})
    return judge.model_copy(update={"held_out": data})


def build_changes(before: LoadedPolicy, after: LoadedPolicy) -> tuple[str, ...]:
    """What of `build` is not as it was: dotted names with both values."""
    prose = {"recipe": {"summary"}}
    was, now = (
        one.policy.build.model_dump(mode="json", exclude=prose, by_alias=True)
        for one in (before, after)
    )
    return tuple(_differing(was, now, ""))


def _differing(was: Any, now: Any, where: str) -> Iterator[str]:
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*was, *now]):
            inner = f"{where}.{key}" if where else str(key)
            yield from _differing(was.get(key), now.get(key), inner)
    elif was != now:
        yield f"{where}: {said(was)} → {said(now)}"
