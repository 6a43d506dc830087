"""A replay for people, and for programs."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from gate.commands.replay import Replay
from gate.wording import (
    amount,
    json_text,
    metric_name,
    metric_value,
    plain,
    plural,
    short,
    unit_of,
    whole,
)

_HOW = {
    "same": "every output has the same bits",
    "close": "no more predictions flip than allowed, proven at 95 %",
    "different": "more predictions flip than allowed",
    "not proven": "too few examples to say",
}
_SHOWN = 60
_METRICS = 4


def render(found: Replay, format: str) -> str:  # noqa: A002
    """The replay as `text` or `json`, ending in a line break."""
    return to_json(found) if format == "json" else to_text(found)


def to_json(found: Replay) -> str:
    """Every number; null where something is undefined."""
    told = asdict(found) | {"exit_code": found.exit_code}
    told["metrics"] = {
        name: {"recorded": old, "replayed": new} for name, (old, new) in found.metrics.items()
    }
    told["versions"] = {
        name: {"recorded": old, "here": new} for name, (old, new) in found.versions.items()
    }
    return json_text(told)


def to_text(found: Replay) -> str:
    """The verdict's word first, then what it rests on."""
    how = _HOW[found.outcome]
    if found.flips_are == "outputs":
        how = how.replace("predictions", "outputs").replace("flip ", "change ")
    head = f"{found.outcome.upper()}  {plain(found.model)} on {plain(found.machine)}: {how}"
    lines = [f"  {name:<10}{text}" for name, text in _lines(found)]
    return "\n".join([head, *lines, *_advice(found)]) + "\n"


def _lines(found: Replay) -> Iterator[tuple[str, str]]:
    yield "record", f"{plain(found.record)}, INT8 {short(found.int8_sha256)}"
    yield (
        "examples",
        f"{whole(found.examples)} of {whole(found.stored)} with stored outputs, "
        f"{found.seconds:.1f} s",
    )
    yield "outputs", _outputs(found)
    yield "flips", _flips(found)
    yield from _metrics(found)
    yield "CPU", _cpu(found)
    for name, (then, now) in found.versions.items():
        yield "version", f"{plain(name)} {plain(now, _SHOWN)} here, {plain(then, _SHOWN)} recorded"


def _outputs(found: Replay) -> str:
    outputs = found.outputs
    told = f"{whole(outputs.identical)} of {whole(found.examples)} bit-identical"
    if outputs.largest is not None:
        told += f"; differences: largest {outputs.largest:.3g}, median {outputs.median:.3g}"
    if outputs.not_finite:
        told += f"; {plural(outputs.not_finite, 'example')} with NaN or Inf"
    return told


def _flips(found: Replay) -> str:
    noun = "prediction" if found.flips_are == "predictions" else "output"
    return (
        f"{whole(found.flips)} of {plural(found.examples, noun)}; the rate is at most "
        f"{_rate(found.flip_rate_upper)} at 95 % confidence, allowed "
        f"{_rate(found.max_flips, limit=True)}"
    )


def _rate(value: float, *, limit: bool = False) -> str:
    return amount(value, "value", "rate", limit=limit)


def _metrics(found: Replay) -> Iterator[tuple[str, str]]:
    """The first that changed; the first of all where none did."""
    changed = [name for name, (then, now) in found.metrics.items() if then != now]
    for name in changed[:_METRICS] or list(found.metrics)[:1]:
        unit, (then, now) = unit_of(name), found.metrics[name]
        told = f"{metric_value(then, unit)} recorded, {metric_value(now, unit)} here"
        yield "metric", f"{metric_name(name)} {told}"
    if len(changed) > _METRICS:
        more = plural(len(changed) - _METRICS, "other metric")
        yield "", f"{more} changed: --format json shows all"
    elif not changed:
        yield "", f"no metric changed, of {len(found.metrics)}"


def _cpu(found: Replay) -> str:
    told = f"recorded {_named(found.recorded_cpu)}; here {_named(found.cpu)}"
    if found.missing:
        told += f"; lacks {', '.join(found.missing)}"
    if found.added:
        told += f"; adds {', '.join(found.added)}"
    return told


def _named(cpu: Mapping[str, Any]) -> str:
    features = ", ".join(plain(name, _SHOWN) for name in cpu.get("features", ())) or "no features"
    return f"{plain(cpu.get('model') or 'unknown', _SHOWN)} ({features})"


def _advice(found: Replay) -> list[str]:
    if found.outcome == "not proven":
        return [
            "  A flip rate is proven by more examples, or for a larger --max-flips; the record "
            f"stored {whole(found.stored)} of {whole(found.held_out)}."
        ]
    if found.outcome == "different" and found.saturates:
        return [
            "  One of the CPUs has AVX2 and no VNNI: there sums of products with 8-bit signed "
            "weights saturate.",
            "  Build with `recipe: static-7bit` or `reduce_range: true`, or serve on CPUs of one "
            "kind.",
        ]
    return []
