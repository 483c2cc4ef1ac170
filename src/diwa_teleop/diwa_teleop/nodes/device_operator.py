"""What the nodes of operators with a device of their own have in common: life cycle, 30 Hz, diagnostics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from geometry_msgs.msg import PoseStamped
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.timer import Timer
from sensor_msgs.msg import Joy

from diwa_conventions import topics
from diwa_conventions.errors import UserError
from diwa_conventions.health import Health
from diwa_conventions.parameters import declare
from diwa_conventions.qos import profile
from diwa_conventions.rates import RECORD_RATE_HZ
from diwa_teleop.nodes.operator_publisher import messages_of
from diwa_teleop.operators.operator import OperatorSample
from diwa_teleop.operators.vive import HandSample


class DeviceOperator(Protocol):
    """An operator that finds its device, and comes back to it, by itself."""

    situation: str
    """In words; said once whenever it changes."""

    def start(self) -> None:
        """Look for the device; UserError where it cannot work on this machine."""

    def read(self, dt_s: float) -> OperatorSample | None:
        """The controls now; None while the device is silent or gone."""

    def close(self) -> None:
        """Let go of the device."""

    def report(self) -> tuple[bool, str, Mapping[str, object]]:
        """For diagnostics: whether all is well, what is to be said, counts."""


class DeviceOperatorNode(LifecycleNode):
    """Publishes ``operator/pose`` and ``operator/joy`` while it is active. Subclasses set ``operator`` and declare."""

    operator: DeviceOperator

    def __init__(self, name: str, hardware: str) -> None:
        super().__init__(name)
        declare(self, "autostart", True, "configure and activate without a lifecycle manager")
        self._health = Health(self, hardware)
        self._rhythm: list[Timer] = []
        self._said = self._warned = ""
        self._latest: OperatorSample | None = None

    # Life cycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._pose_out = self.create_publisher(PoseStamped, topics.OPERATOR_POSE.name, profile(topics.OPERATOR_POSE))
        self._joy_out = self.create_publisher(Joy, topics.OPERATOR_JOY.name, profile(topics.OPERATOR_JOY))
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self.operator.start()
        except UserError as error:
            self.get_logger().error(str(error))
            return TransitionCallbackReturn.FAILURE
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        for rate_hz, callback in ((RECORD_RATE_HZ, self._publish), (topics.DIAGNOSTICS.rate_hz, self._report)):
            self._rhythm.append(self.create_timer(1.0 / rate_hz, callback, clock=steady))
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.close()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.destroy_publisher(self._pose_out)
        self.destroy_publisher(self._joy_out)
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> int:
        """Release the clutch, say so, let go of the device. The exit code."""
        for timer in self._rhythm:
            self.destroy_timer(timer)
        self._rhythm.clear()
        if self._latest is not None:
            self._send_controls(replace(self._latest, clutch=False))
            self._latest = None
        self.operator.close()
        return 0

    # What goes out

    def _publish(self) -> None:
        self._latest = self.operator.read(1.0 / RECORD_RATE_HZ)
        self._say()
        if self._latest is not None:
            self._send_controls(self._latest)

    def _send_controls(self, sample: OperatorSample) -> None:
        """The joystick first, so that a clutch that was released is known before the pose that comes with it."""
        pose, joy = messages_of(sample)
        joy.header.stamp = pose.header.stamp = self.get_clock().now().to_msg()
        self._joy_out.publish(joy)
        if not isinstance(sample, HandSample) or sample.tracked:
            self._pose_out.publish(pose)

    def _say(self) -> None:
        """What has changed."""
        if self.operator.situation == self._said:
            return
        self._said = self.operator.situation
        if self.operator.report()[0]:
            self.get_logger().info(self._said)
        else:  # a line of its own: rclpy holds one line to one severity
            self.get_logger().warning(self._said)

    def _report(self) -> None:
        well, text, values = self.operator.report()
        self._health.report(well, text, values)
        if not well and text not in (self._warned, self._said):
            self.get_logger().warning(text)
        self._warned = "" if well else text
