"""Geometry of the page's figures; the template draws them in the page's colours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from diwa_bringup.report.evaluations import Evaluation, Latency, Tried
from diwa_bringup.report.run_folder import ClassifierReport, FineTuning, Run, WorldModelReport
from diwa_policy.evaluation.wilson import Rate, wilson
from diwa_worldmodel.dataset.charts import Chart, histogram_chart, ticks
from diwa_worldmodel.dataset.records import Histogram
from diwa_worldmodel.dataset.report import percent
from diwa_worldmodel.evaluation.charts import HEIGHT, WIDTH, Line, LineChart, Mark, line_chart

Points: TypeAlias = Sequence[tuple[float, float]]
LATENCY_BINS = 40
_MSE = 1e3
"""Mean squared errors are shown in thousandths."""


@dataclass(frozen=True)
class Bar:
    """Success of a policy, all in percent."""

    name: str
    role: str
    """Its CSS class: before, after or other."""
    value: float
    low: float
    high: float
    counted: str


def success_bars(name: str, evaluation: Evaluation, after: Tried | None) -> list[Bar]:
    """A bar for each policy of an evaluation; ``name`` says where they were tried."""
    bars = []
    for tried in evaluation.tried:
        role = "before" if tried is evaluation.before else "after" if tried is after else "other"
        word = role if role != "other" else Path(tried.folder).name
        rate = Rate(*(100.0 * one for one in tried.success))
        bars.append(Bar(f"{word}, {name}", role, *rate, f"{tried.successes} of {tried.episodes}"))
    return bars


def dream_vs_truth(fine_tuning: FineTuning, truth: Mapping[int, Rate], every: bool) -> LineChart:
    """Dreamed and true success [%] over the iterations; the truth as a line where every checkpoint was tried."""
    checkpoints = fine_tuning.trust.checkpoints
    dreamed = [(one.iteration, 100.0 * one.success) for one in checkpoints]
    rates = sorted((at, one) for at, one in truth.items() if at <= checkpoints[-1].iteration)
    span = _Span(0.0, max(checkpoints[-1].iteration, 1), 0.0, 100.0)
    lines = [Line("dreamed", span.points(dreamed))]
    if every:
        lines.insert(0, Line("true", span.points([(at, 100.0 * one.value) for at, one in rates])))
    marks = tuple(
        Mark(span.x(at), *(span.y(100.0 * share) for share in (one.value, one.low, one.high))) for at, one in rates
    )
    return span.chart("success, dreamed and true", "%", "iteration", lines, marks)


def signal_charts(fine_tuning: FineTuning) -> list[LineChart]:
    """What else was known of the checkpoints without the truth."""
    checkpoints = fine_tuning.trust.checkpoints

    def curve(title: str, unit: str, name: str, scale: float = 1.0) -> LineChart:
        points = [(one.iteration, scale * getattr(one, name)) for one in checkpoints]
        known = [y for _, y in points if math.isfinite(y)]
        span = _Span(0.0, max(checkpoints[-1].iteration, 1), min([0.0, *known]), 1.05 * max([0.0, *known]))
        return span.chart(title, unit, "iteration", [Line("dreamed", span.points(points))])

    return [
        curve("dreamed return", "", "dreamed_return"),
        curve("entropy above demonstrations", "nat", "entropy_excess"),
        curve("distance from the base", "% of the largest action", "distance", 100.0),
    ]


def calibration_charts(report: ClassifierReport) -> list[LineChart]:
    """Shares of success over probabilities, with 95% intervals, and the diagonal on which they should lie."""
    charts = []
    for side, words in (("seen", "on what the filter saw"), ("dreamed", "on dreams")):
        error, bins = report.calibrations[side]
        span = _Span(0.0, 1.0, 0.0, 1.0)
        marks = tuple(
            Mark(span.x(one.expected), *(span.y(share) for share in wilson(one.successes, one.count))) for one in bins
        )
        diagonal = Line("diagonal", f"0,{HEIGHT} {WIDTH},0")
        charts.append(span.chart(words, f"expected error {percent(error)}", "probability", [diagonal], marks))
    return charts


def picture_charts(report: WorldModelReport) -> list[LineChart]:
    """Errors of dreamed pictures over the steps ahead, beside the last frame held."""
    return [
        line_chart(
            f"{camera} camera", "steps ahead",
            {name: errors[name] for name in ("open_loop", "last_frame") if name in errors},
            "squared error x 1000", scale=_MSE, banded=(),
        )
        for camera, errors in report.errors.items()
    ]  # fmt: skip


@dataclass(frozen=True)
class Timing:
    """A quantity of serving, in ms."""

    name: str
    p50: float
    p99: float
    largest: float
    count: int
    chart: Chart


def timings(latency: Latency) -> list[Timing]:
    """Those that were measured."""
    measured = {
        "image stamp to action": latency.stamp_to_action,
        "decision alone": latency.decision,
        "jitter of the actions' interval": latency.jitter,
    }
    return [_timing(name, values) for name, values in measured.items() if values]


def _timing(name: str, values: Sequence[float]) -> Timing:
    p50, p99 = np.quantile(values, (0.5, 0.99))
    counts, edges = np.histogram(values, bins=LATENCY_BINS, range=(0.0, 1.05 * max(1e-3, *values)))
    histogram = Histogram(tuple(map(float, edges)), tuple(map(int, counts)))
    chart = histogram_chart(name, "ms", histogram, log=True, limits=[p50, p99])
    return Timing(name, float(p50), float(p99), max(values), len(values), chart)


@dataclass(frozen=True)
class _Span:
    """From values to a place in the box of line charts."""

    left: float
    right: float
    bottom: float
    top: float

    def x(self, value: float) -> float:
        return round(WIDTH * (value - self.left) / (self.right - self.left), 2)

    def y(self, value: float) -> float:
        return round(HEIGHT * (1.0 - (value - self.bottom) / ((self.top - self.bottom) or 1.0)), 2)

    def points(self, points: Points) -> str:
        """What is not known is left out."""
        return " ".join(f"{self.x(x)},{self.y(y)}" for x, y in points if math.isfinite(y))

    def chart(
        self, title: str, note: str, x_title: str, lines: Sequence[Line], marks: tuple[Mark, ...] = ()
    ) -> LineChart:
        across, up = ticks(self.left, self.right), ticks(self.bottom, self.top)
        return LineChart(title, note, x_title, tuple(lines), across, up, marks)


@dataclass(frozen=True)
class CheckpointRow:
    """A line of the table of checkpoints."""

    iteration: int
    dreamed: str
    true: str
    interval: str
    optimism: str
    chosen: bool


def checkpoint_rows(run: Run, fine_tuning: FineTuning) -> list[CheckpointRow]:
    """Dream and truth of each."""
    rows = []
    for one in fine_tuning.trust.checkpoints:
        true, interval, optimism = "", "", ""
        if rate := run.truth.get(one.iteration):
            true, interval = percent(rate.value), f"{100 * rate.low:.0f} to {100 * rate.high:.0f}"
            optimism = f"{100 * (one.success - rate.value):+.0f}"
        chosen = one.iteration == fine_tuning.iteration
        rows.append(CheckpointRow(one.iteration, percent(one.success), true, interval, optimism, chosen))
    return rows
