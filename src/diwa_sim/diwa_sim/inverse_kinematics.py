"""Damped least-squares inverse kinematics of the arm, warm-started, for a servo that calls it every tick.

Libraries with constraints (mink) need 0.27 ms per target; this needs under 0.1 ms, and the playroom is bound by it.
"""

from __future__ import annotations

import mujoco
import numpy as np

from diwa_conventions.actions import FloatArray, Pose
from diwa_sim.scene import ARM_DOF, ARM_PREFIX, HOME_QPOS, TOOL_SITE

_DAMPING = 0.03
_POSTURE_GAIN = 0.05
_LIMIT_MARGIN_RAD = 0.02
_MAX_STEP_RAD = 0.3


class InverseKinematics:
    """Joint angles that bring the tool centre point to a pose; keeps away from joint limits, leans towards home."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model = model
        self._data = mujoco.MjData(model)
        joints = [model.joint(f"{ARM_PREFIX}fr3_joint{i + 1}") for i in range(ARM_DOF)]
        self._qpos = np.array([joint.qposadr[0] for joint in joints])
        self._dof = np.array([joint.dofadr[0] for joint in joints])
        self._low = np.array([joint.range[0] for joint in joints]) + _LIMIT_MARGIN_RAD
        self._high = np.array([joint.range[1] for joint in joints]) - _LIMIT_MARGIN_RAD
        self._site = model.site(TOOL_SITE).id
        self._jacobian = np.zeros((6, model.nv))

    def solve(self, start: FloatArray, target: Pose, iterations: int = 20, tolerance: float = 5e-4) -> FloatArray:
        """Joint angles (7,) [rad] from warm start (7,); stops when the error (m and rad together) is below tolerance.

        An unreachable target gives the nearest pose that the iterations find, never an exception.
        """
        joints = self._within_limits(start)
        for _ in range(iterations):
            error = self._error(joints, target)
            if float(error @ error) < tolerance**2:
                break
            joints = self._within_limits(joints + self._step(joints, error))
        return joints

    def _within_limits(self, joints: FloatArray) -> FloatArray:
        return np.minimum(np.maximum(joints, self._low), self._high)  # np.clip takes three times as long

    def _error(self, joints: FloatArray, target: Pose) -> FloatArray:
        """Position and orientation error (6,) [m, rad]; the latter exact for small angles, a direction for large."""
        data = self._data
        data.qpos[self._qpos] = joints
        mujoco.mj_kinematics(self._model, data)
        mujoco.mj_comPos(self._model, data)
        turn = target.rotation @ data.site_xmat[self._site].reshape(3, 3).T
        error = np.empty(6)
        error[:3] = target.position - data.site_xpos[self._site]
        error[3:] = turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]
        error[3:] *= 0.5
        return error

    def _step(self, joints: FloatArray, error: FloatArray) -> FloatArray:
        jac = self._jacobian
        mujoco.mj_jacSite(self._model, self._data, jac[:3], jac[3:], self._site)
        arm = jac[:, self._dof]
        posture = _POSTURE_GAIN * (HOME_QPOS - joints)
        gram = arm @ arm.T
        gram[np.diag_indices(6)] += _DAMPING**2
        step: FloatArray = posture + arm.T @ np.linalg.solve(gram, error - arm @ posture)
        return np.minimum(np.maximum(step, -_MAX_STEP_RAD), _MAX_STEP_RAD)
