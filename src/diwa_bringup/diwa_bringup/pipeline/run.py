"""Runs the stages of a pipeline one after the other, in a run folder where every one leaves what it made."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from rich.console import Console

from diwa_bringup.pipeline import config as configs
from diwa_bringup.pipeline.config import PipelineConfig
from diwa_bringup.pipeline.costs import needed_bytes
from diwa_bringup.pipeline.display import Display, log_of, plan_table, total_line
from diwa_bringup.pipeline.inputs import inputs_hash
from diwa_bringup.pipeline.outcome import notes, rates, success_table
from diwa_bringup.pipeline.process import last_line, last_lines, run_process
from diwa_bringup.pipeline.stages import Stage, check, plan
from diwa_bringup.pipeline.state import FILE, Record, State, state_of
from diwa_conventions.errors import UserError
from diwa_worldmodel.training.stopping import stopping_on_signals

_LOCK = ".pipeline.lock"
_FULL_BYTES = 50_000_000
_NO_SUMMARY = ("next:", "report:", "numbers and films:", "warning:")
_WHAT_CAME = re.compile(r"(\d+ messages, .*)")
"""In the middle of the recorder's output."""
_SUMMARY = 200
"""Longest summary of a stage [characters]; its log has all of it."""
_WIDTH = 140
"""Of tables [characters] where there is no terminal."""


@dataclass(frozen=True)
class PipelineRun:
    """A config in a run folder."""

    config: PipelineConfig
    out: Path
    again: str
    """The command that goes on with it."""
    console: Console = field(default_factory=Console)

    def __post_init__(self) -> None:
        if not self.console.is_terminal:
            self.console.width = _WIDTH

    @cached_property
    def stages(self) -> list[Stage]:
        return plan(self.config, self.out)

    def start(self, change: bool = False, dry_run: bool = False) -> int:
        """0; 1 if a stage failed; 130 or 143 when stopped by a signal. UserError for what the user can mend."""
        check(self.stages)
        check_place(self.out)
        if not change:
            configs.check_same(self.config, self.out)
        state = state_of(self.config, self.stages, self.out)
        fresh = self._fresh(state)
        self.console.print(plan_table(self.stages, state, fresh))
        print(total_line(self.stages, fresh), flush=True)
        if dry_run:
            return 0
        check_disk(self.config, self.out)
        self.out.mkdir(parents=True, exist_ok=True)
        with _alone_in(self.out):
            (self.out / configs.FILE).write_text(configs.to_yaml(self.config), encoding="utf-8")
            return self._run(state, fresh)

    def _fresh(self, state: State) -> list[bool]:
        """Of each stage whether there is nothing to do for it; what follows one that is to be done is too, for now."""
        fresh, stale = list[bool](), list[Path]()
        for stage, record in zip(self.stages, state.stages, strict=True):
            touched = any(one == path or one in path.parents for path in stage.inputs for one in stale)
            fresh.append(not touched and is_fresh(stage, record, self.out))
            stale += [] if fresh[-1] else [stage.made]
        return fresh

    def _run(self, state: State, fresh: Sequence[bool]) -> int:
        with stopping_on_signals() as caught:
            runner = _Runner(self.out, state, caught)
            with Display(self.console, self.stages, state, fresh, self.out) as display:
                failed = runner.run_all(self.stages, display)
        if caught:
            print(f"stopped; what is done stays in {self.out}; to go on: {self.again}", file=sys.stderr)
            return 128 + caught[0]
        if failed:
            print(f"diwa: {failed}; to go on when that is mended: {self.again}", file=sys.stderr)
            return 1
        self._conclude()
        return 0

    def _conclude(self) -> None:
        table = success_table(self.out)
        if table:
            self.console.print(table)
        for line in notes(self.out):
            print(line)
        page = self.out / "report.html"
        print(f"page: {page}" if page.exists() else f"all is in {self.out}", flush=True)


class _Runner:
    """Does the stages that are to be done, and writes down what became of each."""

    def __init__(self, run: Path, state: State, caught: Sequence[int]) -> None:
        self._run, self._state, self._caught = run, state, caught

    def run_all(self, stages: Sequence[Stage], display: Display) -> str:
        """What went wrong, in a line; empty if nothing did or a signal ended it."""
        for stage, record in zip(stages, self._state.stages, strict=True):
            if self._caught:
                return ""
            if is_fresh(stage, record, self._run):
                record.state = "skipped"
                self._state.write(self._run)
                display.end(record)
                continue
            if failed := self._do(stage, record, display):
                self._record_anew(stages, stage)
                return failed
        return ""

    def _do(self, stage: Stage, record: Record, display: Display) -> str:
        environment = self._ros_alone if stage.over_ros else os.environ
        self._prepare(stage, record)
        display.begin(record)
        begun_s = time.monotonic()
        log = log_of(self._run, stage.name)
        code = run_process(("diwa", *stage.words), log, environment, self._caught, display.look)
        record.seconds = round(time.monotonic() - begun_s, 1)
        missing = [path for path in stage.outputs if not path.exists()]
        good = code == 0 and not missing and not self._caught
        record.state = "done" if good else "waiting" if self._caught else "failed"
        record.summary = (rates(stage.made) or summary(log)) if good else ""
        self._state.write(self._run)
        display.end(record)
        return "" if good or self._caught else failure(stage, code, log, missing)

    def _record_anew(self, stages: Sequence[Stage], failed: Stage) -> None:
        """A recording over ROS that its reader refused, of an overloaded machine say, does not count as done."""
        for stage, record in zip(stages, self._state.stages, strict=True):
            if stage.over_ros and any(output in failed.inputs for output in stage.outputs):
                record.state = "waiting"
        self._state.write(self._run)

    def _prepare(self, stage: Stage, record: Record) -> None:
        """What was begun with the same inputs goes on, if it can; else what is there goes."""
        now = inputs_hash(stage, self._run)
        if not (stage.resumes and not record.is_done and record.inputs_hash == now):
            remove(stage.made)
        record.state, record.inputs_hash, record.summary = "running", now, ""
        self._state.write(self._run)

    @cached_property
    def _ros_alone(self) -> Mapping[str, str]:
        """A ROS domain of our own, on this machine."""
        from diwa_bringup.domain import free_domain
        from diwa_conventions.discovery import stay_on_this_machine

        stay_on_this_machine()
        return {**os.environ, "ROS_DOMAIN_ID": str(free_domain())}


def is_fresh(stage: Stage, record: Record, run: Path) -> bool:
    """Whether it is done, its outputs are there, and nothing that it reads has changed since."""
    if not record.is_done or not all(path.exists() for path in stage.outputs):
        return False
    return record.inputs_hash == inputs_hash(stage, run)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def summary(log: Path) -> str:
    """The line that says what came of it: the recorder's, else the last one but for hints at what comes next."""
    lines = last_lines(log)
    recorded = [found[1] for line in lines if (found := _WHAT_CAME.search(line))]
    said = recorded or [line for line in lines if not line.startswith(_NO_SUMMARY)] or lines
    return textwrap.shorten(said[-1], _SUMMARY, placeholder=" ...") if said else ""


def failure(stage: Stage, code: int, log: Path, missing: Sequence[Path]) -> str:
    """A line for a stage that did not do what it should."""
    how = f"ended with exit code {code}"
    if code < 0:
        how = f"was killed by {signal.Signals(-code).name}"
    elif not code:
        how = f"ended well, but {missing[0]} is not there"
    said = last_line(log).removeprefix("diwa: ") or "it said nothing"
    full = ", the disk is full" if shutil.disk_usage(log.parent).free < _FULL_BYTES else ""
    return f"stage {stage.name!r} {how}{full}: {said}; its output: {log}"


def check_place(run: Path) -> None:
    """UserError for a folder that holds other things."""
    if run.exists() and not run.is_dir():
        raise UserError(f"--out {run} is a file; expected a folder for the run")
    if not run.exists() or (run / FILE).exists() or (run / configs.FILE).exists():
        return
    content = sorted(path.name for path in run.iterdir() if not path.name.startswith("."))
    if content:
        raise UserError(
            f"{run} was not made by diwa pipeline (found: {', '.join(content[:5])}), so it stays; choose another --out"
        )


def check_disk(config: PipelineConfig, run: Path) -> None:
    """UserError if what is still to be written will not fit."""
    there = next(path for path in (run.absolute(), *run.absolute().parents) if path.exists())
    have = sum(path.stat().st_size for path in run.rglob("*") if path.is_file()) if run.exists() else 0
    wanted, free = max(needed_bytes(config) - have, _FULL_BYTES), shutil.disk_usage(there).free
    if free < wanted:
        raise UserError(
            f"{run} needs about {wanted / 1e9:.1f} GB more, and {free / 1e9:.1f} GB are free; make room, choose --out "
            "on another disk, or ask for less (play.frames)"
        )


@contextmanager
def _alone_in(run: Path) -> Iterator[None]:
    """UserError if another process works in the run folder."""
    with (run / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another diwa pipeline works in {run}; wait for it, or choose another --out") from None
        yield
