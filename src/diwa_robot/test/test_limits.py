"""Settings that make no sense are refused by name; the cone's geometry is right."""

import math
from dataclasses import fields

import numpy as np
import pytest
from guard_rig import DOWN, HOME_M, tilted
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from diwa_conventions.actions import Pose
from diwa_conventions.errors import UserError
from diwa_robot.limits import GuardConfig, into_cone, start_pose, tilt_rad, turn_stays_in_cone
from diwa_robot.so3 import orthonormal, rotation_matrix, rotation_vector

ANGLES = st.floats(-3.0, 3.0)
VECTORS = st.tuples(ANGLES, ANGLES, ANGLES).map(np.array)
NUMBERS = [item for item in fields(GuardConfig) if isinstance(item.default, float)]


def test_defaults_are_valid_and_every_setting_says_what_it_is():
    GuardConfig()
    for item in fields(GuardConfig):
        assert item.metadata["about"]
        assert "range" in item.metadata


@pytest.mark.parametrize("item", NUMBERS, ids=lambda item: item.name)
@pytest.mark.parametrize("wrong", ["below", "above", "nan", "text"])
def test_number_out_of_range_is_refused_with_name_value_and_range(item, wrong):
    low, high = item.metadata["range"]
    value = {"below": low - 0.1, "above": high + 0.1, "nan": math.nan, "text": "1"}[wrong]
    with pytest.raises(UserError) as refusal:
        GuardConfig(**{item.name: value})
    assert item.name in str(refusal.value) and f"{low:g} to {high:g}" in str(refusal.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workspace_low_m": (0.0, 0.0)}, "workspace_low_m is (0.0, 0.0); expected three numbers"),
        ({"workspace_low_m": (0.0, math.nan, 0.0)}, "workspace_low_m"),
        ({"workspace_high_m": (0.8, 0.4, math.inf)}, "workspace_high_m"),
        ({"workspace_high_m": (0.8, 0.4, 0.02)}, "expected low below high on every axis"),
        ({"required_cameras": ("wrist",)}, "unknown camera in required_cameras: 'wrist'"),
        ({"max_lead_m": 0.3}, "max_lead_m is 0.3; expected less than fault_lead_m=0.25"),
        ({"max_lead_rad": 1.3}, "max_lead_rad is 1.3; expected less than fault_lead_rad=1.2"),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_one_line(settings, message):
    with pytest.raises(UserError) as refusal:
        GuardConfig(**settings)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_bounds_of_exactly_zero_are_bounds():
    config = GuardConfig(workspace_low_m=(0.0, 0.0, 0.0), max_tilt_rad=0.0, max_lead_m=0.0, max_speed_m_s=0.0)
    assert config.low.tolist() == [0.0, 0.0, 0.0]
    assert config.goal_tilt_rad == 0.0


@given(VECTORS)
def test_rotation_vectors_and_matrices_agree_with_scipy(vector):
    matrix = rotation_matrix(vector)
    np.testing.assert_allclose(matrix, Rotation.from_rotvec(vector).as_matrix(), atol=1e-12)
    back = rotation_vector(matrix)
    assert np.linalg.norm(back) <= np.pi + 1e-12
    np.testing.assert_allclose(rotation_matrix(back), matrix, atol=1e-7)


@pytest.mark.parametrize("axis", np.eye(3).tolist() + [[0.6, 0.0, -0.8]])
def test_half_a_turn_has_a_rotation_vector(axis):
    back = rotation_vector(Rotation.from_rotvec(np.pi * np.array(axis)).as_matrix())
    assert np.abs(back) == pytest.approx(np.pi * np.abs(axis), abs=1e-7)


@given(VECTORS, st.integers(0, 8))
def test_orthonormal_mends_what_rounding_does(vector, element):
    worn = rotation_matrix(vector).copy()
    worn.ravel()[element] += 1e-6
    mended = orthonormal(worn)
    np.testing.assert_allclose(mended @ mended.T, np.eye(3), atol=1e-11)
    np.testing.assert_allclose(mended, worn, atol=2e-6)


@given(VECTORS, st.floats(0.0, 3.1))
def test_into_cone_ends_in_the_cone_by_the_shortest_way(vector, max_tilt):
    rotation = rotation_matrix(vector)
    inside = into_cone(rotation, max_tilt)
    assert tilt_rad(inside) <= max_tilt + 1e-6
    way = Rotation.from_matrix(inside @ rotation.T).magnitude()
    assert way == pytest.approx(max(0.0, tilt_rad(rotation) - max_tilt), abs=1e-6)


@given(st.floats(0.0, 0.8), ANGLES, VECTORS, st.floats(0.05, 1.2))
def test_turn_that_stays_in_the_cone_does_so_at_every_moment(tilt, azimuth, turn, max_tilt):
    rotation = tilted(tilt, azimuth)
    angle = np.linalg.norm(turn)
    steps = [rotation_matrix(turn * part) @ rotation for part in np.linspace(0.0, 1.0, 101)]
    greatest = max(tilt_rad(step) for step in steps)
    between_steps = angle * 0.01  # the tilt changes by at most the angle turned
    if turn_stays_in_cone(rotation, turn, max_tilt):
        assert greatest <= max_tilt + 1e-4
    else:
        assert greatest >= max_tilt - between_steps - 1e-4


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_arm_outside_the_box_cannot_be_armed_and_is_told_how_to_get_in(axis, side):
    config = GuardConfig()
    position = HOME_M.copy()
    position[axis] = (config.high if side > 0.0 else config.low)[axis] + side * 0.05
    with pytest.raises(UserError, match=f"0.050 m outside the workspace box in {'xyz'[axis]}.*guide the arm"):
        start_pose(Pose(position, DOWN), config)


def test_arm_a_little_outside_starts_at_the_bound():
    config = GuardConfig()
    start = start_pose(Pose(np.array([0.46, 0.0, 0.015]), tilted(0.82)), config)
    assert start.position[2] == 0.02
    assert tilt_rad(start.rotation) <= 0.8


def test_tilted_hand_cannot_be_armed():
    with pytest.raises(UserError, match=r"tilted by 0.90 rad from straight down; allowed 0.8; guide the hand upright"):
        start_pose(Pose(HOME_M, tilted(0.9)), GuardConfig())
