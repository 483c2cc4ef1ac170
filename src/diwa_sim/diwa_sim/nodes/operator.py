"""The scripted operator on ROS 2: publishes the pose of its hand and its joystick, as a person's controller does."""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
from diwa_msgs.msg import GripperCommand, SceneState
from diwa_msgs.srv import ResetPlayroom
from geometry_msgs.msg import PoseStamped
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.task import Future
from sensor_msgs.msg import Joy

from diwa_conventions import topics
from diwa_conventions.actions import RECORD_RATE_HZ, Pose, gripper_opens
from diwa_conventions.errors import UserError
from diwa_conventions.messages import pose_from_message, pose_to_message
from diwa_conventions.node_main import run_node
from diwa_conventions.qos import message_type, profile
from diwa_conventions.tasks import checked_task
from diwa_sim import tasks
from diwa_sim.operator import Command, Demonstrator, Player

MODES = ("play", "demonstration")
ANSWER_S = 5.0
"""A reset that is not answered by then is asked for again."""


class OperatorNode(Node):
    """Plays, or demonstrates a task episode after episode. Topics and parameters: README of diwa_sim."""

    def __init__(self) -> None:
        super().__init__("operator")
        self._mode = self._parameter("mode", "play", f"what it does: {' or '.join(MODES)}")
        self._task = self._parameter("task", "open-drawer", "task to demonstrate")
        self._skill = self._parameter("skill", 1.0, "0 sloppy to 1 clean demonstrations", (0.0, 1.0))
        self._seed = self._parameter("seed", 0, "seed of the first episode; each further one adds 1", (0, 2**31 - 1))
        self._episodes = self._parameter("episodes", 1, "demonstrations to give; 0: endless", (0, 2**31 - 1))
        self._direct = self._parameter("direct", False, "also command the arm, where no teleop and guard are running")
        if self._mode not in MODES:
            raise UserError(f"parameter mode is {self._mode!r}; expected {' or '.join(MODES)}")
        checked_task(self._task)
        self._tool: Pose | None = None
        self._scene: SceneState | None = None
        self._operator: Player | Demonstrator | None = None
        self._begun = 0
        self._answer: Future | None = None
        self._asked_s = 0.0
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
        self.create_subscription(PoseStamped, topics.CURRENT_POSE.name, self._on_pose, profile(topics.CURRENT_POSE))
        self.create_subscription(SceneState, topics.SCENE_STATE.name, self._on_scene, profile(topics.SCENE_STATE))
        self._reset = self.create_client(ResetPlayroom, topics.RESET_SERVICE)
        out = [topics.OPERATOR_POSE, topics.OPERATOR_JOY]
        out += [topics.TARGET_POSE, topics.GRIPPER_COMMAND] if self._direct else []
        self._out = {topic: self.create_publisher(message_type(topic), topic.name, profile(topic)) for topic in out}
        self.create_timer(1.0 / RECORD_RATE_HZ, self._move)

    def _on_pose(self, message: PoseStamped) -> None:
        self._tool = pose_from_message(message.pose)

    def _on_scene(self, message: SceneState) -> None:
        self._scene = message

    def _move(self) -> None:
        """One thirtieth of a second of the operator's hand."""
        if self._tool is None or self._scene is None:
            if self._operator is None and self._answer is None:
                self.get_logger().info("waiting for a playroom", throttle_duration_sec=5.0)
            return
        if self._operator is None:
            self._begin()
            return
        if isinstance(self._operator, Demonstrator):
            if self._operator.finished:
                self._end_demonstration(self._scene)
                return
            command = self._operator.move(self._tool)
        else:
            command = self._operator.move(self._tool, scene_of(self._scene))
        self._publish(command)

    def _begin(self) -> None:
        """Start playing; or have the playroom reset, and demonstrate once a state of the new episode is there."""
        assert self._tool is not None and self._scene is not None
        rng = np.random.default_rng(self._seed + self._begun)
        if self._mode == "play":
            self._operator = Player(self._tool, rng)
        elif self._new_episode():
            self._operator = Demonstrator(self._task, self._skill, self._tool, scene_of(self._scene), rng)
            self._answer = None

    def _new_episode(self) -> bool:
        """Ask for a reset until it is answered; True when scene and arm have been seen after it."""
        assert self._scene is not None
        if self._answer is None or (not self._answer.done() and time.monotonic() - self._asked_s > ANSWER_S):
            self._answer = self._reset.call_async(ResetPlayroom.Request(task=self._task, seed=self._seed + self._begun))
            self._asked_s = time.monotonic()
        if not self._answer.done():
            return False
        answer = self._answer.result()
        if not answer.success:
            raise UserError(f"the playroom refused to reset: {answer.message}")
        if self._scene.episode != answer.episode:
            self._tool = None  # measured before the reset: wait for the next one
            return False
        return True

    def _end_demonstration(self, scene: SceneState) -> None:
        outcome = "success" if scene.success else "failure"
        self.get_logger().info(f"demonstration {self._begun} of {self._task}: {outcome}")
        self._begun += 1
        self._operator = None

    def finished(self) -> bool:
        """All demonstrations that were asked for have been given."""
        return 0 < self._episodes <= self._begun

    def _publish(self, command: Command) -> None:
        stamp = self.get_clock().now().to_msg()
        pose = PoseStamped()
        pose.header.stamp, pose.header.frame_id = stamp, topics.BASE_FRAME
        pose.pose = pose_to_message(command.pose)
        joy = Joy(axes=[0.0], buttons=[0])
        joy.header.stamp = stamp
        joy.axes[topics.JOY_TRIGGER_AXIS] = 0.0 if gripper_opens(command.gripper) else 1.0
        joy.buttons[topics.JOY_CLUTCH_BUTTON] = 1
        gripper = GripperCommand(command=float(command.gripper))
        gripper.header.stamp = stamp
        for topic, message in (
            (topics.OPERATOR_POSE, pose),
            (topics.OPERATOR_JOY, joy),
            (topics.TARGET_POSE, pose),
            (topics.GRIPPER_COMMAND, gripper),
        ):
            if topic in self._out:
                self._out[topic].publish(message)


def scene_of(message: SceneState) -> tasks.SceneState:
    """The scene's state as the operator's plans want it."""
    return tasks.SceneState(
        slider_m=message.slider_m,
        drawer_m=message.drawer_m,
        button_m=message.button_m,
        switch_m=message.switch_m,
        lightbulb=message.lightbulb,
        led=message.led,
        cube=pose_from_message(message.cube),
    )


def main() -> int:
    return run_node(OperatorNode, finished=OperatorNode.finished)


if __name__ == "__main__":
    sys.exit(main())
