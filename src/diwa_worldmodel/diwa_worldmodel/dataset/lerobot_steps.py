"""From the rows of one LeRobot episode to our 7.5 Hz steps: proprioception, actions, what saturated."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from diwa_conventions.actions import (
    ACTION_DIM,
    GRIPPER_INDEX,
    ActionScale,
    Pose,
    difference,
)
from diwa_conventions.errors import UserError
from diwa_worldmodel.dataset import plausible
from diwa_worldmodel.dataset.lerobot_layout import (
    ACTION_NAMES,
    POSITION,
    ROTATIONS,
    STATE_NAMES,
    Info,
    LeRobotLayout,
    flag,
)

Float64Array: TypeAlias = npt.NDArray[np.float64]
Float32Array: TypeAlias = npt.NDArray[np.float32]

_MEANING = {"actions", "delta_translation_m", "delta_rotation_rad", "gripper_threshold", "gripper_inverted",
            "width_scale", "position_scale", "angles"}  # fmt: skip
"""Options that give actions another meaning than our export's."""


@dataclass(frozen=True)
class Steps:
    """An episode at 7.5 Hz; m frames."""

    rows: npt.NDArray[np.int64]
    """(m,) the frames of the source that were taken."""
    proprio: Float32Array
    """(m, 10)."""
    action: Float32Array
    """(m, 7)."""
    saturated_translation: int
    saturated_rotation: int


class StepMaker:
    """Knows the columns and units of one data set. UserError for columns that cannot be understood."""

    def __init__(self, info: Info, layout: LeRobotLayout, written_with: ActionScale | None, scale: ActionScale) -> None:
        """``written_with`` is the scale of our own export, ``scale`` that of the data set that is written."""
        self._layout = layout
        self._stride = info.stride
        self._scale = scale
        self._state = info.columns(layout.state_key, layout.state_names, "state_names")
        _require(layout.state_key, self._state, (*POSITION, "gripper_width"), flag("state_names"))
        self._state_rotation = _rotation_columns(layout.state_key, self._state, flag("state_names"))
        self._action = info.columns(layout.action_key, layout.action_names, "action_names")
        self._copied = written_with == scale and info.stride == 1 and not _MEANING & layout.changed().keys()
        if layout.actions == "delta":
            _require(
                layout.action_key, self._action, ACTION_NAMES, f"{flag('action_names')} (or {flag('actions')} absolute)"
            )
            self._unit = _delta_unit(layout, written_with)
        else:
            _require(layout.action_key, self._action, (*POSITION, "gripper"), flag("action_names"))
            self._action_rotation = _rotation_columns(layout.action_key, self._action, flag("action_names"))

    def steps(self, state: npt.NDArray[Any], action: npt.NDArray[Any]) -> Steps:
        """From all frames of an episode: state (n, D), action (n, A), finite. ValueError for a zero rotation."""
        rows = np.arange(0, len(state), self._stride)
        proprio = self._proprio(state[rows])
        if self._copied:
            values = np.asarray(action[:, self._places(self._action, ACTION_NAMES)], dtype=np.float32)
            return Steps(rows, proprio, values, 0, 0)
        if self._layout.actions == "delta":
            motion = self._merged_deltas(np.asarray(action, np.float64), len(rows))
        else:
            motion = self._differences(np.asarray(state, np.float64), np.asarray(action, np.float64), len(rows))
        outside = np.abs(motion) > 1.0 + 1e-6
        return Steps(
            rows,
            proprio,
            self._with_gripper(np.clip(motion, -1.0, 1.0), np.asarray(action, np.float64), len(rows)),
            int(outside[:, :3].any(axis=1).sum()),
            int(outside[:, 3:].any(axis=1).sum()),
        )

    def check(self, state: npt.NDArray[Any], action: npt.NDArray[Any], where: str) -> list[str]:
        """Of all frames: state (N, D), action (N, A). UserError for numbers that cannot be right; remarks."""
        layout, prefix = self._layout, flag("")
        if self._copied:
            return []
        state, action = np.asarray(state, np.float64), np.asarray(action, np.float64)
        widths = state[:, self._places(self._state, ("gripper_width",))[0]] * layout.width_scale
        remarks = plausible.check_widths(widths, where, prefix)
        commands = action[:, self._places(self._action, ("gripper",))[0]]
        slow = widths[:: self._stride]
        plausible.check_gripper_commands(commands, layout.gripper_threshold, where, prefix, slow)
        signs = plausible.gripper_signs(commands, layout.gripper_threshold, layout.gripper_inverted)
        plausible.check_gripper_sense(signs[:: self._stride], slow, where, prefix)
        self._check_poses(state, self._state, self._state_rotation, f"{layout.state_key} of {where}", "state_names")
        if layout.actions == "absolute":
            self._check_poses(
                action, self._action, self._action_rotation, f"{layout.action_key} of {where}", "action_names"
            )
        return remarks

    def _check_poses(self, values: Float64Array, names: tuple[str, ...], kind: str, where: str, option: str) -> None:
        positions = values[:, self._places(names, POSITION)] * self._layout.position_scale
        plausible.check_positions(positions, where, flag(""))
        columns = values[:, self._places(names, ROTATIONS[kind])]
        if kind in ("euler", "vector") and self._layout.angles == "rad":
            plausible.check_angles(columns, where, f"{flag('angles')} deg")
        if kind == "quaternion":
            plausible.check_quaternions(columns, where, f"{flag(option)} with qw qx qy qz in that order")

    def check_deltas(self, state: npt.NDArray[Any], action: npt.NDArray[Any], where: str) -> None:
        """Of the frames of an episode: UserError for deltas of another unit than the option's."""
        if self._copied or self._layout.actions != "delta" or len(state) < 2:
            return
        used = np.asarray(action, np.float64)[:-1, self._places(self._action, ACTION_NAMES)]
        poses = self._poses(np.asarray(state, np.float64), self._state, self._state_rotation)
        moved = np.diff([pose.position for pose in poses], axis=0)
        turned = Rotation.from_matrix([b.rotation @ a.rotation.T for a, b in pairwise(poses)]).as_rotvec()
        unit = self._unit
        plausible.check_steps(used[:, :3] * unit.translation_m, moved, "m", where, flag("delta_translation_m"))
        plausible.check_steps(used[:, 3:6] * unit.rotation_rad, turned, "rad", where, flag("delta_rotation_rad"))

    def _proprio(self, state: npt.NDArray[Any]) -> Float32Array:
        """(m, D) -> (m, 10); columns that are ours already are taken as they are."""
        if self._copied and self._state == STATE_NAMES:
            return np.asarray(state, dtype=np.float32)
        matrices = self._matrices(np.asarray(state, np.float64), self._state, self._state_rotation)
        if self._state_rotation == "6d":
            own = np.asarray(state[:, self._places(self._state, STATE_NAMES)], dtype=np.float32)
            own[:, :3] *= self._layout.position_scale
            own[:, 9] *= self._layout.width_scale
            return own
        position = state[:, self._places(self._state, POSITION)] * self._layout.position_scale
        width = state[:, self._places(self._state, ("gripper_width",))] * self._layout.width_scale
        return np.concatenate([position, matrices[:, :, 0], matrices[:, :, 1], width], axis=1).astype(np.float32)

    def _merged_deltas(self, action: Float64Array, frames: int) -> Float64Array:
        """(m - 1, 6), not clipped: translations add, rotations compose (method.md 23)."""
        steps, stride = frames - 1, self._stride
        used = action[: steps * stride, self._places(self._action, ACTION_NAMES)].reshape(steps, stride, ACTION_DIM)
        translation = used[:, :, :3].sum(axis=1) * (self._unit.translation_m / self._scale.translation_m)
        turn = Rotation.identity(steps)
        for index in range(stride):
            turn = Rotation.from_euler("xyz", used[:, index, 3:6] * self._unit.rotation_rad) * turn
        return np.concatenate([translation, turn.as_euler("xyz") / self._scale.rotation_rad], axis=1)

    def _differences(self, state: Float64Array, action: Float64Array, frames: int) -> Float64Array:
        """(m - 1, 6), not clipped. A frame's command is given after it was seen; before the first, the arm holds."""
        commands = self._poses(action, self._action, self._action_rotation)
        before = self._poses(state[:1], self._state, self._state_rotation)
        after = [commands[step * self._stride - 1] for step in range(1, frames)]
        pairs = zip([*before, *after[:-1]], after, strict=True)
        return np.array([difference(first, second, self._scale) for first, second in pairs])

    def _with_gripper(self, motion: Float64Array, action: Float64Array, frames: int) -> Float32Array:
        """(m, 7): the gripper's command at the end of each step; at the last frame no motion, gripper kept."""
        column = action[:, self._places(self._action, ("gripper",))[0]]
        at_end = column[np.arange(1, frames) * self._stride - 1]
        full = np.zeros((frames, ACTION_DIM), np.float32)
        full[:-1, :GRIPPER_INDEX] = motion
        full[:-1, GRIPPER_INDEX] = plausible.gripper_signs(
            at_end, self._layout.gripper_threshold, self._layout.gripper_inverted
        )
        full[-1, GRIPPER_INDEX] = full[-2, GRIPPER_INDEX]
        return full

    def _poses(self, values: Float64Array, names: tuple[str, ...], kind: str) -> list[Pose]:
        positions = values[:, self._places(names, POSITION)] * self._layout.position_scale
        return [Pose(*pair) for pair in zip(positions, self._matrices(values, names, kind), strict=True)]

    def _matrices(self, values: Float64Array, names: tuple[str, ...], kind: str) -> Float64Array:
        """(n, D) -> (n, 3, 3). ValueError for rotations that are none."""
        columns = values[:, self._places(names, ROTATIONS[kind])]
        if kind == "6d":
            return _from_6d(columns)
        if kind == "quaternion":
            lengths = np.linalg.norm(columns, axis=1)
            if np.abs(lengths - 1.0).max() > 0.01:
                raise ValueError(f"a quaternion of length {lengths[np.abs(lengths - 1.0).argmax()]:.3g}")
            rotation = Rotation.from_quat(columns)
        elif kind == "euler":
            rotation = Rotation.from_euler("xyz", columns, degrees=self._layout.angles == "deg")
        else:
            rotation = Rotation.from_rotvec(columns, degrees=self._layout.angles == "deg")
        return np.asarray(rotation.as_matrix(), dtype=np.float64)

    @staticmethod
    def _places(names: tuple[str, ...], wanted: tuple[str, ...]) -> list[int]:
        return [names.index(name) for name in wanted]


def _from_6d(columns: Float64Array) -> Float64Array:
    """(n, 6) -> (n, 3, 3), made orthonormal again. ValueError for columns that span no plane."""
    first, second = columns[:, :3], columns[:, 3:]
    length = np.linalg.norm(first, axis=1, keepdims=True)
    first = first / np.maximum(length, 1e-9)
    second = second - (first * second).sum(axis=1, keepdims=True) * first
    length_2 = np.linalg.norm(second, axis=1, keepdims=True)
    if min(length.min(), length_2.min()) < 0.1:
        raise ValueError("a 6D rotation whose columns span no plane")
    second = second / length_2
    return np.stack([first, second, np.cross(first, second)], axis=2)


def _delta_unit(layout: LeRobotLayout, written_with: ActionScale | None) -> ActionScale:
    given = (layout.delta_translation_m, layout.delta_rotation_rad)
    if given[0] is not None and given[1] is not None:
        return ActionScale(given[0], given[1])
    if written_with is None or given != (None, None):
        raise UserError(
            f"the data set does not say how far a delta of 1.0 moves; give {flag('delta_translation_m')} and "
            f"{flag('delta_rotation_rad')}, per frame of the data set (1.0 where deltas are metres and radians)"
        )
    return written_with


def _require(key: str, names: tuple[str, ...], wanted: tuple[str, ...], option: str) -> None:
    missing = [name for name in wanted if name not in names]
    if missing:
        raise UserError(
            f"{key} has no column {', '.join(missing)}; found: {' '.join(names)}; say which is which with {option}"
        )


def _rotation_columns(key: str, names: tuple[str, ...], option: str) -> str:
    for kind, columns in ROTATIONS.items():
        if all(column in names for column in columns):
            return kind
    known = "; ".join(" ".join(columns) for columns in ROTATIONS.values())
    raise UserError(f"{key} has no rotation; found: {' '.join(names)}; name its columns with {option}, one of: {known}")
