"""What latches the guard, and what it takes to recover. Every output is also checked against all bounds (guard_rig)."""

import math

import numpy as np
import pytest
from guard_rig import DOWN, HOME_M, TICK_S, Rig, State, tilted

from diwa_conventions.actions import Pose
from diwa_robot.limits import GuardConfig


def moved_by(rig: Rig, offset_m) -> Pose:
    return Pose(rig.arm.position + np.asarray(offset_m), rig.arm.rotation)


def faulted() -> Rig:
    """A guard that latched because the arm jumped, and an arm that stands still since."""
    rig = Rig().armed()
    rig.tick(5)
    rig.arm = moved_by(rig, (0.0, 0.3, 0.0))
    rig.follows = False
    rig.tick()
    assert rig.guard.state == State.FAULT
    return rig


def _nan(rig: Rig) -> None:
    rig.state(Pose(np.array([0.4, math.nan, 0.3]), DOWN))


def _long_quaternion(rig: Rig) -> None:
    rig.guard.pose(HOME_M, np.array([1.0, 0.1, 0.0, 0.0]), "panda_link0", rig.now, rig.now)


def _other_frame(rig: Rig) -> None:
    rig.state(rig.arm, frame="world")


def _no_stamp(rig: Rig) -> None:
    rig.state(rig.arm, stamp_s=0.0)


def _stamp_back(rig: Rig) -> None:
    rig.state(rig.arm, stamp_s=rig.now - 1.0)


def _jump(rig: Rig) -> None:
    rig.state(moved_by(rig, (0.0, 0.06, 0.0)), stamp_s=rig.now + TICK_S)


def _turn(rig: Rig) -> None:
    rig.state(Pose(rig.arm.position, tilted(0.3)), stamp_s=rig.now + TICK_S)


def _intruder(rig: Rig) -> None:
    rig.guard.other_publishers(["/diwa/joystick"], rig.now)


def _reflex(rig: Rig) -> None:
    rig.guard.arm_state(False, "reflex: cartesian_reflex", rig.now)


def _clock_back(rig: Rig) -> None:
    rig.guard.tick(rig.now - 0.001)


def _late(rig: Rig) -> None:
    rig.guard.tick(rig.now + 0.26)


CAUSES = [
    (_nan, "current_pose holds a value that is not finite"),
    (_long_quaternion, "current_pose has a quaternion of length 1.0050; expected 1"),
    (_other_frame, "current_pose is in frame 'world'; expected 'panda_link0'"),
    (_no_stamp, "current_pose carries no stamp"),
    (_stamp_back, "the stamps of current_pose went back by 1.000 s; was the arm restarted?"),
    (_jump, "the measured pose jumped by 0.060 m within 0.008 s"),
    (_turn, "the measured pose jumped by 0.30 rad within 0.008 s"),
    (_intruder, "target_pose has other publishers: /diwa/joystick; stop them"),
    (_reflex, "the arm is not ready: reflex: cartesian_reflex"),
    (_clock_back, "the guard's clock went back by 0.001 s"),
    (_late, "the guard stood still for 0.26 s; is the machine overloaded?"),
]


@pytest.mark.parametrize(("cause", "reason"), CAUSES, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("holding", [False, True])
def test_fault_freezes_the_target_at_once_and_latches(cause, reason, holding):
    rig = Rig().armed()
    rig.stream((0.5, 0.0, 0.0), 0.2)
    if holding:
        rig.tick(60)
    assert rig.guard.state == (State.HOLDING if holding else State.ARMED)
    frozen = rig.guard.target
    cause(rig)
    assert (rig.guard.state, rig.guard.source) == (State.FAULT, "")
    assert rig.guard.reason.startswith(reason)
    latched = rig.guard.reason
    for _ in range(3):
        assert rig.act((0.5, 0.0, 0.0)) == "teleop is not armed"
        assert not rig.arming().success
        rig.guard.disarm("", rig.now)
        assert rig.tick(10) is None
    assert (rig.guard.state, rig.guard.reason) == (State.FAULT, latched)
    assert rig.guard.target.distance_m(frozen) == 0.0


@pytest.mark.parametrize("cause", [cause for cause, _ in CAUSES], ids=lambda cause: cause.__name__)
def test_nothing_is_a_fault_while_nobody_is_armed(cause):
    rig = Rig()
    rig.tick(5)
    cause(rig)
    assert rig.guard.state == State.DISARMED


def test_arm_that_does_not_follow_is_a_fault_after_a_while():
    rig = Rig().armed()
    rig.follows = False
    for index in range(12):  # pushed away by hand, 2.9 m/s: no jump
        rig.arm = Pose(HOME_M + np.array([0.0, 0.024 * index, 0.0]), DOWN)
        rig.tick()
    rig.act()
    rig.tick(20)
    assert rig.guard.state == State.ARMED
    rig.tick(10)
    assert rig.guard.state == State.FAULT
    assert "the arm does not follow: 0.26 m and 0.00 rad from its target" in rig.guard.reason


def test_messages_that_come_in_a_bunch_are_no_jump():
    """Two states measured 50 ms apart at 0.6 m/s, delivered 1 ms apart."""
    rig = Rig().armed()
    rig.states = rig.follows = False
    rig.tick(6)
    rig.state(moved_by(rig, (0.0, 0.03, 0.0)), stamp_s=rig.now)
    rig.now += 0.001
    rig.state(moved_by(rig, (0.0, 0.06, 0.0)), stamp_s=rig.now + 0.05)
    assert rig.guard.active


def test_recovering_disarms_and_arming_is_a_second_step():
    rig = faulted()
    assert rig.act((0.5, 0.0, 0.0)) != ""
    answer = rig.guard.recover(rig.now)
    assert answer.success and answer.message.startswith("recovered from: the measured pose jumped")
    assert rig.guard.state == State.DISARMED
    assert rig.act((0.5, 0.0, 0.0)) == "teleop is not armed"
    assert rig.tick(5) is None
    rig.armed()
    assert rig.guard.target.distance_m(rig.arm) == 0.0


def test_recovering_is_refused_while_the_intruder_is_there():
    rig = Rig().armed()
    rig.guard.other_publishers(["/diwa/joystick"], rig.now)
    answer = rig.guard.recover(rig.now)
    assert (answer.success, rig.guard.state) == (False, State.FAULT)
    assert answer.message.startswith("the fault stays: target_pose has other publishers: /diwa/joystick; stop them")
    rig.guard.other_publishers([], rig.now)
    assert rig.guard.recover(rig.now).success


def test_recovering_is_refused_while_the_state_is_nonsense():
    rig = Rig().armed()
    _nan(rig)
    assert rig.guard.recover(rig.now).message == "the fault stays: current_pose holds a value that is not finite"
    rig.deliver()
    assert rig.guard.recover(rig.now).success


def test_recovering_is_refused_until_the_arms_driver_is_ready():
    rig = Rig().armed()
    _reflex(rig)
    assert rig.guard.recover(rig.now).message == "the fault stays: the arm is not ready: reflex: cartesian_reflex"
    rig.driver = ""
    rig.tick()
    assert rig.guard.recover(rig.now).success
    rig.armed()


def test_nobody_is_armed_while_the_arms_driver_is_not_ready():
    rig = Rig()
    rig.guard.arm_state(False, "no answer from 172.16.0.2", rig.now)
    assert rig.arming().message == "not armed: the arm is not ready: no answer from 172.16.0.2"


def test_recovering_an_idle_guard_tells_of_the_arm_that_is_not_ready():
    rig = Rig()
    rig.guard.arm_state(False, "cartesian_reflex", rig.now)
    message = rig.guard.recover(rig.now).message
    assert message.endswith("the guard is DISARMED; the arm is not ready: cartesian_reflex")


def test_driver_that_falls_silent_holds_the_arm_until_it_is_back():
    rig = Rig()
    rig.driver = ""
    rig.tick()
    rig.armed()
    rig.driver = None
    for _ in range(70):
        rig.act()
        rig.tick()
    assert rig.guard.state == State.HOLDING
    assert rig.guard.reason == "the arm's driver has been silent for more than 0.5 s"
    rig.driver = ""
    rig.tick()
    rig.act()
    rig.tick()
    assert rig.guard.state == State.ARMED


def test_recovering_without_a_fault_changes_nothing():
    rig = Rig().armed()
    answer = rig.guard.recover(rig.now)
    assert not answer.success
    assert answer.message == "there is no fault to recover from; the guard is ARMED"
    assert rig.guard.state == State.ARMED


def test_nobody_is_armed_while_an_intruder_is_there():
    rig = Rig()
    rig.guard.other_publishers(["/diwa/a", "/diwa/b"], rig.now)
    assert rig.arming().message.startswith("not armed: target_pose has other publishers: /diwa/a, /diwa/b; stop them")


def test_fault_from_outside_latches_whoever_is_armed():
    rig = Rig()
    rig.guard.fault("a fault of this software: ZeroDivisionError")
    assert rig.guard.state == State.FAULT
    assert not rig.arming().success


def test_name_of_an_intruder_that_becomes_known_later_is_said():
    rig = Rig().armed()
    rig.guard.other_publishers(["one not yet known by name"], rig.now)
    rig.guard.other_publishers(["/diwa/joystick"], rig.now)
    assert rig.guard.state == State.FAULT
    assert "other publishers: /diwa/joystick" in rig.guard.reason


def test_arm_cannot_be_armed_on_an_old_pose():
    rig = Rig()
    rig.guard.pose(HOME_M, np.array([1.0, 0.0, 0.0, 0.0]), "panda_link0", rig.now + 0.01, rig.now, age_s=5.0)
    rig.states = False
    rig.tick(20)
    message = rig.arming().message
    assert "5.000 s old by its stamp" in message and "clocks" in message


@pytest.mark.parametrize("age_s", [0.26, -0.26, math.nan])
def test_poses_that_come_late_by_their_stamps_hold_the_arm(age_s: float):
    rig = Rig().armed()
    rig.states = False
    for _ in range(30):
        rig.guard.pose(HOME_M, np.array([1.0, 0.0, 0.0, 0.0]), "panda_link0", rig.now + TICK_S, rig.now, age_s)
        assert rig.act((0.5, 0.0, 0.0)) == "" or rig.guard.state == State.HOLDING
        rig.tick()
    assert rig.guard.state == State.HOLDING


def test_a_late_tick_does_not_make_up_for_what_it_missed():
    rig = Rig().armed()
    rig.stream((1.0, 0.0, 0.0), 0.3)
    before = rig.guard.target.position
    rig.tick(dt=0.12)
    assert np.linalg.norm(rig.guard.target.position - before) < 0.001


def test_a_frozen_camera_that_repeats_its_stamp_is_silent():
    rig = Rig(GuardConfig(required_cameras=("static",)))
    rig.cameras = False
    for _ in range(80):
        rig.guard.camera("static", rig.now, stamp_s=7.0)
        rig.tick()
    assert "the static camera has been silent" in rig.arming().message


def test_old_images_say_nothing_about_now():
    rig = Rig(GuardConfig(required_cameras=("static",)))
    rig.cameras = False
    for _ in range(80):
        rig.guard.camera("static", rig.now, stamp_s=rig.now - 0.6, age_s=0.6)
        rig.tick()
    assert "the static camera has been silent" in rig.arming().message
