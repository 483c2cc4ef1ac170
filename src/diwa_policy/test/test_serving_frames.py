"""Frames put together from messages as they arrive, as the importer puts them together from a bag."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving_lab import BEGIN_NS, PERIOD_NS, TICK_NS, lab, picture

from diwa_policy.serving.frames import STEP_NS, FrameFault, Stream


def numbers(frames):
    """Of the static images that they were made from."""
    return [round((frame.stamp_ns - BEGIN_NS) / PERIOD_NS) for frame in frames]


def test_every_fourth_image_makes_a_frame():
    assert numbers(lab().run(17)) == [0, 4, 8, 12, 16]


def test_frame_holds_the_images_and_the_state_of_its_stamp():
    first, second = lab().run(6)
    np.testing.assert_array_equal(second.images["static"], picture(4))
    np.testing.assert_array_equal(second.images["gripper"], picture(4, 1))
    assert second.proprio[0] == pytest.approx(0.4 + 0.1 * 4 * PERIOD_NS * 1e-9)
    assert second.proprio[9] == 0.08
    assert second.stamp_ns - first.stamp_ns == 4 * PERIOD_NS


def test_executed_action_is_the_way_of_the_target_between_the_frames():
    first, second = lab(speed=0.3).run(6)
    assert first.executed is None
    np.testing.assert_allclose(second.executed, [0.3 * 4 * PERIOD_NS * 1e-9 / 0.08, 0, 0, 0, 0, 0, 1], atol=1e-9)


def test_command_in_force_is_the_last_one_before_the_frame_not_the_nearest():
    room = lab(speed=0.0)
    room.run(3)
    later = room.at(0)
    room.assembler.target.add(BEGIN_NS + 4 * PERIOD_NS + 1, type(later)(later.position + 1.0, later.rotation), 0.0)
    (second,) = room.run(2, first=3)
    np.testing.assert_array_equal(second.executed[:6], 0.0)


def test_no_frame_before_the_first_command_where_one_is_needed():
    room = lab(commanded=False)
    assert room.run(8) == []
    room.commanded = True
    assert numbers(room.run(8, first=8)) == [8, 12]


def test_an_arm_without_commands_counts_as_held_with_an_open_gripper():
    frames = lab(needs_command=False, commanded=False).run(6)
    np.testing.assert_array_equal(frames[1].executed, [0, 0, 0, 0, 0, 0, 1])


def test_frame_waits_for_the_gripper_image_but_not_for_long():
    room = lab(delay_s=0.0)
    room.run(4)
    now_s = (BEGIN_NS + 4 * PERIOD_NS) * 1e-9
    room.assembler.static_image(BEGIN_NS + 4 * PERIOD_NS, lambda: picture(4), now_s)
    assert room.assembler.frame(now_s + 0.09) is None
    with pytest.raises(FrameFault, match="gripper camera: 33 ms away"):
        room.assembler.frame(now_s + 0.11)


def test_skewed_camera_is_a_fault_that_names_it():
    room = lab()
    room.run(1)
    # Between two static images, as far from one as from the other.
    room.gripper_offset_ns = PERIOD_NS // 2 + 8_000_000
    with pytest.raises(FrameFault, match="gripper camera: .* at most 5 ms"):
        room.run(9, first=1)


def test_a_run_does_not_begin_before_everything_is_in_time():
    room = lab(gripper_offset_ns=12_000_000)
    assert room.run(6) == []
    room.gripper_offset_ns = 0
    assert numbers(room.run(8, first=6)) == [6, 10]


def test_lost_image_shifts_the_frame_to_its_neighbour_and_no_other():
    assert numbers(lab(missing=frozenset({4})).run(14)) == [0, 3, 7, 11]


def test_a_burst_of_late_images_loses_no_frame():
    room = lab()
    room.run(1)
    stamps = [BEGIN_NS + number * PERIOD_NS for number in range(1, 14)]
    now_s = stamps[-1] * 1e-9
    for number, stamp in enumerate(stamps, start=1):
        room.assembler.static_image(stamp, lambda number=number: picture(number), now_s)
        room.assembler.gripper_image.add(stamp, lambda number=number: picture(number, 1), now_s)
    for tick in range(4, 14 * 4):
        stamp = BEGIN_NS + tick * TICK_NS
        room.assembler.pose.add(stamp, room.at(stamp), now_s)
        room.assembler.width.add(stamp, 0.08, now_s)
        room.assembler.target.add(stamp, room.at(stamp), now_s)
    frames = [room.assembler.frame(now_s) for _ in range(3)]
    assert numbers(frames) == [4, 8, 12]


def test_begin_forgets_the_frames_and_the_commands_before():
    room = lab()
    room.run(6)
    room.assembler.begin()
    room.commanded = False
    assert room.run(4, first=6) == []
    room.commanded = True
    (frame,) = room.run(4, first=10)
    assert frame.executed is None


@given(st.lists(st.integers(0, 40), max_size=30), st.integers(-5, 45))
def test_stream_finds_the_nearest_and_the_latest_whatever_the_order_of_arrival(stamps, at):
    stream = Stream()
    for stamp in stamps:
        stream.add(stamp, stamp, 0.0)
    near, latest = stream.nearest(at), stream.latest(at)
    if not stamps:
        assert near is None and latest is None
        return
    assert near == (min(stamps, key=lambda one: (abs(one - at), one)), min(abs(one - at) for one in stamps))
    assert latest == max((one for one in stamps if one <= at), default=None)
    assert stream.reaches(at) == (max(stamps) >= at)


def test_step_is_that_of_the_filter():
    assert STEP_NS == 133_333_333
