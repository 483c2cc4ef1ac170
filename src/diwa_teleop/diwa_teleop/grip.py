"""While the clutch is engaged: where the operator's hand wants the arm, relative to where both were at engaging."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from diwa_conventions.actions import FloatArray, Pose


@dataclass(frozen=True)
class Gain:
    """How much of the hand's motion the arm makes."""

    translation: FloatArray
    """(3,) arm metres per hand metre along x, y, z of the base; 0 switches an axis off."""
    rotation: FloatArray
    """(3,) the same for turns about x, y, z."""


class Grip:
    """Holds the arm by the hand. All poses are in the arm's base frame."""

    def __init__(self, hand: Pose, arm: Pose, gain: Gain) -> None:
        self._hand_origin = hand
        self._arm_origin = arm
        self._gain = gain
        self._turn = np.zeros(3)

    def wanted(self, hand: Pose) -> Pose:
        """The arm's origin moved by the scaled motion of the hand since the origins were set."""
        shift, turn = self._motion(hand)
        return Pose(self._arm_origin.position + shift, turn @ self._arm_origin.rotation)

    def slip(self, hand: Pose, wanted: Pose) -> None:
        """Move the arm's origin so that this hand wants ``wanted``."""
        shift, turn = self._motion(hand)
        self._arm_origin = Pose(wanted.position - shift, turn.T @ wanted.rotation)

    def _motion(self, hand: Pose) -> tuple[FloatArray, FloatArray]:
        """Translation (3,) and rotation matrix (3, 3) that the arm has to make."""
        shift = self._gain.translation * (hand.position - self._hand_origin.position)
        turn = hand.rotation @ self._hand_origin.rotation.T
        if np.array_equal(self._gain.rotation, np.ones(3)):
            return shift, turn
        self._turn = unwrapped(rotation_vector(turn), self._turn)
        return shift, Rotation.from_rotvec(self._gain.rotation * self._turn).as_matrix()


def rotation_vector(rotation: FloatArray) -> FloatArray:
    """Axis times angle (3,) [rad] of a rotation matrix (3, 3), at most pi long."""
    return np.asarray(Rotation.from_matrix(rotation).as_rotvec(), dtype=np.float64)


def unwrapped(turn: FloatArray, before: FloatArray) -> FloatArray:
    """Of all rotation vectors of the same rotation the one nearest to ``before``: a scaled turn must not leap at pi."""
    angle = float(np.linalg.norm(turn))
    if angle < 1e-9:
        return turn
    axis = turn / angle
    turns = np.round((float(before @ axis) - angle) / (2.0 * np.pi))
    return np.asarray(turn + 2.0 * np.pi * turns * axis, dtype=np.float64)
