"""Any camera that the system knows as a video device (v4l2), or a video file, through OpenCV."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from diwa_conventions.errors import UserError
from diwa_teleop.cameras.camera import CameraEndedError, CameraError, CameraLostError, Exposure, Frame
from diwa_teleop.cameras.stamps import DeviceClock, Playing

CHECK = (
    "check the cable (v4l2-ctl --list-devices), that this user is in the group video, and that no other program uses it"
)
_FILE_RATE_HZ = 30.0
"""Of video files that do not say."""
_MANUAL_EXPOSURE, _AUTOMATIC_EXPOSURE = 1.0, 3.0
"""v4l2's exposure_auto: manual mode and aperture priority."""
_EXPOSURE_UNIT_US = 100.0


@dataclass(frozen=True)
class WebcamSettings:
    """Which camera, and what it should send."""

    device: str = "0"
    """Number, or path: /dev/v4l/by-id/... stays the same whatever is plugged in when."""
    width: int = 640
    height: int = 480
    rate_hz: int = 30
    exposure: Exposure = Exposure()

    @property
    def path(self) -> Path:
        """The device file. UserError for what is neither number nor path."""
        if self.device.isdecimal():
            return Path(f"/dev/video{self.device}")
        if not self.device.startswith("/"):
            raise UserError(f"device is {self.device!r}; expected a number or a path, /dev/video0 say")
        return Path(self.device)


class Webcam:
    """A video device. It has no calibration; stamps are the moments of arrival."""

    def __init__(self, settings: WebcamSettings, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._settings, self._path, self._now_ns = settings, settings.path, now_ns
        self._capture: cv2.VideoCapture | None = None

    @property
    def name(self) -> str:
        return f"webcam {self._path}"

    def open(self) -> None:
        if not self._path.exists():
            found = ", ".join(sorted(map(str, Path("/dev").glob("video*")))) or "none"
            raise CameraError(f"no {self.name} found; attached: {found}; {CHECK}")
        capture = cv2.VideoCapture(str(self._path), cv2.CAP_V4L2)
        if not capture.isOpened():
            raise CameraError(f"{self.name} cannot be opened; {CHECK}")
        self._capture = capture
        wanted = self._settings
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, wanted.width)
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, wanted.height)
        capture.set(cv2.CAP_PROP_FPS, wanted.rate_hz)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 2)
        _expose(capture, wanted.exposure)

    def read(self, timeout_s: float) -> Frame | None:
        """OpenCV waits as long as it likes, whatever the time-out."""
        assert self._capture is not None
        came, image = self._capture.read()
        if not came:
            raise CameraLostError(f"{self.name} is gone; {CHECK}")
        return Frame(_rgb(image), self._now_ns(), None, "bgr8")

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None


class VideoFile:
    """A film, played at its own speed."""

    def __init__(
        self, path: Path, now_ns: Callable[[], int] = time.time_ns, playing: Callable[[], Playing] = Playing
    ) -> None:
        self._path, self._now_ns, self._new_playing = path, now_ns, playing
        self._capture: cv2.VideoCapture | None = None
        self._playing, self._clock = playing(), DeviceClock()
        self._next: np.ndarray | None = None
        self._rate_hz, self._count = _FILE_RATE_HZ, 0

    @property
    def name(self) -> str:
        return f"video {self._path}"

    def open(self) -> None:
        if not self._path.is_file():
            raise CameraError(f"{self._path} does not exist; expected a video file")
        capture = cv2.VideoCapture(str(self._path), cv2.CAP_FFMPEG)
        if not capture.isOpened():
            raise CameraError(f"{self._path} is no video that OpenCV can read")
        self._capture, self._next, self._count = capture, None, 0
        self._playing, self._clock = self._new_playing(), DeviceClock()
        self._rate_hz = capture.get(cv2.CAP_PROP_FPS) or _FILE_RATE_HZ

    def read(self, timeout_s: float) -> Frame | None:
        assert self._capture is not None
        if self._next is None:
            came, self._next = self._capture.read()
            if not came or self._next is None:
                raise CameraEndedError(f"{self._path} is over")
        media_s = self._count / self._rate_hz
        if not self._playing.is_due(media_s, timeout_s):
            return None
        image, self._next = self._next, None
        self._count += 1
        return Frame(_rgb(image), self._clock.stamp_ns(round(1e9 * media_s), self._now_ns()), None, "bgr8")

    def close(self) -> None:
        self._next = None
        if self._capture is not None:
            self._capture.release()
            self._capture = None


def _rgb(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _expose(capture: cv2.VideoCapture, exposure: Exposure) -> None:
    """A camera that lacks a setting keeps its own: drivers differ, and OpenCV does not tell."""
    capture.set(cv2.CAP_PROP_AUTO_EXPOSURE, _MANUAL_EXPOSURE if exposure.time_us else _AUTOMATIC_EXPOSURE)
    capture.set(cv2.CAP_PROP_AUTO_WB, float(not exposure.white_balance_k))
    if exposure.time_us:
        capture.set(cv2.CAP_PROP_EXPOSURE, exposure.time_us / _EXPOSURE_UNIT_US)
    if exposure.white_balance_k:
        capture.set(cv2.CAP_PROP_WB_TEMPERATURE, exposure.white_balance_k)
