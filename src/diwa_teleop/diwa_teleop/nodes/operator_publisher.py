"""Publishes an operator's hand and joystick; what the nodes of all operators have in common."""

from __future__ import annotations

from geometry_msgs.msg import PoseStamped
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import Joy

from diwa_conventions import topics
from diwa_conventions.messages import pose_to_message
from diwa_conventions.qos import profile
from diwa_conventions.rates import RECORD_RATE_HZ
from diwa_teleop.operators.operator import Operator, OperatorSample


class OperatorPublisher:
    """Reads the operator at 30 Hz and publishes ``operator/pose`` and ``operator/joy``; silent while it is."""

    def __init__(self, node: Node, operator: Operator) -> None:
        self._node = node
        self._operator = operator
        self._pose_out = node.create_publisher(PoseStamped, topics.OPERATOR_POSE.name, profile(topics.OPERATOR_POSE))
        self._joy_out = node.create_publisher(Joy, topics.OPERATOR_JOY.name, profile(topics.OPERATOR_JOY))
        node.create_timer(1.0 / RECORD_RATE_HZ, self._publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _publish(self) -> None:
        sample = self._operator.read(1.0 / RECORD_RATE_HZ)
        if sample is None:
            return
        pose, joy = messages_of(sample)
        stamp = self._node.get_clock().now().to_msg()
        pose.header.stamp = joy.header.stamp = stamp
        self._pose_out.publish(pose)
        self._joy_out.publish(joy)


def messages_of(sample: OperatorSample) -> tuple[PoseStamped, Joy]:
    """Both messages, without stamps."""
    pose = PoseStamped(pose=pose_to_message(sample.pose))
    pose.header.frame_id = topics.BASE_FRAME
    joy = Joy(axes=[0.0] * (topics.JOY_TRIGGER_AXIS + 1), buttons=[0] * topics.JOY_BUTTONS)
    joy.axes[topics.JOY_TRIGGER_AXIS] = float(sample.trigger)
    for button, pressed in (
        (topics.JOY_CLUTCH_BUTTON, sample.clutch),
        (topics.JOY_ARM_BUTTON, sample.arm),
        (topics.JOY_DISARM_BUTTON, sample.disarm),
        (topics.JOY_SUCCESS_BUTTON, sample.success),
        (topics.JOY_FAILURE_BUTTON, sample.failure),
    ):
        joy.buttons[button] = int(pressed)
    return pose, joy
