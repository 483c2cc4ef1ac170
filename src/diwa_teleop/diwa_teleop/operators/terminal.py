"""Keys of the terminal as they are typed, one by one and without echo."""

from __future__ import annotations

import os
import re
import select
import termios
import tty
from types import TracebackType
from typing import TextIO

from diwa_conventions.errors import UserError

_KEY = re.compile(r"\x1b\[[0-9;]*[A-Za-z~]|\x1bO[A-Z]|.", re.DOTALL)
"""An escape sequence, such as an arrow's, is one key."""
_BEGUN = re.compile(r"\x1b(\[[0-9;]*|O)?\Z")
"""One whose end is still on its way: read as single keys, a right arrow's end would toggle the clutch."""


class TerminalClosedError(Exception):
    """There will be no more keys."""


class Terminal:
    """A context in which keys arrive as they are typed; afterwards, also after an error, the terminal is as before.

    UserError if ``stream`` is not a terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        if not stream.isatty():
            raise UserError(
                "the keyboard operator needs a terminal of its own, and its input is none; "
                "start it by hand there: ros2 run diwa_teleop keyboard"
            )
        self._file = stream.fileno()
        self._begun = ""

    def __enter__(self) -> Terminal:
        self._before = termios.tcgetattr(self._file)
        tty.setcbreak(self._file)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            termios.tcsetattr(self._file, termios.TCSADRAIN, self._before)
        except termios.error:
            pass  # the terminal is gone

    def read_keys(self) -> list[str]:
        """What was typed since the last call; does not wait. TerminalClosedError once the terminal is gone."""
        if not select.select([self._file], [], [], 0.0)[0]:
            return []
        try:
            typed = os.read(self._file, 1024)
        except OSError:
            typed = b""
        if not typed:
            raise TerminalClosedError
        text = self._begun + typed.decode("utf-8", errors="replace")
        begun = _BEGUN.search(text)
        self._begun = begun[0] if begun else ""
        return _KEY.findall(text.removesuffix(self._begun))
