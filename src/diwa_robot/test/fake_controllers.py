"""A robot's ROS 2 controllers as a process, for tests: what CRISP's controllers enforce, and nothing that they do not.

An impedance-like arm that lags behind its target by ``TAU_S``; the error is clipped per axis at 0.1 m and 0.5 rad;
while two publish targets, all are dropped; the last target is followed for ever; activation takes the measured pose for
a target. State topics are best effort. ``fake/do`` makes it misbehave, ``fake/report`` says what it was told.
"""

import argparse
import json
import math
import sys
import time

import numpy as np
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
from diwa_robot.so3 import rotation_matrix, rotation_vector

HOME = Pose(np.array([0.46, 0.0, 0.33]), np.diag([1.0, -1.0, -1.0]))
RATE_HZ = 100.0
TAU_S = 0.05
CLIP_M, CLIP_RAD = 0.1, 0.5
FINGERS_M_S = 0.2
REPORT_S = 0.025
NOISE_M = 1e-6


class FakeControllers(Node):
    """Follows targets as the controller does, publishes what the broadcasters publish, moves a hand."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__("cartesian_impedance_controller", namespace=options.namespace)
        self.options, self.dialect = options, DIALECTS[options.dialect]
        self.prefix = options.joint_prefix or self.dialect.joint_prefix
        self.pose, self.target = HOME, HOME
        self.follows = self.speaks = self.noisy = True
        self.frame, self.nan = "base", False
        self.width_m = self.wanted_m = 0.08
        self.blocked, self.fingers_m_s = False, FINGERS_M_S
        self.done = self.received = self.dropped = self.clipped = 0
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
        self.received += 1
        if not self.dialect.target_is_array:
            if self.count_publishers(self.target_in.topic_name) > 1:
                self.dropped += 1
                return
            point, turn = message.pose.position, message.pose.orientation
            self.target = Pose.from_quaternion([point.x, point.y, point.z], [turn.x, turn.y, turn.z, turn.w])
        elif message.data[0]:
            rotation = self.target.rotation
            if message.data[11]:
                rotation = np.array(message.data[3:12]).reshape(3, 3)
            self.target = Pose(np.array(message.data[:3]), rotation)

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
        self.pose = self.target = HOME
        self.follows = self.speaks = self.noisy = True
        self.frame, self.nan = "base", False
        self.prefix = self.options.joint_prefix or self.dialect.joint_prefix
        self.width_m = self.wanted_m = 0.08
        self.blocked, self.fingers_m_s = False, FINGERS_M_S

    def do_silent(self) -> None:
        self.speaks = False

    def do_freeze(self) -> None:
        """What the robot says of itself is no longer measured."""
        self.noisy = self.follows = False

    def do_deactivate(self) -> None:
        self.follows = False

    def do_activate(self) -> None:
        """As both controllers do: whatever was the target, it is where the arm stands."""
        self.target, self.follows = self.pose, True

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
        if self.follows:
            self.follow(min(1.0, passed_s / TAU_S))
        if not self.blocked:
            way_m = self.wanted_m - self.width_m
            self.width_m += math.copysign(min(abs(way_m), self.fingers_m_s * passed_s), way_m)
        if self.speaks:
            self.publish()

    def follow(self, share: float) -> None:
        error_m = self.target.position - self.pose.position
        error_rad = rotation_vector(self.target.rotation @ self.pose.rotation.T)
        kept_m, kept_rad = np.clip(error_m, -CLIP_M, CLIP_M), np.clip(error_rad, -CLIP_RAD, CLIP_RAD)
        # What rounding and measuring add is not beyond the clip.
        beyond_m, beyond_rad = np.abs(error_m - kept_m).max(), np.abs(error_rad - kept_rad).max()
        self.clipped += bool(beyond_m > 1e-4 or beyond_rad > 1e-3)
        self.pose = Pose(self.pose.position + share * kept_m, rotation_matrix(share * kept_rad) @ self.pose.rotation)

    def publish(self) -> None:
        stamp = self.get_clock().now().to_msg()
        noise_m = self.random.normal(0.0, NOISE_M, 3) if self.noisy else np.zeros(3)
        message = PoseStamped(pose=pose_to_message(Pose(self.pose.position + noise_m, self.pose.rotation)))
        message.header.stamp, message.header.frame_id = stamp, self.frame
        if self.nan:
            message.pose.position.y = math.nan
        self.pose_out.publish(message)
        joints = JointState(name=[f"{self.prefix}_joint{i}" for i in (7, 6, 5, 4, 3, 2, 1)])  # in no special order
        joints.header.stamp = stamp
        joints.position = [0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
        joints.velocity, joints.effort = [0.0] * 7, [7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
        self.joints_out.publish(joints)
        self.publish_adapter(stamp)

    def publish_adapter(self, stamp) -> None:
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
            "clipped": self.clipped,
            "target": self.target.position.tolist(),
            "turn": self.target.rotation.tolist(),
            "pose": self.pose.position.tolist(),
            "gripper": self.told_gripper,
            "width_m": self.width_m,
        }


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dialect", default="franka_ros2")
    parser.add_argument("--namespace", default="/robot")
    parser.add_argument("--joint-prefix", default="")
    return parser.parse_args()


def run(make=FakeControllers) -> int:
    stay_on_this_machine()
    return run_node(lambda: make(options()))


if __name__ == "__main__":
    sys.exit(run())
