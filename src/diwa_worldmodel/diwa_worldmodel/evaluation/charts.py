"""Geometry of the page's line charts, in a box of 100 x 56 units; the template draws them in the page's colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from diwa_worldmodel.dataset.charts import Tick, ticks
from diwa_worldmodel.evaluation.calibration import Reliability
from diwa_worldmodel.evaluation.intervals import Estimate

WIDTH, HEIGHT = 100.0, 56.0


@dataclass(frozen=True)
class Line:
    name: str
    """Its CSS class."""
    points: str
    """Of a polyline."""
    band: str = ""
    """Of the polygon between the interval's bounds."""


@dataclass(frozen=True)
class Mark:
    """A point with a whisker."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True)
class LineChart:
    title: str
    note: str
    x_title: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    """Shares count from the bottom."""
    marks: tuple[Mark, ...] = ()


def line_chart(
    title: str,
    x_title: str,
    lines: Mapping[str, Estimate | npt.NDArray[Any]],
    note: str = "",
    first_x: int = 1,
    scale: float = 1.0,
    banded: Sequence[str] = ("open_loop",),
) -> LineChart:
    """Values (H,) times ``scale`` over whole steps from ``first_x`` on; the vertical axis begins at zero.

    Lines named in ``banded`` are drawn with their intervals.
    """
    means = {name: scale * (one.mean if isinstance(one, Estimate) else np.asarray(one)) for name, one in lines.items()}
    bands = {
        name: (scale * one.low, scale * one.high)
        for name, one in lines.items()
        if isinstance(one, Estimate) and name in banded
    }
    finite = [
        np.nanmax(one) for one in (*means.values(), *(high for _, high in bands.values())) if np.isfinite(one).any()
    ]
    top = 1.05 * float(max(finite, default=1.0)) or 1.0
    last_x = first_x + max(len(one) for one in means.values()) - 1
    drawn = []
    for name, values in means.items():
        x = _across(np.arange(first_x, first_x + len(values)), first_x, last_x)
        low, high = bands.get(name, (np.zeros(0), np.zeros(0)))
        band = _points(x, low, top) + " " + _points(x[::-1], high[::-1], top) if len(low) else ""
        drawn.append(Line(name, _points(x, values, top), band.strip()))
    return LineChart(title, note, x_title, tuple(drawn), ticks(first_x, last_x), ticks(0.0, top))


def reliability_chart(one: Reliability, title: str, x_title: str, scale: float = 1.0) -> LineChart:
    """True errors over expected ones, with their intervals, and the diagonal on which they should lie."""
    expected, true = scale * one.expected, scale * one.true.mean
    low, high = scale * one.true.low, scale * one.true.high
    top = 1.05 * float(np.nanmax(np.concatenate([expected, true, high]))) or 1.0
    known = np.flatnonzero(np.isfinite(expected) & np.isfinite(true))
    marks = [
        Mark(*_place(expected[i], true[i], top), _up(_or(low[i], true[i]), top), _up(_or(high[i], true[i]), top))
        for i in known
    ]
    diagonal = Line("diagonal", f"0,{HEIGHT} {WIDTH},0")
    note = f"rank correlation {one.rank_correlation:.2f}, at equal horizon {one.at_equal_horizon:.2f}"
    return LineChart(title, note, x_title, (diagonal,), ticks(0.0, top), ticks(0.0, top), tuple(marks))


def _or(value: float, otherwise: float) -> float:
    return float(value) if np.isfinite(value) else float(otherwise)


def _across(x: npt.NDArray[Any], first: float, last: float) -> npt.NDArray[np.float64]:
    return np.asarray(WIDTH * (x - first) / max(last - first, 1))


def _up(value: float, top: float) -> float:
    return round(HEIGHT * (1.0 - float(value) / top), 2)


def _place(x: float, y: float, top: float) -> tuple[float, float]:
    return round(WIDTH * float(x) / top, 2), _up(y, top)


def _points(x: npt.NDArray[Any], values: npt.NDArray[Any], top: float) -> str:
    """What is not known is left out."""
    return " ".join(f"{at:.2f},{_up(value, top)}" for at, value in zip(x, values, strict=True) if np.isfinite(value))
