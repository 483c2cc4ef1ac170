"""Where frames are kept, whether their numbers are sound, and what they are normalised with."""

import numpy as np
import pytest
import torch
import zarr
from world_model_samples import small_config, small_data_set

from diwa_conventions.errors import UserError
from diwa_worldmodel.dataset.sampler import StreamSampler
from diwa_worldmodel.dataset.store import open_data_set
from diwa_worldmodel.training import frames as places
from diwa_worldmodel.training.frames import DeviceFrames, image_bytes, normalisation, open_frames, place_of
from diwa_worldmodel.training.split import split_episodes
from diwa_worldmodel.world_model import WorldModel

IMAGES = 240 * 2 * 16 * 16 * 3


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    return small_data_set(tmp_path_factory.mktemp("frames") / "d", scene_state=True)


@pytest.mark.parametrize("place", ["disk", "device"])
def test_batches_are_the_same_from_every_place(data_set, place):
    memory, other = (StreamSampler(open_frames(data_set, one), 3, 16, seed=1) for one in ("memory", place))
    for _ in range(5):
        expected, found = memory.draw(), other.draw()
        assert expected.keys() == found.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(np.asarray(found[name]), values)


def test_images_on_a_device_stay_bytes_and_are_cut_there(data_set):
    batch = DeviceFrames(data_set, torch.device("cpu")).read([[(0, 3), (100, 102)]])
    assert isinstance(batch["static"], torch.Tensor)
    assert batch["static"].dtype == torch.uint8
    np.testing.assert_array_equal(batch["static"][0, 3], data_set.load().static[100])


def test_frames_are_in_memory_while_they_leave_enough_of_it(data_set, monkeypatch):
    assert image_bytes(data_set) == IMAGES
    monkeypatch.setattr(places, "memory_bytes_free", lambda: int(IMAGES / 0.59))
    assert place_of(open_frames(data_set)) == "memory"
    assert place_of(open_frames(data_set, processes=2)) == "disk"
    monkeypatch.setattr(places, "memory_bytes_free", lambda: int(IMAGES / 0.61))
    assert place_of(open_frames(data_set)) == "disk"
    assert place_of(open_frames(data_set, "memory")) == "memory"


def test_frames_that_memory_cannot_hold_are_refused_there(data_set, monkeypatch):
    monkeypatch.setattr(places, "memory_bytes_free", lambda: IMAGES - 1)
    with pytest.raises(UserError, match=r"take 0\.0 GB of memory, 0\.0 GB are free; choose place disk"):
        open_frames(data_set, "memory")


def test_a_gpu_holds_the_frames_if_they_leave_half_of_it(data_set, monkeypatch):
    monkeypatch.setattr(places, "device_bytes_free", lambda device: 2 * IMAGES)
    assert places._choose(IMAGES, torch.device("cuda"), 1) == "device"
    monkeypatch.setattr(places, "device_bytes_free", lambda device: 2 * IMAGES - 1)
    assert places._choose(IMAGES, torch.device("cuda"), 1) == "memory"
    monkeypatch.setattr(places, "device_bytes_free", lambda device: IMAGES - 1)
    with pytest.raises(UserError, match="GB of GPU memory.*choose place memory or disk"):
        open_frames(data_set, "device", torch.device("cuda"))


def test_memory_is_what_the_machine_says_is_available():
    with open("/proc/meminfo") as file:
        total = int(file.readline().split()[1]) * 1024
    assert 0 < places.memory_bytes_free() < total


@pytest.mark.parametrize(
    ("name", "column", "value", "words"),
    [
        ("proprio", 9, np.nan, "proprio gripper_width is nan"),
        ("action", 5, np.inf, "action dyaw is inf"),
        ("scene_state", 2, -np.inf, "scene_state lamp is -inf"),
    ],
)
@pytest.mark.parametrize("place", ["memory", "disk", "device"])
def test_numbers_that_are_none_are_named_with_episode_frame_and_column(tmp_path, place, name, column, value, words):
    recording = small_data_set(tmp_path / "d", scene_state=True).recordings[1]
    array = zarr.open_group(tmp_path / "d" / "recordings" / recording.id, mode="r+")[name]
    spoilt = array[:]
    spoilt[40, column] = value
    array[:] = spoilt
    where = f"recording {recording.id}, episode 1, frame 0 of it .frame 40 of the recording.: {words}"
    with pytest.raises(UserError, match=f"{where}, one of 1 values.*import its source again"):
        open_frames(open_data_set(tmp_path / "d"), place)


def test_normalisation_comes_from_the_episodes_that_are_learned_from(data_set):
    split = split_episodes(data_set, 0.3, seed=0)
    numbers = data_set.load_numbers()
    found = normalisation(numbers, split.training)
    learned = np.concatenate([numbers.proprio[one.start : one.end] for one in split.training]).astype(np.float64)
    np.testing.assert_array_equal(found.proprio.mean, learned.mean(axis=0))
    np.testing.assert_array_equal(found.proprio.std, learned.std(axis=0))
    assert abs(found.proprio.mean - numbers.proprio.mean(axis=0, dtype=np.float64)).max() > 1e-3


def test_a_fitted_world_model_sees_numbers_of_mean_zero_and_deviation_one(data_set):
    numbers = data_set.load_numbers()
    found = normalisation(numbers, data_set.episodes)
    world_model = WorldModel(small_config(scene_state=3).model)
    found.fit(world_model)
    moving = [0, 1, 9]
    seen = world_model.proprio(torch.from_numpy(numbers.proprio))[:, moving]
    torch.testing.assert_close(seen.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(seen.std(0, correction=0), torch.ones(3), atol=1e-4, rtol=0)
    scene = world_model.scene_state(torch.from_numpy(numbers.scene_state))
    torch.testing.assert_close(scene.std(0, correction=0), torch.ones(3), atol=1e-4, rtol=0)
    assert found.to_json()["scene_state"]["mean"] == found.scene_state.mean.tolist()


def test_without_scene_state_only_proprioception_is_normalised(tmp_path):
    numbers = small_data_set(tmp_path / "d").load_numbers()
    found = normalisation(numbers, numbers.episodes)
    assert found.scene_state is None
    assert found.to_json().keys() == {"proprio"}
