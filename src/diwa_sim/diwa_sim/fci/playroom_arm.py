"""The playroom's arm behind the interface: the whole scene stepped at 1 kHz, torques and contact included."""

from __future__ import annotations

from typing import Any

import numpy as np

from diwa_conventions.actions import FloatArray
from diwa_sim.fci.arms import PERIOD_S
from diwa_sim.fci.kinematics import DOF, HAND_TOOL, jacobian, joint_frames
from diwa_sim.fci.mirror import Mirror
from diwa_sim.fci.motion import Q_MAX, Q_MIN
from diwa_sim.playroom import PhysicalState, Playroom
from diwa_sim.scene import ARM_PREFIX, FINGER_TRAVEL_M, GRIPPER_ACTUATOR, Look
from diwa_sim.tasks import draw_start

STIFFNESS = np.array([3000.0, 3000.0, 3000.0, 2500.0, 2500.0, 2000.0, 2000.0])
"""Nm/rad: of the Panda's joint controller, until somebody sets another one."""
_DAMPING_S = 0.05
"""Damping as a share of stiffness: no overshoot at any of the arm's inertias."""


class PlayroomArm:
    """One playroom, advanced a millisecond at a time; see :class:`diwa_sim.fci.arms.Arm`.

    The model is an FR3 (the Panda's kinematics) with the Panda's joint limits. The real robot compensates its joint
    friction; here there is none.
    """

    def __init__(self, look: Look = "clear", seed: int = 0, mirror_descriptor: int | None = None) -> None:
        self._playroom = room = Playroom(look)
        room.reset(draw_start(np.random.default_rng(seed), ""))
        model = room.model
        self._dof = model.jnt_dofadr[room.arm_joints]
        self._qpos = model.jnt_qposadr[room.arm_joints]
        self._motors = np.array([model.actuator(model.joint(i).name).id for i in room.arm_joints])
        self._hand_motor = model.actuator(GRIPPER_ACTUATOR).id
        self._hand = model.body(f"{ARM_PREFIX}hand").id
        model.opt.timestep = PERIOD_S
        model.jnt_range[room.arm_joints] = np.column_stack([Q_MIN, Q_MAX])
        model.actuator_ctrlrange[self._motors] = np.column_stack([Q_MIN - 1.0, Q_MAX + 1.0])
        model.dof_frictionloss[self._dof] = 0.0
        self._stiffness = STIFFNESS.copy()
        self._tracks = False
        self._force = np.zeros(3)
        self._mirror = None if mirror_descriptor is None else Mirror(mirror_descriptor, model.nq, model.nv)
        self.tau: FloatArray = np.zeros(DOF)
        self.gravity: FloatArray = np.zeros(DOF)
        self.tau_ext: FloatArray = np.zeros(DOF)
        self._read()

    def track(self, q: FloatArray, dq: FloatArray) -> None:
        if not self._tracks:
            self._set_gains(self._stiffness)
        self._playroom.data.ctrl[self._motors] = q + _DAMPING_S * dq
        self._step()
        self.tau = self._playroom.data.qfrc_actuator[self._dof].copy()

    def drive(self, torque: FloatArray) -> None:
        if self._tracks:
            self._set_gains(None)
        data = self._playroom.data
        data.qfrc_applied[self._dof] = torque
        self._step()
        data.qfrc_applied[self._dof] = 0.0
        self.tau = torque.copy()

    def set_stiffness(self, stiffness: FloatArray) -> None:
        self._stiffness, self._tracks = stiffness.copy(), False

    def _set_gains(self, stiffness: FloatArray | None) -> None:
        """The joint controller's; None: the motors give no torque of their own."""
        model, values = self._playroom.model, np.zeros(DOF) if stiffness is None else stiffness
        model.actuator_gainprm[self._motors, 0] = values
        model.actuator_biasprm[self._motors, 1] = -values
        model.actuator_biasprm[self._motors, 2] = -_DAMPING_S * values
        self._tracks = stiffness is not None

    def set_fingers(self, width_m: float, force_n: float) -> None:
        model, data = self._playroom.model, self._playroom.data
        model.actuator_forcerange[self._hand_motor] = -force_n, force_n
        data.ctrl[self._hand_motor] = min(max(0.5 * width_m, 0.0), FINGER_TRAVEL_M)

    def push(self, force_n: FloatArray) -> None:
        self._force = np.array(force_n, dtype=np.float64)
        self._playroom.data.xfrc_applied[self._hand] = 0.0

    def _step(self) -> None:
        pushed = np.any(self._force)
        torques = self._apply_push() if pushed else 0.0
        self._playroom.step()
        self._read()
        self.tau_ext = self.tau_ext + torques

    def _apply_push(self) -> FloatArray:
        """The force acts at the tool, not at the hand's centre of mass; its joint torques."""
        data, frames = self._playroom.data, joint_frames(self.q)
        tool = (frames[DOF] @ HAND_TOOL)[:3, 3]
        data.xfrc_applied[self._hand, :3] = self._force
        data.xfrc_applied[self._hand, 3:] = np.cross(tool - data.xipos[self._hand], self._force)
        torques: FloatArray = jacobian(frames, tool)[:3].T @ self._force
        return torques

    def _read(self) -> None:
        data = self._playroom.data
        self.q, self.dq = data.qpos[self._qpos].copy(), data.qvel[self._dof].copy()
        self.gravity = data.qfrc_gravcomp[self._dof].copy()
        self.tau_ext = data.qfrc_constraint[self._dof].copy()
        self.width_m = self._playroom.gripper_width_m()

    def publish(self) -> None:
        if self._mirror is not None:
            self._mirror.write(self._playroom.physical_state())

    def restore(self, state: dict[str, Any]) -> None:
        model = self._playroom.model
        qpos, qvel = (np.array(state[name], dtype=np.float64) for name in ("qpos", "qvel"))
        if qpos.shape != (model.nq,) or qvel.shape != (model.nv,):
            raise ValueError(f"expected {model.nq} positions and {model.nv} velocities")
        pressed, led, bulb = (bool(value) for value in state["lights"])
        self._playroom.set_physical_state(PhysicalState(qpos, qvel, (pressed, led, bulb)))
        self._read()
