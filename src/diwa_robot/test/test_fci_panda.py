"""The fci driver on a Panda's interface (FCI version 5) in software: the paper's arm, its protocol, its faults."""

import math
import re

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from diwa_msgs.msg import ArmState
from fci_lab import PATIENT, QUIET, TIMEOUT_S, Lab, end, panda, start

from diwa_conventions import topics
from diwa_conventions.actions import Pose
from diwa_conventions.errors import UserError
from diwa_robot.drivers.fci_settings import FciSettings

pytest.importorskip("franka", reason="the driver's library, franka-rs, is not installed: make setup EXTRA=hardware")
pytest.importorskip("diwa_sim.fci", reason="the Panda's interface in software is a part of diwa_sim")

ADDRESS = "127.0.8.11"


@pytest.fixture(scope="module", autouse=True)
def ros():
    rclpy.init()
    yield
    rclpy.shutdown()


@pytest.fixture(scope="module")
def robot():
    robot = panda(ADDRESS)
    yield robot
    robot.end()


@pytest.fixture(scope="module")
def running(robot):
    driver = start(ADDRESS, *PATIENT, *QUIET, "load_mass_kg:=0.1")
    lab = Lab()
    lab.moving = lambda: robot.order("status")["mode"] == "move"
    yield lab
    lab.node.destroy_node()
    output = end(driver)
    assert driver.returncode == 0
    assert "Traceback" not in output, output


@pytest.fixture
def lab(running) -> Lab:
    """The arm ready, whatever the test before has done; nothing is sent."""
    running.recovered()
    return running


def test_says_which_robot_it_drives_and_where_it_is(lab):
    state = lab.state_is(ArmState.READY)
    assert state.robot == f"panda at {ADDRESS}, FCI version 5 (Panda system 4.2)"
    joints = lab.next(topics.JOINT_STATES)
    assert tuple(joints.name) == (*topics.ARM_JOINTS, *topics.FINGER_JOINTS)
    assert np.isfinite(joints.position).all()
    pose = lab.next(topics.CURRENT_POSE)
    assert pose.header.frame_id == topics.BASE_FRAME
    stamps = [m.header.stamp.sec + 1e-9 * m.header.stamp.nanosec for m in lab.seen[topics.CURRENT_POSE]]
    assert (np.diff(stamps) > 0.0).all()


def test_follows_targets_in_place_and_turn(lab, robot):
    lab.stand()
    wanted = lab.go((0.05, 0.04, -0.03), (0.0, 0.0, 0.3))
    lab.arrives(wanted, 0.005)
    lab.until(lambda: lab.pose().angle_rad(wanted) < 0.02, "the turn")
    assert robot.order("status")["mode"] == "move"
    figures = lab.figures()
    assert float(figures["tracking_error_max_m"]) < 0.1
    assert figures["level"] == DiagnosticStatus.OK


def test_silence_holds_the_arm_and_gives_it_back(lab, robot):
    lab.stand()
    wanted = lab.go((0.0, 0.03, 0.0))
    lab.target = None
    lab.arrives(wanted, 0.005)
    lab.until(lambda: robot.order("status")["mode"] == "idle", "the end of the control loop")
    assert lab.pose().distance_m(wanted) < 0.005


def test_target_far_from_the_arm_moves_nothing(lab, robot):
    before = lab.pose()
    motions = robot.order("status")["motions"]
    lab.target = Pose(before.position + [0.2, 0.0, 0.0], before.rotation)
    lab.until(lambda: int(lab.figures().get("refused: far", 0)) > 10, "refusals")
    assert robot.order("status")["motions"] == motions
    assert lab.pose().distance_m(before) < 1e-6


def test_target_that_is_no_pose_is_refused_and_the_arm_holds(lab):
    pose = lab.stand()
    for wrong in ({"x": math.nan}, {"frame": "camera"}):
        before = int(lab.figures().get("refused: bad value", 0))
        for _ in range(5):
            lab.send(pose, **wrong)
            lab.next(topics.CURRENT_POSE)
        lab.until(lambda: int(lab.figures().get("refused: bad value", 0)) > before, f"refusal of {wrong}")  # noqa: B023
    assert lab.pose().distance_m(pose) < 0.005


def test_second_publisher_of_targets_is_refused(lab):
    lab.stand()
    second = Lab("second")
    lab.until(lambda: int(lab.figures().get("refused: several publishers", 0)) > 0, "refusals")
    second.node.destroy_node()
    lab.target = None
    lab.until(lambda: lab.node.count_publishers("/diwa/target_pose") == 1, "the other's end")


def test_gripper_closes_and_opens_on_change_only(lab):
    for command, narrow in ((-1.0, True), (1.0, False)):
        before = int(lab.figures()["gripper_requests"])
        lab.until(lambda: lab.grip(command) or (lab.width_m() < 0.01) == narrow, f"width after {command}")  # noqa: B023
        for _ in range(20):
            lab.grip(command)
        assert int(lab.figures()["gripper_requests"]) == before + (1 if narrow or before else 0)


def test_blocked_gripper_is_a_warning_with_its_width_and_the_arm_goes_on(lab, robot):
    lab.until(lambda: lab.grip(-1.0) or lab.width_m() < 0.001, "closing")
    robot.order("block on")
    lab.until(lambda: lab.grip(1.0) or "the gripper did not open: blocked at" in lab.figures()["message"], "warning")
    assert lab.figures()["level"] == DiagnosticStatus.WARN
    lab.stand()
    lab.arrives(lab.go((0.02, 0.0, 0.0)), 0.005)
    robot.order("block off")
    lab.until(lambda: lab.grip(-1.0) or "blocked" not in lab.figures()["message"], "closing again")
    lab.until(lambda: lab.grip(1.0) or lab.width_m() > 0.07, "opening")


def test_reflex_in_a_motion_stops_names_itself_and_waits_for_recovery(lab, robot):
    lab.stand()
    robot.order("reflex joint_velocity_violation")
    state = lab.state_is(ArmState.FAULT)
    reason = "the robot stopped by itself: joint_velocity_violation; mend the cause, then call recover_arm"
    assert state.reason == reason
    stopped = lab.pose()
    lab.target = Pose(stopped.position + [0.03, 0.0, 0.0], stopped.rotation)
    lab.next(topics.CURRENT_POSE, 30)
    answer = lab.recover()
    assert answer.success, answer.message
    lab.state_is(ArmState.READY)
    lab.next(topics.CURRENT_POSE, 30)  # the old stream still comes, and moves nothing
    assert lab.pose().distance_m(stopped) < 0.002
    lab.target = None
    lab.silence()
    lab.stand()


def test_push_beyond_the_thresholds_is_a_reflex(lab, robot):
    lab.stand()
    robot.order("push 0 90 0")
    assert "reflex" in lab.state_is(ArmState.FAULT).reason
    robot.order("push 0 0 0")


def test_user_stop_in_a_motion_is_a_fault_that_stays_while_it_is_pressed(lab, robot):
    lab.stand()
    robot.order("user_stop on")
    assert "User Stop" in lab.state_is(ArmState.FAULT).reason
    lab.target = None
    answer = lab.recover()
    assert (answer.success, answer.message[:46]) == (False, "the fault stays: the user stop is pressed: rel")
    robot.order("user_stop off")
    lab.until(lambda: lab.recover().success, "recovering")


def test_lost_packets_are_a_fault_that_names_them(lab, robot):
    lab.stand()

    def stopped() -> bool:
        robot.order("drop 40")  # more than 20 in a row
        return lab.next(topics.ARM_STATE, 10).state == ArmState.FAULT

    lab.until(stopped, "a fault")
    robot.order("drop 0")
    assert "communication_constraints_violation" in lab.state_is(ArmState.FAULT).reason


def test_silent_robot_is_a_lost_contact_and_comes_back(lab, robot):
    lab.stand()
    robot.order("silent 3")
    lab.state_is(ArmState.CONNECTING)
    lab.target = None
    lab.recovered()


def test_robot_that_refuses_says_what_to_do_in_desk_and_comes_back(lab, robot):
    robot.order("fci off")
    state = lab.state_is(ArmState.CONNECTING, "activate FCI in Desk")
    assert ADDRESS in state.reason
    robot.order("fci on")
    lab.state_is(ArmState.READY)


def test_other_version_is_named_with_its_system(lab, robot):
    robot.order("version 7")
    robot.order("fci off")
    robot.order("fci on")
    state = lab.state_is(ArmState.CONNECTING, "FCI version 7")
    assert "FR3 system 5.5 or 5.6" in state.reason
    assert "franka-rs speaks 5 (Panda system 4.2) and 10 (FR3 system 5.9 or newer)" in state.reason
    robot.order("version 5")
    lab.state_is(ArmState.READY)


def test_wrong_parameter_ends_the_node_with_one_line():
    process = start("127.0.8.12", "load_mass:=1.0")
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 2
    assert "Traceback" not in output
    assert "unknown parameter 'load_mass'; did you mean 'load_mass_kg'?" in output


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("robot_type", "ur5", "unknown robot_type 'ur5'"),
        ("robot_ip", " ", "robot_ip is empty"),
        ("stiffness", (100.0, 100.0), "stiffness is (100.0, 100.0); expected 6 numbers from 0 to 3000"),
        ("force_thresholds", (math.nan,) * 6, "expected 6 numbers from 1 to 200"),
        ("max_lead_m", 2.0, "max_lead_m is 2.0; expected a number from 0.01 to 0.3"),
        ("leash_m", math.nan, "leash_m is nan"),
    ],
)
def test_setting_that_is_out_of_range_is_named(name, value, message):
    with pytest.raises(UserError, match=re.escape(message)):
        FciSettings(**{name: value})
