"""``diwa demo``: as much of the loop as is built, over ROS topics, with a film of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from diwa_bringup.attempt import Report
from diwa_bringup.domain import free_domain
from diwa_bringup.graph import SIM, NodeSpec
from diwa_bringup.start import start
from diwa_conventions.discovery import stay_on_this_machine
from diwa_conventions.tasks import checked_task

HOW_FAR = (
    "The loop at present: a scripted operator does a task in the playroom over ROS topics, and a film is written; "
    "recording, learning and serving follow as their stages are built."
)


@dataclass(frozen=True)
class Demo:
    """Let a scripted operator do a task in the playroom over ROS topics, and film it.

    It runs in a ROS domain of its own that nobody else uses. Exit code 0 when the task was done and the film is there.
    """

    task: str = "open-drawer"
    """Task to demonstrate."""
    seed: int = 0
    """Seed of the playroom and of the operator."""
    out: Path = Path("runs/demo")
    """Folder for film and report."""

    def run(self) -> int:
        """Start, watch, stop, report."""
        checked_task(self.task)
        self.out.mkdir(parents=True, exist_ok=True)
        film, report = self._file("film.mp4"), self._file("report.json")
        for old in (film, report):
            old.unlink(missing_ok=True)
        specs = demo_specs(self.task, self.seed, film, report)
        stay_on_this_machine()
        os.environ["ROS_DOMAIN_ID"] = str(free_domain())
        print(HOW_FAR, flush=True)
        code = start(specs)
        if not report.exists() or not report.stat().st_size:
            print("diwa: the demonstration was stopped before it ended", file=sys.stderr)
            return 1
        outcome = Report.from_json(report.read_text(encoding="utf-8"))
        Console().print(summary(outcome, film))
        return 0 if outcome.success and film.exists() and code == 0 else 1

    def _file(self, name: str) -> Path:
        return (self.out / name).resolve()


def demo_specs(task: str, seed: int, film: Path, report: Path) -> Sequence[NodeSpec]:
    """The sim graph with one demonstration and a film, and the watcher, whose end stops everything."""
    words = [f"task:={task}", f"seed:={seed}", "operator:=demonstration", "episodes:=1", f"film:={film}"]
    nodes = [replace(spec, on_exit="ignore") if spec.name == "operator" else spec for spec in SIM.specs(words)]
    parameters = {"task": task, "report": str(report)}
    return [*nodes, NodeSpec("diwa_bringup", "task_watcher", "task_watcher", nodes[0].namespace, parameters)]


def summary(report: Report, film: Path) -> Table:
    """What the demonstration came to."""
    table = Table(show_header=False)
    table.add_row("task", report.task)
    table.add_row("success", f"yes, after {report.seconds:.1f} s" if report.success else f"no: {report.why}")
    for images in report.images:
        table.add_row(images.topic, f"{images.received} images, {images.rate_hz:.1f} Hz")
    table.add_row("film", str(film) if film.exists() else "none")
    return table
