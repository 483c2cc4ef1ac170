"""An operator with a gamepad, as ROS 2's ``joy_node`` publishes it: sticks move a virtual hand."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from diwa_conventions.actions import FloatArray
from diwa_conventions.errors import UserError
from diwa_teleop.operators.operator import OperatorSample
from diwa_teleop.operators.virtual_hand import VirtualHand

UNUSED = -1


@dataclass(frozen=True)
class GamepadConfig:
    """Which stick and button does what; defaults are those of an Xbox controller."""

    axes: tuple[int, ...] = (1, 0, 4, 6, 7, 3)
    """Axis numbers for x, y, z, roll, pitch, yaw (-1: unused): left stick, right stick cross, right stick."""
    flipped: tuple[int, ...] = ()
    """Numbers of axes that point the other way."""
    trigger_axis: int = 5
    trigger_released: float = 1.0
    trigger_pulled: float = -1.0
    clutch_button: int = 4
    """Dead man's button: without it the hand stands still."""
    arm_button: int = 7
    disarm_button: int = 6
    success_button: int = 0
    failure_button: int = 1
    dead_zone: float = 0.1
    """0 to 0.9 of a stick's way that counts as released."""
    speed_m_s: float = 0.2
    """0.001 to 0.6, at a stick's end."""
    turn_rad_s: float = 0.8
    """0.001 to 1.5."""
    stale_s: float = 0.3
    """0.05 to 2: a gamepad that is silent for longer is gone; joy_node repeats itself at 20 Hz."""

    def __post_init__(self) -> None:
        bounds = {"dead_zone": (0.0, 0.9), "speed_m_s": (0.001, 0.6), "turn_rad_s": (0.001, 1.5), "stale_s": (0.05, 2)}
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise UserError(f"{name} is {getattr(self, name)!r}; expected a number from {low:g} to {high:g}")
        if len(self.axes) != 6 or min(self.axes) < UNUSED:
            raise UserError(
                f"axes is {list(self.axes)}; expected six numbers for x, y, z, roll, pitch, yaw; -1: unused"
            )
        if self.trigger_axis < 0 or self.clutch_button < 0:
            raise UserError("trigger_axis and clutch_button must be used; expected numbers from 0")
        if not 0.1 <= abs(self.trigger_pulled - self.trigger_released) < math.inf:
            raise UserError(f"trigger_released and trigger_pulled are both about {self.trigger_released:g}")


class GamepadOperator:
    """Give it the gamepad's messages with :meth:`observe`, read it at a fixed rate."""

    def __init__(self, config: GamepadConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._clock = clock
        self._hand = VirtualHand()
        self._axes: Sequence[float] = ()
        self._buttons: Sequence[int] = ()
        self._observed_s = -math.inf

    def observe(self, axes: Sequence[float], buttons: Sequence[int]) -> None:
        """The newest state of the gamepad. UserError for one that lacks what is configured or is not finite."""
        config = self._config
        self._observed_s = -math.inf  # gone, unless what follows finds nothing wrong: old sticks must not go on moving
        _check("axis", max(*config.axes, config.trigger_axis), len(axes))
        _check("button", max(self._numbers()), len(buttons))
        if not np.isfinite(axes).all():
            raise UserError("the gamepad has an axis that is not finite")
        self._axes, self._buttons, self._observed_s = axes, buttons, self._clock()

    def read(self, dt_s: float) -> OperatorSample | None:
        """The controls now; None if the gamepad has been silent for too long."""
        if self._clock() - self._observed_s > self._config.stale_s:
            return None
        clutch, *others = (number != UNUSED and bool(self._buttons[number]) for number in self._numbers())
        sticks = self._sticks() if clutch else np.zeros(6)
        pose = self._hand.move(self._config.speed_m_s * dt_s * sticks[:3], self._config.turn_rad_s * dt_s * sticks[3:])
        return OperatorSample(pose, self._trigger(), clutch, *others)

    def _numbers(self) -> tuple[int, ...]:
        config = self._config
        return (
            config.clutch_button,
            config.arm_button,
            config.disarm_button,
            config.success_button,
            config.failure_button,
        )

    def _sticks(self) -> FloatArray:
        """(6,) in [-1, 1], zero within the dead zone and continuous at its edge."""
        config = self._config
        raw = [0.0 if n == UNUSED else self._axes[n] * (-1.0 if n in config.flipped else 1.0) for n in config.axes]
        values = np.clip(np.array(raw, dtype=np.float64), -1.0, 1.0)
        beyond = np.maximum(np.abs(values) - config.dead_zone, 0.0) / (1.0 - config.dead_zone)
        return np.asarray(np.sign(values) * beyond, dtype=np.float64)

    def _trigger(self) -> float:
        config = self._config
        way = (self._axes[config.trigger_axis] - config.trigger_released) / (
            config.trigger_pulled - config.trigger_released
        )
        return float(min(1.0, max(0.0, way)))


def _check(what: str, highest: int, count: int) -> None:
    if highest >= count:
        raise UserError(
            f"the gamepad has no {what} {highest}, only {count} of them; set this gamepad's numbers in the parameters"
        )
