"""Shows what was measured: one HTML page that needs nothing else, plain text, evaluation.json, strips and films."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diwa_worldmodel.dataset.quality import counted
from diwa_worldmodel.dataset.report import printable
from diwa_worldmodel.dataset.verdicts import Verdict
from diwa_worldmodel.evaluation.calibration import Reliability
from diwa_worldmodel.evaluation.charts import LineChart, line_chart, reliability_chart
from diwa_worldmodel.evaluation.films import encoded, film_frames, strip, write_film
from diwa_worldmodel.evaluation.horizons import CameraErrors, psnr_db
from diwa_worldmodel.evaluation.intervals import plain
from diwa_worldmodel.evaluation.measure import Measurements, Settings
from diwa_worldmodel.evaluation.open_loop import AREAS, PREDICTORS, WHOLE
from diwa_worldmodel.evaluation.pages import page_template
from diwa_worldmodel.evaluation.probes import WAYS, ProbeResult
from diwa_worldmodel.evaluation.verdicts import (
    PICTURES_UNTIL,
    PROBES_AT,
    WORDS,
    error_text,
    is_share,
    overall,
    plain_words,
)

PAGE, NUMBERS = "report.html", "evaluation.json"
FORMAT, VERSION = "diwa-world-model-evaluation", 1
_HORIZONS = (1, 5, 10, 20, 40, 80)
_LEVELS = {"ok": "ok", "warn": "WARN", "bad": "BAD"}
_MSE = 1e3
"""Mean squared errors are shown in thousandths."""
_WAY_WORDS = {
    "open_loop": "dream",
    "closed_loop": "every frame seen",
    "value_held": "value held",
    "training_mean": "always the mean",
}


@dataclass(frozen=True)
class Origin:
    """What was measured on what, by whom."""

    world_model: dict[str, Any]
    """Name, hash, preset, steps."""
    data: dict[str, Any]
    """Name, hash, which episodes."""
    command: str
    machine: dict[str, Any]
    date: str
    seconds: float


@dataclass(frozen=True)
class Evaluation:
    """All that is shown."""

    origin: Origin
    settings: Settings
    step_s: float
    """Of the world model: one or several frames."""
    measured: Measurements
    verdicts: tuple[Verdict, ...]

    @property
    def overall(self) -> Verdict:
        return overall(self.verdicts)


def write_evaluation(evaluation: Evaluation, folder: Path) -> Path:
    """Write page, numbers, strips and films, each in one step; the page's path. OSError where it cannot."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".new-*"):  # by one that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as new:
        films = _write_pictures(evaluation, Path(new))
        Path(new, NUMBERS).write_text(to_json(evaluation), encoding="utf-8")
        Path(new, PAGE).write_text(to_html(evaluation, films), encoding="utf-8")
        written = sorted(Path(new).iterdir())
        for old in (*folder.glob("film_*.mp4"), *folder.glob("strip_*.png")):
            old.unlink()
        for path in written:
            os.replace(path, folder / path.name)
    return folder / PAGE


def _write_pictures(evaluation: Evaluation, folder: Path) -> list[dict[str, Any]]:
    """Strips and films of the picked windows, as files and for the page."""
    shown = []
    for one, made in evaluation.measured.picks:
        film = folder / f"film_{one.name}.mp4"
        write_film(film, film_frames(made, one.about), 1.0 / evaluation.step_s)
        image = strip(made)
        (folder / f"strip_{one.name}.png").write_bytes(encoded(image, "png"))
        shown.append({"pick": one, "film": film.read_bytes(), "strip": encoded(image, "jpeg")})
    return shown


def to_json(evaluation: Evaluation) -> str:
    """Stable keys: serving reads ``surprise``, fine-tuning ``uncertainty``."""
    measured, origin = evaluation.measured, evaluation.origin
    content = {
        "format": FORMAT,
        "version": VERSION,
        **asdict(origin),
        "settings": asdict(evaluation.settings),
        "step_s": evaluation.step_s,
        "starts": len(measured.windows),
        "separate_stretches": measured.stretches,
        "overall": asdict(evaluation.overall),
        "verdicts": [asdict(verdict) for verdict in evaluation.verdicts],
        "open_loop": {camera.camera: camera.to_json() for camera in measured.cameras},
        "probes": {
            "training_frames": measured.probe.frames,
            **{one.quantity.name: one.to_json() for one in measured.probes},
        },
        "kl": measured.settling.to_json(),
        "uncertainty": {
            "prior_entropy": {"closed_loop": measured.sound_entropy, "dreamed": plain(measured.dreamed_entropy)},
            "reliability": [one.to_json() for one in measured.reliabilities],
        },
        "surprise": measured.surprise.to_json(),
        "films": [asdict(one) for one, _ in measured.picks],
    }
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    return re.sub(r"\[[^][{}]*\]", lambda found: " ".join(found[0].split()), text)  # lists of numbers on one line


def to_text(evaluation: Evaluation) -> str:
    """For the terminal: what was measured, the errors by horizon, every verdict on a line, the overall one last."""
    measured, origin = evaluation.measured, evaluation.origin
    lines = [
        f"{origin.world_model['name']} ({origin.world_model['hash'][:12]}): {len(measured.windows)} dreams of "
        f"{evaluation.settings.horizon} steps ({evaluation.settings.horizon * evaluation.step_s:.1f} s) after "
        f"{counted(evaluation.settings.context, 'frame')}, {origin.data['episodes']}",
        "",
        *picture_table(measured.cameras),
        "",
        *(f"{_LEVELS[one.level]:<5} {one.check}: {one.sentence}" for one in evaluation.verdicts),
        "",
        f"{origin.world_model['name']}: {evaluation.overall.sentence}",
    ]
    return "\n".join(printable(line) for line in lines)


def picture_table(cameras: Iterable[CameraErrors]) -> list[str]:
    """Mean squared errors [thousandths] by horizon, a line for each predictor."""
    lines = []
    for camera in cameras:
        places = _places(camera.horizon)
        head = f"{camera.camera} camera, squared error x 1000 at step"
        lines.append(f"{head:<46}" + "".join(f"{place:>8}" for place in places))
        for word in PREDICTORS:
            errors = camera.errors[WHOLE][word].mean
            lines.append(f"  {WORDS[word]:<44}" + "".join(f"{_MSE * errors[place - 1]:8.2f}" for place in places))
    return lines


def _places(horizon: int) -> list[int]:
    """Steps that tables show."""
    return [place for place in _HORIZONS if place < horizon] + [horizon]


def to_html(evaluation: Evaluation, films: list[dict[str, Any]]) -> str:
    """The page. Every word from outside is escaped by the template engine."""
    return page_template("world_model.html.j2").render(_content(evaluation, films))


def _content(evaluation: Evaluation, films: list[dict[str, Any]]) -> dict[str, Any]:
    """What the template knows."""
    measured = evaluation.measured
    return {
        "evaluation": evaluation,
        "origin": evaluation.origin,
        "settings": evaluation.settings,
        "measured": measured,
        "levels": _LEVELS,
        "words": WORDS,
        "ways": _WAY_WORDS,
        "films": films,
        "seconds": evaluation.settings.horizon * evaluation.step_s,
        "pictures": [_picture_chart(camera, area) for camera in measured.cameras for area in AREAS],
        "picture_tables": [_picture_rows(camera) for camera in measured.cameras],
        "places": _places(evaluation.settings.horizon),
        "probes": [_probe_chart(one) for one in measured.probes],
        "probe_places": probe_places(evaluation.settings.horizon),
        "probes_at": min(PROBES_AT, evaluation.settings.horizon),
        "probe_rows": [_probe_row(one) for one in measured.probes],
        "kl": line_chart(
            "one-step KL after a start", "frames seen before", {"closed_loop": measured.settling.kl}, "nat",
            first_x=0, banded=("closed_loop",),
        ),
        "entropy": _entropy_chart(measured),
        "reliabilities": [_reliability(one) for one in measured.reliabilities],
    }  # fmt: skip


def _picture_chart(camera: CameraErrors, area: str) -> LineChart:
    title = f"{camera.camera} camera, {'whole picture' if area == WHOLE else 'pixels that change'}"
    return line_chart(title, "step", camera.errors[area], "squared error x 1000", scale=_MSE)


def _picture_rows(camera: CameraErrors) -> dict[str, Any]:
    places = [place - 1 for place in _places(camera.horizon)]
    rows = []
    for word in PREDICTORS:
        one = camera.errors[WHOLE][word]
        decibels = psnr_db(one.mean)
        cells = [
            (f"{_MSE * one.mean[i]:.2f}", _interval(one.low[i], one.high[i]), f"{decibels[i]:.1f}") for i in places
        ]
        rows.append((word, cells))
    return {"camera": camera.camera, "rows": rows}


def _interval(low: float, high: float) -> str:
    return f"{_MSE * low:.2f} to {_MSE * high:.2f}" if np.isfinite(low) else ""


def _probe_chart(one: ProbeResult) -> LineChart:
    scale, unit = (100.0, "% read wrongly") if is_share(one) else (1.0, f"error [{one.quantity.unit}]")
    return line_chart(one.quantity.name, "step", one.errors, unit, scale=scale)


def _probe_row(one: ProbeResult) -> dict[str, Any]:
    quality = one.balanced_accuracy or one.r2
    places = [place - 1 for place in probe_places(len(one.moved["count"]))]
    cells = []
    for i in places:
        cells += [error_text(one.errors[way].mean[i], one, unit=False) for way in WAYS]
        cells.append("-" if not np.isfinite(quality["open_loop"][i]) else f"{quality['open_loop'][i]:.2f}")
    at = min(PROBES_AT, len(one.moved["count"])) - 1
    moved = int(one.moved["count"][at])
    told = f"{error_text(one.moved['open_loop'][at], one, unit=False)} in {moved}" if moved else "-"
    return {"name": f"{one.quantity.name} [{one.quantity.unit or 'wrong'}]", "cells": cells, "moved": told}


def probe_places(horizon: int) -> list[int]:
    """Steps that the table of probes shows."""
    return sorted({min(PROBES_AT, horizon), min(PICTURES_UNTIL, horizon)})


def _entropy_chart(measured: Measurements) -> LineChart:
    level = np.full_like(measured.dreamed_entropy, measured.sound_entropy)
    lines = {"open_loop": measured.dreamed_entropy, "closed_loop": level}
    return line_chart("entropy of the prior in the dream", "step", lines, "nat")


def _reliability(one: Reliability) -> LineChart:
    scale, unit = (_MSE, " x 1000") if one.error.endswith("_mse") else (1.0, f" [{one.unit}]")
    title = f"{plain_words(one.signal)} and {plain_words(one.error)}"
    return reliability_chart(one, title, f"error that the signal foretells{unit}", scale)
