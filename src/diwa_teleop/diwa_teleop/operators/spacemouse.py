"""An operator with a SpaceMouse: its cap moves and turns a virtual hand, as a gamepad's sticks do."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diwa_conventions.actions import FloatArray
from diwa_conventions.errors import UserError, unknown
from diwa_teleop.operators.operator import OperatorSample
from diwa_teleop.operators.virtual_hand import VirtualHand

AXES = ("x", "y", "z", "roll", "pitch", "yaw")
CAP = "cap"
"""As clutch: the hand moves whenever the cap is pushed, since it comes back to its middle by itself."""
_MOST_REPORTS = 100
"""In one reading: a device that floods does not hold up the node."""
_RELEASED_S = 0.5
"""For so long after it is gone the clutch is reported as released."""
_LONGEST_WAIT_S = 5.0
_NO_REPORT = -1.0
"""The library's stamp of a state that no report has changed yet."""

RANGES = {
    "dead_zone": (0.0, 0.9),
    "speed_m_s": (0.001, 0.6),
    "turn_rad_s": (0.001, 1.5),
    "stale_s": (0.05, 5.0),
}


@dataclass(frozen=True)
class SpaceMouseConfig:
    """What cap and buttons do; the names of the buttons are those that the model has. Ranges are in ``RANGES``."""

    device: str = ""
    """Model, by pyspacemouse's name: SpaceMouseCompact; empty: the first that is found."""
    flipped: tuple[str, ...] = ()
    """Axes that go the other way: x, y, z, roll, pitch, yaw."""
    clutch_button: str = "LEFT"
    """Dead man's button; ``cap``: the cap itself."""
    gripper_button: str = "RIGHT"
    """A press closes the gripper, the next one opens it."""
    arm_button: str = ""
    disarm_button: str = ""
    success_button: str = ""
    failure_button: str = ""
    dead_zone: float = 0.1
    """Share of the cap's way that counts as released."""
    speed_m_s: float = 0.2
    turn_rad_s: float = 0.8
    """Of the hand with the cap at its end."""
    stale_s: float = 0.5
    """A cap that is pushed reports without pause; after so long without a report it counts as released."""

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise UserError(f"{name} is {getattr(self, name)!r}; expected a number from {low:g} to {high:g}")
        for axis in self.flipped:
            if axis not in AXES:
                raise unknown("axis in flipped:", axis, AXES)
        if not self.clutch_button:
            raise UserError(f"clutch_button must be used; expected the name of a button, or '{CAP}'")


class SpaceMouseOperator:
    """Read it at a fixed rate. It looks for the device, and comes back to it, by itself."""

    def __init__(self, config: SpaceMouseConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._library = _library()
        self._config = config
        self._clock = clock
        self._hand = VirtualHand()
        self._device: Any = None
        self._numbers: dict[str, int | None] = {}
        self._wait_s, self._try_s = 1.0, -math.inf
        self._present_s = self._reported_s = -math.inf
        self._before: list[int] = []
        self._state: Any = None
        self._stamp = _NO_REPORT
        self._closed = False
        self.situation = "not started"
        """In words, for log and diagnostics."""
        self.losses = 0

    def start(self) -> None:
        """Look for the device now; UserError where it cannot work on this machine."""
        self._open(self._clock())

    def close(self) -> None:
        """Let go of the device; ``read`` finds it again."""
        if self._device is not None:
            self._device.close()
        self._device, self._try_s = None, -math.inf

    def report(self) -> tuple[bool, str, Mapping[str, object]]:
        """For diagnostics: whether all is well, what is to be said, counts."""
        return self._device is not None, self.situation, {"losses": self.losses}

    def read(self, dt_s: float) -> OperatorSample | None:
        """The controls now; None once the device has been gone for a moment."""
        now_s = self._clock()
        if self._device is None and now_s >= self._try_s:
            self._reopen(now_s)
        presses = None if self._device is None else self._take_reports(now_s)
        if presses is None:
            gone = now_s - self._present_s > _RELEASED_S
            return None if gone else OperatorSample(self._hand.pose, float(self._closed), False)
        self._present_s = now_s
        return self._sample(presses, now_s, dt_s)

    # The device

    def _reopen(self, now_s: float) -> None:
        try:
            self._open(now_s)
        except UserError as error:  # another model than before
            self._wait(now_s, str(error))

    def _open(self, now_s: float) -> None:
        """UserError where only an installation helps, or where the model lacks a configured button."""
        name, found = self._config.device, _connected(self._library)
        if not found or (name and name not in found):
            others = f"; there is {', '.join(found)}" if found else ""
            self._wait(now_s, f"no {name or 'SpaceMouse'} is plugged in{others}")
            return
        name = name or found[0]
        try:
            convention = self._library.AxisConvention.ROS
            self._device = self._library.open(device=name, axis_convention=convention)
        except RuntimeError as error:
            self._wait(
                now_s, f"{name} is plugged in but cannot be opened ({error}); allow its /dev/hidraw with a udev rule"
            )
            return
        self._wait_s, self._before, self._state, self._stamp = 1.0, [], None, _NO_REPORT
        try:
            self._numbers = button_numbers(name, self._device.info.button_names, self._config)
        except UserError:
            self.close()
            raise
        self.situation = f"{name} is connected"

    def _wait(self, now_s: float, why: str) -> None:
        """Try again later, after twice as long every time."""
        self.situation, self._try_s = why, now_s + self._wait_s
        self._wait_s = min(2.0 * self._wait_s, _LONGEST_WAIT_S)

    def _take_reports(self, now_s: float) -> list[bool] | None:
        """Read all that has come; buttons that were pressed meanwhile. None if the device is gone."""
        presses = [False] * len(self._device.info.button_names)
        try:
            for _ in range(_MOST_REPORTS):
                state = self._device.read()
                if state.t == self._stamp:
                    break
                self._state, self._stamp, self._reported_s = state, state.t, now_s
                self._note_buttons(list(state.buttons), presses)
        except Exception as error:  # easyhid raises its own kind, and others from the C library
            self._lose(now_s, error)
            return None
        return presses

    def _note_buttons(self, buttons: list[int], presses: list[bool]) -> None:
        before = self._before or [0] * len(buttons)
        for number, (now, earlier) in enumerate(zip(buttons, before, strict=True)):
            if now and not earlier:
                presses[number] = True
                self._closed ^= number == self._numbers["gripper_button"]
        self._before = buttons

    def _lose(self, now_s: float, error: Exception) -> None:
        name = self._device.name
        try:
            self._device.close()
        except Exception:
            pass  # it is gone anyway
        self._device, self.losses = None, self.losses + 1
        self._wait_s = 1.0
        self._wait(now_s, f"{name} was unplugged ({error}); plug it in again")

    # What it says

    def _sample(self, presses: Sequence[bool], now_s: float, dt_s: float) -> OperatorSample:
        config = self._config
        cap = self._cap(now_s)
        clutch = bool(np.any(cap)) if config.clutch_button == CAP else self._held("clutch_button")
        moving = cap if clutch else np.zeros(6)
        pose = self._hand.move(config.speed_m_s * dt_s * moving[:3], config.turn_rad_s * dt_s * moving[3:])
        others = {
            name: self._held(f"{name}_button") or self._was_pressed(f"{name}_button", presses)
            for name in ("arm", "disarm", "success", "failure")
        }
        return OperatorSample(pose, float(self._closed), clutch, **others)

    def _held(self, name: str) -> bool:
        number = self._numbers[name]
        return number is not None and bool(self._before) and bool(self._before[number])

    def _was_pressed(self, name: str, presses: Sequence[bool]) -> bool:
        number = self._numbers[name]
        return number is not None and presses[number]

    def _cap(self, now_s: float) -> FloatArray:
        """(6,) in [-1, 1], zero within the dead zone and without reports."""
        config, state = self._config, self._state
        if state is None or now_s - self._reported_s > config.stale_s:
            return np.zeros(6)
        raw = [getattr(state, axis) * (-1.0 if axis in config.flipped else 1.0) for axis in AXES]
        values = np.clip(np.nan_to_num(np.array(raw, dtype=np.float64)), -1.0, 1.0)
        beyond = np.maximum(np.abs(values) - config.dead_zone, 0.0) / (1.0 - config.dead_zone)
        return np.asarray(np.sign(values) * beyond, dtype=np.float64)


def button_numbers(model: str, names: Sequence[str], config: SpaceMouseConfig) -> dict[str, int | None]:
    """Where each configured button stands among the model's; None for an unused one. UserError for one it lacks."""
    numbers: dict[str, int | None] = {}
    for setting in ("clutch", "gripper", "arm", "disarm", "success", "failure"):
        name = getattr(config, f"{setting}_button")
        if name and name not in names and not (setting == "clutch" and name == CAP):
            raise UserError(
                f"{model} has no button {name!r}; set the parameter {setting}_button to one of {', '.join(names)}"
            )
        numbers[f"{setting}_button"] = names.index(name) if name in names else None
    return numbers


def _library() -> Any:
    """The client library; imported late, since only an operator with a SpaceMouse needs it."""
    try:
        return importlib.import_module("pyspacemouse")
    except ImportError:
        raise UserError(
            "the SpaceMouse needs the package pyspacemouse, which is not installed; run: make setup EXTRA=hardware"
        ) from None


def _connected(library: Any) -> list[str]:
    """Models that are plugged in."""
    try:
        return list(library.get_connected_devices())
    except RuntimeError:
        raise UserError(
            "the SpaceMouse needs the system's library hidapi, which is not installed; "
            "run: sudo apt-get install libhidapi-hidraw0"
        ) from None
