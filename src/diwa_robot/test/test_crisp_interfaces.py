"""The crisp driver with the robot's own interface packages: state and reflexes, recovery, the hand's actions.

Skipped where the packages are not installed; ``scripts/test_interfaces.sh`` builds stand-ins and runs this file.
"""

import numpy as np
import pytest
import rclpy
from crisp_lab import PATIENT, CrispLab, end, start_driver, start_fake
from diwa_msgs.msg import ArmState
from fake_controllers import REPORT_S
from franka_world import CLIP_M, HOME, VERSIONS

from diwa_conventions import topics
from diwa_conventions.actions import Pose
from diwa_robot.drivers.gripper import GripperTiming

for package in ("franka_msgs", "control_msgs", "controller_manager_msgs"):
    pytest.importorskip(package, reason=f"{package} is not installed: scripts/test_interfaces.sh builds a stand-in")

OPTIONS = {"multipanda": ("gripper:=gripper_command",)}
RECOVERABLE = [version for version in VERSIONS if version != "franka_ros2 3.2"]
AWAY = "guide 0.3 -0.2 0.1"


@pytest.fixture(scope="module", autouse=True)
def ros():
    rclpy.init()
    yield
    rclpy.shutdown()


def started(version: str, namespace: str = "/robot", ours: str = "/diwa") -> tuple[CrispLab, list]:
    """A robot of that version, its driver, and a lab."""
    name, named = VERSIONS[version], {"namespace": namespace, "ours": ours}
    processes = [
        start_fake(f"--version={version}", f"--namespace={namespace}", script="fake_franka.py"),
        start_driver(f"dialect:={name}", *OPTIONS.get(name, ()), *PATIENT, **named),
    ]
    lab = CrispLab(**named)
    lab.version = version
    lab.state_is(ArmState.READY)
    return lab, processes


def stopped(lab: CrispLab, processes: list) -> None:
    lab.node.destroy_node()
    for process in processes:
        end(process)


@pytest.fixture(scope="module", params=RECOVERABLE)
def running(request, ros):
    lab, processes = started(request.param)
    yield lab
    stopped(lab, processes)


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


def stop(lab: CrispLab, how: str) -> ArmState:
    """The arm moves, and is stopped; the guard's targets end with the arm's readiness."""
    lab.arm()
    lab.go((0.05, 0.0, 0.0))
    lab.do(how)
    state = lab.state_is(ArmState.FAULT)
    lab.armed = False
    lab.report(count=12)
    lab.do("watch")
    return state


@pytest.mark.parametrize("how", ["reflex", "press"])
def test_stop_is_a_fault_and_the_arm_stays_where_a_hand_left_it_through_recovery(lab, how):
    stop(lab, how)
    lab.do("press")
    lab.do(AWAY)
    lab.report(count=12)
    lab.do("release")
    lab.report(count=12)
    left = lab.report()["pose"]
    recoveries = lab.report()["recoveries"]
    answer = lab.recover()
    assert (answer.success, answer.message) == (True, "recovered; READY: follows target_pose")
    report = lab.report(count=20)
    assert report["recoveries"] == recoveries + 1
    assert report["controller"] == "active"
    assert np.allclose(report["pose"], left, atol=2e-3)
    assert report["worst_m"] <= CLIP_M
    lab.target = Pose(np.array(left), HOME.rotation)
    lab.arm()
    lab.go((0.03, 0.0, 0.0))
    lab.until(lambda: np.allclose(lab.reports[-1]["pose"], lab.target.position, atol=1e-3), "arrival")


def test_reflex_is_named_and_the_arm_stands_until_targets_begin_anew(lab):
    lab.arm()
    lab.do("reflex")
    words = {
        "franka_ros2 3.3": "FrankaHardwareInterface is unconfigured: the robot stopped with an error",
        "franka_ros2 2.4": "FrankaHardwareInterface is unconfigured: the robot stopped with an error",
    }.get(lab.version, "the robot was stopped by a reflex (cartesian_reflex)")
    lab.state_is(ArmState.FAULT, words)
    refused = lab.refused("goes on")
    assert lab.recover().success
    lab.until(lambda: lab.refused("goes on") > refused, "refusal of targets that never stopped")
    lab.armed = False
    lab.report(count=12)
    lab.arm()


def test_recovery_is_refused_while_the_user_stop_is_pressed(lab):
    stop(lab, "press")
    answer = lab.recover()
    assert not answer.success
    assert "user stop" in answer.message
    lab.state_is(ArmState.FAULT)
    lab.do("release")
    lab.report(count=12)
    assert lab.recover().success
    assert lab.report()["worst_m"] <= CLIP_M


def test_person_who_starts_control_by_hand_does_not_start_an_old_target(lab):
    """multipanda_ros2 recovers with its controller active; the others need hardware and broadcasters before."""
    if not lab.version.startswith("multipanda"):
        pytest.skip("its hardware component has to be activated first")
    stop(lab, "press")
    lab.do(AWAY)
    lab.do("release")
    lab.report(count=12)
    left = lab.report()["pose"]
    lab.do("recover")
    report = lab.report(count=20)
    assert np.allclose(report["pose"], left, atol=2e-3)
    assert report["worst_m"] <= CLIP_M
    lab.state_is(ArmState.FAULT)


def test_robot_that_does_not_recover_says_so_and_stays_a_fault(lab):
    lab.do("stubborn")
    lab.do("reflex")
    lab.state_is(ArmState.FAULT)
    answer = lab.recover()
    assert not answer.success
    assert answer.message.startswith("failed to recover the robot from its error: ")
    lab.state_is(ArmState.FAULT)


def test_recovery_of_an_arm_that_is_held_clears_what_the_driver_saw_and_asks_nothing_of_the_robot(lab):
    lab.do("obstruct")
    lab.arm()
    lab.go((0.08, 0.0, 0.0))
    lab.state_is(ArmState.FAULT, "does not follow")
    recoveries = lab.report()["recoveries"]
    assert lab.recover().success
    assert lab.report()["recoveries"] == recoveries


def test_controller_that_a_person_deactivated_is_waited_for_and_activated_on_request(lab):
    lab.do("deactivate")
    lab.state_is(ArmState.CONNECTING, "diwa guard recover")
    lab.do("watch")
    assert lab.recover().success
    lab.state_is(ArmState.READY)
    assert lab.report()["worst_m"] <= CLIP_M


def test_controller_that_is_not_loaded_says_so(lab):
    lab.do("controller")
    lab.state_is(ArmState.CONNECTING, "cartesian_impedance_controller is not loaded")
    lab.do("controller active")
    lab.state_is(ArmState.READY)


def test_bring_up_that_ends_with_an_error_is_started_again_and_then_recovered(ros):
    """franka_ros2 before 3.3 and 2.4."""
    lab, processes = started("franka_ros2 3.2", "/old", "/diwa_old")
    try:
        lab.do("press")
        lab.state_is(ArmState.CONNECTING)
        answer = lab.recover()
        assert not answer.success
        assert "before 3.3 (Jazzy) and 2.4 (Humble): start it again, then recover again" in answer.message
        lab.do("release")
        lab.do("restart")
        lab.state_is(ArmState.READY)
        assert lab.recover().success
    finally:
        stopped(lab, processes)


@pytest.fixture
def hand(lab) -> CrispLab:
    """After a pause: the hand was opened meanwhile, and is asked anew."""
    if lab.version == "franka_ros2 2.4":
        pytest.skip("the same hand as 3.3")
    lab.report(count=round(2.0 * GripperTiming().fresh_s / REPORT_S))
    return lab


def gripper_since(lab, before: int) -> list[str]:
    return lab.reports[-1]["gripper"][before:]


def test_hand_is_told_once_and_a_change_of_mind_cancels_first(hand):
    lab = hand
    before = len(lab.report()["gripper"])
    close, open_ = ("gripper_action 0.00", "gripper_action 0.08") if lab.version == "multipanda" else (
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
