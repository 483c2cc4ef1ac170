"""One camera, one publisher: two of them on a topic would mix two cameras' images into one stream."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from rclpy.node import Node

_DISCOVERY_S = 0.5
"""What it takes to hear of others on a quiet network."""
_NEWCOMER_S = 10.0
"""Who has published for a shorter time than this gives way: others may have been heard of late."""


class CameraRole:
    """Decides whether this node may publish on a topic: only while nobody else does.

    Whoever came later gives way. Two that came at the same time both do, and try again after pauses of random length.
    """

    def __init__(self, node: Node, topic: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._node, self._topic, self._clock = node, node.resolve_topic_name(topic), clock
        self._since_s: float | None = None
        self._free_s = clock()
        self._pause_s = self._draw_pause_s()
        self.rivals: tuple[str, ...] = ()
        """Names of the other nodes that publish on the topic."""

    @property
    def held(self) -> bool:
        """Whether this node publishes."""
        return self._since_s is not None

    def look(self) -> bool:
        """See who is there; whether this node should publish. Call it a few times a second, and do what it says."""
        now_s = self._clock()
        self.rivals = self._others()
        if self._since_s is not None:
            if self.rivals and now_s - self._since_s < _NEWCOMER_S:
                self.give_up()
        elif self.rivals:
            self._free_s = now_s
        elif now_s - self._free_s >= self._pause_s:
            self._since_s = now_s
        return self.held

    def give_up(self) -> None:
        """This node does not publish any longer."""
        self._since_s, self._free_s = None, self._clock()
        self._pause_s = self._draw_pause_s()

    def _others(self) -> tuple[str, ...]:
        found = self._node.get_publishers_info_by_topic(self._topic)
        names = [f"{info.node_namespace.rstrip('/')}/{info.node_name}" for info in found]
        own = self._node.get_fully_qualified_name()
        if self.held and own in names:  # another one of the same name stays in the list
            names.remove(own)
        return tuple(sorted(names))

    @property
    def complaint(self) -> str:
        """What a person should know of others, or ""."""
        if not self.rivals:
            return ""
        names = ", ".join(self.rivals)
        if self.held:
            return f"{self._topic} is also published by {names}; stop one, or give it another camera parameter"
        return (
            f"{self._topic} is published already, by {names}; this node publishes nothing until that ends: "
            "stop one, or give it another camera parameter"
        )

    @staticmethod
    def _draw_pause_s() -> float:
        return _DISCOVERY_S * random.uniform(1.0, 2.0)
