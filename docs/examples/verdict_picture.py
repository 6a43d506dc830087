"""Draws docs/verdict.svg: four releases, their intervals, and one budget.

    python docs/examples/verdict_picture.py > docs/verdict.svg

Intervals and outcomes are computed by `gate.statistics`; nothing is drawn by hand.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from gate.statistics import exact, tango

LIMIT = 0.01
"""The budget: accuracy drops by at most one percentage point."""
ALPHA = 0.05
"""One-sided error of a proof: 95 % confidence."""
LEFT, TOP, STEP = 250, 70, 64
PX_PER_POINT, ZERO = 110, 1.0
"""Pixels a percentage point, and how many points lie left of no change."""
WIDE, HIGH = 880, 370
MARKS = {"pass": "●", "fail": "■", "inconclusive": "◇"}
STYLE = """\
  text { font: 14px system-ui, sans-serif; fill: #1f2328; }
  .small { font-size: 12px; fill: #59636e; }
  .line { stroke: #59636e; stroke-width: 1; }
  .limit { stroke: #1f2328; stroke-width: 2; stroke-dasharray: 6 4; }
  .bar { stroke-width: 6; stroke-linecap: round; }
  .pass { stroke: #1a7f37; fill: #1a7f37; }
  .fail { stroke: #cf222e; fill: #cf222e; }
  .inconclusive { stroke: #9a6700; fill: #9a6700; }
  text.pass, text.fail, text.inconclusive { stroke: none; font-weight: 600; }
  .ground { fill: #ffffff; }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #0d1117; }
    text { fill: #f0f6fc; } .small { fill: #9198a1; }
    .line { stroke: #9198a1; } .limit { stroke: #f0f6fc; }
    .pass { stroke: #3fb950; fill: #3fb950; }
    .fail { stroke: #f85149; fill: #f85149; }
    .inconclusive { stroke: #d29922; fill: #d29922; }
  }"""


@dataclass(frozen=True, slots=True)
class Case:
    """One release: how many examples INT8 lost and gained against FP32."""

    name: str
    lost: int
    gained: int
    n: int

    @property
    def drop(self) -> float:
        """What was measured, as a fraction."""
        return (self.lost - self.gained) / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Each end is 95 % sure."""
        return tango.interval(self.lost, self.gained, self.n, 1 - 2 * ALPHA)

    @property
    def outcome(self) -> str:
        """By the exact test, as the gate decides one budget."""
        p_pass, p_fail = exact.p_values(
            self.lost, self.gained, self.n, LIMIT, alpha_pass=ALPHA, alpha_fail=ALPHA
        )
        if p_pass <= ALPHA:
            return "pass"
        return "fail" if p_fail <= ALPHA else "inconclusive"


CASES = (
    Case("A", 3, 2, 1000),
    Case("B", 12, 6, 1000),
    Case("C", 60, 30, 5000),
    Case("D", 25, 5, 1000),
)


def points(share: float) -> str:
    """In percentage points, two decimals, with a real minus sign."""
    return f"{100 * share:.2f}".replace("-", "−")


def x(share: float) -> float:
    """Pixels from the left of a drop."""
    return round(LEFT + (ZERO + 100 * share) * PX_PER_POINT, 1)


def svg() -> str:
    """The drawing."""
    body = "\n".join((*_ground(), *(line for i, one in enumerate(CASES) for line in _row(i, one))))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {HIGH}" role="img"'
        f' aria-labelledby="title desc">\n'
        '<title id="title">Four releases held against a budget of one percentage point</title>\n'
        f'<desc id="desc">{_described()}</desc>\n<style>\n{STYLE}\n</style>\n{body}\n</svg>\n'
    )


def _described() -> str:
    told = (
        f"{one.name}: {one.n:,} examples, drop {points(one.drop)} pp, between "
        f"{points(one.interval[0])} and {points(one.interval[1])}: {one.outcome}."
        for one in CASES
    )
    return " ".join(told)


def _ground() -> Iterator[str]:
    """Paper, the axis, no change, and the budget."""
    low, foot = TOP - 20, TOP + STEP * len(CASES) - 10
    yield f'<rect class="ground" width="{WIDE}" height="{HIGH}"/>'
    yield f'<text x="{x(0)}" y="24" text-anchor="middle" class="small">no change</text>'
    yield f'<text x="{x(LIMIT)}" y="24" text-anchor="middle">budget: 1.00 pp</text>'
    yield f'<text x="{x(-0.001)}" y="44" text-anchor="end" class="small">INT8 better ←</text>'
    yield f'<text x="{x(LIMIT + 0.001)}" y="44" class="small">→ over the budget</text>'
    yield f'<line class="line" x1="{x(0)}" x2="{x(0)}" y1="{low}" y2="{foot}"/>'
    yield f'<line class="limit" x1="{x(LIMIT)}" x2="{x(LIMIT)}" y1="{low}" y2="{foot}"/>'
    for tick in range(-1, 4):
        place = x(tick / 100)
        yield f'<line class="line" x1="{place}" x2="{place}" y1="{foot}" y2="{foot + 6}"/>'
        yield (
            f'<text x="{place}" y="{foot + 22}" text-anchor="middle" class="small">'
            f"{points(tick / 100)}</text>"
        )
    yield f'<line class="line" x1="{x(-0.01)}" x2="{x(0.03)}" y1="{foot}" y2="{foot}"/>'
    yield (
        f'<text x="{x(0.01)}" y="{foot + 42}" text-anchor="middle" class="small">'
        "accuracy that INT8 loses, in percentage points (pp)</text>"
    )


def _row(index: int, case: Case) -> Iterator[str]:
    y = TOP + STEP * index + 14
    low, high = case.interval
    kind = case.outcome
    yield f'<text x="20" y="{y - 2}">{case.name}  {case.n:,} examples</text>'
    yield (
        f'<text x="20" y="{y + 16}" class="small">{case.lost} lost, {case.gained} gained: '
        f"{points(case.drop)} pp</text>"
    )
    yield f'<line class="bar {kind}" x1="{x(low)}" x2="{x(high)}" y1="{y}" y2="{y}"/>'
    yield f'<circle class="{kind}" cx="{x(case.drop)}" cy="{y}" r="7"/>'
    yield (f'<text x="{x(low)}" y="{y + 24}" class="small">[{points(low)}, {points(high)}]</text>')
    yield f'<text x="{WIDE - 160}" y="{y + 5}" class="{kind}">{MARKS[kind]} {kind.upper()}</text>'


if __name__ == "__main__":
    sys.stdout.write(svg())
