"""The Franka hand's side of its interface: one command at a time, each of which takes as long as the fingers do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from diwa_sim.fci.arms import MAX_WIDTH_M, PERIOD_S, Arm
from diwa_sim.fci.messages import GRIPPER_REQUESTS, GRIPPER_STATE, GripperCommand, GripperStatus, parse

STATE_EVERY = 10
"""Cycles between two states: 100 Hz."""
MOVE_FORCE_N = 60.0
_MAX_FORCE_N = 140.0
_HOMING_SPEED_M_S = 0.1
_ARRIVED_M = 0.001
_STALL_CYCLES = 200
"""Fingers that have not moved for this long, though they should, are held."""
_STALL_M = 0.0005


@dataclass
class _Task:
    """A command that is being carried out."""

    command: GripperCommand
    command_id: int
    widths: list[float]
    """Where to go, one after the other."""
    speed: float
    force: float = MOVE_FORCE_N
    window: tuple[float, float] | None = None
    """Widths at which a grasp counts."""
    held: int = 0
    last_m: float = field(default=-1.0)


class GripperController:
    """The hand that the client commands; answers appear in :attr:`answers` as (command, command id, status)."""

    def __init__(self, arm: Arm) -> None:
        self.answers: list[tuple[GripperCommand, int, GripperStatus]] = []
        self.blocked = False
        """Something keeps the fingers where they are."""
        self._arm = arm
        self._task: _Task | None = None
        self._goal_m = arm.width_m
        self._grasped = False
        self._cycles = 0

    def request(self, command: GripperCommand, command_id: int, payload: bytes) -> None:
        """A request of the client. ProtocolError if it has another length than its kind."""
        fields = parse(payload, GRIPPER_REQUESTS[command]) if command in GRIPPER_REQUESTS else None
        if command is GripperCommand.STOP:
            self._end(GripperStatus.ABORTED)
            self._goal_m = self._arm.width_m
            self.answers.append((command, command_id, GripperStatus.SUCCESS))
            return
        if self._task is not None:
            self._end(GripperStatus.ABORTED)
        task = self._task_of(command, command_id, fields)
        if task is None:
            self.answers.append((command, command_id, GripperStatus.FAIL))
            return
        self._task, self._grasped, self._goal_m = task, False, self._arm.width_m

    def _task_of(self, command: GripperCommand, command_id: int, fields: Any) -> _Task | None:
        if command is GripperCommand.HOMING:
            return _Task(command, command_id, [0.0, MAX_WIDTH_M], _HOMING_SPEED_M_S)
        width, speed = float(fields["width"]), float(fields["speed"])
        if not (np.isfinite(width) and np.isfinite(speed) and 0.0 <= width <= MAX_WIDTH_M and 0.0 < speed):
            return None
        if command is GripperCommand.MOVE:
            return _Task(command, command_id, [width], speed)
        force, inner, outer = (float(fields[name]) for name in ("force", "epsilon_inner", "epsilon_outer"))
        if not (np.isfinite(inner + outer) and np.isfinite(force) and 0.0 < force <= _MAX_FORCE_N):
            return None
        return _Task(command, command_id, [0.0], speed, force, (width - inner, width + outer))

    def forget_client(self) -> None:
        self._task = None

    def relax(self) -> None:
        """The hand is somewhere else from one moment to the next: nothing is held, nothing is on its way."""
        self._end(GripperStatus.ABORTED)
        self._grasped, self._goal_m = False, self._arm.width_m

    def cycle(self) -> bytes | None:
        """Go on by one millisecond; the state to send, or None."""
        self._cycles += 1
        if self._task is not None:
            self._act(self._task)
        if self._cycles % STATE_EVERY:
            return None
        state = (self._cycles, self._arm.width_m, MAX_WIDTH_M, self._grasped, 30)
        return np.array(state, GRIPPER_STATE).tobytes()

    def _act(self, task: _Task) -> None:
        goal, width, step = task.widths[0], self._arm.width_m, task.speed * PERIOD_S
        self._goal_m += float(np.clip(goal - self._goal_m, -step, step))
        if not self.blocked:
            self._arm.set_fingers(self._goal_m, task.force)
        still = abs(width - task.last_m) < _STALL_M
        task.held = task.held + 1 if still else 0
        if not still:
            task.last_m = width
        if abs(width - goal) < _ARRIVED_M:
            self._arrive(task)
        elif task.held >= _STALL_CYCLES and abs(self._goal_m - width) > 2 * _ARRIVED_M:
            self._stall(task, width)

    def _arrive(self, task: _Task) -> None:
        if task.command is GripperCommand.GRASP:
            self._stall(task, self._arm.width_m)
            return
        task.widths.pop(0)
        task.held, task.last_m = 0, -1.0
        if not task.widths:
            self._end(GripperStatus.SUCCESS)

    def _stall(self, task: _Task, width: float) -> None:
        """The fingers are held: that is what a grasp is for, and what a movement fails by."""
        if task.window is None:
            self._end(GripperStatus.FAIL if task.command is GripperCommand.HOMING else GripperStatus.UNSUCCESSFUL)
            return
        self._grasped = task.window[0] < width < task.window[1] and not self.blocked
        self._end(GripperStatus.SUCCESS if self._grasped else GripperStatus.UNSUCCESSFUL)

    def _end(self, status: GripperStatus) -> None:
        if self._task is not None:
            self.answers.append((self._task.command, self._task.command_id, status))
        self._task = None
