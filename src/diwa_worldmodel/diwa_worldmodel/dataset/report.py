"""Shows a :class:`Quality` and its verdicts: one HTML page that needs nothing else, plain text, quality.json."""

from __future__ import annotations

import base64
import functools
import io
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2

from diwa_worldmodel.dataset.charts import Chart, histogram_chart, timeline_chart
from diwa_worldmodel.dataset.quality import Quality, clock, counted
from diwa_worldmodel.dataset.records import REASONS
from diwa_worldmodel.dataset.samples import FilmFrame, Scatter
from diwa_worldmodel.dataset.thresholds import Thresholds
from diwa_worldmodel.dataset.verdicts import Verdict, overall

PAGE, NUMBERS = "report.html", "quality.json"
FORMAT, VERSION = "diwa-quality", 1
SCENE_CHARTS = 12
_GREY = "#888888"
MANY = 200
"""Rows of a table, beyond which only their number is told."""

_ENDS = {
    "gap": "frames were lost",
    "jump": "pose or command jumped",
    "reset": "the scene was reset",
    "image": "the image size changed",
    "rate": "the camera's rate changed",
    "clock": "a clock was set",
    "end": "the recording ended",
}


@dataclass(frozen=True)
class Report:
    """All that is shown."""

    quality: Quality
    verdicts: tuple[Verdict, ...]
    limits: Thresholds
    film: tuple[FilmFrame, ...]
    scatter: Scatter | None

    @property
    def overall(self) -> Verdict:
        return overall(self.verdicts)


def write_report(report: Report, folder: Path) -> Path:
    """Write ``report.html`` and ``quality.json``, each in one step; the page's path. OSError where it cannot."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in ((NUMBERS, to_json(report)), (PAGE, to_html(report))):
        new = folder / f"{name}.new"
        new.write_text(text, encoding="utf-8")
        os.replace(new, folder / name)
    return folder / PAGE


def to_json(report: Report) -> str:
    quality = report.quality
    content = {
        "format": FORMAT,
        "version": VERSION,
        "overall": asdict(report.overall),
        "verdicts": [asdict(verdict) for verdict in report.verdicts],
        "thresholds": asdict(report.limits),
        "steps_30_hz": quality.steps_30_hz,
        **asdict(quality),
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def to_text(report: Report) -> str:
    """For the terminal: the facts in three lines, every verdict on one, the overall verdict last."""
    quality = report.quality
    lines = [
        f"{quality.name}: {clock(quality.usable_s)} usable of {clock(quality.recorded_s)} recorded, "
        f"{quality.frames} frames in {counted(quality.episodes.count, 'episode')} "
        f"from {counted(len(quality.recordings), 'recording')}",
        f"{quality.steps} steps at 7.5 Hz, {quality.steps_30_hz} at 30 Hz; "
        f"{sum(quality.frames_left_out.values())} frames left out",
        *(f"  {note}" for note in quality.notes[:MANY]),
        *([f"  and {len(quality.notes) - MANY} more"] if len(quality.notes) > MANY else []),
        "",
        *(f"{_WORDS[verdict.level]:<5} {verdict.check}: {verdict.sentence}" for verdict in report.verdicts),
        "",
        f"{quality.name}: {report.overall.sentence}",
    ]
    return "\n".join(printable(line) for line in lines)


_WORDS = {"ok": "ok", "warn": "WARN", "bad": "BAD"}


def printable(text: str) -> str:
    """Without what could steer a terminal: names come from users."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def to_html(report: Report) -> str:
    """The page. Every word from outside is escaped by the template engine."""
    return _template().render(_content(report))


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("diwa_worldmodel.dataset"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"clock": clock, "counted": counted, "percent": percent, "image": data_url}
    return environment.get_template("report.html.j2")


def percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f}%"


def data_url(content: bytes, kind: str = "jpeg") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _content(report: Report) -> dict[str, Any]:
    """What the template knows."""
    quality = report.quality
    return {
        "report": report,
        "quality": quality,
        "levels": _WORDS,
        "left_out": [(REASONS.get(name, name), count) for name, count in quality.frames_left_out.items()],
        "ends": [(_ENDS.get(name, name), count) for name, count in quality.episode_ends.items()],
        "skew": histogram_chart(
            "gripper minus static camera's stamp", "ms", quality.skew.histogram_ms, log=True,
            limits=[sign * limit for limit in (report.limits.skew_warn_ms,) for sign in (-1, 1)],
        ),
        "lengths": histogram_chart("episode length", "s", quality.episodes.lengths_s),
        "actions": [histogram_chart(one.name, one.unit, one.histogram, log=True) for one in quality.actions],
        "speeds": [histogram_chart(one.name, one.unit, one.histogram) for one in quality.speeds],
        "axes": [histogram_chart(one.name, one.unit, one.histogram) for one in quality.workspace.axes],
        "scene": scene_charts(quality),
        "timeline": timeline_chart(quality.timeline),
        "scatter": data_url(scatter_png(report.scatter), "png") if report.scatter else "",
        "many": MANY,
    }  # fmt: skip


def scene_charts(quality: Quality) -> list[Chart]:
    """Of the first SCENE_CHARTS quantities."""
    return [
        histogram_chart(one.name, "", one.histogram, log=True, note=f"{one.crossings} crossings, ")
        for one in quality.scene[:SCENE_CHARTS]
    ]


def scatter_png(scatter: Scatter) -> bytes:
    """Tool positions in space and from above, on a transparent ground, in colours that a light and a dark page bear."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({"grid.color": "#88888850", "text.parse_math": False}):
        figure = Figure(figsize=(11, 5.2), dpi=110)
        FigureCanvasAgg(figure)
        space = figure.add_axes((0.0, 0.08, 0.54, 0.92), projection="3d")
        above = figure.add_axes((0.6, 0.17, 0.39, 0.8))
    size = 14.0 if len(scatter.positions_m) < 1000 else 6.0
    for opened, colour, word in ((True, "#3b82d6", "gripper open"), (False, "#e07b39", "gripper closed")):
        points = scatter.positions_m[scatter.opened == opened]
        style: dict[str, Any] = {"s": size, "color": colour, "alpha": 0.6, "linewidths": 0}
        space.scatter(*points.T, label=word, depthshade=False, **style)
        above.scatter(points[:, 1], points[:, 0], **style)
    _paint_space(space, scatter.positions_m)
    _paint_above(above)
    handles = space.get_legend_handles_labels()
    figure.legend(*handles, loc="lower center", ncols=2, frameon=False, labelcolor=_GREY, markerscale=2.5)
    buffer = io.BytesIO()
    figure.savefig(buffer, transparent=True, metadata={"Software": None})
    return buffer.getvalue()


def _paint_space(axes: Any, positions_m: Any) -> None:
    axes.set_xlabel("x [m]", color=_GREY)
    axes.set_ylabel("y [m]", color=_GREY)
    axes.set_zlabel("z [m]", color=_GREY)
    axes.tick_params(colors=_GREY, labelsize=7)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_pane_color((0.5, 0.5, 0.5, 0.06))
        axis.line.set_color(_GREY)
    spans = positions_m.max(axis=0) - positions_m.min(axis=0)
    axes.set_box_aspect([max(float(span), 0.05) for span in spans], zoom=1.0)


def _paint_above(axes: Any) -> None:
    """From above as one stands behind the arm: x away, y to the left."""
    axes.set_aspect("equal", adjustable="datalim")
    axes.invert_xaxis()
    axes.set_xlabel("y [m]", color=_GREY)
    axes.set_ylabel("x [m], from above", color=_GREY)
    axes.tick_params(colors=_GREY, labelsize=7)
    for spine in axes.spines.values():
        spine.set_color(_GREY)
