"""Any driver's images to the small square ones that the recorder and the policy take, with matching intrinsics.

Cropping and shrinking happen here, beside the driver: a 720p stream is 110 MB/s, its 200x200 images are 3.6 MB/s.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from diwa_conventions import topics
from diwa_conventions.errors import UserError
from diwa_conventions.health import Health
from diwa_conventions.images import ImageArray, SquareImages
from diwa_conventions.node_main import run_node
from diwa_conventions.parameters import declare
from diwa_teleop.cameras.conversion import to_rgb
from diwa_teleop.cameras.intrinsics import Intrinsics
from diwa_teleop.cameras.pipeline import ImageFormat, ImagePipeline
from diwa_teleop.nodes.camera_output import LOOK_S, CameraOutput

KINDS = {"sensor_msgs/msg/Image": Image, "sensor_msgs/msg/CompressedImage": CompressedImage}
_LOOK_FOR_DRIVER_S = 0.5
"""How often the graph is looked at for the driver."""
_SILENT_S = 1.0
_QUEUED = 10
"""Images that wait where this node was held up for a moment."""


class CameraNode(Node):
    """Subscribes to a driver as it publishes, once it is there. Topics and parameters: README of diwa_teleop."""

    def __init__(self) -> None:
        super().__init__("camera")
        camera = declare(self, "camera", "static_camera", "name of the camera: it publishes <camera>/image_raw")
        given = declare(self, "input", "", "the driver's image topic, Image or CompressedImage")
        info = declare(self, "info", "", "the driver's camera_info topic; empty: camera_info beside the images")
        frame = declare(self, "frame_id", "", "frame of the published images; empty: <camera>_optical_frame")
        fit = declare(self, "fit", "crop", "how images become square: crop or letterbox")
        size_px = declare(self, "size", topics.CAMERA_SIZE_PX, "width and height published [px]", (8, 2048))
        self._output = CameraOutput(self, camera, frame)
        if not given:
            raise UserError("parameter input is empty; set the driver's image topic: /camera/camera/color/image_raw")
        self._pipeline = ImagePipeline(SquareImages(size_px, fit), to_rgb())
        self._input = self.resolve_topic_name(given)
        self._info_input = self.resolve_topic_name(info or info_beside(self._input))
        self._info: CameraInfo | None = None
        self._subscription: Subscription | None = None
        self._kind = ""
        self._newest_s = self._reported_s = time.monotonic()
        self._reported = 0
        self._open_topics(camera)

    def _open_topics(self, camera: str) -> None:
        if self._input == self.resolve_topic_name(self._output.image_topic.name):
            raise UserError(f"parameter input is {self._input}, which this node publishes; set the driver's topic")
        anyone = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self.create_subscription(CameraInfo, self._info_input, self._on_info, anyone)
        self._health = Health(self, camera)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(LOOK_S, self._output.look, clock=steady)
        self.create_timer(_LOOK_FOR_DRIVER_S, self._look_for_driver, clock=steady)
        self.create_timer(1.0 / topics.DIAGNOSTICS.rate_hz, self._report, clock=steady)
        self._look_for_driver()

    # The driver

    def _look_for_driver(self) -> None:
        """Subscribe as the driver publishes; again when it comes back as another."""
        publishers = self.get_publishers_info_by_topic(self._input)
        kind = image_kind([info.topic_type for info in publishers])
        if not publishers or kind == self._kind:
            return
        if self._subscription is not None:
            self.destroy_subscription(self._subscription)
            self._subscription = None
        self._kind = kind
        if kind not in KINDS:
            self.get_logger().error(f"{self._input} is {kind}; expected an Image or a CompressedImage")
            return
        # Large images get lost on the way to a best effort subscriber, so reliable where the driver is.
        reliable = all(info.qos_profile.reliability == ReliabilityPolicy.RELIABLE for info in publishers)
        qos = QoSProfile(
            depth=_QUEUED, reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        )
        self._subscription = self.create_subscription(KINDS[kind], self._input, self._on_image, qos)
        self.get_logger().info(f"subscribed to {self._input} ({kind}, {'reliable' if reliable else 'best effort'})")

    def _on_info(self, message: CameraInfo) -> None:
        self._info = message

    # Images

    def _on_image(self, message: Any) -> None:
        before = self._pipeline.format
        try:
            image = self._pipeline.process(message)
        except UserError as error:
            self.get_logger().warning(f"image of {self._input} refused: {error}", throttle_duration_sec=2.0)
            return
        self._newest_s = time.monotonic()
        if self._pipeline.format != before:
            self._tell_format(before)
        self._publish(image, message.header.stamp)

    def _tell_format(self, before: ImageFormat | None) -> None:
        size, change = self._pipeline.images.size_px, f"{before} -> " if before else ""
        text = f"images are {change}{self._pipeline.format}, published as {size}x{size} rgb8"
        if before:
            self.get_logger().warning(text)
        else:  # a line of its own: rclpy holds one line to one severity
            self.get_logger().info(text)

    def _publish(self, image: ImageArray, stamp: Any) -> None:
        intrinsics = None
        if self._info is not None:
            try:
                intrinsics = self._pipeline.intrinsics(intrinsics_of(self._info))
            except UserError as error:
                self.get_logger().warning(f"no camera_info is published: {error}", throttle_duration_sec=10.0)
        self._output.send(image, stamp, intrinsics)

    # Health

    def _report(self) -> None:
        pipeline, now_s = self._pipeline, time.monotonic()
        rate_hz = (self._output.sent - self._reported) / max(now_s - self._reported_s, 1e-6)
        self._reported, self._reported_s = self._output.sent, now_s
        values = {
            "input": self._input,
            "format": pipeline.format or "",
            "rate_hz": f"{rate_hz:.2f}",
            "received": pipeline.received,
            "refused": pipeline.refused,
            "backwards": pipeline.backwards,
            "camera_info": "yes" if self._info is not None else f"none on {self._info_input}",
        }
        text = self._complaint(now_s)
        self._health.report(not text, text or "publishing", values)

    def _complaint(self, now_s: float) -> str:
        """What is wrong, or ""."""
        if self._output.complaint:
            return self._output.complaint
        if self._subscription is None:
            return f"{self._input} is {self._kind}" if self._kind else f"nobody publishes {self._input}"
        if now_s - self._newest_s <= _SILENT_S:
            return ""
        return self._pipeline.refusal or f"no images on {self._input}"


def image_kind(kinds: Sequence[str]) -> str:
    """The one type of a topic's publishers; where they differ, all of them."""
    return " and ".join(sorted(set(kinds)))


def info_beside(image_topic: str) -> str:
    """``/camera/color/image_raw/compressed`` -> ``/camera/color/camera_info``."""
    return image_topic.removesuffix("/compressed").rsplit("/", 1)[0] + "/camera_info"


def intrinsics_of(message: CameraInfo) -> Intrinsics:
    """UserError for a part of the sensor (region of interest, binning), whose intrinsics need more than resizing."""
    roi = message.roi
    if max(message.binning_x, message.binning_y) > 1 or roi.x_offset or roi.y_offset:
        raise UserError("camera_info has binning or a region of interest; switch them off in the driver")
    return Intrinsics(
        width=message.width,
        height=message.height,
        matrix=np.array(message.k).reshape(3, 3),
        projection=np.array(message.p).reshape(3, 4),
        distortion_model=message.distortion_model,
        distortion=tuple(message.d),
        rectification=np.array(message.r).reshape(3, 3),
    )


def main() -> int:
    return run_node(CameraNode)


if __name__ == "__main__":
    sys.exit(main())
