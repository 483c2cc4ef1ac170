"""Puts the stamps of one topic in order, compares clocks, and counts what was lost on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from diwa_conventions.errors import UserError
from diwa_worldmodel.dataset.clock_steps import NS, Clock, IntArray, LogStep, Shifts, clock_after, find_shifts
from diwa_worldmodel.dataset.records import Role, TopicReport

NOMINAL_RATES_HZ = (7.5, 15.0, 30.0, 60.0, 90.0, 120.0, 240.0, 250.0, 500.0, 1000.0)
NOMINAL_TOLERANCE = 0.1
CLOCK_LIMIT_S = 0.5
"""How far the clocks of two topics may be apart."""
_ENOUGH = 10
"""Messages that show a clock; single ones may have waited long for their recorder."""
SLIP_S = 1.0
"""A message whose stamp is this far before those recorded before it, or after those recorded after it, is left out."""
PAUSE_S = 0.5
"""Commands may pause (the guard is disarmed): a longer gap between them is no loss."""
LATE_PERIODS = 1.5
_NO_RESETS: IntArray = np.empty((0, 2), dtype=np.int64)
_NO_SHIFTS = Shifts(np.zeros(0, dtype=np.int64), ())


@dataclass(frozen=True)
class Ordered:
    """The messages of one topic that can be used; N of them, in the order of their stamps."""

    stamps_ns: IntArray
    """(N,) strictly increasing."""
    kept: IntArray
    """(N,) which messages of the topic these are, counted in the order of arrival."""
    delay_ns: float
    """Median of arrival minus stamp; 0 if the times of arrival had to stand in for the stamps."""
    report: TopicReport
    warnings: tuple[str, ...] = ()
    steps: tuple[tuple[int, int], ...] = ()
    """Steps of the topic's clock: stamp of the first message after each, and by how much it was set [ns]."""
    shifts: Shifts = field(default_factory=lambda: _NO_SHIFTS)
    """What was added to the stamps, by message with a stamp in the order of arrival."""
    log_ns: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """When these messages were received."""
    clock: Clock | None = None
    """At the end."""


def order(
    topic: str,
    role: Role,
    stamps_ns: IntArray,
    log_ns: IntArray,
    by_log: bool = False,
    resets_ns: IntArray = _NO_RESETS,
    clock: Clock | None = None,
    log_step: LogStep | None = None,
) -> Ordered:
    """The usable messages of a topic from stamps (N,) and times of arrival (N,) in the order of arrival.

    Messages that others overtook are put back in their place. Duplicates are left out, and so are messages without
    stamp (0); if none has one, or ``by_log``, the times of arrival stand in. While the scene is reset, between the
    stamps ``resets_ns`` (R, 2), nothing is lost. Where the topic's clock was set, stamps are put on the clock that it
    had before; ``clock`` and ``log_step`` as of :func:`find_shifts`.
    """
    warnings: tuple[str, ...] = ()
    messages = len(stamps_ns)
    present = stamps_ns > 0
    if not by_log and messages and not present.any():
        warnings = (f"{topic} has no stamps: times of arrival were used",)
        by_log = True
    kept = np.arange(messages) if by_log else np.flatnonzero(present)
    if len(kept) < messages:
        warnings = (f"{topic}: {messages - len(kept)} of {messages} messages have no stamp and were left out",)
    arrivals, recorded = log_ns[kept], stamps_ns[kept]
    shifts = _NO_SHIFTS if by_log else find_shifts(recorded, arrivals, clock, log_step)
    times = arrivals if by_log else recorded + shifts.shift_ns
    steps = tuple((int(times[first]), step_ns) for first, step_ns in shifts.steps)
    after = None if by_log else clock_after(recorded, arrivals, shifts, clock)
    sound = _sound(times)
    if not sound.all():
        warnings = (
            *warnings,
            f"{topic}: {int((~sound).sum())} messages are stamped over {SLIP_S:g} s out of order and were left out",
        )
    received = arrivals
    kept, times, arrivals = kept[sound], times[sound], arrivals[sound]
    before = np.concatenate([[np.iinfo(np.int64).min], np.maximum.accumulate(times)[:-1]])
    backwards = times < before
    sequence = np.argsort(times, kind="stable")
    fresh = sequence[np.append(True, np.diff(times[sequence]) > 0)[: len(sequence)]]
    stamps = times[fresh]
    delays = arrivals[fresh] - stamps
    delay = float(np.median(delays)) if len(delays) else 0.0
    gaps = _gaps_s(role, stamps, resets_ns)
    report = _report(topic, role, messages, stamps, gaps, delays, len(times) - len(fresh), int(backwards.sum()))
    return Ordered(stamps, kept[fresh], delay, report, warnings, steps, shifts, received, after)


def _gaps_s(role: Role, stamps: IntArray, resets_ns: IntArray) -> npt.NDArray[np.float64]:
    """Distances [s] of the stamps, without those that are meant: pauses of commands, resets of the scene."""
    gaps = np.diff(stamps) / NS
    meant = np.zeros(len(gaps), dtype=bool)
    for begin, end in resets_ns.tolist():
        first, last = np.searchsorted(stamps, begin, "right"), np.searchsorted(stamps, end, "left")
        meant[max(0, int(first) - 1) : int(last)] = True
    if role in ("target_pose", "gripper_command"):
        meant |= gaps > PAUSE_S
    return gaps[~meant]


def _sound(times: IntArray) -> npt.NDArray[np.bool_]:
    """(N,) False for messages whose stamps are slips of a driver.

    They lie far ahead of all that come after them, or far behind most of those that came before.
    """
    if not len(times):
        return np.ones(0, dtype=np.bool_)
    after = np.minimum.accumulate(times[::-1])[::-1]
    ahead = times - after > SLIP_S * NS
    # One slip back would make all messages before it seem to be ahead: the fewer are the slips.
    before = np.maximum.accumulate(times)
    behind = before - times > SLIP_S * NS
    return np.asarray(~ahead if ahead.sum() <= behind.sum() else ~behind)


def _report(
    topic: str,
    role: Role,
    messages: int,
    stamps: IntArray,
    gaps: npt.NDArray[np.float64],
    delays: IntArray,
    duplicates: int,
    backwards: int,
) -> TopicReport:
    rate = rate_hz(stamps)
    expected = expected_rate_hz(rate)
    dropped = int(np.maximum(np.rint(gaps * expected) - 1.0, 0.0).sum()) if expected else 0
    beyond = delays - np.median(delays) if len(delays) else delays
    late = int((beyond > LATE_PERIODS / expected * NS).sum()) if expected else 0
    largest = float(gaps.max()) if len(gaps) else 0.0
    return TopicReport(
        topic, role, messages, round(rate, 3), round(expected, 3), dropped, late, duplicates, backwards, largest
    )


def rate_hz(stamps: IntArray) -> float:
    """One over the median distance of increasing stamps (N,); 0 for fewer than two."""
    return float(NS / np.median(np.diff(stamps))) if len(stamps) > 1 else 0.0


def expected_rate_hz(rate: float) -> float:
    """The usual rate that a measured one is near to, else the measured one."""
    nearest = min(NOMINAL_RATES_HZ, key=lambda nominal: abs(nominal - rate))
    return nearest if abs(nearest - rate) <= NOMINAL_TOLERANCE * nearest else rate


def check_clocks(topics: Mapping[str, Ordered], reference: str) -> None:
    """UserError if a topic's stamps come from another clock than the reference's, by their distance to the arrival."""
    if not len(topics[reference].stamps_ns):
        return
    for name, topic in topics.items():
        apart_s = (topics[reference].delay_ns - topic.delay_ns) / NS
        if len(topic.stamps_ns) >= _ENOUGH and abs(apart_s) > CLOCK_LIMIT_S:
            raise UserError(
                f"clocks differ: {name} is stamped {abs(apart_s):.2f} s {'ahead of' if apart_s > 0 else 'behind'} "
                f"{reference}; let both sources use one clock (NTP, use_sim_time), or import by the times of arrival "
                "with: --clock log"
            )
