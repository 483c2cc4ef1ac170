"""The VIVE operator through the unmodified openvr client, on a virtual runtime instead of SteamVR."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_runtime.virtual_vive import (
    BASE_STATION,
    CALIBRATING,
    LEFT,
    OUT_OF_RANGE,
    RIGHT,
    ROTATION_ONLY,
    RUNNING_OK,
    TRACKER,
    VirtualVive,
    build,
    why_not,
)

from diwa_conventions.actions import Pose, euler_to_matrix
from diwa_conventions.errors import UserError
from diwa_teleop.operators.calibration import UNCALIBRATED
from diwa_teleop.operators.openvr_runtime import ControllerSeen, DeviceSeen, OpenVrRuntime, RuntimeUnavailable
from diwa_teleop.operators.vive import ViveConfig, ViveOperator

openvr = pytest.importorskip("openvr", reason="the VIVE's client library: make setup EXTRA=hardware")
needs_runtime = pytest.mark.skipif(bool(why_not()), reason=why_not())
DT_S = 1.0 / 30.0
LOST = [(OUT_OF_RANGE, True), (ROTATION_ONLY, True), (RUNNING_OK, False), (CALIBRATING, True)]
"""Tracking results, and whether the pose is said to be valid."""
STAND = Pose(np.array([0.0, 1.0, -0.5]), np.eye(3))
"""Where the controller is in the tracking world: 1 m up, half a metre in front."""


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    return build(tmp_path_factory.mktemp("runtime"))


@pytest.fixture
def vive(runtime, tmp_path, monkeypatch):
    vive = VirtualVive(runtime, tmp_path)
    for name, value in vive.environment.items():
        monkeypatch.setenv(name, value)
    return vive


class Person:
    """Somebody with a controller, an operator that reads it, and a clock."""

    def __init__(self, vive: VirtualVive, config: ViveConfig | None = None, stations=None) -> None:
        self.vive, self.now_s, self.at = vive, 100.0, STAND
        self.operator = ViveOperator(
            OpenVrRuntime(), config or ViveConfig(), UNCALIBRATED, stations, clock=lambda: self.now_s
        )

    def read(self, times: int = 1):
        """The last of so many samples, with the tremor that a hand has."""
        for _ in range(times):
            self.vive.move(1, self.at)
            self.now_s += DT_S
            sample = self.operator.read(DT_S)
        return sample

    def press(self, *names: str, trigger: float = 0.0, touchpad=(0.0, 0.0)):
        self.vive.press(1, names, trigger, touchpad)
        return self.read()

    def engage(self):
        """Release and hold the clutch."""
        self.press()
        sample = self.press("grip")
        assert sample.clutch
        return sample

    def go(self, x: float, y: float, z: float):
        self.at = Pose(self.at.position + [x, y, z], self.at.rotation)
        return self.read()


@pytest.fixture
def person(vive):
    vive.add(1, "LHR-1", role=RIGHT)
    person = Person(vive)
    person.operator.start()
    yield person
    person.operator.close()


@needs_runtime
class TestWhatTheHandDoes:
    def test_the_hand_s_pose_comes_in_the_base_frame(self, person):
        before = person.read()
        person.at = Pose(STAND.position + [0.01, 0.02, -0.03], euler_to_matrix(np.array([0.0, 0.05, 0.0])))
        after = person.read()
        np.testing.assert_allclose(after.pose.position - before.pose.position, [0.03, -0.01, 0.02], atol=5e-6)
        turn = after.pose.rotation @ before.pose.rotation.T
        np.testing.assert_allclose(turn, euler_to_matrix(np.array([0.0, 0.0, 0.05])), atol=1e-6)
        assert after.tracked and person.operator.serial == "LHR-1"
        np.testing.assert_allclose(after.pose.rotation @ after.pose.rotation.T, np.eye(3), atol=1e-12)

    def test_the_trigger_goes_from_0_to_1(self, person):
        for value, expected in ((0.0, 0.0), (0.37, 0.37), (1.0, 1.0), (1.4, 1.0), (math.nan, 0.0)):
            assert person.press(trigger=value).trigger == pytest.approx(expected)

    def test_buttons_have_their_meanings_and_the_touchpad_its_sides(self, person):
        for names, pad, expected in (
            (("grip",), (0, 0), {"clutch"}),
            (("menu",), (0, 0), {"disarm"}),
            (("touchpad",), (0.1, 0.8), {"arm"}),
            (("touchpad",), (0.8, -0.2), {"success"}),
            (("touchpad",), (-0.8, 0.2), {"failure"}),
            (("touchpad",), (0.1, -0.1), set()),
            (("touchpad",), (0.0, -0.9), set()),
            ((), (0.0, 0.9), set()),
            (("system", "a", "trigger"), (0, 0), set()),
        ):
            person.press()
            sample = person.press(*names, touchpad=pad)
            pressed = {name for name in ("clutch", "arm", "disarm", "success", "failure") if getattr(sample, name)}
            assert pressed == expected, (names, pad)

    def test_buttons_can_be_given_other_meanings(self, vive):
        vive.add(1, "LHR-1")
        person = Person(vive, ViveConfig(clutch_button="trigger", arm_button="", disarm_button="a"))
        person.press()
        sample = person.press("trigger", "a", "touchpad", touchpad=(0.0, 1.0))
        assert (sample.clutch, sample.disarm, sample.arm) == (True, True, False)
        person.operator.close()

    def test_a_clutch_that_is_held_from_the_start_has_to_be_released_first(self, person):
        person.vive.press(1, ["grip"])
        assert not person.read(5).clutch
        assert "clutch must be released and pressed again" in person.operator.situation
        assert not person.press().clutch
        assert person.press("grip").clutch


@needs_runtime
class TestWhatMayBeLost:
    @pytest.mark.parametrize(
        ("result", "valid"), [(OUT_OF_RANGE, True), (ROTATION_ONLY, True), (200, False), (1, True)]
    )
    def test_lost_tracking_releases_the_clutch_at_once_and_until_it_is_pressed_anew(self, person, result, valid):
        person.engage()
        person.vive.track(1, result, valid)
        sample = person.read()
        assert not sample.clutch and not sample.tracked
        assert person.operator.situation == (
            "controller LHR-1 is not tracked: the base stations do not see it; no motion"
        )
        person.vive.track(1)
        sample = person.read(10)
        assert sample.tracked and not sample.clutch
        person.engage()
        assert person.operator.losses == 1

    def test_without_tracking_the_buttons_still_disarm_but_do_not_arm(self, person):
        person.read()
        person.vive.track(1, OUT_OF_RANGE)
        sample = person.press("menu", "touchpad", touchpad=(0.0, 1.0))
        assert sample.disarm and not sample.arm

    def test_the_pose_that_goes_on_being_guessed_is_not_taken(self, person):
        last = person.engage().pose
        person.vive.track(1, OUT_OF_RANGE)
        sample = person.go(0.3, 0.0, 0.0)
        np.testing.assert_array_equal(sample.pose.position, last.position)

    def test_a_hand_faster_than_a_hand_can_be_is_lost_tracking(self, person):
        """A base station that was bumped moves the whole world by a leap."""
        person.engage()
        assert person.go(0.09, 0.0, 0.0).clutch, "2.7 m/s is a fast hand"
        assert not person.go(0.2, 0.0, 0.0).clutch
        assert person.operator.leaps == 1
        assert not person.read(10).clutch
        person.engage()

    def test_a_turn_faster_than_a_hand_can_make_is_lost_tracking(self, person):
        person.engage()
        person.at = Pose(STAND.position, euler_to_matrix(np.array([0.0, 0.5, 0.0])))
        assert person.read().clutch
        person.at = Pose(STAND.position, euler_to_matrix(np.array([0.0, 1.3, 0.0])))
        assert not person.read().clutch

    @pytest.mark.parametrize("value", [math.nan, math.inf, 7.0])
    def test_a_matrix_that_is_no_pose_is_not_taken(self, person, value):
        person.engage()
        person.at = Pose(STAND.position, np.full((3, 3), value))
        sample = person.read()
        assert not sample.clutch and not sample.tracked and np.isfinite(sample.pose.rotation).all()
        assert "has a pose that is none" in person.operator.situation

    def test_a_pose_that_stands_still_in_the_last_digit_is_an_old_one(self, person):
        person.engage()
        for _ in range(40):
            person.now_s += DT_S
            sample = person.operator.read(DT_S)
        assert not sample.clutch and not sample.tracked
        assert "sleeps, or SteamVR hangs" in person.operator.situation
        person.read()
        person.engage()

    def test_a_controller_that_goes_off_releases_the_clutch_and_then_falls_silent(self, person):
        person.engage()
        person.vive.connect(1, False)
        sample = person.read()
        assert sample is not None and not sample.clutch and not sample.tracked
        assert person.read(20) is None
        assert person.operator.situation == ("controller LHR-1 is off or asleep; press its system button, charge it")
        person.vive.connect(1, True)
        sample = person.read(20)
        assert sample.tracked and not sample.clutch
        person.engage()

    def test_when_steamvr_ends_it_lets_go_and_comes_back_with_growing_pauses(self, person):
        person.engage()
        assert person.vive.room.clients == 1
        person.vive.quit()
        assert not person.read().clutch
        assert (person.vive.room.acknowledged, person.vive.room.clients) == (1, 0)
        assert person.operator.situation == "SteamVR has ended; start it"
        assert person.read(60) is None
        assert person.operator.situation == "SteamVR is not running; start it"
        person.vive.start()
        assert person.read(400).tracked, "the longest pause is 10 s"
        person.engage()
        assert person.vive.room.clients == 1


class FakeRuntime:
    """A SteamVR whose faults are those of the moment."""

    def __init__(self) -> None:
        self.running, self.fault, self.held, self.x = False, "", False, 0.0

    def happens(self, fault: str, held: bool) -> None:
        self.fault, self.held = fault, held
        self.x += 1.0 if fault == "leap" else 1e-4

    def open(self) -> None:
        if self.fault == "ended":
            raise RuntimeUnavailable("not running")
        self.running = True

    def close(self) -> None:
        assert self.running
        self.running = False

    def ended(self) -> bool:
        assert self.running
        return self.fault == "ended"

    def devices(self):
        assert self.running
        return [DeviceSeen(1, "controller", "LHR-1", "", self.fault != "off")]

    def read(self, index):
        assert self.running
        matrix = np.hstack([np.eye(3), [[self.x], [0.0], [0.0]]])
        if self.fault == "nan":
            matrix[1, 1] = math.nan
        return ControllerSeen(matrix, self.fault != "lost", self.fault != "off", self.held << 2, 0.0, (0.0, 0.0))

    def battery(self, index):
        return None

    def place(self, index):
        return None


def faked():
    clock, fake = [0.0], FakeRuntime()
    return ViveOperator(fake, ViveConfig(), UNCALIBRATED, clock=lambda: clock[0]), fake, clock


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["", "", "", "", "lost", "off", "leap", "nan", "ended"]), st.booleans())))
def test_whatever_happens_the_clutch_counts_only_if_it_was_pressed_while_all_was_well(moments):
    operator, fake, clock = faked()
    pressed_anew_may_count = False
    for fault, held in moments:
        clock[0] += DT_S
        fake.happens(fault, held)
        sample = operator.read(DT_S)
        all_well = sample is not None and sample.tracked
        if fault and (fault != "leap" or held):
            pressed_anew_may_count = False
        elif all_well and not held:
            pressed_anew_may_count = True
        if all_well:
            assert sample.clutch == (held and pressed_anew_may_count)
            assert np.isfinite(sample.pose.position).all() and np.isfinite(sample.pose.rotation).all()
        else:
            assert sample is None or not sample.clutch


@needs_runtime
class TestWhichController:
    def test_the_only_controller_that_is_on_is_taken(self, vive):
        vive.add(2, "LHR-2")
        vive.connect(2, False)
        vive.add(3, "LHB-1", kind=BASE_STATION)
        vive.add(4, "LHR-T", kind=TRACKER)
        vive.add(1, "LHR-1")
        person = Person(vive)
        person.read()
        assert person.operator.serial == "LHR-1"
        person.operator.close()

    @pytest.mark.parametrize(
        ("config", "serial"),
        [
            (ViveConfig(serial="LHR-1"), "LHR-1"),
            (ViveConfig(serial="LHR-T"), "LHR-T"),
            (ViveConfig(role="left"), "LHR-2"),
            (ViveConfig(role="right"), "LHR-1"),
        ],
    )
    def test_one_is_named_by_its_serial_number_or_its_role(self, vive, config, serial):
        vive.add(1, "LHR-1", role=RIGHT)
        vive.add(2, "LHR-2", role=LEFT)
        vive.add(4, "LHR-T", kind=TRACKER)
        person = Person(vive, config)
        person.read()
        assert person.operator.serial == serial
        person.operator.close()

    @pytest.mark.parametrize(
        ("config", "said"),
        [
            (
                ViveConfig(),
                "there are 2 controllers: controller LHR-1 (right), controller LHR-2 (left); name one with the "
                "parameter serial, or role",
            ),
            (
                ViveConfig(serial="LHR-9"),
                "SteamVR knows no controller LHR-9; switch it on, or pair it; known: controller LHR-1 (right), "
                "controller LHR-2 (left)",
            ),
        ],
    )
    def test_none_is_guessed(self, vive, config, said):
        vive.add(1, "LHR-1", role=RIGHT)
        vive.add(2, "LHR-2", role=LEFT)
        person = Person(vive, config)
        assert person.read() is None
        assert person.operator.situation == said
        person.operator.close()

    def test_one_that_comes_later_is_found(self, vive):
        person = Person(vive)
        assert person.read() is None
        assert person.operator.situation == "SteamVR knows no controller; switch it on, or pair it; known: none"
        vive.add(1, "LHR-1")
        assert person.read(20).tracked
        person.operator.close()


@needs_runtime
class TestWhatItWarnsOf:
    def test_a_low_battery(self, person):
        person.read()
        assert person.operator.report()[0]
        assert person.operator.report()[2]["battery"] == "75 %"
        person.vive.charge(1, 0.12)
        person.read(160)
        well, text, values = person.operator.report()
        assert (well, text) == (False, "controller LHR-1: battery at 12 %, charge it")
        person.vive.charge(1, -1.0)
        person.read(160)
        assert person.operator.report()[0] and person.operator.report()[2]["battery"] == "unknown"

    def test_a_base_station_that_was_moved_since_the_calibration(self, vive):
        vive.add(1, "LHR-1")
        vive.add(3, "LHB-1", kind=BASE_STATION)
        vive.move(3, Pose(np.array([2.0, 2.5, 0.0]), np.eye(3)))
        person = Person(vive, stations={"LHB-1": np.array([2.0, 2.5, 0.01]), "LHB-2": np.zeros(3)})
        person.read()
        assert person.operator.report()[0]
        vive.move(3, Pose(np.array([2.0, 2.3, 0.0]), np.eye(3)))
        person.read(160)
        text = "base station LHB-1 is 0.20 m from where it was calibrated; run: diwa calibrate operator"
        assert person.operator.report()[:2] == (False, text)
        person.operator.close()


class TestWithoutSteamVR:
    def test_no_installation_is_one_line_that_says_what_to_do(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        operator = ViveOperator(OpenVrRuntime(), ViveConfig(), UNCALIBRATED)
        with pytest.raises(UserError, match=r"no SteamVR is .*PathRegistryNotFound\); install Steam and SteamVR"):
            operator.start()

    def test_without_the_client_library_there_is_one_line(self, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "openvr", None)
        with pytest.raises(UserError, match="needs the package openvr.*make setup EXTRA=hardware"):
            OpenVrRuntime()

    @needs_runtime
    def test_one_that_does_not_run_is_waited_for(self, vive):
        vive.room.running = 0
        vive.add(1, "LHR-1")
        person = Person(vive)
        person.operator.start()
        assert person.operator.situation == "SteamVR is not running; start it"
        vive.start()
        assert person.read(40).tracked
        person.operator.close()


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ({"role": "middle"}, "unknown role 'middle'"),
        ({"clutch_button": "squeeze"}, "unknown clutch_button 'squeeze'"),
        ({"clutch_button": ""}, "clutch_button must be used"),
        ({"max_hand_speed_m_s": 0.0}, "max_hand_speed_m_s is 0.0; expected a number from 0.1 to 20"),
        ({"battery_low": math.nan}, "battery_low is nan"),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting, complaint):
    with pytest.raises(UserError, match=complaint):
        ViveConfig(**setting)


def test_an_unknown_kind_of_application_is_refused():
    with pytest.raises(UserError, match="unknown application 'scene'.*known: background, other"):
        OpenVrRuntime("scene")
