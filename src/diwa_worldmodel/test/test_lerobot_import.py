"""LeRobot v3 data sets of others, and what is wrong with them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lerobot_samples import DELTA, FOREIGN_STATE, GRIPPER, STATIC, LeRobotFolder
from scipy.spatial.transform import Rotation

from diwa_conventions.actions import ActionScale, Pose, integrate
from diwa_conventions.errors import UserError
from diwa_worldmodel.dataset.config import DataSetConfig
from diwa_worldmodel.dataset.lerobot_images import VideoFrame, video_images
from diwa_worldmodel.dataset.lerobot_import import import_lerobot
from diwa_worldmodel.dataset.lerobot_layout import Info, LeRobotLayout, check_keys, read_info
from diwa_worldmodel.dataset.lerobot_steps import StepMaker
from diwa_worldmodel.dataset.records import Annotation, Episode
from diwa_worldmodel.dataset.store import Recording, create_data_set

STATE = "observation.state"
FRONT, WRIST = "observation.images.front", "observation.images.wrist"
METRES = {"delta_translation_m": 1.0, "delta_rotation_rad": 1.0}
pytest.importorskip("pyarrow", reason="pyarrow is not installed: make setup EXTRA=lerobot")


def imported(folder: LeRobotFolder | Path, where: Path, **options: Any) -> Recording:
    root = folder if isinstance(folder, Path) else folder.write()
    data_set = create_data_set(where / "imported", DataSetConfig(image_size_px=16))
    return import_lerobot(root, data_set, lambda done, total: None, LeRobotLayout(**{**METRES, **options}))


@pytest.fixture
def folder(tmp_path: Path) -> LeRobotFolder:
    return LeRobotFolder(tmp_path / "foreign")


def test_every_fourth_frame_of_30_per_second_is_taken(folder: LeRobotFolder, tmp_path: Path) -> None:
    recording = imported(folder, tmp_path)
    assert recording.episodes == (Episode(0, 5), Episode(5, 3))
    taken = [0, 4, 8, 12, 16, 17, 21, 25]
    np.testing.assert_array_equal(recording.static[:], np.stack(folder.images[STATIC])[taken])
    np.testing.assert_array_equal(recording.gripper[:], np.stack(folder.images[GRIPPER])[taken])
    np.testing.assert_allclose(recording.proprio[:, :3], folder.state[taken, :3], atol=1e-6)
    np.testing.assert_allclose(recording.proprio[:, 9], folder.state[taken, 6], atol=1e-6)
    np.testing.assert_allclose(np.diff(np.asarray(recording.stamp_ns[:5])), 4e9 / 30, atol=1)


@pytest.mark.parametrize(("fps", "frames"), [(7.5, 17), (15, 9), (30, 5), (60, 3)])
def test_rates_that_are_multiples_of_the_step_are_thinned_to_it(tmp_path: Path, fps: float, frames: int) -> None:
    recording = imported(LeRobotFolder(tmp_path / "foreign", (17,), fps), tmp_path)
    assert recording.frames == frames


@pytest.mark.parametrize("fps", [10, 50, 7, 20, 0, -30, None, "30", float("nan")])
def test_other_rates_are_refused(tmp_path: Path, fps: Any) -> None:
    with pytest.raises(UserError, match=r"frames per second; expected a multiple of 7\.5"):
        imported(LeRobotFolder(tmp_path / "foreign", (17,), fps), tmp_path)


def test_merged_deltas_move_as_far_as_the_single_ones(folder: LeRobotFolder, tmp_path: Path) -> None:
    recording = imported(folder, tmp_path)
    single = ActionScale(1.0, 1.0)
    pose = merged = Pose(np.zeros(3), np.eye(3))
    for action in folder.action.astype(np.float32).astype(np.float64)[:16]:
        pose = integrate(pose, action, single)
    for action in np.asarray(recording.action[:4], np.float64):
        merged = integrate(merged, action, ActionScale())
    assert pose.distance_m(merged) < 1e-6
    assert pose.angle_rad(merged) < 1e-6


def test_the_gripper_is_that_at_the_end_of_the_step_and_kept_at_the_last_frame(
    folder: LeRobotFolder, tmp_path: Path
) -> None:
    recording = imported(folder, tmp_path)
    ends = folder.action[[3, 7, 11, 15, 15], 6]
    np.testing.assert_array_equal(recording.action[:5, 6], ends)
    np.testing.assert_array_equal(recording.action[4, :6], np.zeros(6))


def test_gripper_commands_of_zero_to_one_where_one_closes(folder: LeRobotFolder, tmp_path: Path) -> None:
    folder.action[:, 6] = np.arange(26) % 8 < 4
    recording = imported(folder, tmp_path, gripper_threshold=0.5, gripper_inverted=True)
    np.testing.assert_array_equal(recording.action[:4, 6], [-1.0, 1.0, -1.0, 1.0])


def test_absolute_actions_become_differences_of_commands(folder: LeRobotFolder, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folder.action = np.cumsum(rng.uniform(-0.01, 0.01, (26, 7)), axis=0)
    folder.action_names = ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]
    folder.state[:, :6] = np.concatenate([np.zeros((1, 6)), folder.action[:-1, :6]])
    recording = imported(folder, tmp_path, actions="absolute")
    pose = Pose(np.zeros(3), np.eye(3))
    for step in range(4):
        pose = integrate(pose, np.asarray(recording.action[step], np.float64), ActionScale())
        command = folder.action[4 * step + 3]
        reached = Pose(command[:3], Rotation.from_euler("xyz", command[3:6]).as_matrix())
        assert pose.distance_m(reached) < 1e-6
        assert pose.angle_rad(reached) < 1e-6


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (("qx", "qy", "qz", "qw"), lambda turn: turn.as_quat()),
        (("wx", "wy", "wz"), lambda turn: turn.as_rotvec()),
        (("roll", "pitch", "yaw"), lambda turn: turn.as_euler("xyz")),
        (tuple(f"rotation_6d_{i}" for i in range(6)), lambda turn: turn.as_matrix()[:, :, :2].transpose(0, 2, 1)),
    ],
)
def test_rotations_are_understood_by_the_names_of_their_columns(
    folder: LeRobotFolder, tmp_path: Path, names: tuple[str, ...], columns: Any
) -> None:
    turns = Rotation.random(26, random_state=3)
    rotation = columns(turns).reshape(26, -1)
    folder.state = np.concatenate([folder.state[:, :3], rotation, folder.state[:, 6:]], axis=1)
    folder.state_names = {"motors": ["x", "y", "z", *names, "gripper_width"]}
    recording = imported(folder, tmp_path)
    matrices = turns.as_matrix()[[0, 4, 8]]
    np.testing.assert_allclose(recording.proprio[:3, 3:6], matrices[:, :, 0], atol=1e-5)
    np.testing.assert_allclose(recording.proprio[:3, 6:9], matrices[:, :, 1], atol=1e-5)


def test_columns_without_names_are_named_by_the_option(folder: LeRobotFolder, tmp_path: Path) -> None:
    folder.state_names = None
    names = ("x", "y", "z", "roll", "pitch", "yaw", "gripper_width")
    recording = imported(folder, tmp_path, state_names=names)
    np.testing.assert_allclose(recording.proprio[0, :3], folder.state[0, :3], atol=1e-6)


def test_other_keys_are_mapped(folder: LeRobotFolder, tmp_path: Path) -> None:
    folder.images = dict(zip((FRONT, WRIST), folder.images.values(), strict=True))
    recording = imported(folder, tmp_path, static_key=FRONT, gripper_key=WRIST)
    np.testing.assert_array_equal(recording.static[0], folder.images[FRONT][0])
    np.testing.assert_array_equal(recording.gripper[0], folder.images[WRIST][0])


def test_keys_that_are_not_there_are_answered_with_those_that_are(folder: LeRobotFolder, tmp_path: Path) -> None:
    folder.images = dict(zip((FRONT, WRIST), folder.images.values(), strict=True))
    with pytest.raises(UserError, match=r"found: observation\.images\.front, .*wrist; .*--lerobot\.static-key"):
        imported(folder, tmp_path)


def test_columns_that_are_not_understood_are_listed(folder: LeRobotFolder, tmp_path: Path) -> None:
    folder.state_names = [f"joint_{i}" for i in range(7)]
    with pytest.raises(UserError, match=r"no column x, y, z, gripper_width; found: joint_0 .*--lerobot\.state-names"):
        imported(folder, tmp_path)


def test_deltas_of_unknown_size_are_refused(folder: LeRobotFolder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not say how far a delta of 1.0 moves"):
        imported(folder, tmp_path, delta_translation_m=None, delta_rotation_rad=None)


def test_frames_of_videos_are_those_of_their_episode(folder: LeRobotFolder, tmp_path: Path) -> None:
    folder.videos = True
    shades = [np.full((16, 16, 3), 9 * i, np.uint8) for i in range(26)]
    folder.images = {STATIC: shades, GRIPPER: shades}
    recording = imported(folder, tmp_path)
    means = np.asarray(recording.static[:]).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(means, [9 * i for i in (0, 4, 8, 12, 16, 17, 21, 25)], atol=3)


def test_success_becomes_a_mark_and_an_episode_without_it_a_failed_attempt(
    folder: LeRobotFolder, tmp_path: Path
) -> None:
    folder.columns["next.success"] = [i == 10 for i in range(26)]
    marks = imported(folder, tmp_path).annotations
    assert marks == (Annotation(3, "open the drawer", True), Annotation(7, "open the drawer", False))


def test_without_success_marks_are_made_on_request_only(folder: LeRobotFolder, tmp_path: Path) -> None:
    folder.write()
    assert imported(folder.root, tmp_path / "a").annotations == ()
    marks = imported(folder.root, tmp_path / "b", episodes_succeed=True).annotations
    assert [mark.frame for mark in marks] == [4, 7]


def test_actions_beyond_the_scale_are_clipped_and_counted(folder: LeRobotFolder, tmp_path: Path) -> None:
    folder.action[:4, 0] = 0.05
    folder.action[17:21, 4] = -0.1
    recording = imported(folder, tmp_path)
    assert recording.action[0, 0] == 1.0
    assert recording.statistics.saturated == {"translation": 1, "rotation": 1}
    assert recording.statistics.steps == 6


def test_episodes_of_one_step_are_left_out_with_a_warning(tmp_path: Path) -> None:
    recording = imported(LeRobotFolder(tmp_path / "foreign", (9, 4, 0, 9)), tmp_path)
    assert recording.episodes == (Episode(0, 3), Episode(3, 3))
    assert "episode 1 is too short: 4 frames" in recording.statistics.warnings


def test_the_same_source_is_not_written_twice_and_another_reading_of_it_is_another(
    folder: LeRobotFolder, tmp_path: Path
) -> None:
    folder.write()
    data_set = create_data_set(tmp_path / "imported", DataSetConfig(image_size_px=16))
    calls: list[int] = []
    first = import_lerobot(folder.root, data_set, lambda done, total: calls.append(done), LeRobotLayout(**METRES))
    assert calls[-1] == first.frames
    calls.clear()
    again = import_lerobot(folder.root, data_set, lambda done, total: calls.append(done), LeRobotLayout(**METRES))
    assert again.id == first.id
    assert not calls
    other = LeRobotLayout(**METRES, gripper_inverted=True)
    assert import_lerobot(folder.root, data_set, lambda done, total: None, other).id != first.id


@pytest.mark.parametrize(
    ("version", "expected"), [("v2.1", "convert_dataset_v21_to_v30"), ("v2.0", "convert"), ("v4.0", "expected v3.0")]
)
def test_other_versions_are_refused_with_the_way_out(
    folder: LeRobotFolder, tmp_path: Path, version: str, expected: str
) -> None:
    folder.info["codebase_version"] = version
    with pytest.raises(UserError, match=f"format {version}.*{expected}"):
        imported(folder, tmp_path)


def test_a_folder_that_is_no_lerobot_data_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"not a LeRobot data set \(found: cat\.png\)"):
        imported(tmp_path / "photos", tmp_path)


@pytest.mark.parametrize(
    "name", ["data/chunk-000/file-000.parquet", "meta/tasks.parquet", "meta/episodes/chunk-000/file-000.parquet"]
)
@pytest.mark.parametrize("damage", ["cut", "garbage", "missing"])
def test_damaged_files_are_named(folder: LeRobotFolder, tmp_path: Path, name: str, damage: str) -> None:
    path = folder.write() / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"x" * 100)
    with pytest.raises(UserError, match=f"{path.name}|no episodes"):
        imported(folder.root, tmp_path)


def test_a_missing_video_is_named(folder: LeRobotFolder, tmp_path: Path) -> None:
    folder.videos = True
    folder.write()
    (folder.root / f"videos/{STATIC}/chunk-000/file-000.mp4").write_bytes(b"no film")
    with pytest.raises(UserError, match=r"video .*file-000\.mp4 cannot be opened"):
        imported(folder.root, tmp_path)


def test_an_image_that_cannot_be_decoded_is_named(folder: LeRobotFolder, tmp_path: Path) -> None:
    folder.columns[STATIC] = [{"bytes": b"no picture", "path": None}] * 26
    del folder.images[STATIC]
    folder.info["features"] = {**LeRobotFolder(tmp_path).metadata()["features"]}
    with pytest.raises(UserError, match="row 0 of observation.images.static"):
        imported(folder, tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_states_that_are_not_finite_are_refused(folder: LeRobotFolder, tmp_path: Path, value: float) -> None:
    folder.state[7, 2] = value
    with pytest.raises(UserError, match="observation.state of row 7 is not finite"):
        imported(folder, tmp_path)


def test_quaternions_that_are_none_are_refused(folder: LeRobotFolder, tmp_path: Path) -> None:
    folder.state = np.concatenate([folder.state[:, :3], np.full((26, 4), 0.7), folder.state[:, 6:]], axis=1)
    folder.state_names = ["x", "y", "z", "qx", "qy", "qz", "qw", "gripper_width"]
    with pytest.raises(UserError, match="episode 0 of foreign holds a quaternion of length 1.4"):
        imported(folder, tmp_path)


def test_a_count_of_frames_that_is_not_true_is_refused(folder: LeRobotFolder, tmp_path: Path) -> None:
    folder.write()
    other = LeRobotFolder(tmp_path / "other", (17, 8)).write()
    episodes = "meta/episodes/chunk-000/file-000.parquet"
    (folder.root / episodes).write_bytes((other / episodes).read_bytes())
    with pytest.raises(UserError, match="holds 9 frames of episode 1; meta/episodes says 8"):
        imported(folder.root, tmp_path)


def test_nothing_remains_of_an_import_that_failed(folder: LeRobotFolder, tmp_path: Path) -> None:
    folder.state[7, 2] = np.nan
    with pytest.raises(UserError):
        imported(folder, tmp_path)
    names = [path.name for path in (tmp_path / "imported" / "recordings").iterdir()]
    assert names == ["zarr.json"]


def test_without_pyarrow_the_command_that_installs_it_is_named(
    folder: LeRobotFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match="make setup EXTRA=lerobot"):
        imported(folder.root, tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        '{"codebase_version": "v3.0"}',
        '{"codebase_version": "v3.0", "fps": 30, "features": {}}',
        '{"codebase_version": "v3.0", "fps": 30, "features": {}, "data_path": "data"}',
    ],
)
def test_metadata_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "foreign" / "meta").mkdir(parents=True)
    (tmp_path / "foreign" / "meta" / "info.json").write_text(content)
    with pytest.raises(UserError, match="foreign"):
        imported(tmp_path / "foreign", tmp_path)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["shape", "names", "dtype"]), inner),
    max_leaves=6,
)


@given(
    key=st.sampled_from(["codebase_version", "fps", "features", "data_path", "video_path", STATE, STATIC]), value=_JSON
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_metadata_says_is_understood_or_refused(tmp_path: Path, key: str, value: Any) -> None:
    folder = LeRobotFolder(tmp_path / "foreign")
    content = folder.metadata()
    (content["features"] if key in content["features"] else content)[key] = value
    (tmp_path / "foreign" / "meta").mkdir(parents=True, exist_ok=True)
    (tmp_path / "foreign" / "meta" / "info.json").write_text(json.dumps(content))
    layout = LeRobotLayout(**METRES)
    try:
        info = read_info(tmp_path / "foreign")
        check_keys(info, layout)
        StepMaker(info, layout, None, ActionScale())
    except UserError:
        return
    assert info.stride >= 1


@given(seed=st.integers(0, 2**31), stride=st.sampled_from([1, 2, 4, 8]), size=st.floats(1e-6, 0.2))
@settings(max_examples=30, deadline=None)
def test_merging_deltas_of_any_size_loses_no_motion(seed: int, stride: int, size: float) -> None:
    count = 4 * stride + 1
    deltas = np.random.default_rng(seed).uniform(-size, size, (count, 7))
    scale = ActionScale(10.0, 10.0)
    vector = {"dtype": "float32", "shape": [7]}
    features = {STATE: {**vector, "names": list(FOREIGN_STATE)}, "action": {**vector, "names": list(DELTA)}}
    maker = StepMaker(Info(Path("any"), 7.5 * stride, features, "", ""), LeRobotLayout(**METRES), None, scale)
    steps = maker.steps(np.zeros((count, 7)), deltas)
    pose = merged = Pose(np.zeros(3), np.eye(3))
    for delta in deltas[: 4 * stride]:
        pose = integrate(pose, delta, ActionScale(1.0, 1.0))
    for action in steps.action[:4].astype(np.float64):
        merged = integrate(merged, action, scale)
    assert pose.distance_m(merged) < 1e-5
    assert pose.angle_rad(merged) < 1e-5


def test_options_out_of_range_are_refused() -> None:
    for wrong in ({"actions": "relative"}, {"delta_translation_m": 0.0}, {"gripper_threshold": float("nan")}):
        with pytest.raises(UserError, match="expected|known"):
            LeRobotLayout(**wrong)  # type: ignore[arg-type]


def test_the_options_are_part_of_the_provenance(folder: LeRobotFolder, tmp_path: Path) -> None:
    source = imported(folder, tmp_path).source
    assert (source.kind, source.name) == ("lerobot", "foreign")
    assert json.loads(json.dumps(source.options)) == {"delta_translation_m": "1.0", "delta_rotation_rad": "1.0"}


# Inputs that others have


def absolute(folder: LeRobotFolder) -> LeRobotFolder:
    """Actions are poses, close to the measured ones."""
    folder.action = np.concatenate([folder.state[:, :6] + 0.001, folder.action[:, 6:]], axis=1)
    folder.action_names = [*folder.state_names[:6], "gripper"]
    return folder


@pytest.mark.parametrize(
    ("closed", "opened", "words"),
    [(0.0, 1.0, "a fraction from 0 to 1"), (0.0, 0.08, "a width in metres"), (0.0, 80.0, "a width in millimetres")],
)
def test_gripper_commands_of_another_scale_are_refused_and_read_by_an_option(
    folder: LeRobotFolder, tmp_path: Path, closed: float, opened: float, words: str
) -> None:
    signs = folder.action[:, 6].copy()
    absolute(folder).action[:, 6] = np.where(signs > 0, opened, closed)
    with pytest.raises(UserError, match=f"{words}: say --lerobot.gripper-threshold {opened / 2:g}"):
        imported(folder, tmp_path, actions="absolute")
    recording = imported(folder.root, tmp_path / "again", actions="absolute", gripper_threshold=opened / 2)
    np.testing.assert_array_equal(recording.action[:4, 6], signs[[3, 7, 11, 15]])


@pytest.mark.parametrize(
    ("column", "factor", "words", "options"),
    [
        (slice(0, 3), 1000.0, "millimetres: say --lerobot.position-scale 0.001", {"position_scale": 0.001}),
        (slice(3, 6), 180 / np.pi, "looks like degrees: say --lerobot.angles deg", {"angles": "deg"}),
        (slice(6, 7), 1000.0, "millimetres: say --lerobot.width-scale 0.001", {"width_scale": 0.001}),
    ],
)
def test_states_of_another_unit_are_refused_and_read_by_an_option(
    folder: LeRobotFolder, tmp_path: Path, column: slice, factor: float, words: str, options: dict[str, Any]
) -> None:
    right = imported(absolute(folder), tmp_path / "right", actions="absolute")
    other = absolute(LeRobotFolder(tmp_path / "other"))
    other.state[:, column] *= factor
    if column.start < 6:
        other.action[:, column] *= factor
    if column.start == 3:
        other.state[0, 3] += 720.0  # degrees of a turn, so that there is one beyond what radians reach
    with pytest.raises(UserError, match=words):
        imported(other, tmp_path / "wrong", actions="absolute")
    found = imported(other.root, tmp_path / "again", actions="absolute", **options)
    np.testing.assert_allclose(found.proprio[:], right.proprio[:], atol=1e-5)
    np.testing.assert_allclose(found.action[:], right.action[:], atol=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data/chunk_index": [0.0, 0.0], "data/file_index": [0.0, 0.0], "length": [17.0, 9.0]}, ""),
        ({"data/file_index": [0.0, float("nan")]}, "episode 1 has data/file_index nan in meta/episodes"),
        ({"length": [17.0, None]}, "episode 1 has length nan|episode 1 has length None"),
        ({"episode_index": [0.0, 0.5]}, "has episode_index 0.5"),
    ],
)
def test_whole_numbers_stored_as_floats_are_read_and_others_named(
    folder: LeRobotFolder, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    import pyarrow.parquet as parquet

    root = folder.write()
    (file,) = (root / "meta" / "episodes").glob("*/*.parquet")
    table = parquet.read_table(file)
    for name, values in change.items():
        table = table.set_column(table.column_names.index(name), name, [values])
    parquet.write_table(table, file)
    if words:
        with pytest.raises(UserError, match=words):
            imported(root, tmp_path)
    else:
        assert imported(root, tmp_path).episodes == (Episode(0, 5), Episode(5, 3))


def test_of_film_frames_the_nearest_one_is_taken(tmp_path: Path) -> None:
    """Stamps are 0.4 of a period off, to either side."""
    from fractions import Fraction

    import av

    for shift in (-0.4, 0.4):
        file = tmp_path / f"film{shift}.mp4"
        with av.open(str(file), "w") as film:
            stream = film.add_stream("libx264", rate=30, options={"crf": "0", "bf": "0"})
            stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv444p"
            stream.time_base = stream.codec_context.time_base = Fraction(1, 300)
            for number in range(20):
                picture = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 10 * number, np.uint8), format="rgb24")
                picture.pts, picture.time_base = round(10 * (number + 1 + shift)), Fraction(1, 300)
                film.mux(stream.encode(picture))
            film.mux(stream.encode())
        moments = [VideoFrame(file, (number + 1) / 30) for number in (2, 3, 7, 15)]
        found = [round(float(image.mean()) / 10) for image in video_images(moments, 30.0)]
        assert found == [2, 3, 7, 15], shift
