"""Batches for training: random windows of an episode, or streams that carry on from batch to batch (method.md 20).

Every batch is a dict of arrays (B, L, ...): ``static`` and ``gripper`` uint8, ``proprio`` and ``action`` float32,
``stamp_ns`` int64, and ``first`` bool: the state of a recurrent model starts anew there. ``action[:, t]`` leads from
frame t to t + 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from diwa_conventions.errors import UserError
from diwa_worldmodel.dataset.records import Episode
from diwa_worldmodel.dataset.store import DataSet, Frames, Recording

Batch: TypeAlias = dict[str, npt.NDArray[Any]]


class FrameSource(Protocol):
    """Frames of a whole data set under one numbering: in memory or on disk."""

    episodes: tuple[Episode, ...]

    def read(self, spans: list[list[tuple[int, int]]]) -> Batch:
        """Arrays (B, L, ...): one row for each list of spans (begin, end), which have L frames together."""


class ResidentFrames:
    """A data set in memory, as :meth:`DataSet.load` returns it."""

    def __init__(self, frames: Frames) -> None:
        self.episodes = frames.episodes
        self._arrays: dict[str, npt.NDArray[Any]] = {
            "static": frames.static,
            "gripper": frames.gripper,
            "proprio": frames.proprio,
            "action": frames.action,
            "stamp_ns": frames.stamp_ns,
        }

    def read(self, spans: list[list[tuple[int, int]]]) -> Batch:
        length = sum(end - begin for begin, end in spans[0])
        batch: Batch = {}
        for name, array in self._arrays.items():
            rows = np.empty((len(spans), length, *array.shape[1:]), array.dtype)
            for row, parts in zip(rows, spans, strict=True):
                _fill(row, parts, array)
            batch[name] = rows
        return batch


class DiskFrames:
    """A data set whose images stay on disk; the numbers (70 bytes a frame) are in memory."""

    def __init__(self, data_set: DataSet) -> None:
        self._recordings = data_set.recordings
        if not self._recordings:
            raise UserError(f"{data_set.path} holds no recordings; fill it with: diwa import BAG --out {data_set.path}")
        counts = [recording.frames for recording in self._recordings]
        self._begins = np.concatenate([[0], np.cumsum(counts)])
        self.episodes = tuple(
            Episode(int(begin) + episode.start, episode.length)
            for begin, recording in zip(self._begins, self._recordings, strict=False)
            for episode in recording.episodes
        )
        self._numbers = {name: _concatenated(self._recordings, name) for name in ("proprio", "action", "stamp_ns")}
        self._images = {name: [getattr(item, name) for item in self._recordings] for name in ("static", "gripper")}
        self._size = data_set.config.image_size_px

    def read(self, spans: list[list[tuple[int, int]]]) -> Batch:
        length = sum(end - begin for begin, end in spans[0])
        shape = (len(spans), length, self._size, self._size, 3)
        batch: Batch = {name: np.empty(shape, np.uint8) for name in self._images}
        for i, parts in enumerate(spans):
            at = 0
            for begin, end in parts:
                number = int(np.searchsorted(self._begins, begin, side="right")) - 1
                low, high = begin - int(self._begins[number]), end - int(self._begins[number])
                for name, arrays in self._images.items():
                    batch[name][i, at : at + high - low] = arrays[number][low:high]
                at += end - begin
        for name, array in self._numbers.items():
            batch[name] = np.empty((len(spans), length, *array.shape[1:]), array.dtype)
            for row, parts in zip(batch[name], spans, strict=True):
                _fill(row, parts, array)
        return batch


def _concatenated(recordings: tuple[Recording, ...], name: str) -> npt.NDArray[Any]:
    return np.concatenate([np.asarray(getattr(recording, name)[:]) for recording in recordings])


def _fill(row: npt.NDArray[Any], parts: list[tuple[int, int]], array: npt.NDArray[Any]) -> None:
    at = 0
    for begin, end in parts:
        row[at : at + end - begin] = array[begin:end]
        at += end - begin


@dataclass
class WindowSampler:
    """Windows of ``length`` frames inside one episode, each equally likely; the same seed, the same windows."""

    frames: FrameSource
    batch: int
    length: int
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self.batch, self.length)
        fitting = [episode for episode in self.frames.episodes if episode.length >= self.length]
        if not fitting:
            longest = max((episode.length for episode in self.frames.episodes), default=0)
            raise UserError(
                f"no episode has {self.length} frames, the longest has {longest}; "
                "choose shorter windows or record longer"
            )
        self._starts = np.array([episode.start for episode in fitting])
        self._cumulative = np.cumsum([episode.length - self.length + 1 for episode in fitting])
        self._rng = np.random.default_rng(self.seed)

    @property
    def windows(self) -> int:
        """How many different ones there are."""
        return int(self._cumulative[-1])

    def __iter__(self) -> Iterator[Batch]:
        """Batches without end."""
        while True:
            yield self.draw()

    def draw(self) -> Batch:
        """One batch (B, L, ...); ``first`` is true at each window's first frame."""
        drawn = self._rng.integers(self.windows, size=self.batch)
        number = np.searchsorted(self._cumulative, drawn, side="right")
        before = np.where(number > 0, self._cumulative[number - 1], 0)
        begins = (self._starts[number] + drawn - before).tolist()
        batch = self.frames.read([[(begin, begin + self.length)] for begin in begins])
        batch["first"] = np.zeros((self.batch, self.length), dtype=bool)
        batch["first"][:, 0] = True
        return batch


@dataclass
class StreamSampler:
    """B streams of episodes in random order; row b of a batch goes on where row b of the batch before ended.

    ``first`` is true where an episode begins. An epoch uses every frame once, up to the last, partial batch.
    """

    frames: FrameSource
    batch: int
    length: int
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self.batch, self.length)
        frames = sum(episode.length for episode in self.frames.episodes)
        if frames < self.batch * self.length:
            raise UserError(
                f"the data set has {frames} frames; a batch of {self.batch} x {self.length} needs "
                f"{self.batch * self.length}: choose a smaller batch or record more"
            )
        self._rng = np.random.default_rng(self.seed)
        self._left: list[Episode] = []
        self._open: list[Episode | None] = [None] * self.batch
        """What is left of the episode that each stream is in."""

    def __iter__(self) -> Iterator[Batch]:
        """Batches without end."""
        while True:
            yield self.draw()

    def draw(self) -> Batch:
        """The next L frames of every stream, (B, L, ...)."""
        first = np.zeros((self.batch, self.length), dtype=bool)
        spans = [self._advance(stream, first[stream]) for stream in range(self.batch)]
        batch = self.frames.read(spans)
        batch["first"] = first
        return batch

    def _advance(self, stream: int, first: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
        """Spans of the next L frames of one stream; marks in ``first`` (L,) where episodes begin."""
        spans: list[tuple[int, int]] = []
        at = 0
        while at < self.length:
            rest = self._open[stream]
            if rest is None:
                rest = self._next_episode()
                first[at] = True
            count = min(rest.length, self.length - at)
            spans.append((rest.start, rest.start + count))
            at += count
            self._open[stream] = Episode(rest.start + count, rest.length - count) if count < rest.length else None
        return spans

    def _next_episode(self) -> Episode:
        """Each once before any comes again."""
        if not self._left:
            self._left = [self.frames.episodes[i] for i in self._rng.permutation(len(self.frames.episodes))]
        return self._left.pop()


def _check(batch: int, length: int) -> None:
    for name, value, low in (("batch", batch, 1), ("length", length, 2)):
        if value < low:
            raise UserError(f"{name} is {value}; expected at least {low}")
