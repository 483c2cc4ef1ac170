"""The robot's sockets and its clock: 1,000 cycles a second, in a process of their own."""

from __future__ import annotations

import json
import os
import select
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from diwa_sim.fci.arms import PERIOD_S, Arm
from diwa_sim.fci.controller import RobotController
from diwa_sim.fci.gripper import GripperController
from diwa_sim.fci.link import Link
from diwa_sim.fci.messages import (
    GRIPPER_HEADER,
    GRIPPER_VERSION,
    ROBOT_COMMAND,
    ROBOT_HEADER,
    ROBOT_PORT,
    ROBOT_VERSION,
    Command,
    GripperCommand,
    ProtocolError,
)
from diwa_sim.fci.orders import Faults, Orders

MAX_CATCH_UP_S = 0.02
"""A server that was held up for longer lets the robot's time slip instead of racing after it."""

_KEPT = 100_000
MIN_ANSWER_S = 0.0005
"""However late this process itself is, its client has this long to answer."""


@dataclass
class Pace:
    """How the clock was kept since the last report."""

    began_s: float = field(default_factory=time.monotonic)
    cycles: int = 0
    waited: int = 0
    """Cycles whose command came after the millisecond was over: lost, on a real robot."""
    slipped_s: float = 0.0
    lateness_s: list[float] = field(default_factory=list)

    def count(self, late_s: float) -> None:
        """A cycle begins, this much after its moment."""
        self.cycles += 1
        self.lateness_s.append(max(late_s, 0.0))
        if len(self.lateness_s) > _KEPT:
            del self.lateness_s[: _KEPT // 2]

    def report(self) -> dict[str, float]:
        lateness = np.array(self.lateness_s or [0.0]) * 1e3
        return {
            "rate_hz": self.cycles / max(time.monotonic() - self.began_s, 1e-9),
            "late_p50_ms": float(np.percentile(lateness, 50)),
            "late_p99_ms": float(np.percentile(lateness, 99)),
            "late_max_ms": float(lateness.max()),
            "waited": self.waited,
            "slipped_s": self.slipped_s,
            "cpu_s": time.process_time(),
        }


class FciServer:
    """Serves one arm at an address; :meth:`run` returns when standard input closes or says ``quit``.

    ``patience_s``: how long the robot's clock waits for a command that is late. A real robot does not wait; on a
    machine without real-time scheduling a client would otherwise lose its motion whenever something else runs.
    """

    def __init__(self, arm: Arm, address: str, patience_s: float = 0.25, port: int = ROBOT_PORT) -> None:
        self.robot = RobotController(arm)
        self.gripper = GripperController(arm)
        self.faults = Faults()
        self._arm = arm
        self._patience_s = patience_s
        self._robot_link = Link(address, port, ROBOT_VERSION, ROBOT_HEADER)
        self._gripper_link = Link(address, port + 1, GRIPPER_VERSION, GRIPPER_HEADER)
        self._newest: Any = None
        self._sent_id = 0
        self._arrived = False
        """A command came in this cycle, be it lost on purpose."""
        self._given_up = False
        """The last command did not come within the patience: none is waited for until one comes."""
        self._sent_s = 0.0
        self._random = np.random.default_rng(0)
        self._pace = Pace()
        links = (self._robot_link, self._gripper_link)
        self._orders = Orders(self.robot, self.gripper, arm, links, self.faults, self._report_pace)
        self._lines = bytearray()
        self._running = True

    def run(self) -> None:
        """Until told to stop."""
        try:
            deadline = time.monotonic()
            while self._running:
                deadline = self._next_deadline(deadline)
                self._listen(deadline)
                if self._misses_command():
                    deadline = self._wait_for_command(deadline)
                self._pace.count(time.monotonic() - deadline)
                self._cycle()
        finally:
            self._robot_link.release()
            self._gripper_link.release()

    # The clock

    def _next_deadline(self, deadline: float) -> float:
        now = time.monotonic()
        deadline += PERIOD_S
        late = now - deadline
        if late > MAX_CATCH_UP_S:
            self._pace.slipped_s += late
            return now
        return deadline

    def _listen(self, until: float) -> None:
        """Take in what comes until then, at least once."""
        while True:
            left = until - time.monotonic()
            ready = self._select(max(left, 0.0))
            if ready:
                self._serve(ready)
            if left <= 0.0 or not self._running:
                return

    def _select(self, timeout_s: float) -> list[Any]:
        sockets: list[Any] = [*self._robot_link.sockets(), *self._gripper_link.sockets(), 0]
        return select.select(sockets, [], [], timeout_s)[0]

    def _misses_command(self) -> bool:
        return not (self._arrived or self._given_up) and self.robot.expects_command

    def _wait_for_command(self, deadline: float) -> float:
        """Robot time stands still for a client that is late; the new deadline."""
        end = max(time.monotonic() + self._patience_s, self._sent_s + MIN_ANSWER_S)
        while self._misses_command() and self._running and (left := end - time.monotonic()) > 0.0:
            ready = self._select(left)
            if ready:
                self._serve(ready)
        self._given_up = self._misses_command()
        if time.monotonic() > self._sent_s + PERIOD_S:
            self._pace.waited += 1
        earliest = time.monotonic() - MAX_CATCH_UP_S
        self._pace.slipped_s += max(earliest - deadline, 0.0)
        return max(deadline, earliest)

    # One cycle

    def _cycle(self) -> None:
        command, self._newest, self._arrived = self._newest, None, False
        self.robot.cycle(command)
        self._arm.publish()
        self._send_states(self.gripper.cycle())
        self._send_answers()

    def _send_states(self, hand: bytes | None) -> None:
        self._sent_id, self._sent_s = int(self.robot.state["message_id"]), time.monotonic()
        if self.faults.silent > 0:
            self.faults.silent -= 1
            return
        self._robot_link.send_state(self.robot.state.tobytes())
        if hand is not None:
            self._gripper_link.send_state(hand)

    def _send_answers(self) -> None:
        """After the state of this cycle, so that a client finds in its next state what it was just told."""
        for answer in self.robot.answers:
            self._robot_link.send(answer.command, answer.command_id, answer.status, answer.extra)
        for command, command_id, status in self.gripper.answers:
            self._gripper_link.send(command, command_id, status)
        self.robot.answers.clear()
        self.gripper.answers.clear()

    def _serve(self, ready: list[Any]) -> None:
        if 0 in ready:
            self._read_orders()
        self._take_commands()
        try:
            for command, command_id, payload in self._robot_link.requests():
                self.robot.request(Command(command), command_id, payload)
        except (ProtocolError, ValueError):
            self._robot_link.drop_client()
        try:
            for command, command_id, payload in self._gripper_link.requests():
                self.gripper.request(GripperCommand(command), command_id, payload)
        except (ProtocolError, ValueError):
            self._gripper_link.drop_client()
        if self._robot_link.left:
            self._robot_link.left = False
            self.robot.forget_client()
        if self._gripper_link.left:
            self._gripper_link.left = False
            self.gripper.forget_client()

    def _take_commands(self) -> None:
        self._gripper_link.datagrams()
        for datagram in self._robot_link.datagrams():
            if len(datagram) != ROBOT_COMMAND.itemsize:
                continue
            command = np.frombuffer(datagram, ROBOT_COMMAND)[0]
            if int(command["message_id"]) != self._sent_id:
                continue  # answers an earlier state: too late
            self._arrived, self._given_up = True, False
            if self.faults.drop > 0:
                self.faults.drop -= 1
            elif not self.faults.late and (not self.faults.loss or self._random.random() >= self.faults.loss):
                self._newest = command

    # Orders from whoever started this process

    def _read_orders(self) -> None:
        data = os.read(0, 65536)
        if not data:
            self._running = False
            return
        self._lines += data
        while b"\n" in self._lines:
            line, _, rest = self._lines.partition(b"\n")
            self._lines = bytearray(rest)
            self._obey(line.decode(errors="replace").strip())

    def _obey(self, line: str) -> None:
        if line == "quit":
            self._running = False
        if line:
            print(json.dumps({"ok": True} if line == "quit" else self._orders.obey(line)), flush=True)

    def _report_pace(self, anew: bool) -> dict[str, float]:
        report = self._pace.report()
        if anew:
            self._pace = Pace()
        return report


def say_ready(address: str) -> None:
    print(json.dumps({"ok": True, "ready": address, "pid": os.getpid()}), flush=True)
    sys.stdout.flush()
