"""``diwa import``: bags, CALVIN folders and LeRobot data sets into one data set, several sources at a time.

Each source is written under a temporary name that becomes its own when it is complete. So a bad one costs no other,
and after an interruption the same command goes on with what is missing.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from diwa_conventions.actions import ActionScale
from diwa_conventions.errors import UserError
from diwa_conventions.images import Fit
from diwa_conventions.rates import TRAIN_RATE_HZ
from diwa_worldmodel.dataset.bag_topics import BagOptions, Clock, QuaternionOrder
from diwa_worldmodel.dataset.config import DataSetConfig
from diwa_worldmodel.dataset.lerobot_layout import LeRobotLayout
from diwa_worldmodel.dataset.plausible import GripperOptions
from diwa_worldmodel.dataset.store import DataSet, Progress, Recording, open_data_set, open_or_create
from diwa_worldmodel.worker_process import end_with_parent

Kind = Literal["bag", "calvin", "lerobot"]
Status = Literal["imported", "already imported", "failed"]

_TICK_S = 0.2


@dataclass(frozen=True)
class Import:
    """Import bags, CALVIN folders and LeRobot data sets into one data set of 7.5 Hz frames.

    What is in the data set already is skipped: the same command again goes on after an interruption.
    """

    sources: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Bag folders, folders of bags, .mcap files, CALVIN folders, LeRobot folders."""
    out: Path
    """Data set folder, new or to add to."""
    image_size: int = 64
    """Width and height of both cameras' frames [px]."""
    fit: Fit = "crop"
    """How images that are not square are made so."""
    scale: ActionScale = field(default_factory=ActionScale)
    """What an action component of 1.0 means over one step."""
    skew_limit: float = 0.02
    """How far the stamps of the two cameras may be apart [s]."""
    namespace: str = ""
    """Namespace of the topics, if a bag has several."""
    remap: tuple[str, ...] = ()
    """Topics under other names, e.g. static_camera/image_raw=/camera/color/image_raw."""
    encoding: tuple[str, ...] = ()
    """What images hold whose encoding is 8UC1, 8UC3 or 8UC4, e.g. static_camera/image_raw=bgr8."""
    gripper_threshold: float = 0.0
    """Gripper commands of bags and CALVIN folders at or above this open the gripper, those below close it."""
    gripper_inverted: bool = False
    """Gripper commands at or above the threshold close it instead."""
    width_scale: float = 1.0
    """Finger positions of bags times this are metres."""
    position_scale: float = 1.0
    """Positions of poses in bags times this are metres."""
    quaternion: QuaternionOrder = "xyzw"
    """What the fields x, y, z, w of poses in bags hold."""
    clock: Clock = "stamp"
    """Whether messages are aligned by their stamps or by the times at which they arrived."""
    workers: int = 0
    """Sources at a time; 0: one for each core."""
    lerobot: LeRobotLayout = field(default_factory=LeRobotLayout)
    """How to read LeRobot data sets of others."""

    def run(self) -> int:
        """0; 2 if a source could not be imported. UserError or OSError for what the user can mend."""
        config = DataSetConfig(
            image_size_px=self.image_size, fit=self.fit, scale=self.scale, skew_limit_s=self.skew_limit
        )
        bag = BagOptions(
            namespace=self.namespace,
            remap=parse_remap(self.remap),
            clock=self.clock,
            encoding=parse_encoding(self.encoding),
            gripper=GripperOptions(self.gripper_threshold, self.gripper_inverted),
            width_scale=self.width_scale,
            position_scale=self.position_scale,
            quaternion=self.quaternion,
        )
        options = Options(bag, self.lerobot)
        if not 0 <= self.workers <= 1024:
            raise UserError(f"--workers is {self.workers}; expected 0 (one for each core) to 1024")
        sources = find_sources(self.sources)
        open_or_create(self.out, config)
        outcomes = import_sources([path for path, _ in sources], self.out, self.workers, options)
        for outcome in outcomes:
            if outcome.status != "failed":
                print(f"{outcome.path}: {outcome.status}, {outcome.line}")
                print("".join(f"  {remark}\n" for remark in outcome.remarks), end="")
        data_set = open_data_set(self.out)
        minutes = data_set.frames / TRAIN_RATE_HZ / 60.0
        print(
            f"{self.out}: {_counted(len(data_set.recordings), 'recording')}, {data_set.frames} frames "
            f"({minutes:.1f} min), hash {data_set.hash()[:12]}"
        )
        failed = [outcome for outcome in outcomes if outcome.status == "failed"]
        for outcome in failed:
            print(f"diwa: {outcome.path} was not imported: {outcome.line}", file=sys.stderr)
        return 2 if failed else 0


@dataclass(frozen=True)
class Options:
    """How to read sources, by kind."""

    bag: BagOptions = field(default_factory=BagOptions)
    lerobot: LeRobotLayout = field(default_factory=LeRobotLayout)


@dataclass(frozen=True)
class Outcome:
    """What became of one source."""

    path: Path
    status: Status
    line: str
    """For the user, without the path."""
    remarks: tuple[str, ...] = ()
    """What was left out or not understood, a line each."""


def parse_remap(words: Sequence[str]) -> dict[str, str]:
    """``["static_camera/image_raw=/a/b"]`` as a table; UserError for a word without ``=``."""
    pairs = _pairs(words, "--remap", "OUR/TOPIC=/TOPIC/OF/THE/BAG")
    return {name: value if value.startswith("/") else f"/{value}" for name, value in pairs.items()}


def parse_encoding(words: Sequence[str]) -> dict[str, str]:
    """``["static_camera/image_raw=bgr8"]`` as a table; UserError for a word without ``=``."""
    return _pairs(words, "--encoding", "static_camera/image_raw=bgr8")


def _pairs(words: Sequence[str], option: str, expected: str) -> dict[str, str]:
    table = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise UserError(f"{option} {word!r}; expected {expected}")
        table[name.removeprefix("/")] = value
    return table


def find_sources(paths: Sequence[Path]) -> list[tuple[Path, Kind]]:
    """What to import, each once, in a fixed order. UserError for a path that leads to nothing that can be imported."""
    found: dict[Path, tuple[Path, Kind]] = {}
    for path in paths:
        if not path.exists():
            raise UserError(f"there is no {path}; expected a bag, a folder of bags, a CALVIN or LeRobot folder")
        if is_data_set(path):
            raise UserError(f"{path} is a data set already; import its sources instead")
        sources = list(_sources_in(path))
        if not sources:
            content = ", ".join(sorted(item.name for item in path.iterdir())[:5]) or "nothing"
            raise UserError(f"{path} holds no bag, CALVIN or LeRobot folder (found: {content})")
        for source, kind in sources:
            found.setdefault(source.resolve(), (source, kind))
    return list(found.values())


def _sources_in(path: Path) -> Iterator[tuple[Path, Kind]]:
    kind = kind_of(path)
    if kind is not None:
        yield path, kind
    elif path.is_dir():
        for child in sorted(path.iterdir()):
            # A data set among the bags is what became of them.
            if child.is_dir() and not child.name.startswith(".") and not is_data_set(child):
                yield from _sources_in(child)


def kind_of(path: Path) -> Kind | None:
    """What a file or folder is; None for a folder that is none of them itself. Every file is taken for a bag."""
    from diwa_conventions.bags.metadata import METADATA
    from diwa_conventions.bags.reader import bag_files
    from diwa_worldmodel.dataset.calvin import is_calvin
    from diwa_worldmodel.dataset.lerobot_layout import is_lerobot

    if path.is_file():
        return "bag"
    if is_calvin(path):
        return "calvin"
    if is_lerobot(path):
        return "lerobot"
    return "bag" if (path / METADATA).exists() or bag_files(path) else None


def is_data_set(path: Path) -> bool:
    try:
        attributes = json.loads((path / "zarr.json").read_text(encoding="utf-8"))["attributes"]
        return "format" in attributes
    except (OSError, ValueError, KeyError, TypeError):
        return False


def import_all(
    paths: Sequence[Path], out: Path, workers: int = 0, options: Options | None = None, quiet: bool = False
) -> list[str]:
    """As :func:`import_sources`; a line for each source that failed."""
    outcomes = import_sources(paths, out, workers, options, quiet)
    return [f"{outcome.path}: {outcome.line}" for outcome in outcomes if outcome.status == "failed"]


def import_sources(
    paths: Sequence[Path], out: Path, workers: int = 0, options: Options | None = None, quiet: bool = False
) -> list[Outcome]:
    """Import sources into a data set that exists, with a progress bar unless ``quiet``; what became of each."""
    options = options or Options()
    data_set = open_data_set(out)
    count = min(len(paths), workers or len(os.sched_getaffinity(0)))
    with data_set.writing(), _Bars(paths, quiet) as bars:
        run = _in_processes(paths, out, options, count, bars) if count > 1 else _in_turn(paths, out, options, bars)
        outcomes = {outcome.path: outcome for outcome in run}
    return [outcomes[path] for path in paths]


class _Bars:
    """One progress bar for each source under way and one for all."""

    def __init__(self, paths: Sequence[Path], quiet: bool) -> None:
        from rich import progress
        from rich.console import Console

        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.TaskProgressColumn(),
            progress.TimeRemainingColumn(),
        )
        self._bars = progress.Progress(*columns, console=Console(stderr=True), disable=quiet)
        self._parts = [0.0] * len(paths)
        self._all = self._bars.add_task(_counted(len(paths), "source"), total=float(len(paths)))
        self._tasks = [self._bars.add_task(path.name[-40:], total=1.0, visible=False) for path in paths]

    def __enter__(self) -> _Bars:
        self._bars.start()
        return self

    def __exit__(self, *what: object) -> None:
        self._bars.stop()

    def update(self, number: int, part: float) -> None:
        """``part``, from 0 to 1, of a source is done."""
        self._parts[number] = part
        self._bars.update(self._tasks[number], completed=part, visible=part < 1.0)
        self._bars.update(self._all, completed=sum(self._parts))


def _in_turn(paths: Sequence[Path], out: Path, options: Options, bars: _Bars) -> Iterator[Outcome]:
    for number, path in enumerate(paths):

        def progress(done: int, total: int, number: int = number) -> None:
            bars.update(number, done / max(total, 1))

        yield import_one(path, out, options, progress)
        bars.update(number, 1.0)


_queue: Any = None
"""In a worker process: where its progress goes."""


def _begin_worker(queue: Any) -> None:
    global _queue
    _queue = queue
    end_with_parent()


def _work(number: int, path: Path, out: Path, options: Options) -> Outcome:
    told_s = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal told_s
        now_s = time.monotonic()
        if now_s - told_s > _TICK_S:
            told_s = now_s
            _queue.put((number, done / max(total, 1)))

    return import_one(path, out, options, progress)


def _in_processes(paths: Sequence[Path], out: Path, options: Options, count: int, bars: _Bars) -> Iterator[Outcome]:
    from multiprocessing import get_context

    context = get_context("spawn")
    queue = context.SimpleQueue()
    with ProcessPoolExecutor(count, context, _begin_worker, (queue,)) as pool:
        numbers: dict[Future[Outcome], int] = {}
        try:
            for number, path in enumerate(paths):
                numbers[pool.submit(_work, number, path, out, options)] = number
            waiting = set(numbers)
            while waiting:
                done, waiting = wait(waiting, timeout=_TICK_S, return_when=FIRST_COMPLETED)
                while not queue.empty():
                    bars.update(*queue.get())
                for future in done:
                    bars.update(numbers[future], 1.0)
                    yield _outcome(future, paths[numbers[future]])
        except BaseException:  # Ctrl-C: what waits is not begun
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _outcome(future: Future[Outcome], path: Path) -> Outcome:
    try:
        return future.result()
    except BrokenProcessPool:
        return Outcome(
            path, "failed", "a worker process was killed (out of memory?); import again with fewer --workers"
        )


def import_one(path: Path, out: Path, options: Options, progress: Progress) -> Outcome:
    """Import one source; a mistake in it is an outcome and no exception, and so is one of ours: others go on."""
    try:
        data_set = open_data_set(out)
        before = {recording.id for recording in data_set.recordings}
        recording = _import(path, data_set, options, progress)
    except Exception as error:
        if os.environ.get("DIWA_TRACEBACK"):
            raise
        return Outcome(path, "failed", _line_of(error, out))
    status: Status = "already imported" if recording.id in before else "imported"
    return Outcome(path, status, describe(recording), recording.statistics.remarks())


def _import(path: Path, data_set: DataSet, options: Options, progress: Progress) -> Recording:
    kind = kind_of(path)
    if kind == "calvin":
        from diwa_worldmodel.dataset.calvin import import_calvin

        return import_calvin(path, data_set, progress, options.bag.gripper)
    if kind == "lerobot":
        from diwa_worldmodel.dataset.lerobot_import import import_lerobot

        return import_lerobot(path, data_set, progress, options.lerobot)
    from diwa_worldmodel.dataset.bags import import_bag

    return import_bag(path, data_set, progress, options.bag)


def _line_of(error: Exception, out: Path) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk of {out} is full; make room and import again: what was complete is kept"
    line = " ".join(str(error).split())
    if isinstance(error, (UserError, OSError)):
        return line
    return f"{type(error).__name__}: {line or 'no reason given'} (a fault of diwa; DIWA_TRACEBACK=1 shows where)"


def describe(recording: Recording) -> str:
    """``1234 frames, 12 episodes, 8 annotations, 0.3% of steps saturated, left out: 12 skew, 2 annotations``."""
    statistics = recording.statistics
    saturated = max(statistics.saturated.values(), default=0) / max(statistics.steps, 1)
    left_out = [f"{count} {reason}" for reason, count in statistics.frames_left_out.items() if count]
    if statistics.annotations_left_out:
        left_out.append(_counted(statistics.annotations_left_out, "annotation"))
    parts = [
        f"{recording.frames} frames",
        _counted(len(recording.episodes), "episode"),
        _counted(len(recording.annotations), "annotation"),
        f"{saturated:.1%} of steps saturated",
        f"left out: {', '.join(left_out) or 'nothing'}",
    ]
    return ", ".join(parts)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
