"""Starts node specs as processes, for machines without ``launch_ros``; ``diwa up`` uses it.

The prefixes and colours are honcho's. Its ``Manager`` is not used, because it cannot do four things that are needed
here: SIGINT before SIGTERM, stopping within 5 s, children that die with a parent killed by SIGKILL (it puts a process
and a shell between itself and each child), and a policy per node for a normal end (it stops everything at any exit).
"""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import TextIO

from honcho.colour import get_colours
from honcho.printer import Message, Printer

from diwa_bringup.graph import OnExit
from diwa_conventions.errors import UserError

TERMINATE_AFTER_S = 2.5
"""From SIGINT to SIGTERM."""
KILL_AFTER_S = 4.0
"""From SIGINT to SIGKILL; with what follows everything has ended within 5 s."""
LAST_LINES = 10

_OWN_NAME = "diwa"
_POLL_S = 0.05
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass(frozen=True)
class Command:
    """One process to run: the name before its lines, its words, and what follows when it ends with code 0."""

    name: str
    words: tuple[str, ...]
    on_exit: OnExit = "shutdown"


@dataclass
class _Child:
    """A running command with the end of its output."""

    command: Command
    process: subprocess.Popen[bytes]
    colour: str
    unfinished: bytes = b""
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_LINES))

    def has_exited(self) -> bool:
        """True once the process has ended. It stays a zombie, so that its process group's number is not used anew."""
        return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    def read(self) -> bytes | None:
        """What has arrived on its output; None if nothing has, empty at the end of the output."""
        assert self.process.stdout is not None
        try:
            return os.read(self.process.stdout.fileno(), 65536)
        except BlockingIOError:
            return None

    def whole_lines(self, chunk: bytes) -> list[str]:
        """The lines that ``chunk`` completes; an empty chunk completes the last one."""
        *lines, self.unfinished = (self.unfinished + chunk).split(b"\n")
        if not chunk and self.unfinished:
            lines, self.unfinished = [self.unfinished], b""
        return [line.decode("utf-8", "replace").rstrip("\r") for line in lines]


class ProcessManager:
    """Runs commands until they end, one crashes, or SIGINT, SIGTERM or SIGHUP arrives.

    Every child leads a process group of its own: a Ctrl-C in the terminal reaches this process only, which then stops
    all in order. Call :meth:`run` from the main thread: children are tied to the thread that starts them.
    """

    def __init__(self, commands: Sequence[Command], output: TextIO | None = None) -> None:
        self._commands = commands
        self._output = sys.stdout if output is None else output
        width = max(len(name) for name in [_OWN_NAME, *(command.name for command in commands)])
        self._printer = Printer(self._output, width=width)
        self._selector = selectors.DefaultSelector()
        self._running: list[_Child] = []
        self._interrupts = 0
        self._signal: signal.Signals | None = None
        self._stopping_since_s: float | None = None
        self._escalation: deque[tuple[float, signal.Signals]] = deque()
        self._exit_code = 0

    def run(self) -> int:
        """Start all and wait for the end: 0 after an orderly one, 1 after a crash or when a node had to be killed."""
        with _handlers(self._on_signal):
            try:
                for command, colour in zip(self._commands, get_colours(), strict=False):
                    self._start(command, colour)
                while self._running:
                    self._turn()
            finally:
                for child in self._running:
                    child.signal_group(signal.SIGKILL)
                    child.process.wait()
                self._selector.close()
        return self._exit_code

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signal = signal.Signals(number)
        self._interrupts += number == signal.SIGINT

    def _start(self, command: Command, colour: str) -> None:
        try:
            process = subprocess.Popen(
                command.words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=_environment(self._output),
                start_new_session=True,
                preexec_fn=_die_with(os.getpid()),
            )
        except OSError as error:
            raise UserError(f"cannot start {command.name}: {command.words[0]}: {error.strerror}") from error
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        child = _Child(command, process, colour)
        self._running.append(child)
        self._selector.register(process.stdout, selectors.EVENT_READ, child)
        self._say(f"started {command.name} (process {process.pid})")

    def _turn(self) -> None:
        """Print what has arrived, look who has ended, go on with stopping."""
        if self._selector.get_map():
            for key, _ in self._selector.select(_POLL_S):
                self._print_output(key.data)
        else:
            time.sleep(_POLL_S)  # all that still run have closed their output
        for child in [child for child in self._running if child.has_exited()]:
            self._finish(child)
        if self._signal is not None and self._stopping_since_s is None:
            self._stop(f"{self._signal.name}: stopping all (Ctrl-C again kills them)")
        self._escalate()

    def _print_output(self, child: _Child) -> bool:
        """Print the lines that have arrived; False when there is nothing more for now."""
        chunk = child.read()
        if chunk is None:
            return False
        if not chunk:
            assert child.process.stdout is not None
            self._selector.unregister(child.process.stdout)
        self._print_lines(child, chunk)
        return bool(chunk)

    def _print_lines(self, child: _Child, chunk: bytes) -> None:
        for line in child.whole_lines(chunk):
            child.last_lines.append(line)
            self._print(line, child.command.name, child.colour)

    def _finish(self, child: _Child) -> None:
        """A child has ended: end what it left behind, take its last lines, judge its exit code."""
        child.signal_group(signal.SIGKILL)
        output = child.process.stdout
        assert output is not None
        if output in self._selector.get_map():
            while self._print_output(child):
                pass
        if output in self._selector.get_map():  # a grandchild in another process group holds it open
            self._selector.unregister(output)
            self._print_lines(child, b"")
        output.close()
        self._running.remove(child)
        self._judge(child, child.process.wait())

    def _judge(self, child: _Child, code: int) -> None:
        name, how = child.command.name, _in_words(code)
        if self._stopping_since_s is not None:
            if code == -signal.SIGKILL:
                in_time = f"did not end within {KILL_AFTER_S:g} s of SIGINT"
                self._say(
                    f"{name} {'did not end before the second Ctrl-C' if self._interrupts > 1 else in_time}: killed"
                )
                self._exit_code = 1
            elif code not in (0, -signal.SIGINT, -signal.SIGTERM, 128 + signal.SIGINT, 128 + signal.SIGTERM):
                self._say(f"{name} ended with {how}")
        elif code != 0:
            self._exit_code = 1
            self._stop(f"{name} crashed: {how}; its last lines:", list(child.last_lines))
        elif child.command.on_exit == "shutdown" and self._running:
            self._stop(f"{name} has ended: stopping all")
        else:
            self._say(f"{name} has ended")

    def _stop(self, why: str, details: Sequence[str] = ()) -> None:
        self._say(why)
        for line in details:
            self._say(f"    {line}")
        self._stopping_since_s = time.monotonic()
        self._escalation.extend(
            [(0.0, signal.SIGINT), (TERMINATE_AFTER_S, signal.SIGTERM), (KILL_AFTER_S, signal.SIGKILL)]
        )

    def _escalate(self) -> None:
        """Send the signals that are due since stopping began; SIGKILL at once after a second Ctrl-C."""
        if self._stopping_since_s is None:
            return
        passed_s = time.monotonic() - self._stopping_since_s
        if self._interrupts > 1:
            passed_s = KILL_AFTER_S
        while self._escalation and self._escalation[0][0] <= passed_s:
            _, number = self._escalation.popleft()
            for child in self._running:
                child.signal_group(number)

    def _say(self, text: str) -> None:
        self._print(text, _OWN_NAME, None)

    def _print(self, text: str, name: str, colour: str | None) -> None:
        # honcho prints nothing for an empty text, but an empty line of a node is worth a line.
        self._printer.write(Message("line", text or " ", datetime.datetime.now(), name, colour))


def _in_words(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def _environment(output: TextIO) -> Mapping[str, str]:
    """Ours, with output that arrives at once, and coloured levels if a person is reading."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if output.isatty():
        environment.setdefault("RCUTILS_COLORIZED_OUTPUT", "1")
    return environment


@contextlib.contextmanager
def _handlers(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle the signals that mean "stop"; as before afterwards."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, handler) for number in numbers]
    try:
        yield
    finally:
        for number, old in zip(numbers, before, strict=True):
            signal.signal(number, old)


def _die_with(parent: int) -> Callable[[], None]:
    """What the child does before it becomes the node: ask the kernel to kill it when its parent ends, in any way.

    It also ignores SIGINT until it handles it itself, as nodes do once they run: Python would print a traceback of
    whatever it is importing. A node that never gets so far ends by SIGTERM.
    """

    def ask() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if _libc is not None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # it ended before the request
                os._exit(1)

    return ask
