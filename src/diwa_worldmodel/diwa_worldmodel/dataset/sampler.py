"""Batches for training: random windows of an episode, or streams that carry on from batch to batch (method.md 20).

Every batch is a dict of arrays (B, L, ...): ``static`` and ``gripper`` uint8, ``proprio``, ``action`` and, where the
data set has it, ``scene_state`` float32, ``stamp_ns`` int64, and ``first`` bool: the state of a recurrent model starts
anew there. ``action[:, t]`` leads from frame t to t + 1.

Of several processes that share a batch each reads its own ``rows``; together they draw what one would.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from diwa_conventions.errors import UserError
from diwa_worldmodel.dataset.records import Episode
from diwa_worldmodel.dataset.store import CAMERAS, DataSet, Frames, read

Batch: TypeAlias = dict[str, Any]
"""Arrays; a source that keeps images on a device gives tensors there."""
Spans: TypeAlias = list[list[tuple[int, int]]]
"""Of each row of a batch: frames from begin to before end, one stretch after the other."""


class FrameSource(Protocol):
    """Frames of a whole data set under one numbering: in memory or on disk."""

    @property
    def episodes(self) -> tuple[Episode, ...]: ...

    def read(self, spans: Spans) -> Batch:
        """Arrays (B, L, ...): one row for each list of spans (begin, end), which have L frames together."""

    def actions(self, frames: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """(..., A) what was done at frames (...), without reading their images."""


class ResidentFrames:
    """A data set in memory, as :meth:`DataSet.load` returns it."""

    def __init__(self, frames: Frames) -> None:
        self.numbers = frames
        self.episodes = frames.episodes
        self._arrays = frames.arrays()

    def read(self, spans: Spans) -> Batch:
        return cut(self._arrays, spans)

    def actions(self, frames: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        return self.numbers.action[frames]


class DiskFrames:
    """A data set whose images stay on disk; the numbers (76 bytes a frame and the scene state) are in memory."""

    def __init__(self, data_set: DataSet) -> None:
        self.numbers = data_set.load_numbers()
        self.episodes = self.numbers.episodes
        self._recordings = data_set.recordings
        self._begins = np.array(data_set.recording_begins)
        self._size = data_set.config.image_size_px

    def read(self, spans: Spans) -> Batch:
        shape = (len(spans), _length(spans), self._size, self._size, 3)
        images = {name: np.empty(shape, np.uint8) for name in CAMERAS}
        for row, parts in enumerate(spans):
            at = 0
            for begin, end in parts:
                number = int(np.searchsorted(self._begins, begin, side="right")) - 1
                stored = slice(begin - int(self._begins[number]), end - int(self._begins[number]))
                for name in CAMERAS:
                    images[name][row, at : at + end - begin] = read(self._recordings[number], name, stored)
                at += end - begin
        return {**images, **cut(self.numbers.arrays(), spans)}

    def actions(self, frames: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        return self.numbers.action[frames]


@dataclass(frozen=True)
class SomeEpisodes:
    """A source of which only some episodes are used, under its own numbering."""

    source: FrameSource
    episodes: tuple[Episode, ...]

    def read(self, spans: Spans) -> Batch:
        return self.source.read(spans)

    def actions(self, frames: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        return self.source.actions(frames)


def cut(arrays: dict[str, npt.NDArray[Any]], spans: Spans) -> Batch:
    """Rows (B, L, ...) of arrays (N, ...)."""
    batch: Batch = {}
    for name, array in arrays.items():
        batch[name] = np.empty((len(spans), _length(spans), *array.shape[1:]), array.dtype)
        for row, parts in zip(batch[name], spans, strict=True):
            at = 0
            for begin, end in parts:
                row[at : at + end - begin] = array[begin:end]
                at += end - begin
    return batch


def _length(spans: Spans) -> int:
    return sum(end - begin for begin, end in spans[0])


@dataclass(frozen=True)
class Plan:
    """Which frames a batch is made of."""

    spans: Spans
    first: npt.NDArray[np.bool_]
    """(B, L)."""


class Sampler(Protocol):
    """What both samplers have."""

    def plan(self) -> Plan:
        """This process's rows of the next batch, nothing read yet."""

    def skip(self, batches: int) -> None:
        """Go on as if so many batches had been drawn."""


@dataclass
class WindowSampler:
    """Windows of ``length`` frames inside one episode, each equally likely; the same seed, the same windows."""

    frames: FrameSource
    batch: int
    length: int
    seed: int = 0
    rows: range | None = None
    """Of each batch, this process's; None: all."""

    def __post_init__(self) -> None:
        _check(self.batch, self.length)
        fitting = [episode for episode in self.frames.episodes if episode.length >= self.length]
        if not fitting:
            longest = max((episode.length for episode in self.frames.episodes), default=0)
            raise UserError(
                f"no episode has {self.length} frames, the longest has {longest}; "
                "choose shorter sequences or record longer"
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
        return _read(self.frames, self.plan())

    def plan(self) -> Plan:
        """This process's rows of the next batch, nothing read yet."""
        drawn = self._rng.integers(self.windows, size=self.batch)
        number = np.searchsorted(self._cumulative, drawn, side="right")
        before = np.where(number > 0, self._cumulative[number - 1], 0)
        begins = (self._starts[number] + drawn - before).tolist()
        spans = [[(begins[row], begins[row] + self.length)] for row in _rows(self)]
        first = np.zeros((len(spans), self.length), dtype=bool)
        first[:, 0] = True
        return Plan(spans, first)

    def skip(self, batches: int) -> None:
        """Go on as if so many batches had been drawn."""
        for _ in range(batches):
            self._rng.integers(self.windows, size=self.batch)


@dataclass
class StreamSampler:
    """B streams of episodes in random order; row b of a batch goes on where row b of the batch before ended.

    An epoch uses every frame once, up to the last, partial batch. Episodes longer than a stream's share of it are cut
    into equal pieces, so that streams are at different places also where there are fewer episodes than streams.
    ``first`` is true where an episode or a piece of one begins.
    """

    frames: FrameSource
    batch: int
    length: int
    seed: int = 0
    rows: range | None = None
    """Of each batch, this process's; None: all."""
    pieces: tuple[Episode, ...] = field(init=False)

    def __post_init__(self) -> None:
        _check(self.batch, self.length)
        frames = sum(episode.length for episode in self.frames.episodes)
        if frames < self.batch * self.length:
            raise UserError(
                f"there are {frames} frames to draw from; a batch of {self.batch} x {self.length} needs "
                f"{self.batch * self.length}: choose a smaller batch or shorter sequences, or record more"
            )
        self.pieces = _pieces(self.frames.episodes, -(-frames // self.batch))
        self._rng = np.random.default_rng(self.seed)
        self._left: list[Episode] = []
        self._open: list[Episode | None] = [None] * self.batch
        """What is left of the piece that each stream is in."""

    def __iter__(self) -> Iterator[Batch]:
        """Batches without end."""
        while True:
            yield self.draw()

    def draw(self) -> Batch:
        """The next L frames of every stream, (B, L, ...)."""
        return _read(self.frames, self.plan())

    def plan(self) -> Plan:
        """This process's rows of the next batch, nothing read yet."""
        first = np.zeros((self.batch, self.length), dtype=bool)
        # All streams go on, also those of other processes: they draw from the same order of pieces.
        spans = [self._advance(stream, first[stream]) for stream in range(self.batch)]
        rows = _rows(self)
        return Plan([spans[row] for row in rows], first[list(rows)])

    def skip(self, batches: int) -> None:
        """Go on as if so many batches had been drawn."""
        for _ in range(batches):
            self.plan()

    def _advance(self, stream: int, first: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
        """Spans of the next L frames of one stream; marks in ``first`` (L,) where pieces begin."""
        spans: list[tuple[int, int]] = []
        at = 0
        while at < self.length:
            rest = self._open[stream]
            if rest is None:
                rest = self._next_piece()
                first[at] = True
            count = min(rest.length, self.length - at)
            spans.append((rest.start, rest.start + count))
            at += count
            self._open[stream] = Episode(rest.start + count, rest.length - count) if count < rest.length else None
        return spans

    def _next_piece(self) -> Episode:
        """Each once before any comes again."""
        if not self._left:
            self._left = [self.pieces[i] for i in self._rng.permutation(len(self.pieces))]
        return self._left.pop()


def _pieces(episodes: Sequence[Episode], longest: int) -> tuple[Episode, ...]:
    """Episodes cut into equal pieces of at most ``longest`` frames."""
    pieces = []
    for episode in episodes:
        count = -(-episode.length // longest)
        bounds = [episode.start + episode.length * i // count for i in range(count + 1)]
        pieces += [Episode(start, end - start) for start, end in zip(bounds, bounds[1:], strict=False)]
    return tuple(pieces)


def _rows(sampler: WindowSampler | StreamSampler) -> range:
    return range(sampler.batch) if sampler.rows is None else sampler.rows


def _read(frames: FrameSource, plan: Plan) -> Batch:
    return {**frames.read(plan.spans), "first": plan.first}


def _check(batch: int, length: int) -> None:
    for name, value, low in (("batch", batch, 1), ("length", length, 2)):
        if value < low:
            raise UserError(f"{name} is {value}; expected at least {low}")
