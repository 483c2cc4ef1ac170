"""What the report takes from a data set beside numbers: a look at blocks of images, a film strip, tool positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from diwa_conventions.images import ImageArray, area_resize
from diwa_conventions.rates import TRAIN_RATE_HZ
from diwa_worldmodel.dataset.motion import BoolArray, Motion, opens, tool_motion
from diwa_worldmodel.dataset.quality import CameraImages, Images
from diwa_worldmodel.dataset.recording_writer import CHUNK_FRAMES
from diwa_worldmodel.dataset.records import Annotation
from diwa_worldmodel.dataset.store import DataSet, Progress, Recording, read

Positions: TypeAlias = "npt.NDArray[np.float64]"

IMAGE_BLOCKS = 200
"""Blocks of CHUNK_FRAMES frames that are looked at: all of 22 minutes; of more, as many spread evenly."""
BLANK_STD = 2.0
"""Spread (std) of every colour [0..255] below which a picture shows nothing; sensor noise after resizing is less."""
DARK_MEAN = 12.0
"""Mean of all pixels [0..255]."""
MOVED_M = 0.005
"""In a step of at least this motion every camera that works shows something else."""
FILM_FRAMES = 12
FILM_SIZE_PX = 128
SCATTER_POINTS = 4000
LABEL_S = 2.0
"""A frame of the film strip bears the label of an annotation that is no farther away."""


@dataclass(frozen=True)
class FilmFrame:
    """Both cameras at one moment, as JPEG."""

    where: str
    label: str
    """Annotation at that moment; "" for none."""
    success: bool
    static: bytes
    gripper: bytes


@dataclass(frozen=True)
class Scatter:
    """Some tool positions."""

    positions_m: npt.NDArray[Any]
    """(n, 3)."""
    opened: BoolArray
    """(n,) gripper commanded to be open."""


def scatter(motion: Motion) -> Scatter:
    """At most SCATTER_POINTS positions, evenly over time."""
    chosen = evenly(motion.frames, SCATTER_POINTS)
    return Scatter(np.asarray(motion.proprio[chosen, :3]), opens(motion)[chosen])


def evenly(count: int, limit: int) -> npt.NDArray[np.int64]:
    """At most ``limit`` of the numbers below ``count``, spread evenly."""
    if count <= limit:
        return np.arange(count)
    return np.linspace(0, count - 1, limit).astype(np.int64)


def look_at_images(data_set: DataSet, progress: Progress = lambda done, total: None) -> Images:
    """Counts over blocks of images; memory is that of one block of both cameras."""
    blocks = [
        (recording, start) for recording in data_set.recordings for start in range(0, recording.frames, CHUNK_FRAMES)
    ]
    counts = _Counts()
    chosen = evenly(len(blocks), IMAGE_BLOCKS)
    for done, number in enumerate(chosen.tolist()):
        recording, start = blocks[number]
        counts.add(recording, start, min(start + CHUNK_FRAMES, recording.frames))
        progress(done + 1, len(chosen))
    return counts.images()


class _Counts:
    """Sums over the blocks."""

    def __init__(self) -> None:
        self._cameras = {name: np.zeros(5, dtype=np.int64) for name in ("static", "gripper")}
        self._compared = self._same = 0

    def add(self, recording: Recording, start: int, end: int) -> None:
        """Count frames ``start`` to ``end - 1``."""
        part = slice(start, end)
        moving = _moving_steps(recording, start, end)
        shown = np.ones(end - start, dtype=np.bool_)
        pictures = {"static": read(recording, "static", part), "gripper": read(recording, "gripper", part)}
        for name, images in pictures.items():
            flat = images.reshape(len(images), -1)
            colours = images.reshape(len(images), -1, 3)
            blank = colours.std(axis=1, dtype=np.float32).max(axis=1) < BLANK_STD
            dark = (flat.mean(axis=1, dtype=np.float32) < DARK_MEAN) & ~blank
            frozen = moving & ~blank[1:] & (flat[1:] == flat[:-1]).all(axis=1)
            self._cameras[name] += len(flat), blank.sum(), dark.sum(), moving.sum(), frozen.sum()
            shown &= ~blank
        same = (pictures["static"] == pictures["gripper"]).all(axis=(1, 2, 3))
        self._compared += int(shown.sum())
        self._same += int((same & shown).sum())

    def images(self) -> Images:
        cameras = tuple(CameraImages(name, *map(int, counts)) for name, counts in self._cameras.items())
        return Images(cameras, self._compared, self._same)


def _moving_steps(recording: Recording, start: int, end: int) -> BoolArray:
    """(end - start - 1,) whether the tool moves visibly from a frame to the next of the same episode."""
    moved, _ = tool_motion(read(recording, "proprio", slice(start, end)))
    within = np.ones(max(end - start - 1, 0), dtype=np.bool_)
    ends = np.array([episode.end - 1 - start for episode in recording.episodes], dtype=np.int64)
    within[ends[(ends >= 0) & (ends < len(within))]] = False
    return (moved >= MOVED_M) & within


def film_strip(data_set: DataSet, motion: Motion) -> tuple[FilmFrame, ...]:
    """FILM_FRAMES moments in the order of time: half of them at annotations if there are any, the others spread."""
    marks = {
        start + mark.frame: mark
        for start, recording in zip(motion.recording_starts, data_set.recordings, strict=True)
        for mark in recording.annotations
    }
    marked = sorted(marks)
    chosen = {marked[i] for i in evenly(len(marked), FILM_FRAMES // 2)}
    spread = evenly(motion.frames, FILM_FRAMES - len(chosen))
    return tuple(_film_frame(data_set, motion, frame, marks) for frame in sorted({*chosen, *spread.tolist()}))


def _film_frame(data_set: DataSet, motion: Motion, frame: int, marks: dict[int, Annotation]) -> FilmFrame:
    number = int(np.searchsorted(motion.recording_starts, frame, side="right")) - 1
    recording, at = data_set.recordings[number], frame - motion.recording_starts[number]
    near = _nearest_mark(frame, marks, range(motion.recording_starts[number], frame - at + recording.frames))
    return FilmFrame(
        where=motion.where(frame),
        label=f"{near.skill}: {'success' if near.success else 'failure'}" if near else "",
        success=bool(near and near.success),
        static=_jpeg(read(recording, "static", at)),
        gripper=_jpeg(read(recording, "gripper", at)),
    )


def _nearest_mark(frame: int, marks: dict[int, Annotation], frames: Sequence[int]) -> Annotation | None:
    """The annotation of the same recording that is nearest, within LABEL_S."""
    reach = int(LABEL_S * TRAIN_RATE_HZ)
    for distance in range(reach + 1):
        for other in (frame - distance, frame + distance):
            if other in marks and other in frames:
                return marks[other]
    return None


def _jpeg(image: ImageArray) -> bytes:
    small = area_resize(image, FILM_SIZE_PX) if len(image) > FILM_SIZE_PX else image
    written, data = cv2.imencode(".jpg", np.ascontiguousarray(small[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 92])
    assert written, "an RGB image in memory can be encoded"
    return data.tobytes()
