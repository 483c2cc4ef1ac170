"""What whoever started the server can have happen to the robot: lines on standard input, a JSON line back for each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from diwa_conventions.errors import UserError
from diwa_sim.fci.arms import PERIOD_S, Arm
from diwa_sim.fci.controller import RobotController
from diwa_sim.fci.gripper import GripperController
from diwa_sim.fci.link import Link
from diwa_sim.fci.messages import ERRORS, RobotMode


@dataclass
class Faults:
    """What is done to the network on purpose."""

    drop: int = 0
    """Commands to lose from now on."""
    loss: float = 0.0
    """Share of commands to lose."""
    late: bool = False
    """Every command arrives after its millisecond is over."""
    silent: int = 0
    """Cycles without a state to the client."""


class Orders:
    """The orders by name; README of diwa_sim says what each does."""

    def __init__(
        self,
        robot: RobotController,
        gripper: GripperController,
        arm: Arm,
        links: tuple[Link, Link],
        faults: Faults,
        pace: Callable[[bool], dict[str, Any]],
    ) -> None:
        """``pace``: how the clock was kept; true begins a new count."""
        self._robot, self._gripper, self._arm, self._links, self._faults, self._pace = (
            *(robot, gripper, arm, links, faults, pace),
        )
        self._known: dict[str, Callable[[str], dict[str, Any] | None]] = {
            "status": self._status,
            "pace": lambda _: self._pace(True),
            "user_stop": lambda word: robot.press_user_stop(_is_on(word)),
            "guiding": lambda word: robot.guide(_is_on(word)),
            "brakes": lambda word: robot.lock_brakes(_is_on(word)),
            "reflex": self._reflex,
            "push": self._push,
            "drop": lambda word: setattr(faults, "drop", int(word)),
            "loss": lambda word: setattr(faults, "loss", float(word)),
            "late": lambda word: setattr(faults, "late", _is_on(word)),
            "silent": lambda seconds: setattr(faults, "silent", round(float(seconds) / PERIOD_S)),
            "fci": self._fci,
            "version": lambda word: setattr(links[0], "version", int(word)),
            "gripper_version": lambda word: setattr(links[1], "version", int(word)),
            "block": lambda word: setattr(gripper, "blocked", _is_on(word)),
            "put": self._put,
        }

    def obey(self, line: str) -> dict[str, Any]:
        """One order, one answer: ``{"ok": true, ...}`` or ``{"ok": false, "error": ...}``."""
        word, _, rest = line.strip().partition(" ")
        if word not in self._known:
            return {"ok": False, "error": f"unknown order {word!r}; known: quit, {', '.join(sorted(self._known))}"}
        try:
            return {"ok": True, **(self._known[word](rest.strip()) or {})}
        except (UserError, ValueError, KeyError, TypeError) as error:
            return {"ok": False, "error": f"{word}: {error}"}

    def _status(self, _: str) -> dict[str, Any]:
        state = self._robot.state
        return {
            "mode": RobotMode(int(state["robot_mode"])).name.lower(),
            "errors": [name for name, on in zip(ERRORS, state["errors"], strict=True) if on],
            "connected": self._links[0].connected,
            "gripper_connected": self._links[1].connected,
            "q": state["q"].tolist(),
            "force": state["O_F_ext_hat_K"].tolist(),
            "force_thresholds": self._robot.force_thresholds,
            "width": self._arm.width_m,
            **asdict(self._robot.statistics),
            **self._pace(False),
        }

    def _reflex(self, error: str) -> None:
        if error not in ERRORS:
            raise UserError(f"unknown error flag {error!r}; known: {', '.join(ERRORS)}")
        self._robot.reflex(error)

    def _push(self, words: str) -> None:
        force = np.array([float(word) for word in words.split()])
        if force.shape != (3,) or not np.all(np.isfinite(force)):
            raise UserError("expected three forces in N")
        self._arm.push(force)

    def _fci(self, word: str) -> None:
        active = _is_on(word)
        for link in self._links:
            if active:
                link.open()
            else:
                link.close()

    def _put(self, state: str) -> None:
        self._robot.put(json.loads(state))
        self._gripper.relax()
        self._arm.publish()


def _is_on(word: str) -> bool:
    if word not in ("on", "off"):
        raise UserError(f"expected 'on' or 'off', got {word!r}")
    return word == "on"
