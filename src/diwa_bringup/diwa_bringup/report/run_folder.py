"""All that a page tells of a run, read from its folder; what is not there is None or empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diwa_bringup.report.evaluations import (
    OFFLINE,
    ROS,
    TRUTH,
    Evaluation,
    read_evaluation,
    read_truth,
    truth_of_policies,
)
from diwa_bringup.report.json_files import QUALITY, REWARD, WORLD_MODEL_EVALUATION, Content, read_json, read_plain
from diwa_bringup.report.lineage import CHOSEN, Artefact, read_lineage
from diwa_conventions.errors import UserError
from diwa_policy.evaluation.wilson import Rate
from diwa_policy.finetune.signals import TRUST, Trust, read_trust
from diwa_worldmodel.dataset.verdicts import Level, Verdict

PIPELINE = "pipeline.json"
REPORT_STAGE = "report"
FINE_TUNING = "finetuned"
WORLD_MODEL_REPORT = "world_model/world_model/evaluation"
QUALITY_REPORTS = {"play": "data/play/quality/quality.json", "demonstrations": "data/demos/quality/quality.json"}
CLASSIFIER_REPORT = "reward/reward.json"


@dataclass(frozen=True)
class Stage:
    """A line of ``pipeline.json``."""

    name: str
    title: str
    state: str
    seconds: float
    command: str
    summary: str


@dataclass(frozen=True)
class Pipeline:
    task: str
    seed: int
    machine: str
    begun: str
    stages: tuple[Stage, ...]

    @property
    def seconds(self) -> float:
        return sum(one.seconds for one in self.stages)

    @property
    def shown(self) -> tuple[Stage, ...]:
        """Without the one that makes the page: it goes on while the page is written."""
        return tuple(one for one in self.stages if one.name != REPORT_STAGE)


@dataclass(frozen=True)
class Judged:
    """What a stage said of what it made."""

    overall: Verdict
    verdicts: tuple[Verdict, ...]

    @property
    def remarks(self) -> tuple[Verdict, ...]:
        """What did not pass, the worst first."""
        return tuple(one for level in ("bad", "warn") for one in self.verdicts if one.level == level)

    @property
    def passed(self) -> int:
        return len(self.verdicts) - len(self.remarks)


@dataclass(frozen=True)
class DataQuality:
    """Of quality.json."""

    name: str
    judged: Judged
    usable_s: float
    frames: int
    episodes: int
    recordings: int
    successes: int
    """Marks of all skills."""
    failures: int


@dataclass(frozen=True)
class FineTuning:
    """Of trust.json."""

    trust: Trust
    promoted: bool
    iteration: int
    """That was chosen."""
    choice: str
    """Why."""
    judged: Judged


@dataclass(frozen=True)
class WorldModelReport:
    """Of the world model's evaluation.json."""

    judged: Judged
    errors: Mapping[str, Mapping[str, npt.NDArray[np.float64]]]
    """By camera and predictor: mean squared error of each step ahead (H,)."""
    about: Mapping[str, str]
    """Which window a film shows, by the film's name."""
    step_s: float
    machine: str
    date: str
    command: str


@dataclass(frozen=True)
class CalibrationBin:
    expected: float
    """Mean probability."""
    successes: int
    count: int


@dataclass(frozen=True)
class ClassifierReport:
    """Of reward.json."""

    judged: Judged
    threshold: float
    numbers: Mapping[str, tuple[float | None, float | None]]
    """Precision and recall on frames that were ``seen`` and ``dreamed``."""
    calibrations: Mapping[str, tuple[float, tuple[CalibrationBin, ...]]]
    """Expected error and bins, of both."""
    alarms: Mapping[str, int]
    command: str


@dataclass(frozen=True)
class Run:
    folder: Path
    pipeline: Pipeline | None
    offline: Evaluation | None
    ros: Evaluation | None
    fine_tuning: FineTuning | None
    truth: Mapping[int, Rate]
    """True success by iteration of fine-tuning, of those that were tried."""
    every_checkpoint_tried: bool
    world_model: WorldModelReport | None
    quality: Mapping[str, DataQuality | None]
    classifier: ClassifierReport | None
    lineage: tuple[Artefact, ...]

    @property
    def task(self) -> str:
        if self.pipeline:
            return self.pipeline.task
        evaluation = self.offline or self.ros
        skill = self.fine_tuning.trust.skill if self.fine_tuning else ""
        return evaluation.task if evaluation else skill or self.folder.name

    @property
    def chosen_hash(self) -> str:
        """Of the policy that fine-tuning chose; empty where it is not there."""
        return next((one.hash for one in self.lineage if one.folder == CHOSEN), "")

    @property
    def is_empty(self) -> bool:
        parts = (self.pipeline, self.offline, self.ros, self.fine_tuning, self.world_model, self.classifier)
        return not any([*parts, *self.quality.values(), self.lineage])


def read_run(folder: Path) -> Run:
    """UserError where there is no run, and for a file of it that is broken."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; expected a run, made by: diwa pipeline")
    offline, ros = (read_evaluation(folder / path) for path in (OFFLINE, ROS))
    truth = read_truth(folder / TRUTH)
    run = Run(
        folder=folder,
        pipeline=read_plain(folder / PIPELINE, "what diwa pipeline writes", "diwa pipeline", _pipeline),
        offline=offline,
        ros=ros,
        fine_tuning=read_fine_tuning(folder / FINE_TUNING / TRUST),
        truth=truth or truth_of_policies(offline),
        every_checkpoint_tried=truth is not None,
        world_model=read_json(
            folder / WORLD_MODEL_REPORT / "evaluation.json", WORLD_MODEL_EVALUATION, _world_model_report
        ),
        quality={name: read_json(folder / path, QUALITY, _data_quality) for name, path in QUALITY_REPORTS.items()},
        classifier=read_json(folder / CLASSIFIER_REPORT, REWARD, _classifier_report),
        lineage=read_lineage(folder),
    )
    if run.is_empty:
        raise UserError(f"{folder} holds nothing of a run; expected the folder that diwa pipeline has written to")
    return run


def _pipeline(content: Content) -> Pipeline:
    stages = tuple(
        Stage(
            str(one["name"]), str(one["title"] or one["name"]), str(one["state"]), float(one["seconds"] or 0.0),
            str(one.get("command") or ""), str(one.get("summary") or ""),
        )
        for one in content["stages"]
    )  # fmt: skip
    return Pipeline(
        str(content["task"]), int(content["seed"]), machine_words(content["machine"]), str(content["begun"]), stages
    )


def machine_words(machine: Any) -> str:
    """``device ..., threads 2``: a line, or what it is made of."""
    if isinstance(machine, Mapping):
        return ", ".join(f"{name} {value}" for name, value in machine.items())
    return str(machine)


def read_fine_tuning(path: Path) -> FineTuning | None:
    """None where there is no such file."""
    if not path.exists():
        return None
    trust = read_trust(path)

    def parse(content: Content) -> FineTuning:
        verdict: Content = content["verdict"]
        checks = tuple(_verdict(one) for one in verdict["checks"])
        promoted, iteration = bool(verdict["promoted"]), int(verdict["iteration"])
        trust.at(iteration)
        words = "promoted" if promoted else "refused"
        overall = Verdict("fine-tuning", "ok" if promoted else "bad", words)
        return FineTuning(trust, promoted, iteration, str(verdict["choice"]), Judged(overall, checks))

    try:
        return read_plain(path, "a judged 'diwa-trust'", "diwa finetune", parse)
    except StopIteration:
        raise UserError(f"{path} chose an iteration that is not in it; make it anew with: diwa finetune") from None


def _judged(content: Content) -> Judged:
    return Judged(_verdict(content["overall"]), tuple(_verdict(one) for one in content["verdicts"]))


def _verdict(content: Content) -> Verdict:
    levels: Mapping[str, Level] = {"ok": "ok", "warn": "warn", "bad": "bad"}
    return Verdict(str(content["check"]), levels[content["level"]], str(content["sentence"]))


def _data_quality(content: Content) -> DataQuality:
    skills: Sequence[Content] = content["skills"]
    return DataQuality(
        str(content["name"]), _judged(content), float(content["usable_s"]), int(content["frames"]),
        int(content["episodes"]["count"]), len(content["recordings"]), sum(int(one["successes"]) for one in skills),
        sum(int(one["failures"]) for one in skills),
    )  # fmt: skip


def _world_model_report(content: Content) -> WorldModelReport:
    errors = {
        str(camera): {str(name): _known(one["mean"]) for name, one in measured["mse"]["whole"].items()}
        for camera, measured in content["open_loop"].items()
    }
    about = {str(one["name"]): str(one["about"]) for one in content["films"]}
    return WorldModelReport(
        _judged(content), errors, about, float(content["step_s"]), machine_words(content["machine"]),
        str(content["date"]), str(content["command"]),
    )  # fmt: skip


def _known(values: Sequence[float | None]) -> npt.NDArray[np.float64]:
    return np.array([np.nan if one is None else one for one in values], dtype=np.float64)


def _classifier_report(content: Content) -> ClassifierReport:
    sides = ("seen", "dreamed")
    return ClassifierReport(
        judged=_judged(content),
        threshold=float(content["threshold"]),
        numbers={side: (content[side]["precision"], content[side]["recall"]) for side in sides},
        calibrations={side: _calibration(content[f"{side}_calibration"]) for side in sides},
        alarms={str(name): int(count) for name, count in content["alarms"].items()},
        command=str(content["command"]),
    )


def _calibration(content: Content) -> tuple[float, tuple[CalibrationBin, ...]]:
    triples = zip(content["count"], content["expected"], content["true"], strict=True)
    bins = tuple(
        CalibrationBin(float(expected), round(true * count), int(count)) for count, expected, true in triples if count
    )
    return float(content["error"]), bins


def software_words(lineage: Sequence[Artefact]) -> str:
    """Of what was made last."""
    return ", ".join(f"{name} {version}" for name, version in lineage[-1].software.items()) if lineage else ""
