"""A picture for the film: both cameras side by side above a caption."""

from __future__ import annotations

import cv2
import numpy as np

from diwa_conventions.errors import UserError
from diwa_conventions.images import ImageArray

CAPTION_PX = 32
"""Height of the bar under the views."""
SHOWN_HEIGHT_PX = 400
"""Views are enlarged by a whole factor to at most this height."""


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
