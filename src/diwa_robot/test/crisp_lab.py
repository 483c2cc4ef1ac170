"""The crisp driver and fake controllers as real processes, and a test as the command guard before them."""

import json
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import rclpy
from diwa_msgs.msg import ArmState, GripperCommand
from diwa_msgs.srv import Recover
from fake_controllers import HOME, REPORT_S
from geometry_msgs.msg import PoseStamped
from std_msgs.msg import String

from diwa_conventions import topics
from diwa_conventions.actions import Pose
from diwa_conventions.messages import pose_to_message
from diwa_conventions.qos import message_type, profile
from diwa_robot.so3 import rotation_matrix

TIMEOUT_S = 60.0
OUT = (topics.CURRENT_POSE, topics.JOINT_STATES, topics.ARM_STATE, topics.DIAGNOSTICS)
WITHOUT_FRANKA_MSGS = ("robot_state:=false", "recovery:=false", "gripper:=crisp")
TARGET_TIMEOUT_S = 0.25
PATIENT = (f"target_timeout_s:={TARGET_TIMEOUT_S}", "state_timeout_s:=1.0", "gripper_timeout_s:=5.0", "follow_s:=1.0")
"""Time-outs for a machine that is busy with other things."""


def start_driver(*parameters: str, namespace: str = "/robot", ours: str = "/diwa") -> subprocess.Popen:
    """A driver as a process; parameters as name:=value."""
    command = [sys.executable, "-m", "diwa_robot.nodes.crisp_driver", "--ros-args", "-r", f"__ns:={ours}"]
    for parameter in (f"robot_namespace:={namespace}", *parameters):
        command += ["-p", parameter]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def start_fake(*arguments: str, script: str = "fake_controllers.py") -> subprocess.Popen:
    command = [sys.executable, str(Path(__file__).with_name(script)), *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def end(process: subprocess.Popen) -> str:
    """Stop it so that it takes leave; what it has printed."""
    process.terminate()
    try:
        output, _ = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
    return output or ""


class CrispLab:
    """Sends targets as the guard does, 120 times a second while ``armed``; hears what driver and robot say."""

    def __init__(self, namespace: str = "/robot", ours: str = "/diwa") -> None:
        self.node = rclpy.create_node("lab", namespace=ours)
        self.ours = ours
        self.seen = defaultdict(list)
        for topic in OUT:
            self.node.create_subscription(
                message_type(topic), topic.name, lambda message, t=topic: self._hear(t, message), profile(topic)
            )
        self.target_out = self.node.create_publisher(PoseStamped, topics.TARGET_POSE.name, profile(topics.TARGET_POSE))
        self.gripper_out = self.node.create_publisher(
            GripperCommand, topics.GRIPPER_COMMAND.name, profile(topics.GRIPPER_COMMAND)
        )
        self.do_out = self.node.create_publisher(String, f"{namespace}/fake/do", 10)
        self.reports: list[dict] = []
        self.node.create_subscription(
            String, f"{namespace}/fake/report", lambda message: self.reports.append(json.loads(message.data)), 10
        )
        self.armed = False
        self.target = HOME
        self.gripper: float | None = None
        self.node.create_timer(1.0 / topics.STATE_RATE_HZ, self._send)

    def _hear(self, topic: topics.Topic, message) -> None:
        """Diagnostics come from all nodes on one topic."""
        if topic is not topics.DIAGNOSTICS or message.status[0].name == f"{self.ours}/crisp_driver":
            self.seen[topic].append(message)

    def _send(self) -> None:
        if not self.armed:
            return
        self.send(self.target)
        if self.gripper is not None:
            self.gripper_out.publish(GripperCommand(command=self.gripper))

    def send(self, pose: Pose, frame: str = topics.BASE_FRAME) -> PoseStamped:
        message = PoseStamped(pose=pose_to_message(pose))
        message.header.stamp, message.header.frame_id = self.node.get_clock().now().to_msg(), frame
        self.target_out.publish(message)
        return message

    def until(self, condition, what: str, timeout_s: float = TIMEOUT_S):
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            value = condition()
            if value:
                return value
            rclpy.spin_once(self.node, timeout_sec=0.02)
        newest = self.seen[topics.ARM_STATE][-1:], self.reports[-1:]
        pytest.fail(f"{what} did not happen within {timeout_s:.0f} s; newest: {newest}")

    def next(self, topic: topics.Topic, count: int = 1):
        have = len(self.seen[topic])
        self.until(lambda: len(self.seen[topic]) >= have + count, f"{count} messages on {topic.name}")
        return self.seen[topic][-1]

    def report(self, count: int = 2) -> dict:
        """What the fake says now."""
        have = len(self.reports)
        self.until(lambda: len(self.reports) >= have + count, "the fake's report")
        return self.reports[-1]

    def do(self, words: str) -> None:
        self.until(self.do_out.get_subscription_count, "match with the fake")
        done = self.report(1)["done"]
        self.do_out.publish(String(data=words))
        self.until(lambda: self.reports[-1]["done"] > done, words)

    def state_is(self, state: int, words: str = "") -> ArmState:
        def is_it():
            said = self.next(topics.ARM_STATE)
            return said.state == state and words in said.reason and said

        return self.until(is_it, f"state {state} {words!r}")

    def recover(self) -> Recover.Response:
        client = self.node.create_client(Recover, f"{self.ours}/{topics.RECOVER_ARM_SERVICE}")
        self.until(client.service_is_ready, "recover_arm")
        future = client.call_async(Recover.Request())
        self.until(future.done, "answer of recover_arm")
        self.node.destroy_client(client)
        return future.result()

    def ready(self) -> None:
        """Whatever was before: everything well, nobody armed, the arm at home."""
        self.armed, self.gripper, self.target = False, None, HOME
        self.report(round(TARGET_TIMEOUT_S / REPORT_S) + 1)
        self.do("well")
        self.report(round(TARGET_TIMEOUT_S / REPORT_S) + 1)  # the stream of the test before has ended
        if self.next(topics.ARM_STATE).state == ArmState.FAULT:
            self.until(lambda: self.recover().success, "recovering")
            self.report(round(TARGET_TIMEOUT_S / REPORT_S) + 1)
        self.state_is(ArmState.READY)

    def arm(self) -> None:
        """Send targets until one has reached the controller."""
        received = self.report()["received"]
        self.armed = True
        self.until(lambda: self.reports[-1]["received"] > received, "first target")

    def go(self, way_m, turn_rad=(0.0, 0.0, 0.0), speed_m_s: float = 0.3) -> None:
        """Lead the arm evenly by the way and the turn, from where the target stands."""
        start, way, turn = self.target, np.array(way_m, dtype=float), np.array(turn_rad, dtype=float)
        begun_s = time.monotonic()
        duration_s = max(np.linalg.norm(way) / speed_m_s, np.linalg.norm(turn) / 1.0)

        def there() -> bool:
            share = min(1.0, (time.monotonic() - begun_s) / duration_s)
            self.target = Pose(start.position + share * way, rotation_matrix(share * turn) @ start.rotation)
            return share == 1.0

        self.until(there, "the way")

    def refused(self, kind: str) -> int:
        """How many targets the driver has refused for that reason."""
        return int(self.values().get(f"refused: {kind}", 0))

    def values(self) -> dict[str, str]:
        """Of the driver's diagnostics."""
        return {item.key: item.value for item in self.next(topics.DIAGNOSTICS).status[0].values}
