"""Teleoperation, operators and camera node as real processes on ROS topics."""

import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections import defaultdict
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import rclpy
from diwa_msgs.msg import GuardState
from diwa_msgs.srv import Annotate, Arm, Disarm
from geometry_msgs.msg import Point, PoseStamped, Quaternion
from rclpy.parameter import Parameter
from rclpy.parameter_client import AsyncParameterClient
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, Joy

from diwa_conventions import topics
from diwa_conventions.qos import message_type, profile

TIMEOUT_S = 60.0
PATIENT = ("stale_s:=2.0", "regrip_s:=10.0", "guard_stale_s:=5.0")
"""Parameters of teleop for a machine that may be too busy to run these tests 30 times a second."""


def start(node: str, *arguments: str, stdin=subprocess.DEVNULL) -> subprocess.Popen:
    """A node as a process; arguments name:=value are parameters, others are passed on."""
    command = [sys.executable, "-m", f"diwa_teleop.nodes.{node}", "--ros-args", "-r", "__ns:=/diwa"]
    for argument in arguments:
        command += ["-p", argument]
    return subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def end(process: subprocess.Popen) -> str:
    """Stop the node as Ctrl-C does; what it printed."""
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    return output


class Bench:
    """A node of the test's: publishes, serves, and keeps what came."""

    def __init__(self) -> None:
        self.node = rclpy.create_node("bench", namespace="/diwa")
        self.seen = defaultdict(list)
        self.out = {}

    def listen(self, topic: topics.Topic) -> None:
        self.node.create_subscription(message_type(topic), topic.name, self.seen[topic.name].append, profile(topic))

    def publisher(self, topic: topics.Topic):
        if topic.name not in self.out:
            self.out[topic.name] = self.node.create_publisher(message_type(topic), topic.name, profile(topic))
        return self.out[topic.name]

    def until(self, condition, what: str, meanwhile=lambda: None):
        """Spin until the condition holds, doing something 30 times a second; the condition's value."""
        deadline, due_s = time.monotonic() + TIMEOUT_S, 0.0
        while time.monotonic() < deadline:
            value = condition()
            if value:
                return value
            if time.monotonic() >= due_s:
                meanwhile()
                due_s = time.monotonic() + 1.0 / 30.0
            rclpy.spin_once(self.node, timeout_sec=0.01)
        pytest.fail(f"{what} did not happen within {TIMEOUT_S:.0f} s")

    def health(self, name: str):
        """The newest diagnostics of a node: message and values."""
        for message in reversed(self.seen[topics.DIAGNOSTICS.name]):
            if message.status[0].name.endswith(name):
                return message.status[0].message, {item.key: item.value for item in message.status[0].values}
        return "", {}


@pytest.fixture(scope="module", autouse=True)
def ros():
    rclpy.init()
    yield
    rclpy.shutdown()


@pytest.fixture
def bench():
    bench = Bench()
    bench.listen(topics.DIAGNOSTICS)
    yield bench
    bench.node.destroy_node()


@pytest.fixture
def processes():
    running = []
    yield running
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


class Person:
    """An operator and an ideal guard around the teleop node."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.position = np.zeros(3)
        self.frame = topics.BASE_FRAME
        self.buttons = [0] * topics.JOY_BUTTONS
        self.trigger = 0.0
        self.silent = False
        self.guard = GuardState(state=GuardState.DISARMED)
        self.guard.goal.position = Point(x=0.45, z=0.3)
        self.actions = []
        self.asked = []
        bench.node.create_subscription(message_type(topics.ACTION), topics.ACTION.name, self.accept, 1000)
        bench.node.create_service(Arm, "arm", self.on_arm)
        bench.node.create_service(Disarm, "disarm", self.on_disarm)

    def on_arm(self, request, response):
        self.asked.append(("arm", request.source))
        self.guard.state, self.guard.armed_source = GuardState.ARMED, request.source
        response.success, response.message = True, "armed"
        return response

    def on_disarm(self, request, response):
        self.asked.append(("disarm", request.reason))
        self.guard.state, self.guard.armed_source = GuardState.DISARMED, ""
        response.success = True
        return response

    def on_annotate(self, request, response):
        self.asked.append((request.annotation.skill, request.annotation.success, request.annotation.header.stamp))
        response.success, response.message = False, "not recording; start a recording first"
        return response

    def accept(self, action) -> None:
        self.actions.append(action)
        if self.guard.state == GuardState.ARMED:
            goal = self.guard.goal.position
            goal.x, goal.y, goal.z = (np.array([goal.x, goal.y, goal.z]) + 0.02 * action.translation).tolist()
            self.guard.accepted_sequence = action.sequence

    def live(self) -> None:
        """One thirtieth of a second."""
        stamp = self.bench.node.get_clock().now().to_msg()
        self.bench.publisher(topics.GUARD_STATE).publish(self.guard)
        if self.silent:
            return
        pose = PoseStamped()
        pose.header.stamp, pose.header.frame_id = stamp, self.frame
        pose.pose.position = Point(**dict(zip("xyz", self.position.tolist(), strict=True)))
        pose.pose.orientation = Quaternion(w=1.0)
        joy = Joy(axes=[self.trigger], buttons=self.buttons)
        joy.header.stamp = stamp
        self.bench.publisher(topics.OPERATOR_POSE).publish(pose)
        self.bench.publisher(topics.OPERATOR_JOY).publish(joy)

    def until(self, condition, what: str):
        return self.bench.until(condition, what, self.live)

    def hold(self, button: int, pressed: bool = True) -> None:
        self.buttons[button] = int(pressed)

    def press(self, button: int, what) -> None:
        """Press until something is so, and release."""
        self.hold(button)
        self.until(what, f"effect of button {button}")
        self.hold(button, False)
        self.pass_frames(5)

    def pass_frames(self, count: int) -> None:
        frames = []
        self.bench.until(lambda: len(frames) >= count, "time", lambda: frames.append(self.live()))

    def meet(self, situation: str = "command guard is disarmed") -> None:
        """Wait until teleop sees the operator and the guard."""
        self.until(lambda: self.bench.health("/teleop")[0] == situation, situation)

    def pass_actions(self, count: int) -> list:
        have = len(self.actions)
        self.until(lambda: len(self.actions) >= have + count, f"{count} actions")
        return self.actions[have:]

    def goal(self) -> np.ndarray:
        point = self.guard.goal.position
        return np.array([point.x, point.y, point.z])

    def engage(self) -> None:
        """Arm, and press the clutch."""
        self.meet()
        self.press(topics.JOY_ARM_BUTTON, lambda: ("arm", "teleop") in self.asked)
        self.hold(topics.JOY_CLUTCH_BUTTON)
        self.until(lambda: self.bench.health("/teleop")[1].get("engaged") == "True", "engagement")


@pytest.fixture
def person(bench):
    return Person(bench)


def test_an_armed_operator_with_the_clutch_moves_the_goal_as_the_hand_moves(person, processes):
    teleop = start("teleop", *PATIENT)
    processes.append(teleop)
    person.engage()
    message = person.actions[0]
    assert (message.source, message.header.frame_id, message.duration_s) == ("teleop", "panda_link0", 1.0 / 30.0)
    assert not np.any(message.translation) and message.gripper == 1.0
    before = person.goal()
    for _ in range(20):
        person.position = person.position + [0.004, -0.002, 0.001]
        person.live()
    person.trigger = 1.0
    expected = before + person.position
    person.until(lambda: np.allclose(person.goal(), expected, atol=1e-6), "arrival")
    person.until(lambda: person.actions[-1].gripper == -1.0, "closing")
    numbers = [action.sequence for action in person.actions]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    person.press(topics.JOY_DISARM_BUTTON, lambda: ("disarm", "the operator's button") in person.asked)
    assert "arm: armed" in end(teleop)


def test_a_silent_operator_ends_the_actions(person, processes):
    processes.append(start("teleop"))
    person.guard.state, person.guard.armed_source = GuardState.ARMED, "teleop"
    person.pass_actions(3)
    person.silent = True
    person.until(lambda: person.bench.health("/teleop")[0] == "no operator", "report of no operator")
    sent = int(person.bench.health("/teleop")[1]["actions"])
    reports = len(person.bench.seen[topics.DIAGNOSTICS.name])
    person.until(lambda: len(person.bench.seen[topics.DIAGNOSTICS.name]) >= reports + 2, "two more reports")
    assert int(person.bench.health("/teleop")[1]["actions"]) == sent
    person.silent = False
    person.pass_actions(2)


def test_marks_go_to_the_recorder_with_skill_and_moment_and_refusals_are_shown(person, processes):
    person.bench.node.create_service(Annotate, "annotate", person.on_annotate)
    teleop = start("teleop", "skill:=open-drawer", *PATIENT)
    processes.append(teleop)
    person.meet()
    person.press(topics.JOY_SUCCESS_BUTTON, lambda: person.asked)
    client = AsyncParameterClient(person.bench.node, "/diwa/teleop")
    person.until(client.services_are_ready, "parameter services")
    person.until(client.set_parameters([Parameter("skill", value="close-drawer")]).done, "setting")
    person.press(topics.JOY_FAILURE_BUTTON, lambda: len(person.asked) == 2)
    assert [asked[:2] for asked in person.asked] == [("open-drawer", True), ("close-drawer", False)]
    assert all(asked[2].sec > 0 for asked in person.asked)
    assert "mark success of open-drawer was refused: not recording; start a recording first" in end(teleop)


def test_what_cannot_be_done_is_said_in_one_line(person, processes):
    teleop = start("teleop", *PATIENT)
    processes.append(teleop)
    person.meet()
    person.hold(topics.JOY_SUCCESS_BUTTON)
    person.pass_frames(10)
    person.frame = "map"
    person.until(lambda: int(person.bench.health("/teleop")[1].get("refused_operator_messages", 0)) > 3, "refusal")
    assert person.bench.health("/teleop")[0] == "no operator"
    output = end(teleop)
    assert "cannot mark success: no skill is set; ros2 param set /diwa/teleop skill" in output
    assert "operator/pose is in frame 'map'; expected 'panda_link0' (parameter operator_frame)" in output


@pytest.mark.parametrize(
    ("node", "parameters", "message"),
    [
        ("teleop", ["axes:=x,y,-z"], "teleop: axes is 'x,y,-z': it mirrors space"),
        ("teleop", ["scale:=0.0"], "scale"),
        ("teleop", ["frame_rpy_rad:=[0.0, 1.0]"], "expected three finite angles"),
        ("teleop", ["gripper_open_below:=0.9"], "gripper_open_below is 0.9; expected less than"),
        ("keyboard", [], "keyboard: the keyboard operator needs a terminal of its own"),
        ("gamepad", ["axes:=[1, 2]"], "gamepad: axes is [1, 2]; expected six numbers"),
        ("camera", [], "camera: parameter input is empty; set the driver's image topic"),
        ("camera", ["input:=/a/image", "fit:=stretch"], "unknown way to make images square: 'stretch'"),
        ("camera", ["input:=/a/image", "camera:=my camera"], "parameter camera is 'my camera'"),
        ("camera", ["input:=static_camera/image_raw"], "which this node publishes"),
    ],
)
def test_a_wrong_setting_ends_the_node_with_one_line(node, parameters, message, processes):
    process = start(node, *parameters)
    processes.append(process)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 2
    assert "Traceback" not in output
    assert message in output.splitlines()[-1]


def test_the_keyboard_node_publishes_hand_and_joystick_and_leaves_the_terminal_as_it_was(bench, processes):
    typing, terminal = pty.openpty()
    before = termios.tcgetattr(terminal)
    process = start("keyboard", stdin=terminal)
    processes.append(process)
    for topic in (topics.OPERATOR_POSE, topics.OPERATOR_JOY):
        bench.listen(topic)
    poses, joys = bench.seen[topics.OPERATOR_POSE.name], bench.seen[topics.OPERATOR_JOY.name]
    bench.until(lambda: poses and joys, "first sample")
    assert poses[0].header.frame_id == topics.BASE_FRAME
    os.write(typing, b"wc \n")
    bench.until(lambda: poses[-1].pose.position.x > 0.0099, "motion")
    bench.until(lambda: any(joy.buttons[topics.JOY_ARM_BUTTON] for joy in joys), "arm")
    assert (joys[-1].buttons[topics.JOY_CLUTCH_BUTTON], joys[-1].axes[topics.JOY_TRIGGER_AXIS]) == (1, 1.0)
    output = end(process)
    assert "clutch engaged, gripper closed" in output
    assert termios.tcgetattr(terminal) == before
    os.close(typing)
    os.close(terminal)


def test_the_gamepad_node_publishes_the_hand_that_the_sticks_move(bench, processes):
    processes.append(start("gamepad"))
    for topic in (topics.OPERATOR_POSE, topics.OPERATOR_JOY):
        bench.listen(topic)
    pad = bench.node.create_publisher(Joy, "joy", 5)
    axes = [0.0, 1.0, 1.0, 0.0, 0.0, -1.0, 0.0, 0.0]
    state = SimpleNamespace(buttons=[0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0])
    poses, joys = bench.seen[topics.OPERATOR_POSE.name], bench.seen[topics.OPERATOR_JOY.name]
    bench.until(
        lambda: poses and joys and poses[-1].pose.position.x > 0.05,
        "motion",
        lambda: pad.publish(Joy(axes=axes, buttons=state.buttons)),
    )
    assert list(joys[-1].buttons) == [1, 1, 0, 0, 0]
    assert joys[-1].axes[topics.JOY_TRIGGER_AXIS] == 1.0


class Driver:
    """A camera driver with a calibration."""

    def __init__(self, bench: Bench, topic: str, kind, reliability=ReliabilityPolicy.RELIABLE) -> None:
        self.bench = bench
        self.kind = kind
        self.sent = {}
        self.out = bench.node.create_publisher(kind, topic, QoSProfile(depth=5, reliability=reliability))
        self.info_out = bench.node.create_publisher(CameraInfo, "/driver/color/camera_info", 5)
        self.size = (48, 64)
        self.encoding = "bgr8"

    def send(self) -> None:
        """The next image: blue on the left half, red on the right one."""
        height, width = self.size
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[:, : width // 2], pixels[:, width // 2 :] = (255, 0, 0), (0, 0, 255)
        stamp = self.bench.node.get_clock().now().to_msg()
        info = CameraInfo(width=width, height=height, distortion_model="plumb_bob", d=[0.1] * 5)
        info.k = [float(width), 0.0, width / 2, 0.0, float(width), height / 2, 0.0, 0.0, 1.0]
        info.p = [*info.k[:3], 0.0, *info.k[3:6], 0.0, *info.k[6:], 0.0]
        if self.kind is Image:
            message = Image(height=height, width=width, encoding=self.encoding, step=3 * width)
            message.data = pixels.tobytes()
        else:
            message = CompressedImage(format="bgr8; png compressed bgr8")
            message.data = cv2.imencode(".png", pixels)[1].tobytes()
        message.header.stamp = info.header.stamp = stamp
        self.sent[stamp.sec, stamp.nanosec] = self.size
        self.info_out.publish(info)
        self.out.publish(message)


def stamp_of(message) -> tuple[int, int]:
    return message.header.stamp.sec, message.header.stamp.nanosec


@pytest.mark.parametrize(
    ("topic", "kind", "reliability"),
    [
        ("/driver/color/image_raw", Image, ReliabilityPolicy.RELIABLE),
        ("/driver/color/image_raw", Image, ReliabilityPolicy.BEST_EFFORT),
        ("/driver/color/image_raw/compressed", CompressedImage, ReliabilityPolicy.RELIABLE),
    ],
)
def test_a_driver_s_images_become_square_rgb_with_its_stamps_and_fitting_intrinsics(
    bench, processes, topic, kind, reliability
):
    camera = start("camera", f"input:={topic}")
    processes.append(camera)
    bench.listen(topics.STATIC_IMAGE)
    bench.listen(topics.STATIC_INFO)
    images, infos = bench.seen[topics.STATIC_IMAGE.name], bench.seen[topics.STATIC_INFO.name]
    driver = Driver(bench, topic, kind, reliability)
    bench.until(lambda: len(images) > 5 and len(infos) > 3, "images", driver.send)
    image, info = images[-1], infos[-1]
    assert (image.width, image.height, image.encoding, image.step) == (200, 200, "rgb8", 600)
    assert image.header.frame_id == info.header.frame_id == topics.STATIC_CAMERA_FRAME
    pixels = np.frombuffer(image.data, np.uint8).reshape(200, 200, 3)
    assert tuple(pixels[100, 10]) == (0, 0, 255) and tuple(pixels[100, 190]) == (255, 0, 0)
    assert {stamp_of(message) for message in (*images, *infos)} <= set(driver.sent)
    assert info.k[0] == pytest.approx(64 * 200 / 48)
    assert info.k[2] == pytest.approx((64 / 2 - 8 + 0.5) * 200 / 48 - 0.5)
    assert "subscribed to" in end(camera)


def test_a_stream_that_changes_is_followed_and_bad_images_are_refused(bench, processes):
    camera = start("camera", "input:=/driver/color/image_raw", "camera:=gripper_camera", "fit:=letterbox", "size:=64")
    processes.append(camera)
    bench.listen(topics.GRIPPER_IMAGE)
    bench.listen(topics.GRIPPER_INFO)
    images, infos = bench.seen[topics.GRIPPER_IMAGE.name], bench.seen[topics.GRIPPER_INFO.name]
    driver = Driver(bench, "/driver/color/image_raw", Image)
    bench.until(lambda: infos and images and images[-1].width == 64, "images", driver.send)
    driver.size = (90, 60)
    bench.until(lambda: infos[-1].k[0] == pytest.approx(60 * 64 / 90), "new intrinsics", driver.send)
    driver.encoding = "16UC3"
    bench.until(lambda: int(bench.health("/camera")[1].get("refused", 0)) > 2, "refusal", driver.send)
    bench.until(lambda: "more than 8 bits" in bench.health("/camera")[0], "report of the refusal", driver.send)
    driver.encoding = "rgb8"
    have = len(images)
    bench.until(lambda: len(images) > have, "images after the bad ones", driver.send)
    output = end(camera)
    assert "images are 64x48 bgr8 -> 60x90 bgr8, published as 64x64 rgb8" in output
    assert "image of /driver/color/image_raw refused: image encoding '16UC3' has more than 8 bits" in output


def test_a_driver_that_is_not_there_or_no_camera_is_named(bench, processes):
    processes.append(start("camera", "input:=/driver/color/image_raw"))
    bench.until(lambda: bench.health("/camera")[0] == "nobody publishes /driver/color/image_raw", "report")
    joy = bench.node.create_publisher(Joy, "/driver/color/image_raw", 5)
    bench.until(lambda: "is sensor_msgs/msg/Joy" in bench.health("/camera")[0], "report of the type")
    bench.node.destroy_publisher(joy)
