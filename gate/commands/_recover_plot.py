"""Trials of a search as a picture: what each costs against integer work, and against time."""

from collections.abc import Callable, Iterator, Sequence
from html import escape

from gate.trials import Trial, front
from gate.wording import plain

_PANEL, _HEIGHT = 480, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 40, 60
_COLOURS = {"meets": "#1a7f37", "misses": "#cf222e"}
_LEAST_SPAN = 1e-4
_TICKS = (0, 0.5, 1)
Shown = Sequence[tuple[Trial, float]]
"""Trials that ran, each with how far it is beyond the budget."""


def plot(trials: Sequence[Trial], budget: str) -> str:
    """An SVG of two panels: how far beyond the budget, by integer work and by time an example.

    Green points meet every budget; the line joins trials that no other beats in both.
    """
    shown = [(t, y) for t in trials if (y := t.beyond(budget)) is not None]
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * _PANEL} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{2 * _PANEL}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="20">{escape(plain(budget))}: how far beyond its limit</text>',
    ]
    if shown:
        best = [trial.number for trial in front(tuple(trials), budget)]
        lines += _panel(shown, lambda t: 100 * (t.int8_share or 0), 100, "% of work in INT8", best)
        slowest = max(trial.milliseconds or 0 for trial, _ in shown) or 1
        lines += [f'<g transform="translate({_PANEL} 0)">']
        lines += _panel(shown, lambda t: t.milliseconds or 0, slowest, "ms an example", [])
        lines += ["</g>"]
    return "\n".join([*lines, "</svg>"]) + "\n"


def _panel(
    shown: Shown, of: Callable[[Trial], float], most: float, label: str, best: Sequence[int]
) -> Iterator[str]:
    low, high = min(0.0, *(y for _, y in shown)), max(0.0, *(y for _, y in shown))
    span, wide = max(high - low, _LEAST_SPAN), _PANEL - _LEFT - _RIGHT

    def down(beyond: float) -> float:
        return _TOP + (high - beyond) / span * (_HEIGHT - _TOP - _BOTTOM)

    yield (
        f'<line x1="{_LEFT}" x2="{_LEFT + wide}" y1="{down(0):.1f}" y2="{down(0):.1f}" '
        'stroke="#57606a" stroke-dasharray="4"/>'
    )
    for text, beyond in (("limit", 0.0), (f"{high:+.3g}", high), (f"{low:+.3g}", low)):
        yield f'<text x="8" y="{down(beyond) + 4:.1f}">{text}</text>'
    for tick in _TICKS:
        x = _LEFT + tick * wide
        yield f'<text x="{x:.1f}" y="{_HEIGHT - 35}" text-anchor="middle">{tick * most:.3g}</text>'
    middle = _LEFT + wide / 2
    yield f'<text x="{middle:.1f}" y="{_HEIGHT - 15}" text-anchor="middle">{label}</text>'
    places = {t.number: (_LEFT + of(t) / most * wide, down(y)) for t, y in shown}
    if len(best) > 1:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (places[number] for number in best))
        yield f'<polyline points="{path}" fill="none" stroke="#0969da"/>'
    for trial, _ in shown:
        yield from _point(trial, *places[trial.number])


def _point(trial: Trial, x: float, y: float) -> Iterator[str]:
    told = escape(f"{trial.number}: {plain(trial.move)}")
    yield (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{_COLOURS[trial.outcome]}">'
        f"<title>{told}</title></circle>"
    )
    yield f'<text x="{x + 7:.1f}" y="{y + 4:.1f}">{trial.number}</text>'
