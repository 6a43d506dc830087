"""Trials of a search as a picture: what each costs against how much of its work is in INT8."""

from collections.abc import Iterator, Sequence
from html import escape

from gate.trials import Trial, front
from gate.wording import plain

_WIDTH, _HEIGHT = 640, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 40, 50
_COLOURS = {"meets": "#1a7f37", "misses": "#cf222e"}
_LEAST_SPAN = 1e-4


def plot(trials: Sequence[Trial], budget: str) -> str:
    """An SVG: integer work to the right, how far beyond the first budget upwards.

    The Pareto front is a line; green points meet every budget.
    """
    shown = [(t, y) for t in trials if (y := _beyond(t, budget)) is not None]
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="20">{escape(plain(budget))}: how far beyond its limit, by the share '
        "of work in INT8</text>",
    ]
    if shown:
        lines += _drawn(shown, [t.number for t in front(tuple(trials), budget)])
    return "\n".join([*lines, "</svg>"]) + "\n"


def _drawn(shown: Sequence[tuple[Trial, float]], best: Sequence[int]) -> Iterator[str]:
    low, high = min(0.0, *(y for _, y in shown)), max(0.0, *(y for _, y in shown))
    span = max(high - low, _LEAST_SPAN)

    def at(trial: Trial, beyond: float) -> tuple[float, float]:
        x = _LEFT + (trial.int8_share or 0.0) * (_WIDTH - _LEFT - _RIGHT)
        return x, _TOP + (high - beyond) / span * (_HEIGHT - _TOP - _BOTTOM)

    zero = _TOP + high / span * (_HEIGHT - _TOP - _BOTTOM)
    yield (
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{zero:.1f}" y2="{zero:.1f}" '
        'stroke="#57606a" stroke-dasharray="4"/>'
    )
    yield f'<text x="8" y="{zero + 4:.1f}">limit</text>'
    yield f'<text x="8" y="{_TOP + 4}">{high:+.3g}</text>'
    yield f'<text x="8" y="{_HEIGHT - _BOTTOM + 4}">{low:+.3g}</text>'
    for share in (0, 0.5, 1):
        x = _LEFT + share * (_WIDTH - _LEFT - _RIGHT)
        label = f"{100 * share:.0f} %"
        yield f'<text x="{x:.1f}" y="{_HEIGHT - 20}" text-anchor="middle">{label}</text>'
    places = {trial.number: at(trial, beyond) for trial, beyond in shown}
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (places[n] for n in best if n in places))
    yield f'<polyline points="{path}" fill="none" stroke="#0969da"/>'
    for trial, _ in shown:
        x, y = places[trial.number]
        told = escape(f"{trial.number}: {plain(trial.move)}")
        yield (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{_COLOURS[trial.outcome]}">'
            f"<title>{told}</title></circle>"
        )
        yield f'<text x="{x + 7:.1f}" y="{y + 4:.1f}">{trial.number}</text>'


def _beyond(trial: Trial, budget: str) -> float | None:
    if trial.outcome == "failed":
        return None
    return next((one.beyond for one in trial.estimates if one.budget == budget), None)
