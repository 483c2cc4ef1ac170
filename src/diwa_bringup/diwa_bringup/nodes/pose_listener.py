"""Reads one message of the arm's measured pose: ``python -m diwa_bringup.nodes.pose_listener TOPIC``.

Prints its position in panda_link0 as JSON. Exit code 3 if nobody publishes it.
"""

from __future__ import annotations

import json
import os
import sys
import time

import rclpy
from geometry_msgs.msg import PoseStamped

from diwa_conventions.qos import profile
from diwa_conventions.topics import BASE_FRAME, CURRENT_POSE

LISTEN_S = 5.0
"""The pose comes 120 times a second; discovery on busy cores takes up to 3 s."""


def main() -> int:
    rclpy.init()
    node = rclpy.create_node(f"_diwa_pose_listener_{os.getpid()}", start_parameter_services=False, enable_rosout=False)
    seen: list[PoseStamped] = []
    node.create_subscription(PoseStamped, sys.argv[1], seen.append, profile(CURRENT_POSE))
    try:
        deadline = time.monotonic() + LISTEN_S
        while not seen and time.monotonic() < deadline:
            rclpy.spin_once(node, timeout_sec=0.1)
        if not seen:
            return 3
        frame, point = seen[-1].header.frame_id, seen[-1].pose.position
        if frame != BASE_FRAME:
            print(f"the pose is in frame {frame!r}; expected {BASE_FRAME!r}", file=sys.stderr)
            return 1
        print(json.dumps([point.x, point.y, point.z]))
        return 0
    finally:
        rclpy.shutdown()


if __name__ == "__main__":
    sys.exit(main())
