"""How numbers, names and budgets are written for people: one place, so that reports agree."""

import json
import math
import re
import unicodedata
from collections.abc import Collection, Iterable
from typing import Literal

from gate.policy import Budget, Threshold
from gate.records import Comparison

Unit = Literal["rate", "bytes", "number", "ms", "speed"]
Quantity = Literal["drop", "relative_drop", "value", "ratio"]

NOTHING = "–"
QUANTITIES: dict[Threshold, Quantity] = {
    "max_drop": "drop",
    "max_relative_drop": "relative_drop",
    "at_least": "value",
    "at_most": "value",
    "max_ratio": "ratio",
}
_RATES = re.compile(r"accuracy|top_?\d+_accuracy|prediction_flips|exact_match")
_LOWER_IS_BETTER = re.compile(
    r"size|ece|rmse|mae|kl_divergence|character_error_rate|.*_flips|.*_loss|quantile_loss_\d+"
)
_OF_RATES = ("clopper", "betting")
_UNITS: dict[str, Unit] = {
    "size": "bytes",
    "peak_memory": "bytes",
    "latency_p50": "ms",
    "latency_p95": "ms",
    "throughput": "speed",
}
_SPELLED = {
    **{word: word.upper() for word in ("int8", "fp32", "f1", "auroc", "ece", "mcc", "mrr", "sqnr")},
    **{word: word.upper() for word in ("rmse", "mae", "r2", "kl")},
    "map": "mAP",
    "map50": "mAP50",
    "map75": "mAP75",
    "ndcg": "nDCG",
    "miou": "mIoU",
    "iou": "IoU",
}
_OF_INT8_ALONE = re.compile(r"int8_share|output_cosine|kl_divergence|sqnr|.*_flips")
_HIDDEN = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})
_NO_LETTER = re.compile(r"[^\x00-\x7e]+")
_NOISE = 1e-9


# ── text from outside ─────────────────────────────────────────────────────────────────────


def plain(text: object, limit: int = 120) -> str:
    """Text that can be shown anywhere: one line, nothing invisible, about `limit` characters.

    Control characters, bidirectional overrides and their like are written as escapes; what is
    too long loses its middle; what a CI system's log would obey (`::error::`) is broken up.
    """
    shown = re.sub(r":(?=:)|##(?=\[)", r"\g<0> ", str(text))
    if len(shown) > limit:
        head, tail = (limit - 1) * 2 // 3, (limit - 1) // 3
        shown = f"{shown[:head]}…{shown[-tail:]}"
    if shown.isascii() and shown.isprintable():  # nearly always: nothing in it is hidden
        return shown
    return "".join(map(_visible, shown))


def json_text(document: object) -> str:
    """A document as UTF-8, indented; what a terminal would obey, or hide, is written as escapes.

    Raises:
        ValueError: a number is NaN or infinite, which JSON does not have.
    """
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # JSON has escaped what stands below the space, so that none but its own line ends are left
    return text if text.isascii() and "\x7f" not in text else _NO_LETTER.sub(_escaped, text)


def few(names: Collection[str], limit: int = 5) -> str:
    """The first names, and how many more."""
    shown = ", ".join([*names][:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def _escaped(found: re.Match[str]) -> str:
    return "".join(
        json.dumps(mark)[1:-1] if unicodedata.category(mark) in _HIDDEN and mark != "\n" else mark
        for mark in found[0]
    ).replace("\x7f", "\\u007f")


def _visible(character: str) -> str:
    if unicodedata.category(character) not in _HIDDEN:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"  # noqa: PLR2004


def short(digest: str) -> str:
    """The head of a hash, enough to recognise it."""
    return plain(digest[:12])


def listing(items: Iterable[str], most: int) -> str:
    """`a, b, c and 4 more`."""
    every = list(items)
    shown = ", ".join(every[:most])
    return shown if len(every) <= most else f"{shown} and {whole(len(every) - most)} more"


def plural(number: int, noun: str) -> str:
    """`1 budget`, `2 budgets`, `1,024 budgets`."""
    return f"{whole(number)} {noun}{'' if number == 1 else 's'}"


# ── numbers ───────────────────────────────────────────────────────────────────────────────


def whole(number: int) -> str:
    """`2419` as `2,419`."""
    return f"{number:,}"


def decimal(number: float, digits: int = 2) -> str:
    """Fixed decimals, with more of them where these would round a difference away."""
    number = 0.0 if abs(number) < _NOISE else number
    text = f"{number:,.{digits}f}"
    if number != 0 and float(text.replace(",", "")) == 0:
        text = f"{number:.1g}"
    return text.replace("-", "−")


def exact(number: float, digits: int = 2) -> str:
    """At least `digits` decimals, and as many as it takes to write a limit as it was given."""
    head, _, tail = f"{number:,.6f}".partition(".")
    tail = tail.rstrip("0").ljust(digits, "0")
    lost = number != 0 and float(f"{head}.{tail}".replace(",", "")) == 0
    return f"{number:.6g}" if lost else f"{head}.{tail}".replace("-", "−")


def size(number: float) -> str:
    """Bytes as `840 B`, `27.4 kB`, `1.03 MB` (powers of 1000)."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(number) >= scale:
            scaled = number / scale
            digits = 2 if abs(scaled) < 10 else 1 if abs(scaled) < 100 else 0  # noqa: PLR2004
            return f"{scaled:,.{digits}f} {unit}".replace("-", "−")
    return f"{number:.0f} B".replace("-", "−")


def p_value(p: float) -> str:
    """`p = 0.069`, `p < 0.0001`."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"  # noqa: PLR2004


def amount(number: float, quantity: Quantity, unit: Unit, *, limit: bool = False) -> str:
    """A number in its unit: `1.00 pp`, `98.20 %`, `0.27 × FP32`, `27.4 kB`, `0.9531`.

    With `limit` it is written with all of its digits.
    """
    if unit == "bytes" and quantity in ("drop", "value"):
        return size(number)
    scale, digits, suffix = _form(quantity, unit)
    write = exact if limit else decimal
    return write(number * scale, 2 if limit else digits) + suffix


def interval(lower: float, upper: float, quantity: Quantity, unit: Unit) -> str:
    """`[0.10, 1.43]`, in the unit that `amount` writes."""
    if unit == "bytes" and quantity in ("drop", "value"):
        return f"[{size(lower)}, {size(upper)}]"
    scale, digits, _ = _form(quantity, unit)
    return f"[{decimal(lower * scale, digits)}, {decimal(upper * scale, digits)}]"


def _form(quantity: Quantity, unit: Unit) -> tuple[int, int, str]:
    """Scale, decimals, suffix."""
    if quantity == "ratio":
        return 1, 2, " × FP32"
    if quantity == "relative_drop":
        return 100, 2, " %"
    if unit == "ms":
        return 1, 3, " ms"
    if unit == "speed":
        return 1, 0, " /s"
    if unit == "rate":
        return 100, 2, " pp" if quantity == "drop" else " %"
    return 1, 4, ""


# ── metrics and budgets ───────────────────────────────────────────────────────────────────


def unit_of(metric: str, comparison: Comparison | None = None) -> Unit:
    """What a metric is counted in; a paired table or a rate's interval show a proportion."""
    if metric in _UNITS:
        return _UNITS[metric]
    counted = comparison is not None and (
        comparison.counts is not None
        or comparison.method.lower().startswith(("clopper", "betting"))
    )
    return "rate" if counted or _RATES.fullmatch(metric) else "number"


def metric_name(metric: str) -> str:
    """`prediction_flips` as `prediction flips`, `top5_accuracy` as `top-5 accuracy`."""
    spaced = re.sub(r"^top_?(\d+)_", r"top-\1 ", plain(metric, 60))
    return " ".join(_SPELLED.get(word, word) for word in re.split(r"[_ ]", spaced))


def metric_value(value: float | None, unit: Unit) -> str:
    """A metric's own value, a dash where it has none."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return amount(value, "value", unit)


def both_values(comparison: Comparison) -> tuple[str, str]:
    """FP32's value and INT8's; a dash for FP32 where a metric is about INT8 alone."""
    unit = unit_of(comparison.metric, comparison)
    reference = None if _OF_INT8_ALONE.fullmatch(comparison.metric) else comparison.reference
    return metric_value(reference, unit), metric_value(comparison.int8, unit)


def side_name(against: str) -> str:
    """What INT8 is held against, in a sentence: `FP32`, `production`, `the anchor`."""
    return {"fp32": "FP32", "anchor": "the anchor"}.get(against, against)


def limit_noun(budget: Budget) -> str:
    """`drop `, `relative drop `, `rise ` for what is better low; nothing for other limits."""
    if budget.threshold not in ("max_drop", "max_relative_drop"):
        return ""
    worse = "rise" if _LOWER_IS_BETTER.fullmatch(budget.metric) else "drop"
    return f"relative {worse} " if budget.threshold == "max_relative_drop" else f"{worse} "


def limit_name(budget: Budget, unit: Unit) -> str:
    """`drop ≤ 1.00 pp`, `≥ 0.80`, `≤ 0.50 × FP32`, with what it is held against."""
    sign = "≥" if budget.threshold == "at_least" else "≤"
    limit = amount(budget.limit, QUANTITIES[budget.threshold], unit, limit=True)
    text = f"{limit_noun(budget)}{sign} {limit}"
    if budget.against == "fp32":
        return text
    if budget.threshold == "max_ratio":
        return text.replace("FP32", side_name(budget.against))
    return f"{text} against {side_name(budget.against)}"


def budget_name(budget: Budget, unit: Unit | None = None, where: str | None = None) -> str:
    """`accuracy, drop ≤ 1.00 pp`, `accuracy, each target, drop ≤ 3.00 pp`, `size ≤ 0.50 × FP32`.

    `where` is the slice, `column=value`; without it a budget on each value of a column is named
    as a whole.
    """
    if where is None:
        where = f"each {budget.each}" if budget.each else _slice_of(budget)
    limit = limit_name(budget, unit or unit_of(budget.metric))
    parts = [metric_name(budget.metric), *([plain(where, 60)] if where else []), limit]
    if where or not limit.startswith(("≤", "≥")):
        return ", ".join(parts)
    return " ".join(parts)


def _slice_of(budget: Budget) -> str | None:
    _, bracket, rest = budget.id.partition("[")
    return rest.rpartition("]")[0] if bracket else None


# ── what was measured ─────────────────────────────────────────────────────────────────────


def measured(comparison: Comparison, quantity: Quantity) -> float | None:
    """The number that a budget on `quantity` is about; None where it is undefined."""
    if quantity == "value":
        return comparison.int8
    sampled = comparison.quantity == quantity and comparison.lower is not None
    if quantity == "ratio" and not (sampled and comparison.degradation is not None):
        defined = comparison.int8 is not None and comparison.reference
        return comparison.int8 / comparison.reference if defined else None  # type: ignore[operator]
    if quantity == "ratio":  # a median of ratios is not the ratio of the medians
        return 1 + (comparison.degradation or 0.0)
    return comparison.degradation if comparison.quantity == quantity else None


def bounds(comparison: Comparison, quantity: Quantity) -> tuple[float, float] | None:
    """The interval around `measured`; None for exact numbers and where there is none."""
    lower, upper = comparison.lower, comparison.upper
    if comparison.quantity != quantity or lower is None or upper is None or lower == upper:
        return None
    return lower, upper


def excess(budget: Budget, number: float) -> float:
    """How far a number is beyond its limit; negative within it."""
    return budget.limit - number if budget.threshold == "at_least" else number - budget.limit


def excess_text(budget: Budget, beyond: float, unit: Unit) -> str:
    """`over by 1.31 pp`, `short by 0.12`."""
    quantity = QUANTITIES[budget.threshold]
    difference: Quantity = "drop" if quantity == "value" else quantity
    word = "short" if budget.threshold == "at_least" else "over"
    return f"{word} by {amount(beyond, difference, unit)}"


def measured_text(comparison: Comparison, quantity: Quantity, unit: Unit) -> str:
    """`0.60 pp [0.10, 1.43]`, or a dash."""
    number = measured(comparison, quantity)
    if number is None:
        return NOTHING
    around = bounds(comparison, quantity)
    text = amount(number, quantity, unit)
    if quantity == "ratio":
        text = text.replace("FP32", side_name(comparison.against))
    return f"{text} {interval(*around, quantity, unit)}" if around else text
