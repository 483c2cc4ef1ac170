"""Steps of one sensor's clock, seen in how far its stamps lie before their messages' times of arrival.

A message takes about as long as the one before it. Where that time changes for good, and the stamps leap while the
messages still arrive evenly, the sensor's clock was set. Its stamps are put back on the clock that it had for longest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

IntArray: TypeAlias = npt.NDArray[np.int64]

NS = 1_000_000_000
STEP_NS = NS * 3 // 100
"""Smaller steps are not told from messages that take longer than others."""
WINDOW_S = 0.5
"""How much before and after a step is compared."""
_FEWEST, _MOST = 5, 500
"""Messages that are compared."""
_STEADY = 0.3
"""Before and after a step of less than a second, nearly all messages differ by less than this part of it."""
_LASTS = 3
"""Fewer messages on another clock than this are slips of a driver, and no step."""
_NOISE = 3.0
"""A step is larger than this many times the usual deviation."""
_MANY = 0.2
"""Where more of the messages than this take another time than the one before them, nothing can be said."""
SAME_STEP_NS = NS * 3 // 10
"""A sensor's step is taken for the recorder's where they differ by no more than this."""


@dataclass(frozen=True)
class Clock:
    """What is known of a sensor's clock at the end of a part of a bag, for the next part."""

    shift_ns: int
    """What was added to its last stamps."""
    stamps_ns: IntArray
    """(n,) Its last stamps as they were recorded."""
    log_ns: IntArray
    """(n,) When these messages were received."""


@dataclass(frozen=True)
class Shifts:
    """What has to be added to the N stamps of a topic, and where that changes."""

    shift_ns: IntArray
    """(N,)"""
    steps: tuple[tuple[int, int], ...]
    """First message after each step, and by how much the clock was set there [ns]."""


@dataclass(frozen=True)
class LogStep:
    """A step of the recorder's clock between two parts of a bag."""

    by_ns: int
    common_ns: int
    """By how much the stamps of most topics moved against it."""


def find_shifts(
    stamps_ns: IntArray, log_ns: IntArray, before: Clock | None = None, log_step: LogStep | None = None
) -> Shifts:
    """Of a topic's stamps and times of arrival (N,) in the order in which its messages were recorded.

    ``before``: its clock in the part before; ``log_step``: how the recorder's clock was set between the two.
    """
    history = len(before.stamps_ns) if before else 0
    stamps = np.concatenate([before.stamps_ns, stamps_ns]) if before else stamps_ns
    logs = np.concatenate([before.log_ns, log_ns]) if before else log_ns
    ahead = stamps - logs
    if log_step:
        # What most topics do is the recorder's step: only a clock of another kind has moved against them.
        ahead[history:] -= log_step.common_ns
    steps = _steps(stamps, logs, ahead, history, log_step)
    shift = np.zeros(len(stamps), dtype=np.int64)
    for first, step_ns in steps:
        shift[first:] -= step_ns
    anchor = before.shift_ns - int(shift[history - 1]) if before and history else -_longest(shift)
    shift += anchor
    return Shifts(shift[history:], tuple((first - history, step) for first, step in steps if first >= history))


def log_step_of(
    by_ns: int, clocks: Mapping[str, Clock | None], times: Mapping[str, tuple[IntArray, IntArray]]
) -> LogStep | None:
    """The step of the recorder's clock before a part, seen by the clocks before it and the stamps and times in it."""
    if not by_ns:
        return None
    moved: list[float] = []
    for name, (stamps, logs) in times.items():
        clock = clocks.get(name)
        if clock is not None and len(stamps):
            count = len(clock.stamps_ns)
            moved.append(float(np.median((stamps - logs)[:count]) - np.median(clock.stamps_ns - clock.log_ns)))
    if not moved:
        return LogStep(by_ns, 0)
    common: float = max(moved, key=lambda one: (_alike(one, moved), -abs(one)))
    return LogStep(by_ns, round(common))


def _alike(one: float, others: list[float]) -> int:
    return sum(abs(one - other) < SAME_STEP_NS for other in others)


def clock_after(stamps_ns: IntArray, log_ns: IntArray, shifts: Shifts, before: Clock | None) -> Clock | None:
    """A topic's clock at the end of a part; that of the part before where it has no message in this one."""
    if not len(stamps_ns):
        return before
    count = _window(stamps_ns)
    return Clock(int(shifts.shift_ns[-1]), stamps_ns[-count:].copy(), log_ns[-count:].copy())


def _longest(shift: IntArray) -> int:
    """The shift that most messages have; the first of several."""
    values, first, counts = np.unique(shift, return_index=True, return_counts=True)
    if not len(values):
        return 0
    return int(values[min(range(len(values)), key=lambda i: (-counts[i], first[i]))])


def _window(stamps_ns: IntArray) -> int:
    spacing = float(np.median(np.abs(np.diff(stamps_ns)))) if len(stamps_ns) > 1 else 0.0
    return int(np.clip(WINDOW_S * NS / spacing if spacing else _FEWEST, _FEWEST, _MOST))


def _steps(
    stamps: IntArray, logs: IntArray, ahead: IntArray, history: int, log_step: LogStep | None
) -> list[tuple[int, int]]:
    """First message after each step and its size."""
    places = np.flatnonzero(np.abs(np.diff(ahead)) > STEP_NS) + 1
    if len(places) > 10 + _MANY * len(stamps):
        return []
    count, found, last = _window(stamps), list[tuple[int, int]](), 0
    for place in places.tolist():
        before, after = ahead[max(last, place - count) : place], ahead[place : place + count]
        step_ns = int(np.median(after) - np.median(before))
        if len(after) < _LASTS or abs(step_ns) <= max(STEP_NS, _NOISE * (_deviation(before) + _deviation(after))):
            continue
        if abs(step_ns) < NS and max(_spread(before), _spread(after)) > _STEADY * abs(step_ns):
            continue  # a recorder that is behind now and then, on a busy machine
        if log_step and place == history:
            # A sensor with a clock of its own did not follow the recorder's step, or it alone did.
            own = abs(abs(step_ns) - abs(log_step.by_ns)) < SAME_STEP_NS
        else:
            own = _leaps(stamps, logs, place)
        if own:
            found.append((place, step_ns))
            last = place
    return found


def _deviation(values: IntArray) -> float:
    return float(np.median(np.abs(values - np.median(values))))


def _spread(values: IntArray) -> float:
    low, high = np.percentile(values, (5, 95))
    return float(high - low)


def _leaps(stamps: IntArray, logs: IntArray, place: int) -> bool:
    """Whether the stamps leap before a message, and not the times of arrival: lost messages make both leap alike."""
    spacing = float(np.median(np.abs(np.diff(stamps[max(0, place - _MOST) : place + _MOST]))))
    apart_stamp, apart_log = float(stamps[place] - stamps[place - 1]), float(logs[place] - logs[place - 1])
    if spacing <= 0:
        return abs(apart_stamp) > abs(apart_log)
    stamp, log = (abs(apart - max(1, round(apart / spacing)) * spacing) for apart in (apart_stamp, apart_log))
    if abs(stamp - log) > NS / 500:
        return stamp > log
    return abs(apart_stamp - spacing) > abs(apart_log - spacing)
