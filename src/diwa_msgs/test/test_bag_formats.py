"""Bags of other recorders: every legal MCAP file, sqlite3, compressed ones, files in any order, other definitions."""

import itertools
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import yaml
from bag_samples import ACTION, POSE, START_NS, STEP_NS, action, pose, write_bag
from mcap.writer import CompressionType, IndexType, Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.rosbag2 import Writer as RosbagsWriter

from diwa_conventions import topics
from diwa_conventions.bags.definitions import connection, typestore
from diwa_conventions.bags.message_types import Definition, MessageTypes
from diwa_conventions.bags.reader import Bag
from diwa_conventions.bags.repair import repair
from diwa_conventions.bags.sections import sections
from diwa_conventions.bags.writer import Split
from diwa_conventions.errors import UserError

FRAMES = 20
POSE_TYPE, ACTION_TYPE = topics.CURRENT_POSE.type, topics.ACTION.type


def messages() -> list[tuple[str, int, bytes]]:
    """Topic, log time and bytes of 20 poses and actions at 30 Hz."""
    made = []
    for frame in range(FRAMES):
        stamp_ns = START_NS + frame * STEP_NS
        made += [(POSE, stamp_ns, pose(stamp_ns)), (ACTION, stamp_ns + 1, action(stamp_ns, frame))]
    return made


def write_mcap(file: Path, made: list[tuple[str, int, bytes]] | None = None, **options: object) -> Path:
    """A file of the mcap package's own writer, with a note."""
    writer = Writer(str(file), **options)  # type: ignore[arg-type]
    writer.start("ros2", "another recorder")
    channels = {}
    for topic in (topics.CURRENT_POSE, topics.ACTION):
        link = connection(topic, "diwa")
        schema = writer.register_schema(link.type, "ros2msg", link.definition.encode())
        channels[link.topic] = writer.register_channel(link.topic, "cdr", schema)
    writer.add_metadata("parameters", {"rate": "30"})
    for name, log_ns, data in messages() if made is None else made:
        writer.add_message(channels[name], log_ns, data, log_ns)
    writer.finish()
    return file


def assert_is_whole(path: Path) -> None:
    bag = Bag(path)
    assert {name: topic.messages for name, topic in bag.topics.items()} == {POSE: FRAMES, ACTION: FRAMES}
    assert {name: topic.type for name, topic in bag.topics.items()} == {POSE: POSE_TYPE, ACTION: ACTION_TYPE}
    expected = [(name, log_ns, data) for name, log_ns, data in messages()]
    for found in (bag.messages(), bag.recorded([POSE, ACTION])):
        assert [(message.topic, message.log_ns, message.data) for message in found] == expected
    assert [bag.decode(message).sequence for message in bag.messages([ACTION])] == list(range(FRAMES))
    part = bag.recorded([ACTION, POSE], {ACTION: (5, 8), POSE: (0, 0)})
    assert [bag.decode(message).sequence for message in part] == [5, 6, 7]
    low, high = START_NS + 5 * STEP_NS, START_NS + 8 * STEP_NS
    assert [bag.decode(message).sequence for message in bag.messages([ACTION], low, high)] == [5, 6, 7]


SWITCHES = ("use_chunking", "repeat_channels", "repeat_schemas", "use_statistics", "use_summary_offsets", "enable_crcs")


@pytest.mark.parametrize("off", [(), *itertools.chain(*(itertools.combinations(SWITCHES, n) for n in (1, 2, 6)))])
@pytest.mark.parametrize("index", [IndexType.ALL, IndexType.NONE, IndexType.CHUNK, IndexType.MESSAGE])
def test_every_legal_closed_mcap_file_is_read_as_it_is(tmp_path: Path, off, index):
    file = write_mcap(tmp_path / "bag.mcap", index_types=index, chunk_size=500, **dict.fromkeys(off, False))
    before = file.read_bytes()
    assert_is_whole(file)
    assert Bag(file).notes.get("parameters", {"rate": "30"}) == {"rate": "30"}
    assert repair(file).nothing_to_repair
    assert file.read_bytes() == before


@pytest.mark.parametrize("compression", list(CompressionType))
@pytest.mark.parametrize("index", [IndexType.ALL, IndexType.NONE])
def test_every_compression_of_chunks_is_read(tmp_path: Path, compression, index):
    assert_is_whole(write_mcap(tmp_path / "bag.mcap", compression=compression, index_types=index, chunk_size=500))


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("indexed", [True, False])
def test_a_file_that_was_not_closed_is_not_taken_for_a_whole_one(tmp_path: Path, chunked, indexed):
    index = IndexType.ALL if indexed else IndexType.NONE
    file = write_mcap(tmp_path / "bag.mcap", use_chunking=chunked, index_types=index, chunk_size=500)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 3])
    with pytest.raises(UserError, match=r"was not closed; run: diwa bag repair .*bag.mcap"):
        Bag(file)
    report = repair(file)
    assert report.path == tmp_path / "bag_repaired.mcap" and 0 < sum(report.messages.values()) < 2 * FRAMES
    kept = [message.data for message in Bag(report.path).messages()]
    assert kept == [data for _, _, data in messages()][: len(kept)]


@pytest.mark.parametrize("plugin", list(StoragePlugin))
@pytest.mark.parametrize("mode", [CompressionMode.NONE, CompressionMode.FILE, CompressionMode.MESSAGE])
def test_bags_of_rosbag2_are_read_whatever_their_storage_and_compression(tmp_path: Path, plugin, mode):
    writer = RosbagsWriter(tmp_path / "bag", version=9, storage_plugin=plugin)
    if mode != CompressionMode.NONE:
        writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        channels = {
            name: writer.add_connection(name, kind, typestore=typestore())
            for name, kind in ((POSE, POSE_TYPE), (ACTION, ACTION_TYPE))
        }
        for name, log_ns, data in messages():
            writer.write(channels[name], log_ns, data)
    assert_is_whole(tmp_path / "bag")
    assert repair(tmp_path / "bag").nothing_to_repair
    (tmp_path / "bag" / "metadata.yaml").unlink()
    assert_is_whole(tmp_path / "bag")


def write_humble(file: Path, made: list[tuple[str, int, bytes]]) -> Path:
    """A .db3 as Foxy to Humble write it: no definitions in it."""
    database = sqlite3.connect(file)
    database.executescript(
        "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL, "
        "serialization_format TEXT NOT NULL, offered_qos_profiles TEXT NOT NULL);"
        "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, timestamp INTEGER NOT NULL, "
        "data BLOB NOT NULL);"
    )
    database.executemany(
        "INSERT INTO topics VALUES (?, ?, ?, 'cdr', '')", [(1, POSE, POSE_TYPE), (2, ACTION, ACTION_TYPE)]
    )
    rows = [({POSE: 1, ACTION: 2}[name], log_ns, data) for name, log_ns, data in made]
    database.executemany("INSERT INTO messages(topic_id, timestamp, data) VALUES (?, ?, ?)", rows)
    database.commit()
    database.close()
    return file


def test_a_bag_of_humble_is_read_without_definitions_and_without_metadata(tmp_path: Path):
    write_humble(tmp_path / "bag_0.db3", messages())
    before = (tmp_path / "bag_0.db3").read_bytes()
    assert_is_whole(tmp_path)
    assert_is_whole(tmp_path / "bag_0.db3")
    assert (tmp_path / "bag_0.db3").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_what_waits_in_the_write_ahead_log_of_sqlite_is_read(tmp_path: Path):
    file = write_humble(tmp_path / "bag_0.db3", messages()[:20])
    database = sqlite3.connect(file)
    database.execute("PRAGMA journal_mode = WAL")
    rows = [({POSE: 1, ACTION: 2}[name], log_ns, data) for name, log_ns, data in messages()[20:]]
    database.executemany("INSERT INTO messages(topic_id, timestamp, data) VALUES (?, ?, ?)", rows)
    database.commit()
    assert_is_whole(tmp_path)
    database.close()


@pytest.mark.parametrize("damage", ["cut", "other tables", "unknown topic"])
def test_a_damaged_sqlite_bag_is_a_user_error(tmp_path: Path, damage):
    file = write_humble(tmp_path / "bag_0.db3", messages() * 20)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:9000])
    else:
        database = sqlite3.connect(file)
        database.execute("DROP TABLE topics" if damage == "other tables" else "DELETE FROM topics WHERE id = 2")
        database.commit()
        database.close()
    with pytest.raises(UserError, match="sqlite3 .* .recover|expected topics and messages|which the file lacks"):
        list(Bag(tmp_path).messages())
    with pytest.raises(UserError, match="only MCAP files can be repaired"):
        repair(tmp_path)


@pytest.mark.parametrize("names", [("a_0.mcap", "b_0.mcap", "c_0.mcap"), ("c.mcap", "b.mcap", "a.mcap"),
                                   ("x_10.mcap", "x_2.mcap", "x_1.mcap")])  # fmt: skip
@pytest.mark.parametrize("listed", ["not", "by name", "by time"])
def test_files_are_in_the_order_of_their_times_and_not_of_their_names(tmp_path: Path, names, listed):
    made = messages()
    for number, name in enumerate(names):
        write_mcap(tmp_path / name, made[number * 14 : number * 14 + 14])
    if listed != "not":
        order = sorted(names) if listed == "by name" else names
        content = {"relative_file_paths": list(order), "message_count": len(made)}
        (tmp_path / "metadata.yaml").write_text(yaml.safe_dump({"rosbag2_bagfile_information": content}))
    assert [file.name for file in Bag(tmp_path).files] == list(names)
    assert_is_whole(tmp_path)
    report = repair(tmp_path, out=tmp_path / "out")
    assert [file.name for file in Bag(report.path).files] == list(names)
    if listed == "not":
        metadata = yaml.safe_load((report.path / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
        assert metadata["relative_file_paths"] == list(names)


def test_files_of_a_recording_whose_clock_was_set_back_stay_in_their_order(tmp_path: Path):
    """Recorded from 10:00 on; at 10:10 the clock is set back by an hour; the next file begins at 9:20."""
    minute = 60 * 10**9
    early = [(POSE, START_NS + at * minute, pose(START_NS)) for at in (0, 5, 9, -50, -45)]
    late = [(POSE, START_NS + at * minute, pose(START_NS)) for at in (-40, -35)]
    write_mcap(tmp_path / "bag_0.mcap", early)
    write_mcap(tmp_path / "bag_1.mcap", late)
    content = {"relative_file_paths": ["bag_0.mcap", "bag_1.mcap"], "message_count": 7}
    (tmp_path / "metadata.yaml").write_text(yaml.safe_dump({"rosbag2_bagfile_information": content}))
    bag = Bag(tmp_path)
    assert [file.name for file in bag.files] == ["bag_0.mcap", "bag_1.mcap"]
    assert [section.step_ns < 0 for section in sections(bag.catalogue.topics) if section.step_ns].count(True) == 1


def test_repair_writes_beside_the_original_and_links_what_is_good(tmp_path: Path):
    write_bag(tmp_path / "play", FRAMES, split=Split(seconds=0.3))
    broken = tmp_path / "play" / "play_1.mcap"
    broken.write_bytes(broken.read_bytes()[:-300])
    before = {file.name: file.read_bytes() for file in (tmp_path / "play").iterdir()}
    report = repair(tmp_path / "play")
    assert {file.name: file.read_bytes() for file in (tmp_path / "play").iterdir()} == before
    assert report.path == tmp_path / "play_repaired" and report.repaired == ["play_1.mcap"]
    assert (report.path / "play_0.mcap").samefile(tmp_path / "play" / "play_0.mcap")
    assert len(list(Bag(report.path).messages())) > FRAMES
    with pytest.raises(UserError, match="play_repaired exists already; remove it, or choose another place with --out"):
        repair(tmp_path / "play")


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


def decoded(definition: str, kind: str, data: bytes) -> object:
    return MessageTypes(Path("bag")).decode(Definition(kind, "ros2msg", definition), "/topic", data)


def encoded(definition: str, kind: str, **fields: object) -> bytes:
    """A message by a definition of its own; the values by name."""
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.EMPTY)
    store.register(get_types_from_msg(definition, kind))
    types = store.types
    header = types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](7, 8), "frame")
    return bytes(store.serialize_cdr(types[kind](header=header, **fields), kind))


@pytest.mark.parametrize(
    ("fields", "values"),
    [
        ("std_msgs/Header header\nfloat32 command", {"command": -0.5}),
        ("std_msgs/Header header\nfloat64 max_effort\nfloat64 command", {"max_effort": 40.0, "command": -0.5}),
        (
            "float64 command\nstd_msgs/Header header\nint32[] more",
            {"command": -0.5, "more": np.array([1, 2], np.int32)},
        ),
    ],
)
def test_a_message_is_read_by_the_definition_of_its_own_channel(fields, values):
    kind = "diwa_msgs/msg/GripperCommand"
    found = decoded(fields + HEADER, kind, encoded(fields + HEADER, kind, **values))
    assert found.command == -0.5 and found.header.stamp.sec == 7
    assert not MessageTypes(Path("bag")).is_known(Definition(kind, "ros2msg", fields + HEADER))


def test_two_definitions_of_one_type_live_side_by_side():
    kind = "diwa_msgs/msg/GripperCommand"
    narrow, wide = ("std_msgs/Header header\n" + one + " command" + HEADER for one in ("float32", "float64"))
    types = MessageTypes(Path("bag"))
    for definition, value in ((narrow, 0.25), (wide, 0.5), (narrow, -0.25)):
        data = encoded(definition, kind, command=value)
        assert types.decode(Definition(kind, "ros2msg", definition), "/topic", data).command == value
    assert types.is_known(Definition(kind, "ros2msg", wide))


def test_types_inside_a_type_that_a_recorder_left_out_are_those_of_the_install():
    kind = "diwa_msgs/msg/GripperCommand"
    data = encoded("std_msgs/Header header\nfloat64 command" + HEADER, kind, command=1.0)
    assert decoded("std_msgs/Header header\nfloat64 command\n", kind, data).command == 1.0


@pytest.mark.parametrize("kind", [POSE_TYPE, ACTION_TYPE])
def test_without_a_definition_those_of_ours_and_of_the_standard_packages_count(kind):
    types = MessageTypes(Path("bag"))
    assert types.is_known(Definition(kind))
    assert types.decode(Definition(kind), "/topic", pose(START_NS) if kind == POSE_TYPE else action(START_NS, 3))


@pytest.mark.parametrize(
    ("definition", "words"),
    [
        (Definition("lab_msgs/msg/Thing"), "holds no definition of lab_msgs/msg/Thing.*install and source its package"),
        (Definition(""), "holds no definition of a type"),
        (Definition("a/msg/B", "protobuf", "x"), "by 'protobuf'; expected ros2msg or ros2idl"),
        (Definition("a/msg/B", "ros2msg", "nonsense["), "the definition of a/msg/B in the bag cannot be read"),
        (Definition("std_msgs/String", "ros1msg", "string data", "ros1"), "ROS 1 bag; convert it with rosbags-convert"),
        (Definition("x", "jsonschema", "{}", "json"), "encoded as 'json'; expected cdr"),
    ],
)
def test_what_cannot_be_decoded_is_named_with_what_to_do(definition, words):
    with pytest.raises(UserError, match=words):
        MessageTypes(Path("bag")).decode(definition, "/topic", b"\0\1\0\0")


def test_channels_without_a_schema_have_the_type_of_the_metadata(tmp_path: Path):
    writer = Writer(str(tmp_path / "bag_0.mcap"))
    writer.start("ros2", "another recorder")
    channel = writer.register_channel(ACTION, "cdr", 0)
    writer.add_message(channel, START_NS, action(START_NS, 3), START_NS)
    writer.finish()
    topic = {"topic_metadata": {"name": ACTION, "type": ACTION_TYPE}, "message_count": 1}
    content = {"relative_file_paths": ["bag_0.mcap"], "message_count": 1, "topics_with_message_count": [topic]}
    (tmp_path / "metadata.yaml").write_text(yaml.safe_dump({"rosbag2_bagfile_information": content}))
    bag = Bag(tmp_path)
    assert [bag.decode(message).sequence for message in bag.messages()] == [3]
