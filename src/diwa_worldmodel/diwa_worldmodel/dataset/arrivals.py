"""Messages on their way into a bag: kept in the order in which they come, and counted, so that a loss is noticed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from diwa_conventions.bags.definitions import Connection
from diwa_conventions.bags.writer import BagWriter


@dataclass
class Arrivals:
    """What came on one topic. Publishers number their messages, each for itself."""

    connection: Connection
    received: int = 0
    lost: int = 0
    """Numbers that are missing between two that came."""
    before: int = 0
    """Messages that publishers had sent before the first one that came."""
    newest_ns: int = 0
    """Log time of the newest message."""
    _last: dict[bytes, int] = field(default_factory=dict)

    def count(self, publisher: bytes, number: int | None) -> None:
        """One message; ``number`` None if the middleware does not say it."""
        self.received += 1
        if number is None:
            return
        last = self._last.get(publisher)
        if last is None:
            self.before += max(0, number - 1)
        elif number > last + 1:  # one that goes back is a publisher that began anew
            self.lost += number - last - 1
        self._last[publisher] = number


class SendingTimes:
    """When messages were sent, on a clock that may run faster than the machine's: that of a bag that is played.

    Not when they were received: a receiver that is 0.1 s behind is a second behind on a clock ten times as fast.
    """

    def __init__(self) -> None:
        self._first: tuple[int, int] | None = None
        self._tick = (0, 0)

    def log_ns(self, sent_ns: int, now_ns: int, clock_ns: int) -> int:
        """``sent_ns`` and ``now_ns`` of the machine's clock, ``clock_ns`` what the other says now."""
        if self._first is None:
            self._first = self._tick = (now_ns, clock_ns)
        if clock_ns != self._tick[1]:
            self._tick = (now_ns, clock_ns)
        passed_ns = self._tick[0] - self._first[0]
        speed = (self._tick[1] - self._first[1]) / passed_ns if passed_ns else 0.0
        return self._tick[1] + round((sent_ns - self._tick[0]) * speed)


class ArrivalBag:
    """A bag that begins with the first message and is closed once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.topics: list[Arrivals] = []
        self.newest_s = 0.0
        """When the newest message came, of ``time.monotonic``."""
        self._writer: BagWriter | None = None
        self._channels: dict[str, int] = {}

    @property
    def messages(self) -> int:
        return sum(one.received for one in self.topics)

    def add(self, connection: Connection) -> Arrivals:
        """A topic that may come."""
        self.topics.append(Arrivals(connection))
        return self.topics[-1]

    def keep(self, one: Arrivals, log_ns: int, data: bytes, publisher: bytes, number: int | None) -> None:
        """A message that came. OSError if the disk is full.

        A topic's log times go up, however they were estimated: they are the order of its messages.
        """
        self.newest_s = time.monotonic()
        one.newest_ns = max(one.newest_ns + 1, log_ns)
        one.count(publisher, number)
        if self._writer is None:
            self._writer = BagWriter(self.folder)
        name = one.connection.topic
        if name not in self._channels:
            self._channels[name] = self._writer.add(one.connection)
        self._writer.write(self._channels[name], one.newest_ns, data, sequence=number or 0)

    def tick(self) -> None:
        """To be called now and then, also while nothing comes: what is old enough goes to the disk."""
        if self._writer is not None:
            self._writer.tick()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def losses(self) -> list[str]:
        """A line for each topic of which messages are known to be missing."""
        lines = []
        for one in self.topics:
            if one.lost:
                lines.append(f"{one.connection.topic}: {one.lost} of {one.received + one.lost} messages were lost")
            if one.before:
                lines.append(f"{one.connection.topic}: {one.before} messages were sent before the first one that came")
        return lines
