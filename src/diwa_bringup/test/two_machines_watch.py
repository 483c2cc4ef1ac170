"""Says what it hears, a JSON line each: ``python two_machines_watch.py guard images policy``."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import rclpy
from diwa_msgs.msg import GuardState, PolicyStatus

from diwa_conventions import topics
from diwa_conventions.qos import message_type, profile

GUARD = {getattr(GuardState, name): name for name in ("DISARMED", "ARMED", "HOLDING", "FAULT")}
POLICY = {getattr(PolicyStatus, name): name for name in ("EMPTY", "READY", "RUNNING", "STOPPED")}


class Listener:
    """Prints; times are monotonic, and the same in all processes of this machine."""

    def __init__(self, what: list[str]) -> None:
        self.node = rclpy.create_node("watch", namespace=topics.NAMESPACE)
        self._arm: list[float] = []
        if "guard" in what:
            self._subscribe(topics.GUARD_STATE, self._on_guard)
            self._subscribe(topics.CURRENT_POSE, self._on_pose)
        if "policy" in what:
            self._subscribe(topics.POLICY_STATUS, self._on_policy)
        if "images" in what:
            self._subscribe(topics.STATIC_IMAGE, self._on_image)

    def _subscribe(self, topic: topics.Topic, callback: Any) -> None:
        self.node.create_subscription(message_type(topic), topic.name, callback, profile(topic))

    def _on_pose(self, message: Any) -> None:
        self._arm = _point(message)

    def _on_guard(self, message: Any) -> None:
        target = message.target.position
        self._say(
            guard=GUARD[message.state],
            source=message.armed_source,
            reason=message.reason,
            target=[target.x, target.y, target.z],
            arm=self._arm,
            refused=message.refused,
        )

    def _on_policy(self, message: Any) -> None:
        self._say(policy=POLICY[message.state], step=message.step, reason=message.reason)

    def _on_image(self, message: Any) -> None:
        stamp = message.header.stamp
        self._say(image_age_s=time.time() - stamp.sec - 1e-9 * stamp.nanosec)

    def _say(self, **what: Any) -> None:
        print(json.dumps({"t": time.monotonic(), **what}))


def _point(message: Any) -> list[float]:
    point = message.pose.position
    return [point.x, point.y, point.z]


if __name__ == "__main__":
    rclpy.init()
    try:
        rclpy.spin(Listener(sys.argv[1:]).node)
    except (KeyboardInterrupt, rclpy.executors.ExternalShutdownException):
        pass
