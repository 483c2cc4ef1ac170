"""What is known of each topic of a recording: how many messages came, how many are missing, how fast they come."""

from __future__ import annotations

import statistics
import struct
from collections import deque
from dataclasses import dataclass

from diwa_conventions.topics import (
    ACTION,
    CURRENT_POSE,
    EXECUTED_ACTION,
    GRIPPER_IMAGE,
    GRIPPER_INFO,
    JOINT_STATES,
    SCENE_STATE,
    STATIC_IMAGE,
    STATIC_INFO,
    TARGET_POSE,
    Topic,
)

STREAMS = (STATIC_IMAGE, STATIC_INFO, GRIPPER_IMAGE, GRIPPER_INFO, CURRENT_POSE, JOINT_STATES, SCENE_STATE)
"""These never pause: a gap between two stamps means missing messages."""
PAUSING = (TARGET_POSE, ACTION, EXECUTED_ACTION)
"""Here a long gap is a pause (the guard is disarmed, the clutch is open), a short one means missing messages."""
PAUSE_S = 0.5
_STREAM_NAMES, _PAUSING_NAMES = {topic.name for topic in STREAMS}, {topic.name for topic in PAUSING}

_RATE_WINDOW_S = 2.0
_USUAL_OF = 31
"""Number of gaps between stamps whose median is the usual one ..."""
_USUAL_FROM = 5
"""... once there are so many."""


def header_stamp_ns(data: bytes) -> int | None:
    """Stamp of a serialized message whose first field is a std_msgs/Header; None if it is too short."""
    if len(data) < 12:
        return None
    seconds, nanoseconds = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
    return int(seconds) * 10**9 + int(nanoseconds)


def action_sequence(data: bytes) -> tuple[str, int] | None:
    """Source and sequence of a serialized DeltaAction; None if the bytes are none."""
    order = "<" if data[1:2] == b"\1" else ">"
    try:
        at = 12  # header: encapsulation 4, stamp 8
        at = _after_string(data, order, at)
        begin = at + 4 + -at % 4
        at = _after_string(data, order, at)
        at += -(at - 4) % 8  # counted from behind the encapsulation
        (sequence,) = struct.unpack_from(order + "Q", data, at)
    except struct.error:
        return None
    return bytes(data[begin:at]).split(b"\0", 1)[0].decode(errors="replace"), int(sequence)


def _after_string(data: bytes, order: str, at: int) -> int:
    at += -at % 4
    (length,) = struct.unpack_from(order + "I", data, at)
    return at + 4 + int(length)


class Sequences:
    """Counts gaps in numbers that should go up by one, for each sender by itself."""

    def __init__(self) -> None:
        self._last: dict[object, int] = {}
        self.missing = 0

    def add(self, sender: object, number: int) -> None:
        last = self._last.get(sender)
        # One that goes back is a sender that began anew.
        if last is not None and number > last + 1:
            self.missing += number - last - 1
        self._last[sender] = number


class Stamps:
    """Counts messages that are missing between two stamps.

    They are as far apart as expected or, from a slower sender, as usual; gaps longer than ``pause_s`` are pauses.
    """

    def __init__(self, rate_hz: float, pause_s: float = float("inf")) -> None:
        self._expected_s = 1.0 / rate_hz
        self._pause_s = pause_s
        self._gaps: deque[float] = deque(maxlen=_USUAL_OF)
        self._last_ns: int | None = None
        self.missing = 0

    def add(self, stamp_ns: int) -> None:
        last_ns, self._last_ns = self._last_ns, stamp_ns
        if last_ns is None or stamp_ns <= last_ns:
            return
        gap_s = (stamp_ns - last_ns) * 1e-9
        if gap_s > self._pause_s:
            return
        if len(self._gaps) >= _USUAL_FROM:
            usual_s = max(self._expected_s, statistics.median(self._gaps))
            # Messages that come late in a bunch take back what the gap before them counted.
            self.missing = max(0, self.missing + round(gap_s / usual_s) - 1)
        self._gaps.append(gap_s)


@dataclass(frozen=True)
class TopicReport:
    """How a topic is doing."""

    topic: str
    received: int
    refused: int
    """For which the recorder's queue had no room."""
    missing: int
    """Known to have been sent or due, but never received."""
    rate_hz: float
    age_s: float
    """Since the newest message; -1 if there is none."""

    @property
    def dropped(self) -> int:
        return self.refused + self.missing


class TopicMonitor:
    """Counts of one topic, from the start of a recording."""

    def __init__(self, topic: Topic, name: str) -> None:
        self.name = name
        self._topic = topic
        self._received = 0
        self._refused = 0
        self._newest_s: float | None = None
        self._recent: deque[tuple[float, int]] = deque()
        self._published = Sequences()
        self._actions = Sequences()
        self._stamps: Stamps | None = None
        if topic.name in _STREAM_NAMES:
            self._stamps = Stamps(topic.rate_hz)
        elif topic.name in _PAUSING_NAMES:
            self._stamps = Stamps(topic.rate_hz, PAUSE_S)

    def add(self, data: bytes, now_s: float, publisher: object, number: int | None, refused: bool) -> None:
        """One message; ``number`` is the publisher's own, if it is known."""
        self._received += 1
        self._refused += refused
        self._newest_s = now_s
        if number is not None:
            self._published.add(publisher, number)
        if self._topic.name in (ACTION.name, EXECUTED_ACTION.name):
            action = action_sequence(data)
            if action:
                self._actions.add(*action)
        if self._stamps:
            stamp_ns = header_stamp_ns(data)
            if stamp_ns is not None:
                self._stamps.add(stamp_ns)

    def report(self, now_s: float) -> TopicReport:
        """To be asked about once a second; the rate is that of the last two."""
        while self._recent and now_s - self._recent[0][0] > _RATE_WINDOW_S * 1.25:
            self._recent.popleft()
        began_s, before = self._recent[0] if self._recent else (now_s, self._received)
        rate_hz = (self._received - before) / (now_s - began_s) if now_s > began_s else 0.0
        self._recent.append((now_s, self._received))
        # One lost message shows in each of them.
        missing = max(self._published.missing, self._actions.missing, self._stamps.missing if self._stamps else 0)
        age_s = -1.0 if self._newest_s is None else max(0.0, now_s - self._newest_s)
        return TopicReport(self.name, self._received, self._refused, missing, rate_hz, age_s)
