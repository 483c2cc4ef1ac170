"""Presses of buttons: changes from released to pressed."""

from __future__ import annotations

from collections.abc import Sequence


class Presses:
    """Compares each state of the buttons with the one before."""

    def __init__(self) -> None:
        self._before: list[bool] | None = None

    def new(self, buttons: Sequence[int]) -> list[int]:
        """Numbers of the buttons that were pressed since the last state; none at the first one."""
        now = [bool(button) for button in buttons]
        before, self._before = self._before, now
        if before is None:
            return []
        before = before + [False] * (len(now) - len(before))
        return [number for number, pressed in enumerate(now) if pressed and not before[number]]

    def forget(self) -> None:
        """What was held before counts no more: after an absence nothing is a press until it has been released."""
        self._before = None
