"""The real clients, unmodified, on the server: franka-rs (its own protocol code) and panda-python (libfranka 0.9.2)."""

import os
import socket
import time

import numpy as np
import pytest

from diwa_conventions.errors import UserError
from diwa_sim.fci.kinematics import DOF, HAND_TOOL, jacobian, joint_frames
from diwa_sim.fci.messages import CONNECT_REQUEST, REQUESTS, ROBOT_HEADER, ROBOT_PORT, Command
from diwa_sim.fci.motion import Q_MAX, Q_MIN
from diwa_sim.fci.process import FciProcess, split_address

franka = pytest.importorskip("franka", reason="franka-rs is an extra: make setup EXTRA=hardware")
libfranka = pytest.importorskip("panda_py.libfranka", reason="panda-python is an extra: make setup EXTRA=hardware")

ADDRESS = f"127.{1 + os.getpid() // 250 % 250}.{os.getpid() % 250}.9"
TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def server():
    with FciProcess(ADDRESS) as process:
        yield process


@pytest.fixture
def healed(server):
    """The server as new after whatever a test does to it."""
    yield server
    for order in ("fci off", "fci on", "version 5", "gripper_version 3", "user_stop off", "brakes off", "guiding off"):
        server.order(order)
    for order in ("push 0 0 0", "drop 0", "loss 0", "late off", "silent 0", "block off"):
        server.order(order)
    if server.order("status")["errors"]:
        franka.Robot(ADDRESS, realtime="ignore").automatic_error_recovery()


def until(condition, what: str):
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.002)
    pytest.fail(f"{what}: not within {TIMEOUT_S:.0f} s")


@pytest.fixture
def rust(healed):
    return franka.Robot(ADDRESS, realtime="ignore")


@pytest.fixture
def panda(healed):
    return libfranka.Robot(ADDRESS, libfranka.RealtimeConfig.kIgnore)


# Reading


def test_franka_rs_reads_the_robot(rust):
    state = rust.read_once()
    assert (rust.fci_version, rust.server_version, state.robot_mode) == (5, 5, "idle")
    np.testing.assert_allclose(state.O_T_EE, joint_frames(state.q)[DOF] @ HAND_TOOL, atol=1e-12)
    np.testing.assert_allclose(state.F_T_EE, HAND_TOOL, atol=1e-12)
    assert state.m_ee == 0.73 and list(state.elbow) == [0.0, -1.0] and state.current_errors == []


def test_libfranka_reads_the_robot(panda):
    state = panda.read_once()
    assert panda.server_version() == 5 and state.robot_mode == libfranka.RobotMode.kIdle
    np.testing.assert_allclose(np.reshape(state.O_T_EE, (4, 4)).T, joint_frames(np.array(state.q))[DOF] @ HAND_TOOL)
    assert not state.current_errors


def test_our_kinematics_are_those_of_the_clients_model(rust):
    model, random = rust.model(), np.random.default_rng(0)
    for _ in range(20):
        q = random.uniform(Q_MIN, Q_MAX)
        frames = joint_frames(q)
        tool = frames[DOF] @ HAND_TOOL
        np.testing.assert_allclose(model.pose("ee", q, HAND_TOOL), tool, atol=1e-12)
        np.testing.assert_allclose(model.zero_jacobian("ee", q, HAND_TOOL), jacobian(frames, tool[:3, 3]), atol=1e-12)


def test_the_model_library_is_refused_as_by_a_robot_without_it(panda):
    with pytest.raises(RuntimeError, match="Server reports error when loading model library"):
        panda.load_model()


# Moving


@pytest.mark.parametrize("backend", ["robot", "impedance"])
def test_franka_rs_moves_the_tool(rust, backend):
    with rust.cartesian_targets(backend=backend, max_velocity=1.0, max_acceleration=3.0, max_jerk=200.0) as arm:
        begin = arm.target()[:3]
        forward = 0.03 if begin[0] < 0.35 else -0.03
        arm.move_by([forward, 0.02, 0.0])
        until(lambda: abs(arm.state().O_T_EE[0, 3] - begin[0] - forward) < 0.002, "the move")
    assert rust.read_once().robot_mode == "idle" and rust.read_once().last_motion_errors == []


def test_franka_rs_moves_the_joints(rust):
    with rust.joint_targets(backend="robot", fraction=0.8) as arm:
        goal = arm.target() + np.array([0.0] * 6 + [0.1])
        arm.move_to(goal)
        until(lambda: np.max(np.abs(arm.state().q - goal)) < 1e-3, "the move")


def smooth(t: float, duration_s: float = 0.3) -> tuple[float, float]:
    """Position 0 to 1 and its speed."""
    phase = np.pi * min(t / duration_s, 1.0)
    return 0.5 * (1.0 - np.cos(phase)), 0.5 * np.pi / duration_s * np.sin(phase)


def play(robot, kind: str, until_s: float = 0.32) -> tuple[np.ndarray, np.ndarray]:
    """Drive one of libfranka's motion generators; how far joint 7 and the tool have moved."""
    memory: dict[str, object] = {"t": 0.0}

    def command(state, period):
        if "q" not in memory:
            memory["q"], memory["pose"] = list(state.q_d), list(state.O_T_EE_c)
        memory["t"] += period.to_sec()
        way, speed = smooth(memory["t"])
        if kind == "joint_position":
            out = libfranka.JointPositions([*memory["q"][:6], memory["q"][6] + 0.05 * way])
        elif kind == "joint_velocity":
            out = libfranka.JointVelocities([0.0] * 6 + [-0.05 * speed])
        elif kind == "cartesian_pose":
            out = libfranka.CartesianPose([*memory["pose"][:12], memory["pose"][12] + 0.02 * way, *memory["pose"][13:]])
        else:
            out = libfranka.CartesianVelocities([-0.02 * speed, 0.0, 0.0, 0.0, 0.0, 0.0])
        out.motion_finished = memory["t"] >= until_s
        return out

    before = robot.read_once()
    getattr(robot, f"control_{kind}")(command)
    after = robot.read_once()
    return after.q[6] - before.q[6], np.array(after.O_T_EE[12:15]) - before.O_T_EE[12:15]


@pytest.mark.parametrize(("kind", "turn"), [("joint_position", 0.05), ("joint_velocity", -0.05)])
def test_libfranka_drives_the_joint_generators(panda, kind, turn):
    assert play(panda, kind)[0] == pytest.approx(turn, abs=0.001)


@pytest.mark.parametrize(("kind", "way"), [("cartesian_pose", 0.02), ("cartesian_velocity", -0.02)])
def test_libfranka_drives_the_cartesian_generators(panda, kind, way):
    np.testing.assert_allclose(play(panda, kind)[1], [way, 0.0, 0.0], atol=0.001)


def test_libfranka_drives_torques(panda):
    memory = {"t": 0.0}

    def command(state, period):
        memory["t"] += period.to_sec()
        out = libfranka.Torques([0.0] * 6 + [0.3 * np.sin(20.0 * memory["t"])])
        out.motion_finished = memory["t"] >= 0.3
        return out

    before = panda.read_once().q[6]
    panda.control(command)
    assert panda.read_once().q[6] - before > 0.01


# Stopping


def test_stop_from_another_thread_preempts_the_motion(rust):
    with pytest.raises(franka.ControlException, match="preempted"), rust.cartesian_targets(backend="robot") as arm:
        arm.move_by([0.02, 0.0, 0.0])
        rust.stop()
        until(lambda: not arm.running, "end of the motion")
    assert rust.read_once().robot_mode == "idle"


def test_a_jump_of_the_command_is_a_reflex_until_recovered(panda):
    def jump(state, period):
        return libfranka.JointPositions([state.q_d[0] + 0.005, *state.q_d[1:]])

    with pytest.raises(
        RuntimeError, match="motion aborted by reflex.*joint_motion_generator_velocity_limits_violation"
    ):
        panda.control_joint_position(jump, limit_rate=False, cutoff_frequency=1000.0)
    assert panda.read_once().robot_mode == libfranka.RobotMode.kReflex
    with pytest.raises(RuntimeError, match=r'command not possible in the current mode \("Reflex"\)'):
        play(panda, "joint_velocity")
    panda.automatic_error_recovery()
    assert play(panda, "joint_velocity")[0] == pytest.approx(-0.05, abs=0.002)


def await_commands(server) -> None:
    """Until a motion is under way."""
    before = server.order("status")["commands"]
    until(lambda: server.order("status")["commands"] > before + 20, "commands")


def aborted(robot, server, order: str) -> str:
    """What the client says when this happens in the middle of a motion."""
    with pytest.raises((franka.ControlException, franka.FrankaError)) as raised, robot.cartesian_targets() as arm:
        await_commands(server)
        server.order(order)
        until(lambda: not arm.running, "end of the motion")
    return str(raised.value)


def test_the_user_stop_aborts_and_forbids_recovery_while_pressed(rust, healed):
    assert "User Stop pressed" in aborted(rust, healed, "user_stop on")
    assert rust.read_once().robot_mode == "user_stopped"
    with pytest.raises(franka.FrankaError, match="User Stop pressed"):
        rust.automatic_error_recovery()
    healed.order("user_stop off")
    until(lambda: rust.read_once().robot_mode == "idle", "idle again")


@pytest.mark.parametrize("order", ["drop 25", "late on", "silent 0.05"])
def test_too_many_lost_packets_abort(rust, healed, order):
    assert "communication_constraints_violation" in aborted(rust, healed, order)
    rust.automatic_error_recovery()
    until(lambda: rust.read_once().robot_mode == "idle", "idle again")


def test_some_lost_packets_do_not(rust, healed):
    lost = healed.order("status")["lost"]
    with rust.cartesian_targets() as arm:
        arm.move_by([0.01, 0.0, 0.0])
        await_commands(healed)
        healed.order("drop 15")
        until(lambda: healed.order("status")["lost"] >= lost + 15 or not arm.running, "the loss")
        assert arm.running


def test_a_link_that_is_cut_is_an_error_of_the_network(rust, healed):
    assert "UDP receive: Timeout" in aborted(rust, healed, "silent 30")


def test_a_force_above_the_thresholds_aborts_and_may_be_met_again_after_recovery(rust, healed):
    rust.set_collision_behavior_simple([80.0] * 7, [80.0] * 7, [30.0] * 6, [30.0] * 6)
    assert '"cartesian_reflex"' in aborted(rust, healed, "push 0 0 40")
    assert rust.read_once().current_errors == ["cartesian_reflex"]
    healed.order("push 0 0 0")
    rust.automatic_error_recovery()
    with rust.cartesian_targets() as arm:
        assert arm.running


def test_setters_are_refused_during_a_motion(rust):
    with rust.cartesian_targets(), pytest.raises(franka.FrankaError, match="not possible in the current mode"):
        rust.set_joint_impedance([1000.0] * 7)


@pytest.mark.parametrize(("order", "mode"), [("guiding on", "guiding"), ("brakes on", "other")])
def test_no_motion_starts_while_guided_or_braked(rust, healed, order, mode):
    healed.order(order)
    until(lambda: rust.read_once().robot_mode == mode, mode)
    with pytest.raises(franka.FrankaError, match="not possible in the current mode"):
        rust.cartesian_targets()


# Connecting


def test_the_fci_that_is_not_active_refuses(healed):
    healed.order("fci off")
    with pytest.raises(franka.FrankaError, match="enable FCI mode in Desk"):
        franka.Robot(ADDRESS, realtime="ignore")
    with pytest.raises(RuntimeError, match="enable FCI mode in Desk"):
        libfranka.Robot(ADDRESS)


def test_another_version_is_named(healed):
    healed.order("version 4")
    with pytest.raises(franka.FrankaError, match=r"server version: 4") as raised:
        franka.Robot(ADDRESS, realtime="ignore")
    assert raised.value.kind == "incompatible_version"
    with pytest.raises(Exception, match="protocol version 4.*version 5"):
        libfranka.Robot(ADDRESS)


def test_a_second_client_is_turned_away(rust):
    with pytest.raises(franka.FrankaError, match="TCP"):
        franka.Robot(ADDRESS, realtime="ignore")
    assert rust.read_once().robot_mode == "idle"


def raw_client(*messages: tuple[Command, bytes]) -> socket.socket:
    client = socket.create_connection((ADDRESS, ROBOT_PORT), timeout=TIMEOUT_S)
    for number, (command, payload) in enumerate(messages):
        client.sendall(np.array((command, number, 12 + len(payload)), ROBOT_HEADER).tobytes() + payload)
    return client


def test_a_client_that_dies_leaves_an_arm_at_rest_for_the_next_one(healed):
    move = np.zeros((), REQUESTS[Command.MOVE])
    client = raw_client(
        (Command.CONNECT, np.array((5, 40000), CONNECT_REQUEST).tobytes()), (Command.MOVE, move.tobytes())
    )
    until(lambda: healed.order("status")["mode"] == "move", "the motion")
    client.close()
    until(lambda: healed.order("status")["mode"] == "idle", "rest")
    assert franka.Robot(ADDRESS, realtime="ignore").read_once().robot_mode == "idle"


@pytest.mark.parametrize("nonsense", [b"GET / HTTP/1.1\r\n\r\n", b"\x63\x00\x00\x00" + bytes(4) + b"\x0c\x00\x00\x00"])
def test_nonsense_ends_the_connection_and_nothing_else(healed, nonsense):
    client = raw_client()
    client.sendall(nonsense)
    assert client.recv(100) == b""
    assert franka.Robot(ADDRESS, realtime="ignore").read_once().robot_mode == "idle"


# The hand


def test_both_clients_move_the_hand(healed):
    hand = franka.Robot(ADDRESS, realtime="ignore").gripper()
    assert hand.server_version == 3 and hand.move(0.06, 0.2)
    assert hand.read_once().width == pytest.approx(0.06, abs=0.0015)
    del hand
    other = until(lambda: connected(lambda: libfranka.Gripper(ADDRESS)), "the hand")
    assert other.server_version() == 3 and other.move(0.075, 0.2)
    assert other.read_once().width == pytest.approx(0.075, abs=0.0015) and other.read_once().max_width == 0.08


def connected(connect):
    try:
        return connect()
    except (RuntimeError, franka.FrankaError):
        return None


@pytest.fixture
def hand(rust):
    return until(lambda: connected(rust.gripper), "the hand")


def test_a_hand_that_is_blocked_says_so(hand, healed):
    healed.order("block on")
    assert hand.move(0.02, 0.2) is False
    assert hand.grasp(0.02, 0.2, 20.0) is False
    assert not hand.read_once().is_grasped


def test_a_grasp_counts_within_its_window_only(hand):
    assert hand.grasp(0.04, 0.2, 20.0) is False
    assert hand.grasp(0.0, 0.2, 20.0) is True
    assert hand.read_once().is_grasped


def test_impossible_widths_fail(hand):
    with pytest.raises(franka.FrankaError, match="failed"):
        hand.move(0.2, 0.1)


def test_another_version_of_the_hand_is_named(healed):
    healed.order("gripper_version 2")
    with pytest.raises(Exception, match="version 2"):
        libfranka.Gripper(ADDRESS)


# The process


def test_a_taken_address_is_one_line(server):
    with pytest.raises(UserError, match=f"{ADDRESS}:1337 is taken by another program"):
        FciProcess(ADDRESS)


def test_an_address_of_another_machine_is_one_line():
    with pytest.raises(UserError, match="192.0.2.1 is not an address of this machine"):
        FciProcess("192.0.2.1")


@pytest.mark.parametrize("text", ["", "127.0.0.1:", "127.0.0.1:x", ":1337", "127.0.0.1:70000"])
def test_an_address_that_is_none_is_refused(text):
    with pytest.raises(UserError, match="expected an address of this machine"):
        split_address(text)


@pytest.mark.parametrize("order", ["dance", "push 1 2", "reflex nothing", "user_stop maybe", "put {}"])
def test_an_unknown_order_is_refused_by_name(server, order):
    with pytest.raises(UserError, match=order.split()[0]):
        server.order(order)
