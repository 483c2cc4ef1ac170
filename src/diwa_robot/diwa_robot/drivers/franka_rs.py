"""Arm and hand through ``franka-rs`` (import ``franka``): Panda (FCI version 5) and FR3 (version 10), one library.

Its 1 kHz loop runs in Rust, beside Python: a jerk-limited motion to the newest command, which makes one smooth motion
of 120 commands a second, followed by the torques of a Cartesian spring. Imported late: it is an extra.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from diwa_conventions.actions import FloatArray, Pose
from diwa_conventions.errors import UserError
from diwa_robot.drivers.arm import (
    SYSTEMS,
    ArmError,
    FciNotActive,
    NoContact,
    Reading,
    Reflex,
    WrongSetting,
    WrongVersion,
)
from diwa_robot.drivers.fci_settings import FciSettings
from diwa_robot.so3 import orthonormal

REALTIME_KERNEL = Path("/sys/kernel/realtime")
SPEAKS = (5, 10)
"""FCI versions of the library."""
TYPES = {5: "panda", 10: "fr3"}

HAND_LENGTH_M = 0.1034
"""From flange to tool centre point of the Franka Hand."""
MODEL_TOLERANCE_M = 0.005

_BUDGET = {
    "impedance": {
        "max_velocity": 1.7,
        "max_acceleration": 13.0,
        "max_jerk": 2000.0,
        "max_angular_velocity": 2.6,
        "max_angular_acceleration": 25.0,
        "max_angular_jerk": 4000.0,
    },
    # The robot refuses a faster stream of poses: it checks what every pose asks of the joints.
    "robot": {
        "max_velocity": 0.5,
        "max_acceleration": 1.0,
        "max_jerk": 40.0,
        "max_angular_velocity": 1.5,
        "max_angular_acceleration": 2.0,
        "max_angular_jerk": 80.0,
    },
}
"""Of the motion to the newest command (norms; m, rad, s): above what the guard allows, so that the arm keeps up."""

_TURNED_AWAY = ("reset by peer", "interrupted", "Broken pipe")

_ANYWHERE = {"max_deviation": 10.0, "max_angular_deviation": 10.0}
"""The library would end a loop that goes far from its start; the guard's box bounds the motion here."""


class FrankaRsArm:
    """One robot at ``settings.robot_ip``."""

    def __init__(self, settings: FciSettings, log: Callable[[str], None] = lambda text: None) -> None:
        self._settings, self._log = settings, log
        self._franka = library()
        self._robot: Any = None
        self._control: Any = None
        self._connecting: threading.Thread | None = None
        self._warnings: list[str] = []
        self._thresholds_set = False
        self._tool = np.eye(4)
        """From the tool as the robot reports it to the tool as the library's model has it."""

    # Contact

    def connect(self) -> str:
        self.close()
        self._warnings = []
        self._robot = self._connected()
        version = int(self._robot.fci_version)
        self._check_type(version)
        self._carry_load(version)
        settings, state = self._settings, self._asking(self._robot.read_once)
        self._thresholds_set = False
        if state.robot_mode == "idle":  # else it takes no settings; the first motion begins with them
            self._set_thresholds()
        self._tool = self._asking(lambda: self._offset_to_model(state))
        self._note(state)
        return f"{TYPES[version]} at {settings.robot_ip}, FCI version {version} ({SYSTEMS[version]})"

    def _set_thresholds(self) -> None:
        settings = self._settings
        limits = [list(settings.torque_thresholds)] * 2 + [list(settings.force_thresholds)] * 2
        self._asking(lambda: self._robot_now().set_collision_behavior_simple(*limits))
        self._thresholds_set = True

    def warnings(self) -> tuple[str, ...]:
        return tuple(self._warnings)

    def _connected(self) -> Any:
        """A new connection. In a thread of its own: the library gives its thread real-time priority, and may hang."""
        got: list[Any] = []

        def connect() -> None:
            try:
                got.append(self._franka.Robot(self._settings.robot_ip, realtime=self._realtime()))
            except Exception as error:  # said by the caller
                got.append(error)

        if self._connecting is None or not self._connecting.is_alive():
            self._connecting = threading.Thread(target=connect, daemon=True, name="connect")
            self._connecting.start()
        self._connecting.join(self._settings.connect_timeout_s)
        if not got:
            raise NoContact(
                f"{self._settings.robot_ip} took the connection but has said nothing for "
                f"{self._settings.connect_timeout_s:g} s; does another program hold the robot (one may at a time)?"
            )
        if isinstance(got[0], self._franka.FrankaError):
            raise self._explained(got[0]) from got[0]
        if isinstance(got[0], Exception):
            raise got[0]
        return got[0]

    def _realtime(self) -> str:
        if self._settings.ignore_realtime:
            return "ignore"
        if realtime_kernel():
            return "enforce"
        self._warnings.append(
            "this kernel is not a real-time kernel: the robot may stop with communication_constraints_violation; "
            "install a PREEMPT_RT kernel on the control PC, or set ignore_realtime"
        )
        return "ignore"

    def _check_type(self, version: int) -> None:
        found, wanted = TYPES.get(version, f"FCI version {version}"), self._settings.robot_type
        if wanted not in ("auto", found):
            raise WrongVersion(
                f"the robot at {self._settings.robot_ip} is a {found} (FCI version {version}, {SYSTEMS[version]}); "
                f"robot_type is {wanted}: set robot_type or robot_ip"
            )

    def _carry_load(self, version: int) -> None:
        """See to it that the robot knows the load of the settings. This library cannot say it; libfranka can."""
        mass = self._settings.load_mass_kg
        state = self._asking(self._robot.read_once)
        if mass == 0.0 or (
            abs(state.m_load - mass) < 1e-4 and np.allclose(state.F_x_Cload, self._settings.load_centre_m, atol=1e-4)
        ):
            return
        self._robot = None  # one connection at a time
        set_load(self._settings, version)
        self._robot = self._connected()
        state = self._asking(self._robot.read_once)
        if abs(state.m_load - mass) > 1e-3:
            raise WrongSetting(f"the robot carries {state.m_load:g} kg by its own account; load_mass_kg is {mass:g}")

    def _offset_to_model(self, state: Any) -> FloatArray:
        model = self._robot.model().pose("ee", state.q, state.F_T_EE, state.EE_T_K)
        offset = np.linalg.solve(state.O_T_EE, model)
        distance_m = float(np.linalg.norm(offset[:3, 3]))
        if distance_m > MODEL_TOLERANCE_M:
            self._warnings.append(
                f"the robot has its tool {1e3 * distance_m:.0f} mm from where its model has it; commands are corrected"
            )
        return np.asarray(offset, dtype=np.float64)

    def _note(self, state: Any) -> None:
        """What of the robot's own settings is not what the rest of this software takes for granted."""
        flange_to_tool = state.F_T_EE
        if abs(flange_to_tool[2, 3] - HAND_LENGTH_M) > 0.001:
            self._warnings.append(
                f"the robot's tool is {1e3 * flange_to_tool[2, 3]:.1f} mm from its flange; expected the Franka Hand's "
                f"{1e3 * HAND_LENGTH_M:.1f} mm: choose the end effector in Desk"
            )
        for warning in self._warnings:
            self._log(warning)

    def close(self) -> None:
        control, self._control = self._control, None
        if control is not None and control.running:
            with contextlib.suppress(self._franka.FrankaError):
                control.stop()
        self._robot = None

    # State

    def read(self) -> Reading:
        control = self._control
        if control is not None and not control.running:
            self._control = None
            self._ended(control)
        source = control.state if control is not None else self._robot_now().read_once
        return _reading(self._asking(source))

    def _ended(self, control: Any) -> None:
        """Reflex or NoContact: a control loop has ended by itself."""
        try:
            control.stop()
        except self._franka.FrankaError as error:
            raise self._explained(error) from error
        raise Reflex("the control loop ended by itself, and the library does not say why")

    # Motion

    @property
    def following(self) -> bool:
        return self._control is not None

    def begin(self) -> None:
        settings = self._settings
        if not self._thresholds_set:
            self._set_thresholds()
        options: dict[str, Any] = {**_ANYWHERE, **_BUDGET[settings.controller], "backend": settings.controller}
        if settings.controller == "impedance":
            options |= {
                "cartesian_stiffness": list(settings.stiffness),
                "cartesian_damping": list(settings.damping),
                "velocity_feedforward": settings.velocity_feedforward,
                "leash": (settings.leash_m, settings.leash_rad),
            }
        self._control = self._asking(lambda: self._robot_now().cartesian_targets(**options))

    def command(self, pose: Pose) -> None:
        control = self._control
        if control is None:
            return
        position, rotation = self._in_model(pose)
        quaternion = Pose(position, rotation).quaternion()
        with contextlib.suppress(self._franka.FrankaError):  # a loop that has ended says why when it is read
            control.move_to(np.concatenate([position, quaternion]))

    def _in_model(self, pose: Pose) -> tuple[FloatArray, FloatArray]:
        rotation = pose.rotation @ self._tool[:3, :3]
        return pose.position + pose.rotation @ self._tool[:3, 3], rotation

    def end(self) -> None:
        control, self._control = self._control, None
        if control is not None:
            self._asking(control.stop)

    def recover(self) -> None:
        self._control = None
        self._asking(self._robot_now().automatic_error_recovery)

    # Within

    def _robot_now(self) -> Any:
        if self._robot is None:
            raise NoContact(f"there is no connection to {self._settings.robot_ip}")
        return self._robot

    def _asking(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except self._franka.FrankaError as error:
            raise self._explained(error) from error

    def _explained(self, error: Any) -> ArmError:
        """The library's error as one of ours, with what to do."""
        return explained(error, self._settings.robot_ip)


class FrankaRsHand:
    """The Franka Hand of the robot at ``settings.robot_ip``."""

    def __init__(self, settings: FciSettings) -> None:
        self._settings = settings
        self._franka = library()
        self._gripper: Any = None

    def connect(self) -> None:
        try:
            self._gripper = self._franka.Gripper(self._settings.robot_ip)
        except self._franka.FrankaError as error:
            raise NoContact(
                f"no Franka Hand answers at {self._settings.robot_ip} ({_plain(error)}); is it chosen as the end "
                "effector in Desk? Without one set gripper:=false"
            ) from error

    def width_m(self) -> float:
        return float(self._asking(self._gripper.read_once).width)

    def open(self) -> bool:
        settings = self._settings
        return bool(self._asking(lambda: self._gripper.move(settings.gripper_open_m, settings.gripper_speed_m_s)))

    def grasp(self) -> bool:
        """Close until the fingers meet something, or each other: both is a success."""
        settings = self._settings
        wide = settings.gripper_open_m
        return bool(
            self._asking(
                lambda: self._gripper.grasp(
                    0.0, settings.gripper_speed_m_s, settings.gripper_force_n, epsilon_inner=wide, epsilon_outer=wide
                )
            )
        )

    def stop(self) -> None:
        self._asking(self._gripper.stop)

    def close(self) -> None:
        self._gripper = None

    def _asking(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except self._franka.FrankaError as error:
            raise NoContact(_plain(error)) from error


def library() -> Any:
    """The module; UserError if it is not installed."""
    try:
        import franka
    except ImportError as error:
        raise UserError("the driver fci needs franka-rs, which is not installed: make setup EXTRA=hardware") from error
    return franka


def realtime_kernel() -> bool:
    try:
        return REALTIME_KERNEL.read_text().strip() == "1"
    except OSError:
        return False


def set_load(settings: FciSettings, version: int) -> None:
    """Tell the robot its load through libfranka: of panda-python for a Panda, of franky-control for an FR3."""
    load = (settings.load_mass_kg, list(settings.load_centre_m), list(settings.load_inertia))
    try:
        if version == 5:
            from panda_py import libfranka

            robot = libfranka.Robot(settings.robot_ip, libfranka.RealtimeConfig.kIgnore)
        else:
            import franky

            robot = franky.Robot(settings.robot_ip, realtime_config=franky.RealtimeConfig.Ignore)
        robot.set_load(*load)
    except ImportError as error:
        package = "panda-python" if version == 5 else "franky-control"
        raise WrongSetting(
            f"load_mass_kg needs {package}, which is not installed: pip install it, or enter the load in Desk and set "
            "load_mass_kg to 0"
        ) from error
    except Exception as error:  # each library has its own kinds
        raise WrongSetting(f"the robot does not take the load of {settings.load_mass_kg:g} kg: {error}") from error


def explained(error: Any, address: str) -> ArmError:
    """An error of the library as one of ours, with what to do."""
    text, kind = _plain(error), getattr(error, "kind", "")
    if kind == "control":
        return _reflex(error, text)
    if "refused" in text and kind == "network":
        return FciNotActive(
            f"{address} refuses the connection: activate FCI in Desk (unlock the joints, then Activate FCI); if it is "
            "active, another program holds the robot, or this is not the robot's address"
        )
    if "ncompatible" in text:
        return _wrong_version(text, address)
    if kind == "realtime":
        return WrongSetting(f"{text} Allow this user real-time priority (docs/real_robot.md), or set ignore_realtime")
    if kind == "network" and any(word in text for word in _TURNED_AWAY):
        return NoContact(
            f"{address} broke the connection off ({text}); does another program hold the robot (one may at a time), or "
            "was the control box restarted?"
        )
    if kind == "network":
        return NoContact(
            f"no contact with the robot at {address}: {text}; check robot_ip, the cable to the control box (not to the "
            "arm's base) and that this machine's address is in the same network"
        )
    if kind == "command":
        return FciNotActive(f"the robot at {address} refuses: {text}; are the joints unlocked and is FCI active?")
    return ArmError(f"{text} ({kind or type(error).__name__})")


def _reflex(error: Any, text: str) -> Reflex:
    names = tuple(getattr(error, "errors", None) or ())
    reason = getattr(error, "reason", None)
    said = ", ".join(names) or (reason.strip("[]") if isinstance(reason, str) else "") or text
    return Reflex(f"the robot stopped by itself: {said}", names)


def _wrong_version(text: str, address: str) -> WrongVersion:
    numbers = [int(word.strip("().,")) for word in text.split() if word.strip("().,").isdigit()]
    server = numbers[0] if numbers else None
    system = SYSTEMS.get(server or 0, "a system this software does not know")
    speaks = " and ".join(f"{version} ({SYSTEMS[version]})" for version in SPEAKS)
    return WrongVersion(
        f"the robot at {address} speaks FCI version {server} ({system}); franka-rs speaks {speaks}: update the robot's "
        "system, or use robot:=crisp with the libfranka that fits it"
    )


def _plain(error: Any) -> str:
    return str(error).removeprefix("libfranka: ")


def _reading(state: Any) -> Reading:
    transform = np.asarray(state.O_T_EE, dtype=np.float64)
    return Reading(
        # version 10 sends single precision
        pose=Pose(transform[:3, 3].copy(), orthonormal(transform[:3, :3])),
        joints_rad=np.array(state.q, dtype=np.float64),
        speeds_rad_s=np.array(state.dq, dtype=np.float64),
        torques_nm=np.array(state.tau_J, dtype=np.float64),
        mode=str(state.robot_mode),
        errors=tuple(state.current_errors),
        time_s=float(state.time),
        success_rate=float(state.control_command_success_rate),
    )
