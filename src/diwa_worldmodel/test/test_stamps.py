"""Stamps of one topic: order, loss, delay, and clocks that do not agree."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diwa_conventions.errors import UserError
from diwa_worldmodel.dataset.clock_steps import LogStep, log_step_of
from diwa_worldmodel.dataset.stamps import check_clocks, expected_rate_hz, order

NS = 1_000_000_000


def at(*seconds: float) -> np.ndarray:
    return np.round(np.array(seconds) * NS).astype(np.int64)


def steady(count: int, hz: float = 30.0, start_s: float = 50.0) -> np.ndarray:
    return np.round((start_s + np.arange(count) / hz) * NS).astype(np.int64)


def test_duplicates_are_left_out_and_overtaken_messages_put_back_in_their_place():
    stamps = at(1.0, 1.1, 1.1, 1.3, 1.2, 1.4)
    found = order("/t", "current_pose", stamps, stamps)
    assert found.kept.tolist() == [0, 1, 4, 3, 5]
    assert (found.report.duplicates, found.report.backwards, found.report.messages) == (1, 1, 6)


@pytest.mark.parametrize("hz", [7.5, 30.0, 120.0])
@pytest.mark.parametrize("step_s", [-3600.0, -12.97, -1.5, -0.05, 0.05, 1.5, 3600.0, 50 * 365 * 86400.0])
def test_a_clock_that_is_set_is_put_back_on_the_clock_that_it_had(step_s, hz):
    stamps, arrivals = steady(180, hz, 2e9), steady(180, hz, 2e9) + 20_000_000
    moved = stamps.copy()
    moved[100:] += round(step_s * NS)
    found = order("/t", "static_image", moved, arrivals)
    np.testing.assert_allclose(found.stamps_ns, stamps, atol=1000)
    ((at_ns, by_ns),) = found.steps
    assert at_ns == pytest.approx(stamps[100], abs=1000) and by_ns == pytest.approx(step_s * NS, abs=1000)


def test_the_clock_that_lasted_longest_counts():
    stamps, arrivals = steady(180), steady(180)
    moved = stamps.copy()
    moved[:5] -= 40 * NS
    found = order("/t", "static_image", moved, arrivals)
    np.testing.assert_array_equal(found.stamps_ns, stamps)


def test_each_of_several_steps_counts():
    stamps, arrivals = steady(400), steady(400)
    moved = stamps.copy()
    moved[100:] += NS // 2
    moved[200:] -= 3 * NS
    moved[300:] += 10 * NS
    found = order("/t", "static_image", moved, arrivals)
    assert [round(step / NS, 6) for _, step in found.steps] == [0.5, -3.0, 10.0]
    assert len(found.stamps_ns) == 400 and np.ptp(np.diff(found.stamps_ns)) < 1000


def test_a_message_that_is_lost_where_the_clock_is_set_hides_nothing():
    stamps, arrivals = np.delete(steady(180), 100), np.delete(steady(180), 100)
    moved = stamps.copy()
    moved[100:] -= NS // 20
    np.testing.assert_allclose(order("/t", "static_image", moved, arrivals).stamps_ns, stamps, atol=1000)


@pytest.mark.parametrize("late_s", [0.05, 0.2, 1.0])
def test_messages_that_take_longer_from_now_on_are_no_clock(late_s):
    stamps, arrivals = steady(180), steady(180)
    arrivals[100:] += round(late_s * NS)
    found = order("/t", "static_image", stamps, arrivals)
    assert not found.steps
    np.testing.assert_array_equal(found.stamps_ns, stamps)


@pytest.mark.parametrize("seed", range(5))
def test_jitter_bursts_and_losses_are_no_clock(seed):
    rng = np.random.default_rng(seed)
    stamps = steady(3000, 120.0) + rng.normal(0, 1e6, 3000).astype(np.int64)
    arrivals = stamps + np.abs(rng.normal(2e6, 4e6, 3000)).astype(np.int64)
    for begin in rng.integers(0, 2900, 8):  # a stalled recorder hands out what waited all at once
        arrivals[begin : begin + 40] = np.maximum(arrivals[begin : begin + 40], arrivals[begin + 40])
    arrivals = np.maximum.accumulate(arrivals)
    kept = rng.random(3000) > 0.05
    assert not order("/t", "current_pose", stamps[kept], arrivals[kept]).steps


@pytest.mark.parametrize("seed", range(10))
def test_a_recorder_that_is_behind_now_and_then_is_no_clock(seed):
    """On a busy machine it takes what waited all at once, after up to half a second, and sources stall too."""
    rng = np.random.default_rng(seed)
    stamps = steady(2000, 120.0)
    for at in rng.integers(100, 1900, 5):
        stamps[at:] += int(rng.uniform(0.02, 0.3) * NS)
    served = np.cumsum(rng.choice([0.002, 0.05, 0.2, 0.5], 4000, p=[0.7, 0.2, 0.08, 0.02])) + stamps[0] / NS
    arrivals = np.maximum(np.round(served[np.searchsorted(served * NS, stamps)] * NS), stamps).astype(np.int64)
    found = order("/t", "target_pose", stamps, arrivals)
    assert not found.steps
    np.testing.assert_array_equal(found.stamps_ns, stamps)


def test_the_clock_goes_on_into_the_next_part_and_a_step_between_them_is_seen():
    stamps, arrivals = steady(300), steady(300)
    moved = stamps.copy()
    moved[50:] += 2 * NS
    moved[200:] -= 7 * NS
    first = order("/t", "static_image", moved[:200], arrivals[:200])
    second = order("/t", "static_image", moved[200:], arrivals[200:], clock=first.clock)
    whole = np.concatenate([first.stamps_ns, second.stamps_ns])
    assert np.ptp(np.diff(whole)) < 1000
    assert [by for _, by in second.steps] == [pytest.approx(-7 * NS)]


def test_a_sensor_that_does_not_follow_the_recorders_step_is_put_on_its_new_clock():
    stamps, arrivals = steady(300), steady(300)
    step = LogStep(by_ns=-60 * NS, common_ns=0)
    arrivals[150:] -= 60 * NS
    own = order("/t", "static_image", stamps[150:], arrivals[150:], clock=_clock_of(stamps, arrivals), log_step=step)
    np.testing.assert_array_equal(own.stamps_ns, stamps[150:] - 60 * NS)
    follows = stamps.copy()
    follows[150:] -= 60 * NS
    clock = _clock_of(follows, arrivals)
    found = order("/t", "static_image", follows[150:], arrivals[150:], clock=clock, log_step=step)
    np.testing.assert_array_equal(found.stamps_ns, follows[150:])


def test_the_recorders_step_is_what_most_topics_show():
    stamps, arrivals = steady(300), steady(300)
    arrivals[150:] -= 60 * NS
    clocks = {name: _clock_of(stamps, arrivals) for name in ("a", "b", "c")}
    times = dict.fromkeys(("a", "b"), (stamps[150:], arrivals[150:]))
    step = log_step_of(-60 * NS, clocks, {**times, "c": (arrivals[150:], arrivals[150:])})
    assert step == LogStep(-60 * NS, 60 * NS)
    found = order("/t", "static_image", stamps[150:], arrivals[150:], clock=clocks["a"], log_step=step)
    np.testing.assert_array_equal(found.stamps_ns, stamps[150:])


def _clock_of(stamps, arrivals):
    return order("/t", "static_image", stamps[:150], arrivals[:150]).clock


def test_messages_that_overtook_each_other_on_a_full_network_are_no_clock():
    stamps = steady(90)
    arrival = stamps.copy()
    arrival[40:44] += NS // 5
    sequence = np.argsort(arrival, kind="stable")
    found = order("/t", "static_image", stamps[sequence], arrival[sequence])
    assert found.report.backwards == 4 and len(found.kept) == 90


def test_a_single_stamp_from_the_future_is_left_out_with_a_warning():
    stamps = steady(90)
    stamps[40] += 3600 * NS
    found = order("/t", "static_image", stamps, steady(90))
    assert len(found.kept) == 89 and "out of order" in found.warnings[0]


def test_a_single_stamp_from_the_past_is_left_out_with_a_warning():
    stamps = steady(90)
    stamps[40] -= 20 * NS
    found = order("/t", "static_image", stamps, steady(90))
    assert len(found.kept) == 89 and "out of order" in found.warnings[0]


def test_without_any_stamps_the_times_of_arrival_are_used_with_a_warning():
    found = order("/t", "static_image", np.zeros(30, dtype=np.int64), steady(30))
    np.testing.assert_array_equal(found.stamps_ns, steady(30))
    assert "no stamps" in found.warnings[0]


def test_single_messages_without_stamp_are_left_out_with_a_warning():
    stamps = steady(30)
    stamps[5] = 0
    found = order("/t", "static_image", stamps, steady(30))
    assert 5 not in found.kept
    assert len(found.kept) == 29
    assert "1 of 30" in found.warnings[0]


def test_gaps_count_as_dropped_messages_of_the_expected_rate():
    stamps = np.delete(steady(90), [10, 40, 41, 42])
    report = order("/t", "static_image", stamps, stamps).report
    assert (report.dropped, report.expected_hz) == (4, 30.0)
    assert report.largest_gap_s == pytest.approx(4 / 30)


def test_nothing_is_lost_while_the_scene_is_reset():
    stamps = np.concatenate([steady(90), steady(90, start_s=60.0)])
    resets = np.array([[stamps[89], stamps[90]]])
    report = order("/t", "static_image", stamps, stamps, resets_ns=resets).report
    assert report.dropped == 0 and report.largest_gap_s < 0.04
    assert order("/t", "static_image", stamps, stamps).report.dropped > 200


def test_a_pause_between_commands_is_no_loss():
    stamps = np.concatenate([steady(90), steady(90, start_s=99.0)])
    assert order("/t", "target_pose", stamps, stamps).report.dropped == 0
    assert order("/t", "current_pose", stamps, stamps).report.dropped > 1000


def test_messages_that_arrive_much_later_than_usual_are_late():
    stamps = steady(90)
    arrivals = stamps + 30_000_000
    arrivals[7] += 60_000_000
    arrivals[8] += 40_000_000
    assert order("/t", "static_image", stamps, arrivals).report.late == 1


@pytest.mark.parametrize(
    ("rate", "expected"), [(29.7, 30.0), (7.4, 7.5), (118.0, 120.0), (1003.0, 1000.0), (41.0, 41.0)]
)
def test_the_expected_rate_is_the_usual_one_nearby(rate, expected):
    assert expected_rate_hz(rate) == expected


def test_clocks_that_differ_are_an_error_that_names_both_topics_and_the_way_out():
    camera = order("/camera", "static_image", steady(90), steady(90))
    other = order("/other", "gripper_image", steady(90) + 2 * NS, steady(90))
    with pytest.raises(UserError, match=r"/other is stamped 2.00 s ahead of /camera.*--clock log"):
        check_clocks({"/camera": camera, "/other": other}, "/camera")
    check_clocks({"/camera": camera, "/same": camera}, "/camera")


@given(st.lists(st.integers(0, 90), max_size=60))
def test_whatever_arrives_the_stamps_that_are_kept_increase(milliseconds):
    stamps = np.array(milliseconds, dtype=np.int64) * 1_000_000
    found = order("/t", "current_pose", stamps, np.arange(len(stamps)) * 1_000_000)
    assert (np.diff(found.stamps_ns) > 0).all()
    report = found.report
    if stamps.any():
        if not found.steps:
            np.testing.assert_array_equal(stamps[found.kept], found.stamps_ns)
        assert report.duplicates + len(found.kept) == np.count_nonzero(stamps)
