"""The robot's side without sockets: what it refuses, aborts and reports, cycle by cycle."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diwa_sim.fci.arms import HOME_Q, PERIOD_S, KinematicArm
from diwa_sim.fci.controller import MAX_LOST_IN_A_ROW, RobotController
from diwa_sim.fci.kinematics import DOF, HAND_TOOL, from_columns, jacobian, joint_frames
from diwa_sim.fci.messages import (
    ERRORS,
    REQUESTS,
    ROBOT_COMMAND,
    Command,
    Controller,
    Generator,
    ModelStatus,
    MoveStatus,
    RecoveryStatus,
    RobotMode,
    SetterStatus,
    StopStatus,
)
from diwa_sim.fci.motion import DDQ_MAX, DQ_MAX, Q_MAX, Q_MIN

JOINT_POSITION, JOINT_VELOCITY = Generator.JOINT_POSITION, Generator.JOINT_VELOCITY
CARTESIAN_POSITION, CARTESIAN_VELOCITY = Generator.CARTESIAN_POSITION, Generator.CARTESIAN_VELOCITY


class Robot:
    """A controller on an arm that does what it is told, and what a client would send it."""

    def __init__(self) -> None:
        self.controller = RobotController(KinematicArm())
        self.requests = 0

    def ask(self, command: Command, payload: bytes = b"") -> int:
        self.requests += 1
        self.controller.request(command, self.requests, payload)
        return self.requests

    def move(self, generator: Generator, controller: Controller = Controller.JOINT_IMPEDANCE) -> int:
        request = np.zeros((), REQUESTS[Command.MOVE])
        request["controller"], request["generator"] = controller, generator - 1
        return self.ask(Command.MOVE, request.tobytes())

    def cycle(self, **fields: object) -> None:
        """One millisecond with this command; without fields, with none."""
        if not fields:
            self.controller.cycle(None)
            return
        command = np.zeros((), ROBOT_COMMAND)
        for name, value in fields.items():
            command[name] = value
        self.controller.cycle(command[()])

    def answers(self, command: Command) -> list[int]:
        return [answer.status for answer in self.controller.answers if answer.command is command]

    def __getitem__(self, field: str) -> np.ndarray:
        return np.array(self.controller.state[field])

    @property
    def errors(self) -> list[str]:
        return [name for name, on in zip(ERRORS, self["errors"], strict=True) if on]


@pytest.fixture
def robot() -> Robot:
    return Robot()


def ramp(step: int, peak: float = 0.1, cycles: int = 200) -> float:
    """A speed that rises and falls smoothly."""
    return peak * np.sin(np.pi * min(step / cycles, 1.0)) ** 2


JOINTS = st.lists(st.floats(0.0, 1.0), min_size=DOF, max_size=DOF).map(lambda u: Q_MIN + np.array(u) * (Q_MAX - Q_MIN))


@given(JOINTS, st.lists(st.floats(-1.0, 1.0), min_size=DOF, max_size=DOF))
@settings(deadline=None)
def test_the_jacobian_is_the_derivative_of_the_kinematics(q, direction):
    step = 1e-6 * np.array(direction)
    frames, moved = joint_frames(q), joint_frames(q + step)
    tool, moved_tool = frames[DOF] @ HAND_TOOL, moved[DOF] @ HAND_TOOL
    matrix = jacobian(frames, tool[:3, 3])
    np.testing.assert_allclose(matrix[:3] @ step, (moved_tool - tool)[:3, 3], atol=1e-11)
    turn = (moved_tool - tool)[:3, :3] @ tool[:3, :3].T
    np.testing.assert_allclose(matrix[3:] @ step, [turn[2, 1], turn[0, 2], turn[1, 0]], atol=1e-11)


def test_a_robot_at_rest_is_idle_and_counts_milliseconds(robot):
    robot.cycle()
    before = int(robot["message_id"])
    robot.cycle()
    assert int(robot["message_id"]) == before + 1
    assert (robot["robot_mode"], robot["motion_generator_mode"]) == (RobotMode.IDLE, Generator.IDLE)
    np.testing.assert_allclose(robot["q"], HOME_Q)
    np.testing.assert_allclose(robot["O_T_EE"], robot["O_T_EE_d"])


def test_joint_velocities_are_followed_and_the_motion_ends_when_the_client_says_so(robot):
    robot.move(JOINT_VELOCITY)
    for step in range(201):
        robot.cycle(dq_c=[0.0] * 6 + [ramp(step)])
    assert robot["robot_mode"] == RobotMode.MOVE and robot["control_command_success_rate"] == 1.0
    robot.cycle(motion_generation_finished=1)
    assert robot.answers(Command.MOVE) == [MoveStatus.MOTION_STARTED, MoveStatus.SUCCESS]
    assert robot["q"][6] - HOME_Q[6] == pytest.approx(0.01, abs=1e-4)
    assert robot.errors == []


@pytest.mark.parametrize("generator", [CARTESIAN_POSITION, CARTESIAN_VELOCITY])
def test_cartesian_motions_go_straight_and_keep_the_elbow(robot, generator):
    robot.move(generator, Controller.CARTESIAN_IMPEDANCE)
    begin = from_columns(robot["O_T_EE"])
    pose, way = begin.copy(), 0.0
    for step in range(201):
        way += ramp(step) * PERIOD_S
        pose[:3, 3] = begin[:3, 3] + way * np.array([0.6, 0.8, 0.0])
        robot.cycle(O_T_EE_c=pose.T.ravel(), O_dP_EE_c=[0.6 * ramp(step), 0.8 * ramp(step), 0.0, 0.0, 0.0, 0.0])
    reached = from_columns(robot["O_T_EE"])
    np.testing.assert_allclose(reached[:3, 3] - begin[:3, 3], [0.6 * way, 0.8 * way, 0.0], atol=2e-6)
    np.testing.assert_allclose(reached[:3, :3], begin[:3, :3], atol=1e-5)
    assert robot["elbow"][0] == pytest.approx(HOME_Q[2], abs=1e-9) and robot.errors == []


COMMANDS = st.lists(
    st.one_of(
        st.none(),
        st.lists(st.floats(-3.0, 3.0), min_size=DOF, max_size=DOF),
        st.lists(st.floats(-0.005, 0.005), min_size=DOF, max_size=DOF),
        st.lists(st.floats(), min_size=DOF, max_size=DOF),
    ),
    min_size=1,
    max_size=40,
)


@given(COMMANDS, st.sampled_from([JOINT_POSITION, JOINT_VELOCITY]))
@settings(max_examples=60, deadline=None)
def test_whatever_is_commanded_the_desired_motion_keeps_the_limits_and_comes_to_rest(commands, generator):
    robot = Robot()
    robot.move(generator)
    for values in commands:
        fields = {} if values is None else {"dq_c": values, "q_c": HOME_Q + np.array(values)}
        with np.errstate(all="ignore"):
            robot.cycle(**fields)
        assert np.all(np.abs(robot["dq_d"]) <= 1.02 * DQ_MAX) and np.all(np.abs(robot["ddq_d"]) <= 1.02 * DDQ_MAX)
        assert np.all(robot["q_d"] >= Q_MIN) and np.all(robot["q_d"] <= Q_MAX)
    for _ in range(1100):
        robot.cycle()
    assert np.all(robot["dq_d"] == 0.0) and robot["robot_mode"] in (RobotMode.IDLE, RobotMode.REFLEX)
    assert len(robot.answers(Command.MOVE)) == 2, "a motion is answered when it starts and when it ends"


@pytest.mark.parametrize(
    ("generator", "fields", "error"),
    [
        (JOINT_POSITION, {"q_c": HOME_Q + 0.1}, "joint_position_motion_generator_start_pose_invalid"),
        (JOINT_POSITION, {"q_c": HOME_Q + 0.001}, "joint_motion_generator_velocity_discontinuity"),
        (JOINT_POSITION, {"q_c": HOME_Q + 7e-6}, "joint_motion_generator_acceleration_discontinuity"),
        (JOINT_VELOCITY, {"dq_c": [3.0] * 7}, "joint_motion_generator_velocity_limits_violation"),
        (JOINT_VELOCITY, {"dq_c": [0.05] * 7}, "joint_motion_generator_velocity_discontinuity"),
        (
            CARTESIAN_VELOCITY,
            {"O_dP_EE_c": [2.0, 0, 0, 0, 0, 0]},
            "cartesian_motion_generator_velocity_limits_violation",
        ),
        (CARTESIAN_VELOCITY, {"O_dP_EE_c": [0.1, 0, 0, 0, 0, 0]}, "cartesian_motion_generator_velocity_discontinuity"),
        (CARTESIAN_POSITION, {"O_T_EE_c": np.eye(4).ravel()}, "cartesian_position_motion_generator_start_pose_invalid"),
        (CARTESIAN_POSITION, {"O_T_EE_c": np.ones(16)}, "cartesian_position_motion_generator_invalid_frame"),
    ],
)
def test_a_jump_aborts_the_motion_and_names_it(robot, generator, fields, error):
    robot.move(generator)
    robot.cycle(**fields)
    assert robot.errors == [error] and robot["robot_mode"] == RobotMode.REFLEX
    assert robot.answers(Command.MOVE)[-1] == MoveStatus.REFLEX_ABORTED
    np.testing.assert_allclose(robot["q"], HOME_Q)


@pytest.mark.parametrize(
    ("torque", "error"), [([2.0] + [0.0] * 6, "controller_torque_discontinuity"), ([0.9] * 7, None)]
)
def test_torques_may_change_by_one_newtonmetre_a_millisecond(robot, torque, error):
    robot.move(JOINT_VELOCITY, Controller.EXTERNAL)
    robot.cycle(tau_J_d=torque)
    assert robot.errors == ([error] if error else [])


def test_torques_past_the_motors_are_refused(robot):
    robot.move(JOINT_VELOCITY, Controller.EXTERNAL)
    for step in range(14):
        robot.cycle(tau_J_d=[0.0] * 6 + [0.95 * step])
    assert robot.errors == ["tau_j_range_violation"]


@pytest.mark.parametrize("generator", [JOINT_POSITION, JOINT_VELOCITY, CARTESIAN_POSITION, CARTESIAN_VELOCITY])
def test_what_is_not_a_number_is_an_input_error(robot, generator):
    robot.move(generator)
    robot.cycle(q_c=np.nan, dq_c=np.nan, O_T_EE_c=np.nan, O_dP_EE_c=np.nan)
    assert robot.answers(Command.MOVE)[-1] == MoveStatus.INPUT_ERROR_ABORTED
    np.testing.assert_allclose(robot["q"], HOME_Q)


def test_fewer_than_twenty_lost_commands_are_bridged_at_constant_acceleration(robot):
    robot.move(JOINT_VELOCITY)
    for step in range(50):
        robot.cycle(dq_c=[0.0] * 6 + [0.002 * step])
    for _ in range(MAX_LOST_IN_A_ROW - 1):
        robot.cycle()
    assert robot["dq_d"][6] == pytest.approx(0.002 * (49 + 19))
    assert robot["control_command_success_rate"] == pytest.approx(50 / 69)
    robot.cycle(dq_c=[0.0] * 6 + [0.002 * 69])
    assert robot.errors == []


def test_twenty_lost_commands_in_a_row_are_a_communication_error(robot):
    robot.move(JOINT_VELOCITY)
    robot.cycle(dq_c=0.0)
    for _ in range(MAX_LOST_IN_A_ROW):
        robot.cycle()
    assert robot.errors == ["communication_constraints_violation"]
    assert robot.answers(Command.MOVE)[-1] == MoveStatus.REFLEX_ABORTED


def test_a_motion_that_no_command_follows_is_a_communication_error(robot):
    robot.move(JOINT_VELOCITY)
    for _ in range(1000):
        robot.cycle()
    assert robot.errors == ["communication_constraints_violation"]


def moving(robot: Robot) -> Robot:
    robot.move(JOINT_VELOCITY)
    for step in range(100):
        robot.cycle(dq_c=[0.0] * 6 + [0.01 * step])
    return robot


def test_stop_brings_the_arm_to_rest_and_then_answers_both(robot):
    moving(robot)
    robot.ask(Command.STOP_MOVE)
    assert robot.answers(Command.STOP_MOVE) == []
    for _ in range(60):
        robot.cycle()
    assert robot.answers(Command.MOVE)[-1] == MoveStatus.PREEMPTED
    assert robot.answers(Command.STOP_MOVE) == [StopStatus.SUCCESS]
    assert robot["robot_mode"] == RobotMode.IDLE and np.all(robot["dq"] == 0.0)


@pytest.mark.parametrize(
    ("event", "mode", "status"),
    [
        (lambda c: c.press_user_stop(True), RobotMode.USER_STOPPED, MoveStatus.EMERGENCY_ABORTED),
        (lambda c: c.guide(True), RobotMode.GUIDING, MoveStatus.ABORTED),
        (lambda c: c.lock_brakes(True), RobotMode.OTHER, MoveStatus.ABORTED),
        (lambda c: c.reflex("joint_reflex"), RobotMode.REFLEX, MoveStatus.REFLEX_ABORTED),
        (lambda c: c.put({"q": HOME_Q}), RobotMode.REFLEX, MoveStatus.REFLEX_ABORTED),
    ],
    ids=["user stop", "guiding", "brakes", "reflex", "reset of the scene"],
)
def test_what_happens_from_outside_aborts_the_motion_at_once_and_no_other_begins(robot, event, mode, status):
    event(moving(robot).controller)
    assert robot.answers(Command.MOVE)[-1] == status
    robot.cycle()
    assert robot["robot_mode"] == mode
    robot.move(JOINT_VELOCITY)
    assert robot.answers(Command.MOVE)[-1] == MoveStatus.NOT_POSSIBLE


def test_recovery_takes_a_while_clears_the_errors_and_remembers_the_reason(robot):
    moving(robot).controller.reflex("cartesian_reflex")
    robot.ask(Command.AUTOMATIC_ERROR_RECOVERY)
    robot.cycle()
    assert robot["robot_mode"] == RobotMode.AUTOMATIC_ERROR_RECOVERY
    for _ in range(60):
        robot.cycle()
    assert robot.answers(Command.AUTOMATIC_ERROR_RECOVERY) == [RecoveryStatus.SUCCESS]
    assert robot.errors == [] and robot["reflex_reason"][ERRORS.index("cartesian_reflex")]
    robot.move(JOINT_VELOCITY)
    robot.cycle(dq_c=0.0)
    assert robot["robot_mode"] == RobotMode.MOVE and not np.any(robot["reflex_reason"])


@pytest.mark.parametrize(
    ("event", "status"),
    [
        (lambda c: c.press_user_stop(True), RecoveryStatus.EMERGENCY_ABORTED),
        (lambda c: c.lock_brakes(True), RecoveryStatus.NOT_POSSIBLE),
        (lambda c: c.reflex("joint_position_limits_violation"), RecoveryStatus.MANUAL_RECOVERY_REQUIRED),
    ],
    ids=["user stop", "brakes", "joint limit"],
)
def test_recovery_is_refused(robot, event, status):
    event(robot.controller)
    robot.ask(Command.AUTOMATIC_ERROR_RECOVERY)
    assert robot.answers(Command.AUTOMATIC_ERROR_RECOVERY) == [status]


def test_releasing_the_user_stop_does_not_clear_a_reflex(robot):
    robot.controller.reflex("cartesian_reflex")
    robot.controller.press_user_stop(True)
    robot.controller.press_user_stop(False)
    robot.cycle()
    assert robot["robot_mode"] == RobotMode.REFLEX


def test_a_stop_that_was_not_pressed_cannot_be_released(robot):
    moving(robot).controller.press_user_stop(False)
    assert robot.controller.mode is RobotMode.MOVE


def thresholds(force: float, torque: float = 80.0) -> bytes:
    request = np.zeros((), REQUESTS[Command.SET_COLLISION_BEHAVIOR])
    for name in request.dtype.names:
        request[name] = force if "force" in name else torque
    return request.tobytes()


@pytest.mark.parametrize(("newtons", "errors"), [(25.0, []), (35.0, ["cartesian_reflex"])])
def test_a_force_above_the_thresholds_is_a_reflex(robot, newtons, errors):
    robot.ask(Command.SET_COLLISION_BEHAVIOR, thresholds(force=30.0))
    robot.move(JOINT_VELOCITY)
    robot.controller.arm.push(np.array([0.0, newtons, 0.0]))
    for _ in range(150):
        robot.cycle(dq_c=0.0)
    assert robot.errors == errors
    assert robot["O_F_ext_hat_K"][1] == pytest.approx(newtons, rel=0.02)
    assert robot["cartesian_contact"][1] == (newtons > 30.0)


def test_torques_above_the_thresholds_are_a_joint_reflex(robot):
    robot.ask(Command.SET_COLLISION_BEHAVIOR, thresholds(force=100.0, torque=5.0))
    robot.move(JOINT_VELOCITY)
    robot.controller.arm.push(np.array([0.0, 30.0, 0.0]))
    for _ in range(100):
        robot.cycle(dq_c=0.0)
    assert robot.errors == ["joint_reflex"]


@pytest.mark.parametrize("command", [Command.SET_JOINT_IMPEDANCE, Command.SET_CARTESIAN_IMPEDANCE, Command.SET_LOAD])
@pytest.mark.parametrize(("value", "status"), [(1.0, SetterStatus.SUCCESS), (np.nan, SetterStatus.INVALID_ARGUMENT)])
def test_setters_take_numbers_only(robot, command, value, status):
    layout = REQUESTS[command]
    robot.ask(command, np.full(layout.itemsize // 8, value).tobytes())
    assert robot.answers(command) == [status]


def test_setters_are_refused_during_a_motion(robot):
    moving(robot)
    robot.ask(Command.SET_COLLISION_BEHAVIOR, thresholds(30.0))
    assert robot.answers(Command.SET_COLLISION_BEHAVIOR) == [SetterStatus.NOT_POSSIBLE]


def test_another_tool_moves_the_end_effector(robot):
    offset = np.eye(4)
    offset[2, 3] = 0.05
    before = from_columns(robot["O_T_EE"])
    robot.ask(Command.SET_NE_TO_EE, offset.T.tobytes())
    robot.cycle()
    assert robot.answers(Command.SET_NE_TO_EE) == [SetterStatus.SUCCESS]
    np.testing.assert_allclose(from_columns(robot["O_T_EE"]), before @ offset, atol=1e-12)
    robot.ask(Command.SET_NE_TO_EE, np.ones(16).tobytes())
    assert robot.answers(Command.SET_NE_TO_EE)[-1] == SetterStatus.INVALID_ARGUMENT


def test_there_is_no_model_library(robot):
    robot.ask(Command.LOAD_MODEL_LIBRARY, b"\x00\x00")
    assert robot.answers(Command.LOAD_MODEL_LIBRARY) == [ModelStatus.ERROR]


def test_a_client_that_goes_away_leaves_an_arm_at_rest(robot):
    moving(robot).controller.forget_client()
    for _ in range(60):
        robot.cycle()
    assert robot.controller.answers == [], "the next client gets no answers of this one"
    assert robot["robot_mode"] == RobotMode.IDLE and np.all(robot["dq"] == 0.0)
