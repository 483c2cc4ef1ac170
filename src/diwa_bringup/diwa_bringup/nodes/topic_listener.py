"""Listens to the topics of the graph and says once a second how they are: a line of JSON on stdout.

    python -m diwa_bringup.nodes.topic_listener NAMESPACE

It must not hold up what it watches, nor take its share of the machine: it subscribes best effort, reads stamps from
the serialized messages, decodes the newest message of few topics once a second, and takes messages in bunches instead
of waking up for each. When they came is known from the middleware.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

import rclpy
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message

from diwa_conventions import topics
from diwa_conventions.bags.definitions import full_name
from diwa_conventions.qos import message_type
from diwa_conventions.topics import Topic
from diwa_teleop.recording.statistics import TopicMonitor, header_stamp_ns

REPORT_S = 1.0
_BUNCH_S = 0.05
_SPARE = 4
"""So many times as many messages as a bunch has may wait, in case this process is held up."""
_CLOCKS_AGREE_S = (-1.0, 10.0)
"""A stamp that differs more from now is of another clock: simulated time, a replayed bag."""

STATES = (topics.GUARD_STATE, topics.POLICY_STATUS, topics.RECORDER_STATE, topics.TRAINING_PROGRESS)
"""Whose newest message is told whole."""


class Stream:
    """One topic."""

    def __init__(self, node: Node, topic: Topic, namespace: str) -> None:
        self.topic, self.name = topic, full_name(topic.name, namespace)
        self.type = message_type(topic)
        self.newest = b""
        self._monitor = TopicMonitor(topic, self.name)
        self._latencies: list[float] = []
        self._told: Mapping[str, float | None] = {"latency_s": None, "worst_latency_s": None}
        depth = max(topic.depth, int(_SPARE * topic.rate_hz * _BUNCH_S))
        # Best effort receives from every publisher, and none waits for it.
        profile = QoSProfile(
            history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=ReliabilityPolicy.BEST_EFFORT
        )  # fmt: skip
        self._subscription = node.create_subscription(self.type, self.name, _not_called, profile, raw=True)

    def take(self) -> list[bytes]:
        """What has come since."""
        found, handle = [], self._subscription.handle
        with handle:
            while (message := handle.take_message(self.type, True)) is not None:
                data, info = message
                self._add(data, info)
                found.append(data)
        return found

    def _add(self, data: bytes, info: Mapping[str, Any]) -> None:
        self.newest = data
        self._monitor.add(data, time.monotonic(), None, None, refused=False)
        stamp_ns = header_stamp_ns(data)
        if stamp_ns is not None:
            latency_s = ((info.get("received_timestamp") or time.time_ns()) - stamp_ns) * 1e-9
            if _CLOCKS_AGREE_S[0] < latency_s < _CLOCKS_AGREE_S[1]:
                self._latencies.append(latency_s)

    def decoded(self) -> Any:
        """The newest message."""
        return deserialize_message(self.newest, self.type)

    def report(self, publishers: int) -> dict[str, Any]:
        """How the topic is; latencies are of the last second in which there were any."""
        now = self._monitor.report(time.monotonic())
        if self._latencies:
            middle, worst = statistics.median(self._latencies), max(self._latencies)
            self._told = {"latency_s": middle, "worst_latency_s": worst}
            self._latencies = []
        return {
            "topic": self.topic.name, "publishers": publishers, "received": now.received, "rate_hz": now.rate_hz,
            "expected_hz": self.topic.rate_hz, "age_s": now.age_s, **self._told,
        }  # fmt: skip


def _not_called(data: bytes) -> None:
    """Messages are taken by :meth:`Stream.take`."""


class Health:
    """The newest diagnostics of every node."""

    def __init__(self) -> None:
        self._newest: dict[str, tuple[float, dict[str, Any]]] = {}

    def add(self, messages: Sequence[bytes], kind: Any) -> None:
        for data in messages:
            for status in deserialize_message(data, kind).status:
                level = int.from_bytes(status.level, "little") if isinstance(status.level, bytes) else status.level
                told = {"name": status.name, "level": level, "message": status.message}
                self._newest[status.name] = time.monotonic(), told

    def report(self) -> list[dict[str, Any]]:
        now_s = time.monotonic()
        return [{**told, "age_s": now_s - came_s} for _, (came_s, told) in sorted(self._newest.items())]


def plain(message: Any) -> dict[str, Any]:
    """Its numbers, texts and lists of these, by name."""
    values = {name: getattr(message, name) for name in message.get_fields_and_field_types()}
    lists = {name: list(value) for name, value in values.items() if _is_list(value)}
    return {name: value for name, value in values.items() if isinstance(value, (str, int, float))} | lists


def _is_list(value: Any) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, str) and all(isinstance(v, (str, float)) for v in value)


def listen(node: Node, namespace: str, told: list[int]) -> None:
    """Report until a signal comes."""
    streams, health = [Stream(node, topic, namespace) for topic in topics.TOPICS], Health()
    report_s = time.monotonic() + REPORT_S
    while not told:
        time.sleep(_BUNCH_S)
        for stream in streams:
            messages = stream.take()
            if stream.topic is topics.DIAGNOSTICS:
                health.add(messages, stream.type)
        if time.monotonic() >= report_s:
            report_s += REPORT_S
            reports = [stream.report(node.count_publishers(stream.name)) for stream in streams]
            states = {one.topic.name: plain(one.decoded()) for one in streams if one.newest and one.topic in STATES}
            print(json.dumps({"topics": reports, "states": states, "diagnostics": health.report()}), flush=True)


def main() -> int:
    """Exit code 0 after a signal, or when nobody reads any more."""
    told: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        told.append(number)

    rclpy.init(args=[], signal_handler_options=rclpy.signals.SignalHandlerOptions.NO)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    node = rclpy.create_node(f"_diwa_top_{os.getpid()}", start_parameter_services=False, enable_rosout=False)
    try:
        listen(node, sys.argv[1], told)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        node.destroy_node()
        rclpy.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
