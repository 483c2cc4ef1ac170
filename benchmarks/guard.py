"""What the command guard costs and how evenly it speaks: one tick, the node's 120 Hz, action to target_pose.

python benchmarks/guard.py --seconds 20
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
import tyro
from diwa_msgs.msg import DeltaAction, GuardState
from diwa_msgs.srv import Arm
from geometry_msgs.msg import PoseStamped
from machine import machine, markdown_table
from sensor_msgs.msg import CameraInfo

from diwa_conventions import topics
from diwa_conventions.qos import message_type, profile
from diwa_conventions.rates import RECORD_RATE_HZ
from diwa_robot.command_guard import Action, CommandGuard
from diwa_robot.limits import GuardConfig

DOWN = np.array([1.0, 0.0, 0.0, 0.0])
TOOL_M = np.array([0.5, 0.0, 0.3])
TICKS_PER_ACTION = round(topics.STATE_RATE_HZ / RECORD_RATE_HZ)


@dataclass(frozen=True)
class Benchmark:
    """The guard alone, then its node with states at 120 Hz, two cameras and actions at 30 Hz."""

    seconds: float = 20.0
    domain: int = 92
    """ROS_DOMAIN_ID of the measurement."""


def core_costs(ticks: int = 6000) -> dict[str, list[float]]:
    """Processor time [s] of each call of the guard while the target moves and turns all the time."""
    guard, now, rng = CommandGuard(GuardConfig(required_cameras=())), 1.0, np.random.default_rng(0)
    guard.pose(TOOL_M, DOWN, topics.BASE_FRAME, now, now)
    if not guard.arm("benchmark", now).success:
        raise SystemExit("the guard cannot be armed")
    costs: dict[str, list[float]] = defaultdict(list)

    def timed(name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        begin = time.thread_time()
        result = call(*arguments)
        costs[name].append(time.thread_time() - begin)
        return result

    for tick in range(ticks):
        now += 1.0 / topics.STATE_RATE_HZ
        if tick % TICKS_PER_ACTION == 0:
            components = np.append(rng.uniform(-0.5, 0.5, 6), 1.0)
            action = Action("benchmark", tick, 0.0, topics.BASE_FRAME, 1.0 / RECORD_RATE_HZ, components)
            timed("action", guard.action, action, now)
        target = guard.target
        assert target is not None
        timed("current_pose", guard.pose, target.position, target.quaternion(), topics.BASE_FRAME, now, now)
        timed("tick", guard.tick, now)
    return costs


class Surroundings:
    """Arm, cameras and source of the node; when what came."""

    def __init__(self) -> None:
        self.node = rclpy.create_node("benchmark", namespace=topics.NAMESPACE)
        publisher = lambda topic: self.node.create_publisher(message_type(topic), topic.name, profile(topic))  # noqa: E731
        self._pose_out, self._action_out = publisher(topics.CURRENT_POSE), publisher(topics.ACTION)
        self._camera_out = [publisher(topic) for topic in (topics.STATIC_INFO, topics.GRIPPER_INFO)]
        self._target: PoseStamped | None = None
        self._sequence = 0
        self._sent_s: float | None = None
        self.came_s: list[float] = []
        self.stamps_s: list[float] = []
        self.latency_s: list[float] = []
        self.acknowledged_s: list[float] = []
        self._sent_at: dict[int, float] = {}
        for topic, callback in ((topics.TARGET_POSE, self._on_target), (topics.GUARD_STATE, self._on_state)):
            self.node.create_subscription(message_type(topic), topic.name, callback, profile(topic))
        self.node.create_timer(1.0 / topics.STATE_RATE_HZ, self._publish_state)
        self.node.create_timer(1.0 / RECORD_RATE_HZ, self._publish_frame)
        self.acting = False
        self.holds = 0
        self._state = GuardState.DISARMED

    def _publish_state(self) -> None:
        message = PoseStamped()
        if self._target is not None:
            message.pose = self._target.pose
        else:
            message.pose.position.x, message.pose.position.z = 0.5, 0.3
            message.pose.orientation.x, message.pose.orientation.w = 1.0, 0.0
        message.header.stamp, message.header.frame_id = self.node.get_clock().now().to_msg(), topics.BASE_FRAME
        self._pose_out.publish(message)

    def _publish_frame(self) -> None:
        for publisher in self._camera_out:
            info = CameraInfo()
            info.header.stamp = self.node.get_clock().now().to_msg()
            publisher.publish(info)
        if not self.acting:
            return
        self._sequence += 1
        action = DeltaAction(source="benchmark", sequence=self._sequence, duration_s=1.0 / RECORD_RATE_HZ, gripper=1.0)
        action.header.stamp, action.header.frame_id = self.node.get_clock().now().to_msg(), topics.BASE_FRAME
        action.translation[1] = 0.2 if self._sequence // 60 % 2 else -0.2
        self._sent_s = self._sent_at[self._sequence] = time.monotonic()
        self._action_out.publish(action)

    def _on_target(self, message: PoseStamped) -> None:
        now_s = time.monotonic()
        self._target = message
        self.came_s.append(now_s)
        self.stamps_s.append(message.header.stamp.sec + 1e-9 * message.header.stamp.nanosec)
        if self._sent_s is not None:
            self.latency_s.append(now_s - self._sent_s)
            self._sent_s = None

    def _on_state(self, message: GuardState) -> None:
        if self.acting and message.state in (GuardState.FAULT, GuardState.DISARMED):
            raise SystemExit(f"the guard stopped: {message.reason}")
        self.holds += message.state == GuardState.HOLDING != self._state
        self._state = message.state
        sent_s = self._sent_at.pop(message.accepted_sequence, None)
        if sent_s is not None:
            self.acknowledged_s.append(time.monotonic() - sent_s)

    def arm(self) -> None:
        """As soon as states and cameras have reached the guard; SystemExit with its answer after 30 s."""
        client, message = self.node.create_client(Arm, topics.ARM_SERVICE), "no answer"
        deadline_s = time.monotonic() + 30.0
        while time.monotonic() < deadline_s:
            self.spin(0.2)
            answer = client.call_async(Arm.Request(source="benchmark"))
            rclpy.spin_until_future_complete(self.node, answer, timeout_sec=2.0)
            if answer.done() and answer.result().success:
                return
            message = answer.result().message if answer.done() else message
        raise SystemExit(f"the guard cannot be armed: {message}")

    def spin(self, seconds: float) -> None:
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            rclpy.spin_once(self.node, timeout_sec=0.01)


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure_node(seconds: float) -> tuple[Surroundings, float]:
    """What came from the node over the time, and its share of a core."""
    command = [sys.executable, "-m", "diwa_robot.nodes.command_guard", "--ros-args", "-r", f"__ns:=/{topics.NAMESPACE}"]
    rclpy.init()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            lab = Surroundings()
            lab.arm()
            lab.acting = True
            lab.spin(1.0)
            for kept in (lab.came_s, lab.stamps_s, lab.latency_s, lab.acknowledged_s):
                kept.clear()
            used, begin_s = processor_seconds(process.pid), time.monotonic()
            lab.spin(seconds)
            share = (processor_seconds(process.pid) - used) / (time.monotonic() - begin_s)
        finally:
            process.terminate()
    rclpy.shutdown()
    return lab, share


def row(name: str, seconds: list[float]) -> list[str]:
    p50, p99 = np.percentile(np.array(seconds) * 1e3, [50, 99])
    return [name, f"{p50:.3f}", f"{p99:.3f}", f"{max(seconds) * 1e3:.3f}"]


def main(benchmark: Benchmark) -> None:
    os.environ |= {"ROS_DOMAIN_ID": str(benchmark.domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    costs = core_costs()
    lab, share = measure_node(benchmark.seconds)
    rate_hz = (len(lab.stamps_s) - 1) / (lab.stamps_s[-1] - lab.stamps_s[0])
    print(
        f"{machine()}, {benchmark.seconds:g} s; target_pose at {rate_hz:.2f} Hz; the node used {share:.2f} "
        f"cores and held {lab.holds} times\n"
    )
    rows = [row(f"one {name}, processor", costs[name]) for name in ("tick", "action", "current_pose")]
    rows.append(row("between two target_pose, by stamp", list(np.diff(lab.stamps_s))))
    rows.append(row("between two target_pose, as they come", list(np.diff(lab.came_s))))
    rows.append(row("action sent to next target_pose received", lab.latency_s))
    rows.append(row("action sent to accepted in guard_state", lab.acknowledged_s))
    print(markdown_table(["what", "p50 [ms]", "p99 [ms]", "max [ms]"], rows))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
