"""An operator with a VIVE controller: its pose in the arm's base frame, trigger, clutch and buttons.

Whatever may be wrong with what the controller says, the clutch counts as released at once: the arm does not move for
it. The clutch then has to be released and pressed again, so that nothing moves by itself when tracking comes back.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from diwa_conventions.actions import FloatArray, Pose
from diwa_conventions.errors import UserError, unknown
from diwa_teleop.operators.calibration import RigidTransform
from diwa_teleop.operators.openvr_runtime import (
    BASE_STATION,
    CONTROLLER,
    TRACKER,
    ControllerSeen,
    DeviceSeen,
    Runtime,
    RuntimeUnavailable,
)
from diwa_teleop.operators.operator import OperatorSample

BUTTONS = {"menu": 1, "grip": 2, "a": 7, "touchpad": 32, "trigger": 33}
"""OpenVR's numbers. The system button belongs to SteamVR."""
PAD_SIDES = {"touchpad_up": (1, 1), "touchpad_down": (1, -1), "touchpad_right": (0, 1), "touchpad_left": (0, -1)}
"""A press of the touchpad on one side: which coordinate is the larger one, and its sign."""
BUTTON_NAMES = ("", *BUTTONS, *PAD_SIDES)
_PAD_SIDE = 0.3
"""Nearer to the middle than this a press has no side."""
_LOOK_S = 0.5
"""How often a controller is looked for, while there is none."""
_CHECK_S = 5.0
"""How often batteries and base stations are looked at."""
_RELEASED_S = 0.5
"""For so long after it is gone the clutch is reported as released: an older report must not go on moving the arm."""
_LONGEST_WAIT_S = 10.0
_SLACK_M, _SLACK_RAD = 0.02, 0.1
"""Added to what the speed limits allow between two readings: readings are not evenly spaced."""

RANGES = {
    "max_hand_speed_m_s": (0.1, 20.0),
    "max_hand_turn_rad_s": (0.5, 100.0),
    "battery_low": (0.0, 0.9),
    "frozen_s": (0.0, 30.0),
    "station_moved_m": (0.005, 1.0),
}


@dataclass(frozen=True)
class ViveConfig:
    """Which controller, what its buttons do, and what counts as lost; ranges are in ``RANGES``."""

    serial: str = ""
    """Of the controller (or tracker), as SteamVR shows it: LHR-...; empty: by role, or the only one."""
    role: str = ""
    """left or right, as SteamVR has given them; empty: the only one that is on."""
    clutch_button: str = "grip"
    arm_button: str = "touchpad_up"
    disarm_button: str = "menu"
    success_button: str = "touchpad_right"
    failure_button: str = "touchpad_left"
    max_hand_speed_m_s: float = 3.0
    max_hand_turn_rad_s: float = 15.0
    """Faster than a person's hand: tracking was lost."""
    battery_low: float = 0.2
    """Share of the battery below which it warns."""
    frozen_s: float = 1.0
    """A pose that does not change in the last digit for so long is an old one; 0: not looked at."""
    station_moved_m: float = 0.03
    """A base station that is so far from where it was calibrated has been moved."""

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise UserError(f"{name} is {value!r}; expected a number from {low:g} to {high:g}")
        if self.role not in ("", "left", "right"):
            raise unknown("role", self.role, ("", "left", "right"))
        for name in ("clutch_button", "arm_button", "disarm_button", "success_button", "failure_button"):
            if getattr(self, name) not in BUTTON_NAMES:
                raise unknown(name, getattr(self, name), BUTTON_NAMES)
        if not self.clutch_button:
            raise UserError("clutch_button must be used: without it nothing moves; expected for example grip")


@dataclass(frozen=True)
class HandSample(OperatorSample):
    """A sample, and whether its pose is one of now."""

    tracked: bool = True
    """False: the pose is an old one and not to be published; the buttons are of now, the clutch counts as released."""


class ViveOperator:
    """Read it at a fixed rate. It looks for SteamVR and the controller, and comes back to them, by itself."""

    def __init__(
        self,
        runtime: Runtime,
        config: ViveConfig,
        to_base: RigidTransform,
        base_stations_m: dict[str, FloatArray] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runtime = runtime
        self._config = config
        self._to_base = to_base
        self._stations = base_stations_m or {}
        self._clock = clock
        self._open = False
        self._wait_s = 1.0
        self._try_s = self._look_s = self._check_s = -math.inf
        self._index: int | None = None
        self._present_s = -math.inf
        self._locked = True
        self._before: tuple[Pose, float] | None = None
        self._matrix: FloatArray | None = None
        self._changed_s = -math.inf
        self._latest = HandSample(Pose(np.zeros(3), np.eye(3)), 0.0, False, tracked=False)
        self.serial = ""
        """Of the controller that is used."""
        self.situation = "not started"
        """In words, for log and diagnostics."""
        self.tracked = False
        self.battery: float | None = None
        self.moved_station = ""
        """What is known of a base station that is not where it was, or ""."""
        self.losses = 0
        """Times that tracking, controller or SteamVR was lost."""
        self.leaps = 0
        """Times that the hand was faster than a hand can be."""

    def start(self) -> None:
        """Look for SteamVR now; UserError where it cannot work on this machine."""
        self._try_to_open(self._clock())

    def close(self) -> None:
        """Let go of SteamVR; ``read`` finds it again."""
        if self._open:
            self._runtime.close()
        self._open, self._index, self._locked, self._before = False, None, True, None
        self._try_s, self.tracked = -math.inf, False

    def read(self, dt_s: float) -> HandSample | None:
        """The controls now; None once SteamVR or the controller has been gone for a moment."""
        now_s = self._clock()
        seen = self._look(now_s)
        if seen is None:
            self._lose()
            self._locked = True
            self._latest = HandSample(self._latest.pose, self._latest.trigger, False, tracked=False)
            return self._latest if now_s - self._present_s <= _RELEASED_S else None
        self._present_s = now_s
        self._latest = self._sample(seen, now_s)
        return self._latest

    def report(self) -> tuple[bool, str, Mapping[str, object]]:
        """For diagnostics: whether all is well, what is to be said, counts."""
        battery = "unknown" if self.battery is None else f"{100 * self.battery:.0f} %"
        values = {
            "serial": self.serial,
            "tracked": self.tracked,
            "battery": battery,
            "losses": self.losses,
            "leaps": self.leaps,
        }
        if not self.tracked:
            return False, self.situation, values
        if self.moved_station:
            return False, self.moved_station, values
        if self.low_battery:
            return False, f"controller {self.serial}: battery at {battery}, charge it", values
        return True, self.situation, values

    @property
    def low_battery(self) -> bool:
        return self.battery is not None and self.battery < self._config.battery_low

    def stations(self) -> dict[str, FloatArray]:
        """Where the base stations are in the tracker's world [m], by serial number; empty without SteamVR."""
        if not self._open:
            return {}
        places = {device.serial: self._runtime.place(device.index) for device in self._devices(BASE_STATION)}
        return {serial: place for serial, place in places.items() if place is not None}

    # SteamVR and the controller

    def _look(self, now_s: float) -> ControllerSeen | None:
        """The controller's state, or None and ``situation`` says why."""
        if not self._open and not self._reopen(now_s):
            return None
        if self._runtime.ended():
            self._runtime.close()
            self._open, self._index, self._wait_s = False, None, 1.0
            self._try_s = now_s + self._wait_s
            self.situation = "SteamVR has ended; start it"
            return None
        if self._index is None and not self._choose(now_s):
            return None
        assert self._index is not None
        seen = self._runtime.read(self._index)
        if seen is None or not seen.connected:
            self._index = None
            self.situation = _off(self.serial)
            return None
        self._check(now_s)
        return seen

    def _reopen(self, now_s: float) -> bool:
        if now_s < self._try_s:
            return False
        try:
            return self._try_to_open(now_s)
        except UserError as error:  # it was there before: perhaps it is being updated
            self.situation = str(error)
            self._wait(now_s)
            return False

    def _try_to_open(self, now_s: float) -> bool:
        try:
            self._runtime.open()
        except RuntimeUnavailable as error:
            self.situation = str(error)
            self._wait(now_s)
            return False
        self._open, self._wait_s, self._look_s, self._check_s = True, 1.0, -math.inf, -math.inf
        return True

    def _wait(self, now_s: float) -> None:
        """Twice as long every time."""
        self._try_s = now_s + self._wait_s
        self._wait_s = min(2.0 * self._wait_s, _LONGEST_WAIT_S)

    def _devices(self, *kinds: str) -> list[DeviceSeen]:
        return [device for device in self._runtime.devices() if device.kind in kinds]

    def _choose(self, now_s: float) -> bool:
        if now_s - self._look_s < _LOOK_S:
            return False
        self._look_s = now_s
        device, why = chosen(self._devices(CONTROLLER, TRACKER), self._config)
        if device is None:
            self.situation = why
            return False
        self._index, self.serial = device.index, device.serial
        self._check_s, self._matrix = -math.inf, None
        return True

    def _check(self, now_s: float) -> None:
        """Battery and base stations, now and then."""
        if now_s - self._check_s < _CHECK_S or self._index is None:
            return
        self._check_s = now_s
        self.battery = self._runtime.battery(self._index)
        self.moved_station = ""
        for serial, place in (self.stations() if self._stations else {}).items():
            moved_m = math.dist(place, self._stations[serial]) if serial in self._stations else 0.0
            if moved_m > self._config.station_moved_m:
                where = f"{moved_m:.2f} m from where it was calibrated"
                self.moved_station = f"base station {serial} is {where}; run: diwa calibrate operator"

    # What it says

    def _sample(self, seen: ControllerSeen, now_s: float) -> HandSample:
        config = self._config
        pose, why = self._pose(seen, now_s)
        held = pressed(config.clutch_button, seen)
        if pose is None:
            self._lose()
            self._locked, self.situation = True, f"controller {self.serial} {why}; no motion"
        else:
            self.tracked = True
            if self._leapt(pose):
                self.leaps, self._locked = self.leaps + 1, True
            self._before = (pose, now_s)
            self._locked = self._locked and held
            self.situation = self._tracked_situation(held)
        return HandSample(
            self._latest.pose if pose is None else pose,
            min(1.0, max(0.0, seen.trigger)) if math.isfinite(seen.trigger) else 0.0,
            held and not self._locked,
            arm=pose is not None and pressed(config.arm_button, seen),
            disarm=pressed(config.disarm_button, seen),
            success=pressed(config.success_button, seen),
            failure=pressed(config.failure_button, seen),
            tracked=pose is not None,
        )

    def _pose(self, seen: ControllerSeen, now_s: float) -> tuple[Pose | None, str]:
        """The hand in the base frame; None and why not."""
        if not seen.tracked:
            return None, "is not tracked: the base stations do not see it"
        rotation = seen.matrix[:, :3]
        if not np.isfinite(seen.matrix).all() or np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-2:
            return None, "has a pose that is none"
        if self._matrix is None or not np.array_equal(seen.matrix, self._matrix):
            self._matrix, self._changed_s = seen.matrix, now_s
        if 0.0 < self._config.frozen_s < now_s - self._changed_s:
            return None, "sleeps, or SteamVR hangs: its pose does not change"
        return self._to_base.of(Pose(seen.matrix[:, 3], _orthonormal(rotation))), ""

    def _tracked_situation(self, held: bool) -> str:
        if held and self._locked:
            return (
                "clutch must be released and pressed again: tracking was lost or leapt, or it was held from the start"
            )
        return f"controller {self.serial} is tracked"

    def _leapt(self, pose: Pose) -> bool:
        if self._before is None:
            return False
        before, before_s = self._before
        # Until after this reading, since before that one: where this process was held up in between, the hand was not.
        dt_s = max(self._clock() - before_s, 0.0)
        too_far = before.distance_m(pose) > self._config.max_hand_speed_m_s * dt_s + _SLACK_M
        return too_far or before.angle_rad(pose) > self._config.max_hand_turn_rad_s * dt_s + _SLACK_RAD

    def _lose(self) -> None:
        self.losses += int(self.tracked)
        self.tracked, self._before = False, None


def chosen(devices: list[DeviceSeen], config: ViveConfig) -> tuple[DeviceSeen | None, str]:
    """The controller that is meant, if it is on; else None and why."""
    known = ", ".join(map(str, devices)) or "none"
    if config.serial:
        devices = [device for device in devices if device.serial == config.serial]
        wanted = f"controller {config.serial}"
    elif config.role:
        devices = [device for device in devices if device.role == config.role]
        wanted = f"{config.role} controller"
    else:
        devices = [device for device in devices if device.kind == CONTROLLER]
        wanted = "controller"
    if not devices:
        return None, f"SteamVR knows no {wanted}; switch it on, or pair it; known: {known}"
    on = [device for device in devices if device.connected]
    if not on:
        return None, _off(", ".join(device.serial for device in devices))
    if len(on) > 1:
        serials = ", ".join(map(str, on))
        return None, f"there are {len(on)} controllers: {serials}; name one with the parameter serial, or role"
    return on[0], ""


def _off(serial: str) -> str:
    return f"controller {serial} is off or asleep; press its system button, charge it"


def pressed(name: str, seen: ControllerSeen) -> bool:
    """Whether the button of this name is pressed; never for ""."""
    if name in PAD_SIDES:
        number, sign = PAD_SIDES[name]
        mine, other = seen.pad[number], seen.pad[1 - number]
        return _bit("touchpad", seen) and sign * mine > _PAD_SIDE and abs(mine) > abs(other)
    return bool(name) and _bit(name, seen)


def _bit(name: str, seen: ControllerSeen) -> bool:
    return bool(seen.pressed >> BUTTONS[name] & 1)


def _orthonormal(rotation: FloatArray) -> FloatArray:
    """The nearest rotation: OpenVR's matrices are of single precision."""
    left, _, right = np.linalg.svd(rotation)
    return np.asarray(left @ right, dtype=np.float64)
