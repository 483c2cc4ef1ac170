"""The two topics of a camera of the graph: square images and their intrinsics, by one publisher alone."""

from __future__ import annotations

import array
import re
import threading
from dataclasses import replace
from typing import Any

from rclpy.node import Node
from rclpy.publisher import Publisher
from sensor_msgs.msg import CameraInfo, Image

from diwa_conventions import topics
from diwa_conventions.errors import UserError
from diwa_conventions.images import ImageArray
from diwa_conventions.qos import profile
from diwa_teleop.cameras.intrinsics import Intrinsics
from diwa_teleop.nodes.camera_role import CameraRole

LOOK_S = 0.25
"""How often to look who else publishes."""


class CameraOutput:
    """Publishes ``<camera>/image_raw`` and ``<camera>/camera_info`` while no other node does."""

    def __init__(self, node: Node, camera: str, frame: str) -> None:
        """UserError if ``camera`` cannot be part of a topic's name. ``frame``: empty for the usual one."""
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", camera):
            raise UserError(f"parameter camera is {camera!r}; expected a name of letters, digits and _")
        self.image_topic = replace(topics.STATIC_IMAGE, name=f"{camera}/image_raw")
        self._info_topic = replace(topics.STATIC_INFO, name=f"{camera}/camera_info")
        self._node, self._frame = node, frame or f"{camera}_optical_frame"
        self._role = CameraRole(node, self.image_topic.name)
        self._said = ""
        self._lock = threading.Lock()
        """Guards the publishers: a thread may send while another gives them up."""
        self._publishers: tuple[Publisher, Publisher] | None = None
        self.sent = 0
        """Images."""

    @property
    def rivals(self) -> tuple[str, ...]:
        """Names of the other nodes that publish these images."""
        return self._role.rivals

    @property
    def complaint(self) -> str:
        """What a person should know of them, or ""."""
        return self._role.complaint

    @property
    def is_held(self) -> bool:
        """Whether this node may publish."""
        return self._publishers is not None

    @property
    def is_heard(self) -> bool:
        """Whether somebody subscribes to what this node publishes."""
        with self._lock:
            return self._publishers is not None and self._publishers[0].get_subscription_count() > 0

    def look(self) -> None:
        """Begin to publish, or stop, as the others demand. Call it every LOOK_S."""
        if not self._role.look():
            self._destroy()
        elif self._publishers is None:
            self._create()
        if self.complaint and self.complaint != self._said:
            self._node.get_logger().error(self.complaint)
        self._said = self.complaint

    def send(self, image: ImageArray, stamp: Any, intrinsics: Intrinsics | None) -> None:
        """An image (H, W, 3), and its intrinsics if they are known. From any thread; nothing while others publish."""
        with self._lock:
            if self._publishers is None:
                return
            images, infos = self._publishers
            images.publish(self._image_message(image, stamp))
            self.sent += 1
            if intrinsics is not None:
                infos.publish(self._info_message(intrinsics, stamp))

    def release(self) -> None:
        """Stop publishing."""
        self._role.give_up()
        self._destroy()

    def _create(self) -> None:
        image, info = self.image_topic, self._info_topic
        with self._lock:
            self._publishers = (
                self._node.create_publisher(Image, image.name, profile(image)),
                self._node.create_publisher(CameraInfo, info.name, profile(info)),
            )

    def _destroy(self) -> None:
        with self._lock:
            publishers, self._publishers = self._publishers, None
        for publisher in publishers or ():
            self._node.destroy_publisher(publisher)

    def _image_message(self, image: ImageArray, stamp: Any) -> Image:
        height, width = image.shape[:2]
        message = Image(height=height, width=width, encoding="rgb8", step=3 * width)
        message.header.stamp, message.header.frame_id = stamp, self._frame
        # An array.array is taken over as it is; bytes would be checked one by one.
        message.data = array.array("B", image.tobytes())
        return message

    def _info_message(self, intrinsics: Intrinsics, stamp: Any) -> CameraInfo:
        message = CameraInfo(width=intrinsics.width, height=intrinsics.height)
        message.header.stamp, message.header.frame_id = stamp, self._frame
        message.distortion_model, message.d = intrinsics.distortion_model, list(intrinsics.distortion)
        message.k, message.r = intrinsics.matrix.ravel(), intrinsics.rectification.ravel()
        message.p = intrinsics.projection.ravel()
        return message
