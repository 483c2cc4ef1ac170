"""The colour camera of a RealSense, or a recording of one (.db3, .bag), as a camera."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from diwa_conventions.errors import UserError
from diwa_conventions.images import ImageArray, raw_to_rgb
from diwa_teleop.cameras.camera import CameraEndedError, CameraError, CameraLostError, Exposure, Frame
from diwa_teleop.cameras.intrinsics import Intrinsics, pinhole
from diwa_teleop.cameras.stamps import DeviceClock

CHECK = (
    "check the cable, that it is in a USB 3 port (lsusb -d 8086:), the udev rules 99-realsense-libusb.rules, "
    "and that no other program uses it"
)
_ENCODINGS = ("rgb8", "bgr8", "rgba8", "bgra8", "y8")
_MILLISECOND_NS = 1e6
_QUEUED = 32
"""Images that wait where this process was held up: the library's own waiting keeps but one."""


@dataclass(frozen=True)
class RealSenseSettings:
    """Which camera, and what it should send."""

    serial: str = ""
    """Empty: the only one attached."""
    width: int = 640
    height: int = 480
    rate_hz: int = 30
    exposure: Exposure = Exposure()


@cache
def load_realsense() -> Any:
    """The module pyrealsense2. UserError if it, or the system's libusb that it needs, is missing."""
    try:
        return importlib.import_module("pyrealsense2")
    except ModuleNotFoundError:
        raise UserError("the package pyrealsense2 is missing: make setup EXTRA=hardware") from None
    except ImportError as error:
        if "libusb" not in str(error):
            raise UserError(f"pyrealsense2 does not load here ({error}): make setup EXTRA=hardware") from error
    _load_libusb()
    return importlib.import_module("pyrealsense2")


def _load_libusb() -> None:
    """Give the process a package's libusb-1.0.so.0 where the system has none."""
    package = importlib.util.find_spec("libusb_package")
    folders = package.submodule_search_locations if package else None
    if not folders:
        raise UserError("pyrealsense2 needs libusb: make setup EXTRA=hardware, or sudo apt-get install libusb-1.0-0")
    ctypes.CDLL(str(Path(folders[0]) / "libusb-1.0.so"), mode=ctypes.RTLD_GLOBAL)


class RealSense:
    """A device, or a recording played at the speed at which it was recorded."""

    def __init__(
        self, settings: RealSenseSettings, file: Path | None = None, now_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._settings, self._file, self._now_ns = settings, file, now_ns
        self._serial = settings.serial
        self._pipeline: Any | None = None
        self._queue: Any | None = None
        self._playback: Any | None = None
        self._clock = DeviceClock()

    @property
    def name(self) -> str:
        return f"RealSense recording {self._file}" if self._file else f"RealSense {self._serial}".strip()

    def open(self) -> None:
        rs, self._clock = load_realsense(), DeviceClock()
        config, pipeline, queue = rs.config(), rs.pipeline(), rs.frame_queue(_QUEUED, keep_frames=True)
        if self._file is not None:
            self._configure_file(config, self._file)
        else:
            self._configure_device(rs, config)
        try:
            profile = pipeline.start(config, queue)
        except RuntimeError as error:
            raise CameraError(self._not_started(error)) from error
        self._pipeline, self._queue, device = pipeline, queue, profile.get_device()
        if self._file is not None:
            self._playback = device.as_playback()
            self._playback.set_real_time(True)
        else:
            self._expose(rs, device)

    def _configure_file(self, config: Any, file: Path) -> None:
        if not file.is_file():
            raise CameraError(f"{file} does not exist; expected a recording of a RealSense, .db3 or .bag")
        try:
            config.enable_device_from_file(str(file), False)
        except RuntimeError as error:
            raise CameraError(self._not_started(error)) from error

    def _configure_device(self, rs: Any, config: Any) -> None:
        wanted = self._settings
        self._serial = chosen_serial(attached(rs), wanted.serial)
        config.enable_device(self._serial)
        config.enable_stream(rs.stream.color, wanted.width, wanted.height, rs.format.rgb8, wanted.rate_hz)

    def _not_started(self, error: RuntimeError) -> str:
        if self._file is not None:
            return f"{self._file} cannot be played ({error}); expected a recording of a RealSense, .db3 or .bag"
        wanted = self._settings
        return f"{self.name} does not start {wanted.width}x{wanted.height} at {wanted.rate_hz} Hz ({error}); {CHECK}"

    def _expose(self, rs: Any, device: Any) -> None:
        sensor = colour_sensor(rs, device)
        try:
            set_exposure(rs, sensor, self._settings.exposure)
        except RuntimeError as error:
            raise CameraError(f"{self.name} refuses its exposure settings: {error}; 0 leaves them to it") from error

    def read(self, timeout_s: float) -> Frame | None:
        assert self._queue is not None
        try:
            came, frames = self._queue.try_wait_for_frame(round(1e3 * timeout_s))
            if not came:
                self._check_end()
                return None
            return self._frame(frames.as_frameset().get_color_frame() if frames.is_frameset() else frames)
        except RuntimeError as error:
            raise CameraLostError(f"{self.name} is gone: {error}; {CHECK}") from error

    def _check_end(self) -> None:
        if self._playback and self._playback.current_status() == load_realsense().playback_status.stopped:
            raise CameraEndedError(f"{self._file} is over")

    def _frame(self, colour: Any) -> Frame | None:
        if not colour:
            return None
        device_ns = round(_MILLISECOND_NS * colour.get_timestamp())
        stamp_ns = self._clock.stamp_ns(device_ns, self._now_ns())
        profile = colour.get_profile().as_video_stream_profile()
        encoding = profile.format().name
        return Frame(_rgb(colour, encoding), stamp_ns, intrinsics_of(profile.get_intrinsics()), encoding)

    def close(self) -> None:
        pipeline, self._pipeline, self._queue, self._playback = self._pipeline, None, None, None
        if pipeline is not None:
            pipeline.stop()


def attached(rs: Any) -> dict[str, str]:
    """Serial number -> model of the RealSense cameras here."""
    info = rs.camera_info
    devices = [device for device in rs.context().query_devices() if device.supports(info.serial_number)]
    return {device.get_info(info.serial_number): device.get_info(info.name) for device in devices}


def chosen_serial(found: dict[str, str], wanted: str) -> str:
    """The camera to use of those found. CameraError if it is not there, or not clear which one is meant."""
    listed = ", ".join(f"{serial} ({model})" for serial, model in found.items())
    if wanted in found:
        return wanted
    if wanted:
        raise CameraError(f"no RealSense {wanted} found; attached: {listed or 'none'}; {CHECK}")
    if not found:
        raise CameraError(f"no RealSense found; attached: none; {CHECK}")
    if len(found) > 1:
        raise CameraError(f"{len(found)} RealSense cameras are attached: {listed}; set parameter serial to one")
    return next(iter(found))


def colour_sensor(rs: Any, device: Any) -> Any:
    """The sensor that delivers colour: the RGB camera, or the depth sensor of models without one (D405)."""
    for sensor in device.query_sensors():
        if any(profile.stream_type() == rs.stream.color for profile in sensor.get_stream_profiles()):
            return sensor
    raise CameraError(f"RealSense {device.get_info(rs.camera_info.serial_number)} has no colour camera")


def set_exposure(rs: Any, sensor: Any, exposure: Exposure) -> None:
    """Fix exposure time and white balance, or leave them to the camera."""
    option = rs.option
    pairs = (
        (option.enable_auto_exposure, option.exposure, exposure.time_us / exposure_unit_us(rs, sensor)),
        (option.enable_auto_white_balance, option.white_balance, exposure.white_balance_k),
    )
    for automatic, by_hand, value in pairs:
        if sensor.supports(automatic):
            sensor.set_option(automatic, float(not value))
        if value:
            sensor.set_option(by_hand, float(value))


def exposure_unit_us(rs: Any, sensor: Any) -> float:
    """Microseconds per unit of the exposure option: depth sensors count them, RGB cameras (UVC) count hundreds."""
    is_depth = any(profile.stream_type() == rs.stream.depth for profile in sensor.get_stream_profiles())
    return 1.0 if is_depth else 100.0


def intrinsics_of(lens: Any) -> Intrinsics:
    """Named plumb_bob as the vendor's ROS driver does; the factory's coefficients are zero on most models."""
    matrix = np.array([[lens.fx, 0.0, lens.ppx], [0.0, lens.fy, lens.ppy], [0.0, 0.0, 1.0]])
    fisheye = lens.model.name in ("ftheta", "kannala_brandt4")
    coefficients = tuple(float(value) for value in lens.coeffs)
    if fisheye:
        return pinhole(lens.width, lens.height, matrix, "equidistant", coefficients[:4])
    return pinhole(lens.width, lens.height, matrix, "plumb_bob", coefficients)


def _rgb(colour: Any, encoding: str) -> ImageArray:
    """A copy: the library uses the memory of its frames again. CameraLostError for other formats."""
    if encoding not in _ENCODINGS:
        raise CameraLostError(f"the RealSense sends {encoding}; expected one of {', '.join(_ENCODINGS)}")
    data = np.array(colour.get_data()).view(np.uint8).reshape(-1)
    name = encoding.replace("y8", "mono8")
    return raw_to_rgb(name, colour.get_height(), colour.get_width(), colour.get_stride_in_bytes(), data)
