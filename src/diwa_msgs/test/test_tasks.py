"""Names of the playroom's tasks."""

import pytest

from diwa_conventions.tasks import PAPER_TASKS, TASKS, checked_task


def test_the_paper_fine_tunes_eight_tasks() -> None:
    assert len(PAPER_TASKS) == len(set(PAPER_TASKS)) == 8


def test_lift_cube_is_the_ninth_for_play() -> None:
    assert set(TASKS) - set(PAPER_TASKS) == {"lift-cube"}


@pytest.mark.parametrize("task", TASKS)
def test_a_known_task_passes(task: str) -> None:
    assert checked_task(task) == task


@pytest.mark.parametrize("name", ["", "open-door", "Open-Drawer", "turn-on-led"])
def test_an_unknown_task_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ValueError) as error:
        checked_task(name)
    assert repr(name) in str(error.value)
    assert all(task in str(error.value) for task in TASKS)
