"""The driver between the command guard and a ROS 2 controller of a Franka arm: ``robot:=crisp``."""

from __future__ import annotations

import math
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from diwa_msgs.msg import ArmState, GripperCommand
from diwa_msgs.srv import Recover
from geometry_msgs.msg import PoseStamped
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.task import Future
from rclpy.time import Time
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from diwa_conventions import topics
from diwa_conventions.actions import Pose
from diwa_conventions.errors import UserError
from diwa_conventions.messages import pose_from_message, pose_to_message
from diwa_conventions.node_main import run_node, start_lifecycle
from diwa_conventions.qos import message_type, profile
from diwa_robot.drivers.crisp import Condition, CrispArm
from diwa_robot.drivers.gripper import GripperLogic, GripperRequest
from diwa_robot.drivers.recovery import LIMIT_S, Recovery, Step
from diwa_robot.drivers.reported_state import arm_joint_order, finite, pose_array, pose_from_column_major, true_fields
from diwa_robot.drivers.target_stream import Target
from diwa_robot.nodes.crisp_grippers import GripperSettings, gripper
from diwa_robot.nodes.crisp_parameters import declare_settings
from diwa_robot.nodes.crisp_robot import ControllerManager, ErrorRecovery, Newest, others_on

_LEVELS = {
    Condition.CONNECTING: DiagnosticStatus.WARN,
    Condition.READY: DiagnosticStatus.OK,
    Condition.FAULT: DiagnosticStatus.ERROR,
}

_GRAPH_RATE_HZ = 4.0
"""How often the driver looks who publishes and who listens; the guard looks once a second."""


class CrispDriverNode(LifecycleNode):
    """Feeds :class:`CrispArm` and obeys it. Topics, services and parameters: README of diwa_robot."""

    def __init__(self) -> None:
        super().__init__("crisp_driver")
        self._settings = declare_settings(self)
        self._active = False
        self._resources = ExitStack()
        self._waiters: list[tuple[Callable[[], bool], float, Future]] = []

    # Life cycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._make_arm()
        self._open_ours()
        self._open_robot()
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._make_arm()
        self._hand.reset()
        self._active = True
        self.get_logger().info(f"{self._settings.dialect.robot}; targets go to {self._settings.target_topic}")
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop("the driver was deactivated")
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> int:
        """Say so, give back topics, services and timers. The controller goes on holding. The exit code."""
        self._stop("the driver was ended")
        self._resources.close()
        return 0

    def _stop(self, reason: str) -> None:
        if self._active:
            self._command(self._arm.end(time.monotonic()))
            self._arm.state, self._arm.reason = Condition.CONNECTING, reason
            self._say_state()
            self._active = False
            self._look_at_waiters(math.inf)

    def _make_arm(self) -> None:
        settings = self._settings
        self._arm = CrispArm(settings.inputs(), settings.target_topic, settings.controller, settings.limits)
        self._hand = GripperLogic()
        self._recovering: Recovery | None = None
        self._fingers: tuple[float, float] | None = (0.0, 0.0) if settings.gripper == "none" else None
        self._said: tuple[object, ...] = ()
        self._said_s = -math.inf

    def _open_ours(self) -> None:
        self._pose_out = self._publisher(topics.CURRENT_POSE)
        self._joints_out = self._publisher(topics.JOINT_STATES)
        self._state_out = self._publisher(topics.ARM_STATE)
        self._diagnostics_out = self._publisher(topics.DIAGNOSTICS)
        self._subscribe(topics.TARGET_POSE, self._on_target)
        self._subscribe(topics.GRIPPER_COMMAND, self._on_gripper_command)
        # In a group of its own: while it waits for the robot, everything else goes on.
        alone = MutuallyExclusiveCallbackGroup()
        service = self.create_service(Recover, topics.RECOVER_ARM_SERVICE, self._on_recover, callback_group=alone)
        self._resources.callback(self.destroy_service, service)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        for rate_hz, callback in (
            (topics.STATE_RATE_HZ, self._tick),
            (_GRAPH_RATE_HZ, self._look_around),
            (topics.DIAGNOSTICS.rate_hz, self._report),
        ):
            timer = self.create_timer(1.0 / rate_hz, self._safe(callback), clock=steady)
            self._resources.callback(self.destroy_timer, timer)

    def _open_robot(self) -> None:
        settings = self._settings
        kind = Float64MultiArray if settings.dialect.target_is_array else PoseStamped
        self._target_out = self.create_publisher(kind, settings.target_topic, profile(topics.TARGET_POSE))
        self._resources.callback(self.destroy_publisher, self._target_out)
        self._pose_in = self._newest(PoseStamped, settings.pose_topic)
        self._joints_in = self._newest(JointState, settings.joint_topic)
        self._state_in = self._newest(settings.state_kind, settings.state_topic)
        self._gripper = gripper(
            settings.gripper,
            self,
            GripperSettings(
                settings.gripper_node,
                settings.gripper_types,
                settings.joint_prefix,
                settings.gripper_speed_m_s,
                settings.gripper_force_n,
                self._on_gripper_done,
            ),
        )
        self._resources.callback(self._gripper.close)
        self._fingers_in = self._newest(JointState, self._gripper.joint_topic)
        self._robot: ErrorRecovery | None = None
        if settings.recovery_kind is not None:
            is_action = settings.dialect.recovery_is_action
            self._robot = ErrorRecovery(self, settings.recovery_kind, settings.recovery, is_action)
            self._resources.callback(self._robot.close)
        manager = settings.controller_manager, settings.controller, settings.joint_prefix
        self._manager = ControllerManager(self, *manager)
        self._resources.callback(self._manager.close)

    def _newest(self, kind: Any, topic: str) -> Newest | None:
        """The newest message of a topic of the robot; None if there is no such topic."""
        if not topic or kind is None:
            return None
        made = Newest(self, kind, topic, time.monotonic)
        self._resources.callback(self.destroy_subscription, made.subscription)
        return made

    def _publisher(self, topic: topics.Topic) -> Any:
        publisher = self.create_lifecycle_publisher(message_type(topic), topic.name, profile(topic))
        self._resources.callback(self.destroy_publisher, publisher)
        return publisher

    def _subscribe(self, topic: topics.Topic, callback: Callable[[Any], None]) -> None:
        subscription = self.create_subscription(message_type(topic), topic.name, self._safe(callback), profile(topic))
        self._resources.callback(self.destroy_subscription, subscription)

    def _safe(self, callback: Callable[..., None]) -> Callable[..., None]:
        """The callback while the node is active. If it fails, by a fault of ours, nothing is passed on any more."""

        def call(*arguments: Any) -> None:
            if not self._active:
                return
            try:
                callback(*arguments)
            except Exception as error:
                self.get_logger().error(f"a fault of this software:\n{traceback.format_exc()}")
                self._arm.fail(f"a fault of this software: {type(error).__name__}: {error}")
            if self._news() != self._said:
                self._say_state()

        return call

    # In, from the guard

    def _on_target(self, message: PoseStamped) -> None:
        point, turn, stamp = message.pose.position, message.pose.orientation, message.header.stamp
        target = Target(
            position=np.array([point.x, point.y, point.z]),
            quaternion_xyzw=np.array([turn.x, turn.y, turn.z, turn.w]),
            frame_id=message.header.frame_id,
            stamp_s=stamp.sec + 1e-9 * stamp.nanosec,
            age_s=(self.get_clock().now() - Time.from_msg(stamp)).nanoseconds * 1e-9,
        )
        told, refusal = self._arm.target(target, time.monotonic())
        self._command(told)
        if refusal:
            self.get_logger().warning(f"target refused: {refusal}", throttle_duration_sec=2.0)

    def _on_gripper_command(self, message: GripperCommand) -> None:
        if self._arm.state is Condition.READY and not self._hand.command(message.command, time.monotonic()):
            self.get_logger().warning("gripper_command refused: not finite", throttle_duration_sec=2.0)

    async def _on_recover(self, request: Recover.Request, response: Recover.Response) -> Recover.Response:
        response.success, response.message = False, "the driver is not active"
        if self._active:
            trouble = await self._recover()
            response.success = not trouble
            response.message = trouble or f"recovered; {self._arm.state.name}: {self._arm.reason}"
            self.get_logger().info(f"recover_arm: {response.message}")
            self._say_state()
        return response

    async def _recover(self) -> str:
        """Bring the arm back under its controller and clear the driver's fault; "" or what is in the way."""
        now, settings = time.monotonic(), self._settings
        if obstacle := self._arm.obstacle(now):
            return obstacle
        asks = self._robot is not None
        recovering = Recovery(self._arm, settings.dialect, settings.recovery, asks, now)
        self._recovering = recovering
        await self._until(lambda: recovering.outcome is not None, LIMIT_S + 1.0)
        self._recovering = None
        if recovering.outcome == "":
            self._hand.reset()
            self._arm.recover(time.monotonic())
        return "the recovery was given up" if recovering.outcome is None else recovering.outcome

    def _drive_recovery(self, now: float) -> None:
        if self._recovering is not None and (step := self._recovering.tick(now)) is not None:
            self.get_logger().info(f"recovery: {step.value}")
            self.executor.create_task(self._take_step, self._recovering, step)

    async def _take_step(self, recovering: Recovery, step: Step) -> None:
        try:
            trouble = await self._carry_out(step)
        except Exception as error:  # a client that was closed, a message that the robot's version does not have
            trouble = f"{type(error).__name__}: {error}"
        recovering.answered(trouble, time.monotonic())

    async def _carry_out(self, step: Step) -> str:
        """One step of a recovery; "" or why it failed."""
        controller = [self._settings.controller]
        if step is Step.DEACTIVATE:
            return await self._manager.switch(deactivate=controller)
        if step is Step.HARDWARE:
            return await self._manager.activate_hardware()
        if step is Step.BROADCASTERS:
            return await self._manager.switch(activate=self._manager.broadcasters_down, strict=False)
        if step is Step.ACTIVATE:
            return await self._manager.switch(activate=controller)
        if self._robot is None or not self._robot.is_there():
            return f"nobody offers {self._settings.recovery}; is the robot's ros2_control running?"
        return await self._robot.recover()

    async def _until(self, condition: Callable[[], bool], limit_s: float) -> bool:
        """Wait, without keeping anybody waiting, until the condition holds; False if it does not within the limit."""
        future: Future = Future()
        self._waiters.append((condition, time.monotonic() + limit_s, future))
        return bool(await future)

    def _look_at_waiters(self, now: float) -> None:
        for waiter in list(self._waiters):
            condition, deadline_s, future = waiter
            met = condition()
            if met or now > deadline_s:
                self._waiters.remove(waiter)
                future.set_result(met)

    # In, from the robot

    def _tick(self) -> None:
        now = time.monotonic()
        self._take(self._state_in, self._use_state)
        self._take(self._pose_in, self._use_pose)
        self._take(self._fingers_in, self._use_fingers)
        self._take(self._joints_in, self._use_joints)
        self._gripper.tick(now)
        request = self._hand.next_request(now)
        if request is not None:
            self.get_logger().info(f"gripper: {request.grip.value}")
            self._gripper.send(request)
        self._command(self._arm.tick(now))
        self._drive_recovery(now)
        self._look_at_waiters(now)
        if now - self._said_s > 1.0 / topics.ARM_STATE.rate_hz:
            self._say_state()

    def _take(self, newest: Newest | None, use: Callable[[Any, float], None]) -> None:
        """Use the newest message, if there is one, and say what is wrong with it."""
        message = newest.next() if newest else None
        if newest is None or message is None:
            return
        wrong = ""
        try:
            use(message, newest.taken_s)
        except UserError as error:
            wrong = str(error)
        self._arm.seen(newest.topic, newest.taken_s, wrong)

    def _use_state(self, message: Any, taken_s: float) -> None:
        errors = true_fields(message.current_errors)
        if wrong := self._arm.robot(message.robot_mode, errors, taken_s, message.time):
            raise UserError(wrong)
        if self._pose_in is None:
            self._measured(pose_from_column_major(message.o_t_ee), message.header.stamp, taken_s)

    def _use_pose(self, message: PoseStamped, taken_s: float) -> None:
        frames = self._settings.base_frames
        if message.header.frame_id not in frames:
            raise UserError(f"is in frame {message.header.frame_id!r}; base_frames are {', '.join(frames)}")
        self._measured(pose_from_message(message.pose), message.header.stamp, taken_s)

    def _measured(self, pose: Pose, stamp: Any, taken_s: float) -> None:
        """Take the pose and pass it on, with the robot's own stamp."""
        self._arm.pose(pose, taken_s)
        message = PoseStamped(pose=pose_to_message(pose))
        message.header.stamp, message.header.frame_id = stamp, topics.BASE_FRAME
        self._pose_out.publish(message)

    def _use_fingers(self, message: JointState, taken_s: float) -> None:
        self._fingers = self._gripper.fingers(message)
        self._hand.width(sum(self._fingers), taken_s)

    def _use_joints(self, message: JointState, taken_s: float) -> None:
        order = arm_joint_order(message.name, self._settings.joint_prefix)
        position, velocity, effort = (
            finite(values, len(message.name))[order].tolist()
            for values in (message.position, message.velocity, message.effort)
        )
        if self._fingers is None:
            return
        out = JointState(name=[*topics.ARM_JOINTS, *topics.FINGER_JOINTS])
        out.header.stamp, out.header.frame_id = message.header.stamp, topics.BASE_FRAME
        out.position = [*position, *self._fingers]
        out.velocity, out.effort = [*velocity, 0.0, 0.0], [*effort, 0.0, 0.0]
        self._joints_out.publish(out)

    def _look_around(self) -> None:
        """Who else commands the controller, who commands this driver, and whether the controller is there."""
        self._arm.subscribers = self._target_out.get_subscription_count()
        self._arm.rivals = others_on(self, self._settings.target_topic)
        self._arm.stream.publishers = self.count_publishers(self.resolve_topic_name(topics.TARGET_POSE.name))
        manager = self._manager
        manager.ask(time.monotonic())
        self._arm.controller_state, self._arm.listed_s = manager.state, manager.listed_s
        self._arm.broadcasters_down = manager.broadcasters_down
        self._arm.hardware_down = tuple(
            f"{name} is {state}" for name, state in sorted(manager.hardware.items()) if state != "active"
        )

    # Out

    def _command(self, pose: Pose | None) -> None:
        """Tell the controller."""
        if pose is None:
            return
        if self._settings.dialect.target_is_array:
            self._target_out.publish(Float64MultiArray(data=pose_array(pose)))
            return
        message = PoseStamped(pose=pose_to_message(pose))
        message.header.stamp, message.header.frame_id = self.get_clock().now().to_msg(), self._settings.base_frames[0]
        self._target_out.publish(message)

    def _on_gripper_done(self, success: bool, request: GripperRequest, reason: str) -> None:
        self._hand.done(success, time.monotonic(), request, reason)
        if self._hand.blocked:
            self.get_logger().warning(self._hand.reason)

    def _news(self) -> tuple[object, ...]:
        """What is said at once when it changes."""
        return self._arm.state, self._arm.reason, self._hand.reason

    def _say_state(self) -> None:
        if self._news() != self._said:
            self.get_logger().info(f"{self._arm.state.name}: {self._arm.reason}")
        self._said, self._said_s = self._news(), time.monotonic()
        reason = "; ".join(filter(None, (self._arm.reason, self._hand.reason)))
        message = ArmState(state=int(self._arm.state), reason=reason, robot=self._settings.dialect.robot)
        message.header.stamp, message.header.frame_id = self.get_clock().now().to_msg(), topics.BASE_FRAME
        self._state_out.publish(message)

    def _report(self) -> None:
        arm, hand = self._arm, self._hand
        error_m, error_rad = arm.tracking_error()
        values: dict[str, object] = {
            "target_topic": self._settings.target_topic,
            "listeners": arm.subscribers,
            "other_publishers": ", ".join(arm.rivals),
            "controller": f"{arm.controller}: {'not known' if arm.controller_state is None else arm.controller_state}",
            "hardware": ", ".join(arm.hardware_down) or ("active" if self._manager.hardware else "not known"),
            "robot_mode": "not known" if arm.mode is None else arm.mode,
            "tracking_error_m": f"{error_m:.4f}",
            "tracking_error_rad": f"{error_rad:.4f}",
            "targets": arm.stream.accepted,
            "clipped": arm.clipped,
            **{f"refused: {kind}": count for kind, count in sorted(arm.stream.refusals.items())},
            "gripper": hand.wanted.value if hand.wanted else "",
            "gripper_requests": hand.requests,
            "gripper_blocked": hand.reason,
        }
        level = _LEVELS[arm.state]
        if arm.state is Condition.READY and hand.blocked:
            level = DiagnosticStatus.WARN
        status = DiagnosticStatus(
            level=level, name=self.get_fully_qualified_name(), hardware_id=self._settings.dialect.robot
        )
        status.message = f"{arm.state.name}: {'; '.join(filter(None, (arm.reason, hand.reason)))}"
        status.values = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics_out.publish(message)


def main() -> int:
    return run_node(CrispDriverNode, begin=start_lifecycle, close=CrispDriverNode.close, moves_arm=True)


if __name__ == "__main__":
    sys.exit(main())
