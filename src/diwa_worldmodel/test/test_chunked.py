"""Frames of a model that goes on by several at a time."""

import numpy as np
import pytest
from world_model_samples import small_data_set

from diwa_conventions.errors import UserError
from diwa_worldmodel.dataset.chunked import ChunkedFrames, in_chunks
from diwa_worldmodel.dataset.records import Episode
from diwa_worldmodel.dataset.sampler import DiskFrames, SomeEpisodes, StreamSampler, WindowSampler

CHUNK = 3


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """Episodes of 11, 5, 20 frames that do not follow each other."""
    frames = DiskFrames(small_data_set(tmp_path_factory.mktemp("chunked") / "d", scene_state=True))
    return SomeEpisodes(frames, (Episode(3, 11), Episode(40, 5), Episode(100, 20)))


def test_episodes_are_numbered_anew_without_what_is_left_over_or_too_short(single):
    assert ChunkedFrames(single, CHUNK).episodes == (Episode(0, 3), Episode(3, 6))


def test_a_step_has_the_frame_it_begins_with_and_all_its_actions_in_order(single):
    batch = ChunkedFrames(single, CHUNK).read([[(0, 3), (3, 5)], [(1, 2), (5, 9)]])
    frames = np.array([[3, 6, 9, 100, 103], [6, 106, 109, 112, 115]])
    expected = single.read([[(frame, frame + 1) for frame in row] for row in frames.tolist()])
    for name in ("static", "gripper", "proprio", "scene_state", "stamp_ns"):
        np.testing.assert_array_equal(batch[name], expected[name])
    actions = single.actions(frames[..., None] + np.arange(CHUNK))
    assert batch["action"].shape == (2, 5, 7 * CHUNK)
    np.testing.assert_array_equal(batch["action"].reshape(actions.shape), actions)


def test_actions_of_single_steps_are_those_of_batches(single):
    chunked = ChunkedFrames(single, CHUNK)
    batch = chunked.read([[(0, 3), (3, 9)]])
    np.testing.assert_array_equal(chunked.actions(np.arange(9)[None]), batch["action"])


@pytest.mark.parametrize("kind", [WindowSampler, StreamSampler])
def test_samplers_draw_from_chunks(single, kind):
    sampler = kind(ChunkedFrames(single, CHUNK), batch=2, length=3, seed=1)
    batch = sampler.draw()
    assert batch["static"].shape == (2, 3, 16, 16, 3)
    stamps = np.diff(batch["stamp_ns"], axis=1)[~batch["first"][:, 1:]]
    assert set(stamps.tolist()) == {CHUNK * 133_333_333}


def test_a_chunk_of_one_changes_nothing(single):
    assert in_chunks(single, 1) is single
    one = ChunkedFrames(single, 1)
    for name, values in one.read([[(11, 16)]]).items():
        np.testing.assert_array_equal(values, single.read([[(40, 45)]])[name])


def test_chunks_that_no_episode_has_two_of_are_refused(single):
    with pytest.raises(UserError, match="no episode has two chunks of 11 actions, the longest has 20 frames"):
        ChunkedFrames(single, 11)
