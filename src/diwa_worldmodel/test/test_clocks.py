"""Clocks that are set during a recording: no episode mixes two times, no mark moves, and the import says so."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from bag_factory import START_NS, Item, commanded, image_of, items, write_bag

from diwa_conventions import topics
from diwa_worldmodel.dataset.bag_topics import BagOptions
from diwa_worldmodel.dataset.bags import import_bag
from diwa_worldmodel.dataset.config import DataSetConfig
from diwa_worldmodel.dataset.records import Statistics
from diwa_worldmodel.dataset.store import Recording, create_data_set

NS = 1_000_000_000
YEAR_S = 365.25 * 86400
SECONDS, AT_S = 4.0, 2.2
MARKS_S = (0.8, 2.1, 2.9, 3.6)
STEPS_S = (-50 * YEAR_S, -3600.0, -1.5, -0.05, 0.05, 1.5, 3600.0, 10 * YEAR_S)
DELAYS_NS = {topics.STATIC_IMAGE.name: 20_000_000, topics.GRIPPER_IMAGE.name: 12_000_000}
"""From stamp to arrival; 1 ms for all others."""

Set = Callable[[Item, int], Item]


@cache
def recording_items() -> list[Item]:
    """Four seconds in the order in which a recorder writes them, with marks whose notes say when they were made."""
    made = items(SECONDS, state_hz=100.0)
    made += [Item(topics.ANNOTATION, ns, ns, {"note": str(at)}) for at in MARKS_S for ns in [START_NS + round(at * NS)]]
    late = [replace(item, log_ns=item.stamp_ns + DELAYS_NS.get(item.topic.name, 1_000_000)) for item in made]
    return sorted(late, key=lambda item: item.log_ns)


def recorders_clock(item: Item, step_ns: int) -> Item:
    """Everything runs on one PC: its log times and its stamps."""
    return replace(item, log_ns=item.log_ns + step_ns, stamp_ns=item.stamp_ns + step_ns)


def log_alone(item: Item, step_ns: int) -> Item:
    """The sensors have a clock of their own, and so has the PC that makes marks."""
    return replace(item, log_ns=item.log_ns + step_ns)


def all_stamps(item: Item, step_ns: int) -> Item:
    """The recorder has a clock of its own."""
    return replace(item, stamp_ns=item.stamp_ns + step_ns)


def one_topic(topic: topics.Topic) -> Set:
    """A sensor with a clock of its own."""
    return lambda item, step_ns: all_stamps(item, step_ns) if item.topic is topic else item


CLOCKS: dict[str, Set] = {
    "recorder": recorders_clock,
    "log": log_alone,
    "stamps": all_stamps,
    **{topic.name: one_topic(topic) for topic in (topics.STATIC_IMAGE, topics.GRIPPER_IMAGE, topics.CURRENT_POSE,
                                                  topics.JOINT_STATES, topics.TARGET_POSE)},
}  # fmt: skip


@pytest.fixture
def imported(tmp_path) -> Callable[..., Recording]:
    def run(made: list[Item], options: BagOptions | None = None) -> Recording:
        data_set = create_data_set(tmp_path / "data_set", DataSetConfig(image_size_px=16))
        return import_bag(write_bag(tmp_path / "bag", made), data_set, options=options)

    return run


def assert_no_time_is_mixed(recording: Recording) -> None:
    """The images say when they were taken; poses, actions and steps have to be of the same time."""
    numbers = [int(image[0, 0, 0]) + 256 * int(image[0, 0, 1]) for image in recording.static[:]]
    grippers = [int(image[0, 0, 0]) + 256 * int(image[0, 0, 1]) - 30_000 for image in recording.gripper[:]]
    assert np.abs(np.subtract(numbers, grippers)).max() <= 1
    for episode in recording.episodes:
        steps = np.diff(numbers[episode.start : episode.end])
        assert set(steps.tolist()) <= {3, 4, 5} and np.count_nonzero(steps != 4) <= 1, steps
        assert (np.diff(recording.stamp_ns[episode.start : episode.end]) > 0).all()
    truth = np.array([commanded(number / 30).position for number in numbers])
    np.testing.assert_allclose(recording.proprio[:, :3], truth, atol=0.006)
    for episode in recording.episodes:
        moved = recording.action[episode.start : episode.end - 1, 0] * 0.08
        expected = np.diff(truth[episode.start : episode.end, 0])
        np.testing.assert_allclose(moved, expected, atol=0.006)


def assert_marks_stay(recording: Recording) -> None:
    """Each mark is at the frame of its time, or left out with a reason."""
    numbers = [int(image[0, 0, 0]) + 256 * int(image[0, 0, 1]) for image in recording.static[:]]
    for mark in recording.annotations:
        assert abs(numbers[mark.frame] / 30 - float(mark.note)) <= 0.11, mark
    statistics = recording.statistics
    assert len(recording.annotations) + len(statistics.marks_left_out) == len(MARKS_S)
    assert statistics.annotations_left_out == len(statistics.marks_left_out)


def said(statistics: Statistics) -> str:
    return "; ".join(statistics.warnings)


@pytest.mark.parametrize("step_s", STEPS_S)
@pytest.mark.parametrize("clock", CLOCKS)
def test_a_step_of_any_clock_ends_the_episode_and_mixes_no_times(imported, clock, step_s):
    made = recording_items()
    at_ns = START_NS + round(AT_S * NS)
    recording = imported([CLOCKS[clock](item, round(step_s * NS)) if item.log_ns >= at_ns else item for item in made])
    assert_no_time_is_mixed(recording)
    assert_marks_stay(recording)
    assert recording.frames >= 26, "hardly anything is lost"
    if clock != "log" or abs(step_s) > 1.0:
        assert len(recording.episodes) == 2
        assert "2.1" in said(recording.statistics) or "2.2" in said(recording.statistics), said(recording.statistics)


@pytest.mark.parametrize("step_s", [-3600.0, -0.05, 1.5, 10 * YEAR_S])
@pytest.mark.parametrize("clock", CLOCKS)
def test_a_clock_that_is_set_after_the_first_message_of_each_topic(imported, clock, step_s):
    seen: set[str] = set()

    def change(item: Item) -> Item:
        first, _ = item.topic.name not in seen, seen.add(item.topic.name)
        return CLOCKS[clock](item, round(step_s * NS)) if first else item

    recording = imported([change(item) for item in recording_items()])
    assert_no_time_is_mixed(recording)
    assert recording.frames >= 28


def test_a_recorder_that_starts_in_1970_and_gets_the_time_later(imported):
    at_ns = START_NS + round(AT_S * NS)
    made = [recorders_clock(item, 100 * NS - START_NS) if item.log_ns < at_ns else item for item in recording_items()]
    recording = imported(made)
    assert_no_time_is_mixed(recording)
    assert_marks_stay(recording)
    assert len(recording.episodes) == 2 and recording.frames >= 29


@pytest.mark.parametrize("step_s", [-3600.0, -0.5, 0.5, 3 * YEAR_S])
@pytest.mark.parametrize("clock", ["recorder", "log", "stamps"])
def test_a_clock_that_is_set_several_times(imported, clock, step_s):
    def change(item: Item) -> Item:
        times = sum(item.log_ns >= START_NS + round(at * NS) for at in (1.2, 2.2, 3.1))
        return CLOCKS[clock](item, times * round(step_s * NS))

    recording = imported([change(item) for item in recording_items()])
    assert_no_time_is_mixed(recording)
    assert_marks_stay(recording)
    assert recording.frames >= 24


@pytest.mark.parametrize("step_s", STEPS_S)
def test_by_the_times_of_arrival_a_step_of_the_recorders_clock_ends_the_episode(imported, step_s):
    at_ns = START_NS + round(AT_S * NS)
    made = [recorders_clock(item, round(step_s * NS)) if item.log_ns >= at_ns else item for item in recording_items()]
    recording = imported(made, BagOptions(clock="log"))
    assert_no_time_is_mixed(recording)
    assert len(recording.episodes) == 2 and recording.frames >= 26


def test_a_command_stays_in_force_over_a_step_of_the_clock(imported):
    at_ns = START_NS + round(AT_S * NS)
    made = [item for item in recording_items() if item.topic is not topics.TARGET_POSE or item.log_ns < START_NS + NS]
    recording = imported([recorders_clock(item, -3600 * NS) if item.log_ns >= at_ns else item for item in made])
    assert recording.frames >= 29


def test_messages_of_the_old_time_that_come_late_into_the_file_are_of_the_old_time(imported):
    at_ns, stragglers = START_NS + round(AT_S * NS), []
    made = []
    for item in recording_items():
        late = item.topic is topics.CURRENT_POSE and at_ns <= item.log_ns < at_ns + NS // 20
        moved = recorders_clock(item, -100 * NS) if item.log_ns >= at_ns and not late else item
        (stragglers if late else made).append(moved)
    place = next(i for i, item in enumerate(made) if item.log_ns < at_ns - 50 * NS) + 3
    recording = imported([*made[:place], *stragglers, *made[place:]])
    assert_no_time_is_mixed(recording)
    assert recording.frames >= 27 and len(recording.episodes) == 2


def test_topics_that_were_written_one_after_the_other_are_one_recording(imported):
    made = sorted(recording_items(), key=lambda item: item.topic.name)
    recording = imported(made)
    assert [episode.length for episode in recording.episodes] == [30]
    assert_no_time_is_mixed(recording)
    assert not recording.statistics.warnings


def test_a_pause_of_the_recorder_is_said_and_ends_the_episode(imported):
    at_ns = START_NS + round(AT_S * NS)
    made = [recorders_clock(item, 20 * NS) if item.log_ns >= at_ns else item for item in recording_items()]
    recording = imported(made)
    assert "set forward by 20.0" in said(recording.statistics) and "nothing was recorded" in said(recording.statistics)
    assert recording.statistics.duration_s == pytest.approx(SECONDS, abs=0.1)


def test_many_steps_cost_no_more_than_their_messages(imported):
    """Each of 100 pieces is weeks away from the one before; no work is done for the time between them."""
    made = items(0.2, state_hz=100.0)
    weeks = [piece * 37 % 100 for piece in range(100)]
    pieces = [recorders_clock(item, week * 7 * 86400 * NS) for week in weeks for item in made]
    recording = imported(pieces)
    assert recording.frames == 2 * len(weeks) == 2 * len(recording.episodes)
    assert "more like the last" in said(recording.statistics)


def test_images_of_the_factory_say_their_number():
    assert image_of(300)[0, 0].tolist() == [44, 1, 77]
