"""The robot's side of the interface: modes, motions, limits, reflexes and the 1 kHz state; no sockets here.

One call of :meth:`RobotController.cycle` is one millisecond of the robot. Answers to requests that take time appear in
:attr:`RobotController.answers`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from diwa_conventions.actions import FloatArray
from diwa_sim.fci.arms import PERIOD_S, Arm
from diwa_sim.fci.kinematics import DOF, from_columns, is_pose
from diwa_sim.fci.messages import (
    CARTESIAN_LIMIT_ANSWER_BYTES,
    ERRORS,
    REQUESTS,
    Command,
    Controller,
    Generator,
    ModelStatus,
    MoveStatus,
    RecoveryStatus,
    RobotMode,
    SetterStatus,
    StopStatus,
    parse,
)
from diwa_sim.fci.motion import (
    DQ_MAX,
    Q_MAX,
    Q_MIN,
    TORQUE_MAX,
    TORQUE_RATE_MAX,
    Brake,
    CartesianGenerator,
    GeneratorError,
    InputError,
    JointGenerator,
)
from diwa_sim.fci.state_message import StateMessage

MAX_LOST_IN_A_ROW = 20
FIRST_COMMAND_CYCLES = 1000
"""A motion that no command follows for this long was lost on the way."""
RECOVERY_CYCLES = 50
_SPEED_MARGIN = 1.2
_LIMIT_MARGIN_RAD = 0.01
"""By how much the measured arm may exceed what may be commanded."""
_MANUAL_RECOVERY = "joint_position_limits_violation"


@dataclass(frozen=True)
class Answer:
    """What goes back to the client for one of its requests."""

    command: Command
    command_id: int
    status: int
    extra: bytes = b""


@dataclass
class Motion:
    """The motion that a Move request began."""

    command_id: int
    controller: Controller
    mode: Generator
    generator: JointGenerator | CartesianGenerator
    commanded: bool = False
    lost: int = 0
    torque: FloatArray | None = None

    @property
    def external(self) -> bool:
        return self.controller is Controller.EXTERNAL


@dataclass
class Statistics:
    """Counts since the start."""

    cycles: int = 0
    motions: int = 0
    commands: int = 0
    lost: int = 0
    reflexes: int = 0


class RobotController:
    """A Panda that the client commands; see the module."""

    def __init__(self, arm: Arm) -> None:
        self.arm = arm
        self.mode = RobotMode.IDLE
        self.statistics = Statistics()
        self.answers: list[Answer] = []
        self._message = StateMessage()
        self.state = self._message.values
        self._motion: Motion | None = None
        self._brake = Brake(arm.q, np.zeros(DOF))
        self._stop_id: int | None = None
        self._end: MoveStatus | None = None
        self._end_id: int | None = None
        self._recovery: tuple[int | None, int] | None = None
        self._received: deque[bool] = deque(maxlen=100)
        self._tau_last = np.zeros(DOF)
        self._setters: dict[Command, Callable[[Any], SetterStatus]] = {
            Command.SET_COLLISION_BEHAVIOR: self._set_collision_behavior,
            Command.SET_JOINT_IMPEDANCE: self._set_joint_impedance,
            Command.SET_CARTESIAN_IMPEDANCE: lambda request: _finite(request["K_x"]),
            Command.SET_GUIDING_MODE: lambda request: SetterStatus.SUCCESS,
            Command.SET_FILTERS: lambda request: _finite(request["cutoff_hz"]),
            Command.SET_EE_TO_K: self._set_ee_to_k,
            Command.SET_NE_TO_EE: self._set_ne_to_ee,
            Command.SET_LOAD: self._set_load,
        }
        self._message.measure(arm, accelerates=False)
        self._tell()

    @property
    def expects_command(self) -> bool:
        """A motion runs whose stream of commands has begun."""
        return self._motion is not None and self._motion.commanded

    @property
    def force_thresholds(self) -> list[float]:
        """Forces [N] and torques [N m] at the tool that are a collision, while the arm does not accelerate."""
        return [float(value) for value in self._message.thresholds["upper_force_nominal"]]

    # Requests

    def request(self, command: Command, command_id: int, payload: bytes) -> None:
        """A request of the client (not Connect). ProtocolError if it has another length than its kind."""
        fields = parse(payload, REQUESTS[command]) if command in REQUESTS else None
        if command is Command.MOVE:
            self._request_move(command_id, fields)
        elif command is Command.STOP_MOVE:
            self._request_stop(command_id)
        elif command is Command.AUTOMATIC_ERROR_RECOVERY:
            self._request_recovery(command_id)
        elif command is Command.LOAD_MODEL_LIBRARY:
            self._answer(command, command_id, ModelStatus.ERROR)
        elif command is Command.GET_CARTESIAN_LIMIT:
            self._answer(command, command_id, SetterStatus.SUCCESS, bytes(CARTESIAN_LIMIT_ANSWER_BYTES))
        else:
            possible = self.mode not in (RobotMode.MOVE, RobotMode.OTHER)
            self._answer(command, command_id, self._setters[command](fields) if possible else SetterStatus.NOT_POSSIBLE)

    def _answer(self, command: Command, command_id: int | None, status: int, extra: bytes = b"") -> None:
        if command_id is not None:
            self.answers.append(Answer(command, command_id, status, extra))

    def _request_move(self, command_id: int, fields: Any) -> None:
        try:
            controller, mode = Controller(int(fields["controller"])), Generator(int(fields["generator"]) + 1)
        except ValueError:
            self._answer(Command.MOVE, command_id, MoveStatus.INVALID_ARGUMENT)
            return
        if controller is Controller.OTHER:
            self._answer(Command.MOVE, command_id, MoveStatus.INVALID_ARGUMENT)
            return
        if self.mode is not RobotMode.IDLE:
            self._answer(Command.MOVE, command_id, MoveStatus.NOT_POSSIBLE)
            return
        q = self._brake.joints.q
        positions = mode in (Generator.JOINT_POSITION, Generator.CARTESIAN_POSITION)
        cartesian = mode in (Generator.CARTESIAN_POSITION, Generator.CARTESIAN_VELOCITY)
        generator = CartesianGenerator(q, self._message.tool, positions) if cartesian else JointGenerator(q, positions)
        self._motion = Motion(command_id, controller, mode, generator)
        self.mode = RobotMode.MOVE
        self._message["reflex_reason"][...] = False
        self._received.clear()
        self._tau_last = np.array(self._message["tau_J_d"])
        self.statistics.motions += 1
        self._answer(Command.MOVE, command_id, MoveStatus.MOTION_STARTED)

    def _request_stop(self, command_id: int) -> None:
        if self.mode is not RobotMode.MOVE:
            self._answer(Command.STOP_MOVE, command_id, StopStatus.NOT_POSSIBLE)
            return
        self._stop_id = command_id
        if self._motion is not None:
            self._begin_to_brake(MoveStatus.PREEMPTED)
        elif self._end is not None:
            self._end = MoveStatus.PREEMPTED

    def _request_recovery(self, command_id: int) -> None:
        status = {
            RobotMode.MOVE: RecoveryStatus.NOT_POSSIBLE,
            RobotMode.OTHER: RecoveryStatus.NOT_POSSIBLE,
            RobotMode.GUIDING: RecoveryStatus.NOT_POSSIBLE,
            RobotMode.AUTOMATIC_ERROR_RECOVERY: RecoveryStatus.NOT_POSSIBLE,
            RobotMode.USER_STOPPED: RecoveryStatus.EMERGENCY_ABORTED,
        }.get(self.mode)
        if status is None and self._message["errors"][ERRORS.index(_MANUAL_RECOVERY)]:
            status = RecoveryStatus.MANUAL_RECOVERY_REQUIRED
        if status is not None:
            self._answer(Command.AUTOMATIC_ERROR_RECOVERY, command_id, status)
            return
        self.mode = RobotMode.AUTOMATIC_ERROR_RECOVERY
        self._recovery = (command_id, RECOVERY_CYCLES)

    def _set_collision_behavior(self, request: Any) -> SetterStatus:
        values = {name: np.array(request[name]) for name in request.dtype.names}
        if not all(np.all(np.isfinite(value)) and np.all(value >= 0.0) for value in values.values()):
            return SetterStatus.INVALID_ARGUMENT
        self._message.thresholds = values
        return SetterStatus.SUCCESS

    def _set_joint_impedance(self, request: Any) -> SetterStatus:
        stiffness = np.array(request["K_theta"])
        if not np.all(np.isfinite(stiffness)) or np.any(stiffness <= 0.0) or np.any(stiffness > 14250.0):
            return SetterStatus.INVALID_ARGUMENT
        self.arm.set_stiffness(stiffness)
        return SetterStatus.SUCCESS

    def _set_ee_to_k(self, request: Any) -> SetterStatus:
        matrix = from_columns(request["EE_T_K"])
        if not is_pose(matrix):
            return SetterStatus.INVALID_ARGUMENT
        self._message.ee_to_k = matrix
        self._message.show_tool()
        return SetterStatus.SUCCESS

    def _set_ne_to_ee(self, request: Any) -> SetterStatus:
        matrix = from_columns(request["NE_T_EE"])
        if not is_pose(matrix):
            return SetterStatus.INVALID_ARGUMENT
        self._message.ne_to_ee = matrix
        self._message.show_tool()
        return SetterStatus.SUCCESS

    def _set_load(self, request: Any) -> SetterStatus:
        names = ("m_load", "F_x_Cload", "I_load")
        if not all(np.all(np.isfinite(request[name])) for name in names) or not 0.0 <= request["m_load"] <= 3.0:
            return SetterStatus.INVALID_ARGUMENT
        for name in names:
            self._message[name][...] = request[name]
        return SetterStatus.SUCCESS

    # What happens to the robot from outside

    def press_user_stop(self, pressed: bool) -> None:
        self._switch(RobotMode.USER_STOPPED, pressed, MoveStatus.EMERGENCY_ABORTED)

    def guide(self, guided: bool) -> None:
        self._switch(RobotMode.GUIDING, guided, MoveStatus.ABORTED)

    def lock_brakes(self, locked: bool) -> None:
        self._switch(RobotMode.OTHER, locked, MoveStatus.ABORTED)

    def _switch(self, mode: RobotMode, on: bool, status: MoveStatus) -> None:
        if on:
            self._interrupt(mode, status)
        elif self.mode is mode:
            self.mode = RobotMode.REFLEX if np.any(self._message["errors"]) else RobotMode.IDLE

    def reflex(self, error: str) -> None:
        """Abort with this error flag, moving or not."""
        flag = ERRORS.index(error)
        self._message["errors"][flag] = True
        self._message["reflex_reason"][flag] = True
        self.statistics.reflexes += 1
        self._interrupt(RobotMode.REFLEX, MoveStatus.REFLEX_ABORTED)

    def put(self, state: dict[str, Any]) -> None:
        """The arm is somewhere else from one moment to the next; a motion ends by a reflex."""
        moving = self.mode is RobotMode.MOVE
        self.arm.restore(state)
        if moving:
            self.reflex("cartesian_reflex")
        self._brake = Brake(self.arm.q, np.zeros(DOF))
        self._message.forget_contact()

    def forget_client(self) -> None:
        """The client is gone: the arm comes to rest, and the next client gets no answers of its."""
        if self._motion is not None:
            self._begin_to_brake(MoveStatus.ABORTED)
        self._end_id = self._stop_id = None
        if self._recovery is not None:
            self._recovery = (None, self._recovery[1])
        self.answers.clear()

    def _interrupt(self, mode: RobotMode, status: MoveStatus) -> None:
        if self._motion is not None:
            self._begin_to_brake(status)
        if self._end is not None:  # at once: the client is told while the arm still comes to rest
            stop = {MoveStatus.EMERGENCY_ABORTED: StopStatus.EMERGENCY_ABORTED}.get(status, StopStatus.REFLEX_ABORTED)
            self._end = status
            self._finish(stop)
        if self._recovery is not None:
            aborted = mode is RobotMode.USER_STOPPED
            recovery_status = RecoveryStatus.EMERGENCY_ABORTED if aborted else RecoveryStatus.ABORTED
            self._answer(Command.AUTOMATIC_ERROR_RECOVERY, self._recovery[0], recovery_status)
            self._recovery = None
        self.mode = mode

    # One millisecond

    def cycle(self, command: Any | None) -> None:
        """Go on by one millisecond with the command that has come, or with none."""
        self.statistics.cycles += 1
        self._count_recovery()
        try:
            if self._motion is not None:
                self._move(self._motion, command)
        except InputError:
            self._begin_to_brake(MoveStatus.INPUT_ERROR_ABORTED)
        except GeneratorError as error:
            self.reflex(str(error))
        self._actuate()
        self._message.measure(self.arm, self._accelerates)
        if self._motion is not None:
            self._watch()
        if self._end is not None and self._brake.at_rest:
            self._finish(StopStatus.SUCCESS)
        self._tell()

    def _count_recovery(self) -> None:
        if self._recovery is None:
            return
        command_id, left = self._recovery
        self._recovery = (command_id, left - 1)
        if left <= 1:
            self._recovery = None
            self._message["errors"][...] = False
            self.mode = RobotMode.IDLE
            self._answer(Command.AUTOMATIC_ERROR_RECOVERY, command_id, RecoveryStatus.SUCCESS)

    def _move(self, motion: Motion, command: Any | None) -> None:
        if command is None:
            self._miss(motion)
            return
        gap = motion.lost + 1
        motion.commanded, motion.lost = True, 0
        self._received.append(True)
        self.statistics.commands += 1
        motion.generator.follow(command)
        if motion.external:
            self._take_torque(motion, np.array(command["tau_J_d"]), gap)
        if command["motion_generation_finished"]:
            self._begin_to_brake(MoveStatus.SUCCESS)

    def _miss(self, motion: Motion) -> None:
        motion.lost += 1
        if not motion.commanded:
            if motion.lost >= FIRST_COMMAND_CYCLES:
                raise GeneratorError("communication_constraints_violation")
            return
        self._received.append(False)
        self.statistics.lost += 1
        if motion.lost >= MAX_LOST_IN_A_ROW:
            raise GeneratorError("communication_constraints_violation")
        motion.generator.coast()

    def _take_torque(self, motion: Motion, torque: FloatArray, gap: int) -> None:
        if not np.isfinite(torque).all():
            raise InputError
        if (np.abs(torque - self._tau_last) > TORQUE_RATE_MAX * PERIOD_S * gap * 1.01).any():
            raise GeneratorError("controller_torque_discontinuity")
        if (np.abs(torque) > TORQUE_MAX * 1.01).any():
            raise GeneratorError("tau_j_range_violation")
        motion.torque = self._tau_last = torque

    def _actuate(self) -> None:
        motion = self._motion
        if motion is None:
            if not self._brake.at_rest:
                self._brake.coast()
            self.arm.track(self._brake.joints.q, self._brake.joints.dq)
        elif motion.torque is not None:
            self.arm.drive(motion.torque)
        else:
            self.arm.track(motion.generator.joints.q, motion.generator.joints.dq)

    def _begin_to_brake(self, status: MoveStatus) -> None:
        """The motion is over; the client is told so when the arm is at rest."""
        motion = self._motion
        if motion is None:
            return
        self._motion = None
        if motion.torque is not None or status in (MoveStatus.REFLEX_ABORTED, MoveStatus.EMERGENCY_ABORTED):
            # from where the arm is, so that it no longer presses against what it met
            self._brake = Brake(np.clip(self.arm.q, Q_MIN, Q_MAX), self.arm.dq)
        else:
            self._brake = Brake(motion.generator.joints.q, motion.generator.joints.dq)
        self._end, self._end_id = status, motion.command_id

    def _finish(self, stop_status: StopStatus) -> None:
        status, self._end = self._end, None
        if self.mode is RobotMode.MOVE:
            self.mode = RobotMode.IDLE
        assert status is not None
        self._answer(Command.MOVE, self._end_id, status)
        if self._stop_id is not None:
            self._answer(Command.STOP_MOVE, self._stop_id, stop_status)
            self._stop_id = None

    # What the client is told

    @property
    def _accelerates(self) -> bool:
        motion = self._motion
        return motion is not None and motion.torque is None and bool((np.abs(motion.generator.joints.ddq) > 0.1).any())

    def _watch(self) -> None:
        """Reflexes by what the arm does and feels."""
        message, arm = self._message, self.arm
        if message["cartesian_collision"].any():
            self.reflex("cartesian_reflex")
        elif message["joint_collision"].any():
            self.reflex("joint_reflex")
        elif (np.abs(arm.dq) > _SPEED_MARGIN * DQ_MAX).any():
            self.reflex("joint_velocity_violation")
        elif (arm.q < Q_MIN - _LIMIT_MARGIN_RAD).any() or (arm.q > Q_MAX + _LIMIT_MARGIN_RAD).any():
            self.reflex("joint_position_limits_violation")

    def _tell(self) -> None:
        message, motion = self._message, self._motion
        generator = None if motion is None else motion.generator
        joints = self._brake.joints if generator is None else generator.joints
        message.show_desired(joints, generator if isinstance(generator, CartesianGenerator) else None)
        message["tau_J_d"][...] = self.arm.tau if motion is None or motion.torque is None else motion.torque
        message["message_id"][...] = self.statistics.cycles + 1
        if self.mode is not RobotMode.MOVE:
            message.show_modes(self.mode, Generator.IDLE, Controller.OTHER, 0.0)
        elif motion is not None:
            received = self._received
            rate = sum(received) / len(received) if received else 0.0
            message.show_modes(self.mode, motion.mode, motion.controller, rate)
        # else it comes to rest, and shows the modes of the motion that is ending


def _finite(values: Any) -> SetterStatus:
    return SetterStatus.SUCCESS if np.all(np.isfinite(values)) else SetterStatus.INVALID_ARGUMENT
