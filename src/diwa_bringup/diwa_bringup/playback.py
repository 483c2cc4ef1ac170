"""Plays a bag: which of its topics, under which names, and when each message is due. No ROS; the node is in ``nodes``.

Messages go out as they were recorded, byte by byte, in the order of their log times and as far apart as those are. A
message that is late is sent at once and never dropped. Stamps stay those of the recording, so whoever compares them
with a clock needs the recording's: the log time of the last message, going on with real time until the next one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from diwa_bringup.replay_graph import HIGHEST_RATE, LOWEST_RATE
from diwa_conventions import topics
from diwa_conventions.bags.definitions import full_name
from diwa_conventions.bags.reader import Bag, RawMessage
from diwa_conventions.errors import UserError, unknown

INPUTS = (
    topics.STATIC_IMAGE,
    topics.STATIC_INFO,
    topics.GRIPPER_IMAGE,
    topics.GRIPPER_INFO,
    topics.CURRENT_POSE,
    topics.JOINT_STATES,
    topics.TARGET_POSE,
    topics.GRIPPER_COMMAND,
    topics.GUARD_STATE,
    topics.EXECUTED_ACTION,
    topics.SCENE_STATE,
    topics.OPERATOR_POSE,
    topics.OPERATOR_JOY,
    topics.ANNOTATION,
)
"""What a policy and the importer see. Not what a policy or a node says about itself: that is said anew."""

CLOCK = "/clock"
TICK_S = 0.01
"""How often the clock is told at most, in real time."""
_ROUNDING_S = 1e-4


@dataclass(frozen=True)
class Track:
    """One topic that is played."""

    source: str
    """Its name in the bag."""
    name: str
    """To publish it under: relative to the player's namespace if it was recorded in the recording's."""
    type: str


@dataclass(frozen=True)
class Window:
    """What part of a bag is played, counted from its beginning; ``duration_s`` 0: to the end."""

    start_offset_s: float = 0.0
    duration_s: float = 0.0

    def bounds_ns(self, bag: Bag) -> tuple[int, int]:
        """First log time and one past the last. UserError if nothing is left."""
        begin_ns = bag.start_ns + round(self.start_offset_s * 1e9)
        if begin_ns > bag.end_ns:
            raise UserError(
                f"start_offset_s is {self.start_offset_s:g}, but {bag.path} is only {bag.duration_s:.1f} s long; "
                "expected less"
            )
        end_ns = begin_ns + round(self.duration_s * 1e9) if self.duration_s else bag.end_ns + 1
        return begin_ns, end_ns


def recorded_namespace(bag: Bag) -> str:
    """The namespace of the recording's topics: the one that it names, else the one that ours are found in.

    Empty if the bag has none of our topics. UserError if they are found in several.
    """
    named = "/" + bag.custom.get("namespace", "").strip("/")
    if named != "/" and any(name.startswith(f"{named}/") for name in bag.topics):
        return named
    ours = [topic.name for topic in topics.TOPICS if not topic.name.startswith("/")]
    found = {name.removesuffix(f"/{own}") or "/" for name in bag.topics for own in ours if name.endswith(f"/{own}")}
    if len(found) > 1:
        raise UserError(
            f"{bag.path} has topics of several namespaces: {', '.join(sorted(found))}; "
            "choose one with: recorded_namespace:=NAME"
        )
    return found.pop() if found else ""


def choose_tracks(bag: Bag, wanted: Sequence[str] = (), namespace: str = "") -> list[Track]:
    """What is played of a bag: the topics ``wanted``, by names relative to its namespace, or those of INPUTS it has.

    UserError for a name that nobody knows, and if nothing is left to be played.
    """
    space = "/" + namespace.strip("/") if namespace else recorded_namespace(bag)
    names = [full_name(name, space) for name in wanted or [topic.name for topic in INPUTS]]
    ours = {full_name(topic.name, space) for topic in topics.TOPICS}
    for given, name in zip(wanted, names, strict=False):
        if name not in bag.topics and name not in ours:
            raise unknown(f"topic of {bag.path}", given, bag.topics)
    chosen = [bag.topics[name] for name in dict.fromkeys(names) if name in bag.topics and bag.topics[name].messages]
    if not chosen:
        content = ", ".join(sorted(bag.topics)) or "no topics"
        raise UserError(
            f"{bag.path} has no message on {', '.join(names)}; it has {content}; choose with: topics:=NAME,NAME"
        )
    inside = f"{space.rstrip('/')}/"
    return [Track(topic.name, _published_name(topic.name, inside), topic.type) for topic in chosen]


def _published_name(source: str, inside: str) -> str:
    return source.removeprefix(inside) if source.startswith(inside) else source


class Stop(Protocol):
    """What a ``threading.Event`` is to a player: told to stop, and how it waits."""

    def is_set(self) -> bool: ...

    def wait(self, timeout: float | None = None) -> bool: ...


@dataclass
class Played:
    """What came of it."""

    messages: int = 0
    worst_late_s: float = 0.0
    worst_topic: str = ""

    def __str__(self) -> str:
        late = f"at worst {self.worst_late_s * 1e3:.1f} ms late"
        return f"{self.messages} messages, {late}" + (f" ({self.worst_topic})" if self.worst_topic else "")


class Player:
    """Sends messages when they are due: ``rate`` times as fast as they were recorded.

    ``tell_clock`` is called with the recording's time [ns], at most every TICK_S and never with one that is after a
    message that was not yet sent.
    """

    def __init__(
        self,
        rate: float,
        stop: Stop,
        send: Callable[[RawMessage], object],
        tell_clock: Callable[[int], object] | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        if not LOWEST_RATE <= rate <= HIGHEST_RATE:
            raise UserError(f"rate is {rate:g}; expected {LOWEST_RATE:g} to {HIGHEST_RATE:g}")
        self.played = Played()
        self._rate, self._stop, self._send, self._tell_clock, self._now_s = rate, stop, send, tell_clock, now_s
        self._told_s = -TICK_S

    def run(self, messages: Iterable[RawMessage]) -> bool:
        """Send all; the first at once. False if it was stopped before the end."""
        for message, due_s in self._schedule(iter(messages)):
            if not self._wait_until(due_s, message.log_ns):
                return False
            late_s = self._now_s() - due_s
            if late_s > self.played.worst_late_s:
                self.played.worst_late_s, self.played.worst_topic = late_s, message.topic
            self._send(message)
            self.played.messages += 1
        return not self._stop.is_set()

    def _schedule(self, messages: Iterator[RawMessage]) -> Iterator[tuple[RawMessage, float]]:
        """Every message with the time at which it is due."""
        first = next(messages, None)
        if first is None:
            return
        began_s = self._now_s()
        yield first, began_s
        for message in messages:
            yield message, began_s + (message.log_ns - first.log_ns) * 1e-9 / self._rate

    def _wait_until(self, due_s: float, log_ns: int) -> bool:
        """False if it is told to stop meanwhile."""
        while not self._stop.is_set():
            now_s = self._now_s()
            left_s = due_s - now_s
            if self._tell_clock is not None and now_s - self._told_s > TICK_S - _ROUNDING_S:
                self._told_s = now_s
                self._tell_clock(log_ns - round(max(left_s, 0.0) * self._rate * 1e9))
            if left_s <= 0.0:
                return True
            self._stop.wait(left_s if self._tell_clock is None else min(left_s, TICK_S))
        return False
