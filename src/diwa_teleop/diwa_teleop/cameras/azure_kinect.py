"""The colour camera of an Azure Kinect, or an MKV of one, as a camera."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diwa_conventions.errors import UserError, unknown
from diwa_conventions.images import ImageArray, compressed_to_rgb, raw_to_rgb
from diwa_teleop.cameras import k4a
from diwa_teleop.cameras.camera import CameraEndedError, CameraError, CameraLostError, Exposure, Frame
from diwa_teleop.cameras.intrinsics import Intrinsics, pinhole
from diwa_teleop.cameras.stamps import DeviceClock, Playing

CHECK = (
    "check the power supply and the USB 3 port (lsusb -d 045e:), the udev rule 99-k4a.rules, "
    "and that no other program uses it"
)


@dataclass(frozen=True)
class AzureKinectSettings:
    """Which camera, and what it should send."""

    serial: str = ""
    """Empty: the only one attached."""
    resolution: str = "720p"
    rate_hz: int = 30
    exposure: Exposure = Exposure()

    def __post_init__(self) -> None:
        if self.resolution not in k4a.RESOLUTIONS:
            raise unknown("resolution of an Azure Kinect:", self.resolution, k4a.RESOLUTIONS)
        if self.rate_hz not in k4a.RATES_HZ:
            raise UserError(f"rate of an Azure Kinect is {self.rate_hz} Hz; expected 5, 15 or 30")


class AzureKinect:
    """A device. One that is not there is looked for at every :meth:`open`."""

    def __init__(self, settings: AzureKinectSettings, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._settings, self._now_ns = settings, now_ns
        self._device: k4a.Device | None = None
        self._serial = settings.serial
        self._intrinsics: Intrinsics | None = None
        self._clock = DeviceClock()

    @property
    def name(self) -> str:
        return f"Azure Kinect {self._serial}".strip()

    def open(self) -> None:
        wanted, self._clock = self._settings, DeviceClock()
        self._device, self._serial = find(wanted.serial)
        try:
            self._device.set_colour(k4a.EXPOSURE_US, wanted.exposure.time_us)
            self._device.set_colour(k4a.WHITE_BALANCE_K, wanted.exposure.white_balance_k)
            self._intrinsics = intrinsics_of(self._device.calibration(wanted.resolution))
            self._device.start(wanted.resolution, wanted.rate_hz)
        except k4a.K4aError as error:
            raise CameraError(f"{self.name}: {error}; {CHECK}") from error

    def read(self, timeout_s: float) -> Frame | None:
        assert self._device is not None
        try:
            image = self._device.image(timeout_s)
        except k4a.K4aError as error:
            raise CameraLostError(f"{self.name} is gone: {error}; {CHECK}") from error
        if image is None:
            return None
        return frame_of(image, self._clock.stamp_ns(1000 * image.device_us, self._now_ns()), self._intrinsics)

    def close(self) -> None:
        if self._device is not None:
            self._device.close()
            self._device = None


class AzureKinectFile:
    """An MKV, played at the speed at which it was recorded."""

    def __init__(
        self, path: Path, now_ns: Callable[[], int] = time.time_ns, playing: Callable[[], Playing] = Playing
    ) -> None:
        self._path, self._now_ns, self._new_playing = path, now_ns, playing
        self._playback: k4a.Playback | None = None
        self._images: Iterator[k4a.ColourImage] = iter(())
        self._next: k4a.ColourImage | None = None
        self._intrinsics: Intrinsics | None = None
        self._playing, self._clock = playing(), DeviceClock()

    @property
    def name(self) -> str:
        return f"Azure Kinect recording {self._path}"

    def open(self) -> None:
        if not self._path.is_file():
            raise CameraError(f"{self._path} does not exist; expected an MKV of an Azure Kinect")
        try:
            self._playback = k4a.Playback(self._path)
        except k4a.K4aError as error:
            raise CameraError(f"{error}; expected an MKV of k4arecorder") from error
        calibration = self._playback.calibration()
        self._intrinsics = None if calibration is None else intrinsics_of(calibration)
        self._images, self._next = self._playback.images(), None
        self._playing, self._clock = self._new_playing(), DeviceClock()

    def read(self, timeout_s: float) -> Frame | None:
        try:
            self._next = self._next or next(self._images)
        except StopIteration:
            raise CameraEndedError(f"{self._path} is over") from None
        except k4a.K4aError as error:
            raise CameraEndedError(f"{self._path} ends early: {error}") from error
        image = self._next
        if not self._playing.is_due(1e-6 * image.device_us, timeout_s):
            return None
        self._next = None
        return frame_of(image, self._clock.stamp_ns(1000 * image.device_us, self._now_ns()), self._intrinsics)

    def close(self) -> None:
        self._images, self._next = iter(()), None
        if self._playback is not None:
            self._playback.close()
            self._playback = None


def find(serial: str) -> tuple[k4a.Device, str]:
    """The open device with that serial number, or the only one; and its number. CameraError if there is none."""
    count, found = k4a.Device.count(), []
    if count == 0:
        raise CameraError(f"no Azure Kinect {serial}".rstrip() + f" found; attached: none; {CHECK}")
    if count > 1 and not serial:
        raise CameraError(f"{count} Azure Kinects are attached; set parameter serial to the one that is meant")
    for index in range(count):
        try:
            device = k4a.Device(index)
        except k4a.K4aError:
            found.append(f"number {index}, which cannot be opened")
            continue
        number = device.serial()
        if serial in ("", number):
            return device, number
        device.close()
        found.append(number)
    wanted = f"Azure Kinect {serial}" if serial else "Azure Kinect that can be opened"
    raise CameraError(f"no {wanted} found; attached: {', '.join(found)}; {CHECK}")


def frame_of(image: k4a.ColourImage, stamp_ns: int, intrinsics: Intrinsics | None) -> Frame:
    """The decoded image. CameraLostError if it cannot be decoded."""
    try:
        return Frame(_rgb(image), stamp_ns, intrinsics, "jpeg" if image.format == k4a.MJPG else "bgra8")
    except UserError as error:
        raise CameraLostError(f"the Azure Kinect sent an image that is none: {error}") from error


def _rgb(image: k4a.ColourImage) -> ImageArray:
    if image.format == k4a.MJPG:
        return compressed_to_rgb(image.data)
    if image.format == k4a.BGRA32:
        return raw_to_rgb("bgra8", image.height, image.width, image.stride, image.data)
    raise UserError(f"k4a image format {image.format}; expected MJPG or BGRA32: record it so")


def intrinsics_of(calibration: k4a.Calibration) -> Intrinsics:
    """Of the colour camera at its resolution: Brown-Conrady with six radial terms, OpenCV's rational model."""
    colour = calibration.color
    cx, cy, fx, fy, k1, k2, k3, k4, k5, k6, _, _, p2, p1 = (float(value) for value in colour.parameters[:14])
    matrix = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    return pinhole(colour.width, colour.height, matrix, "rational_polynomial", (k1, k2, p1, p2, k3, k4, k5, k6))
