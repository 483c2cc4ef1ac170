"""Keeps a camera delivering: opens it, notices that it is gone, tries again ever less often. No ROS, no thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from diwa_teleop.cameras.camera import Camera, CameraEndedError, CameraError, CameraLostError, Frame

Say = Callable[[str, bool], None]
"""What happened, and whether it is as it should be."""


class State(Enum):
    """Of a camera that is kept."""

    SEARCHING = "searching"
    """It cannot be opened, or not yet; the next try follows after a pause."""
    OPENED = "opened"
    """Open, but without an image so far."""
    STREAMING = "streaming"
    OVER = "over"
    """A recording that is over."""


@dataclass(frozen=True)
class Patience:
    """How long to wait for what."""

    first_s: float = 0.5
    """Between the first two tries to open the camera; from try to try twice as long."""
    longest_s: float = 5.0
    """Between two tries, however many there were."""
    silent_s: float = 2.0
    """Without an image: the camera is lost."""
    opened_s: float = 5.0
    """Until the first image after opening: cameras take their time to start."""
    read_s: float = 0.2
    """Longest wait for one image."""


class ReconnectingCamera:
    """A camera that may come late, vanish and come back, step by step."""

    def __init__(
        self,
        camera: Camera,
        say: Say = lambda text, ok: None,
        repeat: bool = False,
        patience: Patience | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``repeat``: a recording that is over begins anew."""
        self._camera, self._say, self._repeat, self._clock = camera, say, repeat, clock
        self._patience = patience or Patience()
        self.state = State.SEARCHING
        self.reason = "not tried yet"
        """Why it does not deliver, for a person."""
        self.frames = self.opened = self.lost = self.tries = 0
        self._said = ""
        self._pause_s = self._patience.first_s
        self._due_s = self._newest_s = clock()

    @property
    def name(self) -> str:
        return self._camera.name

    @property
    def idle_s(self) -> float:
        """How long there is nothing to do."""
        if self.state is State.OVER:
            return self._patience.longest_s
        return max(self._due_s - self._clock(), 0.0) if self.state is State.SEARCHING else 0.0

    def step(self) -> Frame | None:
        """Do what is due: try to open it, or wait for an image. Never raises, whatever the driver does."""
        try:
            if self.state is State.SEARCHING and self.idle_s <= 0.0:
                self._open()
            elif self.state in (State.OPENED, State.STREAMING):
                return self._read()
        except CameraEndedError as error:
            self._end(str(error))
        except CameraLostError as error:
            self._lose(str(error))
        except CameraError as error:
            self._retry(str(error))
        except Exception as error:  # a driver's fault must not end the thread that reads
            self._lose(f"{self.name}: fault in the driver: {type(error).__name__}: {error}")
        return None

    def close(self) -> None:
        """Give the camera back; it may be stepped again."""
        self._shut()
        self.state = State.SEARCHING
        self._due_s, self._pause_s = self._clock(), self._patience.first_s

    def _open(self) -> None:
        self.tries += 1
        self._camera.open()
        self.opened += 1
        self._newest_s = self._clock()
        self.state, self.reason = State.OPENED, f"{self.name} is open, no image yet"

    def _read(self) -> Frame | None:
        frame = self._camera.read(self._patience.read_s)
        if frame is None:
            self._check_silence()
            return None
        self._newest_s = self._clock()
        self.frames += 1
        if self.state is State.OPENED:
            self.state, self.reason = State.STREAMING, ""
            self._pause_s = self._patience.first_s
            self._tell(f"{self.name} delivers images", True)
        return frame

    def _check_silence(self) -> None:
        opened = self.state is State.OPENED
        longest_s = self._patience.opened_s if opened else self._patience.silent_s
        if self._clock() - self._newest_s > longest_s:
            raise CameraLostError(
                f"{self.name} {'was opened but ' if opened else ''}has sent no image for {longest_s:g} s; "
                "check cable and USB port"
            )

    def _end(self, reason: str) -> None:
        delivered = self.state is State.STREAMING
        self._shut()
        if self._repeat and delivered:
            self.state, self.reason, self._due_s = State.SEARCHING, "begins anew", self._clock()
            return
        self.state, self.reason = State.OVER, reason
        self._tell(reason, True)

    def _lose(self, reason: str) -> None:
        self.lost += 1
        self._retry(reason)

    def _retry(self, reason: str) -> None:
        """Close it and try again after a pause, which grows until images come."""
        self._shut()
        self.state, self.reason = State.SEARCHING, reason
        self._due_s = self._clock() + self._pause_s
        self._pause_s = min(2.0 * self._pause_s, self._patience.longest_s)
        self._tell(f"{reason} (tried again until it works)", False)

    def _shut(self) -> None:
        try:
            self._camera.close()
        except Exception as error:  # a device that has gone may refuse even this
            self._tell(f"{self.name} could not be closed: {error}", False)

    def _tell(self, text: str, ok: bool) -> None:
        """Once, however often it is tried."""
        if text != self._said:
            self._said = text
            self._say(text, ok)
