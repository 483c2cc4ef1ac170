"""Lists the nodes of the ROS domain: ``python -m diwa_bringup.nodes.domain_listener [NAME ...]``, a full name a line.

A process of its own, so that whoever asks stays free of rclpy, of its threads and of its signal handlers.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Collection

import rclpy
from rclpy.node import Node

LISTEN_S = 3.5
"""How long to listen to a silent domain. A node answers a newcomer within 0.2 s or, where that answer is lost (in 2 of
5 tries on two busy cores), with its next announcement, which DDS makes every 3 s."""

SETTLE_S = 0.5
"""From the first node of interest to the end: others answer at about the same time."""

_POLL_S = 0.05


def main() -> None:
    """Print what is found."""
    rclpy.init()
    own = f"_diwa_domain_listener_{os.getpid()}"
    node = rclpy.create_node(own, start_parameter_services=False, enable_rosout=False)
    for name in sorted(listen(lambda: visible_nodes(node), sys.argv[1:])):
        print(name)
    rclpy.shutdown()


def listen(visible: Callable[[], set[str]], names: Collection[str]) -> set[str]:
    """What ``visible`` shows in the end; that comes early once one of ``names`` is there, or any node if none is given.

    Nodes of other names do not end it: theirs may be the first answer, and that of a node asked for the last.
    """
    end_s = time.monotonic() + LISTEN_S
    settling = False
    while time.monotonic() < end_s:
        time.sleep(_POLL_S)
        found = visible()
        if not settling and (found & set(names) if names else found):
            settling, end_s = True, time.monotonic() + SETTLE_S
    return visible()


def visible_nodes(node: Node) -> set[str]:
    """Full names; those that begin with an underscore are hidden by ROS 2's convention."""
    names = node.get_node_names_and_namespaces()
    return {f"{namespace.rstrip('/')}/{name}" for name, namespace in names if not name.startswith("_")}


if __name__ == "__main__":
    main()
