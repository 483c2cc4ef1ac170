"""What the command guard allows: its settings, and the cone in which the tool's axis stays."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from diwa_conventions.actions import ActionScale, FloatArray, Pose
from diwa_conventions.errors import UserError, unknown
from diwa_conventions.topics import STATE_RATE_HZ
from diwa_robot.so3 import length, rotation_matrix

SCALE = ActionScale()
"""Full scale of the actions that the guard takes and reports."""

CAMERAS = ("static", "gripper")
"""Names of the cameras that can be required."""

FAULT_LEAD_S = 0.2
"""How long the tracking error may be above the fault bound."""

JUMP_MARGIN_M, JUMP_MARGIN_RAD = 0.02, 0.1
"""What a measured pose may jump beyond speed times time: noise, and messages that arrive in a bunch."""

ARMING_TOLERANCE_M, ARMING_TOLERANCE_RAD = 0.01, 0.05
"""How far outside box or cone the arm may stand when it is armed; the target then begins at the bound."""

LONGEST_STEP_TICKS = 3.0
"""After a longer gap the target starts from rest: it stood still meanwhile, and making up for it would be a leap."""

ROUNDING = 1e-9
"""Slack [m, rad or cosine] for rounding in the bounds."""


def _number(default: float, unit: str, low: float, high: float, about: str) -> Any:
    return field(default=default, metadata={"unit": unit, "range": (low, high), "about": about})


def _corner(default: tuple[float, float, float], about: str) -> Any:
    return field(default=default, metadata={"unit": "m", "range": (-2.0, 2.0), "about": about})


@dataclass(frozen=True)
class GuardConfig:
    """Bounds and time-outs. Every bound may be exactly 0.0 where its range begins there; 0.0 then means no motion.

    Also the node's parameters: a field is a parameter, with ``about``, ``unit`` and ``range`` from its metadata.
    """

    rate_hz: float = _number(STATE_RATE_HZ, "Hz", 100.0, 1000.0, "rate of target_pose")
    workspace_low_m: tuple[float, float, float] = _corner(
        (0.28, -0.42, 0.02), "lower corner of the box that the commanded pose stays in, base frame"
    )
    workspace_high_m: tuple[float, float, float] = _corner((0.80, 0.42, 0.55), "upper corner of that box")
    max_tilt_rad: float = _number(0.8, "rad", 0.0, 3.1, "angle between the tool's z axis and straight down")
    max_speed_m_s: float = _number(0.9, "m/s", 0.0, 1.7, "speed of the target; along one axis never above full scale")
    max_speed_rad_s: float = _number(SCALE.speed_rad_s, "rad/s", 0.0, SCALE.speed_rad_s, "turning speed of the target")
    max_acceleration_m_s2: float = _number(8.0, "m/s^2", 0.0, 13.0, "acceleration and braking of the target")
    max_acceleration_rad_s2: float = _number(15.0, "rad/s^2", 0.0, 25.0, "angular acceleration and braking")
    max_lead_m: float = _number(0.10, "m", 0.0, 0.5, "distance of target and measured pose at which the target waits")
    max_lead_rad: float = _number(0.5, "rad", 0.0, 1.5, "angle of target and measured pose at which the target waits")
    max_lag_s: float = _number(
        0.25, "s", 0.05, 0.5, "how far, as time at full speed, accepted motion may wait to be executed"
    )
    action_timeout_s: float = _number(
        0.15,
        "s",
        0.02,
        2.0,
        "silence after the end of the newest action; then it holds; an action's stamp may be as far from now",
    )
    state_timeout_s: float = _number(0.1, "s", 0.01, 1.0, "silence of current_pose; then it holds")
    max_state_age_s: float = _number(
        0.25, "s", 0.02, 2.0, "current_pose is older by its stamp (or from the future): it says nothing about now"
    )
    arm_state_timeout_s: float = _number(
        0.5, "s", 0.1, 5.0, "silence of arm_state, once a real arm's driver has reported; then it holds"
    )
    camera_timeout_s: float = _number(0.5, "s", 0.05, 5.0, "silence of a required camera; then it holds")
    hold_limit_s: float = _number(30.0, "s", 0.0, 3600.0, "a hold that lasts longer disarms")
    required_cameras: tuple[str, ...] = field(
        default=CAMERAS,
        metadata={"unit": "", "range": None, "about": "cameras that must deliver: static, gripper; [''] for none"},
    )
    max_tick_gap_s: float = _number(
        0.25, "s", 0.05, 2.0, "a guard that was held up for longer cannot say that it guarded: a fault"
    )
    max_state_speed_m_s: float = _number(3.0, "m/s", 0.1, 10.0, "a measured pose that moves faster has jumped: a fault")
    max_state_speed_rad_s: float = _number(8.0, "rad/s", 0.1, 30.0, "a measured pose that turns faster has jumped")
    fault_lead_m: float = _number(0.25, "m", 0.01, 1.0, "tracking error that is a fault after 0.2 s")
    fault_lead_rad: float = _number(1.2, "rad", 0.05, 3.0, "tracking error that is a fault after 0.2 s")

    def __post_init__(self) -> None:
        for item in fields(self):
            value, allowed = getattr(self, item.name), item.metadata["range"]
            if item.name.startswith("workspace"):
                _check_corner(item.name, value, allowed)
            elif allowed is not None:
                _check_number(item.name, value, allowed)
        if not all(low < high for low, high in zip(self.workspace_low_m, self.workspace_high_m, strict=True)):
            raise UserError(
                f"workspace_low_m is {self.workspace_low_m}, workspace_high_m {self.workspace_high_m}; "
                "expected low below high on every axis"
            )
        for camera in self.required_cameras:
            if camera not in CAMERAS:
                raise unknown("camera in required_cameras:", camera, CAMERAS)
        self._check_order("max_lead_m", "fault_lead_m")
        self._check_order("max_lead_rad", "fault_lead_rad")

    def _check_order(self, low: str, high: str) -> None:
        if not getattr(self, low) < getattr(self, high):
            raise UserError(f"{low} is {getattr(self, low):g}; expected less than {high}={getattr(self, high):g}")

    @property
    def low(self) -> FloatArray:
        """(3,) [m]."""
        return np.array(self.workspace_low_m, dtype=np.float64)

    @property
    def high(self) -> FloatArray:
        """(3,) [m]."""
        return np.array(self.workspace_high_m, dtype=np.float64)

    @property
    def goal_tilt_rad(self) -> float:
        """Tilt at which goals end: a hair inside the cone, since the way between two goals on its edge bulges out."""
        return 0.99 * self.max_tilt_rad


def _check_number(name: str, value: object, allowed: tuple[float, float]) -> None:
    low, high = allowed
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (number and low <= value <= high):  # type: ignore[operator]  # NaN fails the comparison
        raise UserError(f"{name} is {value!r}; expected a number from {low:g} to {high:g}")


def _check_corner(name: str, value: Any, allowed: tuple[float, float]) -> None:
    try:
        corner = [float(bound) for bound in value]
    except (TypeError, ValueError):
        corner = []
    if len(corner) != 3 or not all(allowed[0] <= bound <= allowed[1] for bound in corner):
        raise UserError(f"{name} is {value!r}; expected three numbers from {allowed[0]:g} to {allowed[1]:g}")


def tilt_rad(rotation: FloatArray) -> float:
    """Angle between the tool's z axis and straight down."""
    x, y, z = rotation[:, 2]
    return math.atan2(math.hypot(x, y), -z)


def into_cone(rotation: FloatArray, max_tilt_rad: float) -> FloatArray:
    """The rotation, turned back by the shortest way until its tilt is within the cone."""
    excess = tilt_rad(rotation) - max_tilt_rad
    if excess <= 0.0:
        return rotation
    x, y, _ = rotation[:, 2]
    axis = np.array([-y, x, 0.0])  # turns the tool's axis towards straight down
    size = length(axis)
    if size < 1e-12:  # straight up: every way back is equally short
        axis, size = np.array([1.0, 0.0, 0.0]), 1.0
    return rotation_matrix(axis * (excess / size)) @ rotation


def turn_stays_in_cone(rotation: FloatArray, turn: FloatArray, max_tilt_rad: float) -> bool:
    """Whether the tool's axis stays in the cone all the way while it turns by axis times angle (3,) [rad].

    It moves on a circle about the turn's axis; the cosine of its tilt is ``a + b cos t + c sin t`` on the way.
    """
    angle = length(turn)
    if angle == 0.0:
        return tilt_rad(rotation) <= max_tilt_rad + ROUNDING
    axis, tool = turn / angle, rotation[:, 2]
    down_part = -axis[2] * float(axis @ tool)
    b = -tool[2] - down_part
    c = -float(axis[0] * tool[1] - axis[1] * tool[0])
    turning_point = (math.atan2(c, b) + math.pi) % (2.0 * math.pi)  # where the tilt is greatest
    ends = [0.0, angle] + ([turning_point] if turning_point < angle else [])
    least = min(down_part + b * math.cos(t) + c * math.sin(t) for t in ends)
    return least >= math.cos(max_tilt_rad) - ROUNDING


def start_pose(measured: Pose, config: GuardConfig) -> Pose:
    """The measured pose as a target. UserError if the arm stands too far outside box or cone."""
    inside = np.clip(measured.position, config.low, config.high)
    outside = measured.position - inside
    if length(outside) > ARMING_TOLERANCE_M:
        axis = int(np.argmax(np.abs(outside)))
        raise UserError(
            f"the tool is {abs(outside[axis]):.3f} m outside the workspace box in {'xyz'[axis]} "
            f"({measured.position[axis]:.3f} m; allowed {config.low[axis]:g} to {config.high[axis]:g}); "
            "guide the arm into the box by hand, or widen workspace_low_m/workspace_high_m"
        )
    tilt = tilt_rad(measured.rotation)
    if tilt > config.max_tilt_rad + ARMING_TOLERANCE_RAD:
        raise UserError(
            f"the tool is tilted by {tilt:.2f} rad from straight down; allowed {config.max_tilt_rad:g}; "
            "guide the hand upright, or widen max_tilt_rad"
        )
    return Pose(inside, into_cone(measured.rotation, config.goal_tilt_rad))
