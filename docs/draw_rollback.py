"""Draws docs/rollback.svg: one rollback as it was played in virtual time, weight above, evidence below.

`make picture`. Every number in the picture comes from the run; the story's file says what was ordered.
"""
# ruff: noqa: INP001
# (a script, not a package)

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from analysis.judge import Judgement
from controller import judging
from scenarios.play import AT_LEAST, play
from scenarios.plot import Story
from scenarios.result import Result
from scenarios.story import load
from scenarios.virtual.loop import START

HERE = Path(__file__).parent
STORY = HERE.parent / "scenarios" / "errors-burst.yaml"
LEFT, RIGHT, WIDTH = 64, 20, 760
TOP, PANEL, GAP = 56, 110, 46
BLUE, RED, GREY, INK = "#2563eb", "#dc2626", "#94a3b8", "#334155"

Points = list[tuple[float, float]]


def played(story: Story) -> tuple[Result, Points]:
    """The story's result, and the run's log evidence at every look (seconds of the story, log e)."""
    looks: Points = []
    judge = judging.judge

    def watched(evidence: Any, *, alpha: float, beta: float, now: float) -> Judgement:
        found = judge(evidence, alpha=alpha, beta=beta, now=now)
        looks.append((now, found.log_e))
        return found

    judging.judge = watched  # looked at, not changed: evidence is saved only every ten seconds
    try:
        return play(story), looks
    finally:
        judging.judge = judge


class Panel:
    """A part of the picture with axes of its own: seconds to the right, something upwards."""

    def __init__(self, y: float, *, seconds: float, low: float, high: float) -> None:
        self.y, self.seconds, self.low, self.high = y, seconds, low, high

    def at(self, seconds: float, value: float) -> tuple[float, float]:
        """Where a point lies."""
        x = LEFT + (WIDTH - LEFT - RIGHT) * seconds / self.seconds
        return x, self.y + PANEL * (self.high - value) / (self.high - self.low)

    def line(self, points: Iterable[tuple[float, float]], colour: str, *, more: str = "") -> str:
        """A line through the points."""
        path = " ".join("{:.1f},{:.1f}".format(*self.at(*point)) for point in points)
        return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" {more}/>'

    def text(self, seconds: float, value: float, said: str, *, more: str = "") -> str:
        """A word at a point."""
        x, y = self.at(seconds, value)
        return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{said}</text>'


def stairs(weights: Iterable[tuple[float, int]], until: float) -> Points:
    """The weight's history as a line that jumps."""
    points: Points = []
    for at, weight in weights:
        points += [(at, points[-1][1])] if points else []
        points.append((at, weight))
    return [*points, (until, points[-1][1])]


def drawn(result: Result, looks: Points, *, alpha: float, fault: float) -> str:
    """The picture as SVG."""
    zero = result.weights[-1][0]
    until = math.ceil(zero / 5) * 5 + 5.0
    weight = Panel(TOP, seconds=until, low=0, high=12)
    threshold = math.log(1 / alpha)
    curve = [(at, log_e) for at, log_e in looks if 0 <= at <= zero]
    evidence = Panel(
        TOP + PANEL + GAP,
        seconds=until,
        low=min(-1.0, *(y for _, y in curve)),
        high=max(threshold, *(y for _, y in curve)) * 1.15,
    )
    bottom = TOP + 2 * PANEL + GAP
    dashed = 'stroke-dasharray="4 4"'
    title = f"{result.name}: all traffic is back {zero - fault:.1f} s after the fault began"
    parts = [
        f'<rect width="{WIDTH}" height="{bottom + 48}" rx="8" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="28" font-size="15" font-weight="600">{title}</text>',
        weight.line([(fault, 0), (fault, 12)], RED, more=dashed),
        evidence.line([(fault, evidence.low), (fault, evidence.high)], RED, more=dashed),
        weight.text(fault, 12, "fault", more=f'dx="6" dy="12" fill="{RED}"'),
        weight.line(stairs(result.weights, until), BLUE, more='stroke-linejoin="round"'),
        weight.text(0, 12, "weight of the canary, %", more='dy="-4"'),
        *(weight.text(0, tick, str(tick), more='dx="-24" dy="4"') for tick in (0, 10)),
        evidence.text(0, evidence.high, "evidence of harm, log e", more='dy="-4"'),
        evidence.line([(0, threshold), (until, threshold)], GREY, more=dashed),
        evidence.text(0, threshold, f"log(1/{alpha:g})", more='dx="6" dy="14"'),
        *(evidence.text(0, tick, str(tick), more='dx="-24" dy="4"') for tick in (0, 5)),
        evidence.line(curve, BLUE, more='stroke-linejoin="round"'),
        *(
            evidence.text(s, evidence.low, f"{s:g} s", more='dy="20" text-anchor="middle"')
            for s in range(0, int(until), 5)
        ),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 48}" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="{INK}" role="img">\n'
        f"<title>{result.name}: weight and evidence over time</title>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def main() -> None:
    """The picture is drawn."""
    story = load(STORY)
    result, looks = played(story)
    (fault,) = story.arm_faults
    zero = START.timestamp() + max(story.history, AT_LEAST).total_seconds()
    relative = [(at - zero, log_e) for at, log_e in looks]
    alpha = float(story.policy.get("alpha", 0.01))
    picture = drawn(result, relative, alpha=alpha, fault=fault.at.total_seconds())
    (HERE / "rollback.svg").write_text(picture)


if __name__ == "__main__":
    main()
