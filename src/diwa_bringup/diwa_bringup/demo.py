"""``diwa demo``: as much of the loop as is built: a task over ROS topics, its data, a world model that dreams of it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from diwa_bringup.attempt import Report
from diwa_bringup.domain import free_domain
from diwa_bringup.graph import RECORD, NodeSpec
from diwa_bringup.start import start
from diwa_conventions.discovery import stay_on_this_machine
from diwa_conventions.errors import UserError
from diwa_conventions.tasks import checked_task

HOW_FAR = (
    "The loop at present: a scripted operator does a task in the playroom over ROS topics, through teleop and command "
    "guard; it is filmed and recorded; with simulated play it becomes a data set; a tiny world model learns from it "
    "for a minute and dreams. Policies and serving follow as their stages are built."
)
SHORT_TRAINING = {"warmup_steps": 20, "decay_steps": 100, "validation_share": 0.1}
DREAMS, DREAM_STEPS = 16, 40
"""Little play is held out: few and short dreams."""
_MARKER = ".made_by_diwa_demo"


@dataclass(frozen=True)
class Demo:
    """Let a scripted operator do a task over ROS topics, record it, make a data set of it, learn a small world model.

    It runs in a ROS domain of its own that nobody else uses. Exit code 0 when the task was done and all is written.
    """

    task: str = "open-drawer"
    """Task to demonstrate."""
    seed: int = 0
    """Seed of the playroom and of the operator."""
    play_frames: int = 2000
    """Simulated play that is added to the recording, in frames of 7.5 Hz."""
    train_steps: int = 300
    """Gradient steps of the world model: enough to see it dream, not to learn a policy in it."""
    out: Path = Path("runs/demo")
    """Folder for film, bags, data set, world model and reports."""

    def run(self) -> int:
        """Record, simulate, import, inspect, train, evaluate."""
        checked_task(self.task)
        self.out.mkdir(parents=True, exist_ok=True)
        film, report = self._file("film.mp4"), self._file("report.json")
        for old in (film, report):
            old.unlink(missing_ok=True)
        loop = fresh_folder(self._file("loop"))
        specs = demo_specs(self.task, self.seed, film, report, loop / "recorded")
        stay_on_this_machine()
        os.environ["ROS_DOMAIN_ID"] = str(free_domain())
        print(HOW_FAR, flush=True)
        code = start(specs)
        if not report.exists() or not report.stat().st_size:
            print("diwa: the demonstration was stopped before it ended", file=sys.stderr)
            return 1
        outcome = Report.from_json(report.read_text(encoding="utf-8"))
        code = code or self._learn_from(loop)
        Console().print(summary(outcome, film, loop))
        return 0 if outcome.success and film.exists() and code == 0 else 1

    def _file(self, name: str) -> Path:
        return (self.out / name).resolve()

    def _learn_from(self, loop: Path) -> int:
        """Add simulated play to the recording, import both, look at the data, train on it, look at the dreams."""
        from diwa_sim.simulate import SimulatePlay
        from diwa_worldmodel.dataset.importing import Import
        from diwa_worldmodel.dataset.inspecting import Inspect
        from diwa_worldmodel.evaluation.evaluate import EvaluateWorldModel
        from diwa_worldmodel.training.train import Train

        data, training = loop / "data", loop / "training"
        settings = {"steps": self.train_steps, "seed": self.seed, **SHORT_TRAINING}
        words = tuple(f"training.{name}={value}" for name, value in settings.items())
        model = training / "world_model"
        return (
            SimulatePlay(out=loop / "play", frames=self.play_frames, seed=self.seed).run()
            or Import(sources=(loop / "recorded", loop / "play"), out=data).run()
            or Inspect(path=data).run()
            or Train(data_set=data, out=training, preset="tiny", set=words).run()
            or EvaluateWorldModel(world_model=model, data=data, starts=DREAMS, horizon=DREAM_STEPS).run()
        )


def fresh_folder(folder: Path) -> Path:
    """An empty folder; what an earlier demonstration left in it goes. UserError if it is somebody else's."""
    if folder.exists() and not (folder / _MARKER).exists():
        raise UserError(f"{folder} was not made by diwa demo, so it stays; choose another --out")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / _MARKER).touch()
    return folder


def demo_specs(task: str, seed: int, film: Path, report: Path, bag: Path) -> Sequence[NodeSpec]:
    """The record graph with one demonstration and a film, and the watcher, whose end stops everything."""
    words = [f"task:={task}", f"seed:={seed}", "episodes:=1", f"film:={film}", f"bag:={bag}"]
    nodes = [replace(spec, on_exit="ignore") if spec.name == "operator" else spec for spec in RECORD.specs(words)]
    parameters = {"task": task, "report": str(report)}
    return [*nodes, NodeSpec("diwa_bringup", "task_watcher", "task_watcher", nodes[0].namespace, parameters)]


def summary(report: Report, film: Path, loop: Path) -> Table:
    """What the demonstration came to."""
    table = Table(show_header=False)
    table.add_row("task", report.task)
    table.add_row("success", f"yes, after {report.seconds:.1f} s" if report.success else f"no: {report.why}")
    for images in report.images:
        table.add_row(images.topic, f"{images.received} images, {images.rate_hz:.1f} Hz")
    table.add_row("film", str(film) if film.exists() else "none")
    parts = {
        "bag": "recorded",
        "data set": "data",
        "quality": "data/quality/report.html",
        "world model": "training/world_model",
        "its dreams": "training/world_model/evaluation/report.html",
    }
    for name, path in ((name, loop / part) for name, part in parts.items()):
        table.add_row(name, str(path) if path.exists() else "none")
    return table
