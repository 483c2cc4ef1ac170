"""The few functions of Microsoft's Azure Kinect library that a colour camera needs, through ctypes.

The package pyk4a-bundle carries the vendor's libk4a and libk4arecord. Its own Python module was built for numpy 1 and
does not load beside numpy 2, but the libraries need no numpy: they are loaded as they are.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import POINTER, byref, c_bool, c_char_p, c_float, c_int, c_int32, c_size_t, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import numpy as np

from diwa_conventions.errors import UserError
from diwa_conventions.images import ImageArray

MJPG, BGRA32 = 0, 3
"""k4a_image_format_t. The colour camera sends MJPG."""
RESOLUTIONS = {"720p": 1, "1080p": 2, "1440p": 3, "1536p": 4, "2160p": 5, "3072p": 6}
"""k4a_color_resolution_t."""
RATES_HZ = {5: 0, 15: 1, 30: 2}
"""k4a_fps_t."""
EXPOSURE_US, WHITE_BALANCE_K = 0, 6
"""k4a_color_control_command_t."""
_AUTOMATIC, _MANUAL = 0, 1
_SUCCEEDED, _FAILED, _NOTHING = 0, 1, 2
"""k4a_result_t, k4a_wait_result_t (2: time is over), k4a_stream_result_t (2: end of file)."""
_PACKAGE = "pyk4a-bundle"


class Configuration(ctypes.Structure):
    """k4a_device_configuration_t."""

    _fields_ = [
        ("color_format", c_int),
        ("color_resolution", c_int),
        ("depth_mode", c_int),
        ("camera_fps", c_int),
        ("synchronized_images_only", c_bool),
        ("depth_delay_off_color_usec", c_int32),
        ("wired_sync_mode", c_int),
        ("subordinate_delay_off_master_usec", c_uint32),
        ("disable_streaming_indicator", c_bool),
    ]


class _Extrinsics(ctypes.Structure):
    _fields_ = [("rotation", c_float * 9), ("translation", c_float * 3)]


class _CameraCalibration(ctypes.Structure):
    """k4a_calibration_camera_t; parameters: cx, cy, fx, fy, k1 to k6, codx, cody, p2, p1, radius."""

    _fields_ = [
        ("extrinsics", _Extrinsics),
        ("type", c_int),
        ("parameter_count", c_uint32),
        ("parameters", c_float * 15),
        ("width", c_int),
        ("height", c_int),
        ("metric_radius", c_float),
    ]


class Calibration(ctypes.Structure):
    """k4a_calibration_t."""

    _fields_ = [
        ("depth", _CameraCalibration),
        ("color", _CameraCalibration),
        ("extrinsics", _Extrinsics * 16),
        ("depth_mode", c_int),
        ("color_resolution", c_int),
    ]


_HANDLE = POINTER(c_void_p)
_DEVICE = {
    "k4a_device_get_installed_count": (c_uint32, []),
    "k4a_device_open": (c_int, [c_uint32, _HANDLE]),
    "k4a_device_close": (None, [c_void_p]),
    "k4a_device_get_serialnum": (c_int, [c_void_p, c_char_p, POINTER(c_size_t)]),
    "k4a_device_start_cameras": (c_int, [c_void_p, POINTER(Configuration)]),
    "k4a_device_stop_cameras": (None, [c_void_p]),
    "k4a_device_get_capture": (c_int, [c_void_p, _HANDLE, c_int32]),
    "k4a_device_get_calibration": (c_int, [c_void_p, c_int, c_int, POINTER(Calibration)]),
    "k4a_device_set_color_control": (c_int, [c_void_p, c_int, c_int, c_int32]),
    "k4a_capture_release": (None, [c_void_p]),
    "k4a_capture_get_color_image": (c_void_p, [c_void_p]),
    "k4a_image_release": (None, [c_void_p]),
    "k4a_image_get_buffer": (c_void_p, [c_void_p]),
    "k4a_image_get_size": (c_size_t, [c_void_p]),
    "k4a_image_get_format": (c_int, [c_void_p]),
    "k4a_image_get_width_pixels": (c_int, [c_void_p]),
    "k4a_image_get_height_pixels": (c_int, [c_void_p]),
    "k4a_image_get_stride_bytes": (c_int, [c_void_p]),
    "k4a_image_get_device_timestamp_usec": (c_uint64, [c_void_p]),
}
_PLAYBACK = {
    "k4a_playback_open": (c_int, [c_char_p, _HANDLE]),
    "k4a_playback_close": (None, [c_void_p]),
    "k4a_playback_get_next_capture": (c_int, [c_void_p, _HANDLE]),
    "k4a_playback_get_calibration": (c_int, [c_void_p, POINTER(Calibration)]),
}


@dataclass(frozen=True)
class ColourImage:
    """One image as the library hands it over, copied."""

    data: ImageArray
    """(N,) bytes: a JPEG, or rows of pixels."""
    format: int
    width: int
    height: int
    stride: int
    device_us: int
    """By the device's clock: the middle of the exposure [us]."""


class K4aError(UserError):
    """The library refuses; it gives no reasons."""


@dataclass(frozen=True)
class Libraries:
    """libk4a and libk4arecord."""

    device: ctypes.CDLL
    record: ctypes.CDLL


@cache
def load() -> Libraries:
    """Both libraries. UserError if the package is missing or does not load."""
    # They print every failed attempt; what a person has to know is said by us.
    os.environ.setdefault("K4A_ENABLE_LOG_TO_STDOUT", "0")
    os.environ.setdefault("K4A_RECORD_ENABLE_LOG_TO_STDOUT", "0")
    try:
        found = [Path(str(file.locate())) for file in files(_PACKAGE) or () if file.name.startswith("libk4a")]
    except PackageNotFoundError:
        raise UserError(f"the package {_PACKAGE} is missing: make setup EXTRA=hardware") from None
    try:
        device = ctypes.CDLL(str(next(path for path in found if path.name.startswith("libk4a-"))))
        record = ctypes.CDLL(str(next(path for path in found if path.name.startswith("libk4arecord-"))))
    except (OSError, StopIteration) as error:
        raise UserError(f"{_PACKAGE} does not load here ({error}): make setup EXTRA=hardware") from error
    for library, functions in ((device, _DEVICE), (record, _PLAYBACK)):
        for name, (result, arguments) in functions.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    return Libraries(device, record)


class Device:
    """An Azure Kinect that is open. Close it."""

    def __init__(self, index: int) -> None:
        """K4aError if it cannot be opened: another program has it, or this user may not."""
        self._library = load().device
        self._handle = c_void_p()
        if self._library.k4a_device_open(index, byref(self._handle)) != _SUCCEEDED:
            raise K4aError(f"Azure Kinect number {index} cannot be opened")
        self._started = False

    @staticmethod
    def count() -> int:
        """How many are attached."""
        return int(load().device.k4a_device_get_installed_count())

    def serial(self) -> str:
        size = c_size_t(64)
        text = ctypes.create_string_buffer(size.value)
        if self._library.k4a_device_get_serialnum(self._handle, text, byref(size)) != _SUCCEEDED:
            raise K4aError("the Azure Kinect does not tell its serial number")
        return text.value.decode()

    def set_colour(self, control: int, value: float) -> None:
        """Fix EXPOSURE_US or WHITE_BALANCE_K; 0: automatic. The device keeps it until it loses power."""
        mode = _MANUAL if value else _AUTOMATIC
        if self._library.k4a_device_set_color_control(self._handle, control, mode, round(value)) != _SUCCEEDED:
            raise K4aError(f"the Azure Kinect refuses the setting {value:g}")

    def start(self, resolution: str, rate_hz: int) -> None:
        """Colour alone: the depth engine stays off."""
        wanted = Configuration(color_format=MJPG, color_resolution=RESOLUTIONS[resolution])
        wanted.camera_fps = RATES_HZ[rate_hz]
        if self._library.k4a_device_start_cameras(self._handle, byref(wanted)) != _SUCCEEDED:
            raise K4aError(f"the Azure Kinect does not start {resolution} at {rate_hz} Hz")
        self._started = True

    def calibration(self, resolution: str) -> Calibration:
        found = Calibration()
        if self._library.k4a_device_get_calibration(self._handle, 0, RESOLUTIONS[resolution], byref(found)):
            raise K4aError("the Azure Kinect's calibration cannot be read")
        return found

    def image(self, timeout_s: float) -> ColourImage | None:
        """The next image; None if none comes in time. K4aError if the device is gone."""
        capture = c_void_p()
        result = self._library.k4a_device_get_capture(self._handle, byref(capture), round(1e3 * timeout_s))
        if result == _FAILED:
            raise K4aError("no more images")
        return _colour(capture) if result == _SUCCEEDED else None

    def close(self) -> None:
        if self._started:
            self._library.k4a_device_stop_cameras(self._handle)
        if self._handle:
            self._library.k4a_device_close(self._handle)
        self._handle, self._started = c_void_p(), False


class Playback:
    """An MKV that k4arecorder or k4aviewer wrote. Close it."""

    def __init__(self, path: Path) -> None:
        self._library = load().record
        self._handle = c_void_p()
        if self._library.k4a_playback_open(os.fsencode(path), byref(self._handle)) != _SUCCEEDED:
            raise K4aError(f"{path} is no recording of an Azure Kinect")

    def calibration(self) -> Calibration | None:
        """None if the recording has none."""
        found = Calibration()
        return found if self._library.k4a_playback_get_calibration(self._handle, byref(found)) == _SUCCEEDED else None

    def images(self) -> Iterator[ColourImage]:
        """All colour images. K4aError where the file is damaged."""
        while True:
            capture = c_void_p()
            result = self._library.k4a_playback_get_next_capture(self._handle, byref(capture))
            if result == _NOTHING:
                return
            if result != _SUCCEEDED:
                raise K4aError("the recording is damaged")
            image = _colour(capture)
            if image is not None:
                yield image

    def close(self) -> None:
        if self._handle:
            self._library.k4a_playback_close(self._handle)
        self._handle = c_void_p()


def _colour(capture: c_void_p) -> ColourImage | None:
    """The capture's colour image, copied; the capture is given back."""
    library = load().device
    with _released(capture.value, library.k4a_capture_release):
        with _released(library.k4a_capture_get_color_image(capture), library.k4a_image_release) as image:
            if not image:
                return None
            size = library.k4a_image_get_size(image)
            data = np.frombuffer(ctypes.string_at(library.k4a_image_get_buffer(image), size), np.uint8)
            return ColourImage(
                data,
                library.k4a_image_get_format(image),
                library.k4a_image_get_width_pixels(image),
                library.k4a_image_get_height_pixels(image),
                library.k4a_image_get_stride_bytes(image),
                library.k4a_image_get_device_timestamp_usec(image),
            )


@contextmanager
def _released(handle: int | None, release: ctypes._NamedFuncPointer) -> Iterator[int | None]:
    try:
        yield handle
    finally:
        if handle:
            release(handle)
