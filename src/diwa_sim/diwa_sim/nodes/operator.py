"""The scripted operator on ROS 2: publishes the pose of its hand and its joystick, as a person's controller does."""

from __future__ import annotations

import array
import math
import sys
import time
from typing import Any

from diwa_msgs.msg import Annotation, GuardState, SceneState
from diwa_msgs.srv import Annotate, ResetPlayroom
from geometry_msgs.msg import PoseStamped
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.task import Future
from sensor_msgs.msg import Joy

from diwa_conventions import topics
from diwa_conventions.actions import gripper_opens
from diwa_conventions.errors import UserError
from diwa_conventions.messages import pose_from_message, pose_to_message
from diwa_conventions.node_main import run_node
from diwa_conventions.qos import message_type, profile
from diwa_conventions.rates import RECORD_RATE_HZ
from diwa_sim import tasks
from diwa_sim.marks import Mark
from diwa_sim.session import Controls, GuardMode, GuardSeen, OperatorSession, SceneSeen, SessionConfig

SEEDS = (0, 2**31 - 1)
LASTING_S, AGAIN_S = 0.5, 10.0


class OperatorNode(Node):
    """Thin shell of :class:`OperatorSession`. Topics, services and parameters: README of diwa_sim."""

    def __init__(self) -> None:
        super().__init__("operator")
        config = SessionConfig(
            mode=self._parameter("mode", "play", "what it does: play or demonstration"),
            task=self._parameter("task", "open-drawer", "task to demonstrate"),
            skill=self._parameter("skill", 1.0, "0 sloppy to 1 clean demonstrations", (0.0, 1.0)),
            seed=self._parameter("seed", 0, "seed of the first episode; each further one adds 1", SEEDS),
            episodes=self._parameter("episodes", 1, "demonstrations to give; 0: endless", SEEDS),
            rearm=self._parameter("rearm", False, "arm again after the guard has disarmed; false: a person has to"),
        )
        self._annotate = self._parameter("annotate", True, "have the recorder mark successes and failures")
        self._session = OperatorSession(config)
        self._given = 0
        self._moving = False
        self._waits_for, self._say_s = "", 0.0
        self._answers: list[Future] = []
        self._open_topics()

    def _parameter(self, name: str, default: Any, about: str, bounds: tuple[float, float] | None = None) -> Any:
        descriptor = ParameterDescriptor(description=about)
        if bounds and isinstance(default, int):
            descriptor.integer_range = [IntegerRange(from_value=int(bounds[0]), to_value=int(bounds[1]), step=0)]
        elif bounds:
            descriptor.floating_point_range = [FloatingPointRange(from_value=bounds[0], to_value=bounds[1], step=0.0)]
        self.declare_parameter(name, default, descriptor)
        return self.get_parameter(name).value

    def _open_topics(self) -> None:
        for topic, callback in (
            (topics.CURRENT_POSE, self._on_pose),
            (topics.SCENE_STATE, self._on_scene),
            (topics.GUARD_STATE, self._on_guard),
        ):
            self.create_subscription(message_type(topic), topic.name, callback, profile(topic))
        self._pose_out, self._joy_out = (
            self.create_publisher(message_type(topic), topic.name, profile(topic))
            for topic in (topics.OPERATOR_POSE, topics.OPERATOR_JOY)
        )
        self._reset_client = self.create_client(ResetPlayroom, topics.RESET_SERVICE)
        self._annotate_client = self.create_client(Annotate, topics.ANNOTATE_SERVICE)
        self.create_timer(1.0 / RECORD_RATE_HZ, self._on_frame)

    # What is seen

    def _on_pose(self, message: PoseStamped) -> None:
        try:
            tool = pose_from_message(message.pose)
        except UserError as error:
            self.get_logger().warning(f"{topics.CURRENT_POSE.name} {error}; ignored", throttle_duration_sec=2.0)
            return
        self._session.on_pose(tool, stamp_ns(message), time.monotonic())

    def _on_scene(self, message: SceneState) -> None:
        try:
            scene = scene_of(message)
        except UserError as error:
            self.get_logger().warning(f"{topics.SCENE_STATE.name} {error}; ignored", throttle_duration_sec=2.0)
            return
        seen = SceneSeen(stamp_ns(message), scene, message.success, message.episode)
        self._session.on_scene(seen, time.monotonic())

    def _on_guard(self, message: GuardState) -> None:
        seen = GuardSeen(GuardMode(message.state), message.armed_source, message.reason)
        self._session.on_guard(seen, time.monotonic())

    # What is done

    def _on_frame(self) -> None:
        """One thirtieth of a second of the operator."""
        session, now_s = self._session, time.monotonic()
        controls = session.frame(now_s)
        if controls is not None:
            self._publish(controls)
        seed = session.reset_wanted(now_s)
        if seed is not None:
            request = ResetPlayroom.Request(task=session.config.task, seed=seed)
            self._reset_client.call_async(request).add_done_callback(self._on_reset)
        for mark in session.marks:
            self._mark(mark)
        session.marks.clear()
        self._log()

    def _on_reset(self, future: Future) -> None:
        answer = future.result()
        if not answer.success:
            raise UserError(f"the playroom refused to reset: {answer.message}")
        self._session.on_reset(answer.episode)

    def _mark(self, mark: Mark) -> None:
        """Have the recorder mark it, if there is one; nothing waits for the answer."""
        if not self._annotate or not self._annotate_client.service_is_ready():
            return
        annotation = Annotation(skill=mark.skill, success=mark.success)
        annotation.header.stamp.sec, annotation.header.stamp.nanosec = divmod(mark.stamp_ns, 10**9)
        future = self._annotate_client.call_async(Annotate.Request(annotation=annotation))
        future.add_done_callback(self._on_marked)
        self._answers.append(future)

    def _on_marked(self, future: Future) -> None:
        self._answers.remove(future)
        answer = future.result()
        if not answer.success:
            self.get_logger().warning(f"the recorder marks nothing: {answer.message}", throttle_duration_sec=10.0)

    def _log(self) -> None:
        session = self._session
        for number in range(self._given, len(session.outcomes)):
            outcome = "success" if session.outcomes[number] else "failure"
            self.get_logger().info(f"demonstration {number} of {session.config.task}: {outcome}")
        self._given = len(session.outcomes)
        if session.moving and not self._moving:
            self.get_logger().info("the clutch is held: the hand moves the arm")
        self._moving = session.moving
        self._say_what_it_waits_for(time.monotonic())

    def _say_what_it_waits_for(self, now_s: float) -> None:
        """Once it has lasted, and again now and then."""
        waits_for = self._session.waits_for
        if waits_for != self._waits_for:
            self._waits_for, self._say_s = waits_for, now_s + LASTING_S
        elif waits_for and now_s >= self._say_s:
            self.get_logger().info(f"waiting for {waits_for}")
            self._say_s = now_s + AGAIN_S

    def finished(self) -> bool:
        """All demonstrations that were asked for have been given."""
        return self._session.finished(time.monotonic(), answered=not self._answers)

    def _publish(self, controls: Controls) -> None:
        stamp = self.get_clock().now().to_msg()
        pose = PoseStamped(pose=pose_to_message(controls.hand.pose))
        pose.header.stamp, pose.header.frame_id = stamp, topics.BASE_FRAME
        axes, buttons = array.array("f", [0.0]), array.array("i", [0] * topics.JOY_BUTTONS)
        axes[topics.JOY_TRIGGER_AXIS] = 0.0 if gripper_opens(controls.hand.gripper) else 1.0
        buttons[topics.JOY_CLUTCH_BUTTON] = int(controls.clutch)
        if controls.button is not None:
            buttons[controls.button] = 1
        joy = Joy(axes=axes, buttons=buttons)
        joy.header.stamp = stamp
        self._pose_out.publish(pose)
        self._joy_out.publish(joy)


def stamp_ns(message: Any) -> int:
    """Of its header."""
    return int(message.header.stamp.sec) * 10**9 + int(message.header.stamp.nanosec)


def scene_of(message: SceneState) -> tasks.SceneState:
    """The scene's state as the operator's plans want it; UserError for values that are not finite."""
    joints = (message.slider_m, message.drawer_m, message.button_m, message.switch_m)
    if not all(map(math.isfinite, joints)):
        raise UserError("holds a value that is not finite")
    return tasks.SceneState(*joints, message.lightbulb, message.led, pose_from_message(message.cube))


def main() -> int:
    return run_node(OperatorNode, finished=OperatorNode.finished)


if __name__ == "__main__":
    sys.exit(main())
