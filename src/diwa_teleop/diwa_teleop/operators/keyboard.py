"""An operator at the keyboard: keys move a virtual hand at a fixed speed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from diwa_conventions.errors import UserError
from diwa_teleop.operators.operator import OperatorSample
from diwa_teleop.operators.terminal import TerminalClosedError
from diwa_teleop.operators.virtual_hand import VirtualHand

HELP = """\
  w s  forward, back      i k  pitch     c      clutch: engage, release
  a d  left, right        j l  roll      space  gripper: close, open
  r f  up, down           q e  yaw       enter  arm    x  disarm
  arrows: as w s a d      h    help      1      mark success   2  mark failure"""

_DIRECTIONS = {
    "w": (0, 1), "s": (0, -1), "a": (1, 1), "d": (1, -1), "r": (2, 1), "f": (2, -1),
    "l": (3, 1), "j": (3, -1), "k": (4, 1), "i": (4, -1), "q": (5, 1), "e": (5, -1),
    "\x1b[A": (0, 1), "\x1b[B": (0, -1), "\x1b[D": (1, 1), "\x1b[C": (1, -1),
    "\x1bOA": (0, 1), "\x1bOB": (0, -1), "\x1bOD": (1, 1), "\x1bOC": (1, -1),
}  # fmt: skip
"""Key -> axis (x, y, z, roll, pitch, yaw) and sign."""
_BUTTONS = {"\n": "arm", "\r": "arm", "x": "disarm", "1": "success", "2": "failure"}


@dataclass(frozen=True)
class KeyboardConfig:
    """How far one key goes."""

    speed_m_s: float = 0.1
    """0.001 to 0.6."""
    turn_rad_s: float = 0.5
    """0.001 to 1.5."""
    hold_s: float = 0.1
    """0.02 to 1: a key counts as held for so long, since terminals tell presses and repeats but no releases."""

    def __post_init__(self) -> None:
        for name, low, high in (("speed_m_s", 0.001, 0.6), ("turn_rad_s", 0.001, 1.5), ("hold_s", 0.02, 1.0)):
            if not low <= getattr(self, name) <= high:
                raise UserError(f"{name} is {getattr(self, name)!r}; expected a number from {low:g} to {high:g}")


class Keys(Protocol):
    """Where keys come from; :class:`diwa_teleop.operators.terminal.Terminal` is one."""

    def read_keys(self) -> list[str]:
        """What was typed since the last call; TerminalClosedError if there will be no more."""


class KeyboardOperator:
    """Reads keys, moves the hand, keeps clutch and gripper. Upper and lower case are the same."""

    def __init__(self, keys: Keys, config: KeyboardConfig) -> None:
        self._keys = keys
        self._config = config
        self._hand = VirtualHand()
        self._held_s = np.zeros(6)
        self._signs = np.zeros(6)
        self._presses: list[str] = []
        self._pressed_before = False
        self.clutch = False
        self.gripper_closed = False
        self.help_wanted = False
        """Somebody asked for help; whoever shows it sets it back."""
        self.closed = False
        """The terminal is gone."""

    def read(self, dt_s: float) -> OperatorSample | None:
        """The hand after ``dt_s`` of the keys that are held; None once the terminal is gone."""
        try:
            for key in self._keys.read_keys():
                self._on_key(key if key.startswith("\x1b") else key.lower())
        except TerminalClosedError:
            self.closed = True
        if self.closed:
            return None
        moving_s = np.minimum(self._held_s, dt_s)
        self._held_s -= moving_s
        shift = self._config.speed_m_s * self._signs * moving_s
        turn = self._config.turn_rad_s * self._signs * moving_s
        pose = self._hand.move(shift[:3], turn[3:])
        pressed = self._next_press()
        buttons = {name: name == pressed for name in ("arm", "disarm", "success", "failure")}
        return OperatorSample(pose, 1.0 if self.gripper_closed else 0.0, self.clutch, **buttons)

    def _on_key(self, key: str) -> None:
        if key in _DIRECTIONS:
            axis, sign = _DIRECTIONS[key]
            self._held_s[axis], self._signs[axis] = self._config.hold_s, sign
        elif key in _BUTTONS:
            self._presses.append(_BUTTONS[key])
            self.clutch = self.clutch and _BUTTONS[key] != "disarm"
        elif key == "c":
            self.clutch = not self.clutch
        elif key == " ":
            self.gripper_closed = not self.gripper_closed
        elif key == "h":
            self.help_wanted = True

    def _next_press(self) -> str:
        """One button at a time, and none in between, so that every press is an edge."""
        self._pressed_before = bool(self._presses) and not self._pressed_before
        return self._presses.pop(0) if self._pressed_before else ""
