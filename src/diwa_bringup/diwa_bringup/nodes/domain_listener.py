"""Lists the nodes of the ROS domain: ``python -m diwa_bringup.nodes.domain_listener``, one full name a line.

A process of its own, so that whoever asks stays free of rclpy, of its threads and of its signal handlers.
"""

from __future__ import annotations

import os
import time

import rclpy
from rclpy.node import Node

LISTEN_S = 3.5
"""How long to listen to a silent domain. A node answers a newcomer within 0.2 s or, where that answer is lost (in 2 of
5 tries on two busy cores), with its next announcement, which DDS makes every 3 s."""

SETTLE_S = 0.5
"""From the first node found to the end: others answer at about the same time."""


def main() -> None:
    """Print what is found."""
    rclpy.init()
    own = f"_diwa_domain_listener_{os.getpid()}"
    node = rclpy.create_node(own, start_parameter_services=False, enable_rosout=False)
    end_s = time.monotonic() + LISTEN_S
    found: set[str] = set()
    while time.monotonic() < end_s:
        time.sleep(0.05)
        if not found and (found := visible_nodes(node)):
            end_s = time.monotonic() + SETTLE_S
    for name in sorted(visible_nodes(node)):
        print(name)
    rclpy.shutdown()


def visible_nodes(node: Node) -> set[str]:
    """Full names; those that begin with an underscore are hidden by ROS 2's convention."""
    names = node.get_node_names_and_namespaces()
    return {f"{namespace.rstrip('/')}/{name}" for name, namespace in names if not name.startswith("_")}


if __name__ == "__main__":
    main()
