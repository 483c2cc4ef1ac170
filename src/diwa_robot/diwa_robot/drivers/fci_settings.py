"""Settings of the ``fci`` driver: a field is a parameter of the node, with ``about``, ``unit`` and ``range``."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

from diwa_conventions.errors import UserError, unknown

ROBOT_TYPES = ("auto", "panda", "fr3")
CONTROLLERS = ("impedance", "robot")


def _number(default: float, unit: str, low: float, high: float, about: str) -> Any:
    return field(default=default, metadata={"unit": unit, "range": (low, high), "about": about})


def _numbers(default: tuple[float, ...], unit: str, low: float, high: float, about: str) -> Any:
    return field(default=default, metadata={"unit": unit, "range": (low, high), "about": about})


def _other(default: Any, about: str, choices: tuple[str, ...] = ()) -> Any:
    return field(default=default, metadata={"unit": "", "range": None, "about": about, "choices": choices})


@dataclass(frozen=True)
class FciSettings:
    """What arm and hand are told after connecting, and when the driver follows targets."""

    robot_ip: str = _other("172.16.0.2", "address of the control box, as Desk shows it; fixed by you, not by DHCP")
    robot_type: str = _other("auto", "auto, panda or fr3; another robot than this one is refused", ROBOT_TYPES)
    ignore_realtime: bool = _other(False, "say nothing about a kernel that is not a real-time one, and ask for none")
    controller: str = _other(
        "impedance",
        "impedance: torques of our spring, compliant; robot: poses for the robot's own controller, stiff and slower",
        CONTROLLERS,
    )
    stiffness: tuple[float, ...] = _numbers(
        (1000.0, 1000.0, 1000.0, 30.0, 30.0, 30.0), "N/m, Nm/rad", 0.0, 3000.0, "of the impedance: x, y, z, turning"
    )
    damping: tuple[float, ...] = _numbers(
        (50.0, 50.0, 90.0, 2.0, 2.0, 2.0), "Ns/m, Nms/rad", 0.0, 500.0, "of the impedance: x, y, z, turning"
    )
    velocity_feedforward: bool = _other(
        False, "damp the velocity's error: half the delay behind a moving target; some real arms vibrated with it"
    )
    leash_m: float = _number(
        0.04, "m", 0.005, 0.2, "how far the spring's end runs ahead of an arm that is held; times stiffness: the force"
    )
    leash_rad: float = _number(0.3, "rad", 0.02, 1.0, "the same for turning")
    torque_thresholds: tuple[float, ...] = _numbers(
        (40.0,) * 7, "N m", 1.0, 100.0, "external torque of each joint that is a collision: the arm stops (reflex)"
    )
    force_thresholds: tuple[float, ...] = _numbers(
        (60.0, 60.0, 60.0, 40.0, 40.0, 40.0), "N, N m", 1.0, 200.0, "external force at the tool that is a collision"
    )
    load_mass_kg: float = _number(
        0.0, "kg", 0.0, 3.0, "what the hand carries besides itself (a camera mount); 0: what Desk says"
    )
    load_centre_m: tuple[float, ...] = _numbers((0.0, 0.0, 0.0), "m", -0.5, 0.5, "its centre of mass from the flange")
    load_inertia: tuple[float, ...] = _numbers(
        (0.001, 0.0, 0.0, 0.0, 0.001, 0.0, 0.0, 0.0, 0.001), "kg m^2", -1.0, 1.0, "its inertia, nine numbers"
    )
    target_timeout_s: float = _number(0.15, "s", 0.05, 1.0, "silence of target_pose; then the arm holds")
    max_lead_m: float = _number(0.10, "m", 0.01, 0.3, "a stream of targets that begins farther from the arm is refused")
    max_lead_rad: float = _number(0.5, "rad", 0.05, 1.5, "a stream that begins turned by more is refused")
    max_target_age_s: float = _number(0.25, "s", 0.02, 2.0, "a target that is older by its stamp is refused")
    release_after_s: float = _number(
        1.0, "s", 0.5, 3600.0, "silence of targets after which the control loop ends: the robot holds by itself"
    )
    contact_timeout_s: float = _number(0.25, "s", 0.05, 2.0, "the robot says nothing new for longer: contact is lost")
    connect_timeout_s: float = _number(5.0, "s", 1.0, 60.0, "no answer for longer: another program may hold the robot")
    retry_s: float = _number(1.0, "s", 0.1, 60.0, "first pause between two tries to connect; doubles up to 10 s")
    gripper: bool = _other(True, "drive the Franka Hand")
    gripper_open_m: float = _number(0.08, "m", 0.0, 0.1, "width of the open hand")
    gripper_speed_m_s: float = _number(0.1, "m/s", 0.01, 0.2, "of the fingers")
    gripper_force_n: float = _number(30.0, "N", 1.0, 70.0, "of a grasp")

    def __post_init__(self) -> None:
        for item in fields(self):
            value, about = getattr(self, item.name), item.metadata
            if choices := about.get("choices"):
                if value not in choices:
                    raise unknown(item.name, str(value), choices)
            elif isinstance(item.default, tuple):
                object.__setattr__(self, item.name, _checked_row(item.name, value, len(item.default), about["range"]))
            elif about["range"] is not None:
                _check_number(item.name, value, about["range"])
        if not self.robot_ip.strip():
            raise UserError("robot_ip is empty; expected the address of the control box, for example 172.16.0.2")


def _check_number(name: str, value: Any, allowed: tuple[float, float]) -> None:
    low, high = allowed
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (number and low <= value <= high):  # NaN fails the comparison
        raise UserError(f"{name} is {value!r}; expected a number from {low:g} to {high:g}")


def _checked_row(name: str, value: Any, count: int, allowed: tuple[float, float]) -> tuple[float, ...]:
    try:
        row = tuple(float(item) for item in value)
    except (TypeError, ValueError):
        row = ()
    if len(row) != count or not all(math.isfinite(item) and allowed[0] <= item <= allowed[1] for item in row):
        raise UserError(f"{name} is {value!r}; expected {count} numbers from {allowed[0]:g} to {allowed[1]:g}")
    return row
