"""A hand for devices that have none: it is driven by speeds and begins at the origin.

Its absolute place does not matter, since the clutch sets the origins anew.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from diwa_conventions.actions import FloatArray, Pose


class VirtualHand:
    """The pose that speeds along and about the axes of the base frame have led to."""

    def __init__(self) -> None:
        self.pose = Pose(np.zeros(3), np.eye(3))

    def move(self, shift_m: FloatArray, turn_rad: FloatArray) -> Pose:
        """Shift (3,) [m] and turn by a rotation vector (3,) [rad]; the pose afterwards."""
        rotation = Rotation.from_rotvec(turn_rad).as_matrix() @ self.pose.rotation
        self.pose = Pose(self.pose.position + shift_m, rotation)
        return self.pose
