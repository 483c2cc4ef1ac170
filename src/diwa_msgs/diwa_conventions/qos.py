"""Topics as rclpy wants them. The one module here that imports ROS; nodes use it, the learning core does not."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSHistoryPolicy, QoSProfile, QoSReliabilityPolicy
from rclpy.subscription import Subscription

from diwa_conventions.topics import Topic


def profile(topic: Topic) -> QoSProfile:
    """Quality of service of the topic's publishers; the same on the subscriber's side receives them."""
    reliability = QoSReliabilityPolicy.RELIABLE if topic.reliable else QoSReliabilityPolicy.BEST_EFFORT
    return QoSProfile(history=QoSHistoryPolicy.KEEP_LAST, depth=topic.depth, reliability=reliability)


NUMBERS_MESSAGES = hasattr(Subscription, "CallbackType")
"""Whether rclpy tells callbacks what the middleware knows of a message: since Iron; Humble's does not."""


def subscribe_raw(
    node: Node, kind: Any, name: str, on_message: Callable[[bytes, Mapping[str, Any]], None], quality: QoSProfile
) -> Any:
    """Subscription whose callback gets the bytes of each message, and what the middleware knows of it.

    That is empty on Humble, whose rclpy calls with one argument: then losses cannot be counted.
    """
    if NUMBERS_MESSAGES:

        def with_information(data: bytes, information: Mapping[str, Any]) -> None:
            on_message(data, information)

        return node.create_subscription(kind, name, with_information, quality, raw=True)

    def without(data: bytes) -> None:
        on_message(data, {})

    return node.create_subscription(kind, name, without, quality, raw=True)


def message_type(topic: Topic) -> Any:
    """The message class, e.g. ``geometry_msgs.msg.PoseStamped``."""
    package, folder, name = topic.type.split("/")
    return getattr(importlib.import_module(f"{package}.{folder}"), name)
