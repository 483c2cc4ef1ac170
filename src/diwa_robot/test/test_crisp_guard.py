"""Command guard, crisp driver and controllers in one chain: actions move the arm, and a driver in trouble stops it."""

import time

import numpy as np
import pytest
import rclpy
from crisp_lab import PATIENT, TIMEOUT_S, WITHOUT_FRANKA_MSGS, end, start_driver, start_fake
from diwa_msgs.msg import ArmState, DeltaAction, GuardState
from diwa_msgs.srv import Arm, Recover
from geometry_msgs.msg import PoseStamped
from guard_lab import PATIENT as PATIENT_GUARD
from guard_lab import end as end_guard
from guard_lab import start as start_guard

from diwa_conventions import topics
from diwa_conventions.qos import message_type, profile

TOPICS = (topics.GUARD_STATE, topics.CURRENT_POSE, topics.ARM_STATE)


class Chain:
    """A source of actions, thirty a second while ``moving``, and ears."""

    def __init__(self) -> None:
        self.node = rclpy.create_node("source", namespace="/diwa")
        self.seen = {}
        for topic in TOPICS:
            self.node.create_subscription(
                message_type(topic), topic.name, lambda message, t=topic: self.seen.update({t: message}), profile(topic)
            )
        self.out = self.node.create_publisher(DeltaAction, topics.ACTION.name, profile(topics.ACTION))
        self.sequence, self.translation = 0, None
        self.node.create_timer(1.0 / 30.0, self._act)

    def _act(self) -> None:
        if self.translation is None:
            return
        self.sequence += 1
        message = DeltaAction(source="teleop", sequence=self.sequence, duration_s=1.0 / 30.0, gripper=1.0)
        message.header.stamp, message.header.frame_id = self.node.get_clock().now().to_msg(), topics.BASE_FRAME
        message.translation = np.array(self.translation)
        self.out.publish(message)

    def until(self, condition, what: str):
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            if all(topic in self.seen for topic in TOPICS) and condition():
                return
            rclpy.spin_once(self.node, timeout_sec=0.02)
        pytest.fail(f"{what} did not happen within {TIMEOUT_S:.0f} s; newest: {self.seen}")

    def ask(self, kind, name: str, **request):
        """Ask until it is granted."""
        client = self.node.create_client(kind, f"/diwa/{name}")
        self.until(client.service_is_ready, name)
        asked = [client.call_async(kind.Request(**request))]

        def granted() -> bool:
            if asked[0].done() and not asked[0].result().success:
                asked[0] = client.call_async(kind.Request(**request))
            return asked[0].done() and asked[0].result().success

        self.until(granted, f"{name} {request}")

    def x_m(self) -> float:
        return self.seen[topics.CURRENT_POSE].pose.position.x


@pytest.fixture(scope="module")
def chain():
    rclpy.init()
    processes = [start_fake(), start_driver(*WITHOUT_FRANKA_MSGS, *PATIENT)]
    guard = start_guard(*PATIENT_GUARD, "required_cameras:=['']")
    chain = Chain()
    yield chain
    chain.node.destroy_node()
    end_guard(guard)
    for process in processes:
        end(process)
    rclpy.shutdown()


def test_actions_move_the_arm_and_a_driver_in_trouble_latches_the_guard_until_both_are_recovered(chain):
    chain.until(lambda: chain.seen[topics.ARM_STATE].state == ArmState.READY, "readiness")
    chain.ask(Arm, topics.ARM_SERVICE, source="teleop")
    begun_m = chain.x_m()
    chain.translation = (0.3, 0.0, 0.0)
    chain.until(lambda: chain.x_m() > begun_m + 0.05, "motion")

    intruder = rclpy.create_node("intruder", namespace="/robot")
    intruder.create_publisher(PoseStamped, "target_pose", profile(topics.TARGET_POSE))
    chain.until(lambda: chain.seen[topics.GUARD_STATE].state == GuardState.FAULT, "the guard's fault")
    reason = chain.seen[topics.GUARD_STATE].reason
    assert reason.startswith("the arm is not ready: /robot/target_pose has another publisher: /robot/intruder")
    chain.translation = None
    intruder.destroy_node()

    chain.ask(Recover, topics.RECOVER_ARM_SERVICE)
    chain.ask(Recover, topics.RECOVER_SERVICE)
    chain.ask(Arm, topics.ARM_SERVICE, source="teleop")
    begun_m = chain.x_m()
    chain.sequence, chain.translation = 0, (-0.3, 0.0, 0.0)
    chain.until(lambda: chain.x_m() < begun_m - 0.05, "motion after recovery")
