"""A robot's ROS 2 controllers as a process, for tests: what CRISP's controllers enforce, and nothing that they do not.

The arm and its controller are those of ``franka_world.py``; while two publish targets, all are dropped. State topics
are best effort. ``fake/do`` makes it misbehave, ``fake/report`` says what it was told.
"""

import argparse
import json
import math
import sys
import time

import numpy as np
from franka_world import HOME, VERSIONS, FrankaWorld
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, String

from diwa_conventions.actions import Pose
from diwa_conventions.discovery import stay_on_this_machine
from diwa_conventions.messages import pose_to_message
from diwa_conventions.node_main import run_node
from diwa_robot.drivers.dialects import DIALECTS, in_namespace
from diwa_robot.nodes.crisp_robot import NEWEST

__all__ = ["HOME", "FakeControllers", "run"]

RATE_HZ = 100.0
FINGERS_M_S = 0.2
REPORT_S = 0.025
DEAF_S = 0.2
"""After ``fake/do well``, which moves the arm in no time: targets for where it was may be on their way."""
NOISE_M = 1e-6


class FakeControllers(Node):
    """Follows targets as the controller does, publishes what the broadcasters publish, moves a hand."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__("cartesian_impedance_controller", namespace=options.namespace)
        self.options, self.dialect = options, DIALECTS[VERSIONS[options.version]]
        self.world = FrankaWorld(options.version)
        self.prefix = options.joint_prefix or self.dialect.joint_prefix
        self.speaks = self.noisy = True
        self.frame, self.nan = "base", False
        self.deaf_s = 0.0
        self.worst_m = 0.0
        """The largest lead in force since ``fake/do watch``."""
        self.width_m = self.wanted_m = 0.08
        self.blocked, self.fingers_m_s = False, FINGERS_M_S
        self.done = self.received = self.dropped = 0
        self.told_gripper: list[float] = []
        self.random = np.random.default_rng(7)
        named = self.named = lambda name: in_namespace(options.namespace, name)
        self.pose_out = self.create_publisher(PoseStamped, named("current_pose"), NEWEST)
        self.joints_out = self.create_publisher(JointState, named(self.dialect.joint_topic), NEWEST)
        self.target_in = None
        self.load()
        self.open_gripper()
        self.report_out = self.create_publisher(String, named("fake/report"), 10)
        self.create_subscription(String, named("fake/do"), self.on_do, 10)
        self.before_s = time.monotonic()
        self.create_timer(1.0 / RATE_HZ, self.step)
        self.create_timer(REPORT_S, self.report)

    # What the controller is told

    def load(self) -> None:
        kind, topic = PoseStamped, self.named(self.dialect.target_topic)
        if self.dialect.target_is_array:
            kind = Float64MultiArray
        self.target_in = self.create_subscription(kind, topic, self.on_target, 1)

    def on_target(self, message) -> None:
        if time.monotonic() < self.deaf_s:
            return
        self.received += 1
        if not self.dialect.target_is_array:
            if self.count_publishers(self.target_in.topic_name) > 1:
                self.dropped += 1
                return
            point, turn = message.pose.position, message.pose.orientation
            turned = [turn.x, turn.y, turn.z, turn.w]
            self.world.take(Pose.from_quaternion([point.x, point.y, point.z], turned))
        elif message.data[0]:
            rotation = self.world.target.rotation
            if message.data[11]:
                rotation = np.array(message.data[3:12]).reshape(3, 3)
            self.world.take(Pose(np.array(message.data[:3]), rotation))

    def open_gripper(self) -> None:
        """CRISP's adapter: one number, 1 open, 0 closed."""
        self.hand_out = self.create_publisher(JointState, self.named("gripper/joint_states"), NEWEST)
        topic = self.named("gripper/gripper_position_controller/commands")
        self.create_subscription(Float64MultiArray, topic, self.on_gripper, 1)

    def on_gripper(self, message: Float64MultiArray) -> None:
        self.told_gripper.append(message.data[0])
        self.wanted_m = 0.08 * message.data[0]

    # What it does

    def on_do(self, message: String) -> None:
        word, _, rest = message.data.partition(" ")
        getattr(self, f"do_{word}")(*rest.split())
        self.done += 1

    def do_well(self) -> None:
        """As it was at the start."""
        self.world = FrankaWorld(self.options.version)
        self.deaf_s = time.monotonic() + DEAF_S
        self.speaks = self.noisy = True
        self.frame, self.nan = "base", False
        self.prefix = self.options.joint_prefix or self.dialect.joint_prefix
        self.width_m = self.wanted_m = 0.08
        self.blocked, self.fingers_m_s = False, FINGERS_M_S

    def do_silent(self) -> None:
        self.speaks = False

    def do_freeze(self) -> None:
        """What the robot says of itself is no longer measured."""
        self.noisy, self.world.blocked = False, True

    def do_obstruct(self) -> None:
        """Something stands in the way, or the controller does nothing."""
        self.world.blocked = True

    def do_watch(self) -> None:
        self.worst_m = 0.0

    def do_nan(self) -> None:
        self.nan = True

    def do_frame(self, name: str) -> None:
        self.frame = name

    def do_prefix(self, name: str) -> None:
        self.prefix = name

    def do_unload(self) -> None:
        self.destroy_subscription(self.target_in)

    def do_load(self) -> None:
        self.load()

    def do_fingers(self, speed_m_s: str) -> None:
        self.fingers_m_s = float(speed_m_s)

    def do_block(self) -> None:
        self.blocked = True

    def step(self) -> None:
        now_s = time.monotonic()
        passed_s, self.before_s = now_s - self.before_s, now_s
        self.world.step(passed_s)
        self.worst_m = max(self.worst_m, self.world.lead()[0])
        if not self.blocked:
            way_m = self.wanted_m - self.width_m
            self.width_m += math.copysign(min(abs(way_m), self.fingers_m_s * passed_s), way_m)
        if self.speaks:
            self.publish()

    def publish(self) -> None:
        stamp = self.get_clock().now().to_msg()
        if self.world.broadcasting:
            self.publish_arm(stamp)
        self.publish_hand(stamp)

    def measured(self) -> Pose:
        """What the broadcasters know: the last pose of a robot that has stopped comes again and again."""
        live = self.noisy and self.world.hardware == "active"
        noise_m = self.random.normal(0.0, NOISE_M, 3) if live else np.zeros(3)
        return Pose(self.world.shown.pose.position + noise_m, self.world.shown.pose.rotation)

    def publish_arm(self, stamp) -> None:
        message = PoseStamped(pose=pose_to_message(self.measured()))
        message.header.stamp, message.header.frame_id = stamp, self.frame
        if self.nan:
            message.pose.position.y = math.nan
        self.pose_out.publish(message)
        joints = JointState(name=[f"{self.prefix}_joint{i}" for i in (7, 6, 5, 4, 3, 2, 1)])  # in no special order
        joints.header.stamp = stamp
        joints.position = [0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
        joints.velocity, joints.effort = [0.0] * 7, [7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
        self.joints_out.publish(joints)

    def publish_hand(self, stamp) -> None:
        hand = JointState(name=["gripper_joint"], position=[self.width_m / 0.08])
        hand.header.stamp = stamp
        self.hand_out.publish(hand)

    def report(self) -> None:
        self.report_out.publish(String(data=json.dumps(self.told())))

    def told(self) -> dict:
        return {
            "done": self.done,
            "received": self.received,
            "dropped": self.dropped,
            "clipped": self.world.clipped,
            "target": self.world.target.position.tolist(),
            "turn": self.world.target.rotation.tolist(),
            "pose": self.world.pose.position.tolist(),
            "controller": self.world.controller,
            "worst_m": self.worst_m,
            "gripper": self.told_gripper,
            "width_m": self.width_m,
        }


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--version", default="franka_ros2 3.3", choices=VERSIONS)
    parser.add_argument("--namespace", default="/robot")
    parser.add_argument("--joint-prefix", default="")
    return parser.parse_args()


def run(make=FakeControllers) -> int:
    stay_on_this_machine()
    return run_node(lambda: make(options()))


if __name__ == "__main__":
    sys.exit(run())
