"""The SpaceMouse operator: raw reports of the device through the unmodified pyspacemouse, and the node as a process."""

import math
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtual_runtime.virtual_spacemouse import (
    COMPACT,
    FULL,
    PRO,
    VirtualSpaceMouse,
    buttons,
    rotation,
    translation,
    why_not,
)

from diwa_conventions import topics
from diwa_conventions.actions import euler_to_matrix
from diwa_conventions.errors import UserError
from diwa_teleop.operators.spacemouse import CAP, SpaceMouseConfig, SpaceMouseOperator

pyspacemouse = pytest.importorskip("pyspacemouse", reason="the SpaceMouse's client library: make setup EXTRA=hardware")
DT_S = 1.0 / 30.0
TIMEOUT_S = 60.0


class HidDevice(SimpleNamespace):
    """A device of easyhid's whose reports the test gives."""

    def __init__(self, desk: "Desk") -> None:
        vendor, product = (int(word, 16) for word in desk.model.split())
        super().__init__(vendor_id=vendor, product_id=product, path="/dev/hidraw0", release_number=1)
        self.product_string = self.manufacturer_string = self.serial_number = "1"
        self.desk = desk

    def open(self) -> None:
        if self.desk.forbidden:
            from easyhid import HIDException

            raise HIDException("Failed to open device")

    def close(self) -> None:
        self.desk.closed += 1

    def set_nonblocking(self, enabled: bool) -> None:
        assert enabled

    def read(self, size: int) -> bytes:
        if not self.desk.plugged:
            from easyhid import HIDException

            raise HIDException("Failed to read from HID device: -1")
        return self.desk.reports.pop(0) if self.desk.reports else b""


class Desk:
    """A desk with a SpaceMouse, an operator at it, and a clock."""

    def __init__(self, config: SpaceMouseConfig | None = None, model: str = COMPACT) -> None:
        self.model, self.plugged, self.forbidden, self.closed = model, True, False, 0
        self.reports: list[bytes] = []
        self.now_s = 50.0
        self.operator = SpaceMouseOperator(config or SpaceMouseConfig(), clock=lambda: self.now_s)

    def find(self):
        return [HidDevice(self)] if self.plugged else []

    def read(self, *reports: bytes, times: int = 1):
        """The last of so many samples; the reports come before the first."""
        self.reports += reports
        for _ in range(times):
            self.now_s += DT_S
            sample = self.operator.read(DT_S)
        return sample


@pytest.fixture
def lay(monkeypatch):
    """Makes a desk whose devices are those that pyspacemouse finds."""

    def make(config: SpaceMouseConfig | None = None, model: str = COMPACT) -> Desk:
        desk = Desk(config, model)
        monkeypatch.setattr("pyspacemouse.api.Enumeration", lambda: desk)
        desk.operator.start()
        return desk

    return make


def test_the_cap_moves_the_hand_while_the_dead_man_s_button_is_held(lay):
    desk = lay()
    assert desk.read(translation(y=-FULL)).pose.position[0] == 0.0
    sample = desk.read(buttons(left=True), translation(y=-FULL))
    assert sample.clutch
    np.testing.assert_allclose(sample.pose.position, [0.2 * DT_S, 0.0, 0.0], atol=1e-12)
    sample = desk.read(buttons(), translation(y=-FULL))
    assert not sample.clutch
    np.testing.assert_allclose(sample.pose.position, [0.2 * DT_S, 0.0, 0.0], atol=1e-12)


@pytest.mark.parametrize(
    ("report", "shift"),
    [
        (translation(y=-FULL), (1, 0, 0)),  # pushed away from the user: forward
        (translation(x=-FULL), (0, 1, 0)),  # to the left
        (translation(z=-FULL), (0, 0, 1)),  # pulled up
    ],
)
def test_forward_left_and_up_are_the_arm_s_x_y_and_z(lay, report, shift):
    sample = lay().read(buttons(left=True), report)
    np.testing.assert_allclose(sample.pose.position, 0.2 * DT_S * np.array(shift), atol=1e-12)


@pytest.mark.parametrize(
    ("report", "angles"),
    [
        (rotation(y=-FULL), (1, 0, 0)),  # about the forward axis
        (rotation(x=-FULL), (0, 1, 0)),  # about the axis to the left
        (rotation(z=-FULL), (0, 0, 1)),  # counterclockwise, seen from above
    ],
)
def test_turns_of_the_cap_are_right_handed_about_the_same_axes(lay, report, angles):
    sample = lay().read(buttons(left=True), report)
    np.testing.assert_allclose(sample.pose.rotation, euler_to_matrix(0.8 * DT_S * np.array(angles)), atol=1e-9)
    np.testing.assert_allclose(sample.pose.position, 0.0, atol=1e-12)


def test_a_flipped_axis_goes_the_other_way(lay):
    desk = lay(SpaceMouseConfig(flipped=("x", "yaw")))
    sample = desk.read(buttons(left=True), translation(y=-FULL), rotation(z=-FULL))
    assert sample.pose.position[0] == pytest.approx(-0.2 * DT_S)
    np.testing.assert_allclose(sample.pose.rotation, euler_to_matrix(np.array([0, 0, -0.8 * DT_S])), atol=1e-9)


@given(st.integers(-FULL - 50, FULL + 50))
def test_the_dead_zone_is_still_and_speed_grows_from_its_edge_to_the_cap_s_end(value):
    with pytest.MonkeyPatch.context() as monkeypatch:
        desk = Desk(SpaceMouseConfig(dead_zone=0.2, speed_m_s=0.3))
        monkeypatch.setattr("pyspacemouse.api.Enumeration", lambda: desk)
        sample = desk.read(buttons(left=True), translation(y=-value))
    share = max(0.0, (min(1.0, abs(value) / FULL) - 0.2) / 0.8)
    assert sample.pose.position[0] == pytest.approx(math.copysign(0.3 * DT_S * share, value), abs=1e-12)


def test_each_press_of_the_gripper_s_button_closes_or_opens_it_however_short_it_is(lay):
    desk = lay()
    assert desk.read().trigger == 0.0
    assert desk.read(buttons(right=True), buttons()).trigger == 1.0, "pressed and released between two readings"
    assert desk.read(times=3).trigger == 1.0
    assert desk.read(buttons(right=True)).trigger == 0.0
    assert desk.read(buttons(right=True), times=3).trigger == 0.0, "held: no further press"


def test_the_cap_alone_can_be_the_clutch(lay):
    desk = lay(SpaceMouseConfig(clutch_button=CAP))
    assert not desk.read(translation(y=-20)).clutch, "within the dead zone"
    sample = desk.read(translation(y=-FULL))
    assert sample.clutch and sample.pose.position[0] > 0.0
    assert not desk.read(translation()).clutch


def test_other_buttons_have_the_meanings_that_they_are_given(lay):
    desk = lay(SpaceMouseConfig(clutch_button=CAP, gripper_button="", arm_button="LEFT", disarm_button="RIGHT"))
    sample = desk.read(buttons(left=True), buttons())
    assert (sample.arm, sample.disarm) == (True, False), "also a press between two readings is one"
    sample = desk.read(buttons(right=True))
    assert (sample.arm, sample.disarm, sample.success, sample.failure) == (False, True, False, False)
    assert sample.trigger == 0.0


def test_a_pushed_cap_that_falls_silent_counts_as_released(lay):
    """A wireless one that is carried away, or whose battery ends, says nothing more."""
    desk = lay()
    desk.read(buttons(left=True), translation(y=-FULL))
    at = desk.read(times=15).pose.position[0]
    still = desk.read(times=5).pose.position[0]
    assert at > 0.0 and desk.read(times=5).pose.position[0] == still
    assert desk.read(translation(y=-FULL)).pose.position[0] > still


def test_an_unplugged_one_releases_the_clutch_falls_silent_and_is_found_again(lay):
    desk = lay()
    desk.read(buttons(left=True, right=True), translation(y=-FULL))
    desk.plugged = False
    sample = desk.read()
    assert not sample.clutch and sample.trigger == 1.0
    assert "SpaceMouseCompact was unplugged" in desk.operator.situation
    assert desk.read(times=60) is None
    assert desk.operator.report()[:2] == (False, "no SpaceMouse is plugged in")
    assert desk.operator.losses == 1
    desk.plugged, desk.reports = True, []
    sample = desk.read(times=200)
    assert sample is not None and not sample.clutch and sample.trigger == 1.0, "the gripper stays as it was"
    assert desk.operator.situation == "SpaceMouseCompact is connected"


def test_one_that_may_not_be_opened_names_the_udev_rule(lay, monkeypatch):
    desk = Desk()
    desk.forbidden = True
    monkeypatch.setattr("pyspacemouse.api.Enumeration", lambda: desk)
    assert desk.read() is None
    assert "SpaceMouseCompact is plugged in but cannot be opened" in desk.operator.situation
    assert "udev rule" in desk.operator.situation


def test_another_model_than_asked_for_is_named(lay):
    desk = lay(SpaceMouseConfig(device="SpaceMousePro"))
    assert desk.read() is None
    assert desk.operator.situation == "no SpaceMousePro is plugged in; there is SpaceMouseCompact"


def test_a_model_without_a_configured_button_names_those_that_it_has(lay):
    with pytest.raises(
        UserError, match="SpaceMousePro has no button 'LEFT'; set the parameter clutch_button to one of .*MENU"
    ):
        lay(model=PRO)


def test_without_the_client_library_or_hidapi_there_is_one_line(monkeypatch):
    def missing():
        raise AttributeError("hid_enumerate")

    monkeypatch.setattr("pyspacemouse.api.Enumeration", missing)
    with pytest.raises(UserError, match="library hidapi, which is not installed; run: sudo apt-get install"):
        SpaceMouseOperator(SpaceMouseConfig()).start()
    monkeypatch.setitem(sys.modules, "pyspacemouse", None)
    with pytest.raises(UserError, match="package pyspacemouse, which is not installed; run: make setup EXTRA=hardware"):
        SpaceMouseOperator(SpaceMouseConfig())


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ({"dead_zone": 1.0}, "dead_zone is 1.0; expected a number from 0 to 0.9"),
        ({"speed_m_s": math.nan}, "speed_m_s is nan"),
        ({"flipped": ("left",)}, "unknown axis in flipped: 'left'"),
        ({"clutch_button": ""}, "clutch_button must be used"),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting, complaint):
    with pytest.raises(UserError, match=complaint):
        SpaceMouseConfig(**setting)


@pytest.fixture
def listener():
    import rclpy

    from diwa_conventions.qos import message_type, profile

    rclpy.init()
    node = rclpy.create_node("listener", namespace="/diwa")
    seen = {topic.name: [] for topic in (topics.OPERATOR_POSE, topics.OPERATOR_JOY, topics.DIAGNOSTICS)}
    for topic in (topics.OPERATOR_POSE, topics.OPERATOR_JOY, topics.DIAGNOSTICS):
        node.create_subscription(message_type(topic), topic.name, seen[topic.name].append, profile(topic))

    def until(condition, what: str, meanwhile=lambda: None):
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            if condition():
                return
            meanwhile()
            rclpy.spin_once(node, timeout_sec=0.03)
        pytest.fail(f"{what} did not happen within {TIMEOUT_S:.0f} s")

    yield SimpleNamespace(seen=seen, until=until)
    node.destroy_node()
    rclpy.shutdown()


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_the_node_publishes_the_hand_and_survives_unplugging(listener, tmp_path):
    """Nothing of the client side is replaced: pyspacemouse and easyhid load a hidapi whose device is virtual."""
    mouse = VirtualSpaceMouse(tmp_path)
    mouse.plug_in()
    poses, joys = listener.seen[topics.OPERATOR_POSE.name], listener.seen[topics.OPERATOR_JOY.name]
    command = [sys.executable, "-m", "diwa_teleop.nodes.spacemouse", "--ros-args", "-r", "__ns:=/diwa"]
    process = subprocess.Popen(
        command, env=dict(mouse.environment()), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        listener.until(lambda: poses and joys, "first sample")
        mouse.send(buttons(left=True, right=True))
        listener.until(lambda: poses[-1].pose.position.x > 0.02, "motion", lambda: mouse.send(translation(y=-FULL)))
        assert (joys[-1].buttons[topics.JOY_CLUTCH_BUTTON], joys[-1].axes[topics.JOY_TRIGGER_AXIS]) == (1, 1.0)
        mouse.unplug()
        listener.until(lambda: not joys[-1].buttons[topics.JOY_CLUTCH_BUTTON], "released clutch")
        reports = listener.seen[topics.DIAGNOSTICS.name]
        listener.until(lambda: any("no SpaceMouse is plugged in" == r.status[0].message for r in reports), "report")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
    assert process.returncode == 0 and "Traceback" not in output
    assert "SpaceMouseCompact is connected" in output and "SpaceMouseCompact was unplugged" in output
