"""Stamps to 7.5 Hz frames: the grid, what is joined with what, and where episodes end."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diwa_conventions.errors import UserError
from diwa_worldmodel.dataset.config import DataSetConfig
from diwa_worldmodel.dataset.timeline import Images, Numbers, Poses, Streams, latest, nearest, plan

NS = 1_000_000_000
STEP_NS = NS / 7.5
CONFIG = DataSetConfig()


def stamps(hz: float, seconds: float, start_s: float = 1000.0) -> np.ndarray:
    return np.round((start_s + np.arange(round(seconds * hz)) / hz) * NS).astype(np.int64)


def images(at: np.ndarray) -> Images:
    return Images(at, np.ones(len(at), dtype=bool), np.zeros(len(at), dtype=np.int64))


def poses(at: np.ndarray) -> Poses:
    values = np.zeros((len(at), 7))
    values[:, 0] = (at - at[:1]) / NS * 0.1
    values[:, 6] = 1.0
    return Poses(at, values)


def clean(seconds: float = 4.0, camera_hz: float = 30.0) -> Streams:
    camera, state = stamps(camera_hz, seconds), stamps(120.0, seconds)
    width = Numbers(state, np.full(len(state), 0.04))
    return Streams(
        images(camera), images(camera), poses(state), width, poses(state), Numbers(camera, np.ones(len(camera)))
    )


def without(source: Images, lost: np.ndarray) -> Images:
    return Images(source.stamps_ns[~lost], source.usable[~lost], source.size[~lost])


@pytest.mark.parametrize(("camera_hz", "stride"), [(7.5, 1), (15.0, 2), (30.0, 4), (60.0, 8), (29.9, 4)])
def test_every_fourth_image_of_30_hz_and_every_one_of_7_5_hz_is_a_frame(camera_hz, stride):
    found = plan(clean(camera_hz=camera_hz), CONFIG)
    assert [(episode.start, episode.length) for episode in found.episodes] == [(0, len(found.static))]
    np.testing.assert_array_equal(found.static, np.arange(0, round(4 * camera_hz), stride))


def test_a_rate_that_7_5_hz_does_not_divide_is_refused_with_what_to_do():
    with pytest.raises(UserError, match="25.00 Hz; expected 7.5, 15, 30"):
        plan(clean(camera_hz=25.0), CONFIG)


def test_one_lost_image_is_replaced_by_its_neighbour_and_the_grid_goes_on_from_there():
    streams = clean()
    lost = np.zeros(120, dtype=bool)
    lost[40] = True
    found = plan(replace(streams, static=without(streams.static, lost)), CONFIG)
    frames = np.searchsorted(streams.static.stamps_ns, found.stamps_ns).tolist()
    assert len(found.episodes) == 1
    assert frames[9:12] == [36, 39, 43]


def test_a_gap_ends_the_episode_and_the_next_begins_behind_it():
    streams = clean()
    lost = np.zeros(120, dtype=bool)
    lost[40:60] = True
    found = plan(replace(streams, static=without(streams.static, lost)), CONFIG)
    frames = np.searchsorted(streams.static.stamps_ns, found.stamps_ns).tolist()
    first, second = found.episodes
    assert frames[first.end - 1] == 36
    assert frames[second.start] == 60
    assert found.episode_ends["gap"] == 1
    assert found.episode_ends["end"] == 1


def test_a_frame_without_a_gripper_image_near_enough_is_left_out():
    streams = clean()
    lost = np.zeros(120, dtype=bool)
    lost[40:60] = True
    found = plan(replace(streams, gripper=without(streams.gripper, lost)), CONFIG)
    assert not np.isin(np.arange(40, 60), found.static).any()
    assert found.frames_left_out["skew"] == 5
    late = images(streams.gripper.stamps_ns + 5_000_000)
    nothing = plan(replace(streams, gripper=late), replace(CONFIG, skew_limit_s=0.001))
    assert nothing.episodes == ()


def test_before_the_first_command_there_is_no_frame():
    streams = clean()
    found = plan(replace(streams, target=poses(streams.target.stamps_ns[240:])), CONFIG)
    assert found.stamps_ns[0] == streams.target.stamps_ns[240]
    assert found.frames_left_out["command"] == 15


def test_a_command_is_in_force_until_the_next_one_however_long():
    streams = clean()
    held = poses(streams.target.stamps_ns[:10])
    found = plan(replace(streams, target=held), CONFIG)
    assert len(found.static) == 30
    assert set(found.target[1:].tolist()) == {9}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_frame_whose_nearest_pose_is_not_finite_is_left_out(bad):
    streams = clean()
    values = streams.pose.values.copy()
    values[160] = bad  # at image 40, which is on the grid
    found = plan(replace(streams, pose=Poses(streams.pose.stamps_ns, values)), CONFIG)
    assert 40 not in found.static
    assert found.frames_left_out["state"] == 1


def test_a_quaternion_that_is_not_of_length_1_makes_no_frame():
    streams = clean()
    values = streams.pose.values.copy()
    values[:, 6] = 0.5
    assert plan(replace(streams, pose=Poses(streams.pose.stamps_ns, values)), CONFIG).episodes == ()


def test_the_episode_ends_where_the_pose_jumps():
    streams = clean()
    values = streams.pose.values.copy()
    values[222:, 2] += 0.05
    found = plan(replace(streams, pose=Poses(streams.pose.stamps_ns, values)), CONFIG)
    assert found.episode_ends["jump"] == 1
    ends = found.static[[episode.end - 1 for episode in found.episodes]]
    assert ends[0] < 222 / 4 <= found.static[found.episodes[1].start]


def test_the_episode_ends_where_the_command_jumps_after_a_pause():
    streams = clean()
    values, kept = streams.target.values.copy(), np.r_[0:200, 280:480]
    values[280:, 1] += 0.1
    found = plan(replace(streams, target=Poses(streams.target.stamps_ns[kept], values[kept])), CONFIG)
    assert found.episode_ends["jump"] == 1
    assert found.stamps_ns[found.episodes[1].start] >= streams.target.stamps_ns[280]


def test_a_fast_but_possible_motion_ends_no_episode():
    streams = clean()
    values = streams.pose.values.copy()
    values[:, 0] = 0.9 * np.arange(480) / 120
    found = plan(replace(streams, pose=Poses(streams.pose.stamps_ns, values)), CONFIG)
    assert len(found.episodes) == 1


def test_states_that_are_lost_for_a_moment_while_the_arm_moves_end_no_episode():
    streams = clean()
    values, kept = streams.pose.values.copy(), np.r_[0:200, 211:480]
    values[:, 0] = 0.6 * np.arange(480) / 120
    pose = Poses(streams.pose.stamps_ns[kept], values[kept])
    assert len(plan(replace(streams, pose=pose), CONFIG).episodes) == 1


def test_the_episode_ends_where_the_scene_is_reset():
    streams = clean()
    at = streams.static.stamps_ns
    found = plan(replace(streams, scene_episode=Numbers(at, (np.arange(120) >= 50).astype(float))), CONFIG)
    assert found.episode_ends["reset"] == 1
    first, second = found.episodes
    assert found.static[first.end - 1] < 50 <= found.static[second.start]


def test_the_episode_ends_where_the_image_size_changes():
    streams = clean()
    size = (np.arange(120) >= 50).astype(np.int64)
    found = plan(replace(streams, gripper=replace(streams.gripper, size=size)), CONFIG)
    assert found.episode_ends["image"] == 1


def test_frames_that_are_alone_make_no_episode_and_are_counted():
    streams = clean()
    lost = np.ones(120, dtype=bool)
    lost[[0, 1, 2, 3, 60]] = False
    found = plan(replace(streams, static=without(streams.static, lost)), CONFIG)
    assert found.episodes == ()
    assert found.frames_left_out["gap"] >= 2


def test_nothing_at_all_makes_an_empty_plan():
    none = np.zeros(0, dtype=np.int64)
    found = plan(replace(clean(), gripper=images(none)), CONFIG)
    assert found.episodes == ()
    assert plan(replace(clean(), static=images(none)), CONFIG).episodes == ()


def test_nearest_takes_the_earlier_of_two_and_latest_never_looks_ahead():
    at = np.array([0, 10, 20], dtype=np.int64)
    assert nearest(at, np.array([-5, 5, 6, 99]))[0].tolist() == [0, 0, 1, 2]
    assert latest(at, np.array([-1, 0, 9, 10, 99])).tolist() == [-1, 0, 0, 1, 2]


@st.composite
def recordings(draw: st.DrawFn) -> Streams:
    """A recording with lost, jittered and unreadable messages, jumps of the pose and resets of the scene."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    streams = clean(draw(st.floats(0.2, 5.0)), draw(st.sampled_from([7.5, 15.0, 30.0, 60.0])))

    def thinned(at: np.ndarray, worst: float) -> tuple[np.ndarray, np.ndarray]:
        kept = rng.random(len(at)) >= draw(st.floats(0.0, worst))
        kept[:2] = True
        jitter = rng.uniform(-0.004, 0.004, len(at)) * draw(st.sampled_from([0, 1])) * NS
        return np.unique(at[kept] + jitter[kept].astype(np.int64)), kept

    def camera(source: Images) -> Images:
        at, _ = thinned(source.stamps_ns, 0.3)
        return Images(at, rng.random(len(at)) >= 0.02, np.cumsum(rng.random(len(at)) < 0.01))

    def arm(source: Poses) -> Poses:
        at, _ = thinned(source.stamps_ns, 0.5)
        found = poses(at)
        found.values[:, 1] = 1.0 * np.cumsum(rng.random(len(at)) < 0.01)
        found.values[rng.random(len(at)) < 0.01, 0] = np.nan
        return found

    static = camera(streams.static)
    scene = Numbers(static.stamps_ns, np.cumsum(rng.random(len(static.stamps_ns)) < 0.02).astype(float))
    return replace(
        streams,
        static=static,
        gripper=camera(streams.gripper),
        pose=arm(streams.pose),
        target=arm(streams.target),
        scene_episode=draw(st.sampled_from([None, scene])),
    )


@settings(max_examples=150, deadline=None)
@given(recordings())
def test_whatever_is_lost_every_frame_is_sound_and_every_step_is_one_step(streams):
    try:
        found = plan(streams, CONFIG)
    except UserError:  # so much was lost that the rate is not to be seen
        return
    expected = 0
    for episode in found.episodes:
        assert episode.start == expected
        assert episode.length >= 2
        expected = episode.end
        inside = slice(episode.start, episode.end)
        steps = np.diff(found.stamps_ns[inside])
        assert np.abs(steps - STEP_NS).max() <= CONFIG.step_tolerance_s * NS + 0.05 * STEP_NS
        assert_no_barrier_is_crossed(streams, found, inside)
    assert expected == len(found.static)
    assert_frames_are_sound(streams, found)


def assert_frames_are_sound(streams, found):
    skew = streams.gripper.stamps_ns[found.gripper] - found.stamps_ns
    assert (np.abs(skew) <= CONFIG.skew_limit_s * NS).all()
    assert streams.static.usable[found.static].all()
    assert streams.gripper.usable[found.gripper].all()
    assert np.isfinite(streams.pose.values[found.pose]).all()
    assert np.isfinite(streams.target.values[found.target]).all()
    assert (streams.target.stamps_ns[found.target] <= found.stamps_ns).all()
    following = np.append(streams.target.stamps_ns, np.iinfo(np.int64).max)[found.target + 1]
    assert (following > found.stamps_ns).all()


def assert_no_barrier_is_crossed(streams, found, inside):
    """Steps of the test's poses are 0 or 1 m to the side, which no arm does between two frames."""
    assert np.ptp(streams.pose.values[found.pose[inside], 1]) < 0.1
    assert np.ptp(streams.target.values[found.target[inside], 1]) < 0.1
    assert np.ptp(streams.static.size[found.static[inside]]) == 0
    if found.scene is not None:
        assert np.ptp(streams.scene_episode.values[found.scene[inside]]) == 0
