"""Puts the stamps of one topic in order, compares clocks, and counts what was lost on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from diwa_conventions.errors import UserError
from diwa_worldmodel.dataset.records import Role, TopicReport

IntArray: TypeAlias = npt.NDArray[np.int64]

NS = 1_000_000_000
NOMINAL_RATES_HZ = (7.5, 15.0, 30.0, 60.0, 90.0, 120.0, 240.0, 250.0, 500.0, 1000.0)
NOMINAL_TOLERANCE = 0.1
CLOCK_LIMIT_S = 0.5
"""How far the clocks of two topics may be apart."""
STEP_BACK_S = 1.0
"""A clock that stays back for longer than this was set back, messages did not just overtake each other."""
SLIPS = 2
"""So many messages with a stamp from the future are slips; more are a clock."""
SHIFT_S = 0.1
"""A run of messages behind an earlier stamp, whose way took longer by this from then on, has met a clock set back."""
_ENOUGH = 10
PAUSE_S = 0.5
"""Commands may pause (the guard is disarmed): a longer gap between them is no loss."""
LATE_PERIODS = 1.5
_NO_RESETS: IntArray = np.empty((0, 2), dtype=np.int64)


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


def order(
    topic: str,
    role: Role,
    stamps_ns: IntArray,
    log_ns: IntArray,
    by_log: bool = False,
    resets_ns: IntArray = _NO_RESETS,
) -> Ordered:
    """The usable messages of a topic from stamps (N,) and times of arrival (N,) in the order of arrival.

    Messages that others overtook are put back in their place. Duplicates are left out, and so are messages without
    stamp (0); if none has one, or ``by_log``, the times of arrival stand in. While the scene is reset, between the
    stamps ``resets_ns`` (R, 2), nothing is lost. UserError for a clock that was set back.
    """
    warnings: tuple[str, ...] = ()
    messages = len(stamps_ns)
    present = stamps_ns > 0
    if not by_log and messages and not present.any():
        warnings = (f"{topic} has no stamps: times of arrival were used",)
        by_log = True
    times = log_ns if by_log else stamps_ns
    kept = np.arange(messages) if by_log else np.flatnonzero(present)
    if len(kept) < messages:
        warnings = (f"{topic}: {messages - len(kept)} of {messages} messages have no stamp and were left out",)
    times, arrivals = times[kept], log_ns[kept]
    sound = _sound(times)
    if not sound.all():
        warnings = (*warnings, f"{topic}: {int((~sound).sum())} messages are stamped far ahead and were left out")
        kept, times, arrivals = kept[sound], times[sound], arrivals[sound]
    before = np.concatenate([[np.iinfo(np.int64).min], np.maximum.accumulate(times)[:-1]])
    backwards = times < before
    _check_set_back(topic, backwards, times, arrivals)
    sequence = np.argsort(times, kind="stable")
    fresh = sequence[np.diff(times[sequence], prepend=-1) > 0]
    stamps = times[fresh]
    delays = arrivals[fresh] - stamps
    delay = float(np.median(delays)) if len(delays) else 0.0
    gaps = _gaps_s(role, stamps, resets_ns)
    report = _report(topic, role, messages, stamps, gaps, delays, len(times) - len(fresh), int(backwards.sum()))
    return Ordered(stamps, kept[fresh], delay, report, warnings)


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
    """(N,) False for the few messages whose stamps lie far ahead of all that come after them: a driver's slip."""
    after = np.minimum.accumulate(times[::-1])[::-1]
    ahead = times - after > STEP_BACK_S * NS
    return ~ahead if ahead.sum() <= SLIPS else np.ones(len(times), dtype=bool)


def _check_set_back(topic: str, backwards: npt.NDArray[np.bool_], times: IntArray, arrivals: IntArray) -> None:
    """UserError if messages stay behind an earlier stamp for longer than STEP_BACK_S."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], backwards, [False]]).astype(np.int8)))
    for begin, end in edges.reshape(-1, 2).tolist():
        lasts = max(arrivals[end - 1] - arrivals[begin], times[end - 1] - times[begin]) > STEP_BACK_S * NS
        if lasts or (end - begin > SLIPS and _shift_s(arrivals - times, begin, end) > SHIFT_S):
            back_s = float(times[:begin].max() - times[begin]) / NS
            raise UserError(
                f"stamps of {topic} jump back by {back_s:.2f} s at message {begin} and stay there (was its clock set "
                "back?); import by the times of arrival with: --clock log"
            )


def _shift_s(delays: IntArray, begin: int, end: int) -> float:
    """How much longer messages seem to take from the run ``begin`` to ``end`` on than before it."""
    before, after = delays[max(0, begin - 30) : begin], delays[begin : end + 30]
    return float(np.median(after) - np.median(before)) / NS if len(before) >= _ENOUGH else 0.0


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
        if len(topic.stamps_ns) and abs(apart_s) > CLOCK_LIMIT_S:
            raise UserError(
                f"clocks differ: {name} is stamped {abs(apart_s):.2f} s {'ahead of' if apart_s > 0 else 'behind'} "
                f"{reference}; let both sources use one clock (NTP, use_sim_time), or import by the times of arrival "
                "with: --clock log"
            )
