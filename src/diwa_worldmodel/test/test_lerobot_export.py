"""Our data sets out through LeRobot's own class, and back; skipped where the extra is not installed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diwa_conventions.actions import ActionScale
from diwa_conventions.errors import UserError
from diwa_worldmodel.dataset import lerobot_layout as layouts
from diwa_worldmodel.dataset.config import DataSetConfig
from diwa_worldmodel.dataset.exporting import Export
from diwa_worldmodel.dataset.lerobot_export import episode_tasks, export_lerobot, lerobot_class
from diwa_worldmodel.dataset.lerobot_import import import_lerobot
from diwa_worldmodel.dataset.records import Annotation, Episode, Source
from diwa_worldmodel.dataset.store import DataSet, Recording, create_data_set, open_data_set

needs_extra = pytest.mark.skipif(
    importlib.util.find_spec("ledataset") is None, reason="LeRobot is not installed: make setup EXTRA=lerobot"
)
SIZE = 24
ARRAYS = ("static", "gripper", "proprio", "action", "stamp_ns")
MARKS = (
    Annotation(3, "open_drawer", True),
    Annotation(9, "turn_on_led", False, note="slipped: äöü"),
    Annotation(9, "open_drawer", True),
    Annotation(12, "close_drawer", True),
)


@pytest.fixture(autouse=True, scope="module")
def caches_in_a_folder_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """LeRobot caches what it reads below the home folder."""
    os.environ["HF_HOME"] = str(tmp_path_factory.mktemp("cache"))


def _proprio(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 10) positions and widths that an arm can have; the rotations are any numbers."""
    columns = (rng.uniform(-0.6, 0.6, (count, 3)), rng.normal(size=(count, 6)), rng.uniform(0.0, 0.08, (count, 1)))
    return np.concatenate(columns, axis=1).astype(np.float32)


def add(
    data_set: DataSet, name: str, lengths: tuple[int, ...], marks: tuple[Annotation, ...] = (), scene: bool = True
) -> None:
    count = sum(lengths)
    rng = np.random.default_rng(count)
    states = rng.normal(size=(count, 3)).astype(np.float32) if scene else None
    with data_set.add_recording(Source(name, "bag", name * 4), ("drawer", "slider", "led") if scene else ()) as writer:
        writer.append(
            rng.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8),
            rng.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8),
            _proprio(rng, count),
            np.concatenate([rng.uniform(-1, 1, (count, 6)), rng.choice([-1.0, 1.0], (count, 1))], axis=1),
            1_700_000_000_123_456_789 + np.arange(count) * 133_333_333,
            states,
        )
        starts = np.cumsum((0, *lengths))
        writer.finish([Episode(int(start), length) for start, length in zip(starts, lengths, strict=False)], marks)


def make(path: Path, **config: Any) -> DataSet:
    data_set = create_data_set(path, DataSetConfig(image_size_px=SIZE, **config))
    add(data_set, "bag-a", (8, 5), MARKS)
    add(data_set, "bag-b", (6,))
    return open_data_set(path)


def exported(data_set: DataSet, out: Path) -> Path:
    export_lerobot(data_set, out, lambda done, total: None)
    return out


def back(root: Path, where: Path, **config: Any) -> Recording:
    data_set = create_data_set(where, DataSetConfig(image_size_px=SIZE, **config))
    return import_lerobot(root, data_set, lambda done, total: None)


@pytest.fixture(scope="module")
def round_trip(tmp_path_factory: pytest.TempPathFactory) -> tuple[DataSet, Path, Recording]:
    where = tmp_path_factory.mktemp("round_trip")
    data_set = make(where / "ours")
    root = exported(data_set, where / "theirs")
    return data_set, root, back(root, where / "again")


@needs_extra
@pytest.mark.parametrize("name", [*ARRAYS, "scene_state"])
def test_arrays_come_back_byte_for_byte(round_trip: tuple[DataSet, Path, Recording], name: str) -> None:
    data_set, _, recording = round_trip
    expected = np.concatenate([np.asarray(getattr(item, name)[:]) for item in data_set.recordings])
    found = np.asarray(getattr(recording, name)[:])
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@needs_extra
def test_episodes_and_marks_come_back(round_trip: tuple[DataSet, Path, Recording]) -> None:
    _, _, recording = round_trip
    assert recording.episodes == (Episode(0, 8), Episode(8, 5), Episode(13, 6))
    assert recording.annotations == MARKS
    assert recording.scene_state_names == ("drawer", "slider", "led")


@needs_extra
def test_lerobot_reads_what_was_written(round_trip: tuple[DataSet, Path, Recording]) -> None:
    data_set, root, _ = round_trip
    theirs = lerobot_class()("diwa/theirs", root=root, video_backend="pyav")
    assert (theirs.fps, theirs.num_episodes, len(theirs)) == (7.5, 3, 19)
    assert theirs.meta.robot_type == "panda"
    item = theirs[9]
    first = data_set.recordings[0]
    image = (item[layouts.STATIC_KEY].permute(1, 2, 0).numpy() * 255.0).round().astype(np.uint8)
    np.testing.assert_array_equal(image, first.static[9])
    np.testing.assert_array_equal(item["action"].numpy(), first.action[9])
    assert item["timestamp"].item() == pytest.approx(1 / 7.5)
    assert item["task"] == "turn_on_led"
    success = [bool(theirs[index]["next.success"]) for index in range(13)]
    assert [index for index, value in enumerate(success) if value] == [2, 8, 11]


@needs_extra
def test_windows_in_time_work_at_seven_and_a_half_per_second(round_trip: tuple[DataSet, Path, Recording]) -> None:
    data_set, root, _ = round_trip
    spread = {"action": [0.0, 1 / 7.5, 2 / 7.5]}
    theirs = lerobot_class()("diwa/theirs", root=root, video_backend="pyav", delta_timestamps=spread)
    np.testing.assert_array_equal(theirs[2]["action"].numpy(), data_set.recordings[0].action[2:5])


@needs_extra
def test_another_scale_converts_actions(tmp_path: Path) -> None:
    data_set = make(tmp_path / "ours")
    recording = back(exported(data_set, tmp_path / "theirs"), tmp_path / "again", scale=ActionScale(0.16, 0.8))
    expected = np.asarray(data_set.recordings[0].action[:7, :3]) / 2.0
    np.testing.assert_allclose(recording.action[:7, :3], expected, atol=1e-6)


@needs_extra
def test_scene_states_that_not_all_recordings_have_stay_behind(tmp_path: Path) -> None:
    data_set = create_data_set(tmp_path / "ours", DataSetConfig(image_size_px=SIZE))
    add(data_set, "bag-a", (3,))
    add(data_set, "bag-b", (2,), scene=False)
    recording = back(exported(open_data_set(tmp_path / "ours"), tmp_path / "theirs"), tmp_path / "again")
    assert recording.scene_state is None
    assert recording.frames == 5


@needs_extra
def test_nothing_is_left_of_an_export_that_failed(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 10:
            raise KeyboardInterrupt

    data_set = make(tmp_path / "ours")
    with pytest.raises(KeyboardInterrupt):
        export_lerobot(data_set, tmp_path / "theirs", stop)
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


@needs_extra
def test_the_command_writes_and_says_what(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "ours")
    assert Export(tmp_path / "ours", tmp_path / "theirs").run() == 0
    assert "3 episodes, 19 frames" in capsys.readouterr().out
    with pytest.raises(UserError, match="theirs exists already"):
        Export(tmp_path / "ours", tmp_path / "theirs").run()


@needs_extra
def test_the_home_folder_stays_as_it_is(tmp_path: Path) -> None:
    make(tmp_path / "ours")
    home = tmp_path / "home"
    home.mkdir()
    code = (
        "import sys; from pathlib import Path; from diwa_worldmodel.dataset.exporting import Export;"
        "sys.exit(Export(Path(sys.argv[1]), Path(sys.argv[2])).run())"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_"))}
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "ours"), str(tmp_path / "theirs")],
        env={**environment, "HOME": str(home)},
        check=True,
        timeout=120,
    )
    assert not list(home.rglob("*"))


def test_without_the_extra_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_set = make(tmp_path / "ours")
    monkeypatch.setitem(sys.modules, "ledataset.datasets.lerobot_dataset", None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="make setup EXTRA=lerobot"):
        exported(data_set, tmp_path / "theirs")


def test_an_empty_data_set_and_one_into_itself_are_refused(tmp_path: Path) -> None:
    create_data_set(tmp_path / "ours", DataSetConfig())
    with pytest.raises(UserError, match="holds no recordings"):
        Export(tmp_path / "ours", tmp_path / "theirs").run()
    with pytest.raises(UserError, match="is the data set itself"):
        Export(tmp_path / "ours", tmp_path / "ours").run()


def test_frames_before_a_mark_belong_to_the_attempt_and_others_to_play() -> None:
    marks = (Annotation(14, "open", True), Annotation(16, "close", False), Annotation(40, "other episode", True))
    assert episode_tasks(Episode(10, 10), marks) == ["open"] * 5 + ["close"] * 2 + ["play"] * 3


def test_attempts_are_ten_seconds_at_most() -> None:
    tasks = episode_tasks(Episode(0, 100), (Annotation(90, "open", True),))
    assert tasks.index("open") == 15
    assert tasks.count("play") == 24


@needs_extra
def test_a_damaged_array_is_named_and_leaves_nothing_behind(tmp_path: Path) -> None:
    data_set = make(tmp_path / "play")
    (file,) = (item for item in (tmp_path / "play/recordings").glob("bag-b*/static/c/**/*") if item.is_file())
    file.write_bytes(b"\0" * file.stat().st_size)
    with pytest.raises(UserError, match="static cannot be read .* import its source again"):
        exported(data_set, tmp_path / "out")
    assert [item.name for item in tmp_path.iterdir()] == ["play"]
