"""Images of a LeRobot data set: PNG or JPEG inside its Parquet files, or frames of its videos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diwa_conventions.errors import UserError
from diwa_conventions.images import ImageArray, compressed_to_rgb

_BATCH_ROWS = 32
"""Rows of images in memory at once."""


def stored_images(parquet: Any, path: Path, key: str, rows: npt.NDArray[np.int64]) -> Iterator[ImageArray]:
    """RGB images (H, W, 3) of ascending rows of an open Parquet file. UserError if one is missing or unreadable."""
    first = 0
    place = 0
    for batch in parquet.iter_batches(batch_size=_BATCH_ROWS, columns=[key]):
        column = batch.column(batch.schema.get_field_index(key))
        while place < len(rows) and rows[place] < first + len(column):
            yield _decoded(column[int(rows[place]) - first].as_py(), path, key, int(rows[place]))
            place += 1
        first += len(column)
    if place < len(rows):
        raise UserError(f"{path} ends after {first} rows; expected {int(rows[-1]) + 1}: copy the data set anew")


def _decoded(value: Any, path: Path, key: str, row: int) -> ImageArray:
    data = value.get("bytes") if isinstance(value, dict) else None
    if not data:
        raise UserError(f"{path} holds no image in row {row} of {key}; expected PNG or JPEG bytes")
    try:
        return compressed_to_rgb(np.frombuffer(data, np.uint8))
    except UserError as error:
        raise UserError(f"{path}, row {row} of {key}: {error}") from None


@dataclass(frozen=True)
class VideoFrame:
    """A moment in one of the data set's videos."""

    path: Path
    time_s: float


def video_images(frames: Sequence[VideoFrame], fps: float) -> Iterator[ImageArray]:
    """RGB images (H, W, 3) of the frames nearest to the moments, which ascend within a file.

    UserError if a file is missing, cannot be decoded or has no frame within half a period.
    """
    reader: _VideoReader | None = None
    try:
        for frame in frames:
            if reader is None or reader.path != frame.path:
                if reader is not None:
                    reader.close()
                reader = _VideoReader(frame.path, fps)
            yield reader.at(frame.time_s)
    finally:
        if reader is not None:
            reader.close()


class _VideoReader:
    """Decodes one file from its beginning to its end, once."""

    def __init__(self, path: Path, fps: float) -> None:
        import av

        self.path = path
        self._half_s = 0.5 / fps
        self._error = av.error.FFmpegError
        try:
            self._file = av.open(str(path))
            self._frames = self._file.decode(video=0)
            self._nearest: Any = None
            self._next = self._decode()
        except (self._error, OSError, IndexError) as error:
            raise UserError(f"video {path} cannot be opened ({error}); copy the data set anew") from None

    def at(self, time_s: float) -> ImageArray:
        """The frame nearest to a moment that is not before the last one asked for."""
        try:
            while self._next is not None and (
                self._nearest is None or abs(self._next.time - time_s) <= abs(self._nearest.time - time_s)
            ):
                self._nearest, self._next = self._next, self._decode()
        except self._error as error:
            raise UserError(f"video {self.path} cannot be decoded ({error}); copy the data set again") from None
        found = self._nearest
        if found is None or abs(found.time - time_s) > self._half_s:
            where = "none" if found is None else f"{found.time:.3f} s"
            raise UserError(
                f"video {self.path} has no frame at {time_s:.3f} s (nearest: {where}); copy the data set again"
            )
        return np.asarray(found.to_ndarray(format="rgb24"), dtype=np.uint8)

    def _decode(self) -> Any:
        """The next frame with a time, None at the end."""
        return next((frame for frame in self._frames if frame.time is not None), None)

    def close(self) -> None:
        self._file.close()
