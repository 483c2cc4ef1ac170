"""Bags: written whole, read by everybody, and every kind of damage is a UserError or mended."""

import json
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from ament_index_python.packages import get_package_share_directory
from bag_samples import ACTION, POSE, START_NS, STEP_NS, action, pose, write_bag
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin, Writer

from diwa_conventions import topics
from diwa_conventions.bags.definitions import connection, typestore
from diwa_conventions.bags.reader import Bag
from diwa_conventions.bags.repair import repair
from diwa_conventions.bags.writer import BagWriter, Split
from diwa_conventions.errors import UserError

FRAMES = 20
quick = settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    write_bag(tmp_path / "play", FRAMES)
    return tmp_path / "play"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good file."""
    folder = tmp_path_factory.mktemp("good") / "play"
    write_bag(folder, FRAMES)
    return folder / "play_0.mcap"


def sequences(path: Path) -> list[int]:
    bag = Bag(path)
    return [bag.decode(message).sequence for message in bag.messages([ACTION])]


def test_what_was_written_is_read(bag: Path):
    read = Bag(bag)
    assert {name: topic.messages for name, topic in read.topics.items()} == {POSE: FRAMES, ACTION: FRAMES}
    assert read.custom == {"tags": "test"} and read.notes["parameters"] == {"/diwa/recorder": "compression: none"}
    assert read.start_ns == START_NS and read.end_ns == START_NS + (FRAMES - 1) * STEP_NS + 1
    raw = list(read.messages())
    assert [message.log_ns for message in raw] == sorted(message.log_ns for message in raw) and len(raw) == 2 * FRAMES
    assert raw[0].data == pose(START_NS) and raw[1].type == "diwa_msgs/msg/DeltaAction"
    assert sequences(bag) == list(range(FRAMES))


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
def test_every_compression_is_read_by_rosbags_and_mcap(tmp_path: Path, compression):
    folder = tmp_path / "play"
    write_bag(folder, FRAMES, compression)
    with AnyReader([folder]) as reader:
        wanted = [one for one in reader.connections if one.topic == ACTION]
        found = [reader.deserialize(data, one.msgtype) for one, _, data in reader.messages(wanted)]
        assert [one.sequence for one in found] == list(range(FRAMES))
    with open(folder / "play_0.mcap", "rb") as stream:
        reader = make_reader(stream, validate_crcs=True)
        assert reader.get_header().profile == "ros2"
        assert sum(1 for _ in reader.iter_messages([POSE])) == FRAMES
        assert {channel.topic for channel in reader.get_summary().channels.values()} == {POSE, ACTION}
    assert sequences(folder) == list(range(FRAMES))


def test_metadata_says_what_ros2_bag_info_and_play_want(bag: Path):
    information = yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert (information["version"], information["storage_identifier"]) == (9, "mcap")
    assert information["message_count"] == 2 * FRAMES and information["custom_data"] == {"tags": "test"}
    assert information["starting_time"] == {"nanoseconds_since_epoch": START_NS}
    (file,) = information["files"]
    assert file["path"] == "play_0.mcap" == information["relative_file_paths"][0]
    assert file["message_count"] == 2 * FRAMES and file["duration"] == information["duration"]
    topic = {
        entry["topic_metadata"]["name"]: entry["topic_metadata"] for entry in information["topics_with_message_count"]
    }[POSE]
    (profile,) = topic["offered_qos_profiles"]
    assert (profile["history"], profile["reliability"], profile["durability"], profile["liveliness"]) == (
        "keep_last",
        "best_effort",
        "volatile",
        "automatic",
    )
    assert profile["deadline"] == {"sec": 9223372036, "nsec": 854775807}
    with open(bag / "play_0.mcap", "rb") as stream:
        (channel,) = [c for c in make_reader(stream).get_summary().channels.values() if c.topic == POSE]
    assert channel.metadata["topic_type_hash"] == topic["type_description_hash"]
    assert yaml.safe_load(channel.metadata["offered_qos_profiles"]) == topic["offered_qos_profiles"]


def test_under_humble_metadata_is_what_humbles_rosbag2_reads(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("ROS_DISTRO", "humble")
    write_bag(tmp_path / "play", FRAMES)
    information = yaml.safe_load((tmp_path / "play" / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert information["version"] == 5 and information["message_count"] == 2 * FRAMES
    for entry in information["topics_with_message_count"]:
        topic = entry["topic_metadata"]
        assert set(topic) == {"name", "type", "serialization_format", "offered_qos_profiles"}
        (profile,) = yaml.safe_load(topic["offered_qos_profiles"])
        policies = ("history", "reliability", "durability", "liveliness")
        assert [profile[name] for name in policies] == [1, 2 if topic["name"] == POSE else 1, 2, 1]
    with open(tmp_path / "play" / "play_0.mcap", "rb") as stream:
        channels = make_reader(stream).get_summary().channels.values()
        assert all(isinstance(yaml.safe_load(c.metadata["offered_qos_profiles"])[0]["history"], int) for c in channels)
    assert sequences(tmp_path / "play") == list(range(FRAMES))


def test_type_hashes_are_those_that_ros_generated():
    share = Path(get_package_share_directory("diwa_msgs"), "msg")
    for topic in topics.TOPICS:
        package, _, name = topic.type.split("/")
        if package != "diwa_msgs":
            continue
        hashes = json.loads((share / f"{name}.json").read_text())["type_hashes"]
        (generated,) = [entry["hash_string"] for entry in hashes if entry["type_name"] == topic.type]
        assert connection(topic, "diwa").type_hash == generated


def test_time_range_and_topics_select(bag: Path):
    begin, end = START_NS + 5 * STEP_NS, START_NS + 10 * STEP_NS
    assert [message.log_ns for message in Bag(bag).messages([POSE], begin, end)] == [
        START_NS + frame * STEP_NS for frame in range(5, 10)
    ]
    assert list(Bag(bag).messages(["/other"])) == list(Bag(bag).messages([])) == []
    assert list(Bag(bag).messages(None, end, begin)) == []


def test_messages_that_come_late_are_read_in_the_order_of_their_time(tmp_path: Path):
    writer = BagWriter(tmp_path / "play")
    channel = writer.add(connection(topics.CURRENT_POSE, "diwa"))
    for offset in (3, 1, 2, 6, 5, 4):
        writer.write(channel, START_NS + offset, pose(START_NS))
        writer._file.flush()
    writer.close()
    assert [message.log_ns - START_NS for message in Bag(tmp_path / "play").messages()] == [1, 2, 3, 4, 5, 6]


def test_the_bytes_of_a_view_are_taken_when_it_is_written(tmp_path: Path):
    buffer = bytearray(pose(START_NS))
    writer = BagWriter(tmp_path / "play")
    writer.write(writer.add(connection(topics.CURRENT_POSE, "diwa")), START_NS, memoryview(buffer))
    buffer[:] = bytes(len(buffer))
    writer.close()
    assert next(Bag(tmp_path / "play").messages()).data == pose(START_NS)


@pytest.mark.parametrize("split", [Split(bytes=2000), Split(seconds=0.2)])
def test_split_bag_is_read_as_one(tmp_path: Path, split: Split):
    writer = write_bag(tmp_path / "play", FRAMES, split=split)
    assert len(Bag(tmp_path / "play").files) > 2 and writer.messages == 2 * FRAMES
    assert writer.bytes_written == Bag(tmp_path / "play").size_bytes
    assert sequences(tmp_path / "play") == list(range(FRAMES))
    for file in Bag(tmp_path / "play").files:
        assert Bag(file).notes["parameters"], "each file can be read alone"
    with AnyReader([tmp_path / "play"]) as reader:
        assert reader.message_count == 2 * FRAMES


def test_more_than_ten_files_keep_their_order_without_metadata(tmp_path: Path):
    write_bag(tmp_path / "play", FRAMES, split=Split(bytes=1))
    (tmp_path / "play" / "metadata.yaml").unlink()
    assert len(Bag(tmp_path / "play").files) > 10
    assert sequences(tmp_path / "play") == list(range(FRAMES))


def test_writing_into_a_folder_that_holds_something_is_refused(bag: Path):
    with pytest.raises(UserError, match="exists already"):
        BagWriter(bag)


def test_empty_bag_is_read(tmp_path: Path):
    write_bag(tmp_path / "play", frames=0)
    assert Bag(tmp_path / "play").duration_s == 0 and list(Bag(tmp_path / "play").messages()) == []


# Foreign and missing files


def test_bag_that_is_not_there_or_holds_nothing_is_named(tmp_path: Path):
    with pytest.raises(UserError, match="there is no bag"):
        Bag(tmp_path / "nothing")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match="no bag file .found: notes.txt"):
        Bag(tmp_path)


@pytest.mark.parametrize("kind", ["text", "zip", "ros1", "zeros"])
def test_foreign_file_is_refused_and_left_alone(tmp_path: Path, kind: str):
    file = tmp_path / "play_0.mcap"
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a", "b" * 100)
    else:
        content = {"text": b"rosbag2_bagfile_information:\n", "ros1": b"#ROSBAG V2.0\n" + bytes(99)}
        file.write_bytes(content.get(kind, bytes(5000)))
    before = file.read_bytes()
    for use in (Bag, repair):
        with pytest.raises(UserError, match="rosbags-convert" if kind == "ros1" else "is not an MCAP file"):
            use(tmp_path)
    assert file.read_bytes() == before


def test_empty_file_is_named_and_repaired_to_an_empty_bag(tmp_path: Path):
    (tmp_path / "play_0.mcap").touch()
    with pytest.raises(UserError, match="is empty.*diwa bag repair"):
        Bag(tmp_path)
    assert repair(tmp_path, in_place=True).repaired == ["play_0.mcap"]
    assert list(Bag(tmp_path).messages()) == []


def test_missing_file_is_named_and_repair_goes_on_without_it(tmp_path: Path):
    write_bag(tmp_path / "play", FRAMES, split=Split(seconds=0.3))
    (tmp_path / "play" / "play_1.mcap").unlink()
    with pytest.raises(UserError, match="names play_1.mcap, which is not there"):
        Bag(tmp_path / "play")
    report = repair(tmp_path / "play", in_place=True)
    assert report.missing == ["play_1.mcap"] and report.metadata_written and not report.repaired
    assert 0 < len(sequences(tmp_path / "play")) < FRAMES


@pytest.mark.parametrize(
    "text", ["", "[1, 2", "rosbag2_bagfile_information: 3", "rosbag2_bagfile_information: {}", "\0"]
)
def test_metadata_that_cannot_be_read_is_named_and_repaired(bag: Path, text: str):
    (bag / "metadata.yaml").write_text(text)
    with pytest.raises(UserError, match="metadata.yaml cannot be read.*diwa bag repair"):
        Bag(bag)
    assert repair(bag, in_place=True).metadata_written
    assert sequences(bag) == list(range(FRAMES))
    assert yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]["custom_data"]


def test_bag_of_another_writer_is_read(tmp_path: Path):
    with Writer(tmp_path / "other", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        channel = writer.add_connection(ACTION, "diwa_msgs/msg/DeltaAction", typestore=typestore())
        for frame in range(5):
            writer.write(channel, START_NS + frame, action(START_NS, frame))
    assert sequences(tmp_path / "other") == list(range(5))


IDL = """module pkg { module msg { struct Level { uint32 level; }; }; };
"""


@pytest.mark.parametrize("encoding", ["ros2idl", "jsonschema"])
def test_definitions_in_idl_are_understood_and_unknown_ones_named(tmp_path: Path, encoding: str):
    writer = BagWriter(tmp_path / "play")
    separator = "=" * 80 + "\nIDL: pkg/msg/Level\n"
    schema = writer._file.add_schema("pkg/msg/Level", encoding, (separator + IDL).encode())
    channel = writer._file.add_channel("/level", schema, {})
    writer._file.add_message(channel, START_NS, START_NS, 0, b"\0\1\0\0\7\0\0\0")
    writer.close()
    bag = Bag(tmp_path / "play")
    (message,) = bag.messages()
    if encoding == "ros2idl":
        assert bag.decode(message).level == 7
    else:
        with pytest.raises(UserError, match="'jsonschema'; expected ros2msg or ros2idl"):
            bag.decode(message)


def test_message_that_does_not_fit_its_type_is_named(bag: Path):
    read = Bag(bag)
    message = next(read.messages([ACTION]))
    with pytest.raises(UserError, match="action cannot be read as diwa_msgs/msg/DeltaAction"):
        read.decode(message._replace(data=message.data[:30]))


# Damage: whatever happens to the bytes, reading ends with what was there or a UserError


def read_all(path: Path) -> list[bytes]:
    """Messages until the end or a UserError."""
    found = []
    try:
        for message in Bag(path).messages():
            found.append(message.data)
    except UserError as error:
        assert "\n" not in str(error)
    return found


def originals() -> set[bytes]:
    stamps = [START_NS + frame * STEP_NS for frame in range(FRAMES)]
    return {pose(stamp) for stamp in stamps} | {action(stamp, frame) for frame, stamp in enumerate(stamps)}


ORIGINALS = originals()


@quick
@given(cut=st.floats(0.0, 1.0))
def test_truncated_bag_is_a_user_error_and_repair_keeps_every_whole_message(tmp_path: Path, good: Path, cut: float):
    file = tmp_path / "play_0.mcap"
    content = good.read_bytes()
    length = int(cut * len(content))
    file.write_bytes(content[:length])
    read_all(tmp_path)
    repair(tmp_path, in_place=True)
    kept = read_all(tmp_path)
    assert kept == [data for data in sorted_originals() if content.index(data) + len(data) <= length]
    assert repair(tmp_path, in_place=True).nothing_to_repair
    if kept:
        with AnyReader([tmp_path]) as reader:
            assert sum(1 for _ in reader.messages()) == len(kept)
    (tmp_path / "metadata.yaml").unlink()


def sorted_originals() -> list[bytes]:
    found = []
    for frame in range(FRAMES):
        found += [pose(START_NS + frame * STEP_NS), action(START_NS + frame * STEP_NS, frame)]
    return found


@quick
@given(flips=st.lists(st.tuples(st.floats(0.0, 1.0, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=3))
def test_flipped_bytes_never_lead_to_another_error_or_to_wrong_messages(tmp_path: Path, good: Path, flips):
    file = tmp_path / "play_0.mcap"
    damaged = bytearray(good.read_bytes())
    for place, mask in flips:
        damaged[int(place * len(damaged))] ^= mask
    file.write_bytes(damaged)
    assert set(read_all(tmp_path)) <= ORIGINALS
    try:
        repair(tmp_path, in_place=True)
    except UserError as error:
        assert "is not an MCAP file" in str(error)
        return
    assert set(read_all(tmp_path)) <= ORIGINALS
    assert repair(tmp_path, in_place=True).nothing_to_repair, "once is enough"
    (tmp_path / "metadata.yaml").unlink(missing_ok=True)


@pytest.mark.parametrize("place", range(30, 60, 2))
def test_damage_in_the_middle_costs_one_chunk(tmp_path: Path, good: Path, place: int):
    damaged = bytearray(good.read_bytes())
    at = damaged.index(pose(START_NS + 10 * STEP_NS)) - 60 + place
    damaged[at] ^= 0x10
    (tmp_path / "play_0.mcap").write_bytes(damaged)
    report = repair(tmp_path, in_place=True)
    assert report.repaired and 0 < report.lost_bytes < 1000
    assert sum(report.messages.values()) == 2 * FRAMES - 4
    assert sequences(tmp_path) == [frame for frame in range(FRAMES) if frame not in (10, 11)]


# Repair


def test_repair_leaves_a_good_bag_untouched(bag: Path):
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in bag.iterdir()}
    assert repair(bag, in_place=True).nothing_to_repair
    assert {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in bag.iterdir()} == before


def test_repair_leaves_the_bag_of_another_writer_untouched(tmp_path: Path):
    with Writer(tmp_path / "other", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        channel = writer.add_connection(ACTION, "diwa_msgs/msg/DeltaAction", typestore=typestore())
        writer.write(channel, START_NS, action(START_NS, 0))
    assert repair(tmp_path / "other", in_place=True).nothing_to_repair


def test_bag_that_is_being_written_is_neither_read_nor_repaired(tmp_path: Path):
    writer = write_bag(tmp_path / "play", close=False)
    with pytest.raises(UserError, match="still being written"):
        Bag(tmp_path / "play")
    with pytest.raises(UserError, match="is being written; stop its recording first"):
        repair(tmp_path / "play", in_place=True)
    writer.close()
    assert sequences(tmp_path / "play") == list(range(FRAMES))


def test_repair_keeps_tags_and_parameters_of_a_bag_without_metadata(tmp_path: Path):
    write_bag(tmp_path / "play")
    (tmp_path / "play" / "metadata.yaml").unlink()
    file = tmp_path / "play" / "play_0.mcap"
    file.write_bytes(file.read_bytes()[:-100])
    report = repair(tmp_path / "play", in_place=True)
    assert report.lost_bytes == 0 and report.duration_s > 0.6
    assert Bag(tmp_path / "play").custom == {"tags": "test"} and "parameters" in Bag(tmp_path / "play").notes
    with AnyReader([tmp_path / "play"]) as reader:
        assert {one.topic: one.msgcount for one in reader.connections} == {POSE: FRAMES, ACTION: FRAMES}


# A full disk

FULL = """
import resource, signal, sys
from pathlib import Path
from bag_samples import START_NS, STEP_NS, pose
from diwa_conventions import topics
from diwa_conventions.bags.definitions import connection
from diwa_conventions.bags.writer import BagWriter

resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
writer = BagWriter(Path(sys.argv[1]))
channel = writer.add(connection(topics.CURRENT_POSE, "diwa"))
written = 0
try:
    for frame in range(100000):
        writer.write(channel, START_NS + frame * STEP_NS, pose(START_NS + frame * STEP_NS))
        if frame % 10 == 9:
            writer._file.flush()
            written = frame + 1
except OSError as error:
    print("fault", written)
try:
    writer.close()
    print("closed", writer.lost)
except OSError as error:
    print("not closed")
"""


@pytest.mark.parametrize("limit", [30_000, 31_000, 100_000])
def test_full_disk_keeps_every_chunk_and_repair_needs_no_more_room(tmp_path: Path, limit: int):
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] in (resource.RLIM_INFINITY, 2**63 - 1)
    command = [sys.executable, "-c", FULL, str(tmp_path / "play"), str(limit)]
    run = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    fault, end = run.stdout.splitlines()
    written = int(fault.removeprefix("fault "))
    assert written > 50
    repair(tmp_path / "play", in_place=True)
    stamps = [message.log_ns for message in Bag(tmp_path / "play").messages()]
    assert stamps == [START_NS + frame * STEP_NS for frame in range(written)]
    assert end in ("closed 10", "not closed")
