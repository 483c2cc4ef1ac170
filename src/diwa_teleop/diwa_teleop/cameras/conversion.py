"""Image messages to RGB: through cv_bridge where the ROS install has it, through OpenCV alone elsewhere.

Both give the same pixels; the tests compare them on every encoding. Messages are sensor_msgs Image and CompressedImage.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any, TypeAlias

import cv2
import numpy as np

from diwa_conventions.errors import UserError
from diwa_conventions.images import (
    CHANNELS,
    ImageArray,
    checked_compressed,
    compressed_to_rgb,
    decoded_to_rgb,
    raw_pixels,
    raw_to_rgb,
)

ToRgb: TypeAlias = Callable[[Any], ImageArray]
"""From a message to (H, W, 3) uint8; UserError for one that is not understood."""


@cache
def cv_bridge() -> Any | None:
    """A CvBridge, or None where there is none that works; built for another numpy or OpenCV it fails in many ways."""
    probe = SimpleNamespace(encoding="bgr8", height=1, width=2, step=6, is_bigendian=0, data=bytes(range(6)))
    try:
        bridge = importlib.import_module("cv_bridge").CvBridge()
        works = np.array_equal(bridge.imgmsg_to_cv2(probe, "rgb8"), by_opencv(probe))
    except Exception:
        return None
    return bridge if works else None


def to_rgb() -> ToRgb:
    """The conversion to use on this machine."""
    bridge = cv_bridge()
    return by_opencv if bridge is None else lambda message: by_cv_bridge(bridge, message)


def by_opencv(message: Any) -> ImageArray:
    """RGB without ROS."""
    if is_compressed(message):
        return compressed_to_rgb(message.data)
    return raw_to_rgb(message.encoding, message.height, message.width, message.step, message.data)


def by_cv_bridge(bridge: Any, message: Any) -> ImageArray:
    """RGB by a CvBridge, with the same refusals."""
    try:
        if is_compressed(message):
            size = checked_compressed(message.data).size
            return decoded_to_rgb(bridge.compressed_imgmsg_to_cv2(message, "passthrough"), size)
        if message.encoding not in CHANNELS:  # cv_bridge takes other ways through them from release to release
            return by_opencv(message)
        pixels = raw_pixels(message.encoding, message.height, message.width, message.step, message.data)
        return bridge.imgmsg_to_cv2(_packed(message, pixels), "rgb8")
    except (TypeError, cv2.error) as error:  # CvBridgeError is a TypeError
        raise UserError(f"cv_bridge cannot convert the image: {error}") from error


def is_compressed(message: Any) -> bool:
    """Whether it is a CompressedImage."""
    return hasattr(message, "format")


def _packed(message: Any, pixels: ImageArray) -> Any:
    """The message without padding: some cv_bridge read padded rows wrongly."""
    row = message.width * CHANNELS[message.encoding]
    if message.step == row:
        return message
    packed = type(message)(header=message.header, height=message.height, width=message.width, step=row)
    packed.encoding, packed.data = message.encoding, pixels.tobytes()
    return packed
