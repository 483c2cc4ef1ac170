"""The recorder node as a process, fed by real publishers."""

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import rclpy
from diwa_msgs.msg import Annotation, DeltaAction
from diwa_msgs.srv import Annotate, StartRecording, StopRecording
from geometry_msgs.msg import PoseStamped
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image, Temperature

from diwa_conventions import topics
from diwa_conventions.bags.reader import Bag
from diwa_conventions.bags.repair import repair
from diwa_conventions.errors import UserError
from diwa_conventions.qos import message_type, profile

DEADLINE_S = 60.0
POSE, ACTION, IMAGE = "/diwa/current_pose", "/diwa/action", "/diwa/static_camera/image_raw"


class World:
    """Publishes poses at 100 Hz, actions and small images at 30 Hz, and calls the recorder's services."""

    def __init__(self) -> None:
        rclpy.init()
        self.node: Node = rclpy.create_node("world", namespace="diwa")
        self.pose = self.node.create_publisher(PoseStamped, topics.CURRENT_POSE.name, profile(topics.CURRENT_POSE))
        self.action = self.node.create_publisher(DeltaAction, topics.ACTION.name, profile(topics.ACTION))
        # Many camera drivers are best effort, whatever the table of topics says.
        self.image = self.node.create_publisher(Image, topics.STATIC_IMAGE.name, qos_profile_sensor_data)
        self.sequence = 0
        self.states: list = []
        topic = topics.RECORDER_STATE
        self.node.create_subscription(message_type(topic), topic.name, self.states.append, profile(topic))
        self.node.create_timer(0.01, self._send_pose)
        self.node.create_timer(1 / 30, self._send_frame)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()

    def _send_pose(self) -> None:
        message = PoseStamped()
        message.header.stamp = self.node.get_clock().now().to_msg()
        self.pose.publish(message)

    def _send_frame(self) -> None:
        self.sequence += 1
        message = DeltaAction(sequence=self.sequence, source="teleop")
        message.header.stamp = self.node.get_clock().now().to_msg()
        self.action.publish(message)
        self.image.publish(Image(header=message.header, width=20, height=20, step=60, data=bytes(1200)))

    def call(self, kind, name: str, request):
        client = self.node.create_client(kind, name)
        assert client.wait_for_service(timeout_sec=DEADLINE_S)
        future = client.call_async(request)
        wait_until(future.done)
        self.node.destroy_client(client)
        return future.result()

    def start(self, bag: Path, *tags: str):
        return self.call(
            StartRecording, topics.START_RECORDING_SERVICE, StartRecording.Request(bag=str(bag), tags=tags)
        )

    def stop(self):
        return self.call(StopRecording, topics.STOP_RECORDING_SERVICE, StopRecording.Request())

    def annotate(self, skill: str, success: bool = True):
        mark = Annotation(skill=skill, success=success, note="seen")
        return self.call(Annotate, topics.ANNOTATE_SERVICE, Annotate.Request(annotation=mark))

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join(DEADLINE_S)
        self.node.destroy_node()
        rclpy.shutdown()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


@pytest.fixture
def recorders() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that must not outlive the test; they leave in order, or others would go on calling their services."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.terminate()
        process.wait(DEADLINE_S)


def start_recorder(recorders: list, *parameters: str) -> subprocess.Popen[str]:
    words = [word for parameter in parameters for word in ("-p", parameter)]
    command = [sys.executable, "-m", "diwa_teleop.nodes.recorder", "--ros-args", "-r", "__ns:=/diwa", *words]
    recorders.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    return recorders[-1]


def wait_until(condition) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, "too late"
        time.sleep(0.02)


def received(world: World, topic: str, at_least: int) -> None:
    """Wait until the recorder, while it records, has so many messages of a topic."""

    def enough() -> bool:
        counts = {one.topic: one.received for one in world.states[-1].topics} if world.states else {}
        return bool(world.states) and world.states[-1].state == 1 and counts.get(topic, 0) >= at_least

    world.states.clear()
    wait_until(enough)


def sequences(bag: Bag) -> list[int]:
    return [bag.decode(message).sequence for message in bag.messages([ACTION])]


def test_recording_starts_when_everything_is_there_and_sigint_closes_the_bag(world: World, recorders, tmp_path: Path):
    extra = world.node.create_publisher(Temperature, "/lab/temperature", 1)
    timer = world.node.create_timer(0.1, lambda: extra.publish(Temperature(temperature=21.5)))
    recorder = start_recorder(
        recorders,
        f"bag:={tmp_path / 'play'}",
        "autostart:=true",
        "required_topics:=[current_pose, action, static_camera/image_raw]",
        "extra_topics:=[/lab/temperature]",
        "tags:=[lab, monday]",
    )
    received(world, IMAGE, 30)
    received(world, ACTION, 21)
    received(world, POSE, 61)
    received(world, "/lab/temperature", 3)
    assert world.states[-1].bag == str(tmp_path / "play")
    recorder.send_signal(signal.SIGINT)
    assert recorder.wait(DEADLINE_S) == 0
    world.node.destroy_timer(timer)
    bag = Bag(tmp_path / "play")
    numbers = sequences(bag)
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) and len(numbers) > 20
    assert bag.topics[IMAGE].messages >= 30 and bag.topics[POSE].messages > 60
    assert bag.decode(next(bag.messages(["/lab/temperature"]))).temperature == 21.5
    assert bag.custom["tags"] == "lab, monday" and "python" in bag.custom["software"]
    assert "required_topics" in bag.notes["parameters"]["/diwa/recorder"]
    assert "use_sim_time: false" in bag.notes["parameters"]["/diwa/world"]
    assert re.search(r"play: \d+ messages, .* dropped", recorder.stdout.read())


def test_services_start_annotate_and_stop_again_and_again(world: World, recorders, tmp_path: Path):
    start_recorder(recorders)
    assert not world.annotate("open-drawer").success, "nothing is being recorded"
    assert not world.stop().success
    for name in ("first", "second"):
        answer = world.start(tmp_path / name, "tag")
        assert answer.success and answer.bag == str(tmp_path / name)
        received(world, ACTION, 15)
        assert "is being recorded; stop it first" in world.start(tmp_path / "other").message
        assert world.annotate("open-drawer", success=False).message == "marked: open-drawer failed"
        refused = world.annotate(" ")
        assert not refused.success and "names no skill" in refused.message
        answer = world.stop()
        assert answer.success and answer.duration_s > 0.3, answer.message
    for name in ("first", "second"):
        bag = Bag(tmp_path / name)
        (mark,) = [bag.decode(message) for message in bag.messages(["/diwa/annotation"])]
        assert (mark.skill, mark.success, mark.note) == ("open-drawer", False, "seen")
        assert bag.start_ns < mark.header.stamp.sec * 10**9 + mark.header.stamp.nanosec < bag.end_ns + 10**9
        numbers = sequences(bag)
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "the second has nothing of the first"
        assert bag.custom["tags"] == "tag"
    refused = world.start(tmp_path / "first")
    assert not refused.success and "exists already" in refused.message


def test_duration_ends_the_recording_and_the_node(world: World, recorders, tmp_path: Path):
    recorder = start_recorder(
        recorders,
        f"folder:={tmp_path}",
        "autostart:=true",
        "required_topics:=[action]",
        "duration_s:=2.0",
        "split_s:=0.7",
    )
    assert recorder.wait(DEADLINE_S) == 0
    (folder,) = tmp_path.iterdir()
    assert re.fullmatch(r"play_\d{8}_\d{6}", folder.name)
    bag = Bag(folder)
    assert 0.7 < bag.duration_s < DEADLINE_S and len(bag.files) >= 2


def test_what_is_missing_is_said_with_the_remap_that_mends_it(world: World, recorders, tmp_path: Path):
    camera = world.node.create_publisher(Image, "/lab/gripper/image_raw", 1)
    recorder = start_recorder(
        recorders, f"bag:={tmp_path / 'play'}", "autostart:=true", "required_topics:=[gripper_camera/image_raw]"
    )
    for line in recorder.stdout:
        if "waiting to record" in line:
            break
    assert "nobody publishes /diwa/gripper_camera/image_raw; similar: " in line
    assert "-r gripper_camera/image_raw:=/" in line and "/lab/gripper/image_raw" in line
    recorder.send_signal(signal.SIGTERM)
    assert recorder.wait(DEADLINE_S) == 0
    world.node.destroy_publisher(camera)
    assert not (tmp_path / "play").exists()


def test_folder_that_exists_and_bad_words_end_the_node_with_one_line(recorders, tmp_path: Path):
    (tmp_path / "notes.txt").touch()
    for parameters, reason in (
        ((f"bag:={tmp_path}", "autostart:=true"), "exists already"),
        (("compression:=zip",), "compression is 'zip'; expected one of none, lz4, zstd"),
    ):
        recorder = start_recorder(recorders, *parameters)
        out, _ = recorder.communicate(timeout=DEADLINE_S)
        assert recorder.returncode == 2 and reason in out and "Traceback" not in out


def test_disk_that_is_full_is_a_fault_and_the_node_lives_on(world: World, recorders, tmp_path: Path):
    recorder = start_recorder(recorders, f"min_free_bytes:={2**49}")
    assert world.start(tmp_path / "play").success
    world.states.clear()
    wait_until(lambda: world.states and world.states[-1].state == 2)
    assert "is full" in world.states[-1].reason and recorder.poll() is None
    assert Bag(tmp_path / "play").files
    assert world.start(tmp_path / "again").success


def test_disk_that_is_full_ends_a_node_that_records_by_itself(world: World, recorders, tmp_path: Path):
    words = (f"bag:={tmp_path / 'play'}", "autostart:=true", "required_topics:=[current_pose]", "duration_s:=1000.0")
    recorder = start_recorder(recorders, *words, f"min_free_bytes:={2**49}")
    out, _ = recorder.communicate(timeout=DEADLINE_S)
    assert recorder.returncode == 1 and "is full" in out


def test_what_came_two_seconds_before_a_kill_survives_it(world: World, recorders, tmp_path: Path):
    recorder = start_recorder(
        recorders, f"bag:={tmp_path / 'play'}", "autostart:=true", "required_topics:=[current_pose]"
    )
    received(world, ACTION, 60)
    known = world.states[-1]
    wait_until(lambda: world.states[-1].duration_s > known.duration_s + 2.0)
    recorder.kill()
    recorder.wait(DEADLINE_S)
    with pytest.raises(UserError, match="run: diwa bag repair"):
        Bag(tmp_path / "play")
    report = repair(tmp_path / "play", in_place=True)
    bag = Bag(tmp_path / "play")
    numbers = sequences(bag)
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) and report.messages[ACTION] == len(numbers)
    assert len(numbers) >= next(one.received for one in known.topics if one.topic == ACTION)
    assert bag.custom["namespace"] == "/diwa" and (tmp_path / "play" / "metadata.yaml").exists()
