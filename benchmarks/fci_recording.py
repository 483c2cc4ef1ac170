"""Recordings through the fci driver: how well the arm follows its target, how evenly the loops run, what is in the bag.

panda: play of the scripted operator in the playroom, whose arm is a Panda (FCI version 5), cameras and all.
fr3: a smooth path, as actions through the command guard, to franky-sim (version 10; physics, no scene, no cameras).

python benchmarks/fci_recording.py --seconds 60
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rclpy
import tyro
from diwa_msgs.msg import ArmState, DeltaAction
from diwa_msgs.srv import Arm
from machine import machine, markdown_table
from rclpy.node import Node

from diwa_conventions import topics
from diwa_conventions.bags.reader import Bag
from diwa_conventions.qos import message_type, profile
from diwa_conventions.rates import RECORD_RATE_HZ
from diwa_conventions.topics import Topic

ADDRESSES = {"panda": "127.0.8.41", "fr3": "127.0.8.42"}
FRANKY_SIM = Path(__file__).parents[1] / "src/diwa_robot/test/franky_sim_server.py"
STATES = (topics.CURRENT_POSE, topics.JOINT_STATES, topics.TARGET_POSE)
IMAGES = (topics.STATIC_IMAGE, topics.GRIPPER_IMAGE)
COUNTED = (*STATES, *IMAGES, topics.EXECUTED_ACTION, topics.GRIPPER_COMMAND, topics.GUARD_STATE, topics.ARM_STATE)
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Benchmark:
    """Which robots, for how long."""

    seconds: float = 60.0
    robots: tuple[Literal["panda", "fr3"], ...] = ("panda", "fr3")
    parameters: tuple[str, ...] = ()
    """Of the driver, as name:=value."""
    folder: Path | None = None
    """Where the bags are written (and removed); by default the system's place for temporary files."""
    domain: int = 95
    """ROS_DOMAIN_ID of the measurement."""


class Watch:
    """Hears what the driver says of itself."""

    def __init__(self) -> None:
        self.node: Node = rclpy.create_node("benchmark", namespace=topics.NAMESPACE)
        self.figures: dict[str, str] = {}
        self.arm: ArmState | None = None
        self.faults: list[str] = []
        self._subscribe(topics.DIAGNOSTICS, self._on_diagnostics)
        self._subscribe(topics.ARM_STATE, self._on_arm)

    def _subscribe(self, topic: Topic, callback: Any) -> None:
        self.node.create_subscription(message_type(topic), topic.name, callback, profile(topic))

    def _on_diagnostics(self, message: Any) -> None:
        for status in message.status:
            if status.name.endswith("fci_driver"):
                self.figures |= {item.key: item.value for item in status.values}

    def _on_arm(self, message: ArmState) -> None:
        if message.state == ArmState.FAULT and (not self.faults or self.faults[-1] != message.reason):
            self.faults.append(message.reason)
        self.arm = message

    def until(self, condition: Any, what: str) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            rclpy.spin_once(self.node, timeout_sec=0.05)
            if time.monotonic() > deadline:
                raise SystemExit(f"{what} did not happen within {TIMEOUT_S:g} s; the arm: {self.arm}")

    def ready(self) -> None:
        self.until(lambda: self.arm is not None and self.arm.state == ArmState.READY, "contact with the arm")


def ros(module: str, **values: Any) -> list[str]:
    command = [sys.executable, "-m", module, "--ros-args", "-r", f"__ns:=/{topics.NAMESPACE}"]
    return [*command, *(word for name, value in values.items() for word in ("-p", f"{name}:={value}"))]


@contextmanager
def running(*commands: list[str]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The processes; the first to be started is the last to be stopped."""
    processes = []
    with ExitStack() as stack:
        for command in commands:
            processes.append(subprocess.Popen(command, stdin=subprocess.PIPE))
            stack.callback(_end, processes[-1])
        yield processes


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def driver(benchmark: Benchmark, robot: str) -> list[str]:
    command = ros("diwa_robot.nodes.fci_driver", robot_ip=ADDRESSES[robot], robot_type=robot)
    return [*command, *(word for parameter in benchmark.parameters for word in ("-p", parameter))]


def recorder(benchmark: Benchmark, bag: Path, *needed: Topic) -> list[str]:
    required = ", ".join(topic.name for topic in needed)
    return ros(
        "diwa_teleop.nodes.recorder",
        bag=bag,
        autostart="true",
        duration_s=benchmark.seconds,
        required_topics=f"[{required}]",
    )


def play(benchmark: Benchmark, bag: Path, watch: Watch) -> None:
    """The operator plays; the recorder ends by itself."""
    commands = [
        ros("diwa_sim.nodes.playroom", fci=ADDRESSES["panda"]),
        driver(benchmark, "panda"),
        ros("diwa_robot.nodes.command_guard"),
        ros("diwa_teleop.nodes.teleop"),
    ]
    with running(*commands):
        watch.ready()
        with running(ros("diwa_sim.nodes.operator", mode="play"), recorder(benchmark, bag, *STATES, *IMAGES)) as both:
            watch.until(lambda: both[1].poll() is not None, "the end of the recording")


def path(benchmark: Benchmark, bag: Path, watch: Watch) -> None:
    """A smooth path in all six directions as actions of teleop."""
    server = [sys.executable, str(FRANKY_SIM), ADDRESSES["fr3"]]
    guard = ros("diwa_robot.nodes.command_guard", required_cameras="['']")
    with running(server, driver(benchmark, "fr3"), guard):
        watch.ready()
        with running(recorder(benchmark, bag, *STATES)) as recording:
            source = Source(watch)
            watch.until(source.armed, "arming")
            watch.until(lambda: source.sent() and recording[0].poll() is not None, "the end of the recording")


class Source:
    """Actions of teleop at 30 Hz: a Lissajous figure of 8 cm, turning by 0.3 rad to and fro."""

    def __init__(self, watch: Watch) -> None:
        self._node = watch.node
        self._out = watch.node.create_publisher(DeltaAction, topics.ACTION.name, profile(topics.ACTION))
        self._arm = watch.node.create_client(Arm, topics.ARM_SERVICE)
        self._asked: Any = None
        self._count = 0
        self._began_s = 0.0

    def armed(self) -> bool:
        if not self._arm.service_is_ready():
            return False
        if self._asked is None:
            self._asked = self._arm.call_async(Arm.Request(source=topics.TELEOP_SOURCE))
        if not self._asked.done():
            return False
        if not self._asked.result().success:
            self._asked = None
        self._began_s = time.monotonic()
        return self._asked is not None

    def sent(self) -> bool:
        """Send what is due; always True."""
        while self._count < (time.monotonic() - self._began_s) * RECORD_RATE_HZ:
            self._count += 1
            self._out.publish(self._action(self._count / RECORD_RATE_HZ))
        return True

    def _action(self, time_s: float) -> DeltaAction:
        rates = np.array([0.08 * 1.1, 0.08 * 1.7, 0.06 * 0.7]) * np.cos(np.array([1.1, 1.7, 0.7]) * time_s)
        turning = 0.3 * 0.9 * np.cos(0.9 * time_s)
        message = DeltaAction(source=topics.TELEOP_SOURCE, sequence=self._count, duration_s=1.0 / 30.0, gripper=1.0)
        message.header.stamp, message.header.frame_id = self._node.get_clock().now().to_msg(), topics.BASE_FRAME
        message.translation, message.rotation = rates / 0.6, np.array([0.0, 0.0, turning / 1.5])
        return message


def poses(bag: Bag, topic: Topic) -> tuple[np.ndarray, np.ndarray]:
    """Stamps (N,) [s] and positions (N, 3) [m]."""
    stamps, positions = [], []
    for message in bag.messages([f"/{topics.NAMESPACE}/{topic.name}"]):
        pose = bag.decode(message)
        stamps.append(pose.header.stamp.sec + 1e-9 * pose.header.stamp.nanosec)
        point = pose.pose.position
        positions.append([point.x, point.y, point.z])
    return np.array(stamps), np.array(positions)


def errors_mm(bag: Bag) -> tuple[np.ndarray, float, np.ndarray]:
    """Distance of measured and target pose; the delay [s] that explains most of it, and the distance beside that."""
    target_s, target = poses(bag, topics.TARGET_POSE)
    measured_s, measured = poses(bag, topics.CURRENT_POSE)
    followed = (measured_s > target_s[0] + 1.0) & (measured_s < target_s[-1])
    measured_s, measured = measured_s[followed], measured[followed]

    def distances(delay_s: float) -> np.ndarray:
        wanted = np.stack([np.interp(measured_s - delay_s, target_s, column) for column in target.T], axis=1)
        return 1e3 * np.linalg.norm(measured - wanted, axis=1)

    delays = np.arange(0.0, 0.3, 0.005)
    best = float(delays[np.argmin([distances(delay).mean() for delay in delays])])
    return distances(0.0), best, distances(best)


def messages(bag: Bag, topic: Topic) -> int:
    found = bag.topics.get(f"/{topics.NAMESPACE}/{topic.name}")
    return found.messages if found else 0


def report(robot: str, bag: Bag, watch: Watch) -> tuple[list[str], list[str]]:
    error, delay_s, beside = errors_mm(bag)
    stamps, _ = poses(bag, topics.CURRENT_POSE)
    gaps_ms = 1e3 * np.diff(stamps)
    figures = watch.figures
    tracking = [f"{error.mean():.1f}", f"{np.percentile(error, 95):.1f}", f"{error.max():.1f}"]
    tracking += [f"{1e3 * delay_s:.0f}", f"{beside.mean():.1f}", f"{np.percentile(beside, 95):.1f}"]
    timing = [f"{1e3 / gaps_ms.mean():.1f}", f"{np.percentile(gaps_ms, 99):.1f}", f"{gaps_ms.max():.1f}"]
    timing += [figures.get(name, "") for name in ("robot_time_share", "least_success_rate", "lost_commands")]
    counts = [str(messages(bag, topic)) for topic in COUNTED]
    print(
        f"{robot}: {bag.duration_s:.1f} s, {bag.size_bytes / 1e6:.0f} MB; faults: {'; '.join(watch.faults) or 'none'}"
    )
    return [robot, *tracking, *timing], [robot, *counts]


def main(benchmark: Benchmark) -> None:
    os.environ |= {"ROS_DOMAIN_ID": str(benchmark.domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    place = Path(tempfile.mkdtemp(dir=benchmark.folder))
    rows, counts = [], []
    rclpy.init()
    print(f"{machine()}, {benchmark.seconds:g} s each, {' '.join(benchmark.parameters) or 'default parameters'}\n")
    try:
        for robot in benchmark.robots:
            watch = Watch()
            bag = place / robot
            play(benchmark, bag, watch) if robot == "panda" else path(benchmark, bag, watch)
            row, count = report(robot, Bag(bag), watch)
            rows.append(row)
            counts.append(count)
            watch.node.destroy_node()
    finally:
        shutil.rmtree(place)
        rclpy.shutdown()
    head = ["robot", "error mean [mm]", "p95", "max", "delay [ms]", "beside it, mean [mm]", "p95", "state rate [Hz]"]
    head += ["gap p99 [ms]", "largest", "robot's time / ours", "least success rate", "commands lost"]
    print("\n" + markdown_table(head, rows) + "\n")
    print(markdown_table(["messages in the bag", *(topic.name for topic in COUNTED)], counts))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
