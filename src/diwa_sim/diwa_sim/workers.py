"""Simulates bags in spawned processes (a rendering context does not survive a fork), with a progress bar."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path
from types import FrameType
from typing import ClassVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from diwa_conventions.errors import UserError
from diwa_sim import bulk
from diwa_sim.bulk import Job, Outcome

_POLL_S = 0.2


class StoppedError(Exception):
    """The work was to stop."""


class CrashError(UserError):
    """A worker process has died."""


def simulate_all(jobs: list[Job], folder: Path, workers: int) -> Outcome:
    """Simulate the bags of these jobs that do not exist yet; what all of them hold together.

    KeyboardInterrupt stops the workers within a step and leaves at most one unfinished bag of each, which the next
    call does again. UserError for bags of another simulation and for a worker that has died.
    """
    done, missing = bulk.NOTHING, []
    for job in jobs:
        outcome = bulk.existing(job, folder)
        if outcome is None:
            bulk.remove_unfinished(job, folder)
            missing.append(job)
        else:
            done += outcome
    total = done.frames + sum(job.frames for job in missing)
    with progress_bar("frames", total) as bar:
        bar.show(done.frames)
        if workers == 1 or len(missing) < 2:
            for job in missing:
                done += bulk.write(job, folder, lambda more: bar.advance(more.frames))
            return done
        for outcome in _in_processes(missing, folder, min(workers, len(missing)), bar):
            done += outcome
    return done


class Bar:
    """How much is done and how long the rest will take."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=total)

    def advance(self, count: int) -> None:
        self._progress.advance(self._task, count)

    def show(self, done: int) -> None:
        self._progress.update(self._task, completed=done)


@contextmanager
def progress_bar(unit: str, total: int) -> Iterator[Bar]:
    """On stderr."""
    columns = (TextColumn("simulating"), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr)) as progress:
        yield Bar(progress, total)


def _in_processes(jobs: list[Job], folder: Path, workers: int, bar: Bar) -> Iterator[Outcome]:
    context = multiprocessing.get_context("spawn")
    stop, frames = context.Event(), context.Value("q", 0)
    with _handled(signal.SIG_IGN):  # workers inherit that: Ctrl-C is for this process alone
        pool = ProcessPoolExecutor(workers, context, _Worker.begin, (stop, frames))
        waiting = {pool.submit(_Worker.write, job, folder) for job in jobs}
    seen = 0
    interrupts: list[int] = []
    # An exception in the middle of a lock that is shared with the workers would leave it locked for ever.
    with _handled(lambda number, frame: interrupts.append(number)):
        try:
            while waiting:
                if interrupts:
                    raise KeyboardInterrupt
                done, waiting = wait(waiting, _POLL_S, FIRST_COMPLETED)
                now = frames.value
                bar.advance(now - seen)
                seen = now
                yield from map(_outcome, done)
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def _outcome(future: Future[Outcome]) -> Outcome:
    try:
        return future.result()
    except BrokenProcessPool:
        raise CrashError(
            "a worker process has died (out of memory?); the same command goes on from here, with fewer --workers maybe"
        ) from None


class _Worker:
    """What a worker process knows."""

    stop: ClassVar[Event]
    frames: ClassVar[Synchronized[int]]

    @classmethod
    def begin(cls, stop: Event, frames: Synchronized[int]) -> None:
        cls.stop, cls.frames = stop, frames
        # Each worker has a core of its own; threads of Mesa's software renderer would only fight over them.
        os.environ.setdefault("LP_NUM_THREADS", "0")
        threading.Thread(target=_end_with_parent, daemon=True).start()

    @classmethod
    def write(cls, job: Job, folder: Path) -> Outcome:
        return bulk.write(job, folder, cls.report)

    @classmethod
    def report(cls, more: Outcome) -> None:
        if cls.stop.is_set():
            raise StoppedError
        with cls.frames.get_lock():
            cls.frames.value += more.frames


def _end_with_parent() -> None:
    """A pool's processes would wait for ever for one that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> Iterator[None]:
    """SIGINT goes to the handler; as before afterwards."""
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
