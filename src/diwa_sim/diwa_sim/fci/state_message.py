"""What the robot tells its client a thousand times a second: measured, desired, felt, and what it was told."""

from __future__ import annotations

from typing import Any

import numpy as np

from diwa_conventions.actions import FloatArray
from diwa_sim.fci.arms import PERIOD_S, Arm
from diwa_sim.fci.kinematics import DOF, HAND_TOOL, jacobian, joint_frames
from diwa_sim.fci.messages import ROBOT_STATE, Controller, Generator, RobotMode
from diwa_sim.fci.motion import CartesianGenerator, JointChecks

_EXTERNAL_FILTER = 0.05
"""External torques are smoothed over about 20 ms."""
_NO_TWIST = np.zeros(6)


class StateMessage:
    """A robot state, filled field by field; ``message[name]`` is a field of it."""

    def __init__(self) -> None:
        self.values = np.zeros((), ROBOT_STATE)
        self._fields: dict[str, Any] = {name: self.values[name] for name in ROBOT_STATE.names or ()}
        self.thresholds = default_thresholds()
        self.ne_to_ee, self.ee_to_k = np.eye(4), np.eye(4)
        self._tau_ext = np.zeros(DOF)
        self._shown_q: FloatArray | None = None
        self.show_tool()

    def __getitem__(self, name: str) -> Any:
        return self._fields[name]

    @property
    def tool(self) -> FloatArray:
        """From the flange to the end effector."""
        tool: FloatArray = HAND_TOOL @ self.ne_to_ee
        return tool

    def show_tool(self) -> None:
        """After a change of the frames."""
        self._f_to_ee, self._shown_q = self.tool, None
        frames = {"F_T_EE": self.tool, "EE_T_K": self.ee_to_k, "F_T_NE": HAND_TOOL, "NE_T_EE": self.ne_to_ee}
        for name, matrix in frames.items():
            self[name][...] = matrix.T.reshape(-1)
        self["m_ee"][...] = 0.73
        self["I_ee"][...] = np.diag([0.001, 0.0025, 0.0017]).reshape(-1)
        self["F_x_Cee"][...] = -0.01, 0.0, 0.03
        self["O_ddP_O"][...] = 0.0, 0.0, -9.81

    def forget_contact(self) -> None:
        self._tau_ext = np.zeros(DOF)

    def measure(self, arm: Arm, accelerates: bool) -> None:
        """What the arm does and feels; while it accelerates other thresholds hold."""
        frames = joint_frames(arm.q)
        pose = frames[DOF] @ self._f_to_ee
        self["O_T_EE"][...] = pose.T.reshape(-1)
        self["q"][...] = self["theta"][...] = arm.q
        self["dq"][...] = self["dtheta"][...] = arm.dq
        self["elbow"][...] = _elbow(arm.q)
        tau = arm.tau + arm.gravity
        self["dtau_J"][...] = (tau - self["tau_J"]) / PERIOD_S
        self["tau_J"][...] = tau
        self._feel(arm, frames, pose @ self.ee_to_k, "acceleration" if accelerates else "nominal")

    def _feel(self, arm: Arm, frames: FloatArray, stiffness: FloatArray, phase: str) -> None:
        self._tau_ext = tau = self._tau_ext + _EXTERNAL_FILTER * (arm.tau_ext - self._tau_ext)
        wrench = _NO_TWIST
        if tau @ tau > 1e-12:
            matrix = jacobian(frames, stiffness[:3, 3])
            wrench = np.asarray(np.linalg.solve(matrix @ matrix.T + 1e-4 * np.eye(6), matrix @ tau), np.float64)
        turn = stiffness[:3, :3].T
        self["tau_ext_hat_filtered"][...] = tau
        self["O_F_ext_hat_K"][...] = wrench
        self["K_F_ext_hat_K"][...] = np.concatenate((turn @ wrench[:3], turn @ wrench[3:]))
        for name, values, kind in (("joint", tau, "torque"), ("cartesian", wrench, "force")):
            size = np.abs(values)
            self[f"{name}_contact"][...] = size > self.thresholds[f"lower_{kind}_{phase}"]
            self[f"{name}_collision"][...] = size > self.thresholds[f"upper_{kind}_{phase}"]

    def show_desired(self, joints: JointChecks, cartesian: CartesianGenerator | None) -> None:
        if self._shown_q is not joints.q:
            self._shown_q = joints.q
            self["q_d"][...] = joints.q
            self["elbow_d"][...] = self["elbow_c"][...] = _elbow(joints.q)
            pose = joint_frames(joints.q)[DOF] @ self._f_to_ee
            self["O_T_EE_d"][...] = self["O_T_EE_c"][...] = pose.T.reshape(-1)
        self["dq_d"][...], self["ddq_d"][...] = joints.dq, joints.ddq
        if cartesian is not None:
            self["O_T_EE_c"][...] = cartesian.pose.T.reshape(-1)
        self["O_dP_EE_c"][...] = self["O_dP_EE_d"][...] = _NO_TWIST if cartesian is None else cartesian.twist
        self["O_ddP_EE_c"][...] = _NO_TWIST if cartesian is None else cartesian.twist_rate

    def show_modes(self, mode: RobotMode, generator: Generator, controller: Controller, success_rate: float) -> None:
        self["robot_mode"][...] = mode
        self["motion_generator_mode"][...], self["controller_mode"][...] = generator, controller
        self["control_command_success_rate"][...] = success_rate


def _elbow(q: FloatArray) -> tuple[float, float]:
    """Joint 3, and the sign of joint 4."""
    return float(q[2]), -1.0 if q[3] < 0.0 else 1.0


def default_thresholds() -> dict[str, FloatArray]:
    """Those that Franka's examples set; a real robot has others until somebody sets them."""
    torque = np.array([20.0, 20.0, 18.0, 18.0, 16.0, 14.0, 12.0])
    force = np.array([20.0, 20.0, 20.0, 25.0, 25.0, 25.0])
    return {
        f"{bound}_{kind}_{phase}": value
        for bound in ("lower", "upper")
        for phase in ("acceleration", "nominal")
        for kind, value in (("torque", torque), ("force", force))
    }
