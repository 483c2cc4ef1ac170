"""The VIVE node as a process: the unmodified openvr client on a virtual runtime, and the teleop node behind it."""

import signal
import subprocess
import sys
import time
from collections import defaultdict

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from diwa_msgs.msg import GuardState
from virtual_runtime.virtual_vive import OUT_OF_RANGE, VirtualVive, build, why_not

from diwa_conventions import topics
from diwa_conventions.actions import Pose
from diwa_conventions.qos import message_type, profile
from diwa_teleop.operators.calibration import UNCALIBRATED, OperatorCalibration

pytest.importorskip("openvr", reason="the VIVE's client library: make setup EXTRA=hardware")
pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())
TIMEOUT_S = 60.0
PATIENT = ("stale_s:=2.0", "regrip_s:=10.0", "guard_stale_s:=5.0")
"""Parameters of teleop for a machine that may be too busy to run these tests 30 times a second."""
TABLE = np.array([[0.35, -0.25, 0.0], [0.35, 0.25, 0.0], [0.60, 0.0, 0.0]])


@pytest.fixture(scope="module", autouse=True)
def ros():
    rclpy.init()
    yield
    rclpy.shutdown()


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    return build(tmp_path_factory.mktemp("runtime"))


@pytest.fixture
def vive(runtime, tmp_path):
    vive = VirtualVive(runtime, tmp_path)
    vive.add(1, "LHR-1")
    return vive


class Lab:
    """The vive node, a hand on its controller, and a node that listens and plays an ideal guard."""

    def __init__(self, vive: VirtualVive) -> None:
        self.vive, self.hand = vive, np.zeros(3)
        self.node = rclpy.create_node("lab", namespace="/diwa")
        self.seen = defaultdict(list)
        self.running = []
        for topic in (topics.OPERATOR_POSE, topics.OPERATOR_JOY, topics.DIAGNOSTICS, topics.ACTION):
            self.node.create_subscription(message_type(topic), topic.name, self.seen[topic.name].append, profile(topic))
        self.guard_out = self.node.create_publisher(GuardState, topics.GUARD_STATE.name, profile(topics.GUARD_STATE))
        self.guard = GuardState(state=GuardState.ARMED, armed_source="teleop")
        self.guard.goal.position.x, self.guard.goal.orientation.w = 0.45, 1.0

    def start(self, node: str, *parameters: str) -> subprocess.Popen:
        command = [sys.executable, "-m", f"diwa_teleop.nodes.{node}", "--ros-args", "-r", "__ns:=/diwa"]
        for parameter in parameters:
            command += ["-p", parameter]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=dict(self.vive.process_environment()),
        )
        self.running.append(process)
        return process

    def until(self, condition, what: str):
        """Spin, with the tremor of a hand, until the condition holds."""
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            if value := condition():
                return value
            self.vive.move(1, Pose(self.hand, np.eye(3)))
            self.guard.accepted_sequence = max((action.sequence for action in self.actions), default=0)
            self.guard_out.publish(self.guard)
            for _ in range(4):
                rclpy.spin_once(self.node, timeout_sec=0.008)
        pytest.fail(f"{what} did not happen within {TIMEOUT_S:.0f} s; the vive node says: {self.health('/vive')}")

    @property
    def actions(self):
        return self.seen[topics.ACTION.name]

    @property
    def joys(self):
        return self.seen[topics.OPERATOR_JOY.name]

    @property
    def poses(self):
        return self.seen[topics.OPERATOR_POSE.name]

    def health(self, name: str):
        """The newest diagnostics of a node: level, message and values."""
        for message in reversed(self.seen[topics.DIAGNOSTICS.name]):
            status = message.status[0]
            if status.name.endswith(name):
                return status.level, status.message, {item.key: item.value for item in status.values}
        return b"", "", {}

    def more(self, messages: list, count: int) -> list:
        """The next so many messages."""
        have = len(messages)
        self.until(lambda: len(messages) >= have + count, f"{count} more messages")
        return messages[have:]

    def clutch(self) -> bool:
        return bool(self.joys) and bool(self.joys[-1].buttons[topics.JOY_CLUTCH_BUTTON])


@pytest.fixture
def lab(vive):
    lab = Lab(vive)
    yield lab
    for process in lab.running:
        if process.poll() is None:
            process.kill()
        process.communicate()
    lab.node.destroy_node()


def end(process: subprocess.Popen) -> str:
    """Stop the node as Ctrl-C does; what it printed."""
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    return output


@pytest.fixture
def calibration(tmp_path):
    """The file of a calibration that found the axes of OpenVR's convention."""
    world = (TABLE - UNCALIBRATED.translation) @ UNCALIBRATED.rotation
    path = tmp_path / "operator.yaml"
    OperatorCalibration(UNCALIBRATED, "LHR-1", "2026-01-02T03:04:05", world, TABLE).save(path)
    return path


def test_what_it_waits_for_and_what_it_warns_of_is_told_in_diagnostics_and_log(lab, calibration):
    lab.vive.charge(1, 0.1)
    lab.vive.connect(1, False)
    node = lab.start("vive", f"calibration:={calibration}")
    told = [
        "controller LHR-1 is off or asleep; press its system button, charge it",
        "controller LHR-1: battery at 10 %, charge it",
    ]
    for line, mend in zip(told, (lambda: lab.vive.connect(1, True), lambda: None), strict=True):
        lab.until(lambda line=line: lab.health("/vive")[1] == line, f"report: {line}")
        assert lab.health("/vive")[0] == DiagnosticStatus.WARN
        mend()
    output = end(node)
    assert all(line in output for line in told)
    assert "measured 2026-01-02T03:04:05 with LHR-1 at 3 points, 0.0 mm at the worst" in output


def test_the_hand_moves_the_arm_and_after_any_loss_nothing_does_until_the_clutch_is_pressed_anew(lab, calibration):
    """Through the real teleop node, which is armed throughout, while the hand moves on with the clutch held."""
    lab.hand = np.array([0.1, 0.2, -0.3])
    vive = lab.start("vive", f"calibration:={calibration}")
    teleop = lab.start("teleop", *PATIENT)
    lab.until(lambda: lab.joys and lab.poses and lab.actions, "all nodes at work")
    point = lab.poses[-1].pose.position
    np.testing.assert_allclose([point.x, point.y, point.z], [0.3, -0.1, 0.2], atol=1e-5)
    assert lab.poses[-1].header.frame_id == topics.BASE_FRAME
    lab.vive.press(1, ["menu", "touchpad"], trigger=0.5, touchpad=(0.0, 1.0))
    lab.until(lambda: list(lab.joys[-1].buttons) == [0, 1, 1, 0, 0], "arm and disarm")
    assert lab.joys[-1].axes[topics.JOY_TRIGGER_AXIS] == pytest.approx(0.5)
    for lose, mend in (
        (lambda: lab.vive.track(1, OUT_OF_RANGE), lambda: lab.vive.track(1)),
        (lambda: lab.vive.connect(1, False), lambda: lab.vive.connect(1, True)),
        (lab.vive.quit, lab.vive.start),
    ):
        engage(lab)
        reach(lab)
        lose()
        lab.until(lambda: not lab.clutch(), "released clutch")
        lab.hand = lab.hand + [0.2, 0.2, -0.2]
        lab.more(lab.actions, 3)  # what was under way
        stand_still(lab)
        have = len(lab.poses)
        mend()
        lab.until(lambda have=have: len(lab.poses) > have + 3, "poses again")
        assert not lab.clutch(), "it is still held, and has to be pressed anew"
    engage(lab)
    stand_still(lab)
    lab.vive.quit()
    lab.until(lambda: lab.health("/teleop")[1] == "no operator", "teleop without operator")
    end(teleop)
    end(vive)


def engage(lab: Lab) -> None:
    """Release and hold the clutch."""
    lab.vive.press(1, [])
    lab.more(lab.joys, 10)
    lab.vive.press(1, ["grip"])
    lab.until(lab.clutch, "clutch")


def reach(lab: Lab) -> None:
    """Move forward until the arm is asked to."""
    have = len(lab.actions)

    def moved() -> bool:
        lab.hand = lab.hand + [0.0, 0.0, -0.001]
        return any(action.translation[0] > 0.02 for action in lab.actions[have:])

    lab.until(moved, "an action forward")


def stand_still(lab: Lab) -> None:
    """All actions that come now are without motion (but for the tremor)."""
    for action in lab.more(lab.actions, 8):
        assert np.abs(action.translation).max() < 1e-3 and np.abs(action.rotation).max() < 1e-3


def test_a_missing_calibration_ends_the_node_with_one_line(lab):
    node = lab.start("vive", "calibration:=/nowhere.yaml")
    output, _ = node.communicate(timeout=TIMEOUT_S)
    assert node.returncode == 2 and "Traceback" not in output
    assert "vive: there is no operator calibration /nowhere.yaml; measure it again" in output.splitlines()[-1]


def test_without_an_installation_of_steamvr_the_node_ends_with_one_line_that_says_what_to_do(lab, tmp_path):
    lab.vive.environment["XDG_CONFIG_HOME"] = str(tmp_path / "nothing here")
    node = lab.start("vive", "calibration:=none")
    output, _ = node.communicate(timeout=TIMEOUT_S)
    assert node.returncode == 1 and "Traceback" not in output
    assert "no SteamVR is installed for this user" in output and "install Steam and SteamVR" in output
    assert "not calibrated: forward is where SteamVR's world has it" in output
