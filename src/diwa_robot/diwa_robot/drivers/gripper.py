"""When a gripper is asked to open or to grasp: on change only. No ROS, and no clock of its own.

The guard says +1 or -1 thirty times a second; a gripper takes a second for one motion and refuses, or stops, when it is
asked again meanwhile. Every method takes ``now`` [s] of one monotonic clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from diwa_conventions.errors import UserError


class Grip(Enum):
    """What a gripper can be asked for."""

    OPEN = "open"
    GRASP = "grasp"


@dataclass(frozen=True)
class GripperRequest:
    """One motion to be sent to the gripper; its outcome goes to :meth:`GripperLogic.done`."""

    number: int
    """Counts up from 1."""
    grip: Grip
    supersedes: bool
    """The one before is still under way: stop or cancel it first."""


@dataclass(frozen=True)
class GripperTiming:
    """Hysteresis and time-outs."""

    debounce_s: float = 0.05
    """A command has to stay for this long before it counts: one stray message opens no hand."""
    min_interval_s: float = 0.5
    """Between two requests, whatever is commanded."""
    timeout_s: float = 5.0
    """A request without an outcome for longer has failed (the slowest motion, 80 mm at 0.02 m/s, takes 4 s)."""
    retry_s: float = 1.0
    """After a failure, when the same is still being commanded."""
    retries: int = 1
    """How often one command is tried again; then the gripper is blocked until the other one comes."""
    fresh_s: float = 0.5
    """Commands older than this are not tried again: nobody is armed any more. The next ones begin anew."""
    open_width_m: float = 0.08
    """Of the open hand."""
    open_tolerance_m: float = 0.01
    """An opened hand that is narrower by more than this is blocked."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value >= 0.0):
                raise UserError(f"{name} of the gripper is {value!r}; expected a number that is not negative")


class GripperLogic:
    """From commands to requests. After every call and regularly: send what :meth:`next_request` returns."""

    def __init__(self, timing: GripperTiming | None = None) -> None:
        self.timing = timing or GripperTiming()
        self.reason = ""
        """Why the gripper is blocked, in words for a person."""
        self.requests = 0
        """How many were sent."""
        self._wanted: Grip | None = None
        self._wanted_since_s = self._commanded_s = -math.inf
        self._asked: GripperRequest | None = None
        self._asked_s = self._failed_s = -math.inf
        self._pending = self._failed = False
        self._failures = 0
        self._width_m: float | None = None

    @property
    def blocked(self) -> bool:
        """The newest request failed: the hand is not where it was told to be. A request that succeeds ends it."""
        return bool(self.reason)

    @property
    def pending(self) -> bool:
        """A request is under way."""
        return self._pending

    @property
    def wanted(self) -> Grip | None:
        """What was commanded last; None before the first command."""
        return self._wanted

    def command(self, value: float, now: float) -> bool:
        """A message of gripper_command: >= 0 opens, < 0 closes. False, and nothing changes, if it is not finite."""
        if not math.isfinite(value):
            return False
        grip = Grip.OPEN if value >= 0.0 else Grip.GRASP
        if grip is not self._wanted:
            self._wanted, self._wanted_since_s = grip, now
        elif now - self._commanded_s > self.timing.fresh_s and self._was_moved():
            self._asked, self._failures, self._wanted_since_s = None, 0, now
        self._commanded_s = now
        return True

    def width(self, measured_m: float, now: float) -> None:
        """The measured distance of the fingers."""
        if math.isfinite(measured_m):
            self._width_m = measured_m

    def next_request(self, now: float) -> GripperRequest | None:
        """What has to be sent now; each request is returned once."""
        if self._pending and now - self._asked_s > self.timing.timeout_s:
            self._fail(f"no answer within {self.timing.timeout_s:g} s", now)
        if not self._is_due(now):
            return None
        assert self._wanted is not None
        if self._asked is None or self._asked.grip is not self._wanted:
            self._failures = 0
        request = GripperRequest(self.requests + 1, self._wanted, supersedes=self._pending)
        self._asked, self._asked_s = request, now
        self._pending, self._failed = True, False
        self.requests += 1
        return request

    def _is_due(self, now: float) -> bool:
        if self._wanted is None or now - self._asked_s < self.timing.min_interval_s:
            return False
        if self._asked is None or self._asked.grip is not self._wanted:
            return now - self._wanted_since_s >= self.timing.debounce_s
        return (
            self._failed
            and self._failures <= self.timing.retries
            and now - self._failed_s >= self.timing.retry_s
            and now - self._commanded_s <= self.timing.fresh_s
        )

    def done(self, success: bool, now: float, request: GripperRequest | None = None, reason: str = "") -> None:
        """The outcome of a request, the newest one if it is not said; one that was superseded says nothing."""
        if not self._pending or (request is not None and request != self._asked):
            return
        assert self._asked is not None
        if not success:
            self._fail(reason, now)
        elif self._asked.grip is Grip.OPEN and self._is_narrow():
            self._fail("", now)
        else:
            self._pending, self.reason, self._failures = False, "", 0

    def _was_moved(self) -> bool:
        """While nobody commanded, the hand came to be where the last request did not send it."""
        if self._asked is None or self._pending or self._width_m is None:
            return False
        return self._is_narrow() == (self._asked.grip is Grip.OPEN)

    def _is_narrow(self) -> bool:
        bound_m = self.timing.open_width_m - self.timing.open_tolerance_m
        return self._width_m is not None and self._width_m < bound_m

    def _fail(self, why: str, now: float) -> None:
        assert self._asked is not None
        where = "" if self._width_m is None else f" at {1e3 * self._width_m:.0f} mm"
        self.reason = f"the gripper did not {self._asked.grip.value}: blocked{where}{'; ' + why if why else ''}"
        self._pending, self._failed, self._failed_s = False, True, now
        self._failures += 1

    def reset(self) -> None:
        """Forget all but the measured width, after a reflex or a lost connection; the next command counts anew."""
        self._wanted = self._asked = None
        self._pending = self._failed = False
        self._failures, self.reason = 0, ""
        self._wanted_since_s = self._commanded_s = -math.inf
