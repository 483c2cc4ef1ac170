"""A gripper beside the arm, in threads of its own: a motion takes a second. No ROS."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from diwa_conventions.errors import UserError
from diwa_robot.drivers.arm import ArmError, Hand
from diwa_robot.drivers.gripper import Grip, GripperLogic, GripperRequest, GripperTiming

PERIOD_S = 1.0 / 30.0
RETRY_S = 2.0
"""Between two tries to reach a hand that does not answer; the arm goes on meanwhile."""


class HandSession:
    """Keeps contact with one hand, obeys the newest command, knows the width."""

    def __init__(self, hand: Hand, timing: GripperTiming, log: Callable[[str], None] = lambda text: None) -> None:
        self._hand, self._log = hand, log
        self._logic = GripperLogic(timing)
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="hand")
        self.width_m: float | None = None
        """Distance of the fingers; None without contact."""
        self.trouble = "there is no contact with the hand yet"
        """What is amiss, "" if nothing is."""
        self._said = ""

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout_s: float = 2.0) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def command(self, value: float) -> bool:
        """A message of gripper_command; False if it is not a number."""
        with self._lock:
            return self._logic.command(value, time.monotonic())

    def forget(self) -> None:
        """After a fault: the next command counts anew."""
        with self._lock:
            self._logic.reset()

    @property
    def requests(self) -> int:
        """How many motions the hand was asked for."""
        return self._logic.requests

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self._hand.connect()
                self._obey()
            except (ArmError, UserError) as error:
                self.width_m, self.trouble = None, str(error)
                self._say()
                self._over.wait(RETRY_S)
        self._hand.close()

    def _obey(self) -> None:
        while not self._over.is_set():
            self.width_m = self._hand.width_m()
            now = time.monotonic()
            with self._lock:
                self._logic.width(self.width_m, now)
                request = self._logic.next_request(now)
                self.trouble = self._logic.reason
            self._say()
            if request is not None:
                threading.Thread(target=self._carry_out, args=(request,), daemon=True, name="grip").start()
            self._over.wait(PERIOD_S)

    def _carry_out(self, request: GripperRequest) -> None:
        why = ""
        try:
            if request.supersedes:
                self._hand.stop()
            success = self._hand.open() if request.grip is Grip.OPEN else self._hand.grasp()
        except ArmError as error:
            success, why = False, str(error)
        with self._lock:
            self._logic.done(success, time.monotonic(), request, why)

    def _say(self) -> None:
        if self.trouble and self.trouble != self._said:
            self._log(self.trouble)
        self._said = self.trouble
