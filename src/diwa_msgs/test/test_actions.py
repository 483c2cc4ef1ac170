"""What a 7-DoF delta action means."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from diwa_conventions import actions, rates
from diwa_conventions.actions import (
    ActionScale,
    Pose,
    checked_action,
    difference,
    euler_to_matrix,
    integrate,
    matrix_to_euler,
    rotation_6d,
)

SCALE = ActionScale()
HOME = Pose(np.array([0.3, 0.0, 0.5]), np.diag([1.0, -1.0, -1.0]))


def about(x: float, y: float, z: float) -> np.ndarray:
    """Matrix of a rotation vector [rad], by scipy: the second opinion on this module's own formulas."""
    return Rotation.from_rotvec([x, y, z]).as_matrix()


components = st.floats(-1.0, 1.0)
actions_in_range = st.lists(components, min_size=7, max_size=7).map(np.array)
positions = st.lists(st.floats(-1.0, 1.0), min_size=3, max_size=3).map(np.array)
rotations = st.lists(st.floats(-np.pi, np.pi), min_size=3, max_size=3).map(lambda v: about(*v))
poses = st.builds(Pose, positions, rotations)


def assert_same_pose(one: Pose, other: Pose) -> None:
    assert one.distance_m(other) < 1e-9
    assert one.angle_rad(other) < 1e-6


# ---- rates and scales ----


def test_a_step_is_four_recorded_frames() -> None:
    assert rates.RECORD_RATE_HZ / rates.TRAIN_RATE_HZ == rates.FRAMES_PER_STEP == 4


def test_full_scale_is_8_cm_and_0_2_rad_per_step() -> None:
    moved = integrate(HOME, np.array([1.0, 0, 0, 0, 0, 1.0, 0]), SCALE)
    assert moved.distance_m(HOME) == pytest.approx(0.08)
    assert moved.angle_rad(HOME) == pytest.approx(0.2)


def test_full_scale_is_a_speed_of_0_6_m_s_and_1_5_rad_s() -> None:
    assert SCALE.speed_m_s == pytest.approx(0.6)
    assert SCALE.speed_rad_s == pytest.approx(1.5)


@pytest.mark.parametrize("name", ["translation_m", "rotation_rad"])
@pytest.mark.parametrize("value", [0.0, -0.1, np.nan, np.inf])
def test_a_scale_is_finite_and_above_zero(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        ActionScale(**{name: value})


# ---- gripper ----


def test_gripper_opens_at_zero() -> None:
    assert actions.gripper_opens(0.0)


@given(st.floats(0.0, 1.0))
def test_gripper_opens_from_zero_up(value: float) -> None:
    assert actions.gripper_opens(value)
    assert actions.quantise_gripper(value) == actions.GRIPPER_OPEN == 1.0


@given(st.floats(-1.0, 0.0, exclude_max=True))
def test_gripper_closes_below_zero(value: float) -> None:
    assert not actions.gripper_opens(value)
    assert actions.quantise_gripper(value) == actions.GRIPPER_CLOSE == -1.0


@given(components)
def test_quantising_the_gripper_twice_changes_nothing(value: float) -> None:
    once = actions.quantise_gripper(value)
    assert actions.quantise_gripper(once) == once


# ---- poses ----


@given(poses)
def test_a_pose_is_the_same_after_a_trip_through_its_quaternion(pose: Pose) -> None:
    assert_same_pose(Pose.from_quaternion(pose.position, pose.quaternion()), pose)


def test_quaternions_have_their_scalar_last_as_in_ros() -> None:
    assert Pose(HOME.position, np.eye(3)).quaternion() == pytest.approx([0.0, 0.0, 0.0, 1.0])


def test_a_zero_quaternion_is_refused() -> None:
    with pytest.raises(ValueError, match="zero norm"):
        Pose.from_quaternion([0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0])


@given(poses, st.floats(0.0, np.pi))
def test_the_angle_between_poses_is_that_of_the_turn(pose: Pose, angle: float) -> None:
    turned = Pose(pose.position, about(0, angle, 0) @ pose.rotation)
    assert turned.angle_rad(pose) == pytest.approx(angle, abs=1e-6)


angles = st.lists(st.floats(-np.pi, np.pi), min_size=3, max_size=3).map(np.array)


@given(angles)
def test_euler_angles_are_those_of_scipy(rpy: np.ndarray) -> None:
    assert euler_to_matrix(rpy) == pytest.approx(Rotation.from_euler("xyz", rpy).as_matrix(), abs=1e-12)


@given(angles)
def test_a_rotation_is_the_same_after_a_trip_through_its_euler_angles(rpy: np.ndarray) -> None:
    rotation = euler_to_matrix(rpy)
    assert euler_to_matrix(matrix_to_euler(rotation)) == pytest.approx(rotation, abs=1e-7)


@pytest.mark.parametrize("pitch", [-np.pi / 2, np.pi / 2])
def test_gimbal_lock_still_gives_angles_of_that_rotation(pitch: float) -> None:
    rotation = euler_to_matrix(np.array([0.3, pitch, -0.2]))
    assert euler_to_matrix(matrix_to_euler(rotation)) == pytest.approx(rotation, abs=1e-9)


# ---- integration and difference ----


@given(poses)
def test_a_zero_action_holds_the_pose(pose: Pose) -> None:
    assert_same_pose(integrate(pose, np.zeros(7), SCALE), pose)


@given(poses, actions_in_range)
def test_difference_gives_back_the_action_that_was_integrated(pose: Pose, action: np.ndarray) -> None:
    assert difference(pose, integrate(pose, action, SCALE), SCALE) == pytest.approx(action[:6], abs=1e-6)


@given(poses, positions, st.lists(st.floats(-0.9, 0.9), min_size=3, max_size=3))
def test_integrating_a_difference_leads_to_the_second_pose(before: Pose, position: np.ndarray, turn: list) -> None:
    after = Pose(position, about(*turn) @ before.rotation)
    assert_same_pose(integrate(before, difference(before, after, SCALE), SCALE), after)


def test_difference_is_not_clipped() -> None:
    far = Pose(HOME.position + [0.8, 0.0, 0.0], HOME.rotation)
    assert difference(HOME, far, SCALE)[0] == pytest.approx(10.0)


@given(poses, actions_in_range)
def test_the_gripper_component_does_not_move_the_arm(pose: Pose, action: np.ndarray) -> None:
    other = action.copy()
    other[actions.GRIPPER_INDEX] = -action[actions.GRIPPER_INDEX]
    assert_same_pose(integrate(pose, action, SCALE), integrate(pose, other, SCALE))


@given(poses, positions)
def test_translations_are_along_the_base_axes_whatever_the_orientation(pose: Pose, direction: np.ndarray) -> None:
    action = np.concatenate([direction, np.zeros(4)])
    moved = integrate(pose, action, SCALE)
    assert moved.position - pose.position == pytest.approx(SCALE.translation_m * direction, abs=1e-9)


def test_rotations_are_about_the_base_axes_not_the_tool_axes() -> None:
    yaw = integrate(HOME, np.array([0, 0, 0, 0, 0, 1.0, 0]), SCALE)
    assert_same_pose(yaw, Pose(HOME.position, about(0, 0, 0.2) @ HOME.rotation))


def test_euler_angles_are_extrinsic_xyz() -> None:
    turned = integrate(HOME, np.array([0, 0, 0, 1.0, -0.5, 0.25, 0]), SCALE)
    # about base x first, then base y, then base z
    turn = about(0, 0, 0.05) @ about(0, -0.1, 0) @ about(0.2, 0, 0)
    assert_same_pose(turned, Pose(HOME.position, turn @ HOME.rotation))


@given(poses, st.integers(0, 5), components)
def test_four_quarters_of_a_one_axis_action_make_one_step(pose: Pose, axis: int, value: float) -> None:
    action = np.zeros(7)
    action[axis] = value
    quarters = pose
    for _ in range(4):
        quarters = integrate(quarters, action, SCALE, fraction=0.25)
    assert_same_pose(quarters, integrate(pose, action, SCALE))


# ---- checked actions ----


@given(actions_in_range)
def test_an_action_in_range_passes_unchanged(action: np.ndarray) -> None:
    assert np.array_equal(checked_action(action), action)


@pytest.mark.parametrize("bound", [-1.0, 1.0])
def test_the_bounds_themselves_are_allowed(bound: float) -> None:
    assert np.array_equal(checked_action([bound] * 7), np.full(7, bound))


def test_an_action_becomes_float64() -> None:
    assert checked_action(np.zeros(7, np.float32)).dtype == np.float64


@pytest.mark.parametrize("index", range(7))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.001, -1.001, 1e30])
def test_a_bad_component_is_refused_by_its_index(index: int, value: float) -> None:
    action = np.zeros(7)
    action[index] = value
    with pytest.raises(ValueError, match=rf"action\[{index}\] is .*; expected .*\[-1, 1\]"):
        checked_action(action)


@pytest.mark.parametrize("action", [[], [0.0] * 6, [0.0] * 8, np.zeros((1, 7)), 0.0])
def test_a_misshapen_action_is_refused_with_its_shape(action: object) -> None:
    with pytest.raises(ValueError, match=r"action has shape .*; expected \(7,\)"):
        checked_action(action)  # type: ignore[arg-type]


# ---- orientation as six numbers ----


@given(rotations)
def test_rotation_6d_is_two_orthonormal_columns_of_the_matrix(rotation: np.ndarray) -> None:
    first, second = np.split(rotation_6d(rotation), 2)
    assert np.array_equal(np.column_stack([first, second]), rotation[:, :2])
    assert first @ second == pytest.approx(0.0, abs=1e-9)
