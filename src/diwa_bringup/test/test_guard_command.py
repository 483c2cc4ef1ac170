"""``diwa guard`` against a real command guard in a process of its own."""

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import rclpy
from diwa_msgs.msg import GuardState
from geometry_msgs.msg import PoseStamped
from rclpy.executors import SingleThreadedExecutor

from diwa_bringup import guard_command
from diwa_bringup.guard_command import STATES, GuardArm, GuardDisarm, GuardRecover, GuardStatus, describe
from diwa_conventions import topics
from diwa_conventions.errors import UserError
from diwa_conventions.qos import profile

REPORT = {
    "state": GuardState.ARMED,
    "armed_source": "teleop",
    "reason": "teleop is armed",
    "tracking_error_m": 0.0123,
    "tracking_error_rad": 0.02,
    "refused": 3,
    "limited": 1,
}


@pytest.fixture(scope="module")
def guard() -> Iterator[subprocess.Popen]:
    parameters = ["required_cameras:=['']", "state_timeout_s:=1.0", "action_timeout_s:=2.0", "max_tick_gap_s:=2.0"]
    command = [sys.executable, "-m", "diwa_robot.nodes.command_guard", "--ros-args", "-r", "__ns:=/diwa"]
    process = subprocess.Popen(command + [word for parameter in parameters for word in ("-p", parameter)])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def arm() -> Iterator[None]:
    """An arm that stands still in the middle of the workspace."""
    rclpy.init()
    node = rclpy.create_node("arm", namespace="diwa")
    out = node.create_publisher(PoseStamped, topics.CURRENT_POSE.name, profile(topics.CURRENT_POSE))

    def publish() -> None:
        message = PoseStamped()
        message.header.stamp, message.header.frame_id = node.get_clock().now().to_msg(), topics.BASE_FRAME
        message.pose.position.x, message.pose.position.z = 0.46, 0.33
        message.pose.orientation.x, message.pose.orientation.w = 1.0, 0.0
        out.publish(message)

    node.create_timer(1.0 / 60.0, publish)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            executor.spin_once(timeout_sec=0.1)

    thread = threading.Thread(target=serve)
    thread.start()
    yield
    over.set()
    thread.join()
    executor.shutdown()
    rclpy.shutdown()


def test_states_are_those_of_the_message():
    assert all(getattr(GuardState, name) == number for number, name in enumerate(STATES))


def test_one_line_says_what_it_does_why_and_how_well():
    assert describe(REPORT) == (
        "ARMED (teleop): teleop is armed; 12.3 mm and 0.020 rad from the target, 3 actions refused, 1 limited"
    )


def test_arm_that_nobody_knows_is_refused_with_its_reason(guard, capsys):
    assert GuardArm().run() == 1
    assert capsys.readouterr().err == "not armed: no current_pose has come yet\n"


def test_arming_status_and_disarming(guard, arm, capsys):
    assert GuardArm("policy").run() == 0
    assert capsys.readouterr().out == "policy moves the arm now\n"
    assert GuardArm().run() == 1
    assert capsys.readouterr().err == "not armed: policy is armed; disarm it first\n"
    assert GuardStatus().run() == 0
    assert "(policy): policy " in capsys.readouterr().out
    assert GuardDisarm("lunch").run() == 0
    assert capsys.readouterr().out == "nobody moves the arm now\n"
    assert GuardStatus().run() == 0
    assert capsys.readouterr().out.startswith("DISARMED: disarmed: lunch; ")


def test_recovering_without_a_fault_is_an_exit_code_of_1(guard, capsys):
    assert GuardRecover().run() == 1
    assert capsys.readouterr().err.startswith("there is no fault to recover from; the guard is ")


class Services:
    """Answers in the place of the services, in order; and who was asked."""

    def __init__(self, *answers: tuple[str, bool, str]) -> None:
        self.answers, self.asked = list(answers), []

    def call(self, name: str, *_: object) -> dict:
        self.asked.append(name)
        service, success, message = self.answers.pop(0)
        assert service == name
        return {"success": success, "message": message}


REFLEX = "the fault stays: the arm is not ready: cartesian_reflex"


def test_recovering_from_a_reflex_recovers_the_arm_first(monkeypatch, capsys):
    services = Services(
        ("recover", False, REFLEX), ("recover_arm", True, "reflex cleared"), ("recover", True, "recovered from: reflex")
    )
    monkeypatch.setattr(guard_command, "call", services.call)
    assert GuardRecover().run() == 0
    assert capsys.readouterr().out == "reflex cleared\nrecovered from: reflex\n"


def test_reflex_while_nobody_was_armed_is_recovered_too(monkeypatch, capsys):
    idle = "there is no fault to recover from; the guard is DISARMED; the arm is not ready: cartesian_reflex"
    services = Services(("recover", False, idle), ("recover_arm", True, "reflex cleared"))
    monkeypatch.setattr(guard_command, "call", services.call)
    assert GuardRecover().run() == 0
    assert capsys.readouterr().out == "reflex cleared\n"


def test_arm_that_cannot_be_recovered_is_said_and_the_guard_is_left_alone(monkeypatch, capsys):
    services = Services(("recover", False, REFLEX), ("recover_arm", False, "the user stop is pressed: release it"))
    monkeypatch.setattr(guard_command, "call", services.call)
    assert GuardRecover().run() == 1
    assert capsys.readouterr().err == "the user stop is pressed: release it\n"
    assert services.asked == ["recover", "recover_arm"]


def test_guard_that_is_not_there_is_one_line():
    with pytest.raises(UserError, match="nothing comes on /nowhere/guard_state: is the command guard running"):
        GuardStatus(namespace="nowhere").run()
    with pytest.raises(UserError, match="nobody offers /nowhere/arm: is the command guard running"):
        GuardArm(namespace="nowhere").run()
