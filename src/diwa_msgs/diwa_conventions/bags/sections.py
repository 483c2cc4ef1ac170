"""Stretches of a bag in which the recorder's clock ran on without a step.

Messages stand in a file in the order in which they were received. So a log time that goes back says that the clock was
set back there; one that leaps ahead on all topics says that it was set forward, or that nothing was recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from diwa_conventions.bags.chunks import IntArray
from diwa_conventions.bags.reader import TopicTimes

NS = 1_000_000_000
BACK_NS = NS // 200
"""A topic's log times go back by less than this only where threads of a recorder overtake each other."""
LEAP_NS = NS
"""All topics are silent for longer than this where the clock was set forward, or the recording paused."""
UNORDERED = 0.02
"""A topic with a larger share of messages that go back was not written in the order of time."""
STRAGGLER_NS = NS // 2
"""How long a topic may go on with the old time after another one shows the new time."""


@dataclass(frozen=True)
class Section:
    """A stretch of a bag between two steps of the recorder's clock."""

    ranges: Mapping[str, tuple[int, int]]
    """By topic, its first message and one past its last, counted over the bag."""
    begin_ns: int
    """Earliest log time."""
    end_ns: int
    """Latest log time."""
    duration_s: float
    """Recorded time: silences and single leaps count as LEAP_NS at most."""
    step_ns: int | None = None
    """By how much the log time changed before it; None for the first."""


@dataclass
class _Boundary:
    place: int
    """Number of the first message after the step, of all of the bag."""
    step_ns: int
    own: dict[str, int] = field(default_factory=dict)
    """Topics whose own first message after the step is known: messages may overtake each other there."""


def sections(times: Mapping[str, TopicTimes]) -> list[Section]:
    """The sections of a bag in their order, from the log times of some of its topics.

    Work and memory grow with the number of messages, not with the time that they span.
    """
    times = {name: topic for name, topic in times.items() if len(topic.log_ns)}
    if not times:
        return []
    boundaries = _steps_back(times)
    boundaries = sorted([*boundaries, *_leaps(times, boundaries)], key=lambda boundary: boundary.place)
    cuts = {name: _cuts(name, topic, boundaries) for name, topic in times.items()}
    found = []
    for number in range(len(boundaries) + 1):
        ranges = {name: (cut[number], cut[number + 1]) for name, cut in cuts.items()}
        inside = [times[name].log_ns[first:end] for name, (first, end) in ranges.items() if first < end]
        if inside:
            step_ns = boundaries[number - 1].step_ns if number else None
            begin_ns, end_ns = min(int(log.min()) for log in inside), max(int(log.max()) for log in inside)
            duration_s = float(_elapsed_s(np.sort(np.concatenate(inside)))[-1])
            found.append(Section(ranges, begin_ns, end_ns, duration_s, step_ns))
    return found


def _cuts(name: str, topic: TopicTimes, boundaries: list[_Boundary]) -> list[int]:
    """Numbers of a topic's messages at which sections begin, with 0 and the number of all."""
    at = [one.own.get(name, int(np.searchsorted(topic.place, one.place))) for one in boundaries]
    return list(accumulate([0, *at, len(topic.log_ns)], max))


def _steps_back(times: Mapping[str, TopicTimes]) -> list[_Boundary]:
    """Where topics go back in time. What several topics show of one step is one boundary."""
    boundaries: list[_Boundary] = []
    for place, name, number in sorted(_topic_steps(times)):
        topic = times[name]
        last = boundaries[-1] if boundaries else None
        if last is None or not _explains(last, topic, number):
            last = _Boundary(place, int(topic.log_ns[number] - topic.log_ns[number - 1]))
            boundaries.append(last)
        last.own[name] = number
    return boundaries


def _topic_steps(times: Mapping[str, TopicTimes]) -> Iterator[tuple[int, str, int]]:
    """Place, topic and number of each message that is earlier than the one before it on its topic."""
    for name, topic in times.items():
        back = np.flatnonzero(np.diff(topic.log_ns) < -BACK_NS) + 1
        if len(back) > max(10, UNORDERED * len(topic.log_ns)):
            continue
        for number in back.tolist():
            yield int(topic.place[number]), name, number


def _explains(boundary: _Boundary, topic: TopicTimes, number: int) -> bool:
    """Whether a topic's step at its message ``number`` is that of a boundary before it in the file."""
    first = int(np.searchsorted(topic.place, boundary.place))
    if first == number:
        return True
    # Its messages after the boundary still show the old time: they were overtaken on their way into the file.
    late = topic.log_ns[max(0, first - 1) : number]
    return first < number and bool(late[-1] - late[0] < STRAGGLER_NS and (np.diff(late) >= 0).all())


def _leaps(times: Mapping[str, TopicTimes], boundaries: list[_Boundary]) -> list[_Boundary]:
    """Where all topics are silent for longer than LEAP_NS, between steps back."""
    place = np.concatenate([topic.place for topic in times.values()])
    order = np.argsort(place)
    place, log_ns = place[order], np.concatenate([topic.log_ns for topic in times.values()])[order]
    cuts = [0, *np.searchsorted(place, [one.place for one in boundaries]).tolist(), len(place)]
    pieces = [slice(begin, end) for begin, end in zip(cuts, cuts[1:], strict=False)]
    return [leap for piece in pieces for leap in _leaps_in(place[piece], log_ns[piece])]


def _leaps_in(place: IntArray, log_ns: IntArray) -> Iterator[_Boundary]:
    newest, in_time = np.maximum.accumulate(log_ns), np.sort(log_ns)
    for i in (np.flatnonzero(log_ns[1:] - newest[:-1] > LEAP_NS) + 1).tolist():
        # Where topics were written one after the other, what seems to be missing comes later in the file.
        if np.searchsorted(in_time, newest[i - 1], "right") == np.searchsorted(in_time, log_ns[i], "left"):
            yield _Boundary(int(place[i]), int(log_ns[i] - newest[i - 1]))


def _elapsed_s(log_ns: IntArray) -> npt.NDArray[np.float64]:
    """(N,) recorded time at each message of a topic, silences counted as LEAP_NS at most."""
    steps = np.diff(np.maximum.accumulate(log_ns), prepend=log_ns[:1])
    return np.asarray(np.cumsum(np.minimum(steps, LEAP_NS)) / NS)


def parts(times: Mapping[str, TopicTimes], section: Section, longest_s: float) -> list[dict[str, tuple[int, int]]]:
    """A section's ranges in parts of about ``longest_s`` at most, so that not all of it has to be in memory."""
    name = max(section.ranges, key=lambda name: section.ranges[name][1] - section.ranges[name][0])
    log_ns = times[name].log_ns[slice(*section.ranges[name])]
    elapsed_s = _elapsed_s(log_ns)
    count = max(1, int(-(-section.duration_s // longest_s)))
    middle = np.linspace(0.0, section.duration_s, count + 1)[1:-1]
    edges = np.maximum.accumulate(log_ns)[np.minimum(np.searchsorted(elapsed_s, middle), len(log_ns) - 1)]
    cuts = {}
    for topic, (first, end) in section.ranges.items():
        inside = np.maximum.accumulate(times[topic].log_ns[first:end])
        cuts[topic] = [first, *(first + np.searchsorted(inside, edges)).tolist(), end]
    return [{topic: (cut[i], cut[i + 1]) for topic, cut in cuts.items()} for i in range(count)]
