"""What a frame holds beside its images: proprioception and the action to the next one (method.md 17, 18, 23)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from diwa_conventions.actions import (
    ACTION_DIM,
    GRIPPER_INDEX,
    ActionScale,
    FloatArray,
    Pose,
    difference,
    quantise_gripper,
    rotation_6d,
)
from diwa_worldmodel.dataset.recording_writer import PROPRIO_DIM
from diwa_worldmodel.dataset.records import Episode

_ROUNDING = 1e-6
"""How far a component may be above 1 by rounding without counting as saturated."""


def proprioception(poses: Sequence[Pose], widths_m: npt.NDArray[np.float64]) -> FloatArray:
    """(F, 10): position [m], 6D rotation, gripper width [m], from F poses and widths (F,)."""
    values = np.zeros((len(poses), PROPRIO_DIM))
    for row, pose in zip(values, poses, strict=True):
        row[:3] = pose.position
        row[3:9] = rotation_6d(pose.rotation)
    values[:, 9] = widths_m
    return values


def commanded_actions(
    commands: Sequence[Pose], gripper: FloatArray, episodes: Sequence[Episode], scale: ActionScale
) -> tuple[FloatArray, dict[str, int]]:
    """(F, 7): from the command at each frame to that at the next, clipped; and how many steps were.

    From the F poses and gripper commands (F,) in force at the frames. The gripper's is the command in force at the end
    of the step. An episode's last frame has zero motion and keeps the gripper's command.
    """
    values = np.zeros((len(gripper), ACTION_DIM))
    saturated = {"translation": 0, "rotation": 0}
    for episode in episodes:
        last = episode.end - 1
        for frame in range(episode.start, last):
            step = difference(commands[frame], commands[frame + 1], scale)
            saturated["translation"] += bool(np.abs(step[:3]).max() > 1.0 + _ROUNDING)
            saturated["rotation"] += bool(np.abs(step[3:]).max() > 1.0 + _ROUNDING)
            values[frame, :GRIPPER_INDEX] = np.clip(step, -1.0, 1.0) + 0.0  # no negative zeros
            values[frame, GRIPPER_INDEX] = quantise_gripper(float(gripper[frame + 1]))
        values[last, GRIPPER_INDEX] = quantise_gripper(float(gripper[last]))
    return values, saturated


def poses_of(values: FloatArray) -> list[Pose]:
    """From rows (N, 7) of positions and quaternions; the matrices are made in one go, which is 20 times as fast."""
    from scipy.spatial.transform import Rotation

    if not len(values):
        return []
    matrices = Rotation.from_quat(values[:, 3:]).as_matrix()
    return [Pose(row[:3], matrix) for row, matrix in zip(values, matrices, strict=True)]
