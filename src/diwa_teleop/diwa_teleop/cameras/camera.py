"""What a camera is to this software: opened, read frame by frame, closed. Drivers implement it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from diwa_conventions.errors import UserError
from diwa_conventions.images import ImageArray
from diwa_teleop.cameras.intrinsics import Intrinsics


class CameraError(UserError):
    """The camera cannot be opened or used; one line says which camera, why, and what to do."""


class CameraLostError(CameraError):
    """A camera that worked delivers no more; opening it again may help."""


class CameraEndedError(CameraLostError):
    """A recording that was played as a camera is over."""


@dataclass(frozen=True)
class Exposure:
    """How bright and how warm images are. What a policy was trained with it should see again: better fixed."""

    time_us: float = 0.0
    """Exposure time [us]; 0: the camera decides, image by image."""
    white_balance_k: float = 0.0
    """White balance [K]; 0: the camera decides, image by image."""


@dataclass(frozen=True)
class Frame:
    """One image as the camera delivered it."""

    image: ImageArray
    """(H, W, 3) uint8, RGB."""
    stamp_ns: int
    """Moment of exposure by the driver's clock, since 1970."""
    intrinsics: Intrinsics | None
    """Of this image; None if the camera is not calibrated."""
    encoding: str = "rgb8"
    """As the device sent it."""


class Camera(Protocol):
    """One camera. Not for several threads at once."""

    @property
    def name(self) -> str:
        """For a person: ``RealSense 819112070711``; the serial number once it is known."""

    def open(self) -> None:
        """Begin to deliver; CameraError if that is not possible."""

    def read(self, timeout_s: float) -> Frame | None:
        """The next frame; None if there is none in time. CameraLostError if there will be no more."""

    def close(self) -> None:
        """Give the device back; harmless if it is not open."""
