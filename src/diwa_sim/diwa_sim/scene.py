"""Builds the MuJoCo model: a Franka arm with hand, from the wheel ``franky-sim`` at run time, in the playroom.

The arm is the FR3, which has the Panda's kinematics and hand. Only its collision meshes are used: 2.8k faces instead
of 120k make rendering fifty times faster and look the same at 64x64. The wheel's model files are Apache-2.0
(Franka Robotics GmbH, Google DeepMind).
"""

from __future__ import annotations

import importlib.util
from importlib import resources
from pathlib import Path
from typing import Literal, get_args

import mujoco
import numpy as np

from diwa_conventions.errors import UserError

Look = Literal["clear", "hard"]
"""``clear``: muted background, large LED and bulb. ``hard``: busy table, small ones, wider view."""

ARM_DOF = 7
ARM_PREFIX = "arm/"
TOOL_SITE = "arm/tool"
HOME_QPOS = np.array([0.0, 0.05, 0.0, -2.10, 0.0, 2.15, -np.pi / 4])
"""Arm joints (7,) [rad] with the hand pointing down and the fingers closing along x."""

FINGER_TRAVEL_M = 0.04
GRIPPER_ACTUATOR = "arm/hand"
GRIPPER_CAMERA = "arm/gripper"
STATIC_CAMERA = "static"

_TOOL_OFFSET_M = 0.1034
"""From the hand's flange to the tool centre point, along the hand's z axis."""

_ARM_COLOURS = {"link": (0.92, 0.92, 0.92, 1.0), "hand": (0.85, 0.85, 0.88, 1.0), "finger": (0.20, 0.20, 0.22, 1.0)}


class SceneError(UserError):
    """The model could not be built; the message says what to install."""


def build_model(look: Look = "clear") -> mujoco.MjModel:
    """The compiled model of arm and playroom. Errors: SceneError (arm model missing), UserError (unknown look)."""
    if look not in get_args(Look):
        raise UserError(f"unknown look {look!r}; known looks: {', '.join(get_args(Look))}")
    room = mujoco.MjSpec.from_string(resources.files("diwa_sim").joinpath("assets/playroom.xml").read_text())
    if look == "hard":
        _harden(room)
    arm = _load_arm()
    room.attach(arm, frame=room.worldbody.add_frame(), prefix=ARM_PREFIX)
    return room.compile()


def _arm_folder() -> Path:
    found = importlib.util.find_spec("franky_sim")
    if found is None or not found.submodule_search_locations:
        raise SceneError("the Franka model is missing: package franky-sim is not installed; run 'make setup'")
    return Path(next(iter(found.submodule_search_locations))) / "assets"


def _load_arm() -> mujoco.MjSpec:
    folder = _arm_folder()
    path = folder / "fr3.xml"
    if not path.is_file():
        raise SceneError(f"the Franka model is missing: {path.name} is not in package franky-sim; expected 1.0.4")
    arm = mujoco.MjSpec.from_file(str(path))
    arm.meshdir = str(folder / "meshes")
    for key in list(arm.keys):
        arm.delete(key)
    _keep_collision_meshes(arm)
    _simplify_fingers(arm)
    _tune_actuators(arm)
    hand = arm.body("hand")
    hand.add_site(name="tool", pos=[0.0, 0.0, _TOOL_OFFSET_M], size=[0.002] * 3, rgba=[0, 0, 0, 0])
    # On the flange's front, looking past the fingers at what they are about to touch.
    hand.add_camera(name="gripper", pos=[0.085, 0.0, 0.01], quat=_wrist_view(tilt_rad=0.35), fovy=75.0)
    return arm


def _wrist_view(tilt_rad: float) -> list[float]:
    """Camera orientation in the hand frame: looks along the hand's z, tilted back to the fingers, which come lowest."""
    right = np.array([0.0, 1.0, 0.0])
    up = np.array([np.cos(tilt_rad), 0.0, np.sin(tilt_rad)])
    quat = np.zeros(4)
    mujoco.mju_mat2Quat(quat, np.column_stack([right, up, np.cross(right, up)]).ravel())
    return list(quat)


def _keep_collision_meshes(arm: mujoco.MjSpec) -> None:
    for geom in list(arm.geoms):
        if geom.classname.name == "visual" or geom.parent.name.endswith("finger"):
            arm.delete(geom)
    used = {geom.meshname for geom in arm.geoms}
    for mesh in list(arm.meshes):
        if mesh.name not in used:
            arm.delete(mesh)
    for geom in arm.geoms:
        geom.contype, geom.conaffinity, geom.group = 1, 2, 0
        geom.rgba = _ARM_COLOURS["hand" if geom.parent.name == "hand" else "link"]
    for body in arm.bodies:
        body.gravcomp = 1.0  # Franka arms compensate their own weight


def _simplify_fingers(arm: mujoco.MjSpec) -> None:
    for name in ("left_finger", "right_finger"):
        arm.body(name).add_geom(
            name=name,
            type=mujoco.mjtGeom.mjGEOM_BOX,
            pos=[0.0, 0.0075, 0.027],
            size=[0.0105, 0.0070, 0.0265],
            rgba=_ARM_COLOURS["finger"],
            contype=1,
            conaffinity=2,
            group=0,
            mass=0.0,
            friction=[1.2, 0.02, 0.001],
        )


def _tune_actuators(arm: mujoco.MjSpec) -> None:
    """Half the shipped damping (it lags 0.1 s), and a gripper that does not stall against its own friction."""
    for actuator in arm.actuators:
        if actuator.name == "hand":
            actuator.gainprm[:3] = [4000.0, 0.0, 0.0]
            actuator.biasprm[:3] = [0.0, -4000.0, -120.0]
            actuator.inheritrange = 0.0
            actuator.ctrlrange = [0.0, FINGER_TRAVEL_M]
        else:
            actuator.biasprm[2] *= 0.5
    for joint in arm.joints:
        if joint.name.startswith("finger"):
            joint.armature, joint.frictionloss = 0.05, 0.0


def _harden(room: mujoco.MjSpec) -> None:
    room.geom("table").material = "table_hard"
    room.geom("led").size = [0.018, 0.0, 0.0]
    room.geom("led").pos = [0.0, 0.0, 0.005]
    room.geom("bulb").size = [0.022, 0.0, 0.0]
    room.geom("bulb").pos = [0.0, 0.0, 0.035]
    room.camera("static").fovy = 58.0
