"""How the target follows the actions. Every output is also checked against all bounds (guard_rig)."""

from dataclasses import replace

import numpy as np
import pytest
from guard_rig import DOWN, HOME_M, NO_CAMERAS, TICK_S, Rig, tilted
from hypothesis import given, settings
from hypothesis import strategies as st

from diwa_conventions.actions import ActionScale, Pose, integrate
from diwa_robot.limits import tilt_rad

SCALE = ActionScale()
SMALL = st.floats(-0.3, 0.3)


def gap(rig: Rig) -> float:
    """Between target and goal, in m and rad together."""
    return rig.guard.target.distance_m(rig.guard.goal) + rig.guard.target.angle_rad(rig.guard.goal)


@pytest.mark.parametrize("rate_hz", [7.5, 30.0, 60.0])
def test_executed_motion_adds_up_to_the_actions(rate_hz):
    rig = Rig().armed()
    wanted = rig.guard.target
    rng = np.random.default_rng(0)
    for _ in range(round(2.0 * rate_hz)):
        action = np.append(rng.uniform(-0.4, 0.4, 6), 1.0)
        assert rig.act(action[:3], action[3:6], duration_s=1.0 / rate_hz) == ""
        wanted = integrate(wanted, action, SCALE, fraction=7.5 / rate_hz)
        rig.tick(round(120.0 / rate_hz))
    rig.tick(25)
    assert rig.guard.limited == 0
    assert rig.guard.target.distance_m(wanted) < 1e-6
    assert rig.guard.target.angle_rad(wanted) < 1e-6


@pytest.mark.parametrize("rate_hz", [7.5, 30.0])
def test_executed_actions_say_how_far_the_target_went(rate_hz):
    rig = Rig().armed()
    start = rig.guard.target
    rig.stream((0.3, -0.5, 0.1), 0.5, rate_hz, rotation=(0.1, 0.3, -0.2))
    rig.tick(25)
    pose = start
    for _, output in rig.outputs:
        if output.executed is not None:
            part = output.executed.duration_s * 7.5
            pose = integrate(pose, output.executed.components, SCALE, fraction=part)
    assert pose.distance_m(rig.guard.target) < 1e-9
    assert pose.angle_rad(rig.guard.target) < 1e-9


def test_executed_action_comes_30_times_a_second_and_1_is_full_speed():
    rig = Rig().armed()
    rig.stream((1.0, 0.0, 0.0), 0.4)
    reports = [output.executed for _, output in rig.outputs if output.executed is not None]
    assert len(reports) == 12
    assert {round(report.duration_s, 9) for report in reports} == {round(1.0 / 30.0, 9)}
    assert reports[-1].components[0] == pytest.approx(1.0, abs=2e-3)


def test_smooth_teleoperation_at_30_hz_passes_unaltered():
    """Up to 0.45 m/s and 2 m/s^2: the path is the same, a few hundredths of a second later, and nothing is limited."""
    rig = Rig().armed()
    amplitude_m, rate = 0.1, 4.4  # 0.44 m/s, 1.9 m/s^2
    rig.stream(lambda t: (0.0, amplitude_m * rate * np.sin(rate * (t + 1.0 / 60.0)) / 0.6, 0.0), 3.0)
    rig.tick(25)
    assert rig.guard.limited == 0
    times = np.array([now for now, _ in rig.outputs]) - 100.0
    expected = HOME_M[1] + amplitude_m * (1.0 - np.cos(rate * np.minimum(times, 3.0)))
    lag_m = 0.45**2 / (2.0 * rig.guard.config.max_acceleration_m_s2)
    assert np.abs(rig.positions()[:, 1] - expected).max() < lag_m + 0.45 * TICK_S
    assert rig.positions()[-1, 1] == pytest.approx(expected[-1], abs=1e-4)
    assert np.abs(rig.positions()[:, [0, 2]] - HOME_M[[0, 2]]).max() < 1e-12


@pytest.mark.parametrize("rate_hz", [7.5, 30.0])
def test_steady_actions_become_steady_motion(rate_hz):
    rig = Rig().armed()
    rig.stream((0.0, 0.5, 0.0), 0.8, rate_hz)
    speeds = np.diff(rig.positions()[36:, 1]) / TICK_S
    np.testing.assert_allclose(speeds, 0.3, atol=0.003)


def test_policy_steps_are_smoothed():
    """At 7.5 Hz a step of speed comes at once; the target takes it within its acceleration."""
    rig = Rig().armed()
    for direction in (1.0, -1.0, 1.0):
        rig.stream((direction * 0.7, 0.0, 0.0), 0.4, rate_hz=7.5)
    accelerations = np.diff(rig.positions()[:, 0], n=2) / TICK_S**2
    assert np.abs(accelerations).max() == pytest.approx(rig.guard.config.max_acceleration_m_s2, rel=1e-3)
    assert rig.guard.limited == 0


@given(st.tuples(SMALL, SMALL, SMALL), st.tuples(SMALL, SMALL, SMALL), st.integers(1, 8), st.floats(0.02, 0.5))
@settings(max_examples=40, deadline=None)
def test_target_stops_exactly_on_the_goal_without_passing_it(translation, rotation, count, duration_s):
    rig = Rig(replace(NO_CAMERAS, action_timeout_s=2.0)).armed()
    for _ in range(count):
        rig.act(translation, rotation, duration_s=duration_s)
        rig.tick(round(duration_s / TICK_S))
    goal, start = rig.guard.goal.position, HOME_M
    rig.tick(60)
    assert gap(rig) < 1e-6
    covered = (rig.positions() - start) @ (goal - start)
    assert covered.max() <= (goal - start) @ (goal - start) + 1e-12
    assert (np.diff(covered) >= -1e-12).all()


def test_jitter_of_ticks_and_messages_breaks_no_bound():
    rig = Rig().armed()
    rng = np.random.default_rng(1)
    for _ in range(100):
        assert rig.act(rng.uniform(-0.8, 0.8, 3), rng.uniform(-0.8, 0.8, 3)) == ""
        for _ in range(rng.integers(1, 8)):
            rig.tick(dt=rng.choice([0.001, 0.004, 0.008, 0.02, 0.05]))
    assert len(rig.outputs) > 100


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_motion_ends_at_the_wall_and_what_lies_beyond_is_dropped(axis, sign):
    rig = Rig().armed()
    push = np.zeros(3)
    push[axis] = sign * 0.9
    rig.stream(push, 1.5)
    rig.tick(20)
    wall = (rig.guard.config.high if sign > 0 else rig.guard.config.low)[axis]
    assert rig.guard.target.position[axis] == pytest.approx(wall, abs=1e-9)
    assert rig.guard.limited > 0
    rig.stream(-push, 0.1)  # leaves the wall at once: nothing was wound up
    rig.tick(20)
    assert abs(rig.guard.target.position[axis] - wall) == pytest.approx(0.1 * 0.54, abs=1e-9)


def test_target_slides_along_a_wall_as_fast_as_asked():
    rig = Rig(start=Pose(np.array([0.46, -0.3, 0.05]), DOWN)).armed()
    rig.stream((0.0, 0.5, -0.5), 1.5)
    rig.tick(20)
    assert rig.guard.target.position == pytest.approx([0.46, -0.3 + 1.5 * 0.3, 0.02], abs=1e-6)
    assert np.diff(rig.positions()[36:-24, 1]).min() > 0.9 * 0.3 * TICK_S


def test_wall_at_exactly_zero_holds():
    rig = Rig(replace(NO_CAMERAS, workspace_low_m=(0.28, 0.0, 0.0)), Pose(np.array([0.46, 0.05, 0.05]), DOWN)).armed()
    rig.stream((0.0, -0.5, -0.5), 1.0)
    assert rig.positions()[:, 1:].min() >= 0.0
    assert rig.positions()[-1, 1:] == pytest.approx([0.0, 0.0], abs=1e-9)


def test_tilt_ends_at_the_cone_and_yaw_goes_on():
    rig = Rig().armed()
    rig.stream((0.0, 0.0, 0.0), 1.5, rotation=(0.6, 0.0, 0.0))
    assert tilt_rad(rig.guard.target.rotation) == pytest.approx(0.792, abs=1e-3)
    before = rig.guard.target
    rig.stream((0.0, 0.0, 0.0), 0.5, rotation=(0.3, 0.0, 0.5))
    rig.tick(25)
    assert rig.guard.target.angle_rad(before) > 0.3
    assert gap(rig) < 1e-6


def test_cone_of_exactly_zero_lets_the_hand_only_yaw():
    rig = Rig(replace(NO_CAMERAS, max_tilt_rad=0.0)).armed()
    rig.stream((0.0, 0.0, 0.0), 0.5, rotation=(0.5, -0.5, 0.5))
    rig.tick(25)
    assert tilt_rad(rig.guard.target.rotation) < 1e-4
    assert rig.guard.target.angle_rad(Pose(HOME_M, DOWN)) > 0.3


@pytest.mark.parametrize("zero", ["max_speed_m_s", "max_acceleration_m_s2"])
def test_translation_limit_of_exactly_zero_means_no_translation(zero):
    rig = Rig(replace(NO_CAMERAS, **{zero: 0.0})).armed()
    rig.stream((0.5, 0.0, 0.0), 0.3, rotation=(0.0, 0.0, 0.3))
    assert (rig.positions() == HOME_M).all()
    assert rig.guard.target.angle_rad(Pose(HOME_M, DOWN)) > 0.05
    assert rig.guard.limited == 9


@pytest.mark.parametrize("zero", ["max_speed_rad_s", "max_acceleration_rad_s2"])
def test_rotation_limit_of_exactly_zero_means_no_rotation(zero):
    rig = Rig(replace(NO_CAMERAS, **{zero: 0.0})).armed()
    rig.stream((0.3, 0.0, 0.0), 0.3, rotation=(0.0, 0.0, 0.3))
    assert rig.guard.target.angle_rad(Pose(HOME_M, DOWN)) < 1e-9
    assert rig.guard.target.position[0] > HOME_M[0] + 0.02


def test_lead_of_exactly_zero_means_the_target_stays_on_the_arm():
    rig = Rig(replace(NO_CAMERAS, max_lead_m=0.0)).armed()
    rig.follows = False
    rig.stream((0.5, 0.0, 0.0), 0.3)
    assert (rig.positions() == HOME_M).all()


def test_target_waits_for_an_arm_that_is_held_and_drops_what_it_waited():
    rig = Rig().armed()
    rig.follows = False
    rig.stream((0.5, 0.0, 0.0), 1.0)
    assert rig.guard.target.position[0] - HOME_M[0] == pytest.approx(0.10, abs=0.002)
    assert rig.guard.limited > 10
    rig.stream((-0.5, 0.0, 0.0), 0.2)  # away from the obstacle: at once
    rig.tick(20)
    assert rig.guard.target.position[0] - HOME_M[0] == pytest.approx(0.10 - 0.06, abs=0.002)


def test_turning_waits_for_an_arm_that_is_held():
    rig = Rig().armed()
    rig.follows = False
    rig.stream((0.0, 0.0, 0.0), 1.0, rotation=(0.0, 0.0, 0.6))
    assert rig.guard.target.angle_rad(rig.arm) == pytest.approx(0.5, abs=0.01)


def test_only_the_part_that_waited_is_dropped():
    """The arm comes free in the middle of a 7.5 Hz action: the rest of the action is executed."""
    config = replace(NO_CAMERAS, max_lead_m=0.02)
    rig = Rig(config).armed()
    rig.follows = False
    assert rig.act((0.75, 0.0, 0.0), duration_s=1.0 / 7.5) == ""  # 0.06 m
    rig.tick(8)
    rig.arm = Pose(rig.guard.target.position, DOWN)
    rig.follows = True
    rig.tick(30)
    moved_m = rig.guard.target.position[0] - HOME_M[0]
    assert 0.03 < moved_m < 0.055
    assert rig.guard.limited == 1


def test_actions_faster_than_the_limit_do_not_wind_up():
    """At 0.1 m/s and asked for 0.6: when the actions end, motion ends within max_lag_s and an action's duration."""
    rig = Rig(replace(NO_CAMERAS, max_speed_m_s=0.1)).armed()
    rig.stream((0.0, 1.0, 0.0), 1.0)
    behind_m = rig.guard.goal.distance_m(rig.guard.target)
    assert behind_m <= 0.1 * (0.25 + 1.0 / 30.0) + 1e-9
    rig.tick(36)
    assert gap(rig) < 1e-6
    assert rig.guard.limited > 20


def test_actions_sent_faster_than_they_last_do_not_exceed_the_speed():
    rig = Rig().armed()
    for _ in range(60):
        for _ in range(5):
            assert rig.act((0.0, 1.0, 0.0)) == ""
        rig.tick()
    assert rig.guard.limited > 0


def test_diagonal_full_scale_keeps_to_the_speed_and_to_its_direction():
    rig = Rig(start=Pose(np.array([0.30, -0.40, 0.05]), DOWN)).armed()
    rig.stream((1.0, 1.0, 1.0), 0.5)
    moved = rig.guard.target.position - rig.positions()[0]
    np.testing.assert_allclose(moved / moved[0], 1.0, atol=1e-9)


def test_goal_pulled_back_turns_the_target_round_within_its_acceleration():
    rig = Rig().armed()
    rig.stream((0.7, 0.0, 0.0), 0.3)
    rig.stream((-0.7, 0.0, 0.0), 0.3)
    rig.tick(30)
    assert rig.guard.target.position == pytest.approx(HOME_M, abs=1e-9)


def test_hand_turned_and_moved_at_the_edge_is_not_stuck():
    rig = Rig(start=Pose(HOME_M, tilted(0.78, 1.0))).armed()
    rng = np.random.default_rng(2)
    for _ in range(60):
        assert rig.act((0.0, 0.0, 0.0), rng.uniform(-0.6, 0.6, 3)) == ""
        rig.tick(4)
    rig.tick(25)
    assert gap(rig) < 1e-6
    assert rig.guard.target.angle_rad(Pose(HOME_M, tilted(0.78, 1.0))) > 0.05
