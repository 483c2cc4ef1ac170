"""Teleoperation on ROS 2: the operator's hand and joystick in, actions for the command guard out."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np
from diwa_msgs.msg import Annotation, DeltaAction, GuardState
from diwa_msgs.srv import Annotate, Arm, Disarm
from geometry_msgs.msg import PoseStamped
from rclpy.client import Client
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.task import Future
from sensor_msgs.msg import Joy

from diwa_conventions import topics
from diwa_conventions.actions import GRIPPER_INDEX, Pose
from diwa_conventions.errors import UserError
from diwa_conventions.health import Health
from diwa_conventions.messages import pose_from_message
from diwa_conventions.node_main import run_node
from diwa_conventions.parameters import declare
from diwa_conventions.qos import profile
from diwa_teleop.presses import Presses
from diwa_teleop.teleoperation import (
    ACTION_S,
    RANGES,
    GuardMode,
    GuardReport,
    SequencedAction,
    Teleoperation,
    TeleoperationConfig,
)

_ABOUT = {
    "scale": "arm metres per metre of the hand",
    "rotation_scale": "arm radians per radian of the hand; 0 keeps the orientation",
    "axes": "the operator's axes that become x, y, z of panda_link0, for example -y,x,z",
    "frame_rpy_rad": "turn of the operator's frame after axes: roll, pitch, yaw [rad]",
    "enabled": "whether the arm moves along x, y, z and turns about x, y, z",
    "gripper_close_above": "position of the trigger, 0 to 1, above which the gripper closes",
    "gripper_open_below": "position of the trigger below which it opens",
    "max_speed_m_s": "speed of the arm that is never exceeded [m/s]",
    "max_speed_rad_s": "the same for turning [rad/s]",
    "dead_band_m": "motions of the hand as small as this are tremor [m]",
    "dead_band_rad": "turns of the hand as small as this are tremor [rad]",
    "lead_m": "how far the hand may be ahead of the arm before the grip slips [m]",
    "lead_rad": "the same for turning [rad]",
    "jump_m": "farther between two poses of the hand: tracking was lost [m]",
    "jump_rad": "the same for turning [rad]",
    "stale_s": "an operator older than this moves nothing [s]",
    "regrip_s": "after a longer absence of the operator the clutch has to be pressed again [s]",
    "guard_stale_s": "a guard silent for longer stops the motion [s]",
}


class TeleopNode(Node):
    """Thin shell of :class:`Teleoperation`. Topics, services and parameters: README of diwa_teleop."""

    def __init__(self) -> None:
        super().__init__("teleop")
        self._teleop = Teleoperation(TeleoperationConfig(**self._settings()))
        about = "frame_id that the operator's poses must have"
        self._operator_frame = declare(self, "operator_frame", topics.BASE_FRAME, about)
        declare(self, "skill", "", "skill that the success and failure buttons mark; may be changed while it runs")
        self._presses = Presses()
        self._joy_s = time.monotonic()
        self._refused = 0
        self._sent = 0
        self._open_topics()

    def _settings(self) -> dict[str, Any]:
        """One parameter for every setting of :class:`TeleoperationConfig`."""
        settings = {}
        for name, about in _ABOUT.items():
            default = getattr(TeleoperationConfig(), name)
            listed = list(default) if isinstance(default, tuple) else default
            value = declare(self, name, listed, about, RANGES.get(name))
            settings[name] = tuple(value) if isinstance(default, tuple) else value
        return settings

    def _open_topics(self) -> None:
        # A press of a button must not get lost where this node was held up for a moment.
        joy = replace(topics.OPERATOR_JOY, depth=30)
        for topic, kind, callback in (
            (topics.OPERATOR_POSE, PoseStamped, self._on_hand),
            (joy, Joy, self._on_joy),
            (topics.GUARD_STATE, GuardState, self._on_guard),
        ):
            self.create_subscription(kind, topic.name, callback, profile(topic))
        self._out = self.create_publisher(DeltaAction, topics.ACTION.name, profile(topics.ACTION))
        self._arm = self.create_client(Arm, topics.ARM_SERVICE)
        self._disarm = self.create_client(Disarm, topics.DISARM_SERVICE)
        self._annotate = self.create_client(Annotate, topics.ANNOTATE_SERVICE)
        self._health = Health(self, "operator")
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(ACTION_S, self._act, clock=steady)
        self.create_timer(1.0 / topics.DIAGNOSTICS.rate_hz, self._report, clock=steady)

    # What comes in

    def _on_hand(self, message: PoseStamped) -> None:
        try:
            pose = hand_of(message, self._operator_frame)
        except UserError as error:
            self._refuse(str(error))
            self._teleop.on_bad_hand()
            return
        self._teleop.on_hand(pose, time.monotonic())

    def _on_joy(self, message: Joy) -> None:
        try:
            trigger, buttons = controls_of(message)
        except UserError as error:
            self._refuse(str(error))
            return
        now_s = time.monotonic()
        self._teleop.on_controls(trigger, buttons[topics.JOY_CLUTCH_BUTTON], now_s)
        if now_s - self._joy_s > self._teleop.config.regrip_s:
            self._presses.forget()
        self._joy_s = now_s
        for button in self._presses.new(buttons):
            self._on_press(button, message)

    def _on_guard(self, message: GuardState) -> None:
        self._teleop.on_guard(guard_report(message), time.monotonic())

    def _refuse(self, why: str) -> None:
        self._refused += 1
        self.get_logger().warning(f"operator refused: {why}", throttle_duration_sec=2.0)

    # What goes out

    def _act(self) -> None:
        sent = self._teleop.act(time.monotonic())
        if sent is None:
            return
        self._sent += 1
        message = action_message(sent)
        message.header.stamp = self.get_clock().now().to_msg()
        self._out.publish(message)

    def _on_press(self, button: int, joy: Joy) -> None:
        if button == topics.JOY_ARM_BUTTON:
            self._ask(self._arm, Arm.Request(source=topics.TELEOP_SOURCE), "arm")
        elif button == topics.JOY_DISARM_BUTTON:
            self._ask(self._disarm, Disarm.Request(reason="the operator's button"), "disarm")
        elif button in (topics.JOY_SUCCESS_BUTTON, topics.JOY_FAILURE_BUTTON):
            self._mark(button == topics.JOY_SUCCESS_BUTTON, joy)

    def _mark(self, success: bool, joy: Joy) -> None:
        """Have the recorder mark the moment of the press."""
        what = f"mark {'success' if success else 'failure'}"
        skill = self.get_parameter("skill").value
        if not skill:
            self.get_logger().warning(
                f"cannot {what}: no skill is set; ros2 param set {self.get_fully_qualified_name()} skill open-drawer"
            )
            return
        annotation = Annotation(skill=skill, success=success)
        annotation.header.stamp = joy.header.stamp
        self._ask(self._annotate, Annotate.Request(annotation=annotation), f"{what} of {skill}")

    def _ask(self, client: Client, request: Any, what: str) -> None:
        if not client.service_is_ready():
            name = self.resolve_service_name(client.srv_name)
            self.get_logger().warning(f"cannot {what}: nobody serves {name}; start the node that does")
            return

        def on_answer(future: Future) -> None:
            answer = future.result()
            if answer.success:
                self.get_logger().info(f"{what}: {answer.message or 'done'}")
            else:
                self.get_logger().warning(f"{what} was refused: {answer.message}")

        client.call_async(request).add_done_callback(on_answer)

    def _report(self) -> None:
        situation = self._teleop.situation(time.monotonic())
        values = {
            "engaged": self._teleop.engaged,
            "actions": self._sent,
            "refused_operator_messages": self._refused,
            "tracking_jumps": self._teleop.jumps,
        }
        self._health.report(situation not in ("no operator", "no command guard"), situation, values)


def hand_of(message: PoseStamped, frame: str) -> Pose:
    """The hand's pose. UserError for another frame, a value that is not finite or a non-unit quaternion."""
    if message.header.frame_id != frame:
        raise UserError(
            f"{topics.OPERATOR_POSE.name} is in frame {message.header.frame_id!r}; expected {frame!r} "
            "(parameter operator_frame)"
        )
    try:
        return pose_from_message(message.pose)
    except UserError as error:
        raise UserError(f"{topics.OPERATOR_POSE.name} {error}") from error


def controls_of(message: Joy) -> tuple[float, list[bool]]:
    """Trigger and the buttons of the joystick; missing buttons count as released. UserError if there is no clutch."""
    axes, buttons = len(message.axes), len(message.buttons)
    if axes <= topics.JOY_TRIGGER_AXIS or buttons <= topics.JOY_CLUTCH_BUTTON:
        raise UserError(
            f"{topics.OPERATOR_JOY.name} has {axes} axes and {buttons} buttons; expected trigger and clutch at least"
        )
    pressed = [bool(button) for button in message.buttons[: topics.JOY_BUTTONS]]
    pressed += [False] * (topics.JOY_BUTTONS - len(pressed))
    return float(message.axes[topics.JOY_TRIGGER_AXIS]), pressed


def guard_report(message: GuardState) -> GuardReport:
    """The guard's state as teleoperation sees it; one without a valid goal counts as disarmed."""
    try:
        goal = pose_from_message(message.goal)
    except UserError:
        return GuardReport(GuardMode.OFF, Pose(np.zeros(3), np.eye(3)), message.accepted_sequence)
    mode = GuardMode.OFF
    if message.state in (GuardState.ARMED, GuardState.HOLDING):
        mode = GuardMode.ARMED if message.state == GuardState.ARMED else GuardMode.HOLDING
        mode = mode if message.armed_source == topics.TELEOP_SOURCE else GuardMode.OTHER
    return GuardReport(mode, goal, message.accepted_sequence)


def action_message(sent: SequencedAction) -> DeltaAction:
    """The message, without a stamp."""
    message = DeltaAction(source=topics.TELEOP_SOURCE, sequence=sent.sequence, duration_s=ACTION_S)
    message.header.frame_id = topics.BASE_FRAME
    message.translation, message.rotation = sent.action[:3], sent.action[3:GRIPPER_INDEX]
    message.gripper = float(sent.action[GRIPPER_INDEX])
    return message


def main() -> int:
    return run_node(TeleopNode)


if __name__ == "__main__":
    sys.exit(main())
