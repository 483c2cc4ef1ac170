"""How a person would do each task: a plan of waypoints for the hand, from what the scene looks like now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from diwa_conventions.actions import GRIPPER_CLOSE, GRIPPER_OPEN, FloatArray
from diwa_conventions.tasks import checked_task
from diwa_sim.tasks import DRAWER_TRAVEL_M, SLIDER_TRAVEL_M, SWITCH_TRAVEL_M, SceneState

TRAVEL_HEIGHT_M = 0.30
"""Height at which the fingers pass over everything in the room."""

_HANDLE_CLOSED_M = np.array([0.520, 0.0, 0.150])
_POST_RIGHT_M = np.array([0.675, -0.15, 0.225])
_KNOB_OFF_M = np.array([0.605, 0.25, 0.190])
_BUTTON_TOP_M = np.array([0.635, -0.27, 0.196])
_PRESS_DEPTH_M = 0.019
_FINGER_HALF_X_M, _FINGER_HALF_Y_M = 0.0145, 0.0105
"""Half the size of the closed fingers."""
_HANDLE_HALF_M, _POST_RADIUS_M, _KNOB_HALF_M = 0.010, 0.020, 0.018
_CLEARANCE_M = 0.03
_FOLLOW_THROUGH_M = 0.012
"""How far beyond contact the hand goes, since the arm gives way."""
_SLOW_M_S, _GRASP_S = 0.24, 0.40


@dataclass(frozen=True)
class Waypoint:
    """Move the tool centre point here, then do the gripper, then wait."""

    position: FloatArray
    """(3,) [m] in the base frame."""
    gripper: float
    dwell_s: float = 0.0
    slow: bool = False
    """Near or in contact: at most 0.24 m/s."""

    def speed_m_s(self, cruise: float) -> float:
        return min(cruise, _SLOW_M_S) if self.slow else cruise


def plan(task: str, scene: SceneState, tool_position: FloatArray) -> list[Waypoint]:
    """Waypoints from the tool's position (3,) to the task done and the hand lifted. UserError: unknown task."""
    contact = _CONTACT[checked_task(task)](scene)
    first = contact[0]
    lift = [Waypoint(_at_height(tool_position), first.gripper)] if tool_position[2] < TRAVEL_HEIGHT_M - 0.05 else []
    above = Waypoint(_at_height(first.position), first.gripper)
    return [*lift, above, *contact, Waypoint(_at_height(contact[-1].position), contact[-1].gripper)]


def handle_position(scene: SceneState) -> FloatArray:
    return _HANDLE_CLOSED_M - [scene.drawer_m, 0.0, 0.0]


def post_position(scene: SceneState) -> FloatArray:
    return _POST_RIGHT_M + [0.0, scene.slider_m, 0.0]


def knob_position(scene: SceneState) -> FloatArray:
    return _KNOB_OFF_M + [scene.switch_m, 0.0, 0.0]


def _at_height(position: FloatArray) -> FloatArray:
    return np.array([position[0], position[1], TRAVEL_HEIGHT_M])


def _open_drawer(scene: SceneState) -> list[Waypoint]:
    handle = handle_position(scene)
    pulled = _HANDLE_CLOSED_M - [DRAWER_TRAVEL_M - 0.005, 0.0, 0.0]
    return [
        Waypoint(handle, GRIPPER_OPEN, slow=True),
        Waypoint(handle, GRIPPER_CLOSE, _GRASP_S),
        Waypoint(pulled, GRIPPER_CLOSE, slow=True),
        Waypoint(pulled, GRIPPER_OPEN, 0.25),
    ]


def _push(start: FloatArray, end: FloatArray, direction: FloatArray, half_m: float) -> list[Waypoint]:
    """Closed fingers against the side of something from ``start`` to ``end``; half_m: half sizes of both together."""
    return [
        Waypoint(start - direction * (half_m + _CLEARANCE_M), GRIPPER_CLOSE, slow=True),
        Waypoint(end - direction * (half_m - _FOLLOW_THROUGH_M), GRIPPER_CLOSE, 0.1, slow=True),
    ]


def _close_drawer(scene: SceneState) -> list[Waypoint]:
    forward = np.array([1.0, 0.0, 0.0])
    return _push(handle_position(scene), _HANDLE_CLOSED_M, forward, _HANDLE_HALF_M + _FINGER_HALF_X_M)


def _slide(scene: SceneState, target_m: float) -> list[Waypoint]:
    direction = np.array([0.0, np.sign(target_m - scene.slider_m), 0.0])
    end = _POST_RIGHT_M + [0.0, target_m, 0.0]
    return _push(post_position(scene), end, direction, _POST_RADIUS_M + _FINGER_HALF_Y_M)


def _switch(scene: SceneState, target_m: float) -> list[Waypoint]:
    direction = np.array([np.sign(target_m - scene.switch_m), 0.0, 0.0])
    end = _KNOB_OFF_M + [target_m, 0.0, 0.0]
    return _push(knob_position(scene), end, direction, _KNOB_HALF_M + _FINGER_HALF_X_M)


def _press_button(_: SceneState) -> list[Waypoint]:
    above, pressed = _BUTTON_TOP_M + [0.0, 0.0, _CLEARANCE_M], _BUTTON_TOP_M - [0.0, 0.0, _PRESS_DEPTH_M]
    return [
        Waypoint(above, GRIPPER_CLOSE, slow=True),
        Waypoint(pressed, GRIPPER_CLOSE, 0.15, slow=True),
        Waypoint(above, GRIPPER_CLOSE, slow=True),
    ]


def _lift_cube(scene: SceneState) -> list[Waypoint]:
    grasp = scene.cube.position + [0.0, 0.0, 0.004]
    lifted = grasp + [0.0, 0.0, 0.14]
    return [
        Waypoint(grasp, GRIPPER_OPEN, slow=True),
        Waypoint(grasp, GRIPPER_CLOSE, _GRASP_S),
        Waypoint(lifted, GRIPPER_CLOSE, 0.3, slow=True),
        Waypoint(grasp, GRIPPER_CLOSE, slow=True),
        Waypoint(grasp, GRIPPER_OPEN, 0.25),
    ]


_CONTACT: dict[str, Callable[[SceneState], list[Waypoint]]] = {
    "open-drawer": _open_drawer,
    "close-drawer": _close_drawer,
    "move-slider-left": lambda scene: _slide(scene, SLIDER_TRAVEL_M),
    "move-slider-right": lambda scene: _slide(scene, 0.0),
    "turn-on-lightbulb": lambda scene: _switch(scene, SWITCH_TRAVEL_M),
    "turn-off-lightbulb": lambda scene: _switch(scene, 0.0),
    "turn-on-LED": _press_button,
    "turn-off-LED": _press_button,
    "lift-cube": _lift_cube,
}
