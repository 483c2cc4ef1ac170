"""H.264 films that every browser plays, and pictures for them: both cameras side by side above a caption."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.container import OutputContainer

from diwa_conventions.errors import UserError
from diwa_conventions.images import ImageArray

CAPTION_PX = 32
"""Height of the bar under the views."""
SHOWN_HEIGHT_PX = 400
"""Views are enlarged by a whole factor to at most this height."""


class FilmWriter:
    """An MP4 of RGB frames (H, W, 3) uint8, all of one size. Use as a context manager, or call :meth:`close`.

    ``scale``: how many pixels wide each becomes. ``crf``: H.264's quality; lower is better and larger. The file is
    readable once closed. A film without frames touches no file. Error: OSError where it cannot be written.
    """

    def __init__(self, path: Path, rate_hz: float, scale: int = 1, crf: int = 20) -> None:
        if path.suffix != ".mp4":
            raise UserError(f"film {path} ends in {path.suffix!r}; expected .mp4")
        path.parent.mkdir(parents=True, exist_ok=True)
        _check_writable(path)
        self.path = path
        self.frames = 0
        self._rate = Fraction(rate_hz).limit_denominator(1000)
        self._scale, self._crf = scale, crf
        self._container: OutputContainer | None = None
        self._stream: av.VideoStream | None = None
        self._shape: tuple[int, ...] = ()

    def add(self, image: npt.NDArray[np.uint8]) -> None:
        """Append a frame. UserError if its size differs from the first one's."""
        if self._stream is None or self._container is None:
            self._container, self._stream = self._open(image.shape)
        if image.shape != self._shape:
            raise UserError(f"frame {self.frames} of {self.path} is {image.shape}; the film is {self._shape}")
        enlarged = np.ascontiguousarray(image.repeat(self._scale, axis=0).repeat(self._scale, axis=1))
        frame = av.VideoFrame.from_ndarray(enlarged, format="rgb24")
        self._container.mux(self._stream.encode(frame))
        self.frames += 1

    def close(self) -> None:
        """Finish the file."""
        if self._stream is not None and self._container is not None:
            self._container.mux(self._stream.encode(None))
            self._container.close()

    def _open(self, shape: tuple[int, ...]) -> tuple[OutputContainer, av.VideoStream]:
        height, width = shape[0] * self._scale, shape[1] * self._scale
        if len(shape) != 3 or shape[2] != 3 or height % 2 or width % 2:
            raise UserError(f"frames of {self.path} are {shape}; expected (H, W, 3) with even sides")
        self._shape = shape
        container = av.open(str(self.path), "w", options={"movflags": "faststart"})
        stream = container.add_stream("libx264", rate=self._rate, options={"crf": str(self._crf), "preset": "fast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        return container, stream

    def __enter__(self) -> FilmWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_writable(path: Path) -> None:
    """OSError, in the system's own words, if the file cannot be written; what is there stays."""
    is_new = not path.exists()
    with path.open("ab"):
        pass
    if is_new:
        path.unlink()


def film_picture(static: ImageArray, gripper: ImageArray, caption: str) -> ImageArray:
    """Both RGB views (H, W, 3) uint8, enlarged, above the caption; with even sides, as H.264 needs them.

    UserError when the views differ in height.
    """
    if static.shape[0] != gripper.shape[0]:
        sizes = [f"{image.shape[1]}x{image.shape[0]}" for image in (static, gripper)]
        raise UserError(f"the cameras' images differ in height: static {sizes[0]}, gripper {sizes[1]}")
    factor = max(1, SHOWN_HEIGHT_PX // static.shape[0])
    views = np.hstack([static, gripper]).repeat(factor, axis=0).repeat(factor, axis=1)
    height, width = views.shape[:2]
    page = np.zeros((height + height % 2 + CAPTION_PX, width + width % 2, 3), np.uint8)
    page[:height, :width] = views
    below = (8, page.shape[0] - 10)
    cv2.putText(page, caption, below, cv2.FONT_HERSHEY_SIMPLEX, 0.55, (230, 230, 230), 1, cv2.LINE_AA)
    return page
