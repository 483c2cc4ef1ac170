"""The stream of target poses as an arm's driver sees it: which targets are followed, and from where. No ROS, no clock.

The command guard bounds the targets; a driver trusts it as little as the guard trusts who stands before it. A target is
followed if it is a pose, is new, comes alone, lies near the arm and near the last one. When targets fall silent, the
arm holds the last command; a new stream begins at the arm, and catches up with the targets evenly: the command never
jumps, whatever comes in.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from diwa_conventions.actions import FloatArray, Pose
from diwa_conventions.errors import UserError
from diwa_conventions.topics import BASE_FRAME
from diwa_robot.so3 import rotation_matrix, rotation_vector

QUATERNION_TOLERANCE = 1e-3
LIVE_LEAD = 1.5
"""A stream that runs may lead the arm by this much more than one that begins: the guard sees the arm later."""
JUMP_MARGIN_M, JUMP_MARGIN_RAD = 0.02, 0.05
"""What a target may jump beyond speed times time: messages that arrive in a bunch."""


@dataclass(frozen=True)
class StreamLimits:
    """The defaults fit the command guard's."""

    timeout_s: float = 0.15
    """Silence of the targets; then the arm holds."""
    max_lead_m: float = 0.10
    max_lead_rad: float = 0.5
    """How far from the measured pose a stream may begin."""
    max_age_s: float = 0.25
    """By the stamp, either way; an older target says nothing about now."""
    max_speed_m_s: float = 1.7
    max_speed_rad_s: float = 2.5
    """Of the targets; a faster one has jumped."""
    catch_up_s: float = 0.5
    """In which the command catches up with a stream that begins elsewhere than the arm stands."""
    state_timeout_s: float = 0.1
    """Of the measured pose; without it nothing is followed."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value > 0.0):
                raise UserError(f"{name} is {value!r}; expected a number above 0")


@dataclass(frozen=True)
class Target:
    """A message of target_pose, as it came."""

    position: FloatArray
    quaternion_xyzw: FloatArray
    frame_id: str
    stamp_s: float
    age_s: float
    """Time since its stamp by the clock that stamps; negative: from the future."""


class TargetStream:
    """Says what the arm is told. Every method takes ``now`` [s] of one monotonic clock."""

    def __init__(self, limits: StreamLimits | None = None) -> None:
        self.limits = limits or StreamLimits()
        self.command: Pose | None = None
        """What the arm is told; None until a stream has begun since the last :meth:`reset`."""
        self.publishers = 1
        """How many publish targets; with more than one nothing is followed."""
        self.refusals: Counter[str] = Counter()
        """Why targets were refused -> how many."""
        self.accepted = 0
        self._measured: Pose | None = None
        self._measured_s = -math.inf
        self._target: Pose | None = None
        self._stamp_s = self._accepted_s = self._heard_s = -math.inf
        self._closed, self._fresh = True, False
        """Fresh: the stream began after the reset, so it is not the old one that goes on."""
        self._begun_s = 0.0
        self._offset_m, self._offset_rad = np.zeros(3), np.zeros(3)

    def measured(self, pose: Pose, now: float) -> None:
        """Where the arm is."""
        self._measured, self._measured_s = pose, now

    def live(self, now: float) -> bool:
        """Whether a stream runs: the newest target was followed, not long ago."""
        return not self._closed and now - self._accepted_s <= self.limits.timeout_s

    @property
    def closed(self) -> bool:
        """Whether nothing has been followed since the last :meth:`reset`."""
        return self._closed

    def reset(self, now: float) -> None:
        """The arm has stopped by itself: follow nothing until the targets have been silent and begin anew."""
        self.command = self._target = None
        self._closed, self._fresh, self._heard_s = True, False, now

    def take(self, target: Target, now: float) -> str:
        """Take a target; "" if the command follows it, else why it does not and the arm holds."""
        begins = not self.live(now)
        self._fresh = self._fresh or now - self._heard_s > self.limits.timeout_s
        self._heard_s = now
        refusal = self._refusal(target, now, begins)
        if refusal:
            kind, why = refusal
            self.refusals[kind] += 1
            return why
        pose = Pose.from_quaternion(target.position, target.quaternion_xyzw)
        refusal = self._too_far(pose, target, now, begins)
        if refusal:
            self.refusals[refusal[0]] += 1
            return refusal[1]
        if begins:
            self._begin(pose, now)
        self._target, self._stamp_s, self._accepted_s = pose, target.stamp_s, now
        self.accepted += 1
        self.command = self._caught_up(pose, now)
        return ""

    def _refusal(self, target: Target, now: float, begins: bool) -> tuple[str, str] | None:
        """In one word or two, and for a person: what of the message or of the moment is not in order."""
        limits = self.limits
        if wrong := _what_is_wrong(target):
            return "bad value", wrong
        if self.publishers > 1:
            return "several publishers", f"target_pose has {self.publishers} publishers; expected one: stop the others"
        if not abs(target.age_s) <= limits.max_age_s:
            return "old", (
                f"the target is {target.age_s:.3f} s old by its stamp; expected at most {limits.max_age_s:g} s either "
                "way; do the machines' clocks agree?"
            )
        if now - self._measured_s > limits.state_timeout_s:
            return "no state", f"the arm has not said for {limits.state_timeout_s:g} s where it is"
        if begins and self._closed and not self._fresh:
            return "goes on", "the arm has stopped; arm the source again: targets have to fall silent and begin anew"
        if not begins and target.stamp_s <= self._stamp_s:
            return "old stamp", "the stamps of target_pose do not go on; was its publisher restarted?"
        return None

    def _too_far(self, pose: Pose, target: Target, now: float, begins: bool) -> tuple[str, str] | None:
        limits, lead = self.limits, 1.0 if begins else LIVE_LEAD
        assert self._measured is not None  # a state is there
        distance_m, angle_rad = pose.distance_m(self._measured), pose.angle_rad(self._measured)
        if distance_m > lead * limits.max_lead_m or angle_rad > lead * limits.max_lead_rad:
            return "far", (
                f"the target is {distance_m:.3f} m and {angle_rad:.2f} rad from the arm; expected at most "
                f"{lead * limits.max_lead_m:g} m and {lead * limits.max_lead_rad:g} rad"
            )
        if begins or self._target is None:
            return None
        time_s = max(now - self._accepted_s, min(target.stamp_s - self._stamp_s, limits.timeout_s))
        distance_m, angle_rad = pose.distance_m(self._target), pose.angle_rad(self._target)
        if (
            distance_m > limits.max_speed_m_s * time_s + JUMP_MARGIN_M
            or angle_rad > limits.max_speed_rad_s * time_s + JUMP_MARGIN_RAD
        ):
            return "jump", f"the target jumped by {distance_m:.3f} m and {angle_rad:.2f} rad within {time_s:.3f} s"
        return None

    def _begin(self, pose: Pose, now: float) -> None:
        """Begin where the arm is held: at the last command, if it is still near, else where it was measured."""
        start, limits = self.command, self.limits
        assert self._measured is not None
        if start is None or (
            start.distance_m(self._measured) > limits.max_lead_m
            or start.angle_rad(self._measured) > limits.max_lead_rad
        ):
            start = self._measured
        self._offset_m = start.position - pose.position
        self._offset_rad = rotation_vector(start.rotation @ pose.rotation.T)
        self._begun_s, self._closed = now, False

    def _caught_up(self, pose: Pose, now: float) -> Pose:
        left = 1.0 - (now - self._begun_s) / self.limits.catch_up_s
        if left <= 0.0:
            return pose
        return Pose(pose.position + left * self._offset_m, rotation_matrix(left * self._offset_rad) @ pose.rotation)


def _what_is_wrong(target: Target) -> str:
    if target.frame_id != BASE_FRAME:
        return f"target_pose is in frame {target.frame_id!r}; expected {BASE_FRAME!r}"
    if not (np.isfinite(target.position).all() and np.isfinite(target.quaternion_xyzw).all()):
        return "target_pose holds a value that is not finite"
    norm = float(np.linalg.norm(target.quaternion_xyzw))
    if abs(norm - 1.0) > QUATERNION_TOLERANCE:
        return f"target_pose has a quaternion of length {norm:.4f}; expected 1"
    if not math.isfinite(target.stamp_s):
        return "target_pose carries no stamp"
    return ""
