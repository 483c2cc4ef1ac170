"""Numbers that cannot be right are refused with what they look like; what a Franka arm does raises no alarm."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from diwa_conventions.errors import UserError
from diwa_worldmodel.dataset import plausible

SECONDS = np.arange(0.0, 60.0, 1 / 7.5)


def squeezing(
    low: float = 0.0, high: float = 0.08, lag: int = 3, period_s: float = 6.0
) -> tuple[np.ndarray, np.ndarray]:
    """Signs of commands and the widths of a hand that follows them after ``lag`` frames, at most 0.1 m/s."""
    signs = np.where(SECONDS % period_s < period_s / 2, 1.0, -1.0)
    widths, width = [], high
    for told in np.concatenate([np.full(lag, signs[0]), signs])[: len(signs)]:
        width = float(np.clip(width + 0.1 / 7.5 * told, low, high))
        widths.append(width)
    return signs, np.array(widths)


# Gripper commands


@pytest.mark.parametrize(
    ("commands", "words", "middle"),
    [
        ([0.0, 1.0], "a fraction from 0 to 1", "0.5"),
        ([0.0, 0.08], "a width in metres", "0.04"),
        ([0.0, 80.0], "a width in millimetres", "40"),
        ([0.0, 255.0], "another scale", "127.5"),
        ([-1.0, -0.0001], "another scale", "-0.50005"),
    ],
)
def test_commands_on_one_side_of_the_threshold_are_refused(commands, words, middle):
    told = np.repeat(np.tile(commands, 20), 7)
    with pytest.raises(UserError, match=f"{words}: say --gripper-threshold {middle}, and --gripper-inverted if"):
        plausible.check_gripper_commands(told, 0.0, "/topic")
    plausible.check_gripper_commands(told, float(middle), "/topic")


@pytest.mark.parametrize(
    "commands",
    [
        np.ones(100),
        -np.ones(100),
        np.zeros(100),
        np.array([1.0, -1.0] * 50),
        np.linspace(0.4, 1.0, 100),
        np.concatenate([np.ones(99), [0.0]]),
        np.array([np.nan, 1.0]),
        np.zeros(0),
    ],
)
def test_commands_that_are_always_the_same_or_two_sided_are_right(commands):
    plausible.check_gripper_commands(commands, 0.0, "/topic")


@pytest.mark.parametrize(("closed", "opened"), [(0.0, 1.0), (0.02, 0.08), (0.3, 1.0), (-1.0, -0.2)])
@pytest.mark.parametrize("period_s", [6.0, 59.0])
def test_one_sided_commands_that_the_hand_obeys_are_refused(closed, opened, period_s):
    signs, widths = squeezing(period_s=period_s)
    told = np.where(signs > 0, opened, closed)
    middle = (closed + opened) / 2
    with pytest.raises(UserError, match=f"say --gripper-threshold {middle:g}"):
        plausible.check_gripper_commands(told, 0.0, "/topic", widths_m=widths)
    plausible.check_gripper_commands(told, middle, "/topic", widths_m=widths)


def test_commands_that_are_seldom_low_are_refused_where_the_hand_obeys_them():
    told, widths = np.zeros(161), np.zeros(161)
    told[50:54], widths[50:58] = 1.0, 0.08
    plausible.check_gripper_commands(told, 0.0, "/topic")
    with pytest.raises(UserError, match="a fraction from 0 to 1: say --gripper-threshold 0.5"):
        plausible.check_gripper_commands(told, 0.0, "/topic", widths_m=widths)


@given(st.integers(0, 2**32 - 1), st.booleans(), st.floats(0.0, 0.07))
def test_a_hand_that_is_always_told_the_same_and_obeys_raises_no_alarm(seed, opens, held_m):
    rng = np.random.default_rng(seed)
    told = (0.4 + 0.6 * rng.random(100)) * (1.0 if opens else -1.0)
    step, first = (0.013, held_m) if opens else (-0.013, 0.08)
    widths = np.clip(first + step * np.arange(100), held_m, 0.08) + rng.normal(0, 3e-4, 100)
    plausible.check_gripper_commands(told, 0.0, "/topic", widths_m=widths)


@given(st.lists(st.floats(-1.0, 1.0), min_size=1, max_size=60))
def test_commands_of_both_signs_are_never_refused(values):
    plausible.check_gripper_commands(np.array([*values, -0.5, 0.5]), 0.0, "/topic")


@pytest.mark.parametrize("lag", [0, 2])
@pytest.mark.parametrize("period_s", [3.0, 6.0, 20.0])
def test_commands_against_the_hand_are_refused_and_those_with_it_are_not(lag, period_s):
    signs, widths = squeezing(lag=lag, period_s=period_s)
    plausible.check_gripper_sense(signs, widths, "/topic")
    with pytest.raises(UserError, match="look inverted: say --gripper-inverted"):
        plausible.check_gripper_sense(-signs, widths, "/topic")


@pytest.mark.parametrize("held_m", [0.0, 0.03, 0.06, 0.075])
def test_a_hand_that_holds_something_is_right(held_m):
    plausible.check_gripper_sense(*squeezing(low=held_m), "/topic")


def test_a_hand_that_does_not_move_says_nothing():
    signs, widths = squeezing()
    plausible.check_gripper_sense(-signs, np.full(len(widths), 0.04), "/topic")
    plausible.check_gripper_sense(-signs[:10], widths[:10], "/topic")


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 0.07), st.integers(0, 4))
def test_no_usual_use_of_a_hand_raises_an_alarm(seed, held_m, lag):
    rng = np.random.default_rng(seed)
    signs = np.repeat(rng.choice([-1.0, 1.0], 20), rng.integers(3, 40, 20))
    width, widths = 0.08, []
    for told in np.concatenate([np.full(lag, signs[0]), signs])[: len(signs)]:
        width = float(np.clip(width + 0.013 * told, held_m, 0.08))
        widths.append(width + rng.normal(0, 3e-4))
    plausible.check_gripper_sense(signs, np.array(widths), "/topic")


def test_threshold_and_sense_turn_commands_into_open_and_close():
    commands = np.array([0.0, 0.49, 0.5, 1.0])
    assert plausible.gripper_signs(commands, 0.5).tolist() == [-1.0, -1.0, 1.0, 1.0]
    assert plausible.gripper_signs(commands, 0.5, inverted=True).tolist() == [1.0, 1.0, -1.0, -1.0]
    signs = plausible.GripperOptions(0.5).signs(np.array([np.nan, 1.0]))
    assert np.isnan(signs[0]) and signs[1] == 1.0


# Widths, positions, rotations


@pytest.mark.parametrize(
    ("high", "words"),
    [(0.7, "angle in rad: say --width-scale 0.114"), (1.0, "fraction"), (80.0, "millimetres: say --width-scale 0.001"),
     (255.0, "counts of a motor or of a byte")],
)  # fmt: skip
def test_widths_that_no_hand_has_are_refused(high, words):
    with pytest.raises(UserError, match=words):
        plausible.check_widths(np.linspace(0.0, high, 50), "/topic")


def test_negative_widths_are_refused():
    with pytest.raises(UserError, match="angles, or widths from another zero"):
        plausible.check_widths(np.array([-0.7, 0.0]), "/topic")


@given(st.lists(st.floats(-0.015, 0.085), max_size=20))
def test_widths_of_a_hand_are_right(widths):
    plausible.check_widths(np.array(widths), "/topic")


def test_widths_of_half_a_hand_are_remarked():
    assert "one finger" in plausible.check_widths(np.linspace(0.0, 0.04, 50), "/topic")[0]
    assert plausible.check_widths(np.full(50, 0.04), "/topic") == plausible.check_widths(np.zeros(0), "/topic") == []


@pytest.mark.parametrize(("scale", "words"), [(1000.0, "millimetres: say --position-scale 0.001"),
                                              (100.0, "centimetres: say --position-scale 0.01")])  # fmt: skip
def test_positions_of_another_unit_are_refused(scale, words):
    positions = np.array([[0.4, 0.0, 0.3], [0.5, 0.1, 0.2]])
    plausible.check_positions(positions, "/topic")
    with pytest.raises(UserError, match=words):
        plausible.check_positions(positions * scale, "/topic")


def test_degrees_are_refused():
    plausible.check_angles(np.array([[3.14, -3.14, 6.28]]), "/topic", "--angles deg")
    with pytest.raises(UserError, match="looks like degrees: say --angles deg"):
        plausible.check_angles(np.array([[180.0, 0.0, -90.0]]), "/topic", "--angles deg")


def tools(yaw: np.ndarray, tilt: float = 0.0) -> np.ndarray:
    """(N, 4) quaternions, scalar last, of a tool that points down and turns."""
    down = Rotation.from_euler("xyz", [np.pi, tilt, 0.0])
    return (Rotation.from_euler("z", yaw[:, None]) * down).as_quat()


def test_quaternions_with_the_scalar_first_are_refused():
    right = tools(np.linspace(-2.5, 2.5, 100))
    plausible.check_quaternions(right, "/topic", "--quaternion wxyz")
    with pytest.raises(UserError, match="scalar comes first .w x y z.: say --quaternion wxyz"):
        plausible.check_quaternions(np.roll(right, 1, axis=1), "/topic", "--quaternion wxyz")


@given(st.floats(-3.1, 3.1), st.floats(0.0, 2.0), st.floats(-1.2, 1.2))
def test_no_usual_use_of_a_tool_raises_an_alarm(yaw, span, tilt):
    plausible.check_quaternions(tools(np.linspace(yaw, yaw + span, 50), tilt), "/topic", "")


@pytest.mark.parametrize(
    ("factor", "unit", "words"),
    [
        (1000.0, "m", "millimetres"),
        (50.0, "m", "another scale"),
        (57.3, "rad", "degrees"),
        (0.001, "m", "another scale"),
    ],
)
def test_steps_of_another_unit_are_refused(factor, unit, words):
    moved = np.tile([0.01, -0.005, 0.002], (200, 1))
    plausible.check_steps(moved, moved, unit, "/topic", "--option")
    plausible.check_steps(moved, moved * 0.3, unit, "/topic", "--option")
    with pytest.raises(UserError, match=f"{words}: say --option"):
        plausible.check_steps(moved * factor, moved, unit, "/topic", "--option")


def test_an_arm_that_hardly_moves_says_nothing_about_units():
    plausible.check_steps(np.ones((100, 3)), np.full((100, 3), 1e-4), "m", "/topic", "--option")
