"""The import node, fed by publishers: its data set equals that of a direct import, bit for bit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import rclpy
from bag_factory import NS, START_NS, Item, items, write_bag
from diwa_msgs.msg import StageProgress
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from rosgraph_msgs.msg import Clock

from diwa_conventions import topics
from diwa_conventions.bags.definitions import connection
from diwa_conventions.bags.reader import Bag
from diwa_conventions.errors import UserError
from diwa_conventions.qos import message_type, profile
from diwa_worldmodel.dataset.arrivals import ArrivalBag, SendingTimes
from diwa_worldmodel.dataset.config import DataSetConfig
from diwa_worldmodel.dataset.importing import import_all
from diwa_worldmodel.dataset.store import open_data_set, open_or_create
from diwa_worldmodel.nodes.importer import HEARD, ImportNode

DEADLINE_S = 60.0
SIZE = 16


class Lab:
    """The node, somebody who sends a bag's messages, and somebody who listens to the progress; in one process."""

    def __init__(
        self, out: Path, *parameters: str, reliability: QoSReliabilityPolicy = QoSReliabilityPolicy.RELIABLE
    ) -> None:
        words = [word for one in (f"out:={out}", f"image_size:={SIZE}", *parameters) for word in ("-p", one)]
        rclpy.init(args=["--ros-args", "-r", "__ns:=/diwa", *words])
        self.node = ImportNode()
        self.sender = rclpy.create_node("sender", use_global_arguments=False, namespace="/diwa")
        quality = QoSProfile(depth=100, reliability=reliability)
        self.publishers = {
            f"/diwa/{topic.name}": self.sender.create_publisher(message_type(topic), topic.name, quality)
            for topic in HEARD
        }
        self.clock = self.sender.create_publisher(Clock, "/clock", 10)
        self.progress: list[StageProgress] = []
        topic = topics.TRAINING_PROGRESS
        self.sender.create_subscription(message_type(topic), topic.name, self.progress.append, profile(topic))
        self.executor = SingleThreadedExecutor()
        for node in (self.node, self.sender):
            self.executor.add_node(node)
        self.until(self._matched, "subscriptions")

    def _matched(self) -> bool:
        told = self.node.count_subscribers(topics.TRAINING_PROGRESS.name) > 0
        return told and all(one.get_subscription_count() for one in self.publishers.values())

    def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline_s = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline_s, f"{what} did not come within {DEADLINE_S:.0f} s"
            self.executor.spin_once(timeout_sec=0.05)

    def send(self, bag: Path, names: Sequence[str] | None = None) -> int:
        """All messages in their order, each taken before the next is sent; how many."""
        before = self.node.messages
        count = 0
        for count, message in enumerate(Bag(bag).messages(names), start=1):
            self.publishers[message.topic].publish(message.data)
            self.until(lambda count=count: self.node.messages == before + count, f"message {count}")  # type: ignore[misc]
        return count

    def ended(self) -> int:
        """The exit code, when the node has ended by itself."""
        self.until(lambda: self.node.over, "the end of the import")
        return self.node.close()

    def last_word(self, state: int) -> StageProgress:
        """The message with which the progress ends, in this state."""
        self.until(lambda: bool(self.progress) and self.progress[-1].state == state, "the last word")
        return self.progress[-1]

    def close(self) -> None:
        self.executor.shutdown()
        for node in (self.node, self.sender):
            node.destroy_node()
        rclpy.shutdown()


@pytest.fixture
def lab(tmp_path) -> Iterator[Callable[..., Lab]]:
    labs: list[Lab] = []

    def make(*parameters: str, **options: QoSReliabilityPolicy) -> Lab:
        labs.append(Lab(tmp_path / "data", *parameters, **options))
        return labs[-1]

    yield make
    for one in labs:
        one.close()


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of both cameras, arm, scene and commands, and a mark."""
    mark = Item(topics.ANNOTATION, START_NS + NS, START_NS + NS, {"note": "seen"})
    made = [*items(2.0, state_hz=30.0, scene=True), mark]
    return write_bag(tmp_path_factory.mktemp("bag") / "bag", sorted(made, key=lambda item: item.log_ns))


def imported(bag: Path, out: Path):  # type: ignore[no-untyped-def]
    """The recording of a direct import."""
    open_or_create(out, DataSetConfig(image_size_px=SIZE))
    assert import_all([bag], out, workers=1, quiet=True) == []
    (recording,) = open_data_set(out).recordings
    return recording


def assert_same(one, other) -> None:  # type: ignore[no-untyped-def]
    """Two recordings hold the same, bit for bit."""
    for name in ("static", "gripper", "proprio", "action", "stamp_ns", "scene_state"):
        assert np.array_equal(getattr(one, name)[:], getattr(other, name)[:]), name
    assert (one.episodes, one.annotations) == (other.episodes, other.annotations)
    assert one.content_hash == other.content_hash


@pytest.mark.parametrize("reliability", [QoSReliabilityPolicy.RELIABLE, QoSReliabilityPolicy.BEST_EFFORT])
def test_data_set_of_replayed_topics_equals_that_of_direct_import(lab, bag, tmp_path, reliability):
    one = lab("idle_s:=0.5", reliability=reliability)
    sent = one.send(bag)
    assert one.ended() == 0
    last = one.last_word(StageProgress.FINISHED)
    (recording,) = open_data_set(tmp_path / "data").recordings
    assert_same(recording, imported(bag, tmp_path / "direct"))
    assert recording.frames > 10 and len(recording.annotations) == 1
    assert dict(zip(last.names, last.values, strict=True)) == {"messages": sent, "lost": 0.0}
    assert last.stage == "import" and recording.id in last.message and math.isnan(last.eta_s)
    assert not (tmp_path / "data_bags").exists()


def test_a_faster_clock_gives_the_same_data_set(lab, bag, tmp_path):
    one = lab("idle_s:=0.5", "use_sim_time:=true", "keep_bag:=true")
    tick = Clock()
    tick.clock.sec = START_NS // NS
    one.until(lambda: one.clock.publish(tick) or one.node.get_clock().now().nanoseconds > 0, "the clock")
    one.send(bag)
    assert one.ended() == 0
    (recording,) = open_data_set(tmp_path / "data").recordings
    assert_same(recording, imported(bag, tmp_path / "direct"))
    (kept,) = (tmp_path / "data_bags").iterdir()
    assert abs(Bag(kept).start_ns - START_NS) < NS


def test_told_to_stop_it_imports_what_came(lab, bag, tmp_path):
    one = lab("idle_s:=1000.0")
    one.send(bag)
    assert one.node.close() == 0
    assert open_data_set(tmp_path / "data").frames > 10


def test_told_to_stop_before_anything_came_it_says_so(lab, tmp_path):
    one = lab()
    assert one.node.close() == 1
    assert one.last_word(StageProgress.FAILED).message == "nothing came, so nothing was imported"
    assert not (tmp_path / "data_bags").exists()


def test_what_cannot_be_imported_is_kept_with_the_command_that_imports_it(lab, bag, tmp_path):
    one = lab("idle_s:=0.2")
    one.send(bag, ["/diwa/current_pose"])
    assert one.ended() == 2
    message = one.last_word(StageProgress.FAILED).message
    (kept,) = (tmp_path / "data_bags").iterdir()
    assert "has no messages on static_camera/image_raw" in message
    assert f"what came is kept: diwa import {kept} --out {tmp_path / 'data'}" in message
    assert Bag(kept).topics["/diwa/current_pose"].messages == 60


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("out:=''", "parameter out is missing; expected the folder of a data set"),
        ("fit:=stretch", "unknown fit 'stretch'; known: crop, letterbox"),
    ],
)
def test_wrong_parameter_is_named(tmp_path, wrong, message):
    rclpy.init(args=["--ros-args", "-p", f"out:={tmp_path / 'data'}", "-p", wrong])
    try:
        with pytest.raises(UserError, match=message):
            ImportNode()
    finally:
        rclpy.shutdown()


def test_data_set_of_another_image_size_is_refused_before_anything_is_received(tmp_path):
    open_or_create(tmp_path / "data", DataSetConfig(image_size_px=SIZE))
    rclpy.init(args=["--ros-args", "-p", f"out:={tmp_path / 'data'}", "-p", "image_size:=32"])
    try:
        with pytest.raises(UserError, match="import with the same options or into another folder"):
            ImportNode()
    finally:
        rclpy.shutdown()


# Without ROS: what is counted, and when it was sent


def test_messages_that_are_missing_between_numbers_or_before_the_first_are_told(tmp_path):
    bag = ArrivalBag(tmp_path / "bag")
    one = bag.add(connection(topics.CURRENT_POSE, "diwa"))
    for publisher, number in ((b"a", 3), (b"a", 4), (b"b", 1), (b"a", 7), (b"a", None), (b"b", 2)):
        bag.keep(one, START_NS, bytes(12), publisher, number)
    bag.close()
    assert (one.received, one.lost, one.before) == (6, 2, 2)
    assert bag.losses() == [
        "/diwa/current_pose: 2 of 8 messages were lost",
        "/diwa/current_pose: 2 messages were sent before the first one that came",
    ]
    assert Bag(tmp_path / "bag").topics["/diwa/current_pose"].messages == 6


def test_messages_of_a_topic_stay_in_their_order_whatever_their_times_are(tmp_path):
    bag = ArrivalBag(tmp_path / "bag")
    one = bag.add(connection(topics.CURRENT_POSE, "diwa"))
    for number, log_ns in enumerate((START_NS, START_NS - 5, START_NS)):
        bag.keep(one, log_ns, bytes([number]) * 12, b"a", number + 1)
    bag.close()
    assert [message.data[0] for message in Bag(tmp_path / "bag").messages()] == [0, 1, 2]


def test_sending_times_do_not_depend_on_how_late_a_receiver_is():
    times, speed = SendingTimes(), 10

    def log_ns(sent_ns: int, late_ns: int) -> int:
        now_ns = sent_ns + late_ns
        return times.log_ns(sent_ns, now_ns, START_NS + now_ns * speed)

    log_ns(0, 0)
    for sent_ns, late_ns in ((NS, 0), (2 * NS, NS), (3 * NS, NS // 10)):
        assert log_ns(sent_ns, late_ns) == pytest.approx(START_NS + sent_ns * speed, abs=1000)
