"""When an attempt gets its mark: success at the moment it is seen done, failure when it ends without."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mark:
    """A skill was done, or an attempt at it has failed; ``stamp_ns``: the moment."""

    skill: str
    success: bool
    stamp_ns: int


class AttemptMarks:
    """Sees which attempt is under way, moment by moment, and gives each attempt at a task one mark."""

    def __init__(self) -> None:
        self._number = -1
        self._task = ""
        self._open = False
        self._last_ns = 0

    def see(self, number: int, task: str, done: bool, stamp_ns: int) -> list[Mark]:
        """Attempt ``number`` at ``task`` ("": none) is under way; ``done``: its oracle holds. The marks due now."""
        marks = [] if number == self._number else self._begin(number, task)
        if self._open and done:
            self._open = False
            marks.append(Mark(self._task, True, stamp_ns))
        self._last_ns = stamp_ns
        return marks

    def end(self) -> list[Mark]:
        """The attempt is over, at the last moment that was seen."""
        marks = [Mark(self._task, False, self._last_ns)] if self._open else []
        self._open = False
        return marks

    def forget(self) -> None:
        """The attempt was broken off by somebody else: it was neither."""
        self._open, self._number = False, -1

    def _begin(self, number: int, task: str) -> list[Mark]:
        marks = self.end()
        self._number, self._task, self._open = number, task, bool(task)
        return marks
