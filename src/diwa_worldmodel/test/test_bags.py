"""Bags become recordings: known motion in, known frames out; and every way a bag can be bad."""

from dataclasses import replace

import numpy as np
import pytest
from bag_factory import START_NS, Item, changed, commanded, image_of, items, step_action, write_bag

from diwa_conventions import topics
from diwa_conventions.actions import ActionScale, rotation_6d
from diwa_conventions.bags.definitions import of_type
from diwa_conventions.bags.writer import BagWriter
from diwa_conventions.errors import UserError
from diwa_worldmodel.dataset.bag_topics import BagOptions
from diwa_worldmodel.dataset.bags import import_bag
from diwa_worldmodel.dataset.config import DataSetConfig
from diwa_worldmodel.dataset.store import create_data_set

NS = 1_000_000_000
CONFIG = DataSetConfig(image_size_px=16)


@pytest.fixture
def data_set(tmp_path):
    return create_data_set(tmp_path / "data_set", CONFIG)


@pytest.fixture
def imported(tmp_path, data_set):
    """Write items as a bag and import it."""

    def run(made, options=None, **how):
        return import_bag(write_bag(tmp_path / "bag", made, **how), data_set, options=options)

    return run


def numbers(images) -> list[int]:
    """Which images these are."""
    return [int(image[0, 0, 0]) + 256 * int(image[0, 0, 1]) for image in images[:]]


def test_known_motion_gives_known_frames_and_actions(imported):
    recording = imported(items(4.0))
    assert [(episode.start, episode.length) for episode in recording.episodes] == [(0, 30)]
    assert numbers(recording.static) == list(range(0, 120, 4))
    assert numbers(recording.gripper) == list(range(30_000, 30_120, 4))
    np.testing.assert_allclose(recording.action[:-1, :6], np.tile(step_action(), (29, 1)), atol=1e-6)
    np.testing.assert_array_equal(recording.action[-1, :6], 0.0)
    np.testing.assert_array_equal(np.diff(recording.stamp_ns[:]) / NS, pytest.approx(np.full(29, 1 / 7.5)))


def test_proprioception_is_position_6d_rotation_and_gripper_width(imported):
    recording = imported(items(2.0))
    for frame in (0, 7, 14):
        pose = commanded(frame / 7.5)
        expected = [*pose.position, *rotation_6d(pose.rotation), 0.04]
        np.testing.assert_allclose(recording.proprio[frame], expected, atol=1e-6)


def test_the_gripper_of_an_action_is_the_command_in_force_at_the_end_of_the_step(imported):
    made = changed(
        items(2.0), topics.GRIPPER_COMMAND, lambda i, item: replace(item, values={"command": 0.3 if i < 28 else -0.2})
    )
    recording = imported(made)
    np.testing.assert_array_equal(recording.action[:, 6], [1.0] * 6 + [-1.0] * 9)  # frame 7 is image 28


def test_too_large_steps_are_clipped_and_counted(imported, data_set):
    scale = data_set.config.scale

    def faster(number, item):
        position = np.array([0.4 + 1.5 * scale.speed_m_s * number / 120, 0.0, 0.3])
        return replace(item, values={**item.values, "position": position})

    recording = imported(changed(items(1.0), topics.TARGET_POSE, faster))
    assert recording.action[:].max() == 1.0
    assert recording.statistics.saturated == {"translation": recording.statistics.steps, "rotation": 0}


def test_annotations_lie_at_the_nearest_frame_and_those_outside_are_counted(imported):
    def mark(seconds: float, **values):
        at = START_NS + round(seconds * NS)
        return Item(topics.ANNOTATION, at, at, values)

    made = [*items(2.0), mark(0.42), mark(1.0, skill="lift-cube", success=False, note="slipped"), mark(9.0)]
    recording = imported(made)
    first, second = recording.annotations
    assert (first.frame, first.skill, first.success) == (3, "open-drawer", True)
    assert (second.skill, second.success, second.note) == ("lift-cube", False, "slipped")
    assert abs(second.frame - 7.5) == 0.5
    assert recording.statistics.annotations_left_out == 1


def test_the_scene_state_is_kept_where_the_bag_has_it(imported):
    recording = imported(items(2.0, scene=True))
    assert recording.scene_state_names[:2] == ("slider_m", "drawer_m")
    np.testing.assert_allclose(recording.scene_state[:, 1], 0.04 * np.arange(15), atol=1e-6)
    np.testing.assert_allclose(recording.scene_state[0, 6:9], [0.4, 0.3, 0.02], atol=1e-6)


@pytest.mark.parametrize("encoding", ["bgr8", "png"])
def test_other_encodings_give_the_same_images(imported, encoding):
    assert numbers(imported(items(1.0), encoding=encoding).static) == list(range(0, 30, 4))


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_compressed_bags_are_read(imported, compression):
    assert imported(items(1.0), compression=compression).frames == 8


def test_topics_are_found_under_any_namespace(imported):
    assert imported(items(1.0), namespace="lab/arm_2").frames == 8


def test_foreign_topic_names_are_read_by_remapping_them(imported):
    names = {"static_camera/image_raw": "/camera/color/image_raw"}
    recording = imported(items(1.0), BagOptions(remap=names), names=names)
    assert recording.frames == 8
    assert recording.source.options == {"remap static_camera/image_raw": "/camera/color/image_raw"}


def test_a_missing_topic_is_named_with_those_that_are_there_and_the_option(imported):
    told = (
        r"no messages on static_camera/image_raw; it has .*/camera/color/image_raw \(30\).*--remap static_camera/image"
    )
    with pytest.raises(UserError, match=told):
        imported(items(1.0), names={"static_camera/image_raw": "/camera/color/image_raw"})


@pytest.mark.parametrize(
    ("missing", "named"),
    [(topics.CURRENT_POSE, "current_pose"), (topics.TARGET_POSE, "target_pose"), (topics.JOINT_STATES, "joint_states")],
)
def test_states_without_commands_and_commands_without_states_are_refused(imported, missing, named):
    with pytest.raises(UserError, match=f"no messages on {named}; it has .*--remap {named}="):
        imported(item for item in items(1.0) if item.topic is not missing)


def test_two_namespaces_are_a_question(tmp_path, data_set):
    writer = BagWriter(tmp_path / "bag")
    for namespace in ("left", "right"):
        writer.write(writer.add(of_type(f"/{namespace}/static_camera/image_raw", topics.STATIC_IMAGE.type)), 1, b"\0")
    writer.close()
    with pytest.raises(UserError, match=r"several topics for static_camera/image_raw: /left/.*/right/.*--namespace"):
        import_bag(tmp_path / "bag", data_set)


def test_a_topic_of_another_type_is_refused(tmp_path, data_set):
    writer = BagWriter(tmp_path / "bag")
    writer.write(writer.add(of_type("/diwa/static_camera/image_raw", "std_msgs/msg/String")), 1, b"\0\1\0\0\1\0\0\0\0")
    writer.close()
    with pytest.raises(UserError, match="is of type std_msgs/msg/String; expected sensor_msgs/msg/Image"):
        import_bag(tmp_path / "bag", data_set)


def test_unknown_topics_to_remap_are_refused():
    with pytest.raises(UserError, match="unknown topic to remap 'static_camera'; did you mean"):
        BagOptions(remap={"static_camera": "/a"})


def test_one_topic_for_two_roles_is_refused(imported):
    options = BagOptions(remap={topics.GRIPPER_IMAGE.name: "/diwa/" + topics.STATIC_IMAGE.name})
    with pytest.raises(UserError, match="would be both static_camera/image_raw and gripper_camera/image_raw"):
        imported(items(1.0), options)


def test_joint_states_without_fingers_are_refused(imported):
    def arm_only(number, item):
        return replace(item, values={**item.values, "names": topics.ARM_JOINTS})

    with pytest.raises(UserError, match="names no finger joints.*--remap joint_states="):
        imported(changed(items(1.0), topics.JOINT_STATES, arm_only))


def test_messages_that_came_twice_change_nothing(imported, tmp_path, data_set):
    made = items(2.0)
    once = imported(made)
    twice = import_bag(write_bag(tmp_path / "twice", [item for item in made for _ in range(2)]), data_set)
    for name in ("static", "gripper", "proprio", "action", "stamp_ns"):
        np.testing.assert_array_equal(getattr(once, name)[:], getattr(twice, name)[:])
    assert twice.statistics.topics[0].duplicates == 60


def test_a_camera_on_another_clock_is_refused_and_can_be_read_by_arrival(imported, tmp_path, data_set):
    def shifted(number, item):
        return replace(item, stamp_ns=item.stamp_ns + 3600 * NS)

    made = changed(items(1.0), topics.GRIPPER_IMAGE, shifted)
    with pytest.raises(UserError, match=r"gripper_camera/.* is stamped 3600.00 s ahead of /diwa/static.*--clock log"):
        imported(made)
    assert import_bag(tmp_path / "bag", data_set, options=BagOptions(clock="log")).frames == 8


def test_without_stamps_the_arrival_counts_and_the_report_says_so(imported):
    recording = imported([replace(item, stamp_ns=0) for item in items(1.0)])
    assert recording.frames == 8
    assert any("no stamps" in line for line in recording.statistics.warnings)


def test_a_scene_state_on_another_clock_is_refused(imported):
    def shifted(number, item):
        return replace(item, stamp_ns=item.stamp_ns - 77 * NS)

    with pytest.raises(UserError, match="scene_state is stamped 77.00 s behind"):
        imported(changed(items(1.0, scene=True), topics.SCENE_STATE, shifted))


def test_a_frame_with_a_pose_that_is_not_finite_is_left_out(imported):
    def broken(number, item):
        return replace(item, values={**item.values, "position": [np.nan] * 3}) if number == 64 else item

    recording = imported(changed(items(2.0), topics.CURRENT_POSE, broken))
    assert 16 not in numbers(recording.static)
    assert recording.statistics.frames_left_out["state"] == 1


def test_images_change_their_encoding_and_size_in_the_middle(imported):
    def other(number, item):
        if number < 60:
            return item
        return replace(item, values={"image": image_of(number, (24, 36)), "encoding": "bgr8"})

    recording = imported(changed(items(4.0), topics.STATIC_IMAGE, other))
    assert recording.statistics.episode_ends["image"] == 1
    assert numbers(recording.static) == [*range(0, 60, 4), *range(60, 120, 4)]


def test_images_that_cannot_be_read_are_left_out(imported):
    def broken(number, item):
        return replace(item, values={**item.values, "encoding": "yuv444"}) if number == 40 else item

    recording = imported(changed(items(4.0), topics.STATIC_IMAGE, broken))
    assert 40 not in numbers(recording.static)
    assert any("yuv444" in line for line in recording.statistics.warnings)


def test_images_that_only_decoding_shows_to_be_broken_are_left_out(imported):
    def broken(number, item):
        return replace(item, values={**item.values, "bytes": [0x89, 0x50, 1, 2, 3]}) if number in (40, 39) else item

    recording = imported(changed(items(4.0), topics.GRIPPER_IMAGE, broken), encoding="png")
    assert not {30_040, 30_039} & set(numbers(recording.gripper))
    assert recording.frames >= 29


def test_a_bag_without_a_single_step_is_refused_with_the_reasons(imported):
    def shifted(number, item):
        return replace(item, stamp_ns=item.stamp_ns + 400_000_000)

    made = [item for item in items(0.4) if item.topic is not topics.TARGET_POSE]
    made += [shifted(0, item) for item in items(0.4) if item.topic is topics.TARGET_POSE]
    with pytest.raises(UserError, match=r"no two frames .*left out: 3 \(command\)"):
        imported(sorted(made, key=lambda item: item.log_ns))


@pytest.fixture
def short_parts(monkeypatch):
    """Bags are put together second by second, as long ones are hour by hour."""
    monkeypatch.setattr("diwa_worldmodel.dataset.bags.PART_S", 1.0)


def test_a_long_bag_is_put_together_part_by_part(short_parts, imported):
    at = START_NS + round(2.6 * NS)
    made = [*items(4.0, scene=True), Item(topics.ANNOTATION, at, at, {"skill": "lift-cube", "success": False})]
    recording = imported(made)
    assert [(episode.start, episode.length) for episode in recording.episodes] == [(0, 8), (8, 8), (16, 8), (24, 8)]
    assert numbers(recording.static) == [i + 30 * part for part in range(4) for i in range(0, 30, 4)]
    np.testing.assert_allclose(recording.scene_state[:, 1], 0.01 * np.array(numbers(recording.static)), atol=1e-6)
    np.testing.assert_allclose(recording.action[:7, :6], np.tile(step_action(), (7, 1)), atol=1e-6)
    np.testing.assert_allclose(recording.action[24:31, :6], np.tile(step_action(), (7, 1)), atol=1e-6)
    (mark,) = recording.annotations
    assert abs(int(recording.stamp_ns[mark.frame]) - at) <= 67_000_000
    statistics = recording.statistics
    assert (statistics.steps, statistics.episode_ends["end"]) == (28, 4)
    assert statistics.topics[0].messages == 120
    assert sum(statistics.camera_skew_ms.counts) == 120


def test_a_command_holds_into_the_next_part(short_parts, imported):
    made = items(4.0)
    early = [item for item in made if item.topic is topics.TARGET_POSE][:12]
    others = [item for item in made if item.topic is not topics.TARGET_POSE]
    recording = imported(sorted([*early, *others], key=lambda item: item.log_ns))
    assert recording.frames == 32
    np.testing.assert_allclose(recording.action[8:, :6], 0.0, atol=1e-9)


def test_parts_without_a_scene_state_are_no_error(short_parts, imported):
    made = items(1.0, scene=True)
    later = [replace(item, stamp_ns=item.stamp_ns + 5 * NS, log_ns=item.log_ns + 5 * NS) for item in made]
    recording = imported([*made, *later])
    assert [episode.length for episode in recording.episodes] == [8, 8]


def test_a_camera_that_dies_costs_the_rest_and_not_what_was_before(short_parts, imported):
    made = [item for item in items(4.0) if item.topic is not topics.GRIPPER_IMAGE or item.log_ns < START_NS + 2 * NS]
    recording = imported(made)
    assert recording.frames == 16
    assert recording.statistics.frames_left_out["image"] + recording.statistics.frames_left_out["skew"] == 16


def test_images_that_decoding_shows_to_be_broken_are_left_out_of_their_part(short_parts, imported):
    def broken(number, item):
        return replace(item, values={**item.values, "bytes": [0xFF, 0xD8, 1, 2, 3]}) if number == 64 else item

    recording = imported(changed(items(4.0), topics.STATIC_IMAGE, broken), encoding="png")
    assert 64 not in numbers(recording.static)
    assert recording.frames == 32


@pytest.mark.parametrize("content", ["empty", "foreign", "truncated"])
def test_damaged_bags_are_refused_with_a_line_that_helps(tmp_path, data_set, content):
    bag = write_bag(tmp_path / "bag", items(1.0))
    file = next(bag.glob("*.mcap"))
    if content == "empty":
        file.write_bytes(b"")
    elif content == "foreign":
        file.write_bytes(b"PK\3\4" * 100)
    else:
        file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(UserError, match="empty|not an MCAP|cannot be read|diwa bag repair"):
        import_bag(bag, data_set)


def test_an_image_chunk_that_rotted_is_noticed(tmp_path, data_set):
    bag = write_bag(tmp_path / "bag", items(1.0))
    file = next(bag.glob("*.mcap"))
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(UserError):
        import_bag(bag, data_set)


def test_the_scale_of_the_data_set_counts(tmp_path):
    scale = ActionScale(translation_m=0.04, rotation_rad=0.1)
    data_set = create_data_set(tmp_path / "data_set", replace(CONFIG, scale=scale))
    recording = import_bag(write_bag(tmp_path / "bag", items(1.0)), data_set)
    np.testing.assert_allclose(recording.action[0, :6], 2 * step_action(), atol=1e-6)


def test_provenance_says_what_it_was_made_from(imported):
    recording = imported(items(1.0))
    assert recording.source.kind == "bag"
    assert recording.source.name == "bag"
    assert len(recording.source.hash) == 64
    assert recording.id == f"bag-{recording.source.hash[:12]}"
    assert {"python", "numpy", "zarr"} <= set(recording.software)
    assert {report.role for report in recording.statistics.topics} >= {"static_image", "target_pose"}
