"""What the crisp driver costs beside controllers that publish at their own rate, and what it adds to a target's way.

python benchmarks/crisp_driver.py --seconds 10
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np
import rclpy
import tyro
from diwa_msgs.msg import ArmState
from geometry_msgs.msg import PoseStamped
from machine import machine, markdown_table
from sensor_msgs.msg import JointState

from diwa_conventions import topics
from diwa_conventions.qos import profile

HOME_M = (0.46, 0.0, 0.33)
SWEEP_M = 1e-6
"""By which each target differs from the one before: that is how it is known again."""


@dataclass(frozen=True)
class Benchmark:
    """A robot's state at these rates, targets at 120 Hz; no franka_msgs needed."""

    seconds: float = 10.0
    rates_hz: tuple[float, ...] = (200.0, 1000.0)
    """Of measured pose and joint state: as the parameter files ask for, and what controllers do by themselves."""
    domain: int = 93
    """ROS_DOMAIN_ID of the measurement."""


class Robot:
    """Publishes what a robot does, sends targets, hears what the controller would."""

    def __init__(self, rate_hz: float) -> None:
        self.node = rclpy.create_node("benchmark", namespace="/diwa")
        make = self.node.create_publisher
        self.pose_out = make(PoseStamped, "/robot/current_pose", profile(topics.CURRENT_POSE))
        self.joints_out = make(JointState, "/robot/franka/joint_states", profile(topics.JOINT_STATES))
        self.target_out = make(PoseStamped, topics.TARGET_POSE.name, profile(topics.TARGET_POSE))
        hear = self.node.create_subscription
        hear(PoseStamped, "/robot/target_pose", self._told, profile(topics.TARGET_POSE))
        hear(ArmState, topics.ARM_STATE.name, self._arm_state, profile(topics.ARM_STATE))
        self.ready, self.sent, self.ways_s = False, {}, []
        self.joints = JointState(name=[f"fr3_joint{i}" for i in range(1, 8)], position=[0.1] * 7, velocity=[0.0] * 7)
        self.node.create_timer(1.0 / rate_hz, self._state)
        self.node.create_timer(1.0 / topics.STATE_RATE_HZ, self._target)

    def _pose(self, x_m: float, frame: str) -> PoseStamped:
        message = PoseStamped()
        message.header.stamp, message.header.frame_id = self.node.get_clock().now().to_msg(), frame
        point = message.pose.position
        point.x, point.y, point.z = x_m, *HOME_M[1:]
        message.pose.orientation.x, message.pose.orientation.w = 1.0, 0.0
        return message

    def _state(self) -> None:
        message = self._pose(HOME_M[0], "base")
        self.joints.header.stamp = message.header.stamp
        self.pose_out.publish(message)
        self.joints_out.publish(self.joints)

    def _target(self) -> None:
        if not self.ready:
            return
        number = len(self.sent) + 1
        self.sent[number] = time.monotonic()
        self.target_out.publish(self._pose(HOME_M[0] + number * SWEEP_M, topics.BASE_FRAME))

    def _told(self, message: PoseStamped) -> None:
        number = round((message.pose.position.x - HOME_M[0]) / SWEEP_M)
        if number in self.sent:
            self.ways_s.append(time.monotonic() - self.sent[number])

    def _arm_state(self, message: ArmState) -> None:
        self.ready = message.state == ArmState.READY


def processor_s(pid: int) -> float:
    """Processor time that a process has used."""
    with open(f"/proc/{pid}/stat") as file:
        user, system = file.read().rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def measure(rate_hz: float, seconds: float) -> list[str]:
    """One row of the table."""
    command = [sys.executable, "-m", "diwa_robot.nodes.crisp_driver", "--ros-args", "-r", "__ns:=/diwa"]
    for parameter in ("robot_namespace:=/robot", "robot_state:=false", "recovery:=false", "gripper:=none"):
        command += ["-p", parameter]
    driver = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    robot = Robot(rate_hz)
    try:
        while len(robot.ways_s) < 100:
            rclpy.spin_once(robot.node, timeout_sec=0.1)
        robot.ways_s.clear()
        begun_s, used_s = time.monotonic(), processor_s(driver.pid)
        while time.monotonic() - begun_s < seconds:
            rclpy.spin_once(robot.node, timeout_sec=0.1)
        used_s = processor_s(driver.pid) - used_s
    finally:
        driver.terminate()
        driver.wait()
        robot.node.destroy_node()
    ways_ms = 1e3 * np.array(robot.ways_s)
    return [
        f"{rate_hz:g}",
        f"{100.0 * used_s / seconds:.0f} %",
        str(len(ways_ms)),
        f"{np.median(ways_ms):.2f}",
        f"{np.percentile(ways_ms, 99):.2f}",
    ]


def main() -> int:
    asked = tyro.cli(Benchmark)
    os.environ["ROS_DOMAIN_ID"] = str(asked.domain)
    rclpy.init()
    rows = [measure(rate_hz, asked.seconds) for rate_hz in asked.rates_hz]
    rclpy.shutdown()
    print(machine())
    head = ["state [Hz]", "one core", "targets", "target_pose to the controller p50 [ms]", "p99 [ms]"]
    print(markdown_table(head, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
