"""Forward kinematics and Jacobian of the Panda from its published Denavit-Hartenberg parameters: 20 us a pose."""

from __future__ import annotations

import numpy as np

from diwa_conventions.actions import FloatArray

DOF = 7
_A_M = (0.0, 0.0, 0.0, 0.0825, -0.0825, 0.0, 0.088)
_D_M = (0.333, 0.0, 0.316, 0.0, 0.384, 0.0, 0.0)
_ALPHA_RAD = (0.0, -np.pi / 2, np.pi / 2, np.pi / 2, -np.pi / 2, np.pi / 2, np.pi / 2)
_FLANGE_M = 0.107

HAND_TOOL = np.array(
    [
        [np.sqrt(0.5), np.sqrt(0.5), 0.0, 0.0],
        [-np.sqrt(0.5), np.sqrt(0.5), 0.0, 0.0],
        [0.0, 0.0, 1.0, 0.1034],
        [0.0, 0.0, 0.0, 1.0],
    ]
)
"""Flange to the hand's tool centre point (F_T_NE), what Desk sets for the Franka hand."""


def _constants() -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """The link transforms as constant + cos(q) * this + sin(q) * that, and the flange."""
    fixed, cosine, sine = (np.zeros((DOF, 4, 4)) for _ in range(3))
    for i, (a, d, alpha) in enumerate(zip(_A_M, _D_M, _ALPHA_RAD, strict=True)):
        ca, sa = np.cos(alpha), np.sin(alpha)
        fixed[i] = [[0, 0, 0, a], [0, 0, -sa, -d * sa], [0, 0, ca, d * ca], [0, 0, 0, 1]]
        cosine[i, 0, 0], cosine[i, 1, 1], cosine[i, 2, 1] = 1.0, ca, sa
        sine[i, 0, 1], sine[i, 1, 0], sine[i, 2, 0] = -1.0, ca, sa
    flange = np.eye(4)
    flange[2, 3] = _FLANGE_M
    return fixed, cosine, sine, flange


_FIXED, _COSINE, _SINE, _FLANGE = _constants()


def joint_frames(q: FloatArray) -> FloatArray:
    """The frames of joints 1 to 7 and of the flange in the base frame (8, 4, 4) for joints (7,) [rad]."""
    links = _FIXED + np.cos(q)[:, None, None] * _COSINE + np.sin(q)[:, None, None] * _SINE
    frames = np.empty((DOF + 1, 4, 4))
    frames[0] = links[0]
    for i in range(1, DOF):
        np.dot(frames[i - 1], links[i], out=frames[i])
    np.dot(frames[DOF - 1], _FLANGE, out=frames[DOF])
    return frames


def jacobian(frames: FloatArray, point: FloatArray) -> FloatArray:
    """Velocity of a point (3,) that moves with the flange, and the flange's turn rate: (6, 7), in the base frame."""
    axes, arms = frames[:DOF, :3, 2], point - frames[:DOF, :3, 3]
    out = np.empty((6, DOF))
    out[0] = axes[:, 1] * arms[:, 2] - axes[:, 2] * arms[:, 1]
    out[1] = axes[:, 2] * arms[:, 0] - axes[:, 0] * arms[:, 2]
    out[2] = axes[:, 0] * arms[:, 1] - axes[:, 1] * arms[:, 0]
    out[3:] = axes.T
    return out


def small_turn(to: FloatArray, start: FloatArray) -> FloatArray:
    """Rotation vector (3,) in the base frame from one rotation matrix to another one near by."""
    turn = to @ start.T
    return 0.5 * np.array((turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]))


def twist_between(to: FloatArray, start: FloatArray) -> FloatArray:
    """Displacement (6,) [m, rad] in the base frame from one pose (4, 4) to another one near by."""
    return np.concatenate((to[:3, 3] - start[:3, 3], small_turn(to[:3, :3], start[:3, :3])))


def from_columns(values: FloatArray) -> FloatArray:
    """(4, 4) from the sixteen numbers of a message, which go column by column."""
    return np.array(values, dtype=np.float64).reshape(4, 4).T


def is_pose(matrix: FloatArray, tolerance: float = 1e-5) -> bool:
    """Whether (4, 4) is a rotation and a translation."""
    rotation = matrix[:3, :3]
    return bool(
        np.all(np.isfinite(matrix))
        and np.all(np.abs(matrix[3] - (0.0, 0.0, 0.0, 1.0)) < tolerance)
        and np.all(np.abs(rotation @ rotation.T - np.eye(3)) < tolerance)
        and np.linalg.det(rotation) > 0.0
    )
