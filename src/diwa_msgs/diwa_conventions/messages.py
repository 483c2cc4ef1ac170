"""Poses to and from ROS messages. Imports ROS; only nodes use it."""

from __future__ import annotations

import numpy as np
from geometry_msgs.msg import Point, Quaternion
from geometry_msgs.msg import Pose as PoseMessage

from diwa_conventions.actions import Pose
from diwa_conventions.errors import UserError

QUATERNION_TOLERANCE = 1e-3
"""How far from 1 a quaternion's length may be."""


def pose_to_message(pose: Pose) -> PoseMessage:
    x, y, z = map(float, pose.position)
    qx, qy, qz, qw = map(float, pose.quaternion())
    return PoseMessage(position=Point(x=x, y=y, z=z), orientation=Quaternion(x=qx, y=qy, z=qz, w=qw))


def pose_from_message(message: PoseMessage) -> Pose:
    """The pose; UserError for a value that is not finite or a quaternion whose length is not 1."""
    point, turn = message.position, message.orientation
    position, quaternion = np.array([point.x, point.y, point.z]), np.array([turn.x, turn.y, turn.z, turn.w])
    if not (np.isfinite(position).all() and np.isfinite(quaternion).all()):
        raise UserError("holds a value that is not finite")
    norm = float(np.linalg.norm(quaternion))
    if abs(norm - 1.0) > QUATERNION_TOLERANCE:
        raise UserError(f"has a quaternion of length {norm:.4f}; expected 1")
    return Pose.from_quaternion(position, quaternion)
