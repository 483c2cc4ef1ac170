"""The fci driver on an FR3's interface (FCI version 10) with physics: franky-sim, in a process of its own."""

import pytest
import rclpy
from diwa_msgs.msg import ArmState
from fci_lab import PATIENT, QUIET, Lab, end, fr3, start

from diwa_conventions import topics

pytest.importorskip("franka", reason="the driver's library, franka-rs, is not installed: make setup EXTRA=hardware")
pytest.importorskip("franky_sim", reason="the simulated FR3, franky-sim, is not installed: make setup EXTRA=hardware")

ADDRESS = "127.0.8.21"


@pytest.fixture(scope="module", autouse=True)
def ros():
    rclpy.init()
    yield
    rclpy.shutdown()


@pytest.fixture(scope="module")
def robot():
    robot = fr3(ADDRESS)
    yield robot
    robot.end()


@pytest.fixture(scope="module")
def lab(robot):
    driver = start(ADDRESS, *PATIENT, *QUIET)
    lab = Lab()
    lab.state_is(ArmState.READY)
    yield lab
    lab.node.destroy_node()
    output = end(driver)
    assert driver.returncode == 0
    assert "Traceback" not in output, output


def test_says_that_it_is_an_fr3(lab):
    state = lab.state_is(ArmState.READY)
    assert state.robot == f"fr3 at {ADDRESS}, FCI version 10 (FR3 system 5.9 or newer)"


def test_physical_arm_follows_in_place_and_turn_and_holds(lab):
    lab.stand()
    wanted = lab.go((0.04, 0.06, -0.04), (0.0, 0.0, 0.3), seconds=2.0)
    lab.arrives(wanted, 0.015)
    lab.until(lambda: lab.pose().angle_rad(wanted) < 0.06, "the turn")
    lab.target = None
    lab.silence()
    lab.next(topics.CURRENT_POSE, 60)
    assert lab.pose().distance_m(wanted) < 0.015


def test_hand_grasps_and_opens(lab):
    lab.until(lambda: lab.grip(-1.0) or lab.width_m() < 0.01, "closing")
    lab.until(lambda: lab.grip(1.0) or lab.width_m() > 0.07, "opening")


def test_second_client_is_told_that_another_program_may_hold_the_robot(lab):
    second = start(ADDRESS, *PATIENT, *QUIET, "connect_timeout_s:=1.0", "gripper:=false")
    waiting = lambda: any("does another program hold" in s.reason for s in lab.seen[topics.ARM_STATE][-60:])  # noqa: E731
    lab.until(waiting, "the second driver's reason")
    output = end(second)
    assert "Traceback" not in output
