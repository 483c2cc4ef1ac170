"""What the driver does about contact, reflexes and recovery: with an arm of this test's own, and time in its hands."""

import threading

import numpy as np
import pytest

from diwa_conventions.actions import Pose
from diwa_conventions.topics import BASE_FRAME
from diwa_robot.drivers.arm import FciNotActive, NoContact, Reading, Reflex
from diwa_robot.drivers.arm_session import LONGEST_PAUSE_S, RECOVERY_S, ArmSession, DriverState
from diwa_robot.drivers.loop_timing import LoopTiming
from diwa_robot.drivers.target_stream import Target

TICK_S = 1.0 / 120.0
HOME = Pose(np.array([0.46, 0.0, 0.33]), np.diag([1.0, -1.0, -1.0]))


class FakeArm:
    """Stands where it was last told; does what a test says."""

    def __init__(self) -> None:
        self.pose, self.mode, self.errors, self.time_s = HOME, "idle", (), 0.0
        self.trouble: Exception | None = None
        """Raised by the next question."""
        self.absent: Exception | None = None
        """Raised by every try to connect."""
        self.talks = True
        self.recovers = True
        self.following = False
        self.commands: list[Pose] = []
        self.calls: list[str] = []

    def connect(self) -> str:
        self.calls.append("connect")
        if self.absent:
            raise self.absent
        return "a robot"

    def warnings(self):
        return ()

    def read(self) -> Reading:
        if self.trouble:
            trouble, self.trouble = self.trouble, None
            self.following = False
            raise trouble
        self.time_s += 0.001 if self.talks else 0.0
        zeros = np.zeros(7)
        return Reading(self.pose, zeros, zeros, zeros, self.mode, self.errors, self.time_s, 1.0)

    def begin(self) -> None:
        self.calls.append("begin")
        self.following, self.mode = True, "move"

    def command(self, pose: Pose) -> None:
        if self.following:
            self.commands.append(pose)
            self.pose = pose

    def end(self) -> None:
        self.calls.append("end")
        self.following, self.mode = False, "idle"

    def recover(self) -> None:
        self.calls.append("recover")
        if self.recovers:
            self.mode, self.errors = "idle", ()

    def close(self) -> None:
        self.calls.append("close")
        self.following = False


class Rig:
    def __init__(self) -> None:
        self.arm, self.now, self.told = FakeArm(), 100.0, []
        self.session = ArmSession(self.arm, changed=lambda: self.told.append(self.session.state))

    def run(self, seconds: float = TICK_S, offset_m=None) -> str:
        """Steps, with a target each if there is an offset; the last target's refusal."""
        refusal = ""
        for _ in range(max(1, round(seconds / TICK_S))):
            self.now += TICK_S
            self.session.step(self.now)
            if offset_m is not None:
                pose = Pose(HOME.position + np.array(offset_m), HOME.rotation)
                target = Target(pose.position, pose.quaternion(), BASE_FRAME, self.now, 0.0)
                refusal = self.session.target(target, self.now)
        return refusal

    def ready(self) -> "Rig":
        self.run(0.3)
        assert self.session.state == DriverState.READY
        return self

    def moving(self) -> "Rig":
        self.ready().run(0.7, (0.05, 0.0, 0.0))
        assert self.arm.following
        return self

    def recover(self, offset_m=None):
        """Ask as another thread does, and let time go on, with targets if there is an offset."""
        answers = []
        asking = threading.Thread(target=lambda: answers.append(self.session.recover()))
        asking.start()
        while not answers:
            self.run(TICK_S, offset_m)
        asking.join()
        return answers[0]


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_arm_is_ready_after_contact_and_no_loop_runs_yet(rig):
    rig.ready()
    assert rig.told == [DriverState.CONNECTING, DriverState.READY]
    assert rig.arm.calls == ["connect"]
    assert not rig.arm.following


def test_targets_start_the_loop_and_are_followed(rig):
    rig.moving()
    np.testing.assert_allclose(rig.arm.pose.position, HOME.position + [0.05, 0.0, 0.0], atol=1e-9)
    ways = [b.distance_m(a) for a, b in zip([HOME, *rig.arm.commands], rig.arm.commands, strict=False)]
    assert max(ways) < 0.002


def test_stream_that_begins_as_soon_as_the_arm_is_ready_is_followed(rig):
    while rig.session.state != DriverState.READY:
        rig.run()
    assert rig.run(0.1, (0.0, 0.0, 0.0)) == ""
    assert rig.arm.following


def test_stream_that_runs_before_the_arm_is_ready_moves_nothing_until_it_begins_anew(rig):
    rig.arm.absent = NoContact("nobody there")
    rig.run(1.5, (0.0, 0.0, 0.0))
    rig.arm.absent = None
    assert "begin anew" in rig.run(5.0, (0.0, 0.0, 0.0))
    assert rig.session.state == DriverState.READY
    assert not rig.arm.following
    rig.run(0.2)
    assert rig.run(0.1, (0.0, 0.0, 0.0)) == ""


def test_silence_holds_then_releases_and_a_new_stream_starts_again(rig):
    rig.moving()
    held = rig.arm.commands[-1]
    rig.run(0.9)
    assert rig.arm.commands[-1] is held
    assert rig.arm.following
    rig.run(0.5)
    assert not rig.arm.following
    rig.run(0.1, (0.05, 0.0, 0.0))
    assert rig.arm.following


def test_arm_that_is_absent_is_tried_again_with_longer_pauses(rig):
    rig.arm.absent = FciNotActive("activate FCI in Desk")
    rig.run(60.0)
    assert rig.session.state == DriverState.CONNECTING
    assert rig.session.reason == "activate FCI in Desk"
    assert 7 <= rig.arm.calls.count("connect") <= 10  # after 1, 2, 4, 8 and then every 10 s
    rig.arm.absent = None
    rig.run(LONGEST_PAUSE_S + 1.0)
    assert rig.session.state == DriverState.READY


def test_reflex_in_a_motion_latches_until_recovered(rig):
    rig.moving()
    rig.arm.trouble = Reflex("the robot stopped by itself: cartesian_reflex", ("cartesian_reflex",))
    rig.arm.mode, rig.arm.errors = "reflex", ("cartesian_reflex",)
    assert "cartesian_reflex" in rig.run(1.0, (0.05, 0.0, 0.0))
    assert rig.session.state == DriverState.FAULT
    commands = len(rig.arm.commands)
    rig.arm.mode, rig.arm.errors = "idle", ()  # it ends by itself: the latch stays
    rig.run(1.0, (0.05, 0.0, 0.0))
    assert (rig.session.state, len(rig.arm.commands)) == (DriverState.FAULT, commands)
    answer = rig.recover()
    assert answer.success, answer.message
    assert rig.session.state == DriverState.READY
    assert rig.arm.calls.count("recover") == 1


def test_recovered_arm_stands_until_a_new_stream(rig):
    rig.moving()
    rig.arm.trouble = Reflex("the robot stopped by itself: joint_reflex")
    rig.run(0.1, (0.05, 0.0, 0.0))
    assert rig.recover((0.05, 0.0, 0.0)).success
    for _ in range(10):
        assert "begin anew" in rig.run(0.1, (0.05, 0.0, 0.0))
    assert not rig.arm.following
    rig.run(0.3)
    assert rig.run(0.1, (0.05, 0.0, 0.0)) == ""
    assert rig.arm.following


def test_recovery_is_refused_while_the_user_stop_is_pressed(rig):
    rig.moving()
    rig.arm.mode = "user_stopped"
    rig.run(0.1)
    assert rig.session.state == DriverState.FAULT
    rig.arm.mode = "user_stopped"
    rig.run(0.1)
    answer = rig.recover()
    assert not answer.success
    assert answer.message.startswith("the fault stays: the user stop is pressed: release it")
    assert "recover" not in rig.arm.calls
    rig.arm.mode = "idle"
    rig.run(0.1)
    assert rig.recover().success


def test_robot_that_does_not_recover_keeps_the_fault(rig):
    rig.ready()
    rig.arm.mode, rig.arm.errors, rig.arm.recovers = "reflex", ("joint_position_limits_violation",), False
    rig.run(0.1)
    before = rig.now
    answer = rig.recover()
    assert answer.message == "the fault stays: the robot still reports joint_position_limits_violation"
    assert rig.now - before >= RECOVERY_S
    assert rig.session.state == DriverState.FAULT


@pytest.mark.parametrize(
    ("mode", "words"),
    [("user_stopped", "the user stop"), ("guiding", "guided by hand"), ("other", "unlock the joints")],
)
def test_standing_arm_that_may_not_move_is_not_ready_and_goes_on_by_itself(rig, mode, words):
    rig.ready()
    rig.arm.mode = mode
    assert words in rig.run(0.1, (0.0, 0.0, 0.0))
    assert rig.session.state == DriverState.CONNECTING
    assert words in rig.session.reason
    assert not rig.arm.following
    rig.arm.mode = "idle"
    rig.run(0.1)
    assert rig.session.state == DriverState.READY


@pytest.mark.parametrize("silence", ["error", "clock"])
def test_lost_contact_stops_and_connects_again(rig, silence):
    rig.moving()
    commands = len(rig.arm.commands)
    if silence == "error":
        rig.arm.trouble = NoContact("UDP receive: Timeout")
    else:
        rig.arm.talks = False
    rig.run(0.4, (0.05, 0.0, 0.0))
    assert rig.session.state == DriverState.CONNECTING
    rig.arm.talks, rig.arm.mode = True, "idle"
    assert len(rig.arm.commands) <= commands + 0.11 / TICK_S  # no longer than the state is believed
    rig.run(2.0, (0.05, 0.0, 0.0))
    assert rig.session.state == DriverState.READY
    assert rig.session.contacts == 2
    assert not rig.arm.following  # the old stream moves nothing


def test_fault_stays_latched_over_a_lost_contact(rig):
    rig.moving()
    rig.arm.trouble = Reflex("the robot stopped by itself: cartesian_reflex")
    rig.run(0.1)
    rig.arm.trouble = NoContact("UDP receive: Timeout")
    rig.run()
    answer = rig.recover()
    assert not answer.success
    assert "no contact" in answer.message
    rig.run(3.0)
    assert rig.session.state == DriverState.FAULT
    assert rig.recover().success


def test_fault_of_this_software_stops_and_latches(rig):
    rig.moving()
    rig.session.fail("a fault of this software: KeyError: 'x'")
    rig.run()
    assert rig.session.state == DriverState.FAULT
    assert not rig.arm.following


def test_recovering_without_a_fault_changes_nothing(rig):
    rig.arm.absent = NoContact("nobody there")
    rig.run()
    assert not rig.recover().success
    rig.arm.absent = None
    rig.run(LONGEST_PAUSE_S + 1.0)
    assert rig.recover().success
    assert "recover" not in rig.arm.calls


def test_closing_brings_the_arm_to_rest(rig):
    rig.moving()
    rig.session.close(rig.now)
    assert rig.arm.calls[-2:] == ["end", "close"]
    assert rig.session.state == DriverState.CONNECTING


def test_lost_commands_are_counted_from_the_success_rate():
    timing, zeros = LoopTiming(TICK_S), np.zeros(7)
    lost_at = 1.0
    for step in range(240):
        time_s = step * TICK_S
        rate = 0.97 if lost_at <= time_s < lost_at + 0.1 else 1.0 if time_s > 0.1 else 0.0
        timing.step(time_s)
        timing.reading(Reading(HOME, zeros, zeros, zeros, "move", (), time_s, rate), time_s)
    report = timing.report()
    assert report.lost_commands == pytest.approx(3.0, abs=0.3)
    assert report.success_rate == 0.97
    assert report.rate_hz == pytest.approx(120.0, rel=1e-6)
    assert report.robot_share == pytest.approx(1.0)
