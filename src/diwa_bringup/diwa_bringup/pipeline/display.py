"""The one progress display of a pipeline: all stages, the time left, the machine's load; plain lines in a log."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from diwa_bringup.pipeline.machine_load import MachineLoad
from diwa_bringup.pipeline.process import last_line
from diwa_bringup.pipeline.stages import Stage
from diwa_bringup.pipeline.state import Record, State

_REFRESH_S = 1.0
_SHOWN = {"done": "green", "skipped": "dim", "failed": "red", "running": "yellow", "waiting": ""}
_WORDS = {"skipped": "unchanged"}


def duration(seconds: float | None) -> str:
    """``4:10``, ``1:04:10``, ``?``"""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def plan_table(stages: Sequence[Stage], state: State, fresh: Sequence[bool]) -> Table:
    """What each stage will cost, before it starts; ``fresh`` says which have nothing to do."""
    table = Table(title=f"{state.task}, seed {state.seed}")
    table.add_column("stage", no_wrap=True)
    table.add_column("what it does")
    table.add_column("about", justify="right")
    table.add_column("")
    for stage, done in zip(stages, fresh, strict=True):
        table.add_row(stage.name, stage.title, "" if done else duration(stage.estimate_s), "done" if done else "to do")
    return table


def total_line(stages: Sequence[Stage], fresh: Sequence[bool]) -> str:
    """Of all that is to be done."""
    costs = [stage.estimate_s for stage, done in zip(stages, fresh, strict=True) if not done]
    if not costs:
        return "all stages are done, and nothing that they read has changed"
    known = sum(cost for cost in costs if cost is not None)
    least = " at least, for the cost of some is not known" if None in costs else ""
    return f"about {duration(known)}{least}, on a machine with nothing else to do"


class Display:
    """Use it as a context; :meth:`look` is called often while a stage runs."""

    def __init__(
        self, console: Console, stages: Sequence[Stage], state: State, fresh: Sequence[bool], run: Path
    ) -> None:
        """``fresh`` says which stages have nothing to do."""
        self._console, self._stages, self._state, self._run = console, stages, state, run
        self._to_come = {record.name for record, done in zip(state.stages, fresh, strict=True) if not done}
        self._load = MachineLoad(run)
        self._load_line = self._load.line()
        self._looked_s = self._began_s = time.monotonic()
        self._actual_s, self._estimated_s = 0.0, 0.0
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> Display:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *what: object) -> None:
        if self._live:
            self._live.stop()

    def begin(self, record: Record) -> None:
        self._began_s = time.monotonic()
        self._to_come.discard(record.name)
        stage = self._stage(record)
        self._say(f"{self._place(record)} {record.name}: {stage.title}, about {duration(stage.estimate_s)}")
        self._show()

    def end(self, record: Record) -> None:
        """A stage has been done, or needed not to be."""
        self._to_come.discard(record.name)
        if record.state == "skipped":
            self._say(f"{self._place(record)} {record.name}: unchanged")
        elif record.is_done:
            self._say(f"    {duration(record.seconds)}  {record.summary}")
            estimate_s = self._stage(record).estimate_s
            if record.state == "done" and estimate_s:
                self._actual_s += record.seconds
                self._estimated_s += estimate_s
        self._show()

    def look(self) -> None:
        if self._live and time.monotonic() - self._looked_s >= _REFRESH_S:
            self._looked_s = time.monotonic()
            self._load_line = self._load.line()
            self._show()

    @property
    def left_s(self) -> float:
        """Of all stages to come, by their estimates and by how those turned out so far."""
        pace = min(max(self._actual_s / self._estimated_s, 0.3), 5.0) if self._estimated_s else 1.0
        left_s = 0.0
        for record in self._state.stages:
            estimate_s = self._stage(record).estimate_s or 0.0
            if record.state == "running":
                left_s += max(0.0, pace * estimate_s - (time.monotonic() - self._began_s))
            elif record.name in self._to_come:
                left_s += pace * estimate_s
        return left_s

    def _stage(self, record: Record) -> Stage:
        return next(stage for stage in self._stages if stage.name == record.name)

    def _place(self, record: Record) -> str:
        return f"[{self._state.stages.index(record) + 1}/{len(self._stages)}]"

    def _say(self, line: str) -> None:
        if not self._live:
            print(line, flush=True)

    def _show(self) -> None:
        if self._live:
            self._live.update(
                Group(
                    self._table(),
                    Text(f"{duration(self.left_s)} left; {self._load_line}; Ctrl-C stops, to go on later"),
                ),
                refresh=True,
            )

    def _table(self) -> Table:
        table = Table(title=f"{self._state.task}, seed {self._state.seed}: {self._run}", expand=True)
        table.add_column("stage", no_wrap=True)
        table.add_column("", no_wrap=True)
        table.add_column("took", justify="right", no_wrap=True)
        table.add_column("about", justify="right", no_wrap=True)
        table.add_column("", ratio=1, no_wrap=True, overflow="ellipsis")
        for record in self._state.stages:
            stage, seconds, says, state = self._stage(record), record.seconds, record.summary, record.state
            if record.name in self._to_come:  # perhaps done once, before something changed
                seconds, says, state = 0.0, "", "waiting"
            if record.state == "running":
                seconds = time.monotonic() - self._began_s
                says = last_line(log_of(self._run, record.name))
            took = duration(seconds) if seconds else ""
            word = Text(_WORDS.get(state, state), style=_SHOWN[state])
            table.add_row(record.name, word, took, duration(stage.estimate_s), Text(says or stage.title, style="dim"))
        return table


def log_of(run: Path, name: str) -> Path:
    """Where a stage's output goes."""
    return run / "logs" / f"{name}.log"
