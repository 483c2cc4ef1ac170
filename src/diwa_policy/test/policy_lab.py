"""The policy node as a real process, and a test as arm, cameras, command guard and person around it."""

from __future__ import annotations

import array
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest
import rclpy
from diwa_msgs.action import RunSkill
from diwa_msgs.msg import GripperCommand, GuardState, PolicyStatus
from diwa_msgs.srv import Arm, Disarm, LoadPolicy
from geometry_msgs.msg import PoseStamped
from policy_samples import SKILL
from rclpy.action import ActionClient
from sensor_msgs.msg import Image, JointState
from serving_lab import picture

from diwa_conventions import topics
from diwa_conventions.qos import message_type, profile

TIMEOUT_S = 60.0
SIZE = 32
"""Of the images published [px]."""
OUT = (topics.ACTION, topics.SHADOW_ACTION, topics.POLICY_STATUS, topics.DIAGNOSTICS)
IN = (
    topics.STATIC_IMAGE, topics.GRIPPER_IMAGE, topics.CURRENT_POSE, topics.JOINT_STATES, topics.TARGET_POSE,
    topics.GRIPPER_COMMAND, topics.GUARD_STATE,
)  # fmt: skip


def start(folder: Path, *parameters: str, name: str = "policy") -> subprocess.Popen:
    """The node with what is in the folder (serving_lab.served); parameters as name:=value."""
    command = [sys.executable, "-m", "diwa_policy.nodes.policy", "--ros-args", "-r", "__ns:=/diwa"]
    command += ["-r", f"__node:={name}"]
    own = [f"policy:={folder / 'policy'}", f"world_model:={folder / 'world_model'}", f"reward:={folder / 'reward'}"]
    for parameter in [*own, "inference:=torch", "stale_s:=1.5", *parameters]:
        command += ["-p", parameter]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def end(process: subprocess.Popen) -> str:
    """What it has said."""
    process.terminate()
    try:
        return process.communicate(timeout=TIMEOUT_S)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()[0]


class Lab:
    """Images at 30 Hz, states at 60 Hz, an arm that stands still; a guard that arms whoever asks."""

    def __init__(self) -> None:
        self.node = rclpy.create_node("lab", namespace="/diwa")
        self.seen = defaultdict(list)
        for topic in OUT:
            self.node.create_subscription(message_type(topic), topic.name, self.seen[topic].append, profile(topic))
        self.outs = {topic: self.node.create_publisher(message_type(topic), topic.name, profile(topic)) for topic in IN}
        self.node.create_service(Arm, topics.ARM_SERVICE, self._on_arm)
        self.disarming = rclpy.create_node("disarming", namespace="/diwa")
        self.disarming.create_service(Disarm, topics.DISARM_SERVICE, self._on_disarm)
        self.skill = ActionClient(self.node, RunSkill, topics.RUN_SKILL_ACTION)
        self.load = self.node.create_client(LoadPolicy, topics.LOAD_POLICY_SERVICE)
        self.ticks = 0
        self.set_up()
        self.node.create_timer(1.0 / 60.0, self._deliver)

    def set_up(self) -> None:
        """Everything is in order."""
        self.arms = True
        self.silent: set[topics.Topic] = set()
        self.source, self.state = "", GuardState.DISARMED
        self.armed = 0
        self.disarmed: list[str] = []
        self.cable = True
        """Without it requests to disarm stay on their way."""

    def _on_arm(self, request: Arm.Request, response: Arm.Response) -> Arm.Response:
        response.success, response.message = self.arms, "" if self.arms else "a fault is latched"
        if self.arms:
            self.armed += 1
            self.source, self.state = request.source, GuardState.ARMED
        return response

    def _on_disarm(self, request: Disarm.Request, response: Disarm.Response) -> Disarm.Response:
        self.disarmed.append(request.reason)
        self.source, self.state, response.success = "", GuardState.DISARMED, True
        return response

    def _deliver(self) -> None:
        stamp = self.node.get_clock().now().to_msg()
        self.ticks += 1
        pose = PoseStamped()
        pose.header.stamp, pose.header.frame_id = stamp, topics.BASE_FRAME
        pose.pose.position.x, pose.pose.orientation.x, pose.pose.orientation.w = 0.4, 1.0, 0.0
        joints = JointState(name=list(topics.FINGER_JOINTS), position=[0.04, 0.04])
        guard = GuardState(state=self.state, armed_source=self.source, reason="as the test says")
        command = GripperCommand(command=1.0)
        for message in (joints, guard, command):
            message.header.stamp = stamp
        self._publish(topics.CURRENT_POSE, pose)
        self._publish(topics.JOINT_STATES, joints)
        self._publish(topics.GUARD_STATE, guard)
        if self.source:
            self._publish(topics.TARGET_POSE, pose)
            self._publish(topics.GRIPPER_COMMAND, command)
        if self.ticks % 2:
            return
        for camera, topic in enumerate((topics.GRIPPER_IMAGE, topics.STATIC_IMAGE)):
            image = Image(height=SIZE, width=SIZE, encoding="rgb8", step=3 * SIZE)
            image.header.stamp = stamp
            image.data = array.array("B", picture(self.ticks // 8, camera, SIZE).tobytes())
            self._publish(topic, image)

    def _publish(self, topic: topics.Topic, message: object) -> None:
        if topic not in self.silent:
            self.outs[topic].publish(message)

    def until(self, condition, what: str):
        """Spin until the condition holds; returns its value."""
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            value = condition()
            if value:
                return value
            rclpy.spin_once(self.node, timeout_sec=0.05)
            if self.cable:
                rclpy.spin_once(self.disarming, timeout_sec=0.0)
        pytest.fail(f"{what} did not happen within {TIMEOUT_S:.0f} s; newest: {self.seen[topics.POLICY_STATUS][-1:]}")

    def begin(self, skill: str = SKILL, time_limit_s: float = 0.6, seed: int = 5):
        """Send a goal; its handle."""
        self.until(self.skill.server_is_ready, "the action server")
        for topic in OUT:
            self.seen[topic].clear()
        future = self.skill.send_goal_async(RunSkill.Goal(skill=skill, time_limit_s=time_limit_s, seed=seed))
        return self.until(lambda: future.done() and future.result(), "the goal's answer")

    def result(self, goal) -> RunSkill.Result:
        future = goal.get_result_async()
        return self.until(lambda: future.done() and future.result(), "the result").result

    def run(self, **goal) -> RunSkill.Result:
        return self.result(self.begin(**goal))

    def running(self, steps: int = 2) -> PolicyStatus:
        """Once so many steps of the run have been done."""
        return self.until(lambda: self.under_way(steps), "steps")

    def under_way(self, steps: int) -> PolicyStatus | None:
        """The newest status if so many steps of the run have been done."""
        seen = self.seen[topics.POLICY_STATUS]
        return seen[-1] if seen and seen[-1].state == PolicyStatus.RUNNING and seen[-1].step >= steps else None

    def loaded(self, path: Path, world_model: Path | str = "", reward: Path | str = "") -> LoadPolicy.Response:
        self.until(self.load.service_is_ready, "load_policy")
        request = LoadPolicy.Request(path=str(path), world_model=str(world_model), reward=str(reward))
        future = self.load.call_async(request)
        return self.until(lambda: future.done() and future.result(), "the service's answer")
