"""The scripted operator."""

from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diwa_conventions.actions import ActionScale, Pose
from diwa_conventions.rates import RECORD_RATE_HZ
from diwa_conventions.tasks import TASKS
from diwa_sim.environment import PlayroomEnv
from diwa_sim.operator import Command, Habit, Hand, Player, Style, action_towards, demonstrate, feasible_tasks, play
from diwa_sim.playroom import HAND_DOWN, HOME_POSITION_M
from diwa_sim.skills import plan

HOME = Pose(HOME_POSITION_M, HAND_DOWN)


@pytest.fixture(scope="module")
def env() -> PlayroomEnv:
    return PlayroomEnv(images=False)


@pytest.mark.parametrize("task", TASKS)
def test_a_clean_demonstration_does_the_task(env, task):
    for seed in range(3):
        steps = list(demonstrate(env, task, skill=1.0, seed=seed))
        assert steps[-1].success, f"seed {seed}"
        assert not any(step.success for step in steps[:-1])


def test_sloppy_demonstrations_fail_more_often_than_clean_ones(env):
    sloppy = [list(demonstrate(env, "turn-off-lightbulb", skill=0.0, seed=seed))[-1].success for seed in range(12)]
    assert 0 < sum(sloppy) < 12


def test_a_demonstration_repeats_with_its_seed(env):
    one, other = (list(demonstrate(env, "open-drawer", skill=0.3, seed=4)) for _ in range(2))
    np.testing.assert_array_equal([step.action for step in one], [step.action for step in other])


def test_play_has_successes_near_misses_and_wandering_in_range(env):
    steps = list(islice(play(env, seed=1), 700))
    actions = np.array([step.action for step in steps])
    assert np.abs(actions).max() <= 1.0
    assert set(np.unique(actions[:, 6])) == {-1.0, 1.0}
    attempts = {}
    for step in steps:
        attempts[step.attempt] = (step.task, attempts.get(step.attempt, ("", False))[1] or step.success)
    assert list(attempts) == list(range(len(attempts)))
    assert {task for task, _ in attempts.values()} >= {"", "open-drawer", "move-slider-left", "turn-on-LED"}
    assert any(done for _, done in attempts.values())
    assert any(task and not done for task, done in attempts.values())


def test_play_never_saturates_the_action_scale(env):
    """A saturated action would lose motion in the data set."""
    actions = np.array([step.action for step in islice(play(env, seed=2), 300)])
    assert np.abs(actions[:, :6]).max() < 1.0


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), skill=st.floats(0.0, 1.0), task=st.sampled_from(TASKS))
def test_the_hand_moves_smoothly_whatever_the_style(seed, skill, task):
    rng = np.random.default_rng(seed)
    scene = _scene()
    hand = Hand(HOME, rng)
    style = Style.draw(skill, rng).missing(rng)
    hand.follow(plan(task, scene, HOME.position), style)
    positions = []
    for _ in range(200):
        command = hand.move(Pose(positions[-1], HAND_DOWN) if positions else HOME)
        positions.append(command.pose.position)
    steps_m = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    tremor_m = 8.0 * style.tremor_m
    assert steps_m.max() <= style.cruise_m_s / RECORD_RATE_HZ + tremor_m
    assert np.isfinite(positions).all()


def _scene(made=[]):  # noqa: B006 (one world for all examples)
    if not made:
        env = PlayroomEnv(images=False)
        env.reset(seed=0)
        made.append(env.scene_state())
    return made[0]


def test_the_action_towards_a_far_hand_is_clipped_and_keeps_the_gripper():
    far = Command(Pose(HOME.position + [1.0, -1.0, 0.04], HAND_DOWN), -1.0)
    np.testing.assert_allclose(action_towards(far, HOME, ActionScale()), [1, -1, 0.5, 0, 0, 0, -1], atol=1e-9)


def test_habits_cost_successes(env):
    def successes(habit):
        attempts = (demonstrate(env, "open-drawer", 1.0, seed, habit) for seed in range(8))
        return sum(list(attempt)[-1].success for attempt in attempts)

    assert successes(Habit()) == 8
    assert 0 < successes(Habit(near_misses=1.0)) < 8
    assert successes(Habit(aim_offset_m=(0.0, 0.07, 0.05))) == 0


def test_a_habit_is_the_same_in_every_attempt():
    style, offset = Style.draw(1.0, np.random.default_rng(0)), (0.01, -0.02, 0.03)
    for seed in range(3):
        bent = Habit(aim_offset_m=offset).bend(style, np.random.default_rng(seed))
        np.testing.assert_allclose(bent.aim_error_m - style.aim_error_m, offset)
    assert Habit().bend(style, np.random.default_rng(0)).stop_short == style.stop_short


def test_habits_out_of_range_are_refused():
    with pytest.raises(ValueError, match="near_misses is 1.5; expected a share"):
        Habit(near_misses=1.5)
    with pytest.raises(ValueError, match="aim_offset_m is .*; expected numbers from -0.1 to 0.1"):
        Habit(aim_offset_m=(0.0, 0.2, 0.0))


def test_skill_outside_its_range_and_unknown_tasks_are_refused(env):
    with pytest.raises(ValueError, match="skill is 1.5; expected a number from 0"):
        next(demonstrate(env, "open-drawer", skill=1.5, seed=0))
    with pytest.raises(ValueError, match="unknown task 'open-door'"):
        next(demonstrate(env, "open-door", skill=1.0, seed=0))


def test_there_is_always_something_to_do():
    env = PlayroomEnv(images=False)
    for seed in range(20):
        env.reset(seed=seed)
        assert len(feasible_tasks(env.scene_state())) >= 4


def test_a_player_names_its_attempt():
    player = Player(HOME, np.random.default_rng(0))
    assert player.attempt is None
    player.move(HOME, _scene())
    assert player.attempt is not None
    assert player.attempt.task in ("", *TASKS)
