"""Frames for a world model that goes on by several at a time and takes their actions as one (method.md 6)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from diwa_conventions.errors import UserError
from diwa_worldmodel.dataset.records import Episode
from diwa_worldmodel.dataset.sampler import Batch, FrameSource, Spans


class ChunkedFrames:
    """Every ``chunk``-th frame of each episode, under a numbering of its own.

    ``action`` (7 x chunk) leads to the next of them, in the order of time. What is left over at an episode's end is
    not used.
    """

    def __init__(self, source: FrameSource, chunk: int) -> None:
        self.source, self.chunk = source, chunk
        usable = [episode for episode in source.episodes if episode.length >= 2 * chunk]
        if not usable:
            longest = max((episode.length for episode in source.episodes), default=0)
            raise UserError(
                f"no episode has two chunks of {chunk} actions, the longest has {longest} frames; "
                "choose a smaller model.action_chunk or record longer"
            )
        ends = np.cumsum([episode.length // chunk for episode in usable])
        self._begins = np.concatenate([[0], ends[:-1]])
        self._starts = np.array([episode.start for episode in usable])
        self.episodes = tuple(
            Episode(int(begin), int(end - begin)) for begin, end in zip(self._begins, ends, strict=True)
        )

    def read(self, spans: Spans) -> Batch:
        """As :meth:`FrameSource.read`; spans count chunks."""
        batch = self.source.read([[self._frames(*span) for span in parts] for parts in spans])
        action = batch.pop("action")
        rows, frames, width = action.shape
        every = {name: values[:, :: self.chunk] for name, values in batch.items()}
        return {**every, "action": action.reshape(rows, frames // self.chunk, self.chunk * width)}

    def actions(self, frames: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """(..., 7 x chunk) what was done from frames (...) on."""
        single = self._first_frame(frames)[..., None] + np.arange(self.chunk)
        actions = self.source.actions(single)
        return actions.reshape(*frames.shape, self.chunk * actions.shape[-1])

    def _frames(self, begin: int, end: int) -> tuple[int, int]:
        start = int(self._first_frame(np.asarray(begin)))
        return start, start + (end - begin) * self.chunk

    def _first_frame(self, number: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """The source's number of the first frame of each chunk."""
        episode = np.searchsorted(self._begins, number, side="right") - 1
        first: npt.NDArray[np.int64] = self._starts[episode] + (number - self._begins[episode]) * self.chunk
        return first


def in_chunks(source: FrameSource, chunk: int) -> FrameSource:
    """The source as a model with so many actions in a step sees it."""
    return ChunkedFrames(source, chunk) if chunk > 1 else source
