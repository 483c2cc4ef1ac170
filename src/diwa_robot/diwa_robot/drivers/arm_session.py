"""What an arm's driver is up to: making contact, ready, or stopped by a fault until a person says so. No ROS.

One thread calls :meth:`ArmSession.step` about 120 times a second; targets and questions may come from another one.
Every method takes ``now`` [s] of one monotonic clock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from diwa_robot.drivers.arm import Arm, ArmError, NoContact, Reading, Reflex
from diwa_robot.drivers.target_stream import StreamLimits, Target, TargetStream

LONGEST_PAUSE_S = 10.0
"""Between two tries to connect."""

RECOVERY_S = 3.0
"""A robot that still reports its errors after that has not recovered."""
_MEND = "; mend the cause, then call recover_arm"

_NOT_ALLOWED = {
    "user_stopped": "the user stop is pressed: release it (and activate FCI again if Desk asks)",
    "guiding": "the arm is being guided by hand",
    "other": "the robot is not ready: unlock the joints and activate FCI in Desk",
    "automatic_error_recovery": "the robot is recovering from its errors",
}
"""Modes in which the arm is not to be moved, and goes on by itself when they end."""


class DriverState(IntEnum):
    """The constants of diwa_msgs/ArmState."""

    CONNECTING = 0
    READY = 1
    FAULT = 2


@dataclass(frozen=True)
class Answer:
    """Of recover; not ``success``: nothing was changed."""

    success: bool
    message: str


class ArmSession:
    """Contact with one arm, its faults, and the targets it follows."""

    def __init__(
        self,
        arm: Arm,
        limits: StreamLimits | None = None,
        release_after_s: float = 1.0,
        contact_timeout_s: float = 0.25,
        retry_s: float = 1.0,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.stream = TargetStream(limits)
        self.state = DriverState.CONNECTING
        self.reason = "started; there is no contact yet"
        self.robot = ""
        """What it drives, in words; "" before the first contact."""
        self.reading: Reading | None = None
        """The newest state; None without contact."""
        self.tries = self.contacts = self.faults = 0
        self._arm = arm
        self._release_after_s, self._contact_timeout_s = release_after_s, contact_timeout_s
        self._first_pause_s = self._pause_s = retry_s
        self._changed = changed
        self._lock = threading.Lock()
        """Of the stream: targets come from another thread."""
        self._connected = False
        self._next_try_s = self._news_s = self._followed_s = -1.0
        self._recovery: _Request | None = None
        self._failure = ""

    # From any thread

    def target(self, target: Target, now: float) -> str:
        """Take a target; "" if the arm follows it, else why it holds."""
        with self._lock:
            if self.state != DriverState.READY:
                self.stream.reset(now)
                self.stream.refusals["not ready"] += 1
                return f"the arm does not follow: {self.reason}"
            refusal = self.stream.take(target, now)
            command = self.stream.command
        if not refusal and command is not None:
            self._arm.command(command)
        return refusal

    def publishers(self, count: int) -> None:
        """How many publish target_pose."""
        with self._lock:
            self.stream.publishers = count

    def fail(self, reason: str) -> None:
        """A fault that is not the robot's: stop, and latch."""
        self._failure = reason

    def recover(self, timeout_s: float = 6.0) -> Answer:
        """Clear a latched fault, if its cause is gone. Waits for :meth:`step` of the other thread to do it."""
        request = _Request()
        self._recovery = request
        if not request.done.wait(timeout_s):
            return Answer(False, "the driver is busy making contact with the robot; try again")
        return request.answer

    # From the driver's thread

    def step(self, now: float) -> Reading | None:
        """Do what is due; what the robot says of itself, if that is new."""
        if self._failure:
            failure, self._failure = self._failure, ""
            self._fault(failure, now)
        self._answer_recovery(now)
        if not self._connected:
            self._try_to_connect(now)
            return None
        try:
            reading = self._arm.read()
            news = self._is_news(reading, now)
            self._judge(reading, now)
            self._move(now)
        except NoContact as error:
            self._lose_contact(str(error), now)
            return None
        except Reflex as reflex:
            self._fault(str(reflex), now)
            return None
        except ArmError as error:
            self._fault(str(error), now)
            return None
        return reading if news else None

    def close(self, now: float) -> None:
        """Come to rest and give the robot back."""
        try:
            if self._connected and self._arm.following:
                self._arm.end()
        except ArmError:
            pass  # it has stopped, in another way
        self._arm.close()
        self._connected, self.reading = False, None
        self._enter(DriverState.CONNECTING, "the driver is not active")

    # Within

    def _try_to_connect(self, now: float) -> None:
        if now < self._next_try_s:
            return
        self.tries += 1
        try:
            self.robot = self._arm.connect()
        except ArmError as error:
            self._next_try_s = now + self._pause_s
            self._pause_s = min(2.0 * self._pause_s, LONGEST_PAUSE_S)
            self._waiting(str(error))
            return
        self.contacts += 1
        self._pause_s = self._first_pause_s
        self._connected, self.reading = True, None
        self._news_s = now
        self._stop_following(now)
        self._waiting("contact; waiting for the robot's state")

    def _waiting(self, reason: str) -> None:
        """Not ready, for now; a latched fault stays."""
        if self.state != DriverState.FAULT:
            self._enter(DriverState.CONNECTING, reason)

    def _is_news(self, reading: Reading, now: float) -> bool:
        """Whether the robot's clock goes on. NoContact if it has stood for too long."""
        before = self.reading
        if before is not None and reading.time_s == before.time_s:
            if now - self._news_s > self._contact_timeout_s:
                raise NoContact(f"the robot has said nothing new for {now - self._news_s:.2f} s")
            return False
        self.reading, self._news_s = reading, now
        with self._lock:
            self.stream.measured(reading.pose, now)
        return True

    def _judge(self, reading: Reading, now: float) -> None:
        """Which state the robot's mode and errors mean."""
        if self.state == DriverState.FAULT:
            return
        if reading.mode == "reflex" or reading.errors:
            names = ", ".join(reading.errors) or "it does not say why"
            self._fault(f"the robot stopped by itself: {names}", now)
        elif reading.mode in _NOT_ALLOWED:
            why = _NOT_ALLOWED[reading.mode]
            if self._arm.following:
                self._fault(f"stopped in a motion: {why}", now)
            else:
                self._stop_following(now)
                self._enter(DriverState.CONNECTING, why)
        elif self.state == DriverState.CONNECTING:
            self._enter(DriverState.READY, f"{self.robot} is ready")

    def _move(self, now: float) -> None:
        """Begin to follow a stream, and end the control loop some time after it has ended."""
        if self.state != DriverState.READY:
            return
        with self._lock:
            live, command = self.stream.live(now), self.stream.command
        if live:
            self._followed_s = now
            if not self._arm.following and command is not None:
                self._arm.begin()
                with self._lock:
                    command = self.stream.command
                assert command is not None
                self._arm.command(command)
        elif self._arm.following and now - self._followed_s > self._release_after_s:
            self._arm.end()
            with self._lock:
                self.stream.command = None  # from now on the robot holds where it is

    def _fault(self, reason: str, now: float) -> None:
        self.faults += 1
        self._stop_following(now)
        self._enter(DriverState.FAULT, f"{reason}{_MEND}")
        if self._arm.following:
            try:
                self._arm.end()
            except ArmError:
                pass  # it has ended already

    def _lose_contact(self, reason: str, now: float) -> None:
        self._connected, self.reading = False, None
        self._next_try_s = now + self._first_pause_s
        self._stop_following(now)
        self._waiting(reason)
        self._arm.close()

    def _stop_following(self, now: float) -> None:
        """What was followed is followed no more; what has not begun yet may begin at once."""
        with self._lock:
            if not self.stream.closed:
                self.stream.reset(now)

    def _answer_recovery(self, now: float) -> None:
        """Begin the recovery that somebody asks for, and answer once the robot has recovered, or has not in time."""
        request = self._recovery
        if request is None:
            return
        if request.seen_s is None:
            request.seen_s = now
        if request.since_s is not None:
            answer = self._recovered(now - request.since_s)
        elif self._connected and self._news_s < request.seen_s and now - request.seen_s < self._contact_timeout_s:
            return  # what the robot said before may be about the time before it stopped
        else:
            request.since_s = now
            answer = self._begin_recovery()
        if answer is not None:
            self._recovery, request.answer = None, answer
            request.done.set()

    def _begin_recovery(self) -> Answer | None:
        """Why there is nothing to be done; None once the robot has been asked to recover."""
        if self.state == DriverState.READY:
            return Answer(True, "the arm is ready; there was nothing to recover from")
        if self.state == DriverState.CONNECTING:
            return Answer(False, f"there is no fault to recover from, but the arm is not ready: {self.reason}")
        if not self._connected or self.reading is None:
            return Answer(False, "the fault stays: there is no contact with the robot; it is being tried again")
        if why := _NOT_ALLOWED.get(self.reading.mode):
            return Answer(False, f"the fault stays: {why}")
        try:
            self._arm.recover()
        except ArmError as error:
            return Answer(False, f"the fault stays: {error}")
        return None

    def _recovered(self, waited_s: float) -> Answer | None:
        """None while the robot still reports its errors and there is time left."""
        reading = self.reading
        if reading is None:
            return Answer(False, "the fault stays: contact was lost meanwhile")
        if reading.mode not in ("idle", "move") or reading.errors:
            names = ", ".join(reading.errors) or reading.mode
            timely = waited_s < RECOVERY_S
            return None if timely else Answer(False, f"the fault stays: the robot still reports {names}")
        cleared = self.reason.removesuffix(_MEND)
        self._stop_following(self._news_s)
        self._enter(DriverState.READY, f"recovered from: {cleared}")
        return Answer(True, f"recovered from: {cleared}; the arm stands until new targets come")

    def _enter(self, state: DriverState, reason: str) -> None:
        changed = (state, reason) != (self.state, self.reason)
        self.state, self.reason = state, reason
        if changed:
            self._changed()


class _Request:
    """A question to the driver's thread."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.seen_s: float | None = None
        self.since_s: float | None = None
        """When the robot was asked."""
        self.answer = Answer(False, "not answered")
