"""The data set on disk: written in blocks, read back, refused where it is not what it should be."""

import json
from dataclasses import replace

import numpy as np
import pytest
import zarr

from diwa_conventions.actions import ActionScale
from diwa_conventions.errors import UserError
from diwa_worldmodel.dataset.config import DataSetConfig
from diwa_worldmodel.dataset.records import Annotation, Episode, Source, Statistics
from diwa_worldmodel.dataset.store import create_data_set, open_data_set, open_or_create

CONFIG = DataSetConfig(image_size_px=8)
SOURCE = Source("play 1", "bag", "ab" * 32)
ARRAYS = ("static", "gripper", "proprio", "action", "stamp_ns")


def block(count: int, seed: int = 0, size: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 255, (2, count, size, size, 3), dtype=np.uint8)
    proprio, action = rng.normal(size=(count, 10)), rng.uniform(-1, 1, (count, 7))
    stamps = np.arange(count, dtype=np.int64)
    return dict(zip(ARRAYS, (*images, proprio, action, stamps), strict=True))


def add(data_set, source=SOURCE, count=10, seed=0):
    with data_set.add_recording(source) as writer:
        writer.append(**block(count, seed))
        writer.finish([Episode(0, count)])
    return data_set.find(source)


def test_what_was_written_in_blocks_of_any_length_comes_back(tmp_path):
    data_set = create_data_set(tmp_path / "d", CONFIG)
    blocks = [block(count, seed) for seed, count in enumerate((3, 1, 40, 120))]
    statistics = Statistics(duration_s=9.0, steps=3, warnings=("careful",))
    with data_set.add_recording(SOURCE) as writer:
        for part in blocks:
            writer.append(**part)
        writer.finish([Episode(0, 100), Episode(100, 64)], [Annotation(5, "lift-cube", False, "slipped")], statistics)
    recording = open_data_set(tmp_path / "d").recordings[0]
    for name in ARRAYS:
        expected = np.concatenate([part[name] for part in blocks])
        np.testing.assert_array_equal(getattr(recording, name)[:], expected.astype(getattr(recording, name).dtype))
    assert recording.episodes == (Episode(0, 100), Episode(100, 64))
    assert recording.annotations == (Annotation(5, "lift-cube", False, "slipped"),)
    assert recording.statistics == statistics
    assert recording.source == SOURCE
    assert recording.frames == 164
    assert recording.scene_state is None


def test_frames_beyond_one_file_are_split_into_several(tmp_path, monkeypatch):
    monkeypatch.setattr("diwa_worldmodel.dataset.recording_writer.SHARD_BYTES", 60 * 8 * 8 * 3)
    data_set = create_data_set(tmp_path / "d", CONFIG)
    parts = [block(70, seed) for seed in range(3)]
    with data_set.add_recording(SOURCE) as writer:
        for part in parts:
            writer.append(**part)
        writer.finish([Episode(0, 210)])
    recording = data_set.find(SOURCE)
    np.testing.assert_array_equal(recording.static[:], np.concatenate([part["static"] for part in parts]))
    assert len(list((tmp_path / "d").rglob("static/c/*"))) == 5


def test_the_hash_follows_config_and_content_and_nothing_else(tmp_path):
    first, second = (create_data_set(tmp_path / name, CONFIG) for name in ("a", "b"))
    add(first), add(second)
    assert open_data_set(tmp_path / "a").hash() == open_data_set(tmp_path / "b").hash()
    add(second, replace(SOURCE, hash="cd" * 32))
    assert open_data_set(tmp_path / "a").hash() != open_data_set(tmp_path / "b").hash()
    other = create_data_set(tmp_path / "c", CONFIG)
    add(other, seed=1)
    assert open_data_set(tmp_path / "a").hash() != open_data_set(tmp_path / "c").hash()
    wider = create_data_set(tmp_path / "e", replace(CONFIG, skew_limit_s=0.01))
    add(wider)
    assert open_data_set(tmp_path / "a").hash() != open_data_set(tmp_path / "e").hash()


def test_two_writers_make_byte_equal_files(tmp_path):
    for name in ("a", "b"):
        add(create_data_set(tmp_path / name, CONFIG))
    first, second = (
        {str(path.relative_to(tmp_path / name)): path.read_bytes() for path in (tmp_path / name).rglob("*/c/**/*")
         if path.is_file()} for name in ("a", "b")
    )  # fmt: skip
    assert len(first) == 5
    assert first == second


def test_the_same_source_under_another_name_is_found(tmp_path):
    data_set = create_data_set(tmp_path / "d", CONFIG)
    add(data_set)
    assert data_set.find(replace(SOURCE, name="copy")).id == SOURCE.recording_id
    with pytest.raises(UserError, match="copy is already in"):
        data_set.add_recording(replace(SOURCE, name="copy"))


def test_what_was_not_finished_leaves_nothing(tmp_path):
    data_set = create_data_set(tmp_path / "d", CONFIG)
    with pytest.raises(KeyboardInterrupt), data_set.add_recording(SOURCE) as writer:
        writer.append(**block(5))
        raise KeyboardInterrupt
    assert data_set.find(SOURCE) is None
    assert [path.name for path in (tmp_path / "d" / "recordings").iterdir()] == ["zarr.json"]


def test_what_a_killed_writer_left_is_removed_and_never_read(tmp_path):
    data_set = create_data_set(tmp_path / "d", CONFIG)
    writer = data_set.add_recording(SOURCE)
    writer.append(**block(5))
    assert open_data_set(tmp_path / "d").recordings == ()
    with data_set.writing():
        assert [path.name for path in (tmp_path / "d" / "recordings").iterdir()] == ["zarr.json"]


def test_two_imports_cannot_write_at_once(tmp_path):
    data_set = create_data_set(tmp_path / "d", CONFIG)
    with data_set.writing(), pytest.raises(UserError, match="being written by another import"), data_set.writing():
        pass


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"static": np.zeros((10, 9, 8, 3), np.uint8)}, "static has shape"),
        ({"gripper": np.zeros((10, 8, 8, 3), np.float32)}, "gripper is float32"),
        ({"proprio": np.full((10, 10), np.nan)}, "proprio holds a value that is not finite"),
        ({"action": np.full((10, 7), 1.5)}, r"outside \[-1, 1\]"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, change, what):
    data_set = create_data_set(tmp_path / "d", CONFIG)
    with data_set.add_recording(SOURCE) as writer, pytest.raises(ValueError, match=what):
        writer.append(**{**block(10), **change})


@pytest.mark.parametrize(
    "episodes", [[], [Episode(0, 9)], [Episode(0, 11)], [Episode(1, 9)], [Episode(0, 9), Episode(9, 1)]]
)
def test_episodes_that_do_not_fit_the_frames_are_refused(tmp_path, episodes):
    data_set = create_data_set(tmp_path / "d", CONFIG)
    with data_set.add_recording(SOURCE) as writer:
        writer.append(**block(10))
        with pytest.raises(ValueError, match="episodes"):
            writer.finish(episodes)


def test_a_folder_of_another_version_is_refused(tmp_path):
    create_data_set(tmp_path / "d", CONFIG)
    path = tmp_path / "d" / "zarr.json"
    content = json.loads(path.read_text())
    content["attributes"]["version"] = 2
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="version 2; this software reads 'diwa-dataset' version 1: import its sources"):
        open_data_set(tmp_path / "d")


def test_foreign_folders_are_refused_with_what_they_hold(tmp_path):
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(UserError, match="is not a data set .found: photo.jpg.; expected a folder made by diwa import"):
        open_data_set(tmp_path)
    zarr.create_group(tmp_path / "zarr")
    with pytest.raises(UserError, match="is not a data set"):
        open_data_set(tmp_path / "zarr")
    with pytest.raises(UserError, match="there is no data set"):
        open_data_set(tmp_path / "nothing")
    with pytest.raises(UserError, match="not an empty folder"):
        create_data_set(tmp_path, CONFIG)


def test_another_config_is_refused_by_what_differs(tmp_path):
    create_data_set(tmp_path / "d", CONFIG)
    other = replace(CONFIG, image_size_px=16, scale=ActionScale(0.04, 0.2))
    with pytest.raises(UserError, match="image_size_px 8, not 16; scale .*0.08.*, not .*0.04"):
        open_or_create(tmp_path / "d", other)
    assert open_or_create(tmp_path / "d", CONFIG).config == CONFIG


def test_a_damaged_recording_is_named(tmp_path):
    data_set = create_data_set(tmp_path / "d", CONFIG)
    recording = add(data_set)
    (tmp_path / "d" / "recordings" / recording.id / "zarr.json").write_text("{")
    with pytest.raises(UserError, match=f"{recording.id} cannot be read as a recording"):
        open_data_set(tmp_path / "d")


def test_a_config_survives_json_and_refuses_what_it_does_not_know():
    config = DataSetConfig(image_size_px=96, fit="letterbox", scale=ActionScale(0.05, 0.1))
    assert DataSetConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    with pytest.raises(UserError, match="unknown data set option 'image_size'; did you mean 'image_size_px'"):
        DataSetConfig.from_json({"image_size": 64})
    with pytest.raises(UserError, match="unknown action scale 'metres'"):
        DataSetConfig.from_json({"scale": {"metres": 1}})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_size_px", 7),
        ("image_size_px", 64.0),
        ("skew_limit_s", -0.1),
        ("skew_limit_s", np.nan),
        ("fit", "stretch"),
    ],
)
def test_values_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(UserError, match=name if name != "fit" else "stretch"):
        replace(CONFIG, **{name: value})


def test_load_puts_all_recordings_after_each_other(tmp_path):
    data_set = create_data_set(tmp_path / "d", CONFIG)
    add(data_set, count=10)
    add(data_set, replace(SOURCE, hash="cd" * 32), count=20, seed=1)
    data_set = open_data_set(tmp_path / "d")
    frames = data_set.load()
    assert len(frames.static) == data_set.frames == 30
    assert data_set.steps == 28
    assert frames.episodes == (Episode(0, 10), Episode(10, 20))
    np.testing.assert_array_equal(frames.action[10:], data_set.recordings[1].action[:])
    with pytest.raises(UserError, match="holds no recordings"):
        create_data_set(tmp_path / "empty", CONFIG).load()


@pytest.mark.parametrize("name", ["static", "proprio"])
def test_a_data_set_with_a_missing_file_is_refused_instead_of_read_as_zeros(tmp_path, name):
    path = tmp_path / "d"
    add(create_data_set(path, CONFIG))
    victim = next(file for file in path.glob(f"recordings/*/{name}/c/**/*") if file.is_file())
    victim.unlink()
    with pytest.raises(UserError, match=f"{name} has 0 of its 1 files.*import its source again"):
        open_data_set(path)
