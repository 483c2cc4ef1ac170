"""The simulated world: physics, arm control, lights. The Gymnasium environment and the ROS node are faces of it."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
from scipy.spatial.transform import Rotation

from diwa_conventions.actions import GRIPPER_OPEN, FloatArray, Pose, gripper_opens
from diwa_conventions.rates import RECORD_RATE_HZ
from diwa_conventions.topics import STATE_RATE_HZ
from diwa_sim.inverse_kinematics import InverseKinematics
from diwa_sim.scene import (
    ARM_DOF,
    ARM_PREFIX,
    FINGER_TRAVEL_M,
    GRIPPER_ACTUATOR,
    HOME_QPOS,
    TOOL_SITE,
    Look,
    build_model,
)
from diwa_sim.tasks import SceneState, StartState

TICK_RATE_HZ = STATE_RATE_HZ
"""120 Hz: how often joint commands change."""
TICKS_PER_FRAME = round(TICK_RATE_HZ / RECORD_RATE_HZ)
"""Ticks in one 30 Hz camera frame."""

HOME_POSITION_M = np.array([0.46, 0.0, 0.33])
HAND_DOWN = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
"""The hand points down and the fingers close along x."""

MAX_LEAD_M = 0.10
MAX_LEAD_RAD = 0.5
"""The arm follows a target at most this far from the measured pose, as CRISP's controllers do."""

_MAX_JOINT_SPEED_RAD_S = 2.1
_BUTTON_PRESSED_M, _BUTTON_RELEASED_M = 0.010, 0.005
_SWITCH_ON_M, _SWITCH_OFF_M = 0.050, 0.020
_SETTLE_TICKS = 12


def limit_lead(target: Pose, measured: Pose) -> Pose:
    """The target, drawn towards the measured pose until it leads by at most MAX_LEAD_M and MAX_LEAD_RAD."""
    distance, angle = target.distance_m(measured), target.angle_rad(measured)
    if distance <= MAX_LEAD_M and angle <= MAX_LEAD_RAD:
        return target
    offset = target.position - measured.position
    turn = Rotation.from_matrix(target.rotation @ measured.rotation.T).as_rotvec()
    turn *= min(1.0, MAX_LEAD_RAD / max(angle, 1e-12))
    return Pose(
        measured.position + offset * min(1.0, MAX_LEAD_M / max(distance, 1e-12)),
        Rotation.from_rotvec(turn).as_matrix() @ measured.rotation,
    )


@dataclass(frozen=True)
class JointState:
    """Seven arm joints and two fingers: positions (9,) rad or m, velocities (9,), efforts (9,)."""

    position: FloatArray
    velocity: FloatArray
    effort: FloatArray


@dataclass(frozen=True)
class PhysicalState:
    """Positions (nq,) and velocities (nv,) of everything; lights: button held down, LED, lightbulb."""

    qpos: FloatArray
    qvel: FloatArray
    lights: tuple[bool, bool, bool]


class Playroom:
    """One simulated Panda on its table. Nothing here renders; see :mod:`diwa_sim.cameras`.

    Everything that changes in the scene changes by contact with the arm, or by :meth:`reset`.
    """

    def __init__(self, look: Look = "clear") -> None:
        self.model = build_model(look)
        self.data = mujoco.MjData(self.model)
        self._ik = InverseKinematics(self.model)
        model = self.model
        arm = [model.joint(f"{ARM_PREFIX}fr3_joint{i + 1}") for i in range(ARM_DOF)]
        fingers = [model.joint(f"{ARM_PREFIX}finger_joint{i}") for i in (1, 2)]
        self._qpos = np.array([joint.qposadr[0] for joint in (*arm, *fingers)])
        self.arm_joints = np.array([joint.id for joint in arm])
        self._dof = np.array([joint.dofadr[0] for joint in (*arm, *fingers)])
        self._gripper = model.actuator(GRIPPER_ACTUATOR).id
        self._arm_actuators = np.array([model.actuator(f"{ARM_PREFIX}fr3_joint{i + 1}").id for i in range(ARM_DOF)])
        self._tool = model.site(TOOL_SITE).id
        self._scene_qpos = {name: model.joint(name).qposadr[0] for name in ("slider", "drawer", "button", "switch")}
        self._cube = model.joint("cube").qposadr[0]
        self._cube_body = model.body("cube").id
        self._lights = {
            name: (model.geom(name).id, model.material(f"{name}_off").id, model.material(f"{name}_on").id)
            for name in ("led", "bulb")
        }
        self._joint_command = HOME_QPOS.copy()
        self._substeps = round(1.0 / (TICK_RATE_HZ * model.opt.timestep))
        self._pressed = False
        self.led = False
        self.lightbulb = False

    @property
    def time_s(self) -> float:
        return float(self.data.time)

    def reset(self, start: StartState) -> None:
        """Put the scene and the arm (hand open, at rest) into the start state."""
        mujoco.mj_resetData(self.model, self.data)
        qpos = self.data.qpos
        for name, value in (("slider", start.slider_m), ("drawer", start.drawer_m), ("switch", start.switch_m)):
            qpos[self._scene_qpos[name]] = value
        qpos[self._cube : self._cube + 2] = start.cube_xy_m
        half = 0.5 * start.cube_yaw_rad
        qpos[self._cube + 3 : self._cube + 7] = [np.cos(half), 0.0, 0.0, np.sin(half)]
        home = Pose(HOME_POSITION_M + np.asarray(start.tool_offset_m), HAND_DOWN)
        self._joint_command = self._ik.solve(HOME_QPOS, home, iterations=100)
        qpos[self._qpos[:ARM_DOF]] = self._joint_command
        qpos[self._qpos[ARM_DOF:]] = FINGER_TRAVEL_M
        self._pressed, self.led, self.lightbulb = False, start.led, start.switch_m > _SWITCH_ON_M
        mujoco.mj_forward(self.model, self.data)
        self.advance(home, GRIPPER_OPEN, _SETTLE_TICKS)
        self.data.time = 0.0

    def restore(self, joints: JointState, scene: SceneState) -> None:
        """Put arm and scene into a recorded state. The joint commands, which nobody records, are those of an arm at
        rest: exact where it was, else its lag is made up for within the next frames.
        """
        mujoco.mj_resetData(self.model, self.data)
        qpos = self.data.qpos
        for name in self._scene_qpos:
            qpos[self._scene_qpos[name]] = getattr(scene, f"{name}_m")
        qpos[self._cube : self._cube + 3] = scene.cube.position
        mujoco.mju_mat2Quat(qpos[self._cube + 3 : self._cube + 7], scene.cube.rotation.reshape(-1))
        qpos[self._qpos] = joints.position
        self.data.qvel[self._dof] = joints.velocity
        self._joint_command = np.array(joints.position[:ARM_DOF])
        self._pressed, self.led, self.lightbulb = scene.button_m > _BUTTON_PRESSED_M, scene.led, scene.lightbulb
        mujoco.mj_forward(self.model, self.data)
        self._show_lights()

    def physical_state(self) -> PhysicalState:
        """All that physics goes on from."""
        lights = (self._pressed, self.led, self.lightbulb)
        return PhysicalState(self.data.qpos.copy(), self.data.qvel.copy(), lights)

    def set_physical_state(self, state: PhysicalState) -> None:
        """Go on from a state of another playroom of the same look; the arm's commands are those of an arm at rest."""
        data = self.data
        data.qpos[:], data.qvel[:] = state.qpos, state.qvel
        self._pressed, self.led, self.lightbulb = state.lights
        self._joint_command = data.qpos[self._qpos[:ARM_DOF]].copy()
        data.ctrl[self._arm_actuators] = self._joint_command
        data.ctrl[self._gripper] = data.qpos[self._qpos[ARM_DOF]]
        mujoco.mj_forward(self.model, data)
        self._show_lights()

    def step(self) -> None:
        """One step of physics under the actuators' present commands."""
        mujoco.mj_step(self.model, self.data)
        self._switch_lights()

    def advance(self, target: Pose, gripper: float, ticks: int = TICKS_PER_FRAME) -> None:
        """Follow the target pose for ``ticks`` of 1/120 s; ``gripper >= 0`` opens.

        The joint command moves to the target's inverse kinematics in a straight line over the ticks.
        """
        goal = self._ik.solve(self._joint_command, limit_lead(target, self.tool_pose()), iterations=3)
        reach = _MAX_JOINT_SPEED_RAD_S * ticks / TICK_RATE_HZ
        step = np.clip(goal - self._joint_command, -reach, reach) / ticks
        ctrl = self.data.ctrl
        ctrl[self._gripper] = FINGER_TRAVEL_M if gripper_opens(gripper) else 0.0
        for _ in range(ticks):
            self._joint_command = self._joint_command + step
            ctrl[self._arm_actuators] = self._joint_command
            mujoco.mj_step(self.model, self.data, self._substeps)
            self._switch_lights()
        self._show_lights()

    def tool_pose(self) -> Pose:
        """Measured pose of the tool centre point in the base frame."""
        data = self.data
        return Pose(data.site_xpos[self._tool].copy(), data.site_xmat[self._tool].reshape(3, 3).copy())

    def gripper_width_m(self) -> float:
        return float(self.data.qpos[self._qpos[ARM_DOF:]].sum())

    def joint_state(self) -> JointState:
        data = self.data
        return JointState(data.qpos[self._qpos], data.qvel[self._dof], data.qfrc_actuator[self._dof])

    def scene_state(self) -> SceneState:
        qpos = self.data.qpos
        return SceneState(
            slider_m=float(qpos[self._scene_qpos["slider"]]),
            drawer_m=float(qpos[self._scene_qpos["drawer"]]),
            button_m=float(qpos[self._scene_qpos["button"]]),
            switch_m=float(qpos[self._scene_qpos["switch"]]),
            lightbulb=self.lightbulb,
            led=self.led,
            cube=Pose(self.data.xpos[self._cube_body].copy(), self.data.xmat[self._cube_body].reshape(3, 3).copy()),
        )

    def _switch_lights(self) -> None:
        """The button toggles the LED once per press; the switch carries the lightbulb, with hysteresis."""
        button = self.data.qpos[self._scene_qpos["button"]]
        if not self._pressed and button > _BUTTON_PRESSED_M:
            self._pressed, self.led = True, not self.led
        elif self._pressed and button < _BUTTON_RELEASED_M:
            self._pressed = False
        switch = self.data.qpos[self._scene_qpos["switch"]]
        if switch > _SWITCH_ON_M:
            self.lightbulb = True
        elif switch < _SWITCH_OFF_M:
            self.lightbulb = False

    def _show_lights(self) -> None:
        for name, lit in (("led", self.led), ("bulb", self.lightbulb)):
            geom, off, on = self._lights[name]
            self.model.geom_matid[geom] = on if lit else off
