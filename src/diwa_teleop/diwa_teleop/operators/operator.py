"""What an operator is to this software: a hand, a trigger and a few buttons, whatever device they come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from diwa_conventions.actions import Pose


@dataclass(frozen=True)
class OperatorSample:
    """The operator's controls at one moment."""

    pose: Pose
    """Of the hand, in the frame that the operator's poses are published in."""
    trigger: float
    """0 released (gripper open) to 1 pulled (closed)."""
    clutch: bool
    """Held: the hand moves the arm."""
    arm: bool = False
    disarm: bool = False
    success: bool = False
    failure: bool = False
    """Buttons; a press is a change from False to True."""


class Operator(Protocol):
    """A source of samples: keyboard, gamepad, and devices to come. Nodes read it at 30 Hz and publish what it says."""

    def read(self, dt_s: float) -> OperatorSample | None:
        """The controls now, ``dt_s`` after the last reading; None while the device is silent or gone."""
