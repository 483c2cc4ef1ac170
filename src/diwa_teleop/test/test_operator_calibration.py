"""The tracker's world and the arm's base frame: what touching points finds out, and what it refuses."""

import math

import numpy as np
import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from diwa_conventions.actions import Pose
from diwa_conventions.errors import UserError
from diwa_teleop.operators.calibration import (
    MIN_SPREAD_M,
    UNCALIBRATED,
    WORLD_UP,
    OperatorCalibration,
    RigidTransform,
    check_fit,
    check_points,
    fit_rigid,
    load_calibration,
)

TABLE = np.array([[0.35, -0.25, 0.0], [0.35, 0.25, 0.0], [0.60, 0.0, 0.0]])
coordinate = st.floats(-2.0, 2.0)
point = st.tuples(coordinate, coordinate, coordinate)
turns = st.tuples(*[st.floats(-3.0, 3.0)] * 3).map(lambda v: Rotation.from_rotvec(v).as_matrix())
transforms = st.builds(lambda turn, shift: RigidTransform(turn, np.array(shift)), turns, point)


def spread(points: np.ndarray) -> np.ndarray:
    return np.linalg.svd(points - points.mean(axis=0), compute_uv=False) / math.sqrt(len(points))


def world_of(transform: RigidTransform, base: np.ndarray) -> np.ndarray:
    """Where the base's points are in the world that ``transform`` leads from."""
    return (base - transform.translation) @ transform.rotation


@given(transforms, st.lists(point, min_size=3, max_size=6).map(np.array))
def test_any_rigid_transform_is_recovered_from_points_that_span_a_plane(transform, base):
    assume(spread(base)[1] > 1.1 * MIN_SPREAD_M)
    fit = fit_rigid(world_of(transform, base), base)
    assert fit.residuals_m.max() < 1e-9
    np.testing.assert_allclose(fit.transform.rotation, transform.rotation, atol=1e-7)
    np.testing.assert_allclose(fit.transform.translation, transform.translation, atol=1e-6)
    assert np.linalg.det(fit.transform.rotation) == pytest.approx(1.0)


@given(transforms, st.integers(0, 2**32 - 1), st.floats(0.0005, 0.01))
def test_noise_shows_as_a_residual_of_its_size_and_turns_the_result_no_more_than_it_can(transform, seed, noise_m):
    noise = np.random.default_rng(seed).uniform(-noise_m, noise_m, (3, 3))
    fit = fit_rigid(world_of(transform, TABLE) + noise, TABLE)
    assert fit.rms_m <= math.sqrt(3.0) * noise_m
    off = Pose(np.zeros(3), fit.transform.rotation).angle_rad(Pose(np.zeros(3), transform.rotation))
    assert off <= 4.0 * math.sqrt(3.0) * noise_m / spread(TABLE)[1]


def test_the_residual_of_a_point_that_was_missed_by_5_cm_is_named():
    touched = world_of(UNCALIBRATED, TABLE)
    touched[1] += [0.05, 0.0, 0.0]
    fit = fit_rigid(touched, TABLE)
    with pytest.raises(UserError, match=r"the points do not fit: \d\d\.\d mm are left at point \d, at most 20 mm"):
        check_fit(fit, 0.02, (0, 0, 1))
    check_fit(fit, 0.05, (0, 0, 1))


@given(point, point, st.lists(st.floats(-2.0, 2.0), min_size=3, max_size=5), turns)
def test_points_on_one_line_are_refused_wherever_it_lies(start, direction, along, turn):
    line = np.array(start) + np.outer(along, direction)
    with pytest.raises(UserError, match="the touched points are on one line"):
        fit_rigid(line @ turn.T, np.eye(3)[: len(line)] if len(line) == 3 else np.zeros((len(line), 3)))
    with pytest.raises(UserError, match="the given points are on one line"):
        check_points(line)


@pytest.mark.parametrize(
    "points", [[[0, 0, 0], [1, 0, 0]], [[0, 0], [1, 0], [0, 1]], [[0, 0, 0], [1, 0, 0], [0, math.nan, 0]], []]
)
def test_too_few_points_or_wrong_ones_are_refused(points):
    with pytest.raises(UserError, match="expected three or more of three finite numbers"):
        check_points(points)


def test_points_that_are_known_and_points_that_were_touched_must_be_as_many():
    with pytest.raises(UserError, match="3 points were touched, but 4 are given"):
        fit_rigid(TABLE, np.vstack([TABLE, [0.5, 0.5, 0.5]]))


@given(transforms, st.lists(point, min_size=4, max_size=6).map(np.array))
def test_mirrored_points_are_refused_and_not_fitted_with_a_mirror(transform, base):
    assume(spread(base)[2] > 1.1 * MIN_SPREAD_M)
    mirrored = world_of(transform, base) * [1.0, 1.0, -1.0]
    with pytest.raises(UserError, match="mirror image of the given ones .*touch them in the order given"):
        fit_rigid(mirrored, base)


def test_three_points_touched_in_another_order_would_turn_the_world_upside_down_and_are_refused():
    touched = world_of(UNCALIBRATED, TABLE)[[1, 0, 2]]  # the two near corners, exchanged: the same triangle
    fit = fit_rigid(touched, TABLE)
    assert fit.residuals_m.max() < 1e-9
    with pytest.raises(UserError, match="the tracker's up would be 180 degrees off the arm's"):
        check_fit(fit, 0.02, (0, 0, 1))


def test_an_arm_on_the_wall_says_where_up_is():
    wall = RigidTransform(Rotation.from_euler("y", 90, degrees=True).as_matrix() @ UNCALIBRATED.rotation, np.zeros(3))
    fit = fit_rigid(world_of(wall, TABLE), TABLE)
    with pytest.raises(UserError, match="90 degrees off.*--up"):
        check_fit(fit, 0.02, (0, 0, 1))
    check_fit(fit, 0.02, (2, 0, 0))
    with pytest.raises(UserError, match="expected a direction"):
        check_fit(fit, 0.02, (0, 0, 0))


def test_without_calibration_forward_left_and_up_are_those_of_openvr():
    for world, base in (((0, 0, -1), (1, 0, 0)), ((-1, 0, 0), (0, 1, 0)), (tuple(WORLD_UP), (0, 0, 1))):
        np.testing.assert_allclose(UNCALIBRATED.rotation @ world, base, atol=1e-12)
    assert np.linalg.det(UNCALIBRATED.rotation) == pytest.approx(1.0)


@given(transforms, point, turns)
def test_a_hand_that_moves_and_turns_in_the_world_does_the_same_in_the_base_frame(transform, shift, turn):
    before = Pose(np.array([0.1, 1.2, -0.4]), np.eye(3))
    after = Pose(before.position + shift, turn @ before.rotation)
    seen, then = transform.of(before), transform.of(after)
    np.testing.assert_allclose(then.position - seen.position, transform.rotation @ shift, atol=1e-9)
    np.testing.assert_allclose(
        then.rotation @ seen.rotation.T, transform.rotation @ turn @ transform.rotation.T, atol=1e-9
    )


def calibration(transform: RigidTransform = UNCALIBRATED) -> OperatorCalibration:
    stations = {"LHB-1": np.array([1.0, 2.4, -1.0])}
    return OperatorCalibration(transform, "LHR-1", "2026-01-02T03:04:05", world_of(transform, TABLE), TABLE, stations)


@settings(max_examples=20)
@given(transforms)
def test_what_is_saved_is_read_again(tmp_path_factory, transform):
    path = tmp_path_factory.mktemp("saved") / "operator.yaml"
    calibration(transform).save(path)
    again = load_calibration(path)
    np.testing.assert_allclose(again.transform.rotation, transform.rotation, atol=1e-12)
    np.testing.assert_allclose(again.transform.translation, transform.translation, atol=1e-12)
    np.testing.assert_allclose(again.base_stations_m["LHB-1"], [1.0, 2.4, -1.0])
    assert again.describe() == "measured 2026-01-02T03:04:05 with LHR-1 at 3 points, 0.0 mm at the worst"


def test_the_file_says_what_was_measured_with_what_when_and_how_well(tmp_path):
    calibration().save(tmp_path / "new" / "operator.yaml")
    content = yaml.safe_load((tmp_path / "new" / "operator.yaml").read_text())
    assert content["device"] == "LHR-1" and content["measured"] == "2026-01-02T03:04:05"
    assert content["frame"] == "panda_link0" and content["residual_m"] == 0.0
    assert [entry["base_m"] for entry in content["points"]] == TABLE.tolist()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"format": "another"}, "expected 'format: diwa operator calibration 1'"),
        ({"frame": "world"}, "frame is 'world', expected 'panda_link0'"),
        ({"rotation": [[1, 0, 0], [0, 1, 0], [0, 0, -1]]}, "rotation is not one"),
        ({"rotation": [[1, 0], [0, 1]]}, "rotation is .* expected 3 x 3 finite numbers"),
        ({"translation_m": [0, float("nan"), 0]}, "translation_m is"),
        ({"device": None}, ""),
        ({"points": None}, "'NoneType'"),
    ],
)
def test_a_file_that_is_none_is_refused_with_what_mends_it(tmp_path, change, complaint):
    path = tmp_path / "operator.yaml"
    calibration().save(path)
    content = yaml.safe_load(path.read_text()) | change
    if change == {"device": None}:
        del content["device"]
        complaint = "'device' is missing"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(
        UserError, match=f"no operator calibration: .*{complaint}.*diwa calibrate operator --out {path}"
    ):
        load_calibration(path)


@pytest.mark.parametrize("text", ["", "[1, 2", "\0", "just words"])
def test_garbage_is_no_calibration(tmp_path, text):
    path = tmp_path / "operator.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="is no operator calibration"):
        load_calibration(path)


def test_a_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(UserError, match="there is no operator calibration .*diwa calibrate operator --out"):
        load_calibration(tmp_path / "operator.yaml")
