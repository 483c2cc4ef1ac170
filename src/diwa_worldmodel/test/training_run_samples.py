"""Training runs for tests: options of a small one, an observer that keeps what it is told, and comparisons."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from world_model_samples import small_config

from diwa_worldmodel.artefact import load_world_model
from diwa_worldmodel.settings import to_mapping
from diwa_worldmodel.training.checkpoint import load_newest
from diwa_worldmodel.training.loop import Report
from diwa_worldmodel.training.metrics import read_metrics
from diwa_worldmodel.training.train import Speed, Train
from diwa_worldmodel.training.training_run import Outcome, train

STEPS = 12
TIMINGS = {"ms_per_step", "data_wait_share", "gradient_spikes"}
CPU = Speed(threads=1, accelerator="cpu")


def small_run(data_set: Path, out: Path) -> Train:
    """Options of a run of 12 steps that logs each and validates every 5."""
    config = out.with_name("small.yaml")
    config.write_text(yaml.safe_dump(to_mapping(small_config({"steps": STEPS}))))
    return Train(data_set, out=out, config=config, log_steps=1, validation_steps=5, speed=CPU)


class Recorder:
    """Keeps what the training tells; does something at one step."""

    def __init__(self, step: int = 0, act: Callable[[], object] = lambda: None) -> None:
        self.reports: list[Report] = []
        self.lines: list[str] = []
        self.warnings: list[str] = []
        self._step, self._act = step, act

    def reading(self, done: int, total: int) -> None:
        pass

    def report(self, report: Report) -> None:
        self.reports.append(report)
        if report.step == self._step:
            self._act()

    def say(self, line: str) -> None:
        self.lines.append(line)

    def warn(self, line: str) -> None:
        self.warnings.append(line)


def run(options: Train, recorder: Recorder | None = None, stop: Callable[[], bool] = lambda: False) -> Outcome:
    outcome = train(options, recorder or Recorder(), stop)
    assert outcome is not None
    return outcome


def stopped_at(options: Train, step: int) -> Outcome:
    """A run that was asked to stop while it made this step."""
    recorder = Recorder()
    return run(options, recorder, lambda: len(recorder.reports) == step - 1)


def learned(out: Path) -> list[dict[str, float]]:
    """Its metrics, without what differs from run to run."""
    lines = read_metrics(out / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name not in TIMINGS} for line in lines]


def assert_same_run(out: Path, other: Path) -> None:
    """Every loss, and all of the world model."""
    assert learned(out) == learned(other)
    assert load_world_model(out / "world_model").hash == load_world_model(other / "world_model").hash


def checkpoint_step(out: Path) -> int:
    checkpoint = load_newest(out / "checkpoints", pytest.fail)
    assert checkpoint is not None
    return checkpoint.step
