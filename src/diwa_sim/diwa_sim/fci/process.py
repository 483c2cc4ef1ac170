"""The interface in a process of its own, as its owner sees it: start, orders, the mirrored playroom, end."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from typing import Any

from diwa_conventions.errors import UserError
from diwa_sim.fci.mirror import Mirror
from diwa_sim.playroom import Playroom
from diwa_sim.scene import Look

_START_S = 60.0
_ORDER_S = 10.0
_MIN_RATE_HZ = 950.0
_SHOWN = ("mode", "connected", "motions", "reflexes", "commands", "lost", "waited")


class FciProcess:
    """``python -m diwa_sim.fci`` until :meth:`close`, or until this process ends.

    With ``playroom`` it steps a playroom of that one's look, whose state :meth:`refresh` brings over; without, it has
    an arm that does exactly what it is told.
    """

    def __init__(
        self, address: str, playroom: Playroom | None = None, look: Look = "clear", patience_s: float = 0.25
    ) -> None:
        host, port = split_address(address)
        command = [sys.executable, "-m", "diwa_sim.fci", "--address", host, "--port", str(port)]
        command += ["--patience-s", str(patience_s), "--look", look]
        self._mirror: Mirror | None = None
        self._lines = b""
        descriptors: tuple[int, ...] = ()
        if playroom is not None:
            memory = os.memfd_create("playroom")
            self._mirror = Mirror(memory, playroom.model.nq, playroom.model.nv)
            descriptors = (memory,)
            command += ["--arm", "playroom", "--mirror", str(memory)]
        else:
            command += ["--arm", "kinematic"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=descriptors, bufsize=0
        )
        for descriptor in descriptors:
            os.close(descriptor)
        try:
            self._answer(_START_S)
        except UserError:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def order(self, line: str) -> dict[str, Any]:
        """Have it do something, see ``diwa_sim.fci.server``; its answer. UserError with its reason if it cannot."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n")
        except OSError as error:
            raise UserError(self._gone()) from error
        return self._answer(_ORDER_S)

    def put(self, playroom: Playroom) -> None:
        """Arm and scene are, from one moment to the next, as in this playroom; a motion ends by a reflex."""
        state = playroom.physical_state()
        values = {"qpos": state.qpos.tolist(), "qvel": state.qvel.tolist(), "lights": list(state.lights)}
        self.order(f"put {json.dumps(values)}")

    def refresh(self, playroom: Playroom) -> None:
        """Bring the newest state over into this playroom."""
        state = self._mirror.read() if self._mirror is not None else None
        if state is not None:
            playroom.set_physical_state(state)

    def health(self) -> tuple[str, dict[str, str]]:
        """What is amiss since the last call, or "", and figures. UserError if the process is gone."""
        robot = self.order("status")
        self.order("pace")
        slow = robot["rate_hz"] < _MIN_RATE_HZ
        values = {f"fci_{name}": str(robot[name]) for name in _SHOWN}
        values |= {f"fci_{name}": f"{robot[name]:.2f}" for name in ("rate_hz", "late_p99_ms", "slipped_s")}
        values["fci_errors"] = " ".join(robot["errors"])
        return f"the robot's clock runs at {robot['rate_hz']:.0f} Hz instead of 1000" if slow else "", values

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> FciProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(self, timeout_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        end = time.monotonic() + timeout_s
        while b"\n" not in self._lines:
            if not select.select([self._process.stdout], [], [], max(end - time.monotonic(), 0.0))[0]:
                raise UserError(f"the FCI server did not answer within {timeout_s:.0f} s")
            data = os.read(self._process.stdout.fileno(), 65536)
            if not data:
                raise UserError(self._gone())
            self._lines += data
        line, _, self._lines = self._lines.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        if not answer.pop("ok"):
            raise UserError(str(answer["error"]))
        return answer

    def _gone(self) -> str:
        return f"the FCI server has ended (exit code {self._process.poll()}); its last words are above"


def split_address(address: str) -> tuple[str, int]:
    """Host and port of ``host[:port]``. UserError for a port that is none."""
    host, colon, port = address.partition(":")
    if not host or (colon and not (port.isdigit() and 0 < int(port) < 65535)):
        raise UserError(f"fci is {address!r}; expected an address of this machine as in 127.0.0.1 or 127.0.0.1:1337")
    return host, int(port) if colon else 1337
