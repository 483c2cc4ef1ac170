"""Whether cameras show what they showed in the data, on pictures of a made-up scene with an arm that moves."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diwa_conventions.errors import UserError
from diwa_teleop.cameras.views import TURNED, Orientation, move_of, picture, trained_view, verdicts

SIZE, FRAMES = 64, 240


def scene(seed: int) -> np.ndarray:
    """(320, 320, 3): a table with things on it, as different everywhere as a real one."""
    draw = np.random.default_rng(seed)
    image = np.full((320, 320, 3), draw.integers(90, 160, 3), np.uint8)
    for _ in range(30):
        corner, extent = draw.integers(0, 300, 2), draw.integers(15, 70, 2)
        cv2.rectangle(image, corner.tolist(), (corner + extent).tolist(), draw.integers(0, 255, 3).tolist(), -1)
    return image


def static_view(place: float) -> np.ndarray:
    """(200, 200, 3): the scene from a fixed place, with an arm in front of it at ``place``."""
    return static_canvas(place)[60:260, 60:260].copy()


def static_canvas(place: float) -> np.ndarray:
    """(320, 320, 3): what lies around the static view, too."""
    image = scene(1)
    cv2.line(image, (160, 30), (int(120 + 80 * np.sin(place)), 170), (235, 235, 235), 14)
    return image


def gripper_view(place: float) -> np.ndarray:
    """(200, 200, 3): the scene from above as the arm passes over it, with two fingers that stay."""
    x, y = int(60 + 55 * np.sin(place)), int(60 + 55 * np.cos(1.7 * place))
    image = scene(2)[y : y + 200, x : x + 200].copy()
    image[120:, 20:60] = image[120:, 140:180] = (30, 30, 30)
    return image


def small(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)


def at(number: int) -> tuple[np.ndarray, np.ndarray]:
    return static_view(0.05 * number), gripper_view(0.05 * number)


@pytest.fixture(scope="module")
def views():
    pairs = [at(number) for number in range(FRAMES)]
    static, gripper = (np.stack([small(pair[i]) for pair in pairs]) for i in range(2))
    return {"static": trained_view("static", static), "gripper": trained_view("gripper", gripper)}


def kinds(views, static, gripper) -> list[str]:
    return [verdict.kind for verdict in verdicts(views, {"static": static, "gripper": gripper})]


# Places of the arm that are in no frame of the data.
PLACES = st.floats(0.0, 0.05 * FRAMES - 0.1)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(PLACES, st.floats(0.75, 1.15), st.integers(-15, 15))
def test_the_trained_views_are_recognised_in_any_light(views, place, contrast, brightness):
    lit = [
        np.clip(contrast * image.astype(float) + brightness, 0, 255).astype(np.uint8)
        for image in (static_view(place), gripper_view(place))
    ]
    assert kinds(views, *lit) == ["as trained", "as trained"]


@settings(deadline=None, derandomize=True, max_examples=30)
@given(PLACES)
def test_swapped_cameras_are_told(views, place):
    found = verdicts(views, {"static": gripper_view(place), "gripper": static_view(place)})
    assert [verdict.kind for verdict in found] == ["swapped", "swapped"]
    assert "shows the view of the gripper camera: swap" in found[0].text


@settings(deadline=None, derandomize=True, max_examples=40)
@given(PLACES, st.sampled_from(TURNED))
def test_turned_and_mirrored_cameras_are_told_with_their_turn(views, place, turn):
    found = verdicts(views, {"static": turn(static_view(place)), "gripper": turn(gripper_view(place))})
    for verdict in found:
        assert verdict.kind == ("mirrored" if turn.mirrored else "rotated")
        assert verdict.text.startswith(f"is {turn}: ")


def moved_view(place: float, right: float, down: float, turn_deg: float) -> np.ndarray:
    """(200, 200, 3): what the static camera shows after a move; shares of the image's side."""
    warp = cv2.getRotationMatrix2D((159.5, 159.5), -turn_deg, 1.0) + [[0, 0, 200 * right], [0, 0, 200 * down]]
    return cv2.warpAffine(static_canvas(place), warp, (320, 320))[60:260, 60:260].copy()


@settings(deadline=None, derandomize=True, max_examples=40)
@given(PLACES, st.floats(0.05, 0.1), st.floats(0.0, 2 * np.pi), st.floats(-8.0, 8.0))
def test_a_static_camera_that_has_moved_is_told(views, place, share, direction, turn_deg):
    live = moved_view(place, share * np.cos(direction), share * np.sin(direction), turn_deg)
    (verdict, _) = verdicts(views, {"static": live, "gripper": gripper_view(place)})
    assert verdict.kind == "moved" and verdict.text.startswith("has moved: its view is ")


def test_how_far_a_static_camera_has_moved_is_usually_right(views):
    """Not always: the arm may hide what tells it."""
    draw, errors = np.random.default_rng(0), []
    for _ in range(60):
        right, down, turn_deg = draw.uniform(-0.07, 0.07), draw.uniform(-0.07, 0.07), draw.uniform(-8, 8)
        live = moved_view(draw.uniform(0, 11), right, down, turn_deg)
        move = move_of(views["static"], small(live).astype(np.float32))
        errors.append((np.hypot(move.right - right, move.down - down), abs(move.turn_deg - turn_deg)))
    assert (np.quantile(errors, 0.5, axis=0) < (0.015, 1.0)).all()
    assert (np.quantile(errors, 0.9, axis=0) < (0.04, 3.0)).all()


@settings(deadline=None, derandomize=True, max_examples=20)
@given(PLACES, st.integers(0, 8), st.booleans())
def test_a_dark_or_covered_camera_is_told(views, place, light, covered):
    static = np.full((200, 200, 3), 90 + light, np.uint8) if covered else static_view(place) // 30
    assert kinds(views, static, gripper_view(place)) == ["dark or covered", "as trained"]


@settings(deadline=None, derandomize=True, max_examples=30)
@given(st.integers(10, 1000))
def test_a_static_camera_that_sees_another_scene_is_told(views, seed):
    assert kinds(views, scene(seed)[60:260, 60:260], gripper_view(1.0)) == ["another scene", "as trained"]


def test_turning_back_undoes_a_turn():
    image = np.random.default_rng(0).random((5, 5, 3)).astype(np.float32)
    for turn in TURNED:
        np.testing.assert_array_equal(turn.undo(turn(image)), image)
    assert str(Orientation(1, True)) == "mirrored and rotated by 90 degrees"


def test_a_camera_on_the_arm_does_not_claim_to_know_whether_it_moved(views):
    (_, verdict) = verdicts(views, dict(zip(("static", "gripper"), at(7), strict=True)))
    assert views["static"].tells_moves and not views["gripper"].tells_moves
    assert verdict.text.startswith("is as trained as far as its moving view tells (match ")


def test_a_view_that_looks_the_same_mirrored_says_so():
    image = scene(3)[:200, :200]
    symmetric = small(np.concatenate([image[:, :100], image[:, :100][:, ::-1]], axis=1))
    draw = np.random.default_rng(0)
    frames = np.stack([np.clip(symmetric + draw.normal(0, 6, symmetric.shape), 0, 255) for _ in range(60)])
    view = trained_view("static", frames.astype(np.uint8))
    assert Orientation(0, True) in view.alike and Orientation(2, False) not in view.alike
    (verdict,) = verdicts({"static": view}, {"static": frames[0].astype(np.uint8)})
    assert verdict.is_good and "it may look the same when mirrored" in verdict.text


def test_too_few_frames_are_refused():
    with pytest.raises(UserError, match="the data hold 3 frames of the static camera; expected 40 or more"):
        trained_view("static", np.zeros((3, SIZE, SIZE, 3), np.uint8))


def test_the_picture_shows_both_cameras(views):
    live = dict(zip(("static", "gripper"), at(3), strict=True))
    shown = picture(views, live, verdicts(views, live))
    assert shown.shape == (720, 650, 3)
    np.testing.assert_array_equal(shown[40:360, :320], cv2.resize(live["static"], (320, 320)))
