"""The page: what its template is given."""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diwa_bringup.report import figures
from diwa_bringup.report.evaluations import OFFLINE, ROS, Evaluation, Tried
from diwa_bringup.report.films import Film, load_film, load_strip, pick_pair, trial_films
from diwa_bringup.report.lineage import METADATA, WORLD_MODEL_FOLDER
from diwa_bringup.report.run_folder import FINE_TUNING, WORLD_MODEL_REPORT, Run, software_words
from diwa_bringup.report.verdict import verdict
from diwa_worldmodel.evaluation.pages import page_template

TEMPLATE = "report.html.j2"
DREAM = "dream.mp4"
"""Of the fine-tuned policy, in the folder of fine-tuning; where there is none, a dream of the world model's evaluation
along recorded actions stands in."""
WINDOWS = ("median", "good", "worst")
"""Of the world model's evaluation, which is shown; the first of them that is there."""
LEVELS = {"ok": "ok", "warn": "WARN", "bad": "BAD"}
_WORLD_MODEL = f"{{run}}/{WORLD_MODEL_FOLDER}"
_POLICIES = "{run}/base {run}/finetuned/policy"
MADE_BY = {
    "offline": f"diwa evaluate policy {_POLICIES} {{run}}/finetuned/last --world-model {_WORLD_MODEL} "
    "--out {run}/evaluation",
    "ros": f"diwa evaluate policy {_POLICIES} --world-model {_WORLD_MODEL} --env ros --out {{run}}/evaluation_ros",
    "fine_tuning": f"diwa finetune {_WORLD_MODEL} {{run}}/data/demos --policy {{run}}/base --reward {{run}}/reward "
    "--out {run}/finetuned",
    "truth": f"diwa evaluate finetuning {{run}}/finetuned --world-model {_WORLD_MODEL}",
    "world_model": f"diwa evaluate world-model {_WORLD_MODEL} --data {{run}}/data/play",
    "play": "diwa inspect {run}/data/play",
    "demonstrations": "diwa inspect {run}/data/demos",
    "classifier": f"diwa reward {_WORLD_MODEL} {{run}}/data/demos --task {{task}} --out {{run}}/reward",
    "lineage": "diwa train {run}/data/play --out {run}/world_model",
    "stages": "diwa pipeline",
}
"""What makes a part that is not there."""


@dataclass(frozen=True)
class ShownFilm:
    title: str
    caption: str
    film: Film


@dataclass(frozen=True)
class Strip:
    caption: str
    jpeg: bytes
    width: int
    height: int


@dataclass(frozen=True)
class Place:
    """Where policies were tried, and what came of it."""

    name: str
    evaluation: Evaluation
    after: Tried | None


def render(run: Run) -> str:
    """The page. Every word from outside is escaped by the template engine."""
    return page_template(TEMPLATE, "diwa_bringup.report").render(content(run))


def content(run: Run) -> Mapping[str, Any]:
    """What the template knows."""
    places = _places(run)
    fine_tuning, pipeline = run.fine_tuning, run.pipeline
    return {
        "run": run,
        "levels": LEVELS,
        "made_by": made_by(run),
        "verdict": verdict(run),
        "places": places,
        "bars": [bar for one in places for bar in figures.success_bars(one.name, one.evaluation, one.after)],
        "films": list(_films(run)),
        "curve": figures.dream_vs_truth(fine_tuning, run.truth, run.every_checkpoint_tried) if fine_tuning else None,
        "signals": figures.signal_charts(fine_tuning) if fine_tuning else [],
        "checkpoints": figures.checkpoint_rows(run, fine_tuning) if fine_tuning else [],
        "strip": _strip(run),
        "pictures": figures.picture_charts(run.world_model) if run.world_model else [],
        "calibrations": figures.calibration_charts(run.classifier) if run.classifier else [],
        "timings": figures.timings(run.ros.latency) if run.ros and run.ros.latency else [],
        "longest_s": max([1e-9, *(one.seconds for one in pipeline.stages)]) if pipeline else 1.0,
        "commands": commands(run),
        "software": software_words(run.lineage),
        "metadata_file": METADATA,
        "begun": minutes(pipeline.begun) if pipeline else "",
        "made": minutes(datetime.datetime.now(datetime.timezone.utc).isoformat()),
    }


def made_by(run: Run) -> Mapping[str, str]:
    """The command for each part that may not be there, to be typed as it is."""
    words = {"run": shlex.quote(str(run.folder)), "task": shlex.quote(run.task)}
    return {part: command.format(**words) for part, command in MADE_BY.items()}


def _places(run: Run) -> list[Place]:
    found = (("offline", run.offline), ("over ROS", run.ros))
    return [Place(name, one, one.after(run.chosen_hash)) for name, one in found if one]


def _films(run: Run) -> Iterator[ShownFilm]:
    """Before and after, of the first evaluation that has films; then a dream."""
    for path, evaluation in ((OFFLINE, run.offline), (ROS, run.ros)):
        films = trial_films((run.folder / path).parent)
        if not evaluation or not films:
            continue
        after = evaluation.after(run.chosen_hash)
        for role, one in pick_pair(films, evaluation.before.place, after.place if after else -1).items():
            film = load_film(one.path)
            outcome = "success" if one.success else "failure"
            yield ShownFilm(role, f"{outcome} after {film.seconds:.1f} s, start {one.start}", film)
        break
    dream = run.folder / FINE_TUNING / DREAM
    if dream.exists():
        yield ShownFilm(
            "dream", "of the fine-tuned policy, from a recorded start; the median of several", load_film(dream)
        )
    elif run.world_model and (window := _window(run, "film_{}.mp4")):
        about = run.world_model.about.get(window, window)
        film = load_film(run.folder / WORLD_MODEL_REPORT / f"film_{window}.mp4")
        yield ShownFilm("dream", f"of the world model along recorded actions, under what was true; {about}", film)


def _strip(run: Run) -> Strip | None:
    window = _window(run, "strip_{}.png")
    if not run.world_model or not window:
        return None
    about = run.world_model.about.get(window, window)
    return Strip(about, *load_strip(run.folder / WORLD_MODEL_REPORT / f"strip_{window}.png"))


def _window(run: Run, name: str) -> str:
    """The first of WINDOWS of which there is a file; empty for none."""
    folder: Path = run.folder / WORLD_MODEL_REPORT
    return next((one for one in WINDOWS if (folder / name.format(one)).exists()), "")


def commands(run: Run) -> list[tuple[str, str]]:
    """What was typed, or the pipeline typed, with a few words each; once, in the order of the stages."""
    if run.pipeline:
        return [(one.title, one.command) for one in run.pipeline.stages if one.command]
    told = {
        "world model measured": run.world_model.command if run.world_model else "",
        "reward classifier": run.classifier.command if run.classifier else "",
        "before and after, offline": run.offline.command if run.offline else "",
        "before and after, over ROS": run.ros.command if run.ros else "",
    }
    return [(title, command) for title, command in told.items() if command]


def minutes(date: str) -> str:
    """``2026-11-21 12:00 UTC`` of a date in ISO 8601; other words stay as they are."""
    try:
        return datetime.datetime.fromisoformat(date).strftime("%Y-%m-%d %H:%M %Z").strip()
    except ValueError:
        return date
