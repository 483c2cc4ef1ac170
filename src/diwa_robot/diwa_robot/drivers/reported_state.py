"""What the messages of a robot's controllers say: poses, joints, fingers, flags. UserError for what cannot be right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diwa_conventions.actions import FloatArray, Pose
from diwa_conventions.errors import UserError
from diwa_conventions.topics import ARM_JOINTS, FINGER_JOINTS

_NOT_ZERO = 1e-12


def pose_array(pose: Pose) -> list[float]:
    """Twelve numbers: position, then the rotation matrix row by row.

    The controller that reads them takes x = 0 for "no position" and a last entry of 0 for "no rotation", and would keep
    the ones before without a word: they are sent as 1e-12.
    """
    values = [float(value) for value in (*pose.position, *pose.rotation.ravel())]
    for index in (0, 11):
        values[index] = values[index] or _NOT_ZERO
    return values


def pose_from_column_major(matrix: Sequence[float]) -> Pose:
    """The pose of libfranka's 16 numbers, column by column; UserError if they hold none."""
    transform = np.asarray(matrix, dtype=np.float64)
    if transform.shape != (16,) or not np.isfinite(transform).all():
        raise UserError("o_t_ee holds no finite 4 x 4 matrix")
    transform = transform.reshape(4, 4, order="F")
    rotation = transform[:3, :3]
    if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3):
        raise UserError("o_t_ee holds no rotation; is the robot's state already filled in?")
    return Pose(transform[:3, 3].copy(), rotation.copy())


def arm_joint_order(names: Sequence[str], prefix: str) -> list[int]:
    """Where the arm's joints 1 to 7 stand among a JointState's names; UserError, with the mend, if one is missing."""
    wanted = [joint.replace("panda", prefix, 1) for joint in ARM_JOINTS]
    missing = [name for name in wanted if name not in names]
    if missing:
        other = next((name.removesuffix("_joint1") for name in names if name.endswith("_joint1")), "")
        mend = f"; set joint_prefix:={other}" if other and "finger" not in other and other != prefix else ""
        raise UserError(f"has no {missing[0]}; its joints: {', '.join(names[:8]) or 'none'}{mend}")
    return [list(names).index(name) for name in wanted]


def finger_positions(names: Sequence[str], positions: Sequence[float], prefix: str) -> tuple[float, float]:
    """Positions [m] of the two fingers in a JointState; UserError if they are not there or not finite."""
    values = dict(zip(names, positions, strict=False))
    found = [values.get(joint.replace("panda", prefix, 1)) for joint in FINGER_JOINTS]
    if None in found:
        raise UserError(f"has no {prefix}_finger_joint1 and 2; its joints: {', '.join(names[:8]) or 'none'}")
    first, second = (float(value) for value in found if value is not None)
    if not np.isfinite([first, second]).all():
        raise UserError("holds a finger position that is not finite")
    return first, second


def finite(values: Sequence[float], count: int) -> FloatArray:
    """``count`` numbers of a JointState's field, zeros where it is empty; UserError if one is not finite."""
    array = np.asarray(values, dtype=np.float64) if len(values) else np.zeros(count)
    if array.shape != (count,) or not np.isfinite(array).all():
        raise UserError(f"holds {len(values)} values for {count} joints, or one that is not finite")
    return array


def true_fields(message: object) -> list[str]:
    """Names of the fields that are true in a message of flags, such as franka_msgs/Errors."""
    names: dict[str, str] = getattr(message, "get_fields_and_field_types", dict)()
    return [name for name in names if getattr(message, name) is True]
