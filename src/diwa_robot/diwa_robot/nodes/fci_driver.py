"""The driver ``fci``: a Panda or FR3 through its control interface, without ros2_control."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import Field, fields
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from diwa_msgs.msg import ArmState, GripperCommand
from diwa_msgs.srv import Recover
from geometry_msgs.msg import PoseStamped
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher, LifecycleState, TransitionCallbackReturn
from rclpy.time import Time
from sensor_msgs.msg import JointState

from diwa_conventions import topics
from diwa_conventions.messages import pose_to_message
from diwa_conventions.node_main import run_node, start_lifecycle
from diwa_conventions.parameters import declare
from diwa_conventions.qos import message_type, profile
from diwa_robot.drivers.arm import Reading
from diwa_robot.drivers.arm_session import ArmSession, DriverState
from diwa_robot.drivers.fci_settings import FciSettings
from diwa_robot.drivers.franka_rs import FrankaRsArm, FrankaRsHand, library
from diwa_robot.drivers.gripper import GripperTiming
from diwa_robot.drivers.hand_session import HandSession
from diwa_robot.drivers.loop_timing import LoopTiming, Tracking
from diwa_robot.drivers.target_stream import StreamLimits, Target

LEVELS = {
    DriverState.CONNECTING: DiagnosticStatus.WARN,
    DriverState.READY: DiagnosticStatus.OK,
    DriverState.FAULT: DiagnosticStatus.ERROR,
}
PERIOD_S = 1.0 / topics.STATE_RATE_HZ
LOOK_RATE_HZ = 4.0
"""How often it looks who publishes targets; the guard looks once a second."""
STOP_S = 10.0
"""The longest that bringing the arm to rest may take."""


class FciDriverNode(LifecycleNode):
    """Arm and hand on topics. Topics, service and parameters: README of diwa_robot.

    A thread of its own asks the robot 120 times a second and publishes what it says; targets are handed on at once, by
    the callback that receives them. The library's 1 kHz loop runs beside both.
    """

    def __init__(self) -> None:
        super().__init__("fci_driver")
        values = {item.name: self._declared(item) for item in fields(FciSettings)}
        declare(self, "autostart", True, "configure and activate without a lifecycle manager")
        self._settings = FciSettings(**values)
        library()  # fails here, with a reason
        self._active = False
        self._drive_thread: threading.Thread | None = None
        self._hand: HandSession | None = None
        self._resources = ExitStack()

    def _declared(self, item: Field[Any]) -> Any:
        unit, bounds = item.metadata["unit"], item.metadata["range"]
        about = item.metadata["about"] + (f" [{unit}]" if unit else "")
        default: Any = item.default
        row = isinstance(default, tuple)
        value = declare(self, item.name, list(default) if row else default, about, None if row else bounds)
        return tuple(value) if row else value

    # Life cycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._make_session()
        self._open_topics()
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._make_session()
        self._active, self._over = True, threading.Event()
        self._drive_thread = threading.Thread(target=self._drive, args=(self._over,), name="drive", daemon=True)
        self._drive_thread.start()
        if self._settings.gripper:
            self._hand = HandSession(FrankaRsHand(self._settings), self._timing_of_hand(), self._warn_of_hand)
            self._hand.start()
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> int:
        """Bring the arm to rest, say so, give back robot, topics, service and timers. The exit code."""
        self._stop()
        self._resources.close()
        return 0

    def _stop(self) -> None:
        if not self._active:
            return
        self._over.set()
        if self._drive_thread is not None:
            self._drive_thread.join(STOP_S)
        if self._hand is not None:
            self._hand.close()
        self._say_state()
        self._active, self._hand = False, None

    def _make_session(self) -> None:
        settings = self._settings
        limits = StreamLimits(
            timeout_s=settings.target_timeout_s,
            max_lead_m=settings.max_lead_m,
            max_lead_rad=settings.max_lead_rad,
            max_age_s=settings.max_target_age_s,
        )
        self._arm = FrankaRsArm(settings, self.get_logger().warning)
        self._session = ArmSession(
            self._arm, limits, settings.release_after_s, settings.contact_timeout_s, settings.retry_s, self._changed
        )
        self._loop_timing = LoopTiming(PERIOD_S)
        self._tracking = Tracking()
        self._said_state: DriverState | None = None

    def _timing_of_hand(self) -> GripperTiming:
        return GripperTiming(open_width_m=self._settings.gripper_open_m)

    def _open_topics(self) -> None:
        self._pose_out = self._publisher(topics.CURRENT_POSE)
        self._joints_out = self._publisher(topics.JOINT_STATES)
        self._state_out = self._publisher(topics.ARM_STATE)
        self._diagnostics_out = self._publisher(topics.DIAGNOSTICS)
        self._subscribe(topics.TARGET_POSE, self._on_target)
        self._subscribe(topics.GRIPPER_COMMAND, self._on_gripper)
        service = self.create_service(Recover, topics.RECOVER_ARM_SERVICE, self._on_recover)
        self._resources.callback(self.destroy_service, service)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        for rate_hz, callback in (
            (topics.ARM_STATE.rate_hz, self._say_state),
            (LOOK_RATE_HZ, self._look_for_other_publishers),
            (topics.DIAGNOSTICS.rate_hz, self._report),
        ):
            timer = self.create_timer(1.0 / rate_hz, self._safe(callback), clock=steady)
            self._resources.callback(self.destroy_timer, timer)

    def _publisher(self, topic: topics.Topic) -> LifecyclePublisher:
        publisher = self.create_lifecycle_publisher(message_type(topic), topic.name, profile(topic))
        self._resources.callback(self.destroy_publisher, publisher)
        return publisher

    def _subscribe(self, topic: topics.Topic, callback: Callable[[Any], None]) -> None:
        subscription = self.create_subscription(message_type(topic), topic.name, self._safe(callback), profile(topic))
        self._resources.callback(self.destroy_subscription, subscription)

    def _safe(self, callback: Callable[..., None]) -> Callable[..., None]:
        """The callback while the node is active. If it fails, by a fault of ours, the arm stops and the log says so."""

        def call(*arguments: Any) -> None:
            if not self._active:
                return
            try:
                callback(*arguments)
            except Exception as error:
                self._own_fault(error)

        return call

    def _own_fault(self, error: Exception) -> None:
        self.get_logger().error(f"a fault of this software:\n{traceback.format_exc()}")
        self._session.fail(f"a fault of this software: {type(error).__name__}: {error}")

    # The robot's thread

    def _drive(self, over: threading.Event) -> None:
        """Until the end: ask the robot, publish what is new, at an even rate."""
        next_s = time.monotonic()
        while not over.is_set():
            now_s = time.monotonic()
            self._loop_timing.step(now_s)
            try:
                reading = self._session.step(now_s)
                if reading is not None:
                    self._publish(reading, now_s)
            except Exception as error:
                self._own_fault(error)
            next_s = max(next_s + PERIOD_S, time.monotonic() - PERIOD_S)  # what was missed stays missed
            over.wait(max(0.0, next_s - time.monotonic()))
        self._session.close(time.monotonic())

    def _publish(self, reading: Reading, now_s: float) -> None:
        self._loop_timing.reading(reading, now_s)
        self._tracking.add(self._session.stream, reading.pose, now_s)
        stamp = self.get_clock().now().to_msg()
        pose = PoseStamped(pose=pose_to_message(reading.pose))
        pose.header.stamp, pose.header.frame_id = stamp, topics.BASE_FRAME
        self._pose_out.publish(pose)
        joints = JointState(name=[*topics.ARM_JOINTS])
        joints.header.stamp, joints.header.frame_id = stamp, topics.BASE_FRAME
        joints.position, joints.velocity = list(reading.joints_rad), list(reading.speeds_rad_s)
        joints.effort = list(reading.torques_nm)
        width_m = self._hand.width_m if self._hand is not None else 0.0
        if width_m is not None:
            joints.name = [*topics.ARM_JOINTS, *topics.FINGER_JOINTS]
            joints.position = [*joints.position, 0.5 * width_m, 0.5 * width_m]
            joints.velocity, joints.effort = [*joints.velocity, 0.0, 0.0], [*joints.effort, 0.0, 0.0]
        self._joints_out.publish(joints)

    def _changed(self) -> None:
        """Of the session's state or reason, in the robot's thread."""
        session = self._session
        if session.state != self._said_state:
            self._said_state = session.state
            self._log_state(f"{session.state.name}: {session.reason}")
        if session.state == DriverState.FAULT and self._hand is not None:
            self._hand.forget()
        self._say_state()

    def _log_state(self, text: str) -> None:
        # A line of source each: rclpy lets none of them change its severity.
        if self._session.state == DriverState.READY:
            self.get_logger().info(text)
        elif self._session.state == DriverState.CONNECTING:
            self.get_logger().warning(text)
        else:
            self.get_logger().error(text)

    # In

    def _on_target(self, message: PoseStamped) -> None:
        point, turn, stamp = message.pose.position, message.pose.orientation, message.header.stamp
        target = Target(
            position=np.array([point.x, point.y, point.z]),
            quaternion_xyzw=np.array([turn.x, turn.y, turn.z, turn.w]),
            frame_id=message.header.frame_id,
            stamp_s=stamp.sec + 1e-9 * stamp.nanosec,
            age_s=(self.get_clock().now() - Time.from_msg(stamp)).nanoseconds * 1e-9,
        )
        refusal = self._session.target(target, time.monotonic())
        if refusal:
            self.get_logger().warning(f"target not followed: {refusal}", throttle_duration_sec=2.0)

    def _on_gripper(self, message: GripperCommand) -> None:
        if self._hand is not None and self._session.state == DriverState.READY:
            self._hand.command(message.command)

    def _on_recover(self, request: Recover.Request, response: Recover.Response) -> Recover.Response:
        response.success, response.message = False, "the driver is not active"
        if self._active:
            answer = self._session.recover()
            response.success, response.message = answer.success, answer.message
        self.get_logger().info(response.message)
        return response

    def _look_for_other_publishers(self) -> None:
        self._session.publishers(self.count_publishers(self.resolve_topic_name(topics.TARGET_POSE.name)))

    def _warn_of_hand(self, text: str) -> None:
        self.get_logger().warning(text)

    # Out

    def _say_state(self) -> None:
        session = self._session
        message = ArmState(state=int(session.state), reason=session.reason, robot=session.robot)
        message.header.stamp, message.header.frame_id = self.get_clock().now().to_msg(), topics.BASE_FRAME
        self._state_out.publish(message)

    def _report(self) -> None:
        session = self._session
        hand = self._hand.trouble if self._hand is not None else ""
        warnings = [*self._arm.warnings(), *([hand] if hand else [])]
        level = max(LEVELS[session.state], DiagnosticStatus.WARN if warnings else DiagnosticStatus.OK)
        text = "; ".join([f"{session.state.name}: {session.reason}", *warnings])
        status = DiagnosticStatus(
            level=level, name=self.get_fully_qualified_name(), message=text, hardware_id=session.robot or "no contact"
        )
        status.values = [KeyValue(key=key, value=str(value)) for key, value in self._figures().items()]
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics_out.publish(message)

    def _figures(self) -> dict[str, object]:
        session, timing, tracking = self._session, self._loop_timing.report(), self._tracking.report()
        reading = session.reading
        return {
            "robot_mode": reading.mode if reading else "",
            "loop_rate_hz": f"{timing.rate_hz:.1f}",
            "late_p99_ms": f"{timing.late_p99_ms:.1f}",
            "late_worst_ms": f"{timing.late_worst_ms:.1f}",
            "robot_time_share": f"{timing.robot_share:.4f}",
            "least_success_rate": f"{timing.success_rate:.2f}",
            "lost_commands": f"{timing.lost_commands:.0f}",
            "tracking_error_mean_m": f"{tracking[0]:.4f}",
            "tracking_error_p95_m": f"{tracking[1]:.4f}",
            "tracking_error_max_m": f"{tracking[2]:.4f}",
            "targets_followed": session.stream.accepted,
            **{f"refused: {kind}": count for kind, count in sorted(session.stream.refusals.items())},
            "gripper_requests": self._hand.requests if self._hand is not None else 0,
            "tries_to_connect": session.tries,
            "contacts": session.contacts,
            "faults": session.faults,
        }


def main() -> int:
    return run_node(FciDriverNode, begin=start_lifecycle, close=FciDriverNode.close, moves_arm=True)


if __name__ == "__main__":
    sys.exit(main())
