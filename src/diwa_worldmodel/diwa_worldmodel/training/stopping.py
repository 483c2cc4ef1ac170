"""Ctrl-C and SIGTERM as a wish that a loop grants when its state is sound."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def stopping_on_signals() -> Iterator[list[int]]:
    """The signals that came so far. The second one ends the program at once, as it would without this."""
    caught: list[int] = []
    before: dict[int, Any] = {}

    def on_signal(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        signal.signal(number, before[number])

    for wish in (signal.SIGINT, signal.SIGTERM):
        before[wish] = signal.signal(wish, on_signal)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
