"""From whatever a camera delivers to a small square RGB image: encodings, crop or letterbox, area resize.

numpy and OpenCV only; nodes, importer and simulator share it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from diwa_conventions.errors import UserError, unknown

if TYPE_CHECKING:
    from array import array

ImageArray: TypeAlias = npt.NDArray[np.uint8]
Buffer: TypeAlias = "bytes | bytearray | memoryview | array[int] | npt.NDArray[np.uint8]"
"""Bytes as messages carry them."""
Fit = Literal["crop", "letterbox"]


@dataclass(frozen=True)
class Encoding:
    """How the bytes of a sensor_msgs/Image make pixels."""

    bytes_per_pixel: int
    """In a row of the image."""
    to_rgb: int | None = None
    """OpenCV's conversion; None: the bytes are RGB."""
    planes: bool = False
    """Half as many rows of colour follow the rows of brightness."""
    even: tuple[int, int] = (1, 1)
    """Height and width are multiples of these."""


ENCODINGS: Mapping[str, Encoding] = {
    "rgb8": Encoding(3),
    "bgr8": Encoding(3, cv2.COLOR_BGR2RGB),
    "rgba8": Encoding(4, cv2.COLOR_RGBA2RGB),
    "bgra8": Encoding(4, cv2.COLOR_BGRA2RGB),
    "mono8": Encoding(1, cv2.COLOR_GRAY2RGB),
    "yuv422": Encoding(2, cv2.COLOR_YUV2RGB_UYVY, even=(1, 2)),
    "uyvy": Encoding(2, cv2.COLOR_YUV2RGB_UYVY, even=(1, 2)),
    "yuv422_yuy2": Encoding(2, cv2.COLOR_YUV2RGB_YUY2, even=(1, 2)),
    "yuyv": Encoding(2, cv2.COLOR_YUV2RGB_YUY2, even=(1, 2)),
    "nv12": Encoding(1, cv2.COLOR_YUV2RGB_NV12, planes=True, even=(2, 2)),
    "nv21": Encoding(1, cv2.COLOR_YUV2RGB_NV21, planes=True, even=(2, 2)),
    "bayer_rggb8": Encoding(1, cv2.COLOR_BayerRGGB2RGB, even=(2, 2)),
    "bayer_bggr8": Encoding(1, cv2.COLOR_BayerBGGR2RGB, even=(2, 2)),
    "bayer_gbrg8": Encoding(1, cv2.COLOR_BayerGBRG2RGB, even=(2, 2)),
    "bayer_grbg8": Encoding(1, cv2.COLOR_BayerGRBG2RGB, even=(2, 2)),
}
"""The raw encodings of sensor_msgs/Image that are read; their names are those of sensor_msgs/image_encodings."""
CHANNELS = {name: ENCODINGS[name].bytes_per_pixel for name in ("rgb8", "bgr8", "rgba8", "bgra8", "mono8")}
"""Those whose bytes are the colours of single pixels, and their bytes per pixel."""
UNNAMED_COLOURS = {"8UC1": ("mono8", "bayer_rggb8"), "8UC3": ("bgr8", "rgb8"), "8UC4": ("bgra8", "rgba8")}
"""Encodings that only count their channels, and what they usually are: the user has to say it."""
_DEEP = re.compile(r"(rgb|bgr|rgba|bgra|mono|bayer_[rgb]{4})16|(8S|16|32|64)[A-Z]*C\d+")
_DECODED_TO_RGB = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}
_EXPECTED = "expected JPEG or PNG of 8 bits"
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"


def raw_to_rgb(encoding: str, height: int, width: int, step: int, data: Buffer) -> ImageArray:
    """An RGB image (H, W, 3) uint8 from the fields of a sensor_msgs/Image; a view of ``data`` for rgb8.

    UserError as of :func:`check_raw`.
    """
    pixels = raw_pixels(encoding, height, width, step, data)
    conversion = ENCODINGS[encoding].to_rgb
    if conversion is None:
        return pixels
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels), conversion), dtype=np.uint8)


def raw_pixels(encoding: str, height: int, width: int, step: int, data: Buffer) -> ImageArray:
    """The bytes (H, W, C) uint8 of a sensor_msgs/Image as they are, a view of ``data``; (1.5 H, W, 1) with planes.

    Rows may be padded (``step`` above the row's length). UserError as of :func:`check_raw`.
    """
    flat = _bytes(data)
    check_raw(encoding, height, width, step, flat.size)
    channels = ENCODINGS[encoding].bytes_per_pixel
    rows = flat.size // step
    return flat.reshape(rows, step)[:, : width * channels].reshape(rows, width, channels)


def check_raw(encoding: str, height: int, width: int, step: int, size: int) -> None:
    """UserError for an encoding that is not in ENCODINGS, and for ``size`` bytes that do not fit the image's sizes."""
    if encoding not in ENCODINGS:
        raise _bad_encoding(encoding)
    known = ENCODINGS[encoding]
    row = width * known.bytes_per_pixel
    if min(height, width) < 1:
        raise UserError(f"{encoding} image of {width}x{height} pixels is empty; expected at least 1x1")
    if height % known.even[0] or width % known.even[1]:
        raise UserError(
            f"{encoding} image of {width}x{height} pixels; expected a height that {known.even[0]} divides and a width "
            f"that {known.even[1]} divides"
        )
    if step < row:
        raise UserError(f"{encoding} image of {width}x{height} has a step of {step} bytes; expected at least {row}")
    rows = height * 3 // 2 if known.planes else height
    if size != step * rows:
        words = "1.5 x height x step" if known.planes else "height x step"
        raise UserError(
            f"{encoding} image of {width}x{height} with a step of {step} holds {size} bytes; "
            f"expected {words} = {rows * step}"
        )


def compressed_to_rgb(data: Buffer) -> ImageArray:
    """An RGB image (H, W, 3) uint8 from the bytes of a sensor_msgs/CompressedImage: JPEG or PNG, grey or colour.

    An alpha channel is dropped and no rotation mark is obeyed. UserError for bytes that are not such an image, or one
    of more than 8 bits.
    """
    flat = checked_compressed(data)
    try:
        decoded = cv2.imdecode(flat, cv2.IMREAD_UNCHANGED)
    except cv2.error:
        decoded = None
    return decoded_to_rgb(decoded, flat.size)


def checked_compressed(data: Buffer) -> ImageArray:
    """The bytes (N,); UserError if they do not begin as a JPEG or PNG does."""
    flat = _bytes(data)
    if not flat[:8].tobytes().startswith((_JPEG, _PNG)):
        raise UserError(f"compressed image of {flat.size} bytes begins like no JPEG or PNG; {_EXPECTED}")
    return flat


def decoded_to_rgb(decoded: npt.NDArray[Any] | None, size: int) -> ImageArray:
    """RGB (H, W, 3) of what OpenCV decoded from ``size`` bytes: grey, BGR or BGRA. UserError if it has not 8 bits."""
    if decoded is None:
        raise UserError(f"compressed image of {size} bytes cannot be decoded; {_EXPECTED}")
    if decoded.dtype != np.uint8:
        raise UserError(f"compressed image has {8 * decoded.dtype.itemsize} bits; {_EXPECTED} (is it a depth image?)")
    channels = decoded.shape[2] if decoded.ndim == 3 else 1
    return np.asarray(cv2.cvtColor(decoded, _DECODED_TO_RGB[channels]), dtype=np.uint8)


def _bytes(data: Buffer) -> ImageArray:
    """(N,) uint8, without a copy."""
    if isinstance(data, np.ndarray):
        return data.reshape(-1)
    return np.frombuffer(data, dtype=np.uint8)


def _bad_encoding(encoding: str) -> UserError:
    if encoding in UNNAMED_COLOURS:
        usual = " or ".join(UNNAMED_COLOURS[encoding])
        return UserError(
            f"image encoding {encoding!r} does not say which colours it holds; if you know them, import with "
            f"--encoding TOPIC={UNNAMED_COLOURS[encoding][0]} (usually {usual}), or let the driver publish them by name"
        )
    if _DEEP.fullmatch(encoding):
        what = "signed numbers" if encoding.startswith("8S") else "more than 8 bits per channel"
        return UserError(
            f"image encoding {encoding!r} has {what}; expected one of {', '.join(ENCODINGS)} (is it a depth image?)"
        )
    return unknown("image encoding", encoding, ENCODINGS)


@dataclass(frozen=True)
class SquareImages:
    """Makes every image square and as large as configured."""

    size_px: int
    fit: Fit = "crop"
    """``crop`` cuts the longer sides off evenly, ``letterbox`` fills the shorter ones up with black."""

    def __post_init__(self) -> None:
        if self.fit not in ("crop", "letterbox"):
            raise unknown("way to make images square:", str(self.fit), ("crop", "letterbox"))
        if self.size_px < 1:
            raise UserError(f"image size is {self.size_px} px; expected at least 1")

    def window(self, height: int, width: int) -> tuple[int, int, int]:
        """Left, top and side [px] of the square that is shown of an image; negative where black is added."""
        side = min(height, width) if self.fit == "crop" else max(height, width)
        if self.fit == "crop":
            return (width - side) // 2, (height - side) // 2, side
        return -((side - width) // 2), -((side - height) // 2), side

    def __call__(self, image: ImageArray) -> ImageArray:
        """(H, W, 3) uint8 -> (size, size, 3) uint8."""
        return area_resize(centre_crop(image) if self.fit == "crop" else letterbox(image), self.size_px)


def centre_crop(image: ImageArray) -> ImageArray:
    """The largest centred square of an image (H, W, 3)."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def letterbox(image: ImageArray) -> ImageArray:
    """The image (H, W, 3) in the middle of a black square of its longer side."""
    height, width = image.shape[:2]
    side = max(height, width)
    square = np.zeros((side, side, 3), np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = image
    return square


def area_resize(image: ImageArray, size_px: int) -> ImageArray:
    """The square image shrunk to (size, size, 3) by area averaging (method.md 19); itself if it has that size."""
    if image.shape[:2] == (size_px, size_px):
        return image
    return np.asarray(cv2.resize(image, (size_px, size_px), interpolation=cv2.INTER_AREA), dtype=np.uint8)
