"""The playroom's tasks: where their episodes start and CALVIN's oracles that say when they are done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from diwa_conventions.actions import FloatArray, Pose, matrix_to_euler
from diwa_conventions.tasks import TASKS, checked_task

DRAWER_TRAVEL_M = 0.17
SLIDER_TRAVEL_M = 0.30
SWITCH_TRAVEL_M = 0.07

DRAWER_MOVED_M = 0.12
"""CALVIN: the drawer task is done when the joint moved this far since the episode's start."""
SLIDER_MOVED_M = 0.15
CUBE_LIFTED_M = 0.05

SCENE_STATE_DIM = 12


@dataclass(frozen=True)
class SceneState:
    """True state of everything but the arm; joint positions in m, in the order of CALVIN's ``scene_obs``."""

    slider_m: float
    drawer_m: float
    button_m: float
    switch_m: float
    lightbulb: bool
    led: bool
    cube: Pose
    """Of its centre."""

    def vector(self) -> FloatArray:
        """(12,): slider, drawer, button, switch [m], lightbulb, LED (0 or 1), cube xyz [m] and Euler xyz [rad]."""
        lights = [float(self.lightbulb), float(self.led)]
        joints = [self.slider_m, self.drawer_m, self.button_m, self.switch_m]
        return np.concatenate([joints, lights, self.cube.position, matrix_to_euler(self.cube.rotation)])


@dataclass(frozen=True)
class StartState:
    """What an episode starts from; the lightbulb follows from the switch."""

    slider_m: float
    drawer_m: float
    switch_m: float
    led: bool
    cube_xy_m: tuple[float, float]
    cube_yaw_rad: float
    tool_offset_m: tuple[float, float, float]
    """Of the tool centre point, from its home position."""


def draw_start(rng: np.random.Generator, task: str = "") -> StartState:
    """A random start from which ``task`` can be done; any state if it is empty. UserError for an unknown task."""
    start = StartState(
        slider_m=float(rng.uniform(0.0, SLIDER_TRAVEL_M)),
        drawer_m=float(rng.choice([rng.uniform(0.0, 0.02), rng.uniform(0.14, DRAWER_TRAVEL_M)])),
        switch_m=float(rng.choice([rng.uniform(0.0, 0.01), rng.uniform(0.06, SWITCH_TRAVEL_M)])),
        led=bool(rng.integers(2)),
        cube_xy_m=(float(rng.uniform(0.33, 0.45)), float(rng.choice([-1, 1]) * rng.uniform(0.24, 0.34))),
        cube_yaw_rad=float(rng.uniform(-0.4, 0.4)),
        tool_offset_m=tuple(rng.uniform([-0.05, -0.08, -0.03], [0.05, 0.08, 0.05]).tolist()),
    )
    if not task:
        return start
    return _START_OF_TASK[checked_task(task)](start, rng)


_START_OF_TASK: dict[str, Callable[[StartState, np.random.Generator], StartState]] = {
    "open-drawer": lambda s, rng: replace(s, drawer_m=float(rng.uniform(0.0, 0.02))),
    "close-drawer": lambda s, rng: replace(s, drawer_m=float(rng.uniform(0.14, DRAWER_TRAVEL_M))),
    "move-slider-left": lambda s, rng: replace(s, slider_m=float(rng.uniform(0.0, 0.10))),
    "move-slider-right": lambda s, rng: replace(s, slider_m=float(rng.uniform(0.20, SLIDER_TRAVEL_M))),
    "turn-on-lightbulb": lambda s, rng: replace(s, switch_m=float(rng.uniform(0.0, 0.01))),
    "turn-off-lightbulb": lambda s, rng: replace(s, switch_m=float(rng.uniform(0.06, SWITCH_TRAVEL_M))),
    "turn-on-LED": lambda s, rng: replace(s, led=False),
    "turn-off-LED": lambda s, rng: replace(s, led=True),
    "lift-cube": lambda s, rng: s,
}


_DONE: dict[str, Callable[[SceneState, SceneState], bool]] = {
    "open-drawer": lambda start, now: now.drawer_m - start.drawer_m >= DRAWER_MOVED_M,
    "close-drawer": lambda start, now: start.drawer_m - now.drawer_m >= DRAWER_MOVED_M,
    "move-slider-left": lambda start, now: now.slider_m - start.slider_m >= SLIDER_MOVED_M,
    "move-slider-right": lambda start, now: start.slider_m - now.slider_m >= SLIDER_MOVED_M,
    "turn-on-lightbulb": lambda start, now: now.lightbulb and not start.lightbulb,
    "turn-off-lightbulb": lambda start, now: start.lightbulb and not now.lightbulb,
    "turn-on-LED": lambda start, now: now.led and not start.led,
    "turn-off-LED": lambda start, now: start.led and not now.led,
    "lift-cube": lambda start, now: now.cube.position[2] - start.cube.position[2] >= CUBE_LIFTED_M,
}


def is_done(task: str, start: SceneState, now: SceneState) -> bool:
    """CALVIN's oracle: was ``task`` done between the episode's start and now? UserError for an unknown task."""
    return bool(_DONE[checked_task(task)](start, now))


def tasks_done(start: SceneState, now: SceneState) -> tuple[str, ...]:
    """All tasks whose oracle holds between the two states."""
    return tuple(task for task in TASKS if is_done(task, start, now))
