"""The crisp driver as a real process against controllers that enforce what CRISP's enforce."""

import numpy as np
import pytest
import rclpy
from crisp_lab import PATIENT, TIMEOUT_S, WITHOUT_FRANKA_MSGS, CrispLab, end, start_driver, start_fake
from diagnostic_msgs.msg import DiagnosticStatus
from diwa_msgs.msg import ArmState
from fake_controllers import HOME
from geometry_msgs.msg import PoseStamped

from diwa_conventions import topics
from diwa_conventions.actions import Pose
from diwa_conventions.qos import profile

CARTESIAN = ("dialect:=multipanda_cartesian", "pose_topic:=current_pose")


@pytest.fixture(scope="module", autouse=True)
def ros():
    rclpy.init()
    yield
    rclpy.shutdown()


@pytest.fixture(scope="module")
def running():
    """Two robots and their drivers: an FR3 with CRISP's controllers, a Panda with its own Cartesian controller."""
    cartesian = {"namespace": "/panda", "ours": "/diwa_panda"}
    processes = [
        start_fake(),
        start_driver(*WITHOUT_FRANKA_MSGS, *PATIENT),
        start_fake("--namespace=/panda", "--version=multipanda cartesian"),
        start_driver(*WITHOUT_FRANKA_MSGS, *PATIENT, *CARTESIAN, **cartesian),
    ]
    labs = CrispLab(), CrispLab(**cartesian)
    for lab in labs:
        lab.state_is(ArmState.READY)
    yield labs
    for lab in labs:
        lab.node.destroy_node()
    for process in processes:
        end(process)


@pytest.fixture
def lab(running) -> CrispLab:
    running[0].ready()
    return running[0]


def lead_m(report: dict) -> float:
    return float(np.linalg.norm(np.subtract(report["target"], report["pose"])))


def test_state_comes_in_the_arm_contracts_names_and_order(lab):
    joints = lab.next(topics.JOINT_STATES)
    assert joints.name == [*topics.ARM_JOINTS, *topics.FINGER_JOINTS]
    assert list(joints.position) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.04, 0.04])
    assert list(joints.effort[:7]) == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    pose = lab.next(topics.CURRENT_POSE)
    assert pose.header.frame_id == topics.BASE_FRAME
    assert pose.pose.position.x == pytest.approx(HOME.position[0], abs=1e-4)
    assert lab.next(topics.ARM_STATE).robot == "FR3 on franka_ros2 with CRISP controllers"


def test_arm_follows_targets_and_nothing_is_sent_before_clipped_or_dropped(lab):
    before = lab.report()
    assert lab.report(count=8)["received"] == before["received"]
    lab.arm()
    lab.go((0.08, -0.05, 0.04), turn_rad=(0.0, 0.0, 0.3))
    lab.until(lambda: np.allclose(lab.reports[-1]["pose"], lab.target.position, atol=1e-3), "arrival")
    after = lab.report()
    assert np.allclose(after["turn"], lab.target.rotation, atol=1e-6)
    assert (after["dropped"], after["clipped"]) == (before["dropped"], before["clipped"])


def test_multipandas_controller_follows_and_keeps_no_old_value_at_zero(running):
    lab = running[1]
    lab.ready()
    lab.arm()
    lab.go((-0.06, 0.0, 0.0), turn_rad=(0.3, 0.0, 0.0))
    lab.until(lambda: np.allclose(lab.reports[-1]["pose"], lab.target.position, atol=1e-3), "arrival")
    assert np.allclose(lab.report()["turn"], lab.target.rotation, atol=1e-6)
    assert lab.next(topics.JOINT_STATES).position[0] == pytest.approx(0.1)
    lab.armed = False


def test_stream_that_begins_far_from_the_arm_moves_nothing(lab):
    received = lab.report()["received"]
    lab.target = Pose(HOME.position + [0.12, 0.0, 0.0], HOME.rotation)
    lab.armed = True
    lab.until(lambda: int(lab.values().get("refused: far", 0)) >= 1, "refusal")
    assert lab.report()["received"] == received


def test_target_the_arm_cannot_reach_leads_by_no_more_than_crisps_clip_and_a_hold_by_less(lab):
    lab.arm()
    lab.go((0.03, 0.0, 0.0))
    lab.until(lambda: lab.reports[-1]["pose"][0] > 0.48, "following")
    lab.do("obstruct")  # as if something stood in the way
    lab.go((0.12, 0.0, 0.0))
    assert lead_m(lab.report()) == pytest.approx(0.1, abs=1e-3)
    lab.armed = False
    lab.until(lambda: lead_m(lab.reports[-1]) == pytest.approx(0.02, abs=1e-4), "hold")
    received = lab.report()["received"]
    assert lab.report(count=8)["received"] == received
    assert int(lab.values()["clipped"]) > 0


def test_second_publisher_to_the_controller_is_a_fault_that_names_it(lab):
    lab.arm()
    intruder = rclpy.create_node("intruder", namespace="/robot")
    intruder.create_publisher(PoseStamped, "target_pose", profile(topics.TARGET_POSE))
    state = lab.state_is(ArmState.FAULT, "/robot/intruder")
    assert "/robot/target_pose has another publisher" in state.reason
    assert not lab.recover().success
    intruder.destroy_node()
    refused = lab.refused("goes on")
    lab.until(lambda: lab.recover().success, "recovering")
    lab.state_is(ArmState.READY)
    lab.until(lambda: lab.refused("goes on") > refused, "refusal of targets that never stopped")


def test_two_publishers_of_target_pose_are_not_followed(lab):
    lab.arm()
    intruder = rclpy.create_node("intruder", namespace="/diwa")
    intruder.create_publisher(PoseStamped, topics.TARGET_POSE.name, profile(topics.TARGET_POSE))
    lab.until(lambda: int(lab.values().get("refused: several publishers", 0)) > 0, "refusal")
    intruder.destroy_node()


@pytest.mark.parametrize(
    ("misbehaves", "words"),
    [
        (
            "silent",
            "/robot/current_pose has been silent for more than 1 s; is the robot's ros2_control running in /robot",
        ),
        ("nan", "/robot/current_pose holds a value that is not finite"),
        ("frame camera", "/robot/current_pose is in frame 'camera'; base_frames are base, panda_link0, fr3_link0"),
        ("prefix panda", "/robot/franka/joint_states has no fr3_joint1; its joints: panda_joint7"),
        ("unload", "nobody listens on /robot/target_pose: cartesian_impedance_controller is not loaded"),
    ],
)
def test_robot_that_says_nothing_or_the_wrong_thing_is_waited_for(lab, misbehaves, words):
    lab.do(misbehaves)
    state = lab.state_is(ArmState.CONNECTING, words)
    if misbehaves.startswith("prefix"):
        assert state.reason.endswith("; set joint_prefix:=panda")
    lab.do("load" if misbehaves == "unload" else "well")
    lab.state_is(ArmState.READY)


def test_controller_that_is_inactive_is_a_fault_once_the_arm_does_not_follow(lab):
    lab.do("obstruct")
    lab.arm()
    lab.go((0.08, 0.0, 0.0))
    state = lab.state_is(ArmState.FAULT, "the arm does not follow its targets")
    assert "is cartesian_impedance_controller active? ros2 control list_controllers" in state.reason
    status = lab.until(lambda: (s := lab.next(topics.DIAGNOSTICS).status[0]).level == DiagnosticStatus.ERROR and s, "x")
    assert "does not follow" in status.message


def test_gripper_is_told_on_change_only_and_one_that_does_not_open_is_blocked(lab):
    before = len(lab.report()["gripper"])
    lab.gripper = -1.0
    lab.arm()
    lab.until(lambda: sum(lab.next(topics.JOINT_STATES).position[7:]) < 0.001, "closing")
    lab.do("block")
    lab.gripper = 1.0
    lab.state_is(ArmState.READY, "the gripper did not open: blocked at 0 mm")
    assert lab.report()["gripper"][before:] == [0.0, 1.0]
    status = lab.until(lambda: (s := lab.next(topics.DIAGNOSTICS).status[0]).level == DiagnosticStatus.WARN and s, "x")
    assert "blocked" in status.message


def test_ended_driver_takes_leave_and_wrong_parameters_end_it_with_one_line(ros):
    # A robot of its own: on that of the other tests this driver would be a second publisher, which is a fault.
    alone = {"namespace": "/nobody", "ours": "/alone"}
    driver = start_driver(*WITHOUT_FRANKA_MSGS, **alone)
    wrong = start_driver("robot_namespace:=/diwa", *WITHOUT_FRANKA_MSGS)
    lab = CrispLab(**alone)
    try:
        lab.state_is(ArmState.CONNECTING)
    finally:
        output = end(driver)
    assert driver.returncode == 0, output
    assert "Traceback" not in output
    last = lab.until(lambda: "ended" in (s := lab.seen[topics.ARM_STATE][-1]).reason and s, "last report")
    assert last.state == ArmState.CONNECTING
    lab.node.destroy_node()
    output, _ = wrong.communicate(timeout=TIMEOUT_S)
    assert wrong.returncode == 2
    assert output.startswith("crisp_driver: target_topic leads to /diwa/target_pose")
    assert output.count("\n") == 1
