"""Reads one message of the command guard's state: ``python -m diwa_bringup.nodes.guard_listener TOPIC``.

Prints it as JSON. Exit code 3 if nobody publishes it.
"""

from __future__ import annotations

import json
import os
import sys
import time

import rclpy
from diwa_msgs.msg import GuardState

from diwa_conventions.qos import profile
from diwa_conventions.topics import GUARD_STATE

LISTEN_S = 5.0
"""The state comes 30 times a second; discovery on busy cores takes up to 3 s."""

_FIELDS = (
    "state",
    "armed_source",
    "reason",
    "accepted_sequence",
    "tracking_error_m",
    "tracking_error_rad",
    "refused",
    "limited",
)


def main() -> int:
    rclpy.init()
    node = rclpy.create_node(f"_diwa_guard_listener_{os.getpid()}", start_parameter_services=False, enable_rosout=False)
    seen: list[GuardState] = []
    node.create_subscription(GuardState, sys.argv[1], seen.append, profile(GUARD_STATE))
    try:
        deadline = time.monotonic() + LISTEN_S
        while not seen and time.monotonic() < deadline:
            rclpy.spin_once(node, timeout_sec=0.1)
        if not seen:
            return 3
        print(json.dumps({name: getattr(seen[-1], name) for name in _FIELDS}))
        return 0
    finally:
        rclpy.shutdown()


if __name__ == "__main__":
    sys.exit(main())
