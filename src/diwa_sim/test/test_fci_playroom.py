"""The playroom's arm behind the interface: physics at 1 kHz, contact, and the node that draws it."""

import os
import signal

import numpy as np
import pytest
import rclpy
from diwa_msgs.srv import ResetPlayroom
from test_nodes import Listener, end, start

from diwa_conventions import topics
from diwa_sim.fci.controller import RobotController
from diwa_sim.fci.kinematics import DOF, HAND_TOOL, joint_frames
from diwa_sim.fci.messages import REQUESTS, ROBOT_COMMAND, Command, Controller, Generator
from diwa_sim.fci.playroom_arm import PlayroomArm
from diwa_sim.fci.process import FciProcess
from diwa_sim.playroom import Playroom
from diwa_sim.tasks import draw_start

franka = pytest.importorskip("franka", reason="franka-rs is an extra: make setup EXTRA=hardware")

ADDRESS = f"127.{1 + os.getpid() // 250 % 250}.{os.getpid() % 250}.10"


@pytest.fixture(scope="module")
def arm() -> PlayroomArm:
    return PlayroomArm()


def hold(arm: PlayroomArm, cycles: int) -> None:
    q = arm.q.copy()
    for _ in range(cycles):
        arm.track(q, np.zeros(DOF))


def test_the_tool_is_where_the_pandas_kinematics_say(arm):
    hold(arm, 5)
    room = Playroom()
    room.set_physical_state(arm._playroom.physical_state())
    tool = joint_frames(arm.q)[DOF] @ HAND_TOOL
    np.testing.assert_allclose(tool[:3, 3], room.tool_pose().position, atol=1e-6)
    np.testing.assert_allclose(tool[:3, :3], room.tool_pose().rotation, atol=1e-5)


def test_the_joint_controller_lags_by_its_inertia_only(arm):
    begin, worst = arm.q.copy(), 0.0
    for step in range(600):
        phase = 2.0 * np.pi * step / 600.0
        q, dq = begin.copy(), np.zeros(DOF)
        q[0] += 0.2 * (1.0 - np.cos(phase)) / 2.0
        dq[0] = 0.2 * np.pi / 0.6 * np.sin(phase)
        arm.track(q, dq)
        worst = max(worst, float(np.max(np.abs(arm.q - q))))
    assert worst < 0.008


def test_no_torque_keeps_an_arm_at_rest_where_it_is(arm):
    hold(arm, 200)
    begin = arm.q.copy()
    for _ in range(300):
        arm.drive(np.zeros(DOF))
    np.testing.assert_allclose(arm.q, begin, atol=1e-3)
    assert np.linalg.norm(arm.gravity) > 10.0, "what holds the weight is reported"


def test_a_torque_turns_its_joint(arm):
    begin = arm.q[6]
    for _ in range(100):
        arm.drive(np.array([0.0] * 6 + [0.5]))
    assert arm.q[6] > begin + 0.005
    hold(arm, 300)


def test_contact_is_felt_as_a_force_from_below():
    """Tracked downwards, the fingers meet table or cabinet; what they feel lifts the tool."""
    robot = RobotController(PlayroomArm(seed=1))
    request = np.zeros((), REQUESTS[Command.SET_COLLISION_BEHAVIOR])
    for name in request.dtype.names:
        request[name] = 200.0 if name.startswith("upper") else 10.0
    robot.request(Command.SET_COLLISION_BEHAVIOR, 1, request.tobytes())
    move = np.zeros((), REQUESTS[Command.MOVE])
    move["controller"], move["generator"] = Controller.CARTESIAN_IMPEDANCE, Generator.CARTESIAN_VELOCITY - 1
    robot.request(Command.MOVE, 2, move.tobytes())
    command = np.zeros((), ROBOT_COMMAND)
    for step in range(6000):
        command["O_dP_EE_c"] = [0.0, 0.0, -0.1 * min(step / 200.0, 1.0), 0.0, 0.0, 0.0]
        robot.cycle(command[()])
        if robot.state["cartesian_contact"][2]:
            break
    assert robot.state["O_T_EE"][14] < 0.2 and robot.state["O_F_ext_hat_K"][2] > 10.0


def test_the_fingers_hold_with_the_force_they_are_told(arm):
    arm.set_fingers(0.0, 40.0)
    hold(arm, 600)
    assert arm.width_m < 0.002
    arm.set_fingers(0.08, 40.0)
    hold(arm, 800)
    assert arm.width_m > 0.078


def test_another_process_steps_the_scene_and_this_one_sees_it():
    room = Playroom()
    room.reset(draw_start(np.random.default_rng(0), ""))
    with FciProcess(ADDRESS, room) as process:
        process.put(room)
        robot = franka.Robot(ADDRESS, realtime="ignore")
        with robot.cartesian_targets(max_velocity=1.0, max_acceleration=3.0, max_jerk=200.0) as control:
            control.move_by([0.0, 0.0, 0.05])
            goal = control.target()[2]
            while control.running and abs(control.state().O_T_EE[2, 3] - goal) > 0.005:
                process.order("status")
        process.refresh(room)
        assert room.tool_pose().position[2] == pytest.approx(goal, abs=0.006)
        before = room.tool_pose().position
        room.reset(draw_start(np.random.default_rng(1), ""))
        process.put(room)
        process.refresh(room)
        assert np.linalg.norm(room.tool_pose().position - before) > 0.02
    assert not process.alive


@pytest.fixture(scope="module")
def ros():
    rclpy.init()
    yield
    rclpy.shutdown()


def test_the_node_draws_what_the_driver_moves_and_leaves_the_arms_topics_to_it(ros):
    node = start("playroom", "seed:=3", f"fci:={ADDRESS}")
    listener = Listener()
    try:
        before = listener.next(topics.STATIC_IMAGE)
        names = {name for name, _ in listener.node.get_publisher_names_and_types_by_node("playroom", "/diwa")}
        assert not names & {f"/diwa/{topic.name}" for topic in (topics.CURRENT_POSE, topics.JOINT_STATES)}
        robot = franka.Robot(ADDRESS, realtime="ignore")
        with pytest.raises(franka.ControlException, match="cartesian_reflex"), robot.cartesian_targets() as control:
            control.move_by([0.0, 0.1, 0.0])
            begin = control.state().O_T_EE[1, 3]
            listener.until(lambda: control.state().O_T_EE[1, 3] > begin + 0.05, "the arm's move")
            after = listener.next(topics.STATIC_IMAGE, 2)
            assert np.count_nonzero(np.array(after.data) != np.array(before.data)) > 500
            answer = listener.call(ResetPlayroom, topics.RESET_SERVICE, ResetPlayroom.Request(task="", seed=3))
            assert answer.success
            listener.until(lambda: not control.running, "the reflex")
        robot.automatic_error_recovery()
        listener.until(lambda: robot.read_once().robot_mode == "idle", "recovery")
        assert abs(robot.read_once().O_T_EE[1, 3] - begin) < 0.01, "the reset has put the arm back"
        status = listener.next(topics.DIAGNOSTICS).status[0]
        values = {item.key: item.value for item in status.values}
        assert values["fci_connected"] == "True" and int(values["fci_reflexes"]) == 1
    finally:
        output = end(node, signal.SIGINT)
        listener.node.destroy_node()
    assert node.returncode == 0, output


def test_the_node_says_in_one_line_that_the_address_is_taken(ros):
    with FciProcess(ADDRESS):
        node = start("playroom", f"fci:={ADDRESS}")
        output, _ = node.communicate(timeout=60.0)
    assert node.returncode != 0
    assert f"{ADDRESS}:1337 is taken by another program" in output and "Traceback" not in output
