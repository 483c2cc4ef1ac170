"""Which episodes are held out."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from world_model_samples import small_data_set

from diwa_conventions.errors import UserError
from diwa_worldmodel.dataset.config import DataSetConfig
from diwa_worldmodel.dataset.records import Episode
from diwa_worldmodel.dataset.sampler import DiskFrames, SomeEpisodes, StreamSampler
from diwa_worldmodel.dataset.store import DataSet, create_data_set
from diwa_worldmodel.training.split import episodes_from_json, split_episodes


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    """Six episodes of 40 frames in two recordings."""
    return small_data_set(tmp_path_factory.mktemp("split") / "d")


def with_lengths(data_set: DataSet, *lengths: int) -> DataSet:
    """As if its first recording had episodes of these lengths, and there were no other."""
    starts = np.cumsum([0, *lengths[:-1]]).tolist()
    episodes = tuple(Episode(*bounds) for bounds in zip(starts, lengths, strict=True))
    return replace(data_set, recordings=(replace(data_set.recordings[0], episodes=episodes),))


def frames(episodes) -> int:
    return sum(episode.length for episode in episodes)


def test_whole_episodes_are_held_out_and_none_of_them_is_learned_from(data_set):
    split = split_episodes(data_set, 0.3, seed=0)
    assert sorted((*split.training, *split.held_out), key=lambda episode: episode.start) == list(data_set.episodes)
    assert len(split.held_out) == 2
    assert split.describe() == "2 of 6 episodes held out, 80 of 240 frames"


@given(
    lengths=st.lists(st.integers(2, 3000), min_size=2, max_size=30),
    share=st.floats(0.01, 0.5),
    seed=st.integers(0, 10),
)
def test_held_out_frames_are_never_more_than_twice_the_share(data_set, lengths, share, seed):
    made = with_lengths(data_set, *lengths)
    try:
        split = split_episodes(made, share, seed)
    except UserError as error:
        assert max(lengths) < 2 + max(2, round(share * sum(lengths))), error
        return
    assert split.training
    assert 0 < frames(split.held_out) <= max(2, 2 * share * sum(lengths))
    covered = sorted((*split.training, *split.held_out), key=lambda episode: episode.start)
    assert [episode.end for episode in covered[:-1]] == [episode.start for episode in covered[1:]]
    assert frames(covered) == sum(lengths)


def test_the_seed_chooses_the_episodes(data_set):
    assert split_episodes(data_set, 0.2, 3) == split_episodes(data_set, 0.2, 3)
    assert len({split_episodes(data_set, 0.2, seed).held_out for seed in range(20)}) == 6


def test_a_single_episodes_end_is_held_out_and_the_split_says_so(data_set):
    split = split_episodes(with_lengths(data_set, 200), 0.05, seed=0)
    assert split.training == (Episode(0, 190),)
    assert split.held_out == (Episode(190, 10),)
    assert split.cut_episode == Episode(0, 200)
    assert split.describe() == (
        "the end of the only episode held out, since whole ones do not come near the share, 10 of 200 frames"
    )


def test_of_two_long_episodes_none_is_given_away_whole(data_set):
    split = split_episodes(with_lengths(data_set, 500, 400), 0.05, seed=0)
    assert split.training == (Episode(0, 455), Episode(500, 400))
    assert split.held_out == (Episode(455, 45),)
    assert "the longest episode" in split.describe()


def test_one_short_episode_beside_a_long_one_is_not_enough_to_hold_out(data_set):
    split = split_episodes(with_lengths(data_set, 30, 2000), 0.1, seed=0)
    assert (split.cut_episode, frames(split.held_out)) == (Episode(30, 2000), 203)
    assert Episode(0, 30) in split.training


def test_nothing_is_held_out_of_a_share_of_zero(data_set):
    split = split_episodes(data_set, 0.0, seed=0)
    assert split.training == data_set.episodes
    assert split.held_out == ()
    assert "no episode held out" in split.describe()


def test_too_few_frames_to_hold_any_out_are_refused(data_set):
    with pytest.raises(UserError, match="has 3 frames, 3 in its longest episode.*training.validation_share=0"):
        split_episodes(with_lengths(data_set, 3), 0.05, seed=0)


def test_episodes_too_short_to_go_on_in_are_not_held_out(data_set):
    split = split_episodes(with_lengths(data_set, *[1] * 60, 940), 0.05, seed=0)
    assert split.held_out == (Episode(950, 50),)
    assert split_episodes(with_lengths(data_set, 60), 0.05, seed=0, shortest=8).held_out == (Episode(52, 8),)


def test_a_data_set_without_recordings_is_refused(tmp_path):
    with pytest.raises(UserError, match="has 0 frames"):
        split_episodes(create_data_set(tmp_path / "empty", DataSetConfig()), 0.05, seed=0)


def test_held_out_episodes_survive_json(data_set):
    split = split_episodes(data_set, 0.4, seed=1)
    entries = json.loads(json.dumps(split.held_out_to_json(data_set)))
    assert episodes_from_json(data_set, entries) == split.held_out
    ids = {recording.id: recording.frames for recording in data_set.recordings}
    assert all(start + length <= ids[name] for name, start, length in entries)


def test_held_out_episodes_are_found_after_more_was_recorded(tmp_path):
    before = small_data_set(tmp_path / "d", seed=5)
    split = split_episodes(before, 0.2, seed=2)
    entries = split.held_out_to_json(before)
    after = small_data_set(tmp_path / "d", seed=1)
    found = episodes_from_json(after, entries)
    assert found != split.held_out
    for old, new in zip(split.held_out, found, strict=True):
        one, other = (DiskFrames(item).read([[(at.start, at.end)]]) for item, at in ((before, old), (after, new)))
        np.testing.assert_array_equal(one["static"], other["static"])


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([["gone-1234", 0, 40]], "held-out episode gone-1234 .* is not in .*play0"),
        ([["play0", 20, 40]], "no episode with the held-out frames 20 to 59"),
        ([["play0", 80, 41]], "no episode with the held-out frames 80 to 120"),
        ([["play0", 0]], "expected .recording id, start, length."),
        ([["play0", 0, "40"]], "expected .recording id, start, length."),
        (["play"], "expected .recording id, start, length."),
        ([["play0", -1, 3]], "expected .recording id, start, length."),
    ],
)
def test_held_out_episodes_that_the_data_set_lacks_are_named(data_set, entries, message):
    full = {recording.source.name: recording.id for recording in data_set.recordings}
    named = [[full.get(entry[0], entry[0]), *entry[1:]] if isinstance(entry, list) else entry for entry in entries]
    with pytest.raises(UserError, match=message):
        episodes_from_json(data_set, named)


def test_what_is_left_to_learn_from_must_fill_a_batch(data_set):
    split = split_episodes(data_set, 0.3, seed=0)
    learned = SomeEpisodes(DiskFrames(data_set), split.training)
    with pytest.raises(UserError, match="there are 160 frames to draw from; a batch of 16 x 32 needs 512"):
        StreamSampler(learned, 16, 32)
