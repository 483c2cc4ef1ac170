"""Stamps of one topic: order, loss, delay, and clocks that do not agree."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diwa_conventions.errors import UserError
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


def test_a_clock_that_was_set_back_is_an_error_that_names_the_way_out():
    stamps = np.concatenate([steady(90), steady(90, start_s=40.0)])
    with pytest.raises(UserError, match=r"/t jump back by 12.97 s at message 90 .*--clock log"):
        order("/t", "static_image", stamps, steady(180))
    assert len(order("/t", "static_image", stamps, steady(180), by_log=True).stamps_ns) == 180


def test_a_small_step_back_of_the_clock_is_told_from_messages_that_overtook_each_other():
    stamps = np.concatenate([steady(90), steady(90, start_s=52.6)])
    with pytest.raises(UserError, match=r"/t jump back by 0.37 s .*--clock log"):
        order("/t", "static_image", stamps, steady(180))


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
    assert len(found.kept) == 89 and "far ahead" in found.warnings[0]


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
        np.testing.assert_array_equal(stamps[found.kept], found.stamps_ns)
        assert report.duplicates + len(found.kept) == np.count_nonzero(stamps)
