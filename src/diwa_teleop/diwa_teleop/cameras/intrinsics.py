"""Camera matrices, and what cropping, letterboxing and resizing make of them. Pixel centres are at integers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from diwa_conventions.actions import FloatArray
from diwa_conventions.images import SquareImages


@dataclass(frozen=True)
class Intrinsics:
    """As in sensor_msgs/CameraInfo."""

    width: int
    height: int
    matrix: FloatArray
    """K (3, 3) [px] of the image as taken; zeros if not calibrated."""
    projection: FloatArray
    """P (3, 4) [px] of the rectified image."""
    distortion_model: str
    distortion: tuple[float, ...]
    """D: acts on normalised coordinates, so no resizing changes it."""
    rectification: FloatArray
    """R (3, 3)."""


def squared(intrinsics: Intrinsics, images: SquareImages) -> Intrinsics:
    """Intrinsics of the square image that ``images`` makes."""
    left, top, side = images.window(intrinsics.height, intrinsics.width)
    scale = images.size_px / side
    # The centre of pixel 0 is at 0, so an image begins at -0.5: a pixel's place scales about there.
    resize = np.array(
        [
            [scale, 0.0, scale * (0.5 - left) - 0.5],
            [0.0, scale, scale * (0.5 - top) - 0.5],
            [0.0, 0.0, 1.0],
        ]
    )
    return replace(
        intrinsics,
        width=images.size_px,
        height=images.size_px,
        matrix=resize @ intrinsics.matrix,
        projection=resize @ intrinsics.projection,
    )


def pinhole(
    width: int, height: int, matrix: FloatArray, distortion_model: str, distortion: tuple[float, ...]
) -> Intrinsics:
    """Of one camera by itself: nothing to rectify, and the projection is the camera's own matrix (3, 3) [px]."""
    projection = np.hstack([matrix, np.zeros((3, 1))])
    return Intrinsics(width, height, matrix, projection, distortion_model, distortion, np.eye(3))
