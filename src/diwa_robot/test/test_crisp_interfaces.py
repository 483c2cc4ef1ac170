"""The crisp driver with the robot's own interface packages: state and reflexes, recovery, the hand's actions.

Skipped where the packages are not installed; ``scripts/test_interfaces.sh`` builds stand-ins and runs this file.
"""

import numpy as np
import pytest
import rclpy
from crisp_lab import PATIENT, CrispLab, end, start_driver, start_fake
from diwa_msgs.msg import ArmState
from fake_controllers import REPORT_S

from diwa_conventions import topics
from diwa_robot.drivers.gripper import GripperTiming

for package in ("franka_msgs", "control_msgs", "controller_manager_msgs"):
    pytest.importorskip(package, reason=f"{package} is not installed: scripts/test_interfaces.sh builds a stand-in")

DIALECTS = {
    "franka_ros2": (),
    "multipanda": ("gripper:=gripper_command",),
    "multipanda_cartesian": (),
}


@pytest.fixture(scope="module", autouse=True)
def ros():
    rclpy.init()
    yield
    rclpy.shutdown()


@pytest.fixture(scope="module", params=DIALECTS)
def running(request, ros):
    name = request.param
    processes = [
        start_fake(f"--dialect={name}", script="fake_franka.py"),
        start_driver(f"dialect:={name}", *DIALECTS[name], *PATIENT),
    ]
    lab = CrispLab()
    lab.dialect = name
    lab.state_is(ArmState.READY)
    yield lab
    lab.node.destroy_node()
    for process in processes:
        end(process)


@pytest.fixture
def lab(running) -> CrispLab:
    running.ready()
    return running


def test_arm_follows(lab):
    lab.arm()
    lab.go((0.06, 0.0, 0.03), turn_rad=(0.0, 0.0, 0.3))
    lab.until(lambda: np.allclose(lab.reports[-1]["pose"], lab.target.position, atol=1e-3), "arrival")
    assert np.allclose(lab.report()["turn"], lab.target.rotation, atol=1e-6)
    assert lab.next(topics.JOINT_STATES).position[7:] == pytest.approx([0.04, 0.04])


def test_reflex_is_a_fault_that_a_person_recovers_and_the_arm_stands_until_targets_begin_anew(lab):
    lab.arm()
    lab.do("reflex")
    state = lab.state_is(ArmState.FAULT)
    assert state.reason == "the robot was stopped by a reflex (cartesian_reflex)"
    recoveries = lab.report()["recoveries"]
    answer = lab.recover()
    assert (answer.success, answer.message) == (True, "recovered; READY: follows target_pose")
    assert lab.report()["recoveries"] == recoveries + 1
    received = lab.report()["received"]
    assert lab.report(count=5)["received"] == received
    lab.armed = False
    lab.do("activate")
    lab.report(count=12)
    lab.arm()


def test_robot_that_does_not_recover_says_so_and_stays_a_fault(lab):
    lab.do("stubborn")
    lab.do("reflex")
    lab.state_is(ArmState.FAULT)
    answer = lab.recover()
    assert not answer.success
    assert answer.message.startswith("the robot did not recover: ")
    lab.state_is(ArmState.FAULT, "reflex")


def test_recovery_without_a_reflex_clears_what_the_driver_saw_and_asks_nothing_of_the_robot(lab):
    lab.do("deactivate")
    lab.arm()
    lab.go((0.08, 0.0, 0.0))
    lab.state_is(ArmState.FAULT, "does not follow")
    recoveries = lab.report()["recoveries"]
    assert lab.recover().success
    assert lab.report()["recoveries"] == recoveries


@pytest.mark.parametrize(("mode", "words"), [(1, "idle: no controller moves it"), (5, "stopped by the user stop")])
def test_robot_that_may_not_move_is_waited_for(lab, mode, words):
    lab.do(f"mode {mode}")
    lab.state_is(ArmState.CONNECTING, words)
    lab.do("mode 2")
    lab.state_is(ArmState.READY)


def test_controller_that_is_not_active_says_how_to_activate_it(lab):
    lab.do("controller inactive")
    wanted = "is inactive; ros2 control switch_controllers --activate cartesian_impedance_controller"
    lab.state_is(ArmState.CONNECTING, wanted)
    lab.do("controller")
    lab.state_is(ArmState.CONNECTING, "cartesian_impedance_controller is not loaded")
    lab.do("controller active")
    lab.state_is(ArmState.READY)


@pytest.fixture
def hand(lab) -> CrispLab:
    """After a pause: the hand was opened meanwhile, and is asked anew."""
    lab.report(count=round(2.0 * GripperTiming().fresh_s / REPORT_S))
    return lab


def gripper_since(lab, before: int) -> list[str]:
    return lab.reports[-1]["gripper"][before:]


def test_hand_is_told_once_and_a_change_of_mind_cancels_first(hand):
    lab = hand
    before = len(lab.report()["gripper"])
    close, open_ = ("gripper_action 0.00", "gripper_action 0.08") if lab.dialect == "multipanda" else (
        "grasp 0.00", "move 0.08",
    )  # fmt: skip
    lab.gripper = -1.0
    lab.arm()
    lab.until(lambda: gripper_since(lab, before) == [close, "done"], "grasp")
    lab.do("fingers 0.02")
    lab.gripper = 1.0
    lab.until(lambda: gripper_since(lab, before)[2:] == [open_], "opening")
    lab.gripper = -1.0
    lab.until(lambda: gripper_since(lab, before)[3:] == ["cancelled", close, "done"], "change of mind")
    lab.until(lambda: sum(lab.next(topics.JOINT_STATES).position[7:]) < 1e-6, "closed hand")


def test_hand_that_does_not_open_is_tried_once_more_and_then_blocked(hand):
    lab = hand
    before = len(lab.report()["gripper"])
    lab.gripper = -1.0
    lab.arm()
    lab.until(lambda: gripper_since(lab, before)[1:] == ["done"], "grasp")
    lab.do("block")
    lab.gripper = 1.0
    lab.state_is(ArmState.READY, "the gripper did not open: blocked at 0 mm")
    lab.until(lambda: gripper_since(lab, before).count("stuck") == 2, "second try")
    told = len(gripper_since(lab, before))
    assert len(lab.report(count=60)["gripper"][before:]) == told
