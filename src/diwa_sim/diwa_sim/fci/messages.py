"""Layouts of FCI protocol 5 (Panda, robot system 4.2) and of the hand's protocol 3: packed, little-endian.

As published in libfranka-common. Matrices are 4x4 column by column, lengths in m, angles in rad.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np

ROBOT_VERSION, GRIPPER_VERSION = 5, 3
ROBOT_PORT = 1337
"""The hand has the next one."""
ERROR_COUNT = 41


class RobotMode(IntEnum):
    OTHER = 0  # the brakes are closed
    IDLE = 1
    MOVE = 2
    GUIDING = 3
    REFLEX = 4
    USER_STOPPED = 5
    AUTOMATIC_ERROR_RECOVERY = 6


class Generator(IntEnum):
    """What a robot state calls its motion generator; a Move request counts from 0 without IDLE."""

    IDLE = 0
    JOINT_POSITION = 1
    JOINT_VELOCITY = 2
    CARTESIAN_POSITION = 3
    CARTESIAN_VELOCITY = 4


class Controller(IntEnum):
    JOINT_IMPEDANCE = 0
    CARTESIAN_IMPEDANCE = 1
    EXTERNAL = 2
    OTHER = 3


class Command(IntEnum):
    CONNECT = 0
    MOVE = 1
    STOP_MOVE = 2
    GET_CARTESIAN_LIMIT = 3
    SET_COLLISION_BEHAVIOR = 4
    SET_JOINT_IMPEDANCE = 5
    SET_CARTESIAN_IMPEDANCE = 6
    SET_GUIDING_MODE = 7
    SET_EE_TO_K = 8
    SET_NE_TO_EE = 9
    SET_LOAD = 10
    SET_FILTERS = 11
    AUTOMATIC_ERROR_RECOVERY = 12
    LOAD_MODEL_LIBRARY = 13


class ConnectStatus(IntEnum):
    SUCCESS = 0
    INCOMPATIBLE_VERSION = 1


class MoveStatus(IntEnum):
    SUCCESS = 0
    MOTION_STARTED = 1
    PREEMPTED = 2
    NOT_POSSIBLE = 3
    SINGULAR_START = 4
    INVALID_ARGUMENT = 5
    REFLEX_ABORTED = 6
    EMERGENCY_ABORTED = 7
    INPUT_ERROR_ABORTED = 8
    ABORTED = 9


class StopStatus(IntEnum):
    SUCCESS = 0
    NOT_POSSIBLE = 1
    EMERGENCY_ABORTED = 2
    REFLEX_ABORTED = 3
    ABORTED = 4


class SetterStatus(IntEnum):
    SUCCESS = 0
    NOT_POSSIBLE = 1
    INVALID_ARGUMENT = 2


class RecoveryStatus(IntEnum):
    SUCCESS = 0
    NOT_POSSIBLE = 1
    MANUAL_RECOVERY_REQUIRED = 2
    REFLEX_ABORTED = 3
    EMERGENCY_ABORTED = 4
    ABORTED = 5


class ModelStatus(IntEnum):
    SUCCESS = 0
    ERROR = 1


class GripperCommand(IntEnum):
    CONNECT = 0
    HOMING = 1
    GRASP = 2
    MOVE = 3
    STOP = 4


class GripperStatus(IntEnum):
    SUCCESS = 0
    FAIL = 1
    UNSUCCESSFUL = 2
    ABORTED = 3


ERRORS = (
    "joint_position_limits_violation",
    "cartesian_position_limits_violation",
    "self_collision_avoidance_violation",
    "joint_velocity_violation",
    "cartesian_velocity_violation",
    "force_control_safety_violation",
    "joint_reflex",
    "cartesian_reflex",
    "max_goal_pose_deviation_violation",
    "max_path_pose_deviation_violation",
    "cartesian_velocity_profile_safety_violation",
    "joint_position_motion_generator_start_pose_invalid",
    "joint_motion_generator_position_limits_violation",
    "joint_motion_generator_velocity_limits_violation",
    "joint_motion_generator_velocity_discontinuity",
    "joint_motion_generator_acceleration_discontinuity",
    "cartesian_position_motion_generator_start_pose_invalid",
    "cartesian_motion_generator_elbow_limit_violation",
    "cartesian_motion_generator_velocity_limits_violation",
    "cartesian_motion_generator_velocity_discontinuity",
    "cartesian_motion_generator_acceleration_discontinuity",
    "cartesian_motion_generator_elbow_sign_inconsistent",
    "cartesian_motion_generator_start_elbow_invalid",
    "force_controller_desired_force_tolerance_violation",
    "start_elbow_sign_inconsistent",
    "communication_constraints_violation",
    "power_limit_violation",
    "cartesian_motion_generator_joint_position_limits_violation",
    "cartesian_motion_generator_joint_velocity_limits_violation",
    "cartesian_motion_generator_joint_velocity_discontinuity",
    "cartesian_motion_generator_joint_acceleration_discontinuity",
    "cartesian_position_motion_generator_invalid_frame",
    "controller_torque_discontinuity",
    "joint_p2p_insufficient_torque_for_planning",
    "tau_j_range_violation",
    "instability_detected",
    "joint_move_in_wrong_direction",
    "cartesian_spline_motion_generator_violation",
    "joint_via_motion_generator_planning_joint_limit_violation",
    "base_acceleration_initialization_timeout",
    "base_acceleration_invalid_reading",
)
"""Names of the error flags, in the order in which a robot state has them."""


def _layout(*fields: tuple[str, str, int]) -> np.dtype[Any]:
    """A packed layout of (name, type, count) fields; a count of 1 is a plain value."""
    return np.dtype([(name, kind) if count == 1 else (name, kind, (count,)) for name, kind, count in fields])


ROBOT_STATE = _layout(
    ("message_id", "<u8", 1),
    *((name, "<f8", 16) for name in ("O_T_EE", "O_T_EE_d", "F_T_EE", "EE_T_K", "F_T_NE", "NE_T_EE")),
    *(("m_ee", "<f8", 1), ("I_ee", "<f8", 9), ("F_x_Cee", "<f8", 3)),
    *(("m_load", "<f8", 1), ("I_load", "<f8", 9), ("F_x_Cload", "<f8", 3)),
    *(("elbow", "<f8", 2), ("elbow_d", "<f8", 2)),
    *((name, "<f8", 7) for name in ("tau_J", "tau_J_d", "dtau_J", "q", "q_d", "dq", "dq_d", "ddq_d", "joint_contact")),
    *(("cartesian_contact", "<f8", 6), ("joint_collision", "<f8", 7), ("cartesian_collision", "<f8", 6)),
    *(("tau_ext_hat_filtered", "<f8", 7), ("O_F_ext_hat_K", "<f8", 6), ("K_F_ext_hat_K", "<f8", 6)),
    *(("O_dP_EE_d", "<f8", 6), ("O_ddP_O", "<f8", 3)),
    *((name, "<f8", 2) for name in ("elbow_c", "delbow_c", "ddelbow_c")),
    *(("O_T_EE_c", "<f8", 16), ("O_dP_EE_c", "<f8", 6), ("O_ddP_EE_c", "<f8", 6)),
    *(("theta", "<f8", 7), ("dtheta", "<f8", 7)),
    *(("motion_generator_mode", "u1", 1), ("controller_mode", "u1", 1)),
    *(("errors", "?", ERROR_COUNT), ("reflex_reason", "?", ERROR_COUNT)),
    *(("robot_mode", "u1", 1), ("control_command_success_rate", "<f8", 1)),
)

ROBOT_COMMAND = _layout(
    ("message_id", "<u8", 1),
    *(("q_c", "<f8", 7), ("dq_c", "<f8", 7), ("O_T_EE_c", "<f8", 16), ("O_dP_EE_c", "<f8", 6), ("elbow_c", "<f8", 2)),
    *(("valid_elbow", "u1", 1), ("motion_generation_finished", "u1", 1)),
    ("tau_J_d", "<f8", 7),
)

GRIPPER_STATE = _layout(
    *(("message_id", "<u4", 1), ("width", "<f8", 1), ("max_width", "<f8", 1)),
    *(("is_grasped", "?", 1), ("temperature", "<u2", 1)),
)

ROBOT_HEADER = _layout(("command", "<u4", 1), ("command_id", "<u4", 1), ("size", "<u4", 1))
GRIPPER_HEADER = _layout(("command", "<u2", 1), ("command_id", "<u4", 1), ("size", "<u4", 1))
CONNECT_REQUEST = _layout(("version", "<u2", 1), ("udp_port", "<u2", 1))
_DEVIATION = np.dtype([("translation", "<f8"), ("rotation", "<f8"), ("elbow", "<f8")])

REQUESTS: dict[Command, np.dtype[Any]] = {
    Command.CONNECT: CONNECT_REQUEST,
    Command.MOVE: np.dtype(
        [("controller", "<u4"), ("generator", "<u4"), ("path_deviation", _DEVIATION), ("goal_deviation", _DEVIATION)]
    ),
    Command.GET_CARTESIAN_LIMIT: _layout(("id", "<i4", 1)),
    Command.SET_COLLISION_BEHAVIOR: _layout(
        *(
            (f"{bound}_torque_{phase}", "<f8", 7)
            for phase in ("acceleration", "nominal")
            for bound in ("lower", "upper")
        ),
        *(
            (f"{bound}_force_{phase}", "<f8", 6)
            for phase in ("acceleration", "nominal")
            for bound in ("lower", "upper")
        ),
    ),
    Command.SET_JOINT_IMPEDANCE: _layout(("K_theta", "<f8", 7)),
    Command.SET_CARTESIAN_IMPEDANCE: _layout(("K_x", "<f8", 6)),
    Command.SET_GUIDING_MODE: _layout(("guiding_mode", "?", 6), ("nullspace", "?", 1)),
    Command.SET_EE_TO_K: _layout(("EE_T_K", "<f8", 16)),
    Command.SET_NE_TO_EE: _layout(("NE_T_EE", "<f8", 16)),
    Command.SET_LOAD: _layout(("m_load", "<f8", 1), ("F_x_Cload", "<f8", 3), ("I_load", "<f8", 9)),
    Command.SET_FILTERS: _layout(("cutoff_hz", "<f8", 5)),
    Command.LOAD_MODEL_LIBRARY: _layout(("architecture", "u1", 1), ("system", "u1", 1)),
}
"""Payloads of the requests that have one, after their header."""

GRIPPER_REQUESTS: dict[GripperCommand, np.dtype[Any]] = {
    GripperCommand.CONNECT: CONNECT_REQUEST,
    GripperCommand.GRASP: _layout(
        *((name, "<f8", 1) for name in ("width", "epsilon_inner", "epsilon_outer", "speed", "force"))
    ),
    GripperCommand.MOVE: _layout(("width", "<f8", 1), ("speed", "<f8", 1)),
}
CARTESIAN_LIMIT_ANSWER_BYTES = (3 + 16) * 8 + 1
"""What follows the status in an answer to GetCartesianLimit: size, frame, whether it is active."""


class ProtocolError(Exception):
    """A message that no client of this protocol sends."""


def answer(header_layout: np.dtype[Any], command: int, command_id: int, status: int, extra: bytes = b"") -> bytes:
    """One answer: header, status (one byte for the arm, two for the hand), then what the command adds."""
    status_bytes = int(status).to_bytes(1 if header_layout is ROBOT_HEADER else 2, "little")
    size = header_layout.itemsize + len(status_bytes) + len(extra)
    return np.array((int(command), command_id, size), header_layout).tobytes() + status_bytes + extra


def split_request(buffer: bytearray, header_layout: np.dtype[Any]) -> tuple[int, int, bytes] | None:
    """Take one whole request off the buffer: (command, command id, payload), or None. ProtocolError for nonsense."""
    head = header_layout.itemsize
    if len(buffer) < head:
        return None
    command, command_id, size = (int(value) for value in np.frombuffer(bytes(buffer[:head]), header_layout)[0])
    if not head <= size <= 4096:
        raise ProtocolError(f"a request of {size} bytes; expected {head} to 4096")
    if len(buffer) < size:
        return None
    payload = bytes(buffer[head:size])
    del buffer[:size]
    return command, command_id, payload


def parse(payload: bytes, layout: np.dtype[Any]) -> Any:
    """The fields of a payload. ProtocolError if it has another length."""
    if len(payload) != layout.itemsize:
        raise ProtocolError(f"a payload of {len(payload)} bytes; expected {layout.itemsize}")
    return np.frombuffer(payload, layout)[0]
