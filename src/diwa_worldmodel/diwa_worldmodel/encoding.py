"""``diwa encode``: the latents of a data set's frames, made once by the latent filter; ``latent_cache`` reads them.

encode_data_set(world_model, data_set)        # what is there already is not made again
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import tyro

from diwa_conventions.errors import UserError
from diwa_worldmodel.artefact import LoadedWorldModel, check_data_set, load_world_model
from diwa_worldmodel.config import ModelConfig
from diwa_worldmodel.dataset.records import Episode
from diwa_worldmodel.dataset.store import BLOCK_FRAMES, DataSet, Recording, open_data_set, read
from diwa_worldmodel.latent_cache import (
    MODE,
    FilterSettings,
    Part,
    cache_folder,
    find_parts,
    read_part,
    write_part,
    writing,
)
from diwa_worldmodel.latent_filter import THREADS, FilterFrame, FilterLimits, LatentFilter, Sampling, encode_frames
from diwa_worldmodel.training.frames import check_finite
from diwa_worldmodel.worker_process import end_with_parent

_WORKER_FRAMES = 4000
"""A process takes as long to start as so many frames of a tiny model."""
_TICK_S = 0.2

Tell: TypeAlias = Callable[[int], None]
"""Called with the frames of a part that are done."""


@dataclass(frozen=True)
class Encode:
    """Encode a data set's frames with a world model; training policies and classifiers reads the latents.

    What is encoded already is skipped: the same command again goes on after an interruption.
    """

    world_model: Annotated[Path, tyro.conf.Positional]
    """World model folder, made by diwa train."""
    data_set: Annotated[Path, tyro.conf.Positional]
    """Data set folder."""
    out: Path | None = None
    """Folder for the latents; else latents/ in the world model's."""
    sampling: Sampling = "mode"
    """z as the posterior's most probable classes, or drawn."""
    seed: int = 0
    """Of the draws."""
    workers: int = 0
    """Processes; 0: one for each core."""

    def run(self) -> int:
        """0. UserError or OSError for what the user can mend."""
        if not 0 <= self.workers <= 1024:
            raise UserError(f"--workers is {self.workers}; expected 0 (one for each core) to 1024")
        if self.seed < 0:
            raise UserError(f"--seed is {self.seed}; expected 0 or more")
        world_model, data_set = load_world_model(self.world_model), open_data_set(self.data_set)
        settings = FilterSettings(self.sampling, self.seed)
        print(encode_data_set(world_model, data_set, self.out, settings, self.workers, quiet=False).line(data_set))
        return 0


@dataclass(frozen=True)
class Encoded:
    """What :func:`encode_data_set` did."""

    folder: Path
    frames: int
    """Encoded now."""
    kept: int
    """Frames whose latents were there already."""
    mended: int
    """Files that were damaged and have been made anew."""
    gaps: int
    """Frames inside episodes at which the filter began anew, of those encoded now."""
    wall_s: float

    def line(self, data_set: DataSet) -> str:
        """For the user."""
        size_mb = sum(path.stat().st_size for path in self.folder.rglob("*.safetensors")) / 1e6
        rate = f" in {self.wall_s:.1f} s ({self.frames / self.wall_s:.0f} frames/s)" if self.frames else ""
        parts = [f"{data_set.path}: {self.frames} frames encoded{rate}", f"{self.kept} were there already"]
        if self.mended:
            parts.append(f"damaged files made anew: {self.mended}")
        if self.gaps:
            parts.append(f"gaps inside episodes, where the filter began anew: {self.gaps}")
        return ", ".join([*parts, f"latents in {self.folder} ({size_mb:.0f} MB)"])


def encode_data_set(
    world_model: LoadedWorldModel,
    data_set: DataSet,
    out: Path | None = None,
    settings: FilterSettings = MODE,
    workers: int = 0,
    quiet: bool = True,
) -> Encoded:
    """Encode what is not encoded yet, with a progress bar unless ``quiet``.

    On the CPU with the filter's one row and one thread, in several processes: the same latents, bit for bit, as a
    filter gives that serves on this machine. UserError if model and data set do not fit, or another process encodes.
    """
    check_data_set(data_set, world_model.config.model, world_model.metadata)
    folder = cache_folder(world_model, data_set, out, settings)
    began_s = time.perf_counter()
    with writing(folder):
        parts = find_parts(data_set, folder, world_model.config.model)
        missing = [part for part in parts if read_part(part) is None]
        if missing:
            check_finite(data_set, data_set.load_numbers())
        mended = sum(part.path.exists() for part in missing)
        jobs = _Jobs(world_model.folder, world_model.hash, data_set, settings)
        cores = workers or len(os.sched_getaffinity(0))
        count = min(cores, len(missing), -(-sum(part.frames for part in missing) // _WORKER_FRAMES))
        with _progress(sum(part.frames for part in missing), quiet) as tell, _disk_of(folder):
            gaps = _in_processes(jobs, missing, count, tell) if count > 1 else _in_turn(jobs, missing, tell)
    frames = sum(part.frames for part in missing)
    kept = sum(part.frames for part in parts) - frames
    return Encoded(folder, frames, kept, mended, gaps, time.perf_counter() - began_s)


@contextmanager
def _disk_of(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"the disk of {folder} is full; make room and encode again: what was complete is kept"
        ) from None


@contextmanager
def _progress(frames: int, quiet: bool) -> Iterator[Tell]:
    """A bar, to be told of all frames that are done."""
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("encoding"),
        progress.BarColumn(),
        progress.TextColumn("{task.completed:.0f}/{task.total:.0f} frames"),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True), disable=quiet or not frames) as bar:
        task = bar.add_task("", total=frames)
        yield lambda done: bar.update(task, completed=done)


@dataclass(frozen=True)
class _Jobs:
    """What a process needs to know to encode any part."""

    world_model: Path
    hash: str
    data_set: DataSet
    settings: FilterSettings


class _Encoder:
    """The latent filter of one process."""

    def __init__(self, jobs: _Jobs) -> None:
        world_model = load_world_model(jobs.world_model)
        if world_model.hash != jobs.hash:
            raise UserError(f"{jobs.world_model} was replaced while it encoded; encode again")
        self._model = world_model.config.model
        limits = FilterLimits(step_tolerance_s=jobs.data_set.config.step_tolerance_s)
        self._filter = LatentFilter(world_model.model, 1, jobs.settings.sampling, jobs.settings.seed, limits)

    def encode(self, part: Part, tell: Tell) -> int:
        """Write a part's file; the number of gaps inside its episodes."""
        config = self._model
        total = sum(episode.length // config.action_chunk for episode in part.episodes)
        tensors = {
            "deterministic": torch.empty(total, config.deterministic),
            "chosen": torch.empty(total, config.discrete, dtype=torch.uint8),
            "surprise": torch.empty(total),
            "prior_entropy": torch.empty(total),
            "steps": torch.empty(total, dtype=torch.int64),
        }
        done = gaps = 0
        for episode in part.episodes:
            frames = _frames(part.recording, episode, config)
            for output in encode_frames(self._filter, frames, _actions(part.recording, episode, config.action_chunk)):
                one_hot = output.latent[0, config.deterministic :].reshape(config.discrete, config.classes)
                tensors["deterministic"][done] = output.latent[0, : config.deterministic]
                tensors["chosen"][done] = one_hot.argmax(dim=-1)
                tensors["surprise"][done], tensors["prior_entropy"][done] = output.surprise, output.prior_entropy
                tensors["steps"][done] = int(output.steps[0])
                gaps += output.events[0] in ("gap", "stale")
                done += 1
                tell(done * config.action_chunk)
        write_part(part, tensors)
        return gaps


def _frames(recording: Recording, episode: Episode, config: ModelConfig) -> Iterator[FilterFrame]:
    """An episode's frames, every ``action_chunk``-th, its images read block by block."""
    chunk = config.action_chunk
    block = BLOCK_FRAMES // chunk * chunk
    end = episode.start + episode.length // chunk * chunk
    names = [*config.cameras, "proprio", "stamp_ns", *(["scene_state"] if config.scene_state else [])]
    for begin in range(episode.start, end, block):
        part = slice(begin, min(begin + block, end), chunk)
        arrays = {name: read(recording, name, slice(part.start, part.stop))[::chunk] for name in names}
        for t in range(len(arrays["stamp_ns"])):
            one = {name: array[t : t + 1] for name, array in arrays.items()}
            images = {name: one[name] for name in config.cameras}
            yield FilterFrame(images, one["proprio"], one["stamp_ns"], one.get("scene_state"))


def _actions(recording: Recording, episode: Episode, chunk: int) -> npt.NDArray[np.float32]:
    """(T, 1, 7 k) what leads from each frame to the next."""
    count = episode.length // chunk
    actions = read(recording, "action", slice(episode.start, episode.start + count * chunk))
    return actions.reshape(count, 1, -1)


def _in_turn(jobs: _Jobs, parts: Sequence[Part], tell: Tell) -> int:
    if not parts:
        return 0
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        encoder, gaps, before = _Encoder(jobs), 0, 0
        for part in parts:
            gaps += encoder.encode(part, lambda done, before=before: tell(before + done))  # type: ignore[misc]
            before += part.frames
        return gaps
    finally:
        torch.set_num_threads(threads)


_jobs: _Jobs
_done: Any
"""In a worker process: frames done of each part, shared with the parent. One writes, so there is no lock."""
_encoder: _Encoder | None = None


def _begin_worker(jobs: _Jobs, done: Any) -> None:
    global _jobs, _done
    end_with_parent()
    torch.set_num_threads(THREADS)
    _jobs, _done = jobs, done


def _work(number: int, part: Part) -> int:
    global _encoder
    _encoder = _encoder or _Encoder(_jobs)

    def tell(done: int) -> None:
        _done[number] = done

    return _encoder.encode(part, tell)


def _in_processes(jobs: _Jobs, parts: Sequence[Part], count: int, tell: Tell) -> int:
    from multiprocessing import get_context

    context = get_context("spawn")
    done = context.RawArray("q", len(parts))
    gaps = 0
    with ProcessPoolExecutor(count, context, _begin_worker, (jobs, done)) as pool:
        try:
            waiting: set[Future[int]] = {pool.submit(_work, number, part) for number, part in enumerate(parts)}
            while waiting:
                finished, waiting = wait(waiting, timeout=_TICK_S, return_when=FIRST_COMPLETED)
                tell(sum(done))
                gaps += sum(future.result() for future in finished)
        except BrokenProcessPool:
            raise UserError(
                "a worker process was killed (out of memory?); encode again with fewer --workers: what was complete "
                "is kept"
            ) from None
        except BaseException:  # Ctrl-C, or a part that failed: what waits is not begun
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return gaps
