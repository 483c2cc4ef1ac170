"""From the operator's frame to the arm's base frame: a signed permutation of axes, then a turn of the workspace."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from diwa_conventions.actions import FloatArray, Pose, euler_to_matrix
from diwa_conventions.errors import UserError

_AXIS = re.compile(r"([+-]?)([xyz])")


def operator_to_base(axes: str, rpy_rad: npt.ArrayLike) -> FloatArray:
    """Rotation (3, 3) from the operator's frame to the arm's base frame.

    ``axes`` names the operator's axes that become x, y and z of the base: ``"-y,x,z"`` makes the arm's x the
    operator's -y. ``rpy_rad`` (3,), extrinsic xyz, turns the result, for a workspace that was measured. UserError for
    axes that are not three different ones or that mirror space.
    """
    rows = []
    for word in axes.replace(" ", "").split(","):
        match = _AXIS.fullmatch(word)
        if match is None:
            raise _bad_axes(axes, f"{word!r} is none of x, y, z, -x, -y, -z")
        sign = -1.0 if match[1] == "-" else 1.0
        rows.append(sign * np.eye(3)["xyz".index(match[2])])
    matrix = np.array(rows)
    if matrix.shape != (3, 3) or abs(np.linalg.det(matrix)) < 0.5:
        raise _bad_axes(axes, "x, y and z must each be there once")
    if np.linalg.det(matrix) < 0.0:
        raise _bad_axes(axes, "it mirrors space; change one more sign, or swap two axes")
    angles = np.array(rpy_rad, dtype=np.float64)
    if angles.shape != (3,) or not np.isfinite(angles).all():
        raise UserError(f"frame_rpy_rad is {angles.tolist()}; expected three finite angles [rad]")
    return euler_to_matrix(angles) @ matrix


def _bad_axes(axes: str, why: str) -> UserError:
    return UserError(f"axes is {axes!r}: {why}; expected for example 'x,y,z' or '-y,x,z'")


def map_pose(rotation: FloatArray, pose: Pose) -> Pose:
    """The pose, turned from the operator's frame into the base frame by ``rotation`` (3, 3)."""
    return Pose(rotation @ pose.position, rotation @ pose.rotation @ rotation.T)
