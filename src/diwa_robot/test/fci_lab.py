"""The fci driver as a real process, a robot's interface in software as another, and a test as the command guard."""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import rclpy
from diwa_msgs.msg import ArmState, GripperCommand
from diwa_msgs.srv import Recover
from geometry_msgs.msg import PoseStamped

from diwa_conventions import topics
from diwa_conventions.actions import Pose
from diwa_conventions.messages import pose_from_message, pose_to_message
from diwa_conventions.qos import message_type, profile
from diwa_robot.so3 import rotation_matrix

TIMEOUT_S = 60.0
ANSWER_S = 10.0
PATIENT = ("target_timeout_s:=0.3", "max_target_age_s:=2.0", "contact_timeout_s:=1.0", "retry_s:=0.2")
"""Time-outs for a machine that is busy with other things."""
QUIET = ("ignore_realtime:=true",)
OUT = (topics.CURRENT_POSE, topics.JOINT_STATES, topics.ARM_STATE, topics.DIAGNOSTICS)
FRANKY_SIM = Path(__file__).with_name("franky_sim_server.py")


class Robot:
    """A server of the robot's protocol in a process; ends with its standard input, so also with a test that dies."""

    def __init__(self, address: str, *command: str, **environment: str) -> None:
        self.address = address
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | environment,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.said = self._line("ready")

    def _read(self) -> None:
        for line in self._process.stdout:
            self._lines.put(line)

    def _line(self, word: str = "") -> str:
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                line = self._lines.get(timeout=0.2)
            except queue.Empty:
                if self._process.poll() is not None:
                    pytest.fail(f"{self._process.args} ended by itself")
                continue
            if word in line:
                return line
        pytest.fail(f"{self._process.args} did not say {word!r}")

    def order(self, text: str) -> dict:
        """An order of the Panda's server, and its answer."""
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._line())
        assert answer["ok"], answer
        return answer

    def end(self) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def panda(address: str, *options: str) -> Robot:
    """FCI version 5."""
    return Robot(address, sys.executable, "-m", "diwa_sim.fci", "--address", address, "--arm", "kinematic", *options)


def fr3(address: str) -> Robot:
    """FCI version 10."""
    return Robot(address, sys.executable, str(FRANKY_SIM), address)


def start(address: str, *parameters: str) -> subprocess.Popen:
    """A driver as a process; parameters as name:=value."""
    command = [sys.executable, "-m", "diwa_robot.nodes.fci_driver", "--ros-args", "-r", "__ns:=/diwa"]
    for parameter in (f"robot_ip:={address}", *parameters):
        command += ["-p", parameter]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def end(process: subprocess.Popen) -> str:
    """Stop the driver so that it takes leave; what it said."""
    process.terminate()
    try:
        output, _ = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
    return output


class Lab:
    """Sends targets as the guard does, sees what the driver says."""

    def __init__(self, name: str = "lab") -> None:
        self.node = rclpy.create_node(name, namespace="/diwa")
        self.seen = defaultdict(list)
        for topic in OUT:
            self.node.create_subscription(message_type(topic), topic.name, self.seen[topic].append, profile(topic))
        self.target_out = self.node.create_publisher(PoseStamped, topics.TARGET_POSE.name, profile(topics.TARGET_POSE))
        self.gripper_out = self.node.create_publisher(
            GripperCommand, topics.GRIPPER_COMMAND.name, profile(topics.GRIPPER_COMMAND)
        )
        self.target: Pose | None = None
        """Sent 120 times a second while it is there."""
        self.moving = lambda: self.figures()["robot_mode"] == "move"
        """Whether a control loop runs; a robot that can be asked knows it sooner than diagnostics say it."""
        self.node.create_timer(1.0 / 120.0, self._send)

    def _send(self) -> None:
        if self.target is not None:
            self.send(self.target)

    def send(self, pose: Pose, frame: str = topics.BASE_FRAME, **changes: float) -> None:
        message = PoseStamped(pose=pose_to_message(pose))
        for name, value in changes.items():
            setattr(message.pose.position, name, value)
        message.header.stamp, message.header.frame_id = self.node.get_clock().now().to_msg(), frame
        self.target_out.publish(message)

    def grip(self, command: float) -> None:
        message = GripperCommand(command=command)
        message.header.stamp = self.node.get_clock().now().to_msg()
        self.gripper_out.publish(message)

    def until(self, condition, what: str, timeout_s: float = TIMEOUT_S):
        """Spin until the condition holds; returns its value."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            value = condition()
            if value:
                return value
            rclpy.spin_once(self.node, timeout_sec=0.05)
        newest = self.seen[topics.ARM_STATE][-1:]
        health = [status.message for message in self.seen[topics.DIAGNOSTICS][-1:] for status in message.status]
        pytest.fail(f"{what} did not happen within {timeout_s:.0f} s; newest state: {newest}; {health}")

    def next(self, topic: topics.Topic, count: int = 1):
        have = len(self.seen[topic])
        self.until(lambda: len(self.seen[topic]) >= have + count, f"{count} messages on {topic.name}")
        return self.seen[topic][-1]

    def state_is(self, state: int, words: str = "") -> ArmState:
        return self.until(
            lambda: (s := self.next(topics.ARM_STATE)).state == state and words in s.reason and s,
            f"state {state} {words!r}",
        )

    def pose(self) -> Pose:
        """Where the arm is, as it says next."""
        return pose_from_message(self.next(topics.CURRENT_POSE).pose)

    def width_m(self) -> float:
        joints = self.next(topics.JOINT_STATES)
        return sum(joints.position[7:])

    def recover(self):
        """The service's answer; asked again after a while: the question may come before the service knows us."""
        client = self.node.create_client(Recover, f"/diwa/{topics.RECOVER_ARM_SERVICE}")
        self.until(client.service_is_ready, "service")
        asked: list = []

        def answered():
            if not asked or time.monotonic() - asked[-1][0] > ANSWER_S:
                asked.append((time.monotonic(), client.call_async(Recover.Request())))
            return next((future for _, future in asked if future.done()), None)

        answer = self.until(answered, "answer").result()
        self.node.destroy_client(client)
        return answer

    def recovered(self) -> None:
        """Whatever was before: nothing is sent, the arm is ready."""
        self.target = None
        self.until(lambda: self.recover().success, "recovering")
        self.state_is(ArmState.READY)
        self.silence()

    def silence(self) -> None:
        """Long enough for an old stream to have ended."""
        over = time.monotonic() + 0.4
        self.until(lambda: time.monotonic() > over, "silence")

    def stand(self) -> Pose:
        """Send the pose in which the arm is, until the robot says that a motion runs."""
        self.target = self.pose()
        self.until(self.moving, "a motion")
        return self.target

    def go(self, offset_m, turn_rad=(0.0, 0.0, 0.0), seconds: float = 1.0) -> Pose:
        """Lead the arm along a straight way, evenly; where the target then stands."""
        start, began = self.target, time.monotonic()
        offset, turn = np.array(offset_m), np.array(turn_rad, dtype=float)

        def walk() -> bool:
            part = min(1.0, (time.monotonic() - began) / seconds)
            self.target = Pose(start.position + part * offset, rotation_matrix(part * turn) @ start.rotation)
            return part == 1.0

        self.until(walk, "the walk")
        return self.target

    def arrives(self, pose: Pose, within_m: float) -> float:
        """How far the arm is from the pose once it is near."""
        return self.until(lambda: (d := self.pose().distance_m(pose)) < within_m and (d or 1e-9), "arrival")

    def figures(self) -> dict[str, str]:
        """The newest diagnostics of the driver."""
        status = self.next(topics.DIAGNOSTICS).status[0]
        return {item.key: item.value for item in status.values} | {"message": status.message, "level": status.level}
