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
PAUSE_S = 0.5
"""Commands may pause (the guard is disarmed): a longer gap between them is no loss."""
LATE_PERIODS = 1.5


@dataclass(frozen=True)
class Ordered:
    """The messages of one topic that can be used; N of them, in the order in which they arrived."""

    stamps_ns: IntArray
    """(N,) strictly increasing."""
    kept: IntArray
    """(N,) which messages of the topic these are."""
    delay_ns: float
    """Median of arrival minus stamp; 0 if the times of arrival had to stand in for the stamps."""
    report: TopicReport
    warnings: tuple[str, ...] = ()


def order(topic: str, role: Role, stamps_ns: IntArray, log_ns: IntArray, by_log: bool = False) -> Ordered:
    """The usable messages of a topic from stamps (N,) and times of arrival (N,) in the order of arrival.

    Messages without stamp (0) are left out; if none has one, or ``by_log``, the times of arrival stand in. So are
    duplicates and messages that others overtook. UserError for a clock that was set back.
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
    before = np.concatenate([[np.iinfo(np.int64).min], np.maximum.accumulate(times)[:-1]])
    duplicates, backwards = times == before, times < before
    _check_set_back(topic, backwards, times, arrivals)
    fresh = ~duplicates & ~backwards
    stamps = times[fresh]
    delays = arrivals[fresh] - stamps
    delay = float(np.median(delays)) if len(delays) else 0.0
    report = _report(topic, role, messages, stamps, delays, int(duplicates.sum()), int(backwards.sum()))
    return Ordered(stamps, kept[fresh], delay, report, warnings)


def _check_set_back(topic: str, backwards: npt.NDArray[np.bool_], times: IntArray, arrivals: IntArray) -> None:
    """UserError if messages stay behind an earlier stamp for longer than STEP_BACK_S."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], backwards, [False]]).astype(np.int8)))
    for begin, end in edges.reshape(-1, 2).tolist():
        if max(arrivals[end - 1] - arrivals[begin], times[end - 1] - times[begin]) > STEP_BACK_S * NS:
            back_s = float(times[:begin].max() - times[begin]) / NS
            raise UserError(
                f"stamps of {topic} jump back by {back_s:.2f} s at message {begin} and stay there (was its clock set "
                "back?); import by the times of arrival with: --clock log"
            )


def _report(
    topic: str, role: Role, messages: int, stamps: IntArray, delays: IntArray, duplicates: int, backwards: int
) -> TopicReport:
    rate = rate_hz(stamps)
    expected = expected_rate_hz(rate)
    gaps = np.diff(stamps) / NS
    if role in ("target_pose", "gripper_command"):
        gaps = gaps[gaps <= PAUSE_S]
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
