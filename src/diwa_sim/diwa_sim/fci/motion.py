"""The robot's motion generators: a commanded stream becomes joint positions, or is refused as the real robot does.

A missing command is made up for by constant acceleration. Limits are those that Franka publishes for the Panda.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from diwa_conventions.actions import FloatArray
from diwa_sim.fci.arms import PERIOD_S
from diwa_sim.fci.kinematics import (
    DOF,
    from_columns,
    is_pose,
    jacobian,
    joint_frames,
    twist_between,
)

Q_MIN = np.array([-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973])
Q_MAX = np.array([2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973])
DQ_MAX = np.array([2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61])
DDQ_MAX = np.array([15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0])
DDDQ_MAX = np.array([7500.0, 3750.0, 5000.0, 6250.0, 7500.0, 10000.0, 10000.0])
TORQUE_MAX = np.array([87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0])
TORQUE_RATE_MAX = 1000.0
"""Nm/s."""
_TWIST_MAX = np.array([1.7, 2.5])  # m/s, rad/s
_TWIST_RATE_MAX = np.array([13.0, 25.0])
_TWIST_JERK_MAX = np.array([6500.0, 12500.0])
_MARGIN = 1.01
"""What rounding may add to a stream that a client kept at the limit."""
_REST_RAD_S = 1e-6
_START_TOLERANCE = 0.01
"""rad or m between where the robot is and the first commanded position."""


class InputError(Exception):
    """A command that is not a number."""


class GeneratorError(Exception):
    """A command past a limit; the message is the name of the robot's error flag."""


class JointChecks:
    """The desired joint motion q, dq, ddq (7,) and its limits."""

    def __init__(self, q: FloatArray, prefix: str) -> None:
        self.q, self.dq, self.ddq = q.copy(), np.zeros(DOF), np.zeros(DOF)
        self._prefix = prefix

    def take(self, dq: FloatArray) -> None:
        """Go on at this speed for one period. GeneratorError past a limit."""
        ddq = (dq - self.dq) / PERIOD_S
        dddq = (ddq - self.ddq) / PERIOD_S
        q = self.q + dq * PERIOD_S
        if (q < Q_MIN).any() or (q > Q_MAX).any():
            raise GeneratorError(f"{self._prefix}_position_limits_violation")
        if (np.abs(dq) > DQ_MAX * _MARGIN).any():
            raise GeneratorError(f"{self._prefix}_velocity_limits_violation")
        if (np.abs(ddq) > DDQ_MAX * _MARGIN).any():
            raise GeneratorError(f"{self._prefix}_velocity_discontinuity")
        if (np.abs(dddq) > DDDQ_MAX * _MARGIN).any():
            raise GeneratorError(f"{self._prefix}_acceleration_discontinuity")
        self.q, self.dq, self.ddq = q, dq, ddq


class JointGenerator:
    """Joint positions or velocities, 1 kHz."""

    cartesian = False

    def __init__(self, q: FloatArray, positions: bool) -> None:
        self.joints = JointChecks(q, "joint_motion_generator")
        self._positions = positions
        self._started = False

    def follow(self, command: Any) -> None:
        values = np.array(command["q_c"] if self._positions else command["dq_c"])
        if not np.isfinite(values).all():
            raise InputError
        if not self._positions:
            self.joints.take(values)
            return
        if not self._started and np.max(np.abs(values - self.joints.q)) > _START_TOLERANCE:
            raise GeneratorError("joint_position_motion_generator_start_pose_invalid")
        self._started = True
        self.joints.take((values - self.joints.q) / PERIOD_S)

    def coast(self) -> None:
        self.joints.take(self.joints.dq + self.joints.ddq * PERIOD_S)


class CartesianGenerator:
    """Poses or twists of the end effector, 1 kHz. The elbow (joint 3) stays where it is unless it is commanded."""

    cartesian = True

    def __init__(self, q: FloatArray, tool: FloatArray, positions: bool) -> None:
        self.joints = JointChecks(q, "cartesian_motion_generator_joint")
        self._tool = tool
        self._positions = positions
        self._started = False
        self.pose: FloatArray = joint_frames(q)[DOF] @ tool
        self.twist, self.twist_rate = np.zeros(6), np.zeros(6)

    def follow(self, command: Any) -> None:
        elbow = float(command["elbow_c"][0]) if command["valid_elbow"] else None
        if elbow is not None and not np.isfinite(elbow):
            raise InputError
        if not self._positions:
            twist = np.array(command["O_dP_EE_c"])
            if not np.isfinite(twist).all():
                raise InputError
            self._take(twist, self._moved(twist), elbow)
            return
        pose = from_columns(command["O_T_EE_c"])
        self._check_pose(pose)
        self._take(twist_between(pose, self.pose) / PERIOD_S, pose, elbow)

    def coast(self) -> None:
        twist = self.twist + self.twist_rate * PERIOD_S
        self._take(twist, self._moved(twist), None)

    def _check_pose(self, pose: FloatArray) -> None:
        if not np.isfinite(pose).all():
            raise InputError
        if not is_pose(pose):
            raise GeneratorError("cartesian_position_motion_generator_invalid_frame")
        if not self._started and np.max(np.abs(twist_between(pose, self.pose))) > _START_TOLERANCE:
            raise GeneratorError("cartesian_position_motion_generator_start_pose_invalid")
        self._started = True

    def _moved(self, twist: FloatArray) -> FloatArray:
        """The pose one period on."""
        pose = self.pose.copy()
        pose[:3, 3] += twist[:3] * PERIOD_S
        x, y, z = twist[3:] * PERIOD_S
        pose[:3, :3] += np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]]) @ pose[:3, :3]
        u, _, vt = np.linalg.svd(pose[:3, :3])
        pose[:3, :3] = u @ vt
        return pose

    def _take(self, twist: FloatArray, pose: FloatArray, elbow: float | None) -> None:
        rate = (twist - self.twist) / PERIOD_S
        jerk = (rate - self.twist_rate) / PERIOD_S
        for values, limits, flag in (
            (twist, _TWIST_MAX, "velocity_limits_violation"),
            (rate, _TWIST_RATE_MAX, "velocity_discontinuity"),
            (jerk, _TWIST_JERK_MAX, "acceleration_discontinuity"),
        ):
            if (
                values[:3] @ values[:3] > (limits[0] * _MARGIN) ** 2
                or values[3:] @ values[3:] > (limits[1] * _MARGIN) ** 2
            ):
                raise GeneratorError(f"cartesian_motion_generator_{flag}")
        self.joints.take(self._joint_speeds(pose, elbow))
        self.twist, self.twist_rate, self.pose = twist, rate, pose

    def _joint_speeds(self, pose: FloatArray, elbow: float | None) -> FloatArray:
        """Speeds that bring the desired joints to the pose within one period."""
        frames = joint_frames(self.joints.q)
        reached = frames[DOF] @ self._tool
        system = np.zeros((DOF, DOF))
        system[:6] = jacobian(frames, reached[:3, 3])
        system[6, 2] = 1.0
        goal = np.zeros(DOF)
        goal[:6] = twist_between(pose, reached) / PERIOD_S
        goal[6] = 0.0 if elbow is None else (elbow - self.joints.q[2]) / PERIOD_S
        try:
            speeds: FloatArray = np.asarray(np.linalg.solve(system, goal), np.float64)
        except np.linalg.LinAlgError:
            raise GeneratorError("cartesian_motion_generator_joint_velocity_limits_violation") from None
        return speeds


class Brake:
    """Brings a desired motion to rest at the joints' own accelerations."""

    cartesian = False

    def __init__(self, q: FloatArray, dq: FloatArray) -> None:
        self.joints = JointChecks(q, "")
        self.joints.dq = np.where(np.abs(dq) < _REST_RAD_S, 0.0, dq)

    def coast(self) -> None:
        joints = self.joints
        joints.ddq = -np.clip(joints.dq / PERIOD_S, -DDQ_MAX, DDQ_MAX)
        joints.dq = joints.dq + joints.ddq * PERIOD_S
        joints.q = np.clip(joints.q + joints.dq * PERIOD_S, Q_MIN, Q_MAX)

    @property
    def at_rest(self) -> bool:
        return not self.joints.dq.any()
