"""Parameters with a description and bounds. Imports ROS; only nodes use it."""

from __future__ import annotations

from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node


def declare(node: Node, name: str, default: Any, about: str, bounds: tuple[float, float] | None = None) -> Any:
    """The parameter's value; rclpy refuses another type and values out of bounds by name."""
    descriptor = ParameterDescriptor(description=about)
    if bounds and isinstance(default, int):
        descriptor.integer_range = [IntegerRange(from_value=int(bounds[0]), to_value=int(bounds[1]), step=0)]
    elif bounds:
        descriptor.floating_point_range = [FloatingPointRange(from_value=bounds[0], to_value=bounds[1], step=0.0)]
    return node.declare_parameter(name, default, descriptor).value
