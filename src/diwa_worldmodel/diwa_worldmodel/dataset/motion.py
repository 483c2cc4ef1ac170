"""The small arrays of a data set in memory (76 bytes a frame), and what moves from one frame to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from diwa_conventions.actions import GRIPPER_INDEX, gripper_opens
from diwa_worldmodel.dataset.records import Episode
from diwa_worldmodel.dataset.store import Recording, read

Array: TypeAlias = npt.NDArray[Any]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
FloatArray: TypeAlias = npt.NDArray[np.float64]

STILL_M, STILL_RAD = 0.001, 0.01
"""A step with less motion than both, and an unchanged gripper, is still: 7.5 mm/s and 4 degrees/s, above the noise of
an arm at rest."""


@dataclass(frozen=True)
class Motion:
    """The small arrays of a data set, recordings one after the other; N frames."""

    proprio: Array
    """(N, 10)."""
    action: Array
    """(N, 7)."""
    stamp_ns: npt.NDArray[np.int64]
    """(N,)."""
    episodes: tuple[Episode, ...]
    """Their starts count from the first frame of all."""
    recording_starts: tuple[int, ...]
    recording_names: tuple[str, ...]
    scene: Mapping[str, Array]
    """Name to (N,), NaN in recordings that do not know it."""

    @property
    def frames(self) -> int:
        return len(self.stamp_ns)

    def has_next(self) -> BoolArray:
        """(N,) whether a frame is followed by another of its episode."""
        follows = np.ones(self.frames, dtype=np.bool_)
        follows[[episode.end - 1 for episode in self.episodes]] = False
        return follows

    def where(self, frame: int) -> str:
        """Recording and time of a frame, e.g. ``monday at 3:05 min``."""
        number = int(np.searchsorted(self.recording_starts, frame, side="right")) - 1
        start = self.recording_starts[number]
        seconds = max(0, int((self.stamp_ns[frame] - self.stamp_ns[start]) // 1_000_000_000))
        return f"{self.recording_names[number]} at {seconds // 60}:{seconds % 60:02d} min"


def load_motion(recordings: Sequence[Recording]) -> Motion:
    """Read everything but the images."""
    starts = np.cumsum([0, *(recording.frames for recording in recordings)])
    total = int(starts[-1])
    motion = Motion(
        proprio=np.zeros((total, 10), np.float32),
        action=np.zeros((total, 7), np.float32),
        stamp_ns=np.zeros(total, np.int64),
        episodes=tuple(
            Episode(int(start) + episode.start, episode.length)
            for start, recording in zip(starts, recordings, strict=False)
            for episode in recording.episodes
        ),
        recording_starts=tuple(int(start) for start in starts[:-1]),
        recording_names=tuple(recording.source.name for recording in recordings),
        scene={name: np.full(total, np.nan, np.float32) for one in recordings for name in one.scene_state_names},
    )
    for start, recording in zip(starts, recordings, strict=False):
        part = slice(int(start), int(start) + recording.frames)
        motion.proprio[part] = read(recording, "proprio")
        motion.action[part] = read(recording, "action")
        motion.stamp_ns[part] = read(recording, "stamp_ns")
        if recording.scene_state_names:
            columns = read(recording, "scene_state")
            for column, name in enumerate(recording.scene_state_names):
                motion.scene[name][part] = columns[:, column]
    return motion


def still_frames(motion: Motion) -> BoolArray:
    """(N,) whether hardly anything happens from a frame to the next; False at an episode's last."""
    still = np.zeros(motion.frames, dtype=np.bool_)
    if motion.frames > 1:
        moved, turned = tool_motion(motion.proprio)
        gripper = opens(motion)
        still[:-1] = (moved < STILL_M) & (turned < STILL_RAD) & (gripper[1:] == gripper[:-1])
    return still & motion.has_next()


def opens(motion: Motion) -> BoolArray:
    """(N,) whether the gripper is commanded to be open."""
    return np.asarray(np.vectorize(gripper_opens, otypes=[np.bool_])(motion.action[:, GRIPPER_INDEX]), dtype=np.bool_)


def tool_motion(proprio: Array) -> tuple[FloatArray, FloatArray]:
    """Distance [m] and angle [rad] (N - 1,) from each row of (N, 10) to the next."""
    moved = np.linalg.norm(np.diff(proprio[:, :3], axis=0), axis=1)
    columns = np.asarray(proprio[:, 3:9], dtype=np.float64).reshape(-1, 2, 3)
    rotations = np.concatenate([columns, np.cross(columns[:, 0], columns[:, 1])[:, None]], axis=1)
    chord = np.linalg.norm(np.diff(rotations, axis=0), axis=(1, 2)) / np.sqrt(8.0)
    return moved.astype(np.float64), 2.0 * np.arcsin(np.minimum(chord, 1.0))
