"""Batches as the world model takes them, read in the background while it learns from the one before.

    with BatchStream(frames, config.model, config.training, device, first_step=step) as batches:
        batch = next(batches)       # WorldModelBatch of step ``step``; batches.wait_s is how long it was waited for

The batch of a step depends on the seed and the step alone: a run that goes on needs no state of random generators, and
each of several processes takes its rows of the same batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from time import perf_counter
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diwa_conventions.errors import UserError
from diwa_worldmodel.config import ModelConfig, TrainingConfig
from diwa_worldmodel.dataset.chunked import in_chunks
from diwa_worldmodel.dataset.sampler import Batch, FrameSource, Plan, Sampler, StreamSampler, WindowSampler
from diwa_worldmodel.world_model import WorldModelBatch

AHEAD = 2
"""Batches that are read before they are asked for."""


class UnreadableError(UserError):
    """The frames of a process's rows cannot be read; the other processes may know nothing of it."""


class BatchStream(Iterator[WorldModelBatch]):
    """Batches of steps ``first_step``, ``first_step`` + 1 and so on without end.

    UserError if the frames do not suffice for a batch, or the batch cannot be shared among the processes. An error
    while reading is raised by the ``next`` that asks for that batch, as UnreadableError if the user can mend it; the
    stream ends with it, or with :meth:`close`.
    """

    def __init__(
        self,
        frames: FrameSource,
        model: ModelConfig,
        training: TrainingConfig,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
        first_step: int = 0,
    ) -> None:
        self.wait_s = 0.0
        """How long the last ``next`` had to wait."""
        rows = rows_of(training.batch, rank, world_size)
        kind = StreamSampler if training.sampling == "streams" else WindowSampler
        frames = in_chunks(frames, model.action_chunk)
        sampler: Sampler = kind(frames, training.batch, training.length, training.seed, rows)
        self._reader = _Reader(frames, model, training, device, rows, sampler)
        self._step = first_step
        self._device = device
        self._thread = ThreadPoolExecutor(1, "batches")
        self._thread.submit(sampler.skip, first_step)
        self._coming: deque[Future[WorldModelBatch]] = deque()
        self._closed = False
        for _ in range(AHEAD):
            self._order()

    def __next__(self) -> WorldModelBatch:
        if self._closed:
            raise StopIteration
        began_s = perf_counter()
        try:
            batch = self._coming.popleft().result()
        except BaseException as error:
            self.close()
            if isinstance(error, UserError):
                raise UnreadableError(str(error)) from error
            raise
        self._order()
        if self._device.type == "cuda":
            _used_here(batch, self._device)
        self.wait_s = perf_counter() - began_s
        return batch

    def close(self) -> None:
        """End the background thread; waits for the one batch that it may be reading."""
        self._closed = True
        self._coming.clear()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> BatchStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _order(self) -> None:
        self._coming.append(self._thread.submit(self._reader.read, self._step))
        self._step += 1


class _Reader:
    """What the background thread does: one batch after the other, on a CUDA stream of its own where there is one."""

    def __init__(
        self,
        frames: FrameSource,
        model: ModelConfig,
        training: TrainingConfig,
        device: torch.device,
        rows: range,
        sampler: Sampler,
    ) -> None:
        self._frames, self._model, self._training, self._device = frames, model, training, device
        self._rows, self._sampler = rows, sampler
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def read(self, step: int) -> WorldModelBatch:
        """The batch of ``step``; steps must be asked for in their order."""
        plan = self._sampler.plan()
        training, rows = self._training, slice(self._rows.start, self._rows.stop)
        random = np.random.default_rng((training.seed, step))
        shape = (training.batch, training.length)
        resets = random.random(shape, np.float32)[rows] < training.reset_probability
        uniforms = random.random((*shape, self._model.discrete), np.float32)[rows]
        with torch.cuda.stream(self._stream):
            batch = make_batch(self._frames, plan, self._model, plan.first | resets, uniforms, self._device)
        if self._stream:
            self._stream.synchronize()
        return batch


def make_batch(
    frames: FrameSource,
    plan: Plan,
    model: ModelConfig,
    reset: npt.NDArray[np.bool_],
    uniforms: npt.NDArray[np.float32],
    device: torch.device,
) -> WorldModelBatch:
    """The frames of a plan (B, L), with resets (B, L) and uniforms (B, L, G), on the device."""
    batch = frames.read(plan.spans)

    def moved(values: Any) -> Tensor:
        tensor = torch.as_tensor(values)
        if device.type == "cuda" and tensor.device.type == "cpu":
            tensor = tensor.pin_memory()
        return tensor.to(device, non_blocking=True)

    return {
        "images": {name: moved(batch[name]) for name in model.cameras},
        "proprio": moved(batch["proprio"]),
        "scene_state": moved(batch["scene_state"]) if model.scene_state else None,
        "previous_action": moved(previous_actions(frames, plan, batch)),
        "reset": moved(reset),
        "uniforms": moved(uniforms),
    }


def previous_actions(frames: FrameSource, plan: Plan, batch: Batch) -> npt.NDArray[np.float32]:
    """(B, L, A) what led to each frame; zero where a sequence begins.

    A row that goes on from the batch before does so in the same episode: its first frame's predecessor is the frame
    before it, whatever was read last.
    """
    action: npt.NDArray[np.float32] = batch["action"]
    goes_on = ~plan.first[:, 0]
    begins = np.array([parts[0][0] for parts in plan.spans])
    before = np.zeros_like(action[:, :1])
    before[goes_on, 0] = frames.actions(begins[goes_on] - 1)
    previous = np.concatenate([before, action[:, :-1]], axis=1)
    previous[plan.first] = 0.0
    return previous


def validation_batches(
    frames: FrameSource,
    model: ModelConfig,
    training: TrainingConfig,
    device: torch.device,
    count: int,
    rank: int = 0,
    world_size: int = 1,
) -> list[WorldModelBatch]:
    """The same ``count`` batches of windows for the same seed, with the same draws, each window from a zero state.

    Where no episode is as long as ``training.length``, windows are as long as the longest.
    """
    frames = in_chunks(frames, model.action_chunk)
    length = min(training.length, max(episode.length for episode in frames.episodes))
    rows = rows_of(training.batch, rank, world_size)
    sampler = WindowSampler(frames, training.batch, length, training.seed, rows)
    random = np.random.default_rng(training.seed)
    batches = []
    for _ in range(count):
        plan = sampler.plan()
        uniforms = random.random((training.batch, length, model.discrete), np.float32)[rows.start : rows.stop]
        batches.append(make_batch(frames, plan, model, plan.first, uniforms, device))
    return batches


def rows_of(batch: int, rank: int, world_size: int) -> range:
    """The rows of a batch that are this process's; UserError if it cannot be shared equally."""
    if batch % world_size:
        raise UserError(f"training.batch is {batch}; expected a multiple of the {world_size} processes that share it")
    share = batch // world_size
    return range(rank * share, (rank + 1) * share)


def _used_here(batch: WorldModelBatch, device: torch.device) -> None:
    """Memory of these tensors must not be used anew before what the caller does with them is done."""
    stream = torch.cuda.current_stream(device)
    numbers = (batch["proprio"], batch["scene_state"], batch["previous_action"], batch["reset"], batch["uniforms"])
    for tensor in (*batch["images"].values(), *numbers):
        if tensor is not None:
            tensor.record_stream(stream)
