"""A training run in the terminal: a bar with losses and the time left, or a line a minute where nobody watches."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from diwa_worldmodel.training.loop import Report

_LINE_S = 60.0
_SHOWN = ("loss", "kl", "validation_loss", "ms_per_step")


class Terminal:
    """An :class:`~diwa_worldmodel.training.loop.Observer` on stderr; ``shown`` names the values it shows."""

    def __init__(self, shown: Sequence[str] = _SHOWN) -> None:
        self._shown = shown
        self._console = Console(stderr=True, soft_wrap=True, highlight=False)
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[eta]}"),
            TextColumn("{task.fields[values]}"),
        )  # fmt: skip
        live = self._console.is_terminal
        self._steps = Progress(*columns, console=self._console, disable=not live, refresh_per_second=2)
        self._frames = Progress(
            TextColumn("reading frames"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            console=self._console, disable=not live, transient=True, refresh_per_second=2,
        )  # fmt: skip
        self._line_s = time.monotonic()

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *what: object) -> None:
        for bar in (self._frames, self._steps):
            bar.stop()

    def reading(self, done: int, total: int) -> None:
        if not self._frames.tasks:
            self._frames.start()
            self._frames.add_task("", total=total)
        self._frames.update(self._frames.task_ids[0], completed=done)
        if done == total:
            self._frames.stop()

    def report(self, report: Report) -> None:
        if not self._steps.tasks:
            self._steps.start()
            self._steps.add_task("training", total=report.total, eta="", values="")
        values, eta = self._values(report), f"{_duration(report.eta_s)} left"
        self._steps.update(self._steps.task_ids[0], completed=report.step, eta=eta, values=values)
        if not self._console.is_terminal and time.monotonic() - self._line_s > _LINE_S:
            self._line_s = time.monotonic()
            self.say(f"step {report.step} of {report.total}, {eta}, {values}")

    def say(self, line: str) -> None:
        self._console.print(line, markup=False)

    def warn(self, line: str) -> None:
        self._console.print(f"warning: {line}", markup=False, style="yellow")

    def _values(self, report: Report) -> str:
        return ", ".join(f"{name} {report.values[name]:.4g}" for name in self._shown if name in report.values)


def _duration(seconds: float) -> str:
    """``0:04:10``"""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
