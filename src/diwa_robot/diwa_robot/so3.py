"""Rotation matrices and rotation vectors, ten times as fast as scipy's for one rotation."""

from __future__ import annotations

import math

import numpy as np

from diwa_conventions.actions import FloatArray

_EYE = np.eye(3)


def rotation_vector(rotation: FloatArray) -> FloatArray:
    """Logarithm: axis times angle (3,) [rad] of a rotation matrix (3, 3); at half a turn one of the two."""
    twice_sine = np.array(
        [
            rotation[2, 1] - rotation[1, 2],
            rotation[0, 2] - rotation[2, 0],
            rotation[1, 0] - rotation[0, 1],
        ]
    )
    sine = 0.5 * length(twice_sine)
    cosine = 0.5 * (rotation[0, 0] + rotation[1, 1] + rotation[2, 2] - 1.0)
    if sine < 1e-8 and cosine < 0.0:
        axis = int(np.argmax(np.diag(rotation)))
        twice_axis = rotation[:, axis] + _EYE[axis]
        return twice_axis * (math.pi / length(twice_axis))
    if sine < 1e-12:
        return 0.5 * twice_sine
    return twice_sine * (0.5 * math.atan2(sine, cosine) / sine)


def rotation_matrix(vector: FloatArray) -> FloatArray:
    """Exponential: the rotation matrix (3, 3) of axis times angle (3,) [rad] (Rodrigues)."""
    angle = length(vector)
    if angle == 0.0:
        return _EYE
    x, y, z = (float(value) / angle for value in vector)
    sine, versine = math.sin(angle), 2.0 * math.sin(0.5 * angle) ** 2
    return np.array(
        [
            [1.0 - versine * (y * y + z * z), versine * x * y - sine * z, versine * x * z + sine * y],
            [versine * x * y + sine * z, 1.0 - versine * (x * x + z * z), versine * y * z - sine * x],
            [versine * x * z - sine * y, versine * y * z + sine * x, 1.0 - versine * (x * x + y * y)],
        ]
    )


def orthonormal(rotation: FloatArray) -> FloatArray:
    """The rotation nearest to a matrix (3, 3) that rounding has carried a little away from one (a Newton step)."""
    return rotation @ (1.5 * _EYE - 0.5 * (rotation.T @ rotation))


def length(vector: FloatArray) -> float:
    """Euclidean length of (3,)."""
    return math.hypot(vector[0], vector[1], vector[2])
