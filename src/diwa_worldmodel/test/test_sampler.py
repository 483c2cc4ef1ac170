"""Batches: random windows inside episodes, and streams that carry on."""

import numpy as np
import pytest
from world_model_samples import SCENE_STATE_NAMES, small_data_set

from diwa_conventions.errors import UserError
from diwa_worldmodel.dataset.config import DataSetConfig
from diwa_worldmodel.dataset.records import Episode, Source
from diwa_worldmodel.dataset.sampler import DiskFrames, ResidentFrames, SomeEpisodes, StreamSampler, WindowSampler
from diwa_worldmodel.dataset.store import create_data_set, open_data_set

LENGTHS = ((7, 30, 12), (25, 9))
"""Of the episodes of two recordings."""


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    """Images, actions and stamps of a frame all say its number."""
    made = create_data_set(tmp_path_factory.mktemp("sampler") / "d", DataSetConfig(image_size_px=8))
    begin = 0
    for i, lengths in enumerate(LENGTHS):
        count = sum(lengths)
        number = np.arange(begin, begin + count)
        images = np.broadcast_to(number[:, None, None, None], (count, 8, 8, 3)).astype(np.uint8)
        starts = np.cumsum([0, *lengths[:-1]]).tolist()
        with made.add_recording(Source(f"r{i}", "bag", f"{i}" * 64)) as writer:
            values = np.repeat(number[:, None] / 100, 10, axis=1)
            writer.append(images, images + 100, values, values[:, :7], number.astype(np.int64))
            writer.finish([Episode(*bounds) for bounds in zip(starts, lengths, strict=True)])
        begin += count
    return open_data_set(made.path)


@pytest.fixture(params=["resident", "disk"])
def frames(request, data_set):
    return ResidentFrames(data_set.load()) if request.param == "resident" else DiskFrames(data_set)


def episode_of(frames, stamp: int) -> int:
    return next(i for i, episode in enumerate(frames.episodes) if episode.start <= stamp < episode.end)


def assert_consistent(batch):
    stamps = batch["stamp_ns"]
    np.testing.assert_array_equal(batch["static"][..., 0, 0, 0], stamps)
    np.testing.assert_array_equal(batch["gripper"][..., 5, 5, 1], stamps + 100)
    np.testing.assert_allclose(batch["action"][..., 0], stamps / 100, rtol=1e-6)
    np.testing.assert_allclose(batch["proprio"][..., 9], stamps / 100, rtol=1e-6)


def test_windows_lie_inside_one_episode(frames):
    sampler = WindowSampler(frames, batch=16, length=8, seed=1)
    for _ in range(10):
        batch = sampler.draw()
        assert batch["static"].shape == (16, 8, 8, 8, 3)
        assert_consistent(batch)
        assert (np.diff(batch["stamp_ns"], axis=1) == 1).all()
        for row in batch["stamp_ns"]:
            assert episode_of(frames, row[0]) == episode_of(frames, row[-1])
        assert batch["first"][:, 0].all()
        assert not batch["first"][:, 1:].any()


def test_every_window_is_drawn_and_none_more_often_than_others(data_set):
    frames = ResidentFrames(data_set.load())
    sampler = WindowSampler(frames, batch=100, length=9, seed=2)
    assert sampler.windows == sum(max(0, n - 8) for lengths in LENGTHS for n in lengths)
    starts = np.concatenate([sampler.draw()["stamp_ns"][:, 0] for _ in range(40)])
    counts = np.unique(starts, return_counts=True)[1]
    assert len(counts) == sampler.windows
    assert counts.max() < 2.5 * counts.min()


def test_the_same_seed_draws_the_same_windows(frames):
    first, second, other = (WindowSampler(frames, 8, 5, seed) for seed in (3, 3, 4))
    for _ in range(3):
        stamps = first.draw()["stamp_ns"]
        np.testing.assert_array_equal(stamps, second.draw()["stamp_ns"])
        assert (stamps != other.draw()["stamp_ns"]).any()


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
        assert one[name].dtype == other[name].dtype


@pytest.mark.parametrize("kind", [WindowSampler, StreamSampler])
def test_disk_and_memory_give_the_same_batches(data_set, kind):
    resident, disk = kind(ResidentFrames(data_set.load()), 4, 10, 5), kind(DiskFrames(data_set), 4, 10, 5)
    for _ in range(4):
        assert_same(resident.draw(), disk.draw())


def test_streams_carry_on_from_batch_to_batch(frames):
    sampler = StreamSampler(frames, batch=3, length=5, seed=6)
    batches = [sampler.draw() for _ in range(12)]
    for batch in batches:
        assert_consistent(batch)
    stamps = np.concatenate([batch["stamp_ns"] for batch in batches], axis=1)
    first = np.concatenate([batch["first"] for batch in batches], axis=1)
    starts = {piece.start for piece in sampler.pieces}
    ends = {piece.end for piece in sampler.pieces}
    assert first[:, 0].all()
    for stream in range(3):
        for t in range(1, stamps.shape[1]):
            if first[stream, t]:
                assert stamps[stream, t] in starts
                assert stamps[stream, t - 1] + 1 in ends
            else:
                assert stamps[stream, t] == stamps[stream, t - 1] + 1


def test_one_stream_passes_every_episode_before_any_comes_again(frames):
    sampler = StreamSampler(frames, batch=1, length=83, seed=7)
    for _ in range(3):
        batch = sampler.draw()
        assert sorted(batch["stamp_ns"][0].tolist()) == list(range(83))
        assert batch["first"].sum() == 5


def test_streams_are_at_different_places_of_a_single_long_episode(frames):
    longest = SomeEpisodes(frames, (max(frames.episodes, key=lambda episode: episode.length),))
    stamps = StreamSampler(longest, batch=3, length=10, seed=8).draw()["stamp_ns"]
    assert sorted(stamps.flatten().tolist()) == list(range(7, 37))


def test_an_episode_is_cut_only_where_it_is_longer_than_a_streams_share(frames):
    assert StreamSampler(frames, batch=2, length=10).pieces == frames.episodes
    assert len(StreamSampler(frames, batch=3, length=10).pieces) == len(frames.episodes) + 1


@pytest.mark.parametrize("kind", [WindowSampler, StreamSampler])
def test_skipping_batches_is_as_drawing_them(frames, kind):
    drawn, skipping = kind(frames, 4, 9, 9), kind(frames, 4, 9, 9)
    for _ in range(13):
        drawn.draw()
    skipping.skip(13)
    for _ in range(3):
        assert_same(drawn.draw(), skipping.draw())


@pytest.mark.parametrize("kind", [WindowSampler, StreamSampler])
def test_rows_of_two_processes_are_one_processs_batch(frames, kind):
    whole, low, high = (kind(frames, 4, 9, 10, rows) for rows in (None, range(2), range(2, 4)))
    for _ in range(8):
        parts = [low.draw(), high.draw()]
        assert_same(whole.draw(), {name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def test_actions_of_single_frames_are_those_of_batches(frames):
    numbers = np.array([[3, 70], [36, 0]])
    np.testing.assert_allclose(frames.actions(numbers)[..., 2], numbers / 100, rtol=1e-6)


def test_some_episodes_are_read_under_the_whole_numbering(frames):
    last = SomeEpisodes(frames, frames.episodes[-1:])
    batch = WindowSampler(last, 2, 9).draw()
    assert_consistent(batch)
    assert batch["stamp_ns"].tolist() == [list(range(74, 83))] * 2


@pytest.mark.parametrize("place", ["resident", "disk"])
def test_scene_state_is_in_batches_where_every_recording_knows_it(tmp_path, place):
    made = small_data_set(tmp_path / "d", scene_state=True)
    frames = ResidentFrames(made.load()) if place == "resident" else DiskFrames(made)
    batch = StreamSampler(frames, 2, 8).draw()
    assert made.scene_state_names == SCENE_STATE_NAMES
    assert batch["scene_state"].shape == (2, 8, 3)
    np.testing.assert_array_equal(batch["scene_state"][..., :2], batch["proprio"][..., :2])


def test_scene_state_that_only_some_recordings_know_is_left_out(tmp_path, data_set):
    small_data_set(tmp_path / "d", scene_state=True, seed=1)
    mixed = small_data_set(tmp_path / "d", scene_state=False, seed=2)
    assert mixed.scene_state_names is None
    assert "scene_state" not in StreamSampler(ResidentFrames(mixed.load()), 2, 8).draw()
    assert data_set.scene_state_names == ()
    assert data_set.load().scene_state is None


def test_windows_longer_than_every_episode_are_refused(frames):
    with pytest.raises(UserError, match="no episode has 31 frames, the longest has 30"):
        WindowSampler(frames, 1, 31)
    with pytest.raises(UserError, match="there are 83 frames to draw from; a batch of 9 x 10 needs 90"):
        StreamSampler(frames, 9, 10)
    with pytest.raises(UserError, match="length is 1"):
        WindowSampler(frames, 1, 1)
