"""CALVIN folders: frames, actions, annotations, and everything that can be wrong with one."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from diwa_conventions.actions import ActionScale, Pose, difference, euler_to_matrix
from diwa_conventions.errors import UserError
from diwa_worldmodel.dataset import calvin
from diwa_worldmodel.dataset.config import DataSetConfig
from diwa_worldmodel.dataset.plausible import GripperOptions
from diwa_worldmodel.dataset.records import Annotation, Episode
from diwa_worldmodel.dataset.store import create_data_set

CONFIG = DataSetConfig(image_size_px=16)
SLICE = Path(__file__).resolve().parents[4] / "shared" / "data" / "calvin_slice"
ROLL = 3.1
"""Near pi, as CALVIN's: its wrap-around must not show."""


def pose_at(number: int) -> np.ndarray:
    """(6,) of frame ``number`` of the split that :func:`make_split` makes."""
    roll = ROLL + 0.01 * number
    wrapped = (roll + np.pi) % (2 * np.pi) - np.pi
    return np.array([0.002 * number, -0.001 * number, 0.3, wrapped, 0.1, -0.2])


def make_split(path: Path, segments=((0, 20), (31, 40)), windows=((1, 9, "turn_on_led"),), **changes) -> Path:
    """A split folder; ``changes`` replace arrays of every frame."""
    (path / "lang_annotations").mkdir(parents=True)
    np.save(path / "ep_start_end_ids.npy", np.array(segments))
    for first, last in segments:
        for number in range(first, last + 1):
            grip = 1.0 if number < 10 else -1.0
            frame = {
                "rgb_static": np.full((200, 200, 3), number, np.uint8),
                "rgb_gripper": np.full((84, 84, 3), number + 100, np.uint8),
                "robot_obs": np.concatenate([pose_at(number), [0.08], np.zeros(7), [grip]]),
                "scene_obs": np.arange(24.0) + number,
                "actions": np.append(pose_at(number + 1), grip),
            }
            frame |= changes
            np.savez(path / f"episode_{number:07d}.npz", **{key: a for key, a in frame.items() if a is not None})
    language = {"task": [task for *_, task in windows], "ann": ["do it"] * len(windows)}
    content = {"info": {"indx": [(first, last) for first, last, _ in windows], "episodes": []}, "language": language}
    np.save(path / "lang_annotations" / "auto_lang_ann.npy", content)
    return path


@pytest.fixture
def data_set(tmp_path):
    return create_data_set(tmp_path / "data_set", CONFIG)


def test_every_fourth_frame_of_each_segment_is_a_frame(tmp_path, data_set):
    recording = calvin.import_calvin(make_split(tmp_path / "lab" / "training"), data_set)
    assert recording.episodes == (Episode(0, 6), Episode(6, 3))
    assert recording.static[:, 0, 0, 0].tolist() == [0, 4, 8, 12, 16, 20, 31, 35, 39]
    assert recording.gripper[:, 3, 3, 1].tolist() == [100, 104, 108, 112, 116, 120, 131, 135, 139]
    np.testing.assert_array_equal(recording.scene_state[:, 0], [0, 4, 8, 12, 16, 20, 31, 35, 39])
    assert len(recording.scene_state_names) == 24
    assert recording.source.name == "lab_training"


def test_an_action_leads_from_the_command_in_force_at_a_frame_to_that_at_the_next(tmp_path, data_set):
    recording = calvin.import_calvin(make_split(tmp_path / "training"), data_set)
    before, after = (Pose(p[:3], euler_to_matrix(p[3:])) for p in (pose_at(4), pose_at(8)))
    expected = difference(before, after, ActionScale())
    np.testing.assert_allclose(recording.action[1, :6], expected, atol=1e-6)
    np.testing.assert_allclose(expected[:3], [0.1, -0.05, 0.0], atol=1e-9)
    # At frame 12 the command in force is actions[11], the first that closes is actions[10].
    assert recording.action[:6, 6].tolist() == [1.0, 1.0, -1.0, -1.0, -1.0, -1.0]
    np.testing.assert_array_equal(recording.action[5, :6], 0.0)


def test_the_end_of_an_annotated_window_is_a_success(tmp_path, data_set):
    windows = ((1, 9, "turn_on_led"), (32, 40, "push_blue_block_left"), (2, 25, "open_drawer"))
    recording = calvin.import_calvin(make_split(tmp_path / "training", windows=windows), data_set)
    assert recording.annotations == (Annotation(2, "turn-on-LED", True), Annotation(8, "push-blue-block-left", True))
    assert recording.statistics.annotations_left_out == 1


def test_segments_too_short_for_a_step_are_left_out_and_counted(tmp_path, data_set):
    recording = calvin.import_calvin(
        make_split(tmp_path / "training", segments=((0, 3), (10, 14)), windows=()), data_set
    )
    assert recording.episodes == (Episode(0, 2),)
    assert recording.statistics.frames_left_out["gap"] == 1


def test_the_same_split_again_changes_nothing_and_a_changed_one_is_another(tmp_path, data_set):
    split = make_split(tmp_path / "training")
    first = calvin.import_calvin(split, data_set)
    assert calvin.import_calvin(split, data_set).id == first.id
    shutil.move(split, tmp_path / "renamed")
    assert calvin.import_calvin(tmp_path / "renamed", data_set).id == first.id
    frame = dict(np.load(tmp_path / "renamed" / "episode_0000013.npz"))
    frame["rgb_static"][5, 5] = 0
    np.savez(tmp_path / "renamed" / "episode_0000013.npz", **frame)
    assert calvin.import_calvin(tmp_path / "renamed", data_set).id != first.id


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"actions": None}, r"episode_0000003.npz has no actions; it has .*rgb_static"),
        ({"robot_obs": np.zeros(14)}, r"robot_obs is float64 \(14,\); expected floating \(15,\)"),
        ({"rgb_static": np.zeros((200, 200, 3))}, r"rgb_static is float64 \(200, 200, 3\); expected uint8"),
        ({"rgb_gripper": np.zeros((200, 200, 3), np.uint8)}, r"rgb_gripper is uint8 .*expected uint8 \(84, 84, 3\)"),
        ({"actions": np.full(7, np.nan)}, "actions holds a value that is not finite"),
        ({"scene_obs": np.array([None] * 24)}, "cannot be read .*Object arrays cannot be loaded"),
    ],
)
def test_wrong_keys_shapes_and_types_are_named(tmp_path, data_set, changes, told):
    split = make_split(tmp_path / "training", segments=((0, 8),), **changes)
    with pytest.raises(UserError, match=told):
        calvin.import_calvin(split, data_set)
    assert data_set.recordings == ()


def test_a_missing_frame_is_named(tmp_path, data_set):
    split = make_split(tmp_path / "training")
    (split / "episode_0000033.npz").unlink()
    with pytest.raises(UserError, match="episode_0000033.npz is missing; .* names frames 31 to 40"):
        calvin.import_calvin(split, data_set)


@pytest.mark.parametrize("content", [b"", b"not a zip"])
def test_a_damaged_frame_is_named(tmp_path, data_set, content):
    split = make_split(tmp_path / "training")
    (split / "episode_0000033.npz").write_bytes(content)
    with pytest.raises(UserError, match="episode_0000033.npz cannot be read"):
        calvin.import_calvin(split, data_set)


def test_a_frame_that_rotted_is_named(tmp_path, data_set):
    split = make_split(tmp_path / "training")
    path = split / "episode_0000035.npz"
    frame = {key: np.random.default_rng(0).integers(0, 9, np.shape(value)).astype(np.asarray(value).dtype)
             for key, value in np.load(path).items()}  # fmt: skip
    np.savez_compressed(path, **frame)
    rotten = bytearray(path.read_bytes())
    rotten[1000:1100] = bytes(byte ^ 0x77 for byte in rotten[1000:1100])
    path.write_bytes(rotten)
    with pytest.raises(UserError, match=r"episode_0000035.npz cannot be read \(.*\); copy it again"):
        calvin.import_calvin(split, data_set)


@pytest.mark.parametrize("ids", [np.zeros((0, 2), int), np.zeros(4, int), np.array([[0.0, 3.0]]), np.array([[5, 3]]),
                                 np.array([[0, 9], [9, 20]])])  # fmt: skip
def test_segments_that_make_no_sense_are_refused(tmp_path, ids):
    np.save(tmp_path / "ep_start_end_ids.npy", ids)
    with pytest.raises(UserError, match="expected (integers|ranges)"):
        calvin.read_segments(tmp_path)


def test_a_hostile_annotation_file_is_refused_by_what_it_asks_for(tmp_path, data_set):
    class Hostile:
        def __reduce__(self):
            return (shutil.rmtree, (str(tmp_path),))

    split = make_split(tmp_path / "training")
    np.save(split / "lang_annotations" / "auto_lang_ann.npy", {"info": Hostile()})
    with pytest.raises(UserError, match="asks for shutil.rmtree, which was refused"):
        calvin.import_calvin(split, data_set)
    assert split.is_dir()


@pytest.mark.parametrize("content", [{"info": {}}, [1, 2], {"info": {"indx": [1]}, "language": {"task": ["a"]}}])
def test_annotations_of_another_layout_are_refused(tmp_path, content):
    split = make_split(tmp_path / "training")
    np.save(split / "lang_annotations" / "auto_lang_ann.npy", np.array(content, dtype=object))
    with pytest.raises(UserError, match="another layout|expected one pickled dict"):
        calvin.read_annotations(split)


@pytest.mark.skipif(not SLICE.is_dir(), reason=f"there is no CALVIN slice in {SLICE}")
@pytest.mark.parametrize(("split", "episodes", "marks"), [("training", 4, 7), ("validation", 1, 2)])
def test_actions_of_a_true_slice_agree_with_its_rel_actions_merged_by_four(tmp_path, split, episodes, marks):
    """To 1e-6 of full scale. CALVIN adds its relative Euler angles to those of the measured pose."""
    data_set = create_data_set(tmp_path / "data_set", CONFIG)
    recording = calvin.import_calvin(SLICE / split, data_set)
    assert (len(recording.episodes), len(recording.annotations)) == (episodes, marks)
    action = recording.action[:]
    segments = calvin.read_segments(SLICE / split)
    for (first, _), episode in zip(segments, recording.episodes, strict=True):
        for i in range(episode.length - 1):
            frames = [np.load(SLICE / split / f"episode_{first + 4 * i + k:07d}.npz") for k in range(4)]
            relative = np.stack([frame["rel_actions"] for frame in frames])
            assert np.abs(relative[:, :6]).max() < 1.0, "none of this slice is clipped"
            before = frames[0]["robot_obs"][:6]
            after = before + relative[:, :6].sum(axis=0) * ([0.02] * 3 + [0.05] * 3)
            poses = [Pose(pose[:3], euler_to_matrix(pose[3:])) for pose in (before, after)]
            merged = difference(*poses, data_set.config.scale)
            np.testing.assert_allclose(action[episode.start + i, :6], merged, atol=1e-6)
            assert action[episode.start + i, 6] == relative[3, 6]


# Inputs that others have


def test_annotations_in_the_folder_of_any_text_encoder_are_found(tmp_path, data_set):
    split = make_split(tmp_path / "training")
    (split / "lang_annotations").rename(split / "lang_paraphrase-MiniLM-L3-v2")
    recording = calvin.import_calvin(split, data_set)
    assert [one.skill for one in recording.annotations] == ["turn-on-LED"]
    assert "annotations come from lang_paraphrase-MiniLM-L3-v2" in recording.statistics.warnings


def test_of_several_annotation_folders_calvins_own_is_used_and_the_import_says_so(tmp_path, data_set):
    split = make_split(tmp_path / "training")
    other = make_split(tmp_path / "other", windows=((1, 5, "open_drawer"), (1, 9, "turn_on_led")))
    shutil.copytree(other / "lang_annotations", split / "lang_BERT")
    recording = calvin.import_calvin(split, data_set)
    assert [one.skill for one in recording.annotations] == ["turn-on-LED"]
    assert "lang_BERT has 2 other annotations, which are not used" in recording.statistics.warnings


def test_a_split_without_annotations_says_so(tmp_path, data_set):
    split = make_split(tmp_path / "training")
    shutil.rmtree(split / "lang_annotations")
    assert any("has no annotations" in line for line in calvin.import_calvin(split, data_set).statistics.warnings)


def test_missing_segments_are_named_with_what_to_do(tmp_path, data_set):
    split = make_split(tmp_path / "training")
    (split / calvin.SEGMENTS).unlink()
    assert calvin.is_calvin(split)
    with pytest.raises(UserError, match="has no ep_start_end_ids.npy beside its 31 frames.*copy it from the data set"):
        calvin.import_calvin(split, data_set)


def test_annotations_outside_of_the_segments_are_named(tmp_path, data_set):
    windows = ((1, 9, "turn_on_led"), (22, 25, "open_drawer"))
    recording = calvin.import_calvin(make_split(tmp_path / "training", windows=windows), data_set)
    (left_out,) = recording.statistics.marks_left_out
    assert left_out.skill == "open-drawer" and "ends at frame 25, outside of all segments" in left_out.reason


def test_gripper_commands_of_zero_to_one_are_refused_and_read_by_an_option(tmp_path, data_set):
    split = make_split(tmp_path / "training")
    for file in split.glob("episode_*.npz"):
        frame = dict(np.load(file))
        frame["actions"][6] = frame["actions"][6] > 0
        frame["robot_obs"][14] = frame["robot_obs"][14] > 0
        np.savez(file, **frame)
    with pytest.raises(UserError, match="go from 0 to 1, .* not CALVIN's -1.*say --gripper-threshold 0.5"):
        calvin.import_calvin(split, data_set)
    recording = calvin.import_calvin(split, data_set, gripper=GripperOptions(0.5))
    assert recording.action[:, 6].tolist() == [1.0, 1.0, -1.0, -1.0, -1.0, -1.0, -1.0, -1.0, -1.0]
    assert recording.source.options == {"gripper_threshold": "0.5"}


@pytest.mark.parametrize("commands", [0.0, 0.04, 0.5])
def test_a_gripper_that_is_always_told_the_same_other_number_is_refused_too(tmp_path, data_set, commands):
    """Without a single change nothing but the format says that 0 does not open the gripper."""
    split = make_split(tmp_path / "training")
    for file in split.glob("episode_*.npz"):
        frame = dict(np.load(file))
        frame["actions"][6] = frame["robot_obs"][14] = commands
        np.savez(file, **frame)
    with pytest.raises(UserError, match="are not CALVIN's -1"):
        calvin.import_calvin(split, data_set)
