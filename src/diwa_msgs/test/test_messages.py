"""Poses in messages, quality of service, and the words of errors."""

import numpy as np
import pytest
from geometry_msgs.msg import Point, Quaternion
from geometry_msgs.msg import Pose as PoseMessage
from hypothesis import given
from hypothesis import strategies as st
from rclpy.qos import ReliabilityPolicy
from scipy.spatial.transform import Rotation

from diwa_conventions import topics
from diwa_conventions.actions import Pose
from diwa_conventions.errors import UserError, unknown
from diwa_conventions.messages import pose_from_message, pose_to_message
from diwa_conventions.qos import message_type, profile

vectors = st.tuples(*[st.floats(-3.0, 3.0)] * 3).map(np.array)


@given(vectors, vectors)
def test_a_pose_survives_the_message(position: np.ndarray, rotation_vector: np.ndarray) -> None:
    pose = Pose(position, Rotation.from_rotvec(rotation_vector).as_matrix())
    again = pose_from_message(pose_to_message(pose))
    assert again.distance_m(pose) < 1e-12
    assert again.angle_rad(pose) < 1e-6


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (PoseMessage(position=Point(x=float("nan"))), "not finite"),
        (PoseMessage(orientation=Quaternion(x=float("inf"))), "not finite"),
        (PoseMessage(orientation=Quaternion(w=0.0)), "length 0.0000; expected 1"),
        (PoseMessage(orientation=Quaternion(w=1.01)), "length 1.0100; expected 1"),
    ],
)
def test_a_pose_that_makes_no_sense_is_refused(message: PoseMessage, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        pose_from_message(message)


def test_profiles_are_those_of_the_table() -> None:
    assert profile(topics.CURRENT_POSE).reliability == ReliabilityPolicy.BEST_EFFORT
    assert profile(topics.STATIC_IMAGE).reliability == ReliabilityPolicy.RELIABLE
    assert profile(topics.STATIC_IMAGE).depth == 5
    assert message_type(topics.JOINT_STATES).__name__ == "JointState"


def test_an_unknown_name_gets_the_nearest_and_all_known_ones() -> None:
    assert (
        str(unknown("look", "clar", ["clear", "hard"]))
        == "unknown look 'clar'; did you mean 'clear'? known: clear, hard"
    )
    assert str(unknown("look", "zzz", ["clear", ""])) == "unknown look 'zzz'; known: clear, ''"
