"""Averages what cameras show: ``python -m diwa_bringup.nodes.view_taker SECONDS PATIENCE_S FOLDER TOPIC...``.

Writes the mean image of the n-th topic to FOLDER/n.npy, (H, W, 3) uint8, as soon as all have come for so long. Exit
code 3, with the silent topics on stdout, if some did not come although there was patience.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from diwa_conventions.errors import UserError
from diwa_conventions.images import raw_to_rgb


class View:
    """The mean image of one topic."""

    def __init__(self, node: Any, topic: str) -> None:
        self.topic = topic
        self._sum: np.ndarray | None = None
        self._count = 0
        self._begin_s = 0.0
        anyone = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
        node.create_subscription(Image, topic, self._on_image, anyone)

    def _on_image(self, message: Image) -> None:
        try:
            image = raw_to_rgb(message.encoding, message.height, message.width, message.step, message.data)
        except UserError as error:
            print(f"{self.topic}: {error}", file=sys.stderr)
            return
        if self._sum is None or self._sum.shape != image.shape:
            self._sum, self._count, self._begin_s = np.zeros(image.shape), 0, time.monotonic()
        self._sum += image
        self._count += 1

    def lasts_s(self) -> float:
        """Since the first image; 0 without one."""
        return time.monotonic() - self._begin_s if self._count else 0.0

    def mean(self) -> np.ndarray:
        assert self._sum is not None
        return np.round(self._sum / self._count).astype(np.uint8)


def main() -> int:
    seconds, patience_s, folder, *topics = float(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:]
    rclpy.init()
    node = rclpy.create_node(f"_diwa_views_{os.getpid()}", start_parameter_services=False, enable_rosout=False)
    views = [View(node, topic) for topic in topics]
    deadline_s = time.monotonic() + patience_s + seconds
    while min(view.lasts_s() for view in views) < seconds and time.monotonic() < deadline_s:
        rclpy.spin_once(node, timeout_sec=0.05)
    rclpy.shutdown()
    silent = [view.topic for view in views if not view.lasts_s()]
    if silent:
        print(", ".join(silent))
        return 3
    for number, view in enumerate(views):
        np.save(folder / f"{number}.npy", view.mean())
    return 0


if __name__ == "__main__":
    sys.exit(main())
