"""What stands between the command guard and a ROS 2 controller of the arm: when a target goes on, and what is amiss.

No ROS, and no clock of its own: every method takes ``now`` [s] of one monotonic clock. The controller (CRISP's, or
multipanda's own) follows the last target for ever, has no time-out, and ignores everything while two publish to it.

While nobody is armed, the newest target never stays farther than ``leash`` from the measured pose, and while the
controller does not hold the arm (reflex, user stop, guiding, controller inactive) no farther than ``aim``: whoever
starts the controller or the robot again, the arm stays where it is. :mod:`diwa_robot.drivers.recovery` has the order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from diwa_conventions.actions import Pose
from diwa_robot.drivers.dialects import (
    MODE_GUIDING,
    MODE_IDLE,
    MODE_MOVE,
    MODE_REFLEX,
    MODE_USER_STOPPED,
    MODES,
)
from diwa_robot.drivers.target_stream import StreamLimits, Target, TargetStream
from diwa_robot.so3 import length, rotation_matrix, rotation_vector


class Condition(IntEnum):
    """The constants of diwa_msgs/ArmState."""

    CONNECTING = 0
    READY = 1
    FAULT = 2


@dataclass(frozen=True)
class CrispLimits:
    """Time-outs and distances. The first two are CRISP's own error clip and the guard's lead."""

    max_lead_m: float = 0.10
    max_lead_rad: float = 0.5
    """A target farther from the measured pose than this is pulled back to it."""
    hold_lead_m: float = 0.02
    hold_lead_rad: float = 0.1
    """What is left of a lead when targets stop: enough to carry a load, too little to go on pressing."""
    target_timeout_s: float = 0.15
    """Silence of target_pose after which the arm is held."""
    refused_s: float = 0.5
    """Targets that are refused for longer than this: the arm is not ready, so that the guard disarms their source."""
    follow_s: float = 1.0
    """How long the arm may stand while a new stream of targets leads it by ``follow_lead_m`` or ``follow_lead_rad``."""
    follow_lead_m: float = 0.03
    follow_lead_rad: float = 0.15
    moved_m: float = 0.003
    moved_rad: float = 0.02
    """An arm that has moved this far since its first target follows."""
    frozen_s: float = 0.5
    """A measured pose that is the same to the last bit for so long, while led by that much, is no longer measured."""
    pose_timeout_s: float = 0.2
    """A measured pose older than this says nothing about where to hold."""
    mode_timeout_s: float = 0.5
    """A robot mode older than this says nothing; nor does one that comes while the robot's clock stands still."""
    leash_m: float = 0.08
    leash_rad: float = 0.4
    """Nobody is armed and the controller holds the arm: a target farther from it is replaced by the measured pose."""
    aim_m: float = 0.005
    aim_rad: float = 0.02
    """The same while the controller does not hold the arm."""
    aim_again_s: float = 0.25
    """How often that target is sent again: the controller drops all while somebody else publishes."""


@dataclass
class Input:
    """One thing that has to come in."""

    name: str
    timeout_s: float
    hint: str
    taken_s: float = -math.inf
    wrong: str = ""
    """What is wrong with the newest message."""

    def trouble(self, now: float) -> str:
        """Why nothing can be known from it, or ""."""
        if self.taken_s == -math.inf:
            return f"nothing has come on {self.name}; {self.hint}"
        if now - self.taken_s > self.timeout_s:
            return f"{self.name} has been silent for more than {self.timeout_s:g} s; {self.hint}"
        return f"{self.name} {self.wrong}" if self.wrong else ""


class CrispArm:
    """Passes targets on to the controller while everything is well, and says what is not."""

    def __init__(
        self, inputs: Sequence[Input], target_topic: str, controller: str, limits: CrispLimits | None = None
    ) -> None:
        self.limits = limits or CrispLimits()
        self.inputs = {one.name: one for one in inputs}
        self.target_topic = target_topic
        self.controller = controller
        """Its name, for what a person is told to do."""
        self.state = Condition.CONNECTING
        self.reason = "started; nothing has come from the arm yet"
        self.measured: Pose | None = None
        self.stream = TargetStream(
            StreamLimits(timeout_s=self.limits.target_timeout_s, state_timeout_s=self.limits.pose_timeout_s)
        )
        self.clipped = 0
        """Targets that were pulled back towards the measured pose."""
        self.subscribers = 0
        """Of the controller's topic."""
        self.rivals: tuple[str, ...] = ()
        """Who else publishes to the controller."""
        self.controller_state: str | None = None
        """As the controller manager says; None: it was not asked, or does not answer."""
        self.hardware_down: tuple[str, ...] = ()
        """The arm's hardware components that are not active, each "NAME is STATE"."""
        self.broadcasters_down: tuple[str, ...] = ()
        """Controllers without command interfaces that are not active."""
        self.listed_s = -math.inf
        """When the controller manager was asked for what it says."""
        self.mode: int | None = None
        """Of the robot; None: not known now."""
        self.errors: tuple[str, ...] = ()
        self._sent: Pose | None = None
        self._streaming = False
        self._begun_at: Pose | None = None
        self._followed = False
        self._stuck_since_s: float | None = None
        self._pose_s = self._changed_s = self._heard_s = self._mode_s = self._clock_changed_s = -math.inf
        self._robot_clock_s = 0.0
        self._been_ready = False
        """Since the start or the last recovery: a stop is a fault from then on."""
        self._aimed_s = self._aim_since_s = -math.inf
        self._refusal = ""
        self._refused_since_s = -math.inf

    # In

    def seen(self, name: str, now: float, wrong: str = "") -> None:
        """A message came on an input; ``wrong`` says what is the matter with it."""
        self.inputs[name].taken_s, self.inputs[name].wrong = now, wrong

    def pose(self, pose: Pose, now: float) -> None:
        """The measured pose."""
        before = self.measured
        if before is None or (pose.position != before.position).any() or (pose.rotation != before.rotation).any():
            self._changed_s = now
        self.measured, self._pose_s = pose, now
        self.stream.measured(pose, now)

    def robot(self, mode: int, errors: Sequence[str], now: float, clock_s: float = 0.0) -> str:
        """Mode and current errors of the robot, as its own state says; what is wrong with the message, or "".

        ``clock_s``: the robot's own time; 0.0 if it says none. Humble's controller manager publishes the last state of
        a robot that has stopped again and again.
        """
        if clock_s == 0.0 or clock_s != self._robot_clock_s:
            self._robot_clock_s, self._clock_changed_s = clock_s, now
        if now - self._clock_changed_s > self.limits.mode_timeout_s:
            return "repeats one old state: the robot's clock stands still; has the robot stopped with an error?"
        self.mode, self.errors, self._mode_s = mode, tuple(errors), self._clock_changed_s
        return ""

    def target(self, target: Target, now: float) -> tuple[Pose | None, str]:
        """A message of target_pose: what the controller is told now, or None and why it is not told anything."""
        self._heard_s = now
        if self.state is not Condition.READY:
            self.stream.reset(now)  # these do not count as silence
            return None, f"the arm is not ready: {self.reason}"
        begins = not self.stream.live(now)
        refusal = self.stream.take(target, now)
        if refusal:
            if not self._refusal:
                self._refusal, self._refused_since_s = refusal, now
            return None, refusal
        self._refusal = ""
        assert self.measured is not None and self.stream.command is not None  # else the stream would have refused
        if begins:
            self._begun_at, self._followed, self._stuck_since_s = self.measured, False, None
        told = pulled_to(self.stream.command, self.measured, self.limits.max_lead_m, self.limits.max_lead_rad)
        self.clipped += told is not self.stream.command
        self._sent, self._streaming = told, True
        return told, ""

    # What is amiss

    def tick(self, now: float) -> Pose | None:
        """Judge, regularly. What the controller is told because targets stopped or something is amiss, or None."""
        if now - self._mode_s > self.limits.mode_timeout_s:
            self.mode, self.errors = None, ()
        told = self._judge(now)
        return self._aim(now) if told is None else told

    def _judge(self, now: float) -> Pose | None:
        was = self.state
        if was is Condition.FAULT:
            return None
        lost, waiting = self._lost(now), self._waiting(now)
        if lost and (self._been_ready or self.mode == MODE_REFLEX):
            self.state, self.reason = Condition.FAULT, lost
        elif lost or waiting:
            self.state, self.reason = Condition.CONNECTING, waiting or lost
        else:
            self.state, self.reason, self._been_ready = Condition.READY, "follows target_pose", True
        if self.state is not Condition.READY and was is Condition.READY:
            return self.end(now)
        return self._hold(now) if self._streaming and not self.stream.live(now) else None

    def end(self, now: float) -> Pose | None:
        """Follow nothing until a new stream begins; what the controller is told once, or None."""
        held = self._hold(now) if self._streaming else None
        self.stream.reset(self._heard_s)
        return held

    def fail(self, reason: str) -> None:
        """A fault that is not the arm's: nothing is passed on until a person recovers."""
        self.state, self.reason, self._streaming = Condition.FAULT, reason, False
        self.stream.reset(self._heard_s)

    def _lost(self, now: float) -> str:
        """Why the arm cannot be trusted until a person has looked, or ""."""
        if self.rivals:
            return (
                f"{self.target_topic} has another publisher: {', '.join(self.rivals)}; "
                "the controller ignores all targets until it is gone: stop it"
            )
        if self.mode == MODE_REFLEX:
            return f"the robot was stopped by a reflex ({', '.join(self.errors) or 'it names no error'})"
        if self.mode == MODE_USER_STOPPED:
            return "the robot was stopped by the user stop: release it, then recover"
        if self.mode == MODE_GUIDING:
            return "the robot was guided by hand: let go of it, then recover"
        if self.hardware_down:
            return self._hardware_stopped()
        return self._not_following(now) if self._streaming else ""

    def _hardware_stopped(self) -> str:
        return (
            f"{', '.join(self.hardware_down)}: the robot stopped with an error (reflex, user stop, lost packets); "
            "look at it, then recover"
        )

    def _not_following(self, now: float) -> str:
        assert self.measured is not None and self._begun_at is not None and self._sent is not None
        limits = self.limits
        led = _beyond(self._sent, self.measured, limits.follow_lead_m, limits.follow_lead_rad)
        if led and now - self._changed_s > limits.frozen_s:
            return f"the measured pose has not changed at all for {limits.frozen_s:g} s: the robot no longer reports it"
        self._followed = self._followed or _beyond(self.measured, self._begun_at, limits.moved_m, limits.moved_rad)
        if self._followed or not led:
            self._stuck_since_s = None
        elif self._stuck_since_s is None:
            self._stuck_since_s = now
        elif now - self._stuck_since_s > limits.follow_s:
            return f"the arm does not follow its targets; is {self.controller} active? ros2 control list_controllers"
        return ""

    def _waiting(self, now: float) -> str:
        """What is missing so far, or ""."""
        if self.hardware_down:
            return self._hardware_stopped()
        for one in self.inputs.values():
            if trouble := one.trouble(now):
                return trouble
        if self.measured is None:
            return "no measured pose has come yet"
        if self.subscribers == 0:
            return (
                f"nobody listens on {self.target_topic}: {self.controller} is not loaded there; "
                "ros2 control list_controllers"
            )
        if self.controller_state not in (None, "active"):
            return (
                f"{self.controller} is {self.controller_state or 'not loaded'}; "
                "diwa guard recover activates it where the arm stands"
            )
        if self.mode == MODE_IDLE:
            return f"the robot is {MODES[MODE_IDLE]}; recover (diwa guard recover), which activates {self.controller}"
        if self.mode is not None and self.mode != MODE_MOVE:
            words = MODES.get(self.mode, f"in mode {self.mode}")
            return f"the robot is {words}; recover (diwa guard recover) when it may move"
        return self._refusing(now)

    def _refusing(self, now: float) -> str:
        """Why targets that come are not followed, and have not been for a while, or ""."""
        if now - self._heard_s > self.limits.target_timeout_s:
            self._refusal = ""
        if not self._refusal or now - self._refused_since_s <= self.limits.refused_s:
            return ""
        return f"targets come and are not followed: {self._refusal}; disarm, then arm the source again"

    def _hold(self, now: float) -> Pose | None:
        """The last target, pulled back until little force is left; None if it is that already, or nothing is measured.

        Once and not again: the measured pose sinks under a load, and following it down would have no end.
        """
        self._streaming = False
        if self.measured is None or self._sent is None or now - self._pose_s > self.limits.pose_timeout_s:
            return None
        held = pulled_to(self._sent, self.measured, self.limits.hold_lead_m, self.limits.hold_lead_rad)
        if held is self._sent:
            return None
        self._sent = self.stream.command = held
        return held

    def _held(self) -> bool:
        """Whether the controller may hold the arm now, as far as is known."""
        if self.hardware_down or self.controller_state not in (None, "active"):
            return False
        return self.mode in (None, MODE_MOVE)

    def _aim(self, now: float) -> Pose | None:
        """The target that nobody asked for: near the arm, so that it goes nowhere when the controller holds it again.

        An arm that is held is followed only beyond the leash: its own weight would draw it down step by step.
        """
        limits, measured = self.limits, self.measured
        if self._streaming or measured is None or now - self._pose_s > limits.pose_timeout_s:
            self._aim_since_s = now
            return None
        if self._held():
            self._aim_since_s = now
            self._sent = self._sent or measured  # a target from before this driver: it holds the arm about there
            if not _beyond(self._sent, measured, limits.leash_m, limits.leash_rad):
                return None
        else:
            far = self._sent is None or _beyond(self._sent, measured, limits.aim_m, limits.aim_rad)
            if far:
                self._aim_since_s = now
            elif now - self._aimed_s < limits.aim_again_s:
                return None
        self._sent = self.stream.command = measured
        self._aimed_s = now
        return measured

    def aimed_for_s(self, now: float) -> float:
        """How long the newest target has been the measured pose of an arm that stands and that no controller holds."""
        return now - self._aim_since_s

    # After a fault

    def obstacle(self, now: float) -> str:
        """Why nothing can be recovered yet, or ""."""
        return self._lost(now) if self.rivals else ""

    def recover(self, now: float) -> None:
        """Clear the fault. The arm stands until a new stream of targets begins near it."""
        self._streaming = self._been_ready = False
        self.stream.reset(self._heard_s)
        if self.state is Condition.FAULT:
            self.state, self.reason = Condition.CONNECTING, "recovered"
        self._judge(now)

    def tracking_error(self) -> tuple[float, float]:
        """Distance [m] and angle [rad] between the last target sent and the measured pose; zeros if there is none."""
        if self._sent is None or self.measured is None:
            return 0.0, 0.0
        return self._sent.distance_m(self.measured), self._sent.angle_rad(self.measured)


def _beyond(pose: Pose, other: Pose, distance_m: float, angle_rad: float) -> bool:
    return pose.distance_m(other) > distance_m or pose.angle_rad(other) > angle_rad


def pulled_to(pose: Pose, measured: Pose, most_m: float, most_rad: float) -> Pose:
    """The pose, pulled towards the measured one along the straight way until it is within both; itself if it is."""
    way, turn = pose.position - measured.position, rotation_vector(pose.rotation @ measured.rotation.T)
    far_m, far_rad = length(way), length(turn)
    if far_m <= most_m and far_rad <= most_rad:
        return pose
    position, rotation = pose.position, pose.rotation
    if far_m > most_m:
        position = measured.position + way * (most_m / far_m)
    if far_rad > most_rad:
        rotation = rotation_matrix(turn * (most_rad / far_rad)) @ measured.rotation
    return Pose(position, rotation)
