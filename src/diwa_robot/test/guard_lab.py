"""A command guard as a real process, and a test as source, arm and cameras around it."""

import subprocess
import sys
import time
from collections import defaultdict

import numpy as np
import pytest
import rclpy
from diwa_msgs.msg import DeltaAction, GuardState
from diwa_msgs.srv import Arm, Disarm, Recover
from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import CameraInfo

from diwa_conventions import topics
from diwa_conventions.qos import message_type, profile

TIMEOUT_S = 60.0
ANSWER_S = 5.0
HOME_M = (0.46, 0.0, 0.33)
ARM_SPEED_M_S = 2.0
"""Of the lab's arm: when this process was held up it must not jump, which is a fault."""
OUT = (
    topics.TARGET_POSE,
    topics.GRIPPER_COMMAND,
    topics.EXECUTED_ACTION,
    topics.GUARD_STATE,
    topics.DIAGNOSTICS,
)
PATIENT = (
    "action_timeout_s:=2.0",
    "state_timeout_s:=1.0",
    "camera_timeout_s:=5.0",
    "max_tick_gap_s:=2.0",
    "max_state_age_s:=2.0",
)
"""Time-outs for a machine that is busy with other things."""


def start(*parameters: str) -> subprocess.Popen:
    """A guard as a process; parameters as name:=value."""
    command = [sys.executable, "-m", "diwa_robot.nodes.command_guard", "--ros-args", "-r", "__ns:=/diwa"]
    for parameter in parameters:
        command += ["-p", parameter]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def end(process: subprocess.Popen) -> None:
    """Stop the guard so that it takes leave: one that is killed is seen by others for another 20 s."""
    process.terminate()
    try:
        process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


class Lab:
    """Arm, cameras and source around the guard. The arm stands where it was last told, unless it is held."""

    def __init__(self, name: str = "lab") -> None:
        self.node = rclpy.create_node(name, namespace="/diwa")
        self.seen = defaultdict(list)
        for topic in OUT:
            self.node.create_subscription(message_type(topic), topic.name, self.seen[topic].append, profile(topic))
        self.action_out = self.node.create_publisher(DeltaAction, topics.ACTION.name, profile(topics.ACTION))
        self.pose_out = self.node.create_publisher(PoseStamped, topics.CURRENT_POSE.name, profile(topics.CURRENT_POSE))
        self.camera_out = {
            name: self.node.create_publisher(CameraInfo, topic.name, profile(topic))
            for name, topic in (("static", topics.STATIC_INFO), ("gripper", topics.GRIPPER_INFO))
        }
        self.follows = self.states = self.cameras = True
        self.position = list(HOME_M)
        self.sequence = 0
        self._told_s = time.monotonic()
        self.node.create_timer(1.0 / 60.0, self._deliver)

    def _deliver(self) -> None:
        if self.follows and self.seen[topics.TARGET_POSE]:
            self._follow(self.seen[topics.TARGET_POSE][-1].pose.position)
        if self.states:
            self.state(self.position)
        for publisher in self.camera_out.values() if self.cameras else ():
            info = CameraInfo()
            info.header.stamp = self.node.get_clock().now().to_msg()
            publisher.publish(info)

    def _follow(self, target) -> None:
        way = np.array([target.x, target.y, target.z]) - self.position
        longest_m = ARM_SPEED_M_S * (time.monotonic() - self._told_s)
        share = min(1.0, longest_m / max(float(np.linalg.norm(way)), 1e-9))
        self.position = list(np.array(self.position) + share * way)

    def state(self, position) -> None:
        self._told_s = time.monotonic()
        message = PoseStamped()
        message.header.stamp, message.header.frame_id = self.node.get_clock().now().to_msg(), topics.BASE_FRAME
        message.pose.position.x, message.pose.position.y, message.pose.position.z = map(float, position)
        message.pose.orientation.x, message.pose.orientation.w = 1.0, 0.0
        self.pose_out.publish(message)

    def until(self, condition, what: str):
        """Spin until the condition holds; returns its value."""
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            value = condition()
            if value:
                return value
            rclpy.spin_once(self.node, timeout_sec=0.05)
        newest = self.seen[topics.GUARD_STATE][-1:]
        pytest.fail(f"{what} did not happen within {TIMEOUT_S:.0f} s; newest state: {newest}")

    def next(self, topic: topics.Topic, count: int = 1):
        have = len(self.seen[topic])
        self.until(lambda: len(self.seen[topic]) >= have + count, f"{count} messages on {topic.name}")
        return self.seen[topic][-1]

    def call(self, kind, name: str, **request):
        """The service's answer. Asked again after a while: a guard that was killed may have got the question."""
        client = self.node.create_client(kind, f"/diwa/{name}")
        self.until(client.service_is_ready, f"service {name}")
        asked: list = []

        def answered():
            if not asked or time.monotonic() - asked[-1][0] > ANSWER_S:
                asked.append((time.monotonic(), client.call_async(kind.Request(**request))))
            return next((future for _, future in asked if future.done()), None)

        answer = self.until(answered, f"answer of {name}").result()
        self.node.destroy_client(client)
        return answer

    def state_is(self, state: int) -> GuardState:
        return self.until(lambda: (s := self.next(topics.GUARD_STATE)).state == state and s, f"state {state}")

    def arm(self, source: str = "teleop") -> None:
        """Arm as soon as everything has reached the guard."""
        self.until(lambda: self.call(Arm, topics.ARM_SERVICE, source=source).success, "arming")
        self.sequence = 0

    def ready(self, source: str = "teleop") -> None:
        """Whatever was before: recovered, disarmed, armed, the arm at home."""
        self.follows = self.states = self.cameras = True
        self.call(Disarm, topics.DISARM_SERVICE, reason="next test")
        self.position = list(HOME_M)
        self.seen[topics.TARGET_POSE].clear()
        recovered = lambda: self.call(Recover, topics.RECOVER_SERVICE) and self.next(topics.GUARD_STATE).state == 0  # noqa: E731
        self.until(recovered, "recovering")
        self.arm(source)

    def action(self, translation=(0.0, 0.0, 0.0), **fields) -> DeltaAction:
        self.sequence += 1
        values = {"source": "teleop", "sequence": self.sequence, "duration_s": 1.0 / 30.0, "gripper": 1.0} | fields
        message = DeltaAction(**values)
        message.header.stamp, message.header.frame_id = self.node.get_clock().now().to_msg(), topics.BASE_FRAME
        message.translation = np.array(translation, dtype=np.float64)
        return message

    def send(self, translation=(0.0, 0.0, 0.0), **fields) -> DeltaAction:
        message = self.action(translation, **fields)
        self.until(self.action_out.get_subscription_count, "match with the guard")
        self.action_out.publish(message)
        return message

    def accepted(self, sequence: int) -> GuardState:
        seen = self.seen[topics.GUARD_STATE]
        return self.until(lambda: seen and seen[-1].accepted_sequence == sequence and seen[-1], f"action {sequence}")

    def move(self, translation, count: int = 5) -> None:
        """Actions one after the other, each accepted before the next."""
        for _ in range(count):
            self.accepted(self.send(translation).sequence)

    def arrived(self) -> GuardState:
        """The state once the target stands on the goal."""

        def there():
            state = self.next(topics.GUARD_STATE)
            return np.allclose(point(state.target), point(state.goal), atol=1e-6) and state

        return self.until(there, "arrival")

    def silent(self, topic: topics.Topic) -> bool:
        """Nothing comes on the topic over ten reports of the guard's state."""
        self.next(topics.GUARD_STATE)
        have = len(self.seen[topic])
        self.next(topics.GUARD_STATE, 10)
        return len(self.seen[topic]) == have


def point(pose) -> list[float]:
    return [pose.position.x, pose.position.y, pose.position.z]


def stamp_s(message) -> float:
    return message.header.stamp.sec + 1e-9 * message.header.stamp.nanosec
