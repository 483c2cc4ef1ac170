"""The colour camera of a RealSense as a camera of the graph, through the vendor's pyrealsense2."""

from __future__ import annotations

import sys

from diwa_conventions.node_main import run_node, start_lifecycle
from diwa_conventions.parameters import declare
from diwa_teleop.cameras.camera import Camera
from diwa_teleop.cameras.realsense import RealSense, RealSenseSettings, load_realsense
from diwa_teleop.nodes.camera_driver import CameraDriverNode


class RealSenseNode(CameraDriverNode):
    """One RealSense."""

    def __init__(self) -> None:
        super().__init__("realsense", "gripper_camera")

    def make_camera(self) -> Camera:
        settings = RealSenseSettings(
            str(declare(self, "serial", "", "serial number (rs-enumerate-devices); empty: the only one attached")),
            declare(self, "width", 640, "of the colour images [px]", (160, 4096)),
            declare(self, "height", 480, "of the colour images [px]", (120, 3072)),
            declare(self, "rate_hz", 30, "images a second", (5, 90)),
            self.declare_exposure(),
        )
        return RealSense(settings, self.file)

    def load(self) -> None:
        load_realsense()


def main() -> int:
    return run_node(RealSenseNode, begin=start_lifecycle, close=RealSenseNode.close)


if __name__ == "__main__":
    sys.exit(main())
