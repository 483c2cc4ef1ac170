"""From a driver's images to square RGB images of one size, with what has to be known about the stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diwa_conventions.errors import UserError
from diwa_conventions.images import ImageArray, SquareImages
from diwa_teleop.cameras.camera import Frame
from diwa_teleop.cameras.conversion import ToRgb
from diwa_teleop.cameras.intrinsics import Intrinsics, squared


@dataclass(frozen=True)
class ImageFormat:
    """What a driver sends."""

    width: int
    height: int
    encoding: str

    def __str__(self) -> str:
        return f"{self.width}x{self.height} {self.encoding}"


class ImagePipeline:
    """Converts message after message, or frame after frame; size and encoding may change at any time."""

    def __init__(self, images: SquareImages, to_rgb: ToRgb) -> None:
        self.images = images
        self._to_rgb = to_rgb
        self._stamp_ns = 0
        self.format: ImageFormat | None = None
        """Of the newest image."""
        self.received = 0
        self.refused = 0
        self.backwards = 0
        """Images whose stamp was not after the one before."""
        self.refusal = ""
        """Why the newest refused image was refused."""

    def process(self, message: Any) -> ImageArray:
        """The square image (size, size, 3) of a sensor_msgs Image or CompressedImage.

        UserError, counted, for a message without a stamp or one that is no image of a known encoding.
        """
        self.received += 1
        try:
            stamp_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
            if stamp_ns <= 0:
                raise UserError("the image has no stamp; the driver must stamp its images")
            image = self._to_rgb(message)
        except UserError as error:
            self.refused += 1
            self.refusal = str(error)
            raise
        encoding = message.encoding if hasattr(message, "encoding") else message.format or "compressed"
        return self._square(image, stamp_ns, encoding)

    def process_frame(self, frame: Frame) -> ImageArray:
        """The square image (size, size, 3) of a driver's frame."""
        self.received += 1
        return self._square(frame.image, frame.stamp_ns, frame.encoding)

    def _square(self, image: ImageArray, stamp_ns: int, encoding: str) -> ImageArray:
        self.backwards += stamp_ns <= self._stamp_ns
        self._stamp_ns = stamp_ns
        self.format = ImageFormat(image.shape[1], image.shape[0], encoding)
        return self.images(image)

    def intrinsics(self, given: Intrinsics) -> Intrinsics:
        """Of the square images. UserError if ``given`` is not of the newest image's size."""
        if self.format is None or (given.width, given.height) != (self.format.width, self.format.height):
            raise UserError(
                f"camera_info is of {given.width}x{given.height} images, but they are {self.format}; "
                "set the driver's calibration for this size"
            )
        return squared(given, self.images)
