"""Bags of other recorders, drivers and releases: read rightly, or refused with what was found and what to do."""

import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from bag_factory import NS, START_NS, Item, changed, image_of, items, serialise, step_action, write_bag
from mcap.writer import IndexType, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from diwa_conventions import topics
from diwa_conventions.bags.definitions import connection, typestore
from diwa_conventions.errors import UserError
from diwa_worldmodel.dataset.bag_topics import BagOptions
from diwa_worldmodel.dataset.bags import import_bag
from diwa_worldmodel.dataset.config import DataSetConfig
from diwa_worldmodel.dataset.plausible import GripperOptions
from diwa_worldmodel.dataset.store import DataSet, Recording, create_data_set


@pytest.fixture
def data_set(tmp_path: Path) -> DataSet:
    return create_data_set(tmp_path / "data_set", DataSetConfig(image_size_px=16))


@pytest.fixture
def imported(tmp_path: Path, data_set: DataSet) -> Callable[..., Recording]:
    def run(made: Iterable[Item], options: BagOptions | None = None, **how: object) -> Recording:
        return import_bag(write_bag(tmp_path / "bag", made, **how), data_set, options=options)

    return run


def mark(at_s: float, **values: object) -> Item:
    at = START_NS + round(at_s * NS)
    return Item(topics.ANNOTATION, at, at, values)


def numbers(images: object) -> list[int]:
    return [int(image[0, 0, 0]) + 256 * int(image[0, 0, 1]) for image in images[:]]  # type: ignore[index]


def said(recording: Recording) -> str:
    return "\n".join(recording.statistics.remarks())


# Definitions

HEADER = """
================================================================================
MSG: std_msgs/Header
builtin_interfaces/Time stamp
string frame_id
================================================================================
MSG: builtin_interfaces/Time
int32 sec
uint32 nanosec
"""
COMMAND = "std_msgs/Header header\nfloat64 command" + HEADER
NARROW = "std_msgs/Header header\nfloat32 command" + HEADER
EFFORT_FIRST = "std_msgs/Header header\nfloat64 max_effort\nfloat64 command" + HEADER
NO_COMMAND = "std_msgs/Header header\nfloat64 position" + HEADER
WITHOUT_NOTE = "std_msgs/Header header\nstring skill\nbool success" + HEADER
WITHOUT_SKILL = "std_msgs/Header header\nbool success" + HEADER
OLD_IMAGE = (
    "uint8[] data\nstring encoding\nuint32 width\nuint32 height\nuint32 step\nstd_msgs/Header header\nstring note"
    + HEADER
)
OLD_JOINTS = "std_msgs/Header header\nfloat32[] position\nstring[] name" + HEADER


def by_definition(definition: str, kind: str, item: Item, values: dict[str, object]) -> bytes:
    store = get_typestore(Stores.EMPTY)
    store.register(get_types_from_msg(definition, kind))
    stamp = store.types["builtin_interfaces/msg/Time"](item.stamp_ns // NS, item.stamp_ns % NS)
    header = store.types["std_msgs/msg/Header"](stamp, "frame")
    return bytes(store.serialize_cdr(store.types[kind](header=header, **values), kind))


Values = Callable[[Item], dict[str, object]]


def write_defined(file: Path, made: Iterable[Item], defined: Callable[[int, Item], tuple[str, Values] | None],
                  **options: object) -> Path:  # fmt: skip
    """A bag of the mcap package's own writer, in which some messages have definitions of their own."""
    writer = Writer(str(file), **options)  # type: ignore[arg-type]
    writer.start("ros2", "another recorder")
    channels: dict[tuple[str, str], int] = {}
    count: dict[str, int] = {}
    for item in made:
        link = connection(item.topic, "diwa")
        number = count[link.topic] = count.get(link.topic, -1) + 1
        own = defined(number, item)
        definition = own[0] if own else link.definition
        if (link.topic, definition) not in channels:
            schema = writer.register_schema(link.type, "ros2msg", definition.encode())
            channels[link.topic, definition] = writer.register_channel(link.topic, "cdr", schema)
        data = by_definition(definition, link.type, item, own[1](item)) if own else serialise(item)
        writer.add_message(channels[link.topic, definition], item.log_ns, data, item.log_ns)
    writer.finish()
    return file


def command(item: Item) -> dict[str, object]:
    return {"command": item.values["command"]}


@pytest.mark.parametrize(
    ("definition", "values"),
    [(COMMAND, command), (NARROW, command), (EFFORT_FIRST, lambda item: {**command(item), "max_effort": 40.0})],
)
def test_gripper_commands_are_read_by_their_names(tmp_path, data_set, definition, values):
    file = write_defined(
        tmp_path / "bag.mcap",
        items(2.0),
        lambda number, item: (definition, values) if item.topic is topics.GRIPPER_COMMAND else None,
    )
    assert import_bag(file, data_set).action[:, 6].tolist() == [1.0] * 7 + [-1.0] * 8


@pytest.mark.parametrize("order", [(NARROW, EFFORT_FIRST), (EFFORT_FIRST, NARROW), (COMMAND, NARROW)])
def test_two_definitions_of_one_topic_are_each_read_by_their_own(tmp_path, data_set, order):
    def defined(number, item):
        definition = order[number // 15 % 2]
        more = {"max_effort": -7.0} if definition == EFFORT_FIRST else {}
        return (definition, lambda item: {**command(item), **more}) if item.topic is topics.GRIPPER_COMMAND else None

    file = write_defined(tmp_path / "bag.mcap", items(2.0), defined)
    assert import_bag(file, data_set).action[:, 6].tolist() == [1.0] * 7 + [-1.0] * 8


def test_a_definition_without_the_field_that_is_needed_is_refused_with_what_it_has(tmp_path, data_set):
    file = write_defined(
        tmp_path / "bag.mcap",
        items(1.0),
        lambda number, item: (
            (NO_COMMAND, lambda item: {"position": 0.04}) if item.topic is topics.GRIPPER_COMMAND else None
        ),
    )
    with pytest.raises(UserError, match="has no field command; the bag defines it with header, position"):
        import_bag(file, data_set)


def test_images_and_joints_of_other_definitions_are_read_by_their_names(tmp_path, data_set):
    def image(item):
        pixels = item.values["image"]
        height, width = pixels.shape[:2]
        return {"data": pixels.reshape(-1), "encoding": "rgb8", "width": width, "height": height, "step": 3 * width,
                "note": "new"}  # fmt: skip

    def joints(item):
        return {"name": list(topics.FINGER_JOINTS), "position": np.array([0.02, 0.02], np.float32)}

    own = {topics.STATIC_IMAGE: (OLD_IMAGE, image), topics.JOINT_STATES: (OLD_JOINTS, joints)}
    file = write_defined(tmp_path / "bag.mcap", items(2.0), lambda number, item: own.get(item.topic))
    recording = import_bag(file, data_set)
    assert numbers(recording.static) == list(range(0, 60, 4))
    np.testing.assert_allclose(recording.proprio[:, 9], 0.04, atol=1e-6)


@pytest.mark.parametrize("old_first", [True, False])
def test_annotations_of_an_old_definition_have_an_empty_note(tmp_path, data_set, old_first):
    made = [*items(2.0), mark(0.5, note="slow"), mark(1.5, note="fast")]

    def defined(number, item):
        if item.topic is topics.ANNOTATION and (number == 0) == old_first:
            return WITHOUT_NOTE, lambda item: {"skill": "open-drawer", "success": True}
        return None

    file = write_defined(tmp_path / "bag.mcap", sorted(made, key=lambda item: item.log_ns), defined)
    found = import_bag(file, data_set).annotations
    assert [one.note for one in found] == (["", "fast"] if old_first else ["slow", ""])
    assert [one.frame for one in found] == [4, 11]


def test_a_topic_that_cannot_be_read_and_is_not_needed_costs_itself_alone(tmp_path, data_set):
    made = sorted([*items(2.0), mark(0.5), mark(1.5)], key=lambda item: item.log_ns)
    file = write_defined(
        tmp_path / "bag.mcap",
        made,
        lambda number, item: (
            (WITHOUT_SKILL, lambda item: {"success": True}) if item.topic is topics.ANNOTATION else None
        ),
    )
    recording = import_bag(file, data_set)
    assert recording.frames == 15 and not recording.annotations
    assert "/diwa/annotation: 2 messages cannot be read" in said(recording)


def test_a_topic_of_our_name_and_another_type_costs_itself_alone(tmp_path, data_set):
    other = replace(topics.ANNOTATION, type="diwa_msgs/msg/GripperCommand")
    made = [*items(1.0), Item(topics.GRIPPER_COMMAND, START_NS, START_NS, {"command": 1.0})]
    names = {other.name: other.name}
    bag = write_bag(tmp_path / "bag", made, names=names)
    assert import_bag(bag, data_set).frames == 8


def write_humble(file: Path, made: Iterable[Item]) -> Path:
    """A .db3 as Humble writes it: no definitions in it."""
    database = sqlite3.connect(file)
    database.executescript(
        "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT, type TEXT, serialization_format TEXT, "
        "offered_qos_profiles TEXT);"
        "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, data BLOB);"
    )
    known: dict[str, int] = {}
    for item in made:
        if item.topic.name not in known:
            known[item.topic.name] = len(known) + 1
            row = (known[item.topic.name], f"/diwa/{item.topic.name}", item.topic.type, "cdr", "")
            database.execute("INSERT INTO topics VALUES (?, ?, ?, ?, ?)", row)
        row = (known[item.topic.name], item.log_ns, serialise(item))
        database.execute("INSERT INTO messages(topic_id, timestamp, data) VALUES (?, ?, ?)", row)
    database.commit()
    database.close()
    return file


def test_a_bag_of_humble_is_imported_directly(tmp_path, data_set):
    made = sorted([*items(2.0, scene=True), mark(1.0)], key=lambda item: item.log_ns)
    recording = import_bag(write_humble(tmp_path / "bag.db3", made), data_set)
    assert numbers(recording.static) == list(range(0, 60, 4))
    np.testing.assert_allclose(recording.action[:-1, :6], np.tile(step_action(), (14, 1)), atol=1e-6)
    assert [one.frame for one in recording.annotations] == [7]
    assert recording.scene_state.shape == (15, 12)


@pytest.mark.parametrize("options", [{"use_chunking": False, "index_types": IndexType.NONE}, {"use_statistics": False}])
def test_mcap_files_without_chunks_or_index_are_imported_as_they_are(tmp_path, data_set, options):
    file = write_defined(tmp_path / "bag.mcap", items(2.0), lambda number, item: None, **options)
    before = file.read_bytes()
    assert numbers(import_bag(file, data_set).static) == list(range(0, 60, 4))
    assert file.read_bytes() == before and len(list(tmp_path.glob("*"))) == 2


# Nothing is left out in silence


def test_marks_outside_of_episodes_are_counted_with_times_and_reasons(imported):
    lost = range(60, 90)
    made = [item for item in items(4.0) if not (item.topic is topics.STATIC_IMAGE and _number(item) in lost)]
    recording = imported(sorted([*made, *map(mark, (1.1, 2.4, 4.5, 5.0))], key=lambda item: item.log_ns))
    assert [one.frame for one in recording.annotations] == [8]
    statistics = recording.statistics
    assert statistics.annotations_left_out == 3
    assert [round(one.at_s, 1) for one in statistics.marks_left_out] == [2.4, 4.5, 5.0]
    reasons = [one.reason for one in statistics.marks_left_out]
    assert "after the end of one episode" in reasons[0] and reasons[2] == "1.1 s after the last frame"
    assert "annotation open-drawer at 2.4 s left out" in said(recording)


def _number(item: Item) -> int:
    image = item.values["image"]
    assert isinstance(image, np.ndarray)
    return int(image[0, 0, 0]) + 256 * int(image[0, 0, 1])


def test_a_mark_before_the_first_command_says_why_it_has_no_frame(imported):
    made = [item for item in items(2.0) if item.topic is not topics.TARGET_POSE or item.log_ns > START_NS + NS]
    recording = imported(sorted([*made, mark(0.2)], key=lambda item: item.log_ns))
    (left_out,) = recording.statistics.marks_left_out
    assert left_out.reason.endswith("s before the first frame")
    assert "frames left out: not commanded yet, at 0.0 to" in said(recording)


def test_frames_that_are_left_out_are_said_with_reason_and_time(imported):
    def broken(number, item):
        return replace(item, values={**item.values, "position": [np.nan] * 3}) if 120 <= number < 240 else item

    recording = imported(changed(items(4.0), topics.CURRENT_POSE, broken))
    assert "8 frames left out: no (sound) robot state near enough, at 1.0 to 2.0 s" in said(recording)


def test_topics_that_are_not_read_are_named(imported):
    at = START_NS
    made = [*items(1.0), *(Item(topics.DIAGNOSTICS, at, at, {"raw": b"\0\1\0\0"}) for _ in range(3))]
    assert "1 topics not read: /diagnostics" in said(imported(made))


def test_images_of_16_bits_are_refused_with_the_reason(imported):
    deep = np.full((24, 24), 1000, np.uint16)
    data = cv2.imencode(".png", deep)[1]

    def sixteen(number, item):
        return replace(item, values={**item.values, "bytes": data})

    with pytest.raises(UserError, match="images cannot be decoded .*16 bits.*is it a depth image"):
        imported(changed(items(1.0), topics.STATIC_IMAGE, sixteen), encoding="png")


def with_encoding(encoding: str, **image: object) -> list[Item]:
    def change(number, item):
        pixels = image_of(number)
        step = 24 * {"8UC1": 1, "mono16": 2, "16UC1": 2, "32FC1": 4}.get(encoding, 3)
        message = {"encoding": encoding, "height": 24, "width": 24, "step": step, "is_bigendian": 0,
                   "data": np.resize(pixels.reshape(-1), step * 24)}  # fmt: skip
        return replace(item, values={**item.values, "raw": _raw_image(item, message)})

    return changed(items(1.0), topics.STATIC_IMAGE, change)


def _raw_image(item: Item, values: dict[str, object]) -> bytes:
    store = typestore()
    stamp = store.types["builtin_interfaces/msg/Time"](item.stamp_ns // NS, item.stamp_ns % NS)
    header = store.types["std_msgs/msg/Header"](stamp, "camera")
    return bytes(store.serialize_cdr(store.types["sensor_msgs/msg/Image"](header=header, **values), item.topic.type))


@pytest.mark.parametrize(
    ("encoding", "reason"),
    [
        ("8UC3", "does not say which colours it holds.*--encoding TOPIC=bgr8"),
        ("8UC1", "does not say which colours it holds.*--encoding TOPIC=mono8"),
        ("mono16", "more than 8 bits per channel"),
        ("16UC1", "more than 8 bits per channel.*is it a depth image"),
        ("32FC1", "more than 8 bits per channel"),
        ("nv24", "unknown image encoding 'nv24'"),
    ],
)
def test_images_that_are_not_read_are_refused_with_the_reason(imported, encoding, reason):
    with pytest.raises(UserError, match=f"left out: 8 .image.*/diwa/static_camera/image_raw: 30 messages.*{reason}"):
        imported(with_encoding(encoding))


@pytest.mark.parametrize(("encoding", "colours"), [("8UC3", "rgb8"), ("8UC3", "bgr8"), ("8UC1", "mono8")])
def test_what_unnamed_channels_hold_is_said_by_an_option_that_the_data_set_keeps(imported, encoding, colours):
    recording = imported(with_encoding(encoding), BagOptions(encoding={topics.STATIC_IMAGE.name: colours}))
    first = recording.static[1][0, 0].tolist()
    assert first == {"rgb8": [4, 0, 77], "bgr8": [77, 0, 4], "mono8": first}[colours]
    assert recording.source.options["encoding static_camera/image_raw"] == colours


def test_an_encoding_option_for_another_topic_or_of_another_name_is_refused():
    with pytest.raises(UserError, match="unknown image topic 'camera'"):
        BagOptions(encoding={"camera": "bgr8"})
    with pytest.raises(UserError, match="unknown image encoding 'bgr'; did you mean 'bgr8'"):
        BagOptions(encoding={topics.STATIC_IMAGE.name: "bgr"})


# Rates


@pytest.mark.parametrize("slow_hz", [5.0, 10.0, 20.0, 25.0])
def test_where_a_camera_slows_down_the_episode_ends_and_the_import_says_so(imported, slow_hz):
    fast = [item for item in items(4.0) if item.topic is not topics.STATIC_IMAGE or item.log_ns < START_NS + 2 * NS]
    slow = [
        Item(topics.STATIC_IMAGE, at, at, {"image": image_of(round(60 + 30 * i / slow_hz))})
        for i in range(round(2 * slow_hz))
        for at in [START_NS + 2 * NS + round(i / slow_hz * NS)]
    ]
    recording = imported(sorted([*fast, *slow], key=lambda item: item.log_ns))
    assert 14 <= recording.frames <= 17
    for episode in recording.episodes:
        steps = np.diff(recording.stamp_ns[episode.start : episode.end]) / NS
        np.testing.assert_allclose(steps, 1 / 7.5, atol=0.02)
    remarks = said(recording)
    assert "7.5 Hz does not divide" in remarks or "alone between two gaps" in remarks


def test_a_camera_that_goes_from_30_to_15_hz_goes_on(imported):
    def every_second(number, item):
        return item if number < 60 or number % 2 == 0 else None

    recording = imported(changed(items(4.0), topics.STATIC_IMAGE, every_second))
    assert numbers(recording.static) == list(range(0, 120, 4)) and len(recording.episodes) == 1


def test_a_lost_image_is_said(imported):
    made = changed(items(4.0), topics.STATIC_IMAGE, lambda number, item: None if number == 40 else item)
    recording = imported(made)
    assert len(recording.episodes) == 1 and recording.statistics.uneven_steps == 1
    assert "1 of 30 steps are one camera period longer or shorter than 1/7.5 s" in said(recording)


# Hands


def with_fingers(names: list[str]) -> list[Item]:
    arm = list(topics.ARM_JOINTS)
    return [
        replace(item, values={**item.values, "names": [*arm, *names]}) if item.topic is topics.JOINT_STATES else item
        for item in items(1.0)
    ]


@pytest.mark.parametrize("names", [["fr3_finger_joint1", "fr3_finger_joint2"], ["left_finger", "right_finger"]])
def test_two_sliding_fingers_make_the_width(imported, names):
    np.testing.assert_allclose(imported(with_fingers(names)).proprio[:, 9], 0.04, atol=1e-6)


@pytest.mark.parametrize("name", ["panda_finger_joint1", "fr3_finger_joint1"])
def test_of_one_finger_the_width_is_twice_its_position_and_the_import_says_so(imported, name):
    recording = imported(with_fingers([name]))
    np.testing.assert_allclose(recording.proprio[:, 9], 0.04, atol=1e-6)
    assert f"1 finger joint ({name}), expected 2" in said(recording)


@pytest.mark.parametrize(
    "names",
    [
        ["finger_joint"],
        ["finger_joint", "left_inner_knuckle_joint", "left_inner_finger_joint", "right_inner_finger_joint"],
        ["robotiq_85_left_knuckle_joint"],
        ["gripper"],
        ["a_finger", "b_finger", "c_finger"],
    ],
)
def test_a_hand_without_a_width_is_refused_by_the_names_of_its_joints(imported, names):
    with pytest.raises(UserError, match=f"name {', '.join(names)}, and no width follows"):
        imported(with_fingers(names))


# Numbers that cannot be right


def test_gripper_commands_of_zero_to_one_are_refused_and_read_by_an_option(tmp_path, data_set):
    made = changed(items(2.0), topics.GRIPPER_COMMAND, lambda i, item: replace(item, values={"command": float(i < 30)}))
    bag = write_bag(tmp_path / "bag", made)
    with pytest.raises(UserError, match="gripper_command: .*a fraction from 0 to 1: say --gripper-threshold 0.5"):
        import_bag(bag, data_set)
    recording = import_bag(bag, data_set, options=BagOptions(gripper=GripperOptions(0.5)))
    assert recording.action[:, 6].tolist() == [1.0] * 7 + [-1.0] * 8
    assert recording.source.options == {"gripper_threshold": "0.5"}


def test_gripper_commands_against_the_hand_are_refused_and_read_by_an_option(tmp_path, data_set):
    made = [
        replace(item, values={**item.values, "width_m": 0.01 + 0.07 * (item.log_ns - START_NS > 2 * NS)})
        if item.topic is topics.JOINT_STATES
        else item
        for item in items(4.0)
    ]
    bag = write_bag(tmp_path / "bag", made)
    with pytest.raises(UserError, match="80 mm wide while it is told to close.*say --gripper-inverted"):
        import_bag(bag, data_set)
    assert import_bag(bag, data_set, options=BagOptions(gripper=GripperOptions(inverted=True))).action[0, 6] == -1.0


def test_poses_and_widths_of_another_unit_are_refused_and_read_by_an_option(tmp_path, data_set):
    def other(item):
        values = dict(item.values)
        if item.topic in (topics.CURRENT_POSE, topics.TARGET_POSE):
            values["position"] = 1000 * np.asarray(values["position"])
        if item.topic is topics.JOINT_STATES:
            values["width_m"] = 40.0
        return replace(item, values=values)

    bag = write_bag(tmp_path / "bag", map(other, items(2.0)))
    with pytest.raises(UserError, match="millimetres: say --position-scale 0.001"):
        import_bag(bag, data_set)
    with pytest.raises(UserError, match="millimetres: say --width-scale 0.001"):
        import_bag(bag, data_set, options=BagOptions(position_scale=0.001))
    recording = import_bag(bag, data_set, options=BagOptions(position_scale=0.001, width_scale=0.001))
    np.testing.assert_allclose(recording.action[:-1, :6], np.tile(step_action(), (14, 1)), atol=1e-6)
    np.testing.assert_allclose(recording.proprio[:, 9], 0.04, atol=1e-6)


def test_quaternions_with_the_scalar_first_are_refused_and_read_by_an_option(tmp_path, data_set):
    def turned(item, roll):
        at_s = (item.stamp_ns - START_NS) / NS
        half = 0.5 * (1.0 + at_s)  # of a turn about the vertical, on a tool that points down
        quaternion = np.roll([np.cos(half), np.sin(half), 0.0, 0.0], roll)
        return replace(item, values={**item.values, "quaternion": quaternion})

    def bag(name, roll):
        poses = (topics.CURRENT_POSE, topics.TARGET_POSE)
        made = [turned(item, roll) if item.topic in poses else item for item in items(2.0)]
        return write_bag(tmp_path / name, made)

    right = import_bag(bag("right", 0), data_set)
    wrong = bag("wrong", 1)
    with pytest.raises(UserError, match="scalar comes first .w x y z.: say --quaternion wxyz"):
        import_bag(wrong, data_set)
    found = import_bag(wrong, data_set, options=BagOptions(quaternion="wxyz"))
    np.testing.assert_allclose(found.action[:], right.action[:], atol=1e-6)
    np.testing.assert_allclose(found.proprio[:], right.proprio[:], atol=1e-6)
