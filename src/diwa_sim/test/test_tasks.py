"""Starting states and CALVIN's oracles."""

from dataclasses import replace

import numpy as np
import pytest

from diwa_conventions.actions import Pose
from diwa_conventions.tasks import TASKS
from diwa_sim.playroom import Playroom
from diwa_sim.tasks import SceneState, draw_start, is_done, tasks_done

REST = SceneState(
    slider_m=0.10, drawer_m=0.01, button_m=0.0, switch_m=0.0, lightbulb=False, led=False,
    cube=Pose(np.array([0.36, 0.27, 0.02]), np.eye(3)),
)  # fmt: skip


def lifted(by_m: float) -> SceneState:
    return replace(REST, cube=Pose(REST.cube.position + [0.0, 0.0, by_m], np.eye(3)))


@pytest.mark.parametrize(
    ("task", "start", "short", "enough"),
    [
        ("open-drawer", REST, replace(REST, drawer_m=0.129), replace(REST, drawer_m=0.131)),
        ("close-drawer", replace(REST, drawer_m=0.15), replace(REST, drawer_m=0.031), replace(REST, drawer_m=0.029)),
        ("move-slider-left", REST, replace(REST, slider_m=0.249), replace(REST, slider_m=0.251)),
        (
            "move-slider-right",
            replace(REST, slider_m=0.28),
            replace(REST, slider_m=0.131),
            replace(REST, slider_m=0.129),
        ),
        ("turn-on-lightbulb", REST, replace(REST, switch_m=0.04), replace(REST, lightbulb=True)),
        ("turn-off-lightbulb", replace(REST, lightbulb=True), replace(REST, lightbulb=True), REST),
        ("turn-on-LED", REST, replace(REST, button_m=0.02), replace(REST, led=True)),
        ("turn-off-LED", replace(REST, led=True), replace(REST, led=True), REST),
        ("lift-cube", REST, lifted(0.049), lifted(0.051)),
    ],
)
def test_a_task_is_done_when_its_object_moved_far_enough_since_the_start(task, start, short, enough):
    assert not is_done(task, start, start)
    assert not is_done(task, start, short)
    assert is_done(task, start, enough)
    assert task in tasks_done(start, enough)


def test_a_light_that_was_on_before_does_not_count_as_turned_on():
    lit = replace(REST, lightbulb=True, led=True)
    assert tasks_done(lit, lit) == ()


def test_an_unknown_task_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown task 'open-door'; did you mean 'open-drawer'"):
        is_done("open-door", REST, REST)
    with pytest.raises(ValueError, match="unknown task 'open-door'"):
        draw_start(np.random.default_rng(0), "open-door")


@pytest.fixture(scope="module")
def playroom() -> Playroom:
    return Playroom()


@pytest.mark.parametrize("task", TASKS)
def test_every_start_leaves_its_task_to_be_done_and_everything_at_rest(playroom, task):
    for seed in range(10):
        start = draw_start(np.random.default_rng(seed), task)
        playroom.reset(start)
        state = playroom.scene_state()
        assert tasks_done(state, state) == ()
        assert state.led == start.led
        assert state.lightbulb == (start.switch_m > 0.05)
        np.testing.assert_allclose(
            [state.slider_m, state.drawer_m, state.switch_m],
            [start.slider_m, start.drawer_m, start.switch_m],
            atol=2e-3,
        )
        np.testing.assert_allclose(state.cube.position, [*start.cube_xy_m, 0.02], atol=2e-3)


def test_the_same_seed_draws_the_same_start():
    assert draw_start(np.random.default_rng(7), "open-drawer") == draw_start(np.random.default_rng(7), "open-drawer")
    assert draw_start(np.random.default_rng(7)) != draw_start(np.random.default_rng(8))
