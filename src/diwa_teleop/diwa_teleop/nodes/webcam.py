"""Any video device of the system (v4l2), or a video file, as a camera of the graph."""

from __future__ import annotations

import sys

from diwa_conventions.node_main import run_node, start_lifecycle
from diwa_conventions.parameters import declare
from diwa_teleop.cameras.camera import Camera
from diwa_teleop.cameras.webcam import VideoFile, Webcam, WebcamSettings
from diwa_teleop.nodes.camera_driver import CameraDriverNode


class WebcamNode(CameraDriverNode):
    """One webcam."""

    def __init__(self) -> None:
        super().__init__("webcam", "static_camera")

    def make_camera(self) -> Camera:
        settings = WebcamSettings(
            str(declare(self, "device", "/dev/video0", "video device: /dev/video0, or /dev/v4l/by-id/... that stays")),
            declare(self, "width", 640, "of the images [px]", (160, 4096)),
            declare(self, "height", 480, "of the images [px]", (120, 3072)),
            declare(self, "rate_hz", 30, "images a second", (5, 120)),
            self.declare_exposure(),
        )
        return Webcam(settings) if self.file is None else VideoFile(self.file)

    def load(self) -> None:
        """OpenCV is always there."""


def main() -> int:
    return run_node(WebcamNode, begin=start_lifecycle, close=WebcamNode.close)


if __name__ == "__main__":
    sys.exit(main())
