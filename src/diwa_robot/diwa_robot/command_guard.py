"""The command guard: which actions may move the arm, when, and what stops it. No ROS, and no clock of its own.

Every method takes ``now`` [s] of one monotonic clock. :meth:`CommandGuard.tick`, at a fixed rate, says what the arm is
told; between ticks the other methods tell the guard what came in. docs/safety.md says what it guarantees.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from diwa_conventions.actions import (
    GRIPPER_INDEX,
    GRIPPER_OPEN,
    FloatArray,
    Pose,
    checked_action,
    difference,
    quantise_gripper,
)
from diwa_conventions.errors import UserError
from diwa_conventions.rates import RECORD_RATE_HZ, TRAIN_RATE_HZ
from diwa_conventions.topics import BASE_FRAME
from diwa_robot.arm_side import FAULT_STAYS, ArmSide
from diwa_robot.limits import FAULT_LEAD_S, LONGEST_STEP_TICKS, SCALE, GuardConfig, start_pose
from diwa_robot.measured_state import MeasuredState, StateFault
from diwa_robot.motion import TargetMotion
from diwa_robot.so3 import rotation_matrix, rotation_vector

DURATION_RANGE_S = (1.0 / 60.0, 0.5)
"""Of one action."""


class State(IntEnum):
    """The constants of diwa_msgs/GuardState."""

    DISARMED = 0
    ARMED = 1
    HOLDING = 2
    FAULT = 3


@dataclass(frozen=True)
class Action:
    """The fields of a diwa_msgs/DeltaAction."""

    source: str
    sequence: int
    age_s: float
    """Time since its stamp by the clock that stamps; negative: from the future."""
    frame_id: str
    duration_s: float
    components: FloatArray
    """(7,): translation, rotation, gripper."""


@dataclass(frozen=True)
class Executed:
    """How far the target moved in the last ``duration_s``: components (7,) in [-1, 1], 1 is full speed."""

    duration_s: float
    components: FloatArray


@dataclass(frozen=True)
class Output:
    """What the arm is told at a tick."""

    target: Pose
    gripper: float | None
    """+1 or -1; None before the first action."""
    executed: Executed | None
    """Every 1/30 s."""


@dataclass(frozen=True)
class Answer:
    """Of arm, disarm and recover; not ``success``: nothing was changed."""

    success: bool
    message: str


class CommandGuard:
    """Executes the actions of one armed source within bounds, and stops on whatever is amiss."""

    def __init__(self, config: GuardConfig | None = None) -> None:
        self.config = config or GuardConfig()
        self.state = State.DISARMED
        self.reason = "started; nobody has been armed yet"
        self.source = ""
        self.accepted_sequence = 0
        self.limited = 0
        self.refusals: Counter[str] = Counter()
        """Why actions were refused -> how many."""
        self.measured = MeasuredState(self.config)
        self._arm_side = ArmSide()
        self._motion: TargetMotion | None = None
        self._gripper: float | None = None
        self.others: tuple[str, ...] = ()
        """Who else publishes target_pose or gripper_command."""
        self._cameras: dict[str, float] = {}
        self._camera_stamps: dict[str, float] = {}
        self._now = -np.inf
        self._ticked = 0.0
        self._sequence: int | None = None
        self._actions_until = 0.0
        self._counted = True
        self._holding_since = 0.0
        self._off_since: float | None = None
        self._reported: tuple[float, Pose] | None = None

    # What it says

    @property
    def active(self) -> bool:
        """Whether a source is armed: ARMED or HOLDING."""
        return self.state in (State.ARMED, State.HOLDING)

    @property
    def refused(self) -> int:
        return self.refusals.total()

    @property
    def target(self) -> Pose | None:
        """The commanded pose; the last one while nobody is armed; None before anybody ever was."""
        return self._motion.target if self._motion else None

    @property
    def goal(self) -> Pose | None:
        """Where the target will be once all accepted actions have been executed."""
        return self._motion.goal if self._motion else None

    def tracking_error(self) -> tuple[float, float]:
        """Distance [m] and angle [rad] between target and measured pose; 0 while one of them is missing."""
        target, pose = self.target, self.measured.pose
        if target is None or pose is None:
            return 0.0, 0.0
        return target.distance_m(pose), target.angle_rad(pose)

    # What people ask for

    def arm(self, source: str, now: float) -> Answer:
        """Let one source move the arm; its target begins where the arm is."""
        self._see(now)
        try:
            return self._arm(source, now)
        except UserError as error:
            return Answer(False, f"not armed: {error}")

    def _arm(self, source: str, now: float) -> Answer:
        if not source or not source.isprintable():
            raise UserError(f"the source is {source!r}; expected its name, for example teleop")
        if self.state == State.FAULT:
            raise UserError(f"a fault is latched ({self.reason}); mend it, then call recover")
        if self.active and source != self.source:
            raise UserError(f"{self.source} is armed; disarm it first")
        if self.others:
            raise UserError(self._intruders())
        if self._arm_side.trouble:
            raise UserError(self._arm_side.trouble)
        if self.active:
            self._motion_now().halt()
            self._expect_actions(now)
            return Answer(True, f"{source} was armed already; its sequence starts anew")
        stale = self._stale_inputs(now)
        if stale:
            raise UserError("; ".join(stale))
        pose = self.measured.pose
        assert pose is not None  # not stale
        self._motion = TargetMotion(self.config, start_pose(pose, self.config))
        self._reported = (now, self._motion.target)
        self._ticked, self._off_since = now, None
        self._expect_actions(now)
        self._enter(State.ARMED, f"{source} is armed")
        self.source = source
        return Answer(True, f"{source} moves the arm now")

    def _expect_actions(self, now: float) -> None:
        self._sequence, self.accepted_sequence, self._actions_until = None, 0, now

    def disarm(self, reason: str, now: float) -> Answer:
        """Obey nobody; the arm holds the last target. A latched fault stays."""
        self._see(now)
        reason = reason.strip() or "asked to"
        if self.state == State.FAULT:
            return Answer(True, f"nobody is armed; the fault stays latched: {self.reason}")
        self._disarm(f"disarmed: {reason}")
        return Answer(True, "nobody moves the arm now")

    def recover(self, now: float) -> Answer:
        """Clear a latched fault, if its cause is gone; arming is a second step."""
        self._see(now)
        if self.state != State.FAULT:
            amiss = f"; {self._arm_side.trouble}" if self._arm_side.trouble else ""
            return Answer(False, f"there is no fault to recover from; the guard is {self.state.name}{amiss}")
        standing = (self._intruders() if self.others else "") or self._arm_side.trouble or self.measured.fault
        if standing:
            return Answer(False, f"{FAULT_STAYS}: {standing}")
        cleared = self.reason
        self._disarm(f"recovered from: {cleared}")
        return Answer(True, f"recovered from: {cleared}; arm a source to go on")

    # What comes in

    def action(self, action: Action, now: float) -> str:
        """Take an action; "" if it was accepted, else why it was refused."""
        self._see(now)
        refusal = self._refusal(action)
        if not refusal:
            self._sequence, self._actions_until = action.sequence, now + action.duration_s
            refusal = self._hold_refusal(now)
        if refusal:
            kind, why = refusal
            self.refusals[kind] += 1
            return why
        self._accept(checked_action(action.components), action, now)
        return ""

    def _refusal(self, action: Action) -> tuple[str, str] | None:
        """In one word or two, and for a person."""
        shortest, longest = DURATION_RANGE_S
        if not self.active:
            return "not armed", f"{action.source or 'an unnamed source'} is not armed"
        if action.source != self.source:
            return "wrong source", f"{action.source or 'an unnamed source'} is not armed; {self.source} is"
        if action.frame_id != BASE_FRAME:
            return "wrong frame", f"the action is in frame {action.frame_id!r}; expected {BASE_FRAME!r}"
        if not shortest * 0.999 <= action.duration_s <= longest * 1.001:
            return "bad duration", f"duration_s is {action.duration_s:g}; expected {shortest:.4f} to {longest:g}"
        try:
            checked_action(action.components)
        except UserError as error:
            return "bad value", str(error)
        if not abs(action.age_s) <= self.config.action_timeout_s:
            return "bad stamp", (
                f"the action is {action.age_s:.3f} s old by its stamp; expected at most "
                f"{self.config.action_timeout_s:g} s either way; do the machines' clocks agree?"
            )
        if self._sequence is not None and action.sequence <= self._sequence:
            return "old sequence", (
                f"sequence {action.sequence} follows {self._sequence}: a duplicate, or {self.source} was restarted and "
                "has to be armed again"
            )
        return None

    def _hold_refusal(self, now: float) -> tuple[str, str] | None:
        stale = self._stale_inputs(now)
        return ("on hold", f"on hold: {'; '.join(stale)}") if stale else None

    def _accept(self, components: FloatArray, action: Action, now: float) -> None:
        if self.state == State.HOLDING:
            self._obey()
        self._counted = False
        self.accepted_sequence = action.sequence
        self._gripper = quantise_gripper(float(components[GRIPPER_INDEX]))
        if not self._motion_now().add(components, action.duration_s, now):
            self._count_limited()

    def _count_limited(self) -> None:
        """Every action counts once, however many bounds shorten it."""
        self.limited += not self._counted
        self._counted = True

    def pose(
        self,
        position: FloatArray,
        quaternion_xyzw: FloatArray,
        frame_id: str,
        stamp_s: float,
        now: float,
        age_s: float = 0.0,
    ) -> None:
        """Take a measured pose: position (3,) [m], quaternion (4,). ``stamp_s``: when it was taken, ``age_s`` ago."""
        self._see(now)
        try:
            self.measured.take(position, quaternion_xyzw, frame_id, stamp_s, now, age_s)
        except StateFault as fault:
            self._fault_if_active(str(fault))

    def arm_state(self, ready: bool, reason: str, now: float) -> None:
        """Take a report of the arm's driver; not ready (a reflex, contact lost): a fault while somebody is armed."""
        self._see(now)
        self._arm_side.take(ready, reason, now)
        if self._arm_side.trouble:
            self._fault_if_active(self._arm_side.trouble)

    def camera(self, name: str, now: float, stamp_s: float | None = None, age_s: float = 0.0) -> None:
        """A camera has delivered. The last stamp again, or an image older than the time-out, says nothing about now."""
        self._see(now)
        repeated = stamp_s is not None and stamp_s == self._camera_stamps.get(name)
        if repeated or not abs(age_s) <= self.config.camera_timeout_s:
            return
        self._cameras[name] = now
        if stamp_s is not None:
            self._camera_stamps[name] = stamp_s

    def other_publishers(self, names: Sequence[str], now: float) -> None:
        """Who else commands arm or gripper at present: a fault while somebody is armed, and nobody can be armed."""
        self._see(now)
        known = self._intruders()
        self.others = tuple(names)
        if self.others and self.state == State.FAULT and self.reason == known:
            self.reason = self._intruders()  # a name may become known after the publisher itself
        elif self.others:
            self._fault_if_active(self._intruders())

    def _intruders(self) -> str:
        names = ", ".join(self.others)
        return f"target_pose has other publishers: {names}; stop them (one that was killed is seen for another 20 s)"

    def fault(self, reason: str) -> None:
        """Freeze the target and latch."""
        self.source = ""
        self._enter(State.FAULT, reason)

    def _fault_if_active(self, reason: str) -> None:
        if self.active:
            self.fault(reason)

    # What goes out

    def tick(self, now: float) -> Output | None:
        """The pose that the arm is told now; None while nobody is armed."""
        if self.active and now - self._ticked > self.config.max_tick_gap_s:
            self.fault(f"the guard stood still for {now - self._ticked:.2f} s; is the machine overloaded?")
        self._see(now)
        if self.active:
            self._watch(now)
        if not self.active or now <= self._ticked:
            return None
        motion, pose = self._motion_now(), self.measured.pose
        assert pose is not None  # nobody is armed without one
        begin = self._ticked
        if now - begin > LONGEST_STEP_TICKS / self.config.rate_hz:
            motion.stood_still()
            begin = now - 1.0 / self.config.rate_hz
        if not motion.advance(begin, now, pose):
            self._count_limited()
        self._ticked = now
        return Output(motion.target, self._gripper, self._executed(motion.target, now))

    def _watch(self, now: float) -> None:
        """Hold or go on, disarm after a long hold, fault on a large tracking error."""
        stale = self._stale_inputs(now) + self._silent_source(now)
        if stale:
            self._hold("; ".join(stale), now)
        elif self.state == State.HOLDING:
            self._obey()
        distance_m, angle_rad = self.tracking_error()
        if distance_m <= self.config.fault_lead_m and angle_rad <= self.config.fault_lead_rad:
            self._off_since = None
        elif self._off_since is None:
            self._off_since = now
        elif now - self._off_since > FAULT_LEAD_S:
            self.fault(f"the arm does not follow: {distance_m:.2f} m and {angle_rad:.2f} rad from its target")

    def _hold(self, why: str, now: float) -> None:
        if self.state != State.HOLDING:
            self._holding_since = now
            self._motion_now().halt()
        self._enter(State.HOLDING, why)
        if now - self._holding_since > self.config.hold_limit_s:
            self._disarm(f"disarmed: on hold for more than {self.config.hold_limit_s:g} s: {why}")

    def _obey(self) -> None:
        self._enter(State.ARMED, f"{self.source} is armed")

    def _executed(self, target: Pose, now: float) -> Executed | None:
        assert self._reported is not None
        since, before = self._reported
        duration_s = now - since
        if duration_s < 1.0 / RECORD_RATE_HZ - 0.5 / self.config.rate_hz:
            return None
        self._reported = (now, target)
        # What a whole step at this speed would be: the inverse of how an action of this duration is integrated.
        part = duration_s * TRAIN_RATE_HZ
        turn = rotation_vector(target.rotation @ before.rotation.T) / part
        step = Pose((target.position - before.position) / part, rotation_matrix(turn))
        moved = difference(Pose(np.zeros(3), np.eye(3)), step, SCALE)
        gripper = GRIPPER_OPEN if self._gripper is None else self._gripper
        return Executed(duration_s, np.append(np.clip(moved, -1.0, 1.0), gripper))

    # Within

    def _see(self, now: float) -> None:
        """Time may stand, but not go back."""
        if now < self._now:
            self._fault_if_active(f"the guard's clock went back by {self._now - now:.3f} s")
        self._now = now

    def _stale_inputs(self, now: float) -> list[str]:
        """What of state and cameras is missing, in words."""
        stale = []
        if self.measured.pose is None:
            stale.append(self.measured.fault or self.measured.old or "no current_pose has come yet")
        elif now - self.measured.taken > self.config.state_timeout_s:
            silent = f"current_pose has brought nothing new for more than {self.config.state_timeout_s:g} s"
            stale.append(self.measured.old or silent)
        if silence := self._arm_side.silence(now, self.config.arm_state_timeout_s):
            stale.append(silence)
        for name in self.config.required_cameras:
            if name not in self._cameras:
                stale.append(f"the {name} camera has not delivered yet (no {name}_camera/camera_info)")
            elif now - self._cameras[name] > self.config.camera_timeout_s:
                stale.append(f"the {name} camera has been silent for more than {self.config.camera_timeout_s:g} s")
        return stale

    def _silent_source(self, now: float) -> list[str]:
        if now - self._actions_until <= self.config.action_timeout_s:
            return []
        return [f"{self.source} has been silent for more than {self.config.action_timeout_s:g} s"]

    def _motion_now(self) -> TargetMotion:
        assert self._motion is not None
        return self._motion

    def _disarm(self, reason: str) -> None:
        self.source = ""
        self._enter(State.DISARMED, reason)

    def _enter(self, state: State, reason: str) -> None:
        self.state, self.reason = state, reason
