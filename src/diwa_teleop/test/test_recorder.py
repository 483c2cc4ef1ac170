"""The recorder's core, without ROS: its queue, its counts, its thread, and what it does when the disk fails."""

import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from diwa_msgs.msg import DeltaAction
from geometry_msgs.msg import PoseStamped
from hypothesis import given
from hypothesis import strategies as st
from rclpy.serialization import serialize_message

from diwa_conventions import topics
from diwa_conventions.bags.definitions import connection
from diwa_conventions.bags.reader import Bag
from diwa_conventions.bags.repair import repair
from diwa_conventions.bags.writer import BagWriter, Split
from diwa_conventions.errors import UserError
from diwa_teleop.recording.queue import BoundedQueue
from diwa_teleop.recording.recording import Options, Recording
from diwa_teleop.recording.statistics import Sequences, Stamps, TopicMonitor, action_sequence, header_stamp_ns

DEADLINE_S = 60.0
SMALL = Options(min_free_bytes=0)


def pose(stamp_ns: int = 0) -> bytes:
    message = PoseStamped()
    message.header.stamp.sec, message.header.stamp.nanosec = stamp_ns // 10**9, stamp_ns % 10**9
    message.header.frame_id = topics.BASE_FRAME
    return bytes(serialize_message(message))


def action(sequence: int, source: str = "teleop", frame: str = topics.BASE_FRAME) -> bytes:
    message = DeltaAction(sequence=sequence, source=source)
    message.header.frame_id = frame
    return bytes(serialize_message(message))


def wait_until(condition) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, "too late"
        time.sleep(0.01)


# Queue


@given(st.lists(st.one_of(st.integers(0, 120), st.none()), max_size=60))
def test_queue_never_holds_more_bytes_than_its_limit_and_keeps_the_order(steps: list):
    """A number puts an item of that size, None takes one."""
    queue: BoundedQueue[int] = BoundedQueue(100)
    inside: list[tuple[int, int]] = []
    for number, size in enumerate(steps):
        if size is None:
            taken = queue.get(0.0)
            assert taken == (inside.pop(0)[0] if inside else None)
        else:
            fits = size == 0 or sum(other for _, other in inside) + size <= 100
            assert queue.put(number, size) == fits
            if fits:
                inside.append((number, size))
        assert queue.bytes == sum(other for _, other in inside) <= 100 and len(queue) == len(inside)


# Counts


@given(st.integers(0, 2**31 - 1), st.integers(0, 10**9 - 1))
def test_stamp_is_read_from_the_bytes(seconds: int, nanoseconds: int):
    assert header_stamp_ns(pose(seconds * 10**9 + nanoseconds)) == seconds * 10**9 + nanoseconds


@given(st.integers(0, 2**64 - 1), st.text("abcdef", max_size=20), st.text("xyz", max_size=20))
def test_source_and_sequence_of_an_action_are_read_from_the_bytes(sequence: int, source: str, frame: str):
    assert action_sequence(action(sequence, source, frame)) == (source, sequence)


@given(st.binary(max_size=60))
def test_any_other_bytes_are_no_fault(data: bytes):
    action_sequence(data)
    header_stamp_ns(data)


def test_gap_in_a_senders_numbers_is_counted_and_its_restart_is_not():
    sequences = Sequences()
    for sender, number in (("a", 1), ("a", 2), ("b", 70), ("a", 5), ("b", 71), ("a", 1), ("a", 2)):
        sequences.add(sender, number)
    assert sequences.missing == 2


def missing(gaps_s: list[float], rate_hz: float = 30.0, pause_s: float = float("inf")) -> int:
    stamps, now_ns = Stamps(rate_hz, pause_s), 10**9
    stamps.add(now_ns)
    for gap_s in gaps_s:
        now_ns += int(gap_s * 1e9)
        stamps.add(now_ns)
    return stamps.missing


def test_gap_between_stamps_counts_the_messages_that_were_due():
    assert missing([1 / 30] * 20 + [3 / 30] + [1 / 30] * 20 + [2 / 30]) == 2 + 1


def test_slower_and_faster_senders_miss_nothing():
    assert missing([1 / 15] * 100) == 0 and missing([1 / 1000] * 100) == 0


def test_messages_that_come_late_in_a_bunch_are_not_missing():
    assert missing([1 / 30] * 20 + [4 / 30, 0.001, 0.001, 0.001] + [1 / 30] * 5) == 0


def test_pause_is_no_loss_where_topics_pause():
    assert missing([1 / 30] * 20 + [7.0] + [1 / 30] * 5, pause_s=0.5) == 0
    assert missing([1 / 30] * 20 + [7.0] + [1 / 30] * 5) == 209


def test_stamps_that_jump_back_are_no_loss():
    assert missing([1 / 30] * 20 + [-5.0] + [1 / 30] * 20) == 0


def test_report_counts_rate_age_and_what_was_refused():
    monitor = TopicMonitor(topics.CURRENT_POSE, "/diwa/current_pose")
    assert monitor.report(0.0).age_s == -1.0
    for number in range(241):
        monitor.add(pose(10**9 + number * 8_333_333), number / 120, b"gid", number + 1, refused=number == 7)
        if number % 120 == 0:
            report = monitor.report(number / 120)
    assert report.received == 241 and report.refused == report.dropped == 1
    assert report.rate_hz == pytest.approx(120.0, rel=0.01) and report.age_s == 0.0


def test_one_loss_that_shows_in_numbers_and_stamps_counts_once():
    monitor = TopicMonitor(topics.ACTION, "/diwa/action")
    for number in (1, 2, 3, 4, 5, 6, 7, 8, 11, 12):
        monitor.add(action(number), number / 30, b"gid", number, refused=False)
    assert monitor.report(1.0).dropped == 2


# Recording


def test_recording_writes_what_was_put_and_says_what_came_of_it(tmp_path: Path):
    recording = Recording(tmp_path / "play", SMALL, {"tags": "x"})
    channel = recording.add(connection(topics.CURRENT_POSE, "diwa"))
    recording.note("parameters", {"node": "a: 1"})
    for number in range(100):
        assert recording.put(channel, 10**9 + number * 10**7, pose(number))
    summary = recording.close()
    assert (summary.messages, summary.fault, summary.lost) == (100, "", 0)
    assert summary.duration_s == pytest.approx(0.99)
    bag = Bag(tmp_path / "play")
    assert [message.data for message in bag.messages()] == [pose(number) for number in range(100)]
    assert bag.custom == {"tags": "x"} and bag.notes["parameters"] == {"node": "a: 1"}
    assert not recording.put(channel, 10**9, pose()), "it is over"


def test_recording_into_a_folder_that_holds_something_is_refused(tmp_path: Path):
    (tmp_path / "notes").touch()
    with pytest.raises(UserError, match="exists already"):
        Recording(tmp_path, SMALL, {})


def test_slow_disk_drops_the_newest_and_memory_stays_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    go_on = threading.Event()
    write = BagWriter.write
    monkeypatch.setattr(BagWriter, "write", lambda *words, **more: (go_on.wait(DEADLINE_S), write(*words, **more)))
    recording = Recording(tmp_path / "play", Options(queue_bytes=10 * len(pose()), min_free_bytes=0), {})
    channel = recording.add(connection(topics.CURRENT_POSE, "diwa"))
    kept = [number for number in range(50) if recording.put(channel, 10**9 + number, pose(number))]
    assert 10 <= len(kept) <= 11 and kept == list(range(len(kept))), "one is in the writer's hands"
    go_on.set()
    recording.close()
    assert [message.data for message in Bag(tmp_path / "play").messages()] == [pose(number) for number in kept]


def test_recording_splits_by_size(tmp_path: Path):
    recording = Recording(tmp_path / "play", Options(split=Split(bytes=5000), min_free_bytes=0), {})
    channel = recording.add(connection(topics.CURRENT_POSE, "diwa"))
    for number in range(200):
        recording.put(channel, 10**9 + number, pose(number))
    recording.close()
    assert len(Bag(tmp_path / "play").files) > 3
    assert Bag(tmp_path / "play").topics["/diwa/current_pose"].messages == 200


def test_disk_that_is_nearly_full_ends_the_recording_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Usage:
        free = 2_000_000_000

    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage)
    recording = Recording(tmp_path / "play", Options(min_free_bytes=1_000_000_000), {})
    channel = recording.add(connection(topics.CURRENT_POSE, "diwa"))
    assert recording.disk_is_low and recording.put(channel, 10**9, pose())
    Usage.free = 900_000_000
    wait_until(lambda: recording.fault)
    assert "is full: 900 MB are left, 1000 MB must stay free" in recording.fault
    assert not recording.put(channel, 10**9, pose())
    assert recording.close().messages == 1
    assert Bag(tmp_path / "play").topics["/diwa/current_pose"].messages == 1


FULL = """
import resource, sys, time
from pathlib import Path
from test_recorder import SMALL, connection, pose, topics, wait_until, Recording

resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
recording = Recording(Path(sys.argv[1]), SMALL, {})
channel = recording.add(connection(topics.CURRENT_POSE, "diwa"))
number = 0
def put():
    global number
    for _ in range(20):
        number += recording.put(channel, 10**9 + number, pose(number))
    return recording.fault
wait_until(put)
print(recording.close().fault)
"""


def test_full_disk_is_a_fault_with_its_reason_and_the_bag_can_be_read(tmp_path: Path):
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    command = [sys.executable, "-c", FULL, str(tmp_path / "play")]
    run = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=90)
    assert run.returncode == 0, run.stderr
    assert "the bag cannot be written" in run.stdout and "File too large" in run.stdout
    repair(tmp_path / "play", in_place=True)
    messages = [message.data for message in Bag(tmp_path / "play").messages()]
    assert messages == [pose(number) for number in range(len(messages))] and messages
