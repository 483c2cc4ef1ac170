"""The parameters of the crisp driver, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rclpy.node import Node

from diwa_conventions import topics
from diwa_conventions.errors import UserError
from diwa_conventions.parameters import declare
from diwa_robot.drivers.crisp import CrispLimits, Input
from diwa_robot.drivers.dialects import BASE_FRAMES, DIALECTS, FRANKA_ROS2, GRIPPERS, Dialect, dialect, in_namespace
from diwa_robot.nodes.crisp_grippers import gripper_types
from diwa_robot.nodes.crisp_robot import interface, manager_types, recovery_type


@dataclass(frozen=True)
class CrispSettings:
    """Names are absolute, as ROS resolves them."""

    dialect: Dialect
    namespace: str
    joint_prefix: str
    controller: str
    controller_manager: str
    target_topic: str
    pose_topic: str
    """"": the pose in the robot's state."""
    joint_topic: str
    state_topic: str
    state_kind: Any
    """Message of the robot's state; None: it is not read."""
    recovery: str
    """Name of the action or service."""
    recovery_kind: Any
    """Its type; None: recovery is somebody else's."""
    base_frames: tuple[str, ...]
    gripper: str
    gripper_types: tuple[Any, ...]
    gripper_node: str
    gripper_speed_m_s: float
    gripper_force_n: float
    gripper_timeout_s: float
    state_timeout_s: float
    limits: CrispLimits

    def inputs(self) -> list[Input]:
        """What has to come in, in the order in which a person would look for it."""
        inside = f" in {self.namespace}" if self.namespace else ""
        running = f"is the robot's ros2_control running{inside}, on this ROS_DOMAIN_ID?"
        inputs = []
        if self.pose_topic:
            hint = f"{running} is pose_broadcaster active? ros2 control list_controllers"
            inputs.append(Input(self.pose_topic, self.state_timeout_s, hint))
        if self.state_kind is not None:
            hint = f"{running} is franka_robot_state_broadcaster active? or robot_state:=false"
            inputs.append(Input(self.state_topic, max(0.5, self.state_timeout_s), hint))
        inputs.append(Input(self.joint_topic, self.state_timeout_s, running))
        if self.gripper != "none":
            hint = "is the gripper's node running? or gripper:=none"
            inputs.append(Input(f"{self.gripper_node}/joint_states", self.gripper_timeout_s, hint))
        return inputs


class _Declared:
    """Declares parameters that may be empty, for the dialect's."""

    def __init__(self, node: Node, spoken: Dialect, namespace: str) -> None:
        self.node, self.spoken, self.namespace = node, spoken, namespace

    def given(self, name: str, default: str, about: str) -> str:
        return declare(self.node, name, "", f"{about}; '' is the dialect's") or default

    def named(self, name: str, default: str, about: str) -> str:
        """The name of something of the robot, with the node's remappings; "" if the dialect has none."""
        given = self.given(name, default, about)
        return self.node.resolve_topic_name(in_namespace(self.namespace, given)) if given else ""


def declare_settings(node: Node) -> CrispSettings:
    """Declare and check all parameters.

    UserError for names that make no sense and for an interface package that is missing: before anything runs.
    """
    spoken = dialect(declare(node, "dialect", FRANKA_ROS2.name, f"whose controllers: {', '.join(DIALECTS)}"))
    namespace = declare(node, "robot_namespace", "", "namespace of the robot's nodes; '' is the root")
    of = _Declared(node, spoken, namespace)
    target_timeout_s = declare(node, "target_timeout_s", 0.15, "silence of target_pose; then it holds [s]", (0.05, 1.0))
    state_timeout_s = declare(node, "state_timeout_s", 0.2, "silence of measured pose or joints [s]", (0.02, 2.0))
    follow_s = declare(node, "follow_s", 1.0, "how long the arm may not follow a new stream [s]", (0.2, 10.0))
    kind = declare(node, "gripper", "franka", f"how the gripper is told: {', '.join(GRIPPERS)}")
    hand = "gripper" if kind == "crisp" else spoken.gripper
    recovers = declare(
        node,
        "recovery",
        True,
        "recover_arm recovers the robot and its controllers (franka_msgs, controller_manager_msgs)",
    )
    settings = CrispSettings(
        dialect=spoken,
        namespace=namespace,
        joint_prefix=of.given("joint_prefix", spoken.joint_prefix, "of the robot's joint names"),
        controller=of.given("controller", spoken.controller, "that has to be active"),
        controller_manager=of.named("controller_manager", "controller_manager", "node of ros2_control"),
        target_topic=of.named("target_topic", spoken.target_topic, "that the controller listens on"),
        pose_topic=of.named("pose_topic", spoken.pose_topic, "measured pose of the tool (PoseStamped)"),
        joint_topic=of.named("joint_topic", spoken.joint_topic, "the arm's JointState"),
        state_topic=of.named("state_topic", spoken.state_topic, "mode and errors of the robot (franka_msgs)"),
        state_kind=_state_kind(node, spoken),
        recovery=node.resolve_service_name(in_namespace(namespace, spoken.recovery)),
        recovery_kind=_recovery_kind(spoken) if recovers else None,
        base_frames=tuple(declare(node, "base_frames", list(BASE_FRAMES), "frames that are the arm's base")),
        gripper=kind,
        gripper_types=gripper_types(kind, spoken),
        gripper_node=of.named("gripper_node", hand, "node of the gripper"),
        gripper_speed_m_s=declare(node, "gripper_speed_m_s", 0.1, "speed of the fingers [m/s]", (0.01, 0.2)),
        gripper_force_n=declare(node, "gripper_force_n", 30.0, "force of a grasp [N]", (1.0, 70.0)),
        gripper_timeout_s=declare(node, "gripper_timeout_s", 2.0, "silence of the gripper's state [s]", (0.1, 10.0)),
        state_timeout_s=state_timeout_s,
        limits=CrispLimits(target_timeout_s=target_timeout_s, follow_s=follow_s, pose_timeout_s=state_timeout_s),
    )
    declare(node, "autostart", True, "configure and activate without a lifecycle manager")
    _check(node, settings)
    return settings


def _state_kind(node: Node, spoken: Dialect) -> Any:
    if not declare(node, "robot_state", True, "read mode and errors of the robot (franka_msgs)"):
        return None
    path = f"franka_msgs/msg/{spoken.state_type}"
    return interface(path, "robot_state:=true", spoken.source, "say robot_state:=false")


def _recovery_kind(spoken: Dialect) -> Any:
    kind = recovery_type(spoken)
    manager_types(spoken)
    return kind


def _check(node: Node, settings: CrispSettings) -> None:
    if not settings.pose_topic and settings.state_kind is None:
        raise UserError(
            f"dialect:={settings.dialect.name} takes the measured pose from robot_state, which robot_state:=false "
            "switches off; name a topic with PoseStamped: pose_topic:=current_pose (of CRISP's pose_broadcaster)"
        )
    pairs = (
        ("target_topic", settings.target_topic, topics.TARGET_POSE),
        ("pose_topic", settings.pose_topic, topics.CURRENT_POSE),
        ("joint_topic", settings.joint_topic, topics.JOINT_STATES),
        ("gripper_node", f"{settings.gripper_node}/joint_states", topics.JOINT_STATES),
    )
    for parameter, theirs, ours in pairs:
        # It would be heard, or obeyed, in a circle.
        if theirs == node.resolve_topic_name(ours.name):
            raise UserError(
                f"{parameter} leads to {theirs}, which is this driver's own topic; run the robot's controllers in "
                f"another namespace (robot_namespace:=...), or remap theirs and set {parameter}"
            )
