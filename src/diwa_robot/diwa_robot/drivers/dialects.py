"""How the ROS 2 controllers of a Franka arm are spoken to: names, types and layouts of each of the three. No ROS."""

from __future__ import annotations

from dataclasses import dataclass

from diwa_conventions.errors import unknown

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
