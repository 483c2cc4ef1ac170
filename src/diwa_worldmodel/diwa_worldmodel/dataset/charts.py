"""Geometry of the report's small charts, in a box of 100 x 40 units; the template draws them in the page's colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from diwa_worldmodel.dataset.quality import Timeline
from diwa_worldmodel.dataset.records import Histogram

WIDTH, HEIGHT = 100.0, 40.0
_MARKS = 300


@dataclass(frozen=True)
class Bar:
    x: float
    y: float
    width: float
    height: float
    tip: str
    """What the pointer shows over it."""
    opacity: float = 1.0


@dataclass(frozen=True)
class Tick:
    """A word below the chart; ``share`` is how far along it stands, from 0 to 1."""

    share: float
    word: str


@dataclass(frozen=True)
class Chart:
    """A histogram."""

    title: str
    note: str
    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    limits: tuple[float, ...] = ()
    """x of lines that mark limits."""


@dataclass(frozen=True)
class Band:
    """A row of the timeline."""

    title: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class TimelineChart:
    still: Band
    closed: Band
    successes: tuple[float, ...]
    failures: tuple[float, ...]
    recordings: tuple[float, ...]
    """x of each."""
    ticks: tuple[Tick, ...]


def histogram_chart(
    title: str, unit: str, values: Histogram, log: bool = False, limits: Sequence[float] = (), note: str = ""
) -> Chart:
    """Bars of the counts; ``log``: heights by their logarithm, where one bar towers over all others."""
    total, most = sum(values.counts), max(values.counts, default=0)
    if not most:
        return Chart(title, "no values", (), ())
    low, high = values.edges[0], values.edges[-1]
    bars = tuple(
        _bar(values.edges[i], values.edges[i + 1], low, high, _height(count, most, log), _tip(values, i, unit, total))
        for i, count in enumerate(values.counts)
        if count
    )
    note = f"{note}peak {100 * most / total:.0f}%{', log' if log else ''}"
    inside = tuple(round(WIDTH * (x - low) / (high - low), 2) for x in limits if low <= x <= high)
    return Chart(f"{title} [{unit}]" if unit else title, note, bars, ticks(low, high), inside)


def _height(count: int, most: int, log: bool) -> float:
    return HEIGHT * (math.log1p(count) / math.log1p(most) if log else count / most)


def _bar(begin: float, end: float, low: float, high: float, height: float, tip: str) -> Bar:
    x, width = WIDTH * (begin - low) / (high - low), WIDTH * (end - begin) / (high - low)
    gap = 0.12 * width
    height = max(height, 0.4)  # one count among thousands is to be seen
    return Bar(round(x + gap / 2, 2), round(HEIGHT - height, 2), round(width - gap, 2), round(height, 2), tip)


def _tip(values: Histogram, i: int, unit: str, total: int) -> str:
    begin, end, count = values.edges[i], values.edges[i + 1], values.counts[i]
    return f"{begin:.3g} to {end:.3g} {unit}: {count} ({100 * count / total:.1f}%)"


def ticks(low: float, high: float, wanted: int = 4) -> tuple[Tick, ...]:
    """Round numbers between low and high."""
    if not high > low:
        return ()
    rough = (high - low) / wanted
    size = 10.0 ** math.floor(math.log10(rough))
    step = min((m * size for m in (1.0, 2.0, 2.5, 5.0, 10.0)), key=lambda one: abs(one - rough))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(Tick(round((i * step - low) / (high - low), 4), f"{i * step:.4g}") for i in range(first, last + 1))


def timeline_chart(timeline: Timeline) -> TimelineChart:
    """Bars as dark as their share; x from 0 to WIDTH is the usable time."""
    duration_s = timeline.bin_s * max(len(timeline.still), 1)
    unit, unit_s = ("min", 60.0) if duration_s > 120.0 else ("s", 1.0)
    return TimelineChart(
        still=_band("still", timeline.still),
        closed=_band("gripper closed", timeline.closed),
        successes=_places(timeline.successes_s, duration_s),
        failures=_places(timeline.failures_s, duration_s),
        recordings=_places(timeline.recordings_s, duration_s),
        ticks=tuple(Tick(tick.share, f"{tick.word} {unit}") for tick in ticks(0.0, duration_s / unit_s, 8)),
    )


def _band(title: str, shares: Sequence[float]) -> Band:
    """Neighbours that are equally dark become one bar: fewer, and without seams."""
    width = WIDTH / max(len(shares), 1)
    bars: list[Bar] = []
    at = 0
    for opacity, equal in groupby(round(value, 1) for value in shares):
        count = len(list(equal))
        if opacity:
            bars.append(Bar(round(at * width, 3), 0.0, round(count * width, 3), 1.0, "", opacity))
        at += count
    return Band(title, tuple(bars))


def _places(times_s: Sequence[float], duration_s: float) -> tuple[float, ...]:
    """At most _MARKS of them, as x."""
    some = times_s[:: -(-len(times_s) // _MARKS) or 1]
    return tuple(round(WIDTH * time / duration_s, 3) for time in some)
