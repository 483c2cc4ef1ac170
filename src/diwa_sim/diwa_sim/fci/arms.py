"""What stands behind the interface: an arm and a hand, one millisecond at a time."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from diwa_conventions.actions import FloatArray
from diwa_sim.fci.kinematics import DOF, HAND_TOOL, jacobian, joint_frames

PERIOD_S = 0.001
MAX_WIDTH_M = 0.08
HOME_Q = np.array([0.0, -np.pi / 4, 0.0, -3 * np.pi / 4, 0.0, np.pi / 2, np.pi / 4])


class Arm(Protocol):
    """Joints in rad, rad/s and Nm; the hand's width in m. Torques leave out what holds the arm's own weight."""

    q: FloatArray
    dq: FloatArray
    tau: FloatArray
    """Torques (7,) that the motors gave in the last step."""
    gravity: FloatArray
    """Torques (7,) that hold the weight."""
    tau_ext: FloatArray
    """Torques (7,) that something outside the arm gave, not filtered."""
    width_m: float

    def track(self, q: FloatArray, dq: FloatArray) -> None:
        """One millisecond under the robot's own joint controller, towards these joints and speeds."""

    def drive(self, torque: FloatArray) -> None:
        """One millisecond under these torques."""

    def set_stiffness(self, stiffness: FloatArray) -> None:
        """Joint stiffness (7,) [Nm/rad] of the robot's own controller."""

    def set_fingers(self, width_m: float, force_n: float) -> None:
        """Where the fingers are to go, with at most this force."""

    def push(self, force_n: FloatArray) -> None:
        """From now on this force (3,) in the base frame pulls at the tool centre point."""

    def publish(self) -> None:
        """Show the state to whoever draws it."""

    def restore(self, state: dict[str, object]) -> None:
        """Take on a state that :meth:`publish` once showed."""


_INERTIA = np.array([1.2, 1.5, 0.9, 0.9, 0.15, 0.15, 0.08])


class KinematicArm:
    """Does exactly what it is told; nothing is in its way. Torques turn seven independent flywheels."""

    def __init__(self, q: FloatArray = HOME_Q) -> None:
        self.q, self.dq = np.array(q, dtype=np.float64), np.zeros(DOF)
        self.tau, self.gravity, self.tau_ext = np.zeros(DOF), np.zeros(DOF), np.zeros(DOF)
        self.width_m = MAX_WIDTH_M
        self._force = np.zeros(3)

    def track(self, q: FloatArray, dq: FloatArray) -> None:
        self.tau_ext = self._pushed()
        self.tau = -self.tau_ext
        self.q, self.dq = q.copy(), dq.copy()

    def drive(self, torque: FloatArray) -> None:
        self.tau, self.tau_ext = torque.copy(), self._pushed()
        self.dq = self.dq + (torque + self.tau_ext) / _INERTIA * PERIOD_S
        self.q = self.q + self.dq * PERIOD_S

    def set_stiffness(self, stiffness: FloatArray) -> None:
        pass

    def set_fingers(self, width_m: float, force_n: float) -> None:
        self.width_m = width_m

    def push(self, force_n: FloatArray) -> None:
        self._force = np.array(force_n, dtype=np.float64)

    def _pushed(self) -> FloatArray:
        """Joint torques of the force at the tool."""
        if not np.any(self._force):
            return np.zeros(DOF)
        frames = joint_frames(self.q)
        tool = (frames[DOF] @ HAND_TOOL)[:3, 3]
        torques: FloatArray = jacobian(frames, tool)[:3].T @ self._force
        return torques

    def publish(self) -> None:
        pass

    def restore(self, state: dict[str, object]) -> None:
        self.q, self.dq = np.array(state["q"], dtype=np.float64), np.zeros(DOF)
