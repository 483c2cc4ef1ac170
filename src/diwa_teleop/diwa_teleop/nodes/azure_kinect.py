"""The colour camera of an Azure Kinect as a camera of the graph, through the vendor's libk4a."""

from __future__ import annotations

import sys

from diwa_conventions.node_main import run_node, start_lifecycle
from diwa_conventions.parameters import declare
from diwa_teleop.cameras import k4a
from diwa_teleop.cameras.azure_kinect import AzureKinect, AzureKinectFile, AzureKinectSettings
from diwa_teleop.cameras.camera import Camera
from diwa_teleop.nodes.camera_driver import CameraDriverNode


class AzureKinectNode(CameraDriverNode):
    """One Azure Kinect."""

    def __init__(self) -> None:
        super().__init__("azure_kinect", "static_camera")

    def make_camera(self) -> Camera:
        settings = AzureKinectSettings(
            str(declare(self, "serial", "", "serial number, on its label; empty: the only one attached")),
            str(declare(self, "resolution", "720p", f"of the colour images: {', '.join(k4a.RESOLUTIONS)}")),
            declare(self, "rate_hz", 30, "images a second: 5, 15 or 30", (5, 30)),
            self.declare_exposure(),
        )
        return AzureKinect(settings) if self.file is None else AzureKinectFile(self.file)

    def load(self) -> None:
        k4a.load()


def main() -> int:
    return run_node(AzureKinectNode, begin=start_lifecycle, close=AzureKinectNode.close)


if __name__ == "__main__":
    sys.exit(main())
