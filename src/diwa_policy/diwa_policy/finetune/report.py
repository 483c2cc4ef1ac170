"""Shows a fine-tuning run: a table for the terminal, and one HTML page that needs nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diwa_policy.finetune.selection import Judgement
from diwa_policy.finetune.signals import CheckpointSignals, Trust
from diwa_worldmodel.dataset.report import percent, printable
from diwa_worldmodel.evaluation.charts import LineChart, line_chart
from diwa_worldmodel.evaluation.pages import page_template
from diwa_worldmodel.training.metrics import JSON_LINES, read_metrics

PAGE = "report.html"
_LEVELS = {"ok": "ok", "warn": "WARN", "bad": "BAD"}
_COLUMNS = (
    "iteration", "success", "other half", "return", "confidence", "entropy +", "translation", "rotation", "flips",
)  # fmt: skip


def table(trust: Trust) -> list[tuple[str, ...]]:
    """A row for each checked policy, under _COLUMNS."""
    return [_row(one) for one in trust.checkpoints]


def _row(one: CheckpointSignals) -> tuple[str, ...]:
    shares = (one.dreamed_success, one.other_success)
    distances = (one.translation_distance, one.rotation_distance, one.gripper_flips)
    return (
        str(one.iteration), *(percent(share) for share in shares), f"{one.dreamed_return:.2f}",
        f"{one.confidence:.3f}", f"{one.entropy_excess:+.2f}", *(percent(share) for share in distances),
    )  # fmt: skip


def to_text(trust: Trust, judgement: Judgement) -> str:
    """For the terminal: the table, every check on a line, why this policy."""
    rows = [_COLUMNS, *table(trust)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
    chosen = str(judgement.iteration)
    lines = [f"{trust.skill}: what its policies dream from {trust.starts} held-out starts, without exploring", ""]
    for row in rows:
        mark = "  <- chosen" if row[0] == chosen else ""
        lines.append("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) + mark)
    lines += ["", *(f"{_LEVELS[one.level]:<5} {one.check}: {one.sentence}" for one in judgement.checks)]
    lines += ["", f"chosen: {judgement.choice}"]
    return "\n".join(printable(line) for line in lines)


def write_page(folder: Path, trust: Trust, judgement: Judgement) -> Path:
    """Write RUN/report.html in one step, from the signals and the run's metrics; its path."""
    path = folder / JSON_LINES
    metrics = read_metrics(path) if path.exists() else []
    new = folder / f".{PAGE}"
    new.write_text(to_html(folder.resolve().name, trust, judgement, metrics), encoding="utf-8")
    os.replace(new, folder / PAGE)
    return folder / PAGE


def to_html(name: str, trust: Trust, judgement: Judgement, metrics: Sequence[Mapping[str, float]]) -> str:
    """The page. Every word from outside is escaped by the template engine."""
    return page_template("fine_tuning.html.j2", "diwa_policy.finetune").render(
        name=name, trust=trust, judgement=judgement, levels=_LEVELS, columns=_COLUMNS, rows=table(trust),
        dreams=_dream_charts(trust), learning=_learning_charts(trust, metrics),
    )  # fmt: skip


def _dream_charts(trust: Trust) -> list[LineChart]:
    """Signals of the checked policies."""
    last = trust.checkpoints[-1].iteration

    def curve(signal: str) -> npt.NDArray[np.float64]:
        return _spread(last, {one.iteration: getattr(one, signal) for one in trust.checkpoints})

    level = np.full(last + 1, trust.replay.prior_entropy)
    return [
        _chart("dreamed success", "%", {"first": curve("dreamed_success"), "other": curve("other_success")}, 100.0),
        _chart("dreamed return", "", {"first": curve("dreamed_return"), "other": curve("other_return")}),
        _chart("classifier's confidence", "%", {"first": curve("confidence")}, 100.0),
        _chart("prior entropy", "nat", {"first": curve("prior_entropy"), "usual": level}),
        _chart(
            "distance to the base", "% of the largest action",
            {"first": curve("translation_distance"), "other": curve("rotation_distance")}, 100.0,
        ),
        _chart("gripper the other way", "% of the actions", {"first": curve("gripper_flips")}, 100.0),
    ]  # fmt: skip


_LEARNING = {
    "reward": ("reward of a decision, exploring", "", 1.0),
    "training_success": ("dreamed success, exploring", "%", 100.0),
    "explained": ("returns' variance explained by the critic, if any", "%", 100.0),
    "ratio_change": ("mean change of a ratio", "%", 100.0),
    "clipped": ("ratios out of range", "%", 100.0),
    "critic_loss": ("critic's loss", "", 1.0),
}


def _learning_charts(trust: Trust, metrics: Sequence[Mapping[str, float]]) -> list[LineChart]:
    """What PPO said of its iterations."""
    last = trust.checkpoints[-1].iteration
    charts = []
    for name, (title, unit, scale) in _LEARNING.items():
        values = {int(line["step"]): max(line[name], 0.0) for line in metrics if name in line}
        charts.append(_chart(title, unit, {"first": _spread(last, values)}, scale))
    return charts


def _spread(last: int, values: Mapping[int, float]) -> npt.NDArray[np.float64]:
    """(last + 1,) by iteration, NaN where there is none."""
    curve = np.full(last + 1, np.nan)
    for iteration, value in values.items():
        if iteration <= last:
            curve[iteration] = value
    return curve


def _chart(title: str, unit: str, lines: Mapping[str, npt.NDArray[Any]], scale: float = 1.0) -> LineChart:
    return line_chart(title, "iteration", lines, unit, first_x=0, scale=scale, banded=())
