"""Diagnostics of one node. Imports ROS; only nodes use it."""

from __future__ import annotations

from collections.abc import Mapping

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

from diwa_conventions import topics
from diwa_conventions.qos import message_type, profile


class Health:
    """Publishes one node's diagnostics."""

    def __init__(self, node: Node, hardware: str) -> None:
        self._node = node
        self._hardware = hardware
        topic = topics.DIAGNOSTICS
        self._out = node.create_publisher(message_type(topic), topic.name, profile(topic))

    def report(self, ok: bool, text: str, values: Mapping[str, object]) -> None:
        """How the node is, in words for a person, and its counts."""
        level = DiagnosticStatus.OK if ok else DiagnosticStatus.WARN
        name = self._node.get_fully_qualified_name()
        status = DiagnosticStatus(level=level, name=name, message=text, hardware_id=self._hardware)
        status.values = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
        message = DiagnosticArray(status=[status])
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._out.publish(message)
