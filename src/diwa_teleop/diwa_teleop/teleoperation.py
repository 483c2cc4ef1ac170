"""Teleoperation: pose of the operator's hand and joystick -> 7-DoF delta actions at 30 Hz (paper S.3.2).

The clutch grips the arm: from then on the arm's commanded pose is to do what the hand does. Each action asks for what
is missing between the pose that the guard has been told so far and the pose that the hand wants, so nothing is lost
where an action was too short for a fast hand.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from scipy.spatial.transform import Rotation

from diwa_conventions.actions import (
    ACTION_DIM,
    GRIPPER_CLOSE,
    GRIPPER_INDEX,
    GRIPPER_OPEN,
    ActionScale,
    FloatArray,
    Pose,
    difference,
    integrate,
)
from diwa_conventions.errors import UserError
from diwa_conventions.rates import RECORD_RATE_HZ, TRAIN_RATE_HZ
from diwa_teleop.frame import map_pose, operator_to_base
from diwa_teleop.grip import Gain, Grip, rotation_vector

ACTION_S = 1.0 / RECORD_RATE_HZ
_FRACTION = ACTION_S * TRAIN_RATE_HZ
"""Part of a 7.5 Hz action that one action of teleoperation lasts."""
_UNANSWERED = 15
"""Actions that the guard may leave unanswered (0.5 s) before they count as lost."""

RANGES = {
    "scale": (0.01, 10.0),
    "rotation_scale": (0.0, 5.0),
    "gripper_close_above": (0.0, 1.0),
    "gripper_open_below": (0.0, 1.0),
    "max_speed_m_s": (0.001, 10.0),
    "max_speed_rad_s": (0.001, 20.0),
    "dead_band_m": (0.0, 0.05),
    "dead_band_rad": (0.0, 0.3),
    "lead_m": (0.01, 1.0),
    "lead_rad": (0.05, 3.0),
    "jump_m": (0.01, 1.0),
    "jump_rad": (0.05, 3.0),
    "stale_s": (0.05, 2.0),
    "regrip_s": (0.05, 10.0),
    "guard_stale_s": (0.05, 5.0),
}


@dataclass(frozen=True)
class TeleoperationConfig:
    """How the hand's motion becomes the arm's; ranges are in ``RANGES``."""

    scale: float = 1.0
    """Arm metres per hand metre."""
    rotation_scale: float = 1.0
    """Arm radians per hand radian; 0 keeps the orientation."""
    axes: str = "x,y,z"
    """The operator's axes that become x, y, z of panda_link0 (:func:`diwa_teleop.frame.operator_to_base`)."""
    frame_rpy_rad: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Turn of the operator's frame, after ``axes``: the workspace calibration."""
    enabled: tuple[bool, bool, bool, bool, bool, bool] = (True,) * 6
    """Whether the arm moves along x, y, z and turns about x, y, z of the base."""
    gripper_close_above: float = 0.6
    gripper_open_below: float = 0.4
    """Positions of the trigger, 0 to 1; in between the gripper stays as it is."""
    max_speed_m_s: float = ActionScale().speed_m_s
    max_speed_rad_s: float = ActionScale().speed_rad_s
    """Never more than an action of full scale."""
    dead_band_m: float = 0.0
    dead_band_rad: float = 0.0
    """Motions of the hand as small as this are tremor. They cost as much in every reversal."""
    lead_m: float = 0.15
    lead_rad: float = 0.7
    """How far the hand may be ahead of the arm; what goes beyond is forgotten (the grip slips)."""
    jump_m: float = 0.1
    jump_rad: float = 0.5
    """Farther between two poses: tracking was lost, and the grip begins anew."""
    stale_s: float = 0.2
    """An operator older than this moves nothing: no actions are sent and the guard holds."""
    regrip_s: float = 1.0
    """After a longer absence the clutch has to be released and pressed again."""
    guard_stale_s: float = 0.5
    action_scale: ActionScale = field(default_factory=ActionScale)

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and low <= value <= high):
                raise UserError(f"{name} is {value!r}; expected a number from {low:g} to {high:g}")
        if self.gripper_open_below >= self.gripper_close_above:
            raise UserError(
                f"gripper_open_below is {self.gripper_open_below:g}; expected less than "
                f"gripper_close_above = {self.gripper_close_above:g}"
            )
        if len(self.enabled) != 6:
            raise UserError(f"enabled has {len(self.enabled)} values; expected 6: x, y, z, roll, pitch, yaw")
        self.rotation()

    def rotation(self) -> FloatArray:
        """(3, 3) from the operator's frame to the base frame; UserError if the axes make no sense."""
        return operator_to_base(self.axes, self.frame_rpy_rad)

    def gain(self) -> Gain:
        on = np.array(self.enabled, dtype=np.float64)
        return Gain(self.scale * on[:3], self.rotation_scale * on[3:])


class GuardMode(Enum):
    """What the command guard makes of this source's actions."""

    OFF = "disarmed"
    OTHER = "armed for another source"
    HOLDING = "holding"
    ARMED = "armed"


@dataclass(frozen=True)
class GuardReport:
    """What teleoperation needs of the guard's state."""

    mode: GuardMode
    goal: Pose
    accepted_sequence: int


@dataclass(frozen=True)
class SequencedAction:
    """One action (7,) in [-1, 1] for 1/30 s, and its number."""

    sequence: int
    action: FloatArray


class Teleoperation:
    """Tell it what operator and guard say as it comes, ask it to :meth:`act` at 30 Hz. Times are of one steady clock.

    Safety: without a fresh operator, or while the guard has not armed teleoperation, there is no action at all; without
    the clutch, or while the guard holds or is silent, actions stand still. A clutch held through a disarming, an
    invalid pose or a long absence has to be released and pressed again; after a short absence, a hold of the guard or a
    jump of tracking the grip begins anew where hand and arm are now, so the arm never moves for what the hand did
    meanwhile.
    """

    def __init__(self, config: TeleoperationConfig) -> None:
        self.config = config
        self._to_base = config.rotation()
        self._gain = config.gain()
        self._hand: Pose | None = None
        self._settled: Pose | None = None
        self._hand_s = -math.inf
        self._controls_s = -math.inf
        self._trigger = 0.0
        self._clutch = False
        self._press_needed = True
        self._guard: GuardReport | None = None
        self._guard_s = -math.inf
        self._grip: Grip | None = None
        self._gripper = GRIPPER_OPEN
        self._sequence = 0
        self._unaccepted: deque[SequencedAction] = deque(maxlen=_UNANSWERED)
        self.jumps = 0
        """Times that tracking was lost by a leap."""

    # What comes in

    def on_hand(self, pose: Pose, now_s: float) -> None:
        """A pose of the hand in the operator's frame."""
        self._note_absence(self._hand_s, now_s, self._clutch)
        hand = map_pose(self._to_base, pose)
        if self._hand is not None and self._leapt(self._hand, hand):
            self.jumps += 1
            self._grip = self._settled = None
        self._hand, self._hand_s = hand, now_s
        self._settled = self._without_tremor(hand)

    def on_bad_hand(self) -> None:
        """A pose that is not one (not finite, no unit quaternion, wrong frame): the operator is lost."""
        self._hand = self._settled = self._grip = None
        self._press_needed = self._press_needed or self._clutch

    def on_controls(self, trigger: float, clutch: bool, now_s: float) -> None:
        """The joystick: trigger 0 to 1, clutch held or not. A trigger that is not finite loses the operator."""
        self._note_absence(self._controls_s, now_s, clutch)
        if not math.isfinite(trigger):
            self._controls_s = -math.inf
            self._grip, self._press_needed = None, True
            return
        self._trigger, self._clutch, self._controls_s = trigger, clutch, now_s
        if not clutch:
            self._grip = None
            self._press_needed = False

    def on_guard(self, report: GuardReport, now_s: float) -> None:
        """The guard's state."""
        if report.mode is GuardMode.ARMED:
            # A guard that already knows this source, from before a restart, goes on from its own count.
            self._sequence = max(self._sequence, report.accepted_sequence)
            while self._unaccepted and self._unaccepted[0].sequence <= report.accepted_sequence:
                self._unaccepted.popleft()
        else:
            self._grip = None
            self._unaccepted.clear()
        was_ours = self._guard is not None and self._guard.mode in (GuardMode.ARMED, GuardMode.HOLDING)
        if was_ours and report.mode in (GuardMode.OFF, GuardMode.OTHER) and self._clutch:
            self._press_needed = True
        self._guard, self._guard_s = report, now_s

    # What goes out

    def act(self, now_s: float) -> SequencedAction | None:
        """The action for the next 1/30 s; None, which makes the guard hold, without an operator.

        None also while the guard has armed nobody or another source: it would only count a refusal.
        """
        unwanted = self._guard is not None and self._guard.mode in (GuardMode.OFF, GuardMode.OTHER)
        if unwanted or self.operator_is_stale(now_s):
            self._grip = None
            return None
        action = np.zeros(ACTION_DIM)
        if self._may_move(now_s):
            action[:GRIPPER_INDEX] = self._motion()
            self._move_gripper()
        action[GRIPPER_INDEX] = self._gripper
        self._sequence += 1
        sent = SequencedAction(self._sequence, action)
        self._unaccepted.append(sent)
        return sent

    def operator_is_stale(self, now_s: float) -> bool:
        """Whether the newest pose or joystick is missing, invalid or too old."""
        return self._hand is None or now_s - min(self._hand_s, self._controls_s) > self.config.stale_s

    @property
    def engaged(self) -> bool:
        """Whether the hand moves the arm."""
        return self._grip is not None

    def situation(self, now_s: float) -> str:
        """In words, for diagnostics."""
        if self.operator_is_stale(now_s):
            return "no operator"
        if self._guard is None or now_s - self._guard_s > self.config.guard_stale_s:
            return "no command guard"
        if self._guard.mode is not GuardMode.ARMED:
            return f"command guard is {self._guard.mode.value}"
        if self.engaged:
            return "the hand moves the arm"
        return "clutch must be released and pressed again" if self._clutch else "clutch is released"

    def commanded(self) -> Pose | None:
        """Where the arm will be once the guard has executed all that it was sent; None before its first report."""
        if self._guard is None:
            return None
        pose = self._guard.goal
        for sent in self._unaccepted:
            pose = integrate(pose, sent.action, self.config.action_scale, _FRACTION)
        return pose

    def _may_move(self, now_s: float) -> bool:
        armed = self._guard is not None and self._guard.mode is GuardMode.ARMED
        fresh = now_s - self._guard_s <= self.config.guard_stale_s
        if armed and fresh and self._clutch and not self._press_needed:
            return True
        self._grip = None
        return False

    def _motion(self) -> FloatArray:
        """Components (6,) in [-1, 1] that lead the commanded pose to the wanted one as far as 1/30 s allows."""
        commanded, hand, config = self.commanded(), self._settled, self.config
        assert commanded is not None and hand is not None
        if self._grip is None:
            self._grip = Grip(hand, commanded, self._gain)
        wanted = self._grip.wanted(hand)
        near = _kept_near(wanted, commanded, config.lead_m, config.lead_rad)
        if near is not wanted:
            self._grip.slip(hand, near)
        scale = config.action_scale
        step = _limited(near.position - commanded.position, scale.speed_m_s, config.max_speed_m_s)
        turn = rotation_vector(near.rotation @ commanded.rotation.T)
        turn = _limited(turn, scale.speed_rad_s, config.max_speed_rad_s)
        # What this speed would reach in a whole 7.5 Hz step, of which the guard executes a part.
        reached = Pose(
            commanded.position + step / _FRACTION,
            Rotation.from_rotvec(turn / _FRACTION).as_matrix() @ commanded.rotation,
        )
        return np.clip(difference(commanded, reached, scale), -1.0, 1.0)

    def _move_gripper(self) -> None:
        if self._trigger > self.config.gripper_close_above:
            self._gripper = GRIPPER_CLOSE
        elif self._trigger < self.config.gripper_open_below:
            self._gripper = GRIPPER_OPEN

    def _note_absence(self, last_s: float, now_s: float, clutch: bool) -> None:
        if now_s - last_s > self.config.regrip_s and clutch:
            self._press_needed = True
        if now_s - last_s > self.config.stale_s:
            self._grip = None

    def _leapt(self, before: Pose, after: Pose) -> bool:
        return before.distance_m(after) > self.config.jump_m or before.angle_rad(after) > self.config.jump_rad

    def _without_tremor(self, hand: Pose) -> Pose:
        """The hand dragged along by at most the dead band, as by a rope of that length."""
        config = self.config
        if self._settled is None or (config.dead_band_m == 0.0 and config.dead_band_rad == 0.0):
            return hand
        return _kept_near(self._settled, hand, config.dead_band_m, config.dead_band_rad)


def _kept_near(pose: Pose, centre: Pose, distance_m: float, angle_rad: float) -> Pose:
    """``pose`` itself if it is no farther from ``centre`` than this; else the nearest one that is."""
    shift = pose.position - centre.position
    turn = rotation_vector(pose.rotation @ centre.rotation.T)
    shift_by = distance_m / max(float(np.linalg.norm(shift)), distance_m, 1e-12)
    turn_by = angle_rad / max(float(np.linalg.norm(turn)), angle_rad, 1e-12)
    if shift_by == 1.0 and turn_by == 1.0:
        return pose
    near = Rotation.from_rotvec(turn_by * turn).as_matrix()
    return Pose(centre.position + shift_by * shift, near @ centre.rotation)


def _limited(change: FloatArray, component_speed: float, speed: float) -> FloatArray:
    """The change (3,) that 1/30 s allows: each component cut first, so that one that is blocked stops no other."""
    cut = np.clip(change, -component_speed * ACTION_S, component_speed * ACTION_S)
    length = float(np.linalg.norm(cut))
    return cut if length <= speed * ACTION_S else cut * (speed * ACTION_S / length)
