"""The camera nodes on ROS topics: recordings into a bag, a plug that is pulled, two nodes with one role, no device."""

import importlib.util
import signal
import subprocess
import sys
import threading
import time

import camera_samples as samples
import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from sensor_msgs.msg import Image

from diwa_conventions import topics
from diwa_conventions.bags.reader import Bag
from diwa_conventions.errors import UserError
from diwa_conventions.film import FilmWriter
from diwa_conventions.qos import profile
from diwa_teleop.cameras.camera import CameraError, CameraLostError, Frame
from diwa_teleop.nodes.camera import info_beside
from diwa_teleop.nodes.camera_driver import CameraDriverNode
from diwa_teleop.nodes.camera_role import CameraRole

TIMEOUT_S = 60.0
COUNT = 40
NEEDS_VENDORS = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("pyrealsense2", "pyk4a")),
    reason="pyrealsense2 or pyk4a is missing: make setup EXTRA=hardware",
)


def start(node: str, *parameters: str, name: str = "") -> subprocess.Popen:
    command = [sys.executable, "-m", f"diwa_teleop.nodes.{node}", "--ros-args", "-r", "__ns:=/diwa"]
    command += ["-r", f"__node:={name}"] if name else []
    for parameter in parameters:
        command += ["-p", parameter]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def end(process: subprocess.Popen) -> str:
    """Stop it as Ctrl-C does; what it printed."""
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0 and "Traceback" not in output, output
    return output


class Bench:
    """Hears images and diagnostics."""

    def __init__(self) -> None:
        self.node = rclpy.create_node("bench", namespace="/diwa")
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.states, self.images = {}, []
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 50)

    def listen(self, camera: str) -> None:
        image = topics.STATIC_IMAGE if camera == "static_camera" else topics.GRIPPER_IMAGE
        self.node.create_subscription(Image, f"{camera}/image_raw", self.images.append, profile(image))

    def _on_diagnostics(self, message) -> None:
        for status in message.status:
            self.states[status.name] = (status.message, {item.key: item.value for item in status.values})

    def text(self, node: str) -> str:
        return self.states.get(f"/diwa/{node}", ("", {}))[0]

    def value(self, node: str, key: str) -> str:
        return self.states.get(f"/diwa/{node}", ("", {}))[1].get(key, "")

    def until(self, condition, what: str):
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            value = condition()
            if value:
                return value
            self.executor.spin_once(timeout_sec=0.05)
        pytest.fail(f"{what} did not happen within {TIMEOUT_S:.0f} s; {self.states}")


@pytest.fixture(scope="module", autouse=True)
def ros():
    rclpy.init()
    yield
    rclpy.shutdown()


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.executor.shutdown()
    bench.node.destroy_node()


@pytest.fixture
def processes():
    running = []
    yield running
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


@NEEDS_VENDORS
def test_recordings_of_both_cameras_play_through_their_nodes_into_a_bag(bench, processes, tmp_path):
    samples.write_db3(tmp_path / "play.db3", COUNT)
    samples.write_mkv(tmp_path / "play.mkv", COUNT)
    recorder = start("recorder", f"bag:={tmp_path / 'bag'}", "autostart:=true", "required_topics:=['']")
    cameras = [
        start("realsense", f"file:={tmp_path / 'play.db3'}"),
        start("azure_kinect", f"file:={tmp_path / 'play.mkv'}"),
    ]
    processes += [recorder, *cameras]
    for node in ("realsense", "azure_kinect"):
        bench.until(lambda node=node: bench.text(node).endswith("is over"), f"the end of the recording of {node}")
    played = {node: int(bench.value(node, "published")) for node in ("realsense", "azure_kinect")}
    assert played["azure_kinect"] == COUNT and played["realsense"] > 0  # librealsense drops some on a busy machine
    for process in (*cameras, recorder):
        end(process)

    bag = Bag(tmp_path / "bag")
    for camera, node, focal_px in (
        ("gripper_camera", "realsense", samples.REALSENSE_FX * 200 / 480),
        ("static_camera", "azure_kinect", samples.KINECT_FX * 1280 * 200 / 720),
    ):
        images = [bag.decode(message) for message in bag.messages([f"/diwa/{camera}/image_raw"])]
        numbers = [samples.number_of(np.reshape(image.data, (200, 200, 3))) for image in images]
        assert 0 < len(numbers) <= played[node]
        assert numbers == sorted(set(numbers)), "each once and in order"
        stamps = [image.header.stamp.sec * 10**9 + image.header.stamp.nanosec for image in images]
        assert min(np.diff(stamps)) > 0 and abs(stamps[0] * 1e-9 - time.time()) < 600
        assert {image.header.frame_id for image in images} == {f"{camera}_optical_frame"}
        infos = [bag.decode(message) for message in bag.messages([f"/diwa/{camera}/camera_info"])]
        assert infos and infos[0].k[0] == pytest.approx(focal_px, rel=1e-4) and infos[0].width == 200


class Plug:
    """A camera whose plug the test holds."""

    name = "test camera 7"

    def __init__(self) -> None:
        self.is_in = threading.Event()
        self.number = 0

    def open(self) -> None:
        if not self.is_in.is_set():
            raise CameraError("no test camera 7 found; attached: none")

    def read(self, timeout_s: float) -> Frame:
        time.sleep(0.01)
        if not self.is_in.is_set():
            raise CameraLostError("test camera 7 is gone")
        self.number += 1
        return Frame(samples.numbered(self.number % 256, 320, 240), time.time_ns(), None)

    def close(self) -> None:
        """Nothing to give back."""


class PlugNode(CameraDriverNode):
    """The node around it."""

    def __init__(self, plug: Plug) -> None:
        self.plug, self.missing = plug, ""
        super().__init__("plug", "static_camera")

    def make_camera(self) -> Plug:
        return self.plug

    def load(self) -> None:
        if self.missing:
            raise UserError(self.missing)


@pytest.fixture
def plug_node(bench):
    node = PlugNode(Plug())
    # A node made here has the root namespace: its topic is /static_camera/image_raw.
    bench.node.create_subscription(Image, "/static_camera/image_raw", bench.images.append, profile(topics.STATIC_IMAGE))
    bench.executor.add_node(node)
    yield node
    node.close()
    bench.executor.remove_node(node)
    node.destroy_node()


def state_of(bench) -> tuple[str, str]:
    text, values = bench.states.get("/plug", ("", {}))
    return text, values.get("state", "")


def test_a_camera_that_is_unplugged_and_plugged_in_again_publishes_again(bench, plug_node):
    assert plug_node.trigger_configure() == plug_node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    bench.until(lambda: state_of(bench) == ("no test camera 7 found; attached: none", "searching"), "its absence")
    plug_node.plug.is_in.set()
    bench.until(lambda: bench.images, "an image")
    plug_node.plug.is_in.clear()
    bench.until(lambda: bench.states["/plug"][1]["lost"] == "1", "its loss")
    assert state_of(bench)[1] == "searching"
    bench.images.clear()
    plug_node.plug.is_in.set()
    bench.until(lambda: bench.images, "an image again")
    bench.until(lambda: state_of(bench) == ("publishing", "streaming"), "the report of it")


def test_the_life_cycle_begins_and_ends_the_stream(bench, plug_node):
    plug_node.plug.is_in.set()
    plug_node.trigger_configure()
    bench.until(lambda: state_of(bench) == ("inactive", "inactive"), "the report of a node that is not active")
    assert plug_node.plug.number == 0 and bench.node.count_publishers("/static_camera/image_raw") == 0
    plug_node.trigger_activate()
    bench.until(lambda: bench.images, "an image")
    plug_node.trigger_deactivate()
    read = plug_node.plug.number
    bench.until(lambda: state_of(bench)[1] == "inactive", "the end")
    assert plug_node.plug.number == read
    bench.images.clear()
    plug_node.trigger_activate()
    bench.until(lambda: bench.images, "an image again")
    plug_node.trigger_deactivate()
    assert plug_node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS


def test_a_missing_library_ends_configuring(plug_node):
    plug_node.missing = "the package is missing: make setup EXTRA=hardware"
    assert plug_node.trigger_configure() == TransitionCallbackReturn.FAILURE


def test_of_two_cameras_with_one_role_the_later_one_waits_until_the_other_ends(bench, processes, tmp_path):
    film = FilmWriter(tmp_path / "film.mp4", 30.0)
    for number in range(10):
        film.add(samples.numbered(number, 320, 240))
    film.close()
    bench.listen("static_camera")
    first = start("webcam", f"file:={film.path}", "repeat:=true", name="first")
    processes.append(first)
    bench.until(lambda: bench.text("first") == "publishing", "images of the first camera")
    second = start("webcam", f"file:={film.path}", "repeat:=true", name="second")
    processes.append(second)
    bench.until(lambda: "published already, by /diwa/first; this node publishes" in bench.text("second"), "a refusal")
    assert bench.value("second", "published") == "0" and bench.text("first") == "publishing"
    end(first)
    bench.until(lambda: bench.text("second") == "publishing", "the second camera's turn")
    assert "/diwa/static_camera/image_raw is published already" in end(second)


class Graph:
    """A node that sees the publishers that the test names."""

    def __init__(self) -> None:
        self.names = []

    def resolve_topic_name(self, name: str) -> str:
        return f"/diwa/{name}"

    def get_fully_qualified_name(self) -> str:
        return "/diwa/own"

    def get_publishers_info_by_topic(self, topic: str) -> list:
        return [type("Info", (), {"node_namespace": "/diwa", "node_name": name})() for name in self.names]


def test_who_has_published_for_long_stays_and_a_newcomer_gives_way():
    now_s, graph = [0.0], Graph()
    role = CameraRole(graph, "static_camera/image_raw", lambda: now_s[0])
    assert not role.look()
    now_s[0] = 2.1
    assert role.look()
    graph.names = ["own", "own"]  # another one of the same name
    assert not role.look() and "by /diwa/own; this node publishes nothing" in role.complaint
    graph.names = ["own"]
    now_s[0] = 60.0
    assert not role.look()
    graph.names = []
    now_s[0] += 2.1
    assert role.look() and not role.complaint
    now_s[0] += 10.1
    graph.names = ["own", "other"]
    assert role.look() and "is also published by /diwa/other" in role.complaint


def test_two_that_begin_at_the_same_time_end_with_one_that_publishes():
    for _ in range(20):
        now_s, graphs = [0.0], (Graph(), Graph())
        roles = [CameraRole(graph, "static_camera/image_raw", lambda: now_s[0]) for graph in graphs]  # noqa: B023
        while now_s[0] < 30.0:
            for role, graph, other in zip(roles, graphs, roles[::-1], strict=True):
                graph.names = ["own"] * role.held + ["other"] * other.held
                role.look()
            now_s[0] += 0.25
        assert [role.held for role in roles].count(True) == 1


@pytest.mark.parametrize(
    ("images", "info"),
    [
        ("/camera/camera/color/image_raw", "/camera/camera/color/camera_info"),  # realsense2_camera
        ("/rgb/image_raw", "/rgb/camera_info"),  # azure_kinect_ros_driver
        ("/rgb/image_raw/compressed", "/rgb/camera_info"),
        ("/camera/color/image_raw", "/camera/color/camera_info"),  # orbbec_camera
        ("/camera/color/image_raw/compressed", "/camera/color/camera_info"),
    ],
)
def test_the_drivers_of_others_have_their_camera_info_beside_their_images(images, info):
    assert info_beside(images) == info


@NEEDS_VENDORS
def test_without_device_one_line_names_it_and_the_node_goes_on(bench, processes):
    nodes = {"realsense": "RealSense 42", "azure_kinect": "Azure Kinect 42", "webcam": "webcam /dev/video97"}
    processes += [
        start("realsense", "serial:='42'", "camera:=gripper_camera"),
        start("azure_kinect", "serial:='42'", "camera:=static_camera"),
        start("webcam", "device:=/dev/video97", "camera:=third_camera"),
    ]
    for node, device in nodes.items():
        bench.until(lambda node=node, device=device: f"no {device} found; " in bench.text(node), f"{device} missing")
        assert bench.value(node, "state") == "searching"
    for process, device in zip(processes, nodes.values(), strict=True):
        output = end(process)
        assert output.count(f"no {device} found; ") == 1 and "check" in output


def test_a_wrong_parameter_ends_the_node_with_one_line(processes):
    processes.append(start("azure_kinect", "resolution:=800p"))
    output, _ = processes[0].communicate(timeout=TIMEOUT_S)
    assert processes[0].returncode == 2 and len(output.splitlines()) == 1
    assert "unknown resolution of an Azure Kinect: '800p'" in output
