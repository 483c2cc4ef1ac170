"""The command guard on ROS 2: the only publisher of ``target_pose`` and ``gripper_command``."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import Field, fields
from functools import partial
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from diwa_msgs.msg import ArmState, DeltaAction, GripperCommand, GuardState
from diwa_msgs.srv import Arm, Disarm, Recover
from geometry_msgs.msg import PoseStamped
from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher, LifecycleState, TransitionCallbackReturn
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo

from diwa_conventions import topics
from diwa_conventions.actions import GRIPPER_INDEX, Pose
from diwa_conventions.messages import pose_to_message
from diwa_conventions.node_main import run_node, start_lifecycle
from diwa_conventions.qos import message_type, profile
from diwa_robot.command_guard import Action, Answer, CommandGuard, Executed, Output, State
from diwa_robot.limits import GuardConfig

_HEARTBEATS = {"static": topics.STATIC_INFO, "gripper": topics.GRIPPER_INFO}
"""Camera -> the topic that shows that it delivers: published by the same call as the image, and a thousandth of it."""

_LEVELS = {
    State.DISARMED: DiagnosticStatus.OK,
    State.ARMED: DiagnosticStatus.OK,
    State.HOLDING: DiagnosticStatus.WARN,
    State.FAULT: DiagnosticStatus.ERROR,
}


class CommandGuardNode(LifecycleNode):
    """Feeds the guard, says what it decides. Topics, services and parameters: README of diwa_robot."""

    def __init__(self) -> None:
        super().__init__("command_guard")
        for setting in fields(GuardConfig):
            self._declare(setting)
        self.declare_parameter(
            "autostart", True, ParameterDescriptor(description="configure and activate without a lifecycle manager")
        )
        self._guard = CommandGuard(self._config())
        self._active = False
        self._resources = ExitStack()
        self._said: tuple[object, ...] = ()
        self._gripper: float | None = None
        self._executed_count = 0
        self._unsaid_ticks = 0
        self._ticked_s = 0.0
        self._largest_gap_s = 0.0

    def _declare(self, setting: Field[Any]) -> None:
        """A field of the guard's settings as a parameter."""
        unit, allowed = setting.metadata["unit"], setting.metadata["range"]
        about = setting.metadata["about"] + (f" [{unit}]" if unit else "")
        descriptor = ParameterDescriptor(description=about, read_only=True)
        default = setting.default
        if isinstance(default, tuple):
            default = list(default)
        elif allowed is not None:
            low, high = allowed
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high, step=0.0)]
        self.declare_parameter(setting.name, default, descriptor)

    def _config(self) -> GuardConfig:
        values = {setting.name: self.get_parameter(setting.name).value for setting in fields(GuardConfig)}
        for name, value in values.items():
            if isinstance(value, (list, tuple)) or hasattr(value, "typecode"):
                values[name] = tuple(value)
        values["required_cameras"] = tuple(name for name in values["required_cameras"] if name)
        return GuardConfig(**values)

    # Life cycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._open_topics()
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._guard = CommandGuard(self._config())
        self._active, self._ticked_s = True, time.monotonic()
        self.get_logger().info("guarding; nobody is armed")
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop("the guard was deactivated")
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> int:
        """Disarm, say so, give back topics, services and timers. The exit code."""
        self._stop("the guard was ended")
        self._resources.close()
        return 0

    def _stop(self, reason: str) -> None:
        if self._active:
            self._guard.disarm(reason, time.monotonic())
            self._say_state()
            self._active = False

    def _open_topics(self) -> None:
        self._target_out = self._publisher(topics.TARGET_POSE)
        self._gripper_out = self._publisher(topics.GRIPPER_COMMAND)
        self._executed_out = self._publisher(topics.EXECUTED_ACTION)
        self._state_out = self._publisher(topics.GUARD_STATE)
        self._diagnostics_out = self._publisher(topics.DIAGNOSTICS)
        self._subscribe(topics.ACTION, self._on_action)
        self._subscribe(topics.CURRENT_POSE, self._on_pose)
        self._subscribe(topics.ARM_STATE, self._on_arm_state)
        for camera in self._guard.config.required_cameras:
            self._subscribe(_HEARTBEATS[camera], partial(self._on_camera, camera))
        for kind, name, answer in (
            (Arm, topics.ARM_SERVICE, self._on_arm),
            (Disarm, topics.DISARM_SERVICE, self._on_disarm),
            (Recover, topics.RECOVER_SERVICE, self._on_recover),
        ):
            self._until_cleanup(self.create_service(kind, name, self._answering(answer)), self.destroy_service)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        for rate_hz, callback in ((self._guard.config.rate_hz, self._tick), (topics.DIAGNOSTICS.rate_hz, self._report)):
            timer = self.create_timer(1.0 / rate_hz, self._safe(callback), clock=steady)
            self._until_cleanup(timer, self.destroy_timer)

    def _publisher(self, topic: topics.Topic) -> LifecyclePublisher:
        publisher = self.create_lifecycle_publisher(message_type(topic), topic.name, profile(topic))
        return self._until_cleanup(publisher, self.destroy_publisher)

    def _subscribe(self, topic: topics.Topic, callback: Callable[[Any], None]) -> None:
        subscription = self.create_subscription(message_type(topic), topic.name, self._safe(callback), profile(topic))
        self._until_cleanup(subscription, self.destroy_subscription)

    def _until_cleanup(self, made: Any, destroy: Callable[[Any], Any]) -> Any:
        self._resources.callback(destroy, made)
        return made

    def _safe(self, callback: Callable[..., None]) -> Callable[..., None]:
        """The callback while the node is active. If it fails, by a fault of ours, the guard latches and says so."""

        def call(*arguments: Any) -> None:
            if not self._active:
                return
            try:
                callback(*arguments)
            except Exception as error:
                self.get_logger().error(f"a fault of this software:\n{traceback.format_exc()}")
                self._guard.fault(f"a fault of this software: {type(error).__name__}: {error}")
            if self._news() != self._said:
                self._say_state()

        return call

    # In

    def _on_action(self, message: DeltaAction) -> None:
        action = Action(
            source=message.source,
            sequence=message.sequence,
            age_s=self._age_s(message.header.stamp),
            frame_id=message.header.frame_id,
            duration_s=message.duration_s,
            components=np.array([*message.translation, *message.rotation, message.gripper]),
        )
        refusal = self._guard.action(action, time.monotonic())
        if refusal:
            self.get_logger().warning(f"action refused: {refusal}", throttle_duration_sec=2.0)

    def _on_pose(self, message: PoseStamped) -> None:
        point, turn, stamp = message.pose.position, message.pose.orientation, message.header.stamp
        self._guard.pose(
            np.array([point.x, point.y, point.z]),
            np.array([turn.x, turn.y, turn.z, turn.w]),
            message.header.frame_id,
            _seconds(stamp),
            time.monotonic(),
            self._age_s(stamp),
        )

    def _on_arm_state(self, message: ArmState) -> None:
        self._guard.arm_state(message.state == ArmState.READY, message.reason, time.monotonic())

    def _on_camera(self, camera: str, message: CameraInfo) -> None:
        stamp = message.header.stamp
        self._guard.camera(camera, time.monotonic(), _seconds(stamp), self._age_s(stamp))

    def _age_s(self, stamp: Any) -> float:
        return float((self.get_clock().now() - Time.from_msg(stamp)).nanoseconds * 1e-9)

    def _answering(self, ask: Callable[[Any], Answer]) -> Callable[[Any, Any], Any]:
        """A service callback that fills in what the guard answers."""

        def call(request: Any, response: Any) -> Any:
            answer = Answer(False, "the guard is not active")
            if self._active:
                answer = ask(request)
                self.get_logger().info(answer.message)
                self._say_state()
            response.success, response.message = answer.success, answer.message
            return response

        return call

    def _on_arm(self, request: Arm.Request) -> Answer:
        self._look_for_other_publishers()
        return self._guard.arm(request.source, time.monotonic())

    def _on_disarm(self, request: Disarm.Request) -> Answer:
        return self._guard.disarm(request.reason, time.monotonic())

    def _on_recover(self, request: Recover.Request) -> Answer:
        self._look_for_other_publishers()
        return self._guard.recover(time.monotonic())

    def _look_for_other_publishers(self) -> None:
        """Tell the guard who else commands arm or gripper; one publisher of this node's name is this node's own."""
        others = self._others_on(topics.TARGET_POSE)
        others += [
            f"{name} (gripper_command)" for name in self._others_on(topics.GRIPPER_COMMAND) if name not in others
        ]
        self._guard.other_publishers(others, time.monotonic())

    def _others_on(self, topic: topics.Topic) -> list[str]:
        found = self.get_publishers_info_by_topic(self.resolve_topic_name(topic.name))
        names = sorted(
            f"{info.node_namespace.rstrip('/')}/{info.node_name}"
            if "UNKNOWN" not in info.node_name
            else "one not yet known by name"
            for info in found
        )
        if self.get_fully_qualified_name() in names:
            names.remove(self.get_fully_qualified_name())
        return names

    # Out

    def _tick(self) -> None:
        now_s = time.monotonic()
        self._largest_gap_s = max(self._largest_gap_s, now_s - self._ticked_s)
        self._ticked_s = now_s
        output = self._guard.tick(now_s)
        if output is not None:
            self._command(output)
        self._unsaid_ticks += 1
        if self._unsaid_ticks >= round(self._guard.config.rate_hz / topics.GUARD_STATE.rate_hz):
            self._say_state()

    def _command(self, output: Output) -> None:
        stamp = self.get_clock().now().to_msg()
        message = PoseStamped(pose=pose_to_message(output.target))
        message.header.stamp, message.header.frame_id = stamp, topics.BASE_FRAME
        self._target_out.publish(message)
        if output.gripper is not None and (output.executed or output.gripper != self._gripper):
            self._gripper = output.gripper
            gripper = GripperCommand(command=output.gripper)
            gripper.header.stamp = stamp
            self._gripper_out.publish(gripper)
        if output.executed is not None:
            self._executed_out.publish(self._executed_message(output.executed, stamp))

    def _executed_message(self, executed: Executed, stamp: Any) -> DeltaAction:
        message = DeltaAction(source=self._guard.source, duration_s=executed.duration_s)
        message.header.stamp, message.header.frame_id = stamp, topics.BASE_FRAME
        self._executed_count += 1
        message.sequence = self._executed_count
        message.translation, message.rotation = executed.components[:3], executed.components[3:6]
        message.gripper = float(executed.components[GRIPPER_INDEX])
        return message

    def _news(self) -> tuple[object, ...]:
        """What is said at once when it changes."""
        guard = self._guard
        return guard.state, guard.reason, guard.source, guard.accepted_sequence

    def _say_state(self) -> None:
        guard = self._guard
        if guard.state != (self._said[0] if self._said else None):
            self.get_logger().info(f"{guard.state.name}: {guard.reason}")
        self._said, self._unsaid_ticks = self._news(), 0
        error_m, error_rad = guard.tracking_error()
        message = GuardState(
            state=int(guard.state),
            armed_source=guard.source,
            reason=guard.reason,
            accepted_sequence=guard.accepted_sequence,
            tracking_error_m=error_m,
            tracking_error_rad=error_rad,
            refused=guard.refused,
            limited=guard.limited,
        )
        message.header.stamp, message.header.frame_id = self.get_clock().now().to_msg(), topics.BASE_FRAME
        here = guard.measured.pose or Pose(np.zeros(3), np.eye(3))
        message.target = pose_to_message(guard.target or here)
        message.goal = pose_to_message(guard.goal or here)
        self._state_out.publish(message)

    def _report(self) -> None:
        self._look_for_other_publishers()
        guard = self._guard
        error_m, error_rad = guard.tracking_error()
        values: dict[str, object] = {
            "armed_source": guard.source,
            "tracking_error_m": f"{error_m:.4f}",
            "tracking_error_rad": f"{error_rad:.4f}",
            "limited": guard.limited,
            "refused": guard.refused,
            **{f"refused: {kind}": count for kind, count in sorted(guard.refusals.items())},
            "other_publishers": ", ".join(guard.others),
            "largest_tick_gap_ms": f"{1e3 * self._largest_gap_s:.1f}",
        }
        self._largest_gap_s = 0.0
        status = DiagnosticStatus(
            level=_LEVELS[guard.state],
            name=self.get_fully_qualified_name(),
            message=f"{guard.state.name}: {guard.reason}",
            hardware_id="command_guard",
        )
        status.values = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics_out.publish(message)


def _seconds(stamp: Any) -> float:
    return float(stamp.sec + 1e-9 * stamp.nanosec)


def main() -> int:
    return run_node(CommandGuardNode, begin=start_lifecycle, close=CommandGuardNode.close, moves_arm=True)


if __name__ == "__main__":
    sys.exit(main())
