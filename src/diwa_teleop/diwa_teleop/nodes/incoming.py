"""What the recorder listens to: raw subscriptions on the topics of the graph, and on others by name."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from diwa_conventions import topics
from diwa_conventions.bags.definitions import Connection, full_name, of_type
from diwa_conventions.errors import UserError
from diwa_conventions.qos import message_type, subscribe_raw
from diwa_conventions.topics import Topic
from diwa_teleop.recording.statistics import TopicMonitor, TopicReport

ROSOUT = Topic("/rosout", "rcl_interfaces/msg/Log", True, 1000, 0.0, "log of all nodes")
CLOCK = Topic("/clock", "rosgraph_msgs/msg/Clock", False, 1, 0.0, "simulated time")

RECORDED = (*(t for t in topics.TOPICS if t not in (topics.RECORDER_STATE, topics.ANNOTATION)), ROSOUT, CLOCK)
"""Not the recorder's own state; its annotations it writes itself."""

_DEPTH = 50
"""Messages that may wait in the middleware while a callback runs: 0.4 s of the fastest topic."""

Deliver = Callable[["Incoming", bytes, int, int, int], bool]
"""Stream, message, log time [ns], publish time [ns], the publisher's number; False: there was no room for it."""


@dataclass(eq=False)
class Incoming:
    """One topic that is listened to."""

    topic: Topic
    connection: Connection
    """As it stands in the bag: under the topic's own name, also when the node is told to listen elsewhere."""
    monitor: TopicMonitor
    channel: int | None = None
    """In the present bag; None before its first message there."""
    subscription: Any = None
    heard: bool = False
    """Whether any message ever came."""


class Listener:
    """Makes the subscriptions of a node and hands every message to ``deliver``."""

    def __init__(self, node: Node, extra_topics: Iterable[str], deliver: Deliver) -> None:
        self._node = node
        self._deliver = deliver
        self._space = node.get_namespace()
        self.incoming: list[Incoming] = []
        for topic in RECORDED:
            self._listen(topic)
        known = {one.connection.topic for one in self.incoming}
        names = {full_name(name, self._space) for name in extra_topics}
        self.undiscovered = sorted(names - known)
        """Further topics whose type nobody has told yet."""

    def begin(self) -> None:
        """A new bag: all counts begin anew."""
        for one in self.incoming:
            one.channel = None
            one.monitor = TopicMonitor(one.topic, one.connection.topic)

    def reports(self) -> list[TopicReport]:
        """Of all topics that came or that were asked for."""
        now_s = time.monotonic()
        return [one.monitor.report(now_s) for one in self.incoming]

    def discover(self) -> None:
        """Listen to further topics that exist by now, and to publishers that are best effort against our table."""
        for one in self.incoming:
            if not one.heard and one.topic.reliable and self._is_best_effort(one.topic.name):
                self._node.destroy_subscription(one.subscription)
                one.topic = replace(one.topic, reliable=False)
                self._subscribe(one)
        types = self._types() if self.undiscovered else {}
        for name in [name for name in self.undiscovered if name in types]:
            self.undiscovered.remove(name)
            profiles = [info.qos_profile for info in self._node.get_publishers_info_by_topic(name)]
            latched = bool(profiles) and all(one.durability == DurabilityPolicy.TRANSIENT_LOCAL for one in profiles)
            topic = Topic(name, types[name], not self._is_best_effort(name), _DEPTH, 0.0, "named by a parameter")
            try:
                self._listen(topic, latched)
            except (UserError, ImportError, AttributeError) as error:
                self._node.get_logger().error(f"{name} is not recorded: {error}")

    def _is_best_effort(self, name: str) -> bool:
        """Whether a publisher offers less than a reliable subscriber wants: that one would get nothing."""
        publishers = self._node.get_publishers_info_by_topic(self._node.resolve_topic_name(name))
        return any(info.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT for info in publishers)

    def unheard(self, names: Iterable[str]) -> list[str]:
        """Those of the topics from which nothing came yet."""
        heard = {one.connection.topic for one in self.incoming if one.heard}
        return [name for name in names if full_name(name, self._space) not in heard]

    def why_unheard(self, given: str) -> str:
        """The reason, and what to do."""
        name = full_name(given, self._space)
        topic = next((one.topic for one in self.incoming if one.connection.topic == name), None)
        place = self._node.resolve_topic_name(topic.name if topic else given)
        publishers = self._node.get_publishers_info_by_topic(place)
        if publishers:
            kinds = {info.topic_type for info in publishers}
            if topic and topic.type not in kinds:
                return f"{place} has type {', '.join(sorted(kinds))}; expected {topic.type}"
            return f"{place} is published by {publishers[0].node_name}, but nothing has come yet"
        alike = _alike(place, topic.type if topic else None, self._types())
        hint = f"; similar: {', '.join(alike)}; for the first: --ros-args -r {given}:={alike[0]}" if alike else ""
        return f"nobody publishes {place}{hint}"

    def _types(self) -> dict[str, str]:
        return {name: kinds[0] for name, kinds in self._node.get_topic_names_and_types() if kinds}

    def _listen(self, topic: Topic, latched: bool = False) -> None:
        name = full_name(topic.name, self._space)
        one = Incoming(topic, of_type(name, topic.type, topic.reliable, topic.depth), TopicMonitor(topic, name))
        self._subscribe(one, latched)
        self.incoming.append(one)

    def _subscribe(self, one: Incoming, latched: bool = False) -> None:
        topic = one.topic
        profile = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=max(topic.depth, _DEPTH),
            reliability=ReliabilityPolicy.RELIABLE if topic.reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )

        def on_message(data: bytes, info: Mapping[str, Any]) -> None:
            self._on_message(one, data, info)

        kind = message_type(topic)
        one.subscription = subscribe_raw(self._node, kind, topic.name, on_message, profile)

    def _on_message(self, one: Incoming, data: bytes, info: Mapping[str, Any]) -> None:
        one.heard = True
        # Not info's received_timestamp: that of a message that had to be sent again is out of order.
        log_ns = time.time_ns()
        number = info.get("publication_sequence_number")
        publisher = bytes((info.get("publisher_gid") or {}).get("data", b""))
        kept = self._deliver(one, data, log_ns, info.get("source_timestamp") or log_ns, number or 0)
        one.monitor.add(data, time.monotonic(), publisher, number, refused=not kept)


def _alike(name: str, kind: str | None, types: Mapping[str, str]) -> list[str]:
    """Topics of the same type, the most similar names first."""
    same = [other for other, other_kind in types.items() if other_kind == kind and other != name]
    return sorted(same, key=lambda other: -difflib.SequenceMatcher(None, name, other).ratio())[:3]
