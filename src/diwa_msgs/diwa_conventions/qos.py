"""Topics as rclpy wants them. The one module here that imports ROS; nodes use it, the learning core does not."""

from __future__ import annotations

import importlib
from typing import Any

from rclpy.qos import QoSHistoryPolicy, QoSProfile, QoSReliabilityPolicy

from diwa_conventions.topics import Topic


def profile(topic: Topic) -> QoSProfile:
    """Quality of service of the topic's publishers; the same on the subscriber's side receives them."""
    reliability = QoSReliabilityPolicy.RELIABLE if topic.reliable else QoSReliabilityPolicy.BEST_EFFORT
    return QoSProfile(history=QoSHistoryPolicy.KEEP_LAST, depth=topic.depth, reliability=reliability)


def message_type(topic: Topic) -> Any:
    """The message class, e.g. ``geometry_msgs.msg.PoseStamped``."""
    package, folder, name = topic.type.split("/")
    return getattr(importlib.import_module(f"{package}.{folder}"), name)
