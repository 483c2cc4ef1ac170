"""How the ROS 2 controllers of a Franka arm are spoken to: names, types and layouts of each of the three. No ROS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diwa_conventions.actions import FloatArray, Pose
from diwa_conventions.errors import UserError, unknown
from diwa_conventions.topics import ARM_JOINTS, FINGER_JOINTS

GRIPPERS = ("franka", "gripper_command", "crisp", "none")
"""How a gripper is told: Franka's own actions, control_msgs' generic one, CRISP's adapter, not at all."""


@dataclass(frozen=True)
class Dialect:
    """Names are relative to the robot's namespace, but for those that begin with a slash."""

    name: str
    robot: str
    joint_prefix: str
    """Before ``_joint1`` and ``_finger_joint1``."""
    target_topic: str
    target_is_array: bool
    """std_msgs/Float64MultiArray (see :func:`pose_array`) instead of geometry_msgs/PoseStamped."""
    pose_topic: str
    """PoseStamped of the tool; "": only the robot's state has it."""
    joint_topic: str
    gripper: str
    """Node of the gripper."""
    state_type: str
    """Message of the robot's state, which names its mode and errors."""
    recovery: str
    """Of error recovery."""
    recovery_is_action: bool
    controller: str
    """That has to be active."""
    source: str
    """Where franka_msgs of this robot comes from."""
    state_topic: str = "franka_robot_state_broadcaster/robot_state"


FRANKA_ROS2 = Dialect(
    name="franka_ros2",
    robot="FR3 on franka_ros2 with CRISP controllers",
    joint_prefix="fr3",
    target_topic="target_pose",
    target_is_array=False,
    pose_topic="current_pose",
    joint_topic="franka/joint_states",
    gripper="franka_gripper",
    state_type="FrankaRobotState",
    recovery="action_server/error_recovery",
    recovery_is_action=True,
    controller="cartesian_impedance_controller",
    source="franka_ros2 (Humble 2.5, Jazzy 3.5)",
)

MULTIPANDA = Dialect(
    name="multipanda",
    robot="Panda on multipanda_ros2 with CRISP controllers",
    joint_prefix="panda",
    target_topic="target_pose",
    target_is_array=False,
    pose_topic="current_pose",
    joint_topic="franka/joint_states",
    gripper="panda_gripper",
    state_type="FrankaState",
    recovery="panda_error_recovery_service_server/error_recovery",
    recovery_is_action=False,
    controller="cartesian_impedance_controller",
    source="multipanda_ros2 (Humble)",
)

MULTIPANDA_CARTESIAN = Dialect(
    name="multipanda_cartesian",
    robot="Panda on multipanda_ros2 with its own Cartesian impedance controller",
    joint_prefix="panda",
    target_topic="/cartesian_impedance/pose_desired",
    target_is_array=True,
    pose_topic="",
    joint_topic="franka/joint_states",
    gripper="panda_gripper",
    state_type="FrankaState",
    recovery="panda_error_recovery_service_server/error_recovery",
    recovery_is_action=False,
    controller="cartesian_impedance_controller",
    source="multipanda_ros2 (Humble)",
)

DIALECTS = {dialect.name: dialect for dialect in (FRANKA_ROS2, MULTIPANDA, MULTIPANDA_CARTESIAN)}

BASE_FRAMES = ("base", "panda_link0", "fr3_link0")
"""Frames of a measured pose that coincide with the arm's base: ``base`` is the root of Franka's descriptions."""

MODE_OTHER, MODE_IDLE, MODE_MOVE, MODE_GUIDING, MODE_REFLEX, MODE_USER_STOPPED, MODE_RECOVERING = range(7)
MODES = {
    0: "busy with something else",
    1: "idle: no controller moves it",
    3: "being guided by hand",
    4: "stopped by a reflex",
    5: "stopped by the user stop",
    6: "recovering from an error",
}
"""``robot_mode`` of both state messages, in words; 2 is moving as told."""

OPEN_FINGER_M = 0.04
"""Position of one finger of the open hand."""

_NOT_ZERO = 1e-12


def dialect(name: str) -> Dialect:
    """The dialect of that name; UserError for another."""
    if name not in DIALECTS:
        raise unknown("dialect", name, DIALECTS)
    return DIALECTS[name]


def in_namespace(namespace: str, name: str) -> str:
    """A relative name in the robot's namespace ("" is the root), as an absolute one."""
    if name.startswith("/"):
        return name
    return "/" + "/".join(part for part in (namespace.strip("/"), name) if part)


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
