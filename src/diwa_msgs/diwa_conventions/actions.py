"""Meaning of a 7-DoF delta action: scales, rates, gripper sign, integration and differences.

An action is ``[dx, dy, dz, droll, dpitch, dyaw, gripper]``, every component in [-1, 1] (paper S.3.1).
Translations add; rotations compose as extrinsic xyz Euler angles in the base frame (method.md 18, 23).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from diwa_conventions.errors import UserError
from diwa_conventions.rates import TRAIN_RATE_HZ

FloatArray: TypeAlias = npt.NDArray[np.float64]

ACTION_DIM = 7
GRIPPER_INDEX = 6
GRIPPER_OPEN = 1.0
GRIPPER_CLOSE = -1.0


@dataclass(frozen=True)
class ActionScale:
    """What a component of 1.0 means over one 7.5 Hz step (method.md 23)."""

    translation_m: float = 0.08
    rotation_rad: float = 0.2

    def __post_init__(self) -> None:
        for name in ("translation_m", "rotation_rad"):
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and np.isfinite(value) and value > 0.0):
                raise UserError(f"ActionScale.{name} is {value!r}; expected a finite number above 0")

    @property
    def speed_m_s(self) -> float:
        return self.translation_m * TRAIN_RATE_HZ

    @property
    def speed_rad_s(self) -> float:
        return self.rotation_rad * TRAIN_RATE_HZ


@dataclass(frozen=True)
class Pose:
    """Pose in the arm's base frame, as a rule that of the tool centre point.

    A rotation matrix, not a scipy Rotation: composing those costs 0.1 ms, too much for a 120 Hz loop in Python.
    """

    position: FloatArray
    """(3,) [m]."""
    rotation: FloatArray
    """(3, 3), orthonormal: columns are the tool's axes."""

    @classmethod
    def from_quaternion(cls, position: npt.ArrayLike, quaternion_xyzw: npt.ArrayLike) -> Pose:
        """From a position (3,) [m] and a quaternion (4,), scalar last as in ROS; ValueError for a zero quaternion."""
        rotation = Rotation.from_quat(np.asarray(quaternion_xyzw, dtype=np.float64)).as_matrix()
        return cls(np.array(position, dtype=np.float64), rotation)

    def quaternion(self) -> FloatArray:
        """(4,), scalar last as in ROS."""
        return np.asarray(Rotation.from_matrix(self.rotation).as_quat(), dtype=np.float64)

    def distance_m(self, other: Pose) -> float:
        return math.dist(self.position, other.position)

    def angle_rad(self, other: Pose) -> float:
        """Angle of the rotation between the two, in [0, pi]."""
        # From the chord between the matrices: exact for small angles, where arccos of the trace is not.
        chord = math.dist(self.rotation.ravel(), other.rotation.ravel()) / math.sqrt(8.0)
        return 2.0 * math.asin(min(1.0, chord))


def euler_to_matrix(angles: FloatArray) -> FloatArray:
    """Extrinsic xyz Euler angles (3,) [rad] as a rotation matrix (3, 3). (scipy needs ten times as long for one.)"""
    (sr, sp, sy), (cr, cp, cy) = np.sin(angles), np.cos(angles)
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


def matrix_to_euler(rotation: FloatArray) -> FloatArray:
    """Extrinsic xyz Euler angles (3,) [rad] of a rotation matrix (3, 3); at gimbal lock one of the many answers."""
    pitch = np.arctan2(-rotation[2, 0], np.hypot(rotation[0, 0], rotation[1, 0]))
    if np.hypot(rotation[0, 0], rotation[1, 0]) < 1e-9:
        return np.array([np.arctan2(-rotation[1, 2], rotation[1, 1]), pitch, 0.0])
    roll = np.arctan2(rotation[2, 1], rotation[2, 2])
    yaw = np.arctan2(rotation[1, 0], rotation[0, 0])
    return np.array([roll, pitch, yaw])


def gripper_opens(value: float) -> bool:
    """``value >= 0`` opens (method.md 4)."""
    return value >= 0.0


def quantise_gripper(value: float) -> float:
    """The gripper component that environment and world model both see: +1 or -1 (method.md 5)."""
    return GRIPPER_OPEN if gripper_opens(value) else GRIPPER_CLOSE


def checked_action(action: npt.ArrayLike) -> FloatArray:
    """A copy of the action (7,) as float64.

    UserError, with the index, if it is misshapen, not finite or outside [-1, 1].
    """
    array = np.array(action, dtype=np.float64)
    if array.shape != (ACTION_DIM,):
        raise UserError(f"action has shape {array.shape}; expected ({ACTION_DIM},)")
    for index, value in enumerate(array):
        if not np.isfinite(value):
            raise UserError(f"action[{index}] is {value}; expected a finite number in [-1, 1]")
        if abs(value) > 1.0 + 1e-6:
            raise UserError(f"action[{index}] is {value:g}; expected a number in [-1, 1]")
    return array


def integrate(pose: Pose, action: FloatArray, scale: ActionScale, fraction: float = 1.0) -> Pose:
    """The commanded pose after ``fraction`` of a 7.5 Hz action (7,) was executed from ``pose``.

    The turn is spread about its one axis, so that fractions add up to exactly the whole.
    """
    translation = fraction * scale.translation_m * action[:3]
    angles = scale.rotation_rad * action[3:6]
    if fraction == 1.0:
        turn = euler_to_matrix(angles)
    else:
        turn = (Rotation.from_euler("xyz", angles) ** fraction).as_matrix()
    return Pose(pose.position + translation, turn @ pose.rotation)


def difference(before: Pose, after: Pose, scale: ActionScale) -> FloatArray:
    """The delta components (6,) that lead from ``before`` to ``after`` in one 7.5 Hz step, **not** clipped.

    Inverse of :func:`integrate`; callers clip to [-1, 1] and count what saturates.
    """
    translation = (after.position - before.position) / scale.translation_m
    turn = matrix_to_euler(after.rotation @ before.rotation.T)
    return np.concatenate([translation, turn / scale.rotation_rad])


def rotation_6d(rotation: FloatArray) -> FloatArray:
    """First two columns of a rotation matrix (3, 3), as (6,) (Zhou et al. 2019; method.md 18)."""
    return np.concatenate([rotation[:, 0], rotation[:, 1]])
