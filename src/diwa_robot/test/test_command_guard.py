"""Who may move the arm and when, and what stops it. Every output is also checked against all bounds (guard_rig)."""

import math
from dataclasses import replace

import numpy as np
import pytest
from diwa_msgs.msg import GuardState
from guard_rig import DOWN, HOME_M, NO_CAMERAS, Rig, State, tilted

from diwa_conventions.actions import Pose
from diwa_robot.limits import GuardConfig

BOTH_CAMERAS = GuardConfig()


def test_states_are_those_of_the_message():
    assert {state.name: int(state) for state in State} == {
        name: getattr(GuardState, name) for name in ("DISARMED", "ARMED", "HOLDING", "FAULT")
    }


# Arming


def test_guard_starts_disarmed_and_says_nothing_to_the_arm():
    rig = Rig()
    assert rig.guard.state == State.DISARMED
    assert rig.tick(10) is None


def test_arming_starts_at_the_measured_pose():
    rig = Rig(start=Pose(np.array([0.5, 0.1, 0.2]), tilted(0.3)))
    assert rig.arming().success
    assert (rig.guard.state, rig.guard.source) == (State.ARMED, "teleop")
    assert rig.guard.target.distance_m(rig.arm) == 0.0
    assert rig.guard.goal.angle_rad(rig.arm) < 1e-9
    assert rig.tick().target.distance_m(rig.arm) == 0.0


def test_second_source_has_to_wait_until_the_first_is_disarmed():
    rig = Rig().armed("teleop")
    answer = rig.arming("policy")
    assert not answer.success
    assert answer.message == "not armed: teleop is armed; disarm it first"
    assert rig.guard.source == "teleop"
    assert rig.guard.disarm("hand over", rig.now).success
    assert rig.arming("policy").success
    assert rig.act((0.1, 0.0, 0.0), source="teleop") == "teleop is not armed; policy is"


def test_second_source_has_to_wait_while_the_guard_holds_too():
    rig = Rig().armed()
    rig.tick(60)
    assert rig.guard.state == State.HOLDING
    assert not rig.arming("policy").success


@pytest.mark.parametrize("source", ["", "tele\nop"])
def test_source_without_a_name_cannot_be_armed(source):
    answer = Rig().arming(source)
    assert not answer.success and "expected its name" in answer.message and "\n" not in answer.message


def test_arming_needs_a_fresh_state():
    rig = Rig()
    rig.states = False
    rig.tick(20)
    assert rig.arming().message == "not armed: current_pose has brought nothing new for more than 0.1 s"


def test_arming_needs_a_state_at_all():
    guard = Rig().guard.__class__(NO_CAMERAS)
    assert guard.arm("teleop", 5.0).message == "not armed: no current_pose has come yet"


def test_arming_needs_a_finite_state():
    rig = Rig()
    rig.state(Pose(np.array([math.nan, 0.0, 0.3]), DOWN))
    assert rig.arming().message == "not armed: current_pose holds a value that is not finite"


def test_arming_needs_every_required_camera():
    rig = Rig(BOTH_CAMERAS)
    rig.cameras = False
    rig.guard.camera("static", rig.now)
    rig.tick(70)
    message = rig.arming().message
    assert "the static camera has been silent for more than 0.5 s" in message
    rig.guard.camera("static", rig.now)
    rig.guard.camera("gripper", rig.now)
    assert rig.arming().success


def test_camera_that_never_delivered_is_named():
    rig = Rig(BOTH_CAMERAS)
    rig.guard._cameras.clear()
    rig.guard.camera("static", rig.now)
    assert rig.arming().message == "not armed: the gripper camera has not delivered yet (no gripper_camera/camera_info)"


def test_arm_outside_the_box_cannot_be_armed():
    rig = Rig(start=Pose(np.array([0.2, 0.0, 0.3]), DOWN))
    answer = rig.arming()
    assert not answer.success
    assert "0.080 m outside the workspace box in x" in answer.message and "guide the arm" in answer.message
    assert rig.guard.state == State.DISARMED


def test_arming_the_armed_source_again_brakes_and_forgets_its_sequence():
    rig = Rig().armed()
    rig.sequence = 500
    rig.stream((0.5, 0.0, 0.0), 0.3)
    assert "was restarted" in rig.act((0.5, 0.0, 0.0), sequence=1)
    assert rig.arming().success
    assert rig.guard.accepted_sequence == 0
    assert rig.act((0.5, 0.0, 0.0), sequence=1) == ""
    rig.tick(20)


def test_disarming_always_succeeds_and_silences_the_guard():
    rig = Rig()
    assert rig.guard.disarm("", rig.now).success
    rig.armed()
    rig.stream((0.5, 0.0, 0.0), 0.2)
    held = rig.guard.target
    assert rig.guard.disarm("lunch", rig.now).success
    assert (rig.guard.state, rig.guard.source, rig.guard.reason) == (State.DISARMED, "", "disarmed: lunch")
    assert rig.act((0.5, 0.0, 0.0)) == "teleop is not armed"
    assert rig.tick(20) is None
    assert rig.guard.target.distance_m(held) == 0.0


# Actions


@pytest.mark.parametrize(
    ("wrong", "kind", "message"),
    [
        ({"source": "policy"}, "wrong source", "policy is not armed; teleop is"),
        ({"source": ""}, "wrong source", "an unnamed source is not armed"),
        ({"frame_id": "map"}, "wrong frame", "the action is in frame 'map'; expected 'panda_link0'"),
        ({"frame_id": ""}, "wrong frame", "the action is in frame ''"),
        ({"duration_s": 0.0}, "bad duration", "duration_s is 0; expected 0.0167 to 0.5"),
        ({"duration_s": 0.6}, "bad duration", "duration_s is 0.6"),
        ({"duration_s": math.nan}, "bad duration", "duration_s is nan"),
        ({"translation": (math.nan, 0.0, 0.0)}, "bad value", "action[0] is nan"),
        ({"rotation": (0.0, math.inf, 0.0)}, "bad value", "action[4] is inf"),
        ({"gripper": math.nan}, "bad value", "action[6] is nan"),
        ({"translation": (0.0, 0.0, -1.01)}, "bad value", "action[2] is -1.01"),
        ({"gripper": 1.5}, "bad value", "action[6] is 1.5"),
        ({"age_s": 0.3}, "bad stamp", "the action is 0.300 s old by its stamp; expected at most 0.15 s"),
        ({"age_s": -0.3}, "bad stamp", "do the machines' clocks agree?"),
        ({"age_s": math.nan}, "bad stamp", "by its stamp"),
        ({"sequence": 7}, "old sequence", "sequence 7 follows 7: a duplicate, or teleop was restarted"),
        ({"sequence": 3}, "old sequence", "sequence 3 follows 7"),
    ],
)
def test_refused_action_is_counted_with_its_reason_and_moves_nothing(wrong, kind, message):
    rig = Rig().armed()
    assert rig.act(sequence=7) == ""
    refusal = rig.act(**{"translation": (0.9, 0.0, 0.0), "rotation": (0.9, 0.0, 0.0), "gripper": -1.0} | wrong)
    assert message in refusal
    assert rig.guard.refusals == {kind: 1} and rig.guard.refused == 1
    assert rig.guard.accepted_sequence == 7
    output = rig.tick(20)
    assert (output.target.position == HOME_M).all()
    assert output.gripper == 1.0


def test_actions_of_an_unarmed_source_do_not_keep_the_armed_one_alive():
    rig = Rig().armed()
    for _ in range(20):
        rig.act((0.5, 0.0, 0.0), source="policy")
        rig.tick(4)
    assert rig.guard.state == State.HOLDING
    assert (rig.positions() == HOME_M).all()


@pytest.mark.parametrize(("value", "command"), [(1.0, 1.0), (0.0, 1.0), (0.01, 1.0), (-0.01, -1.0), (-1.0, -1.0)])
def test_gripper_is_commanded_open_or_closed_and_nothing_between(value, command):
    rig = Rig().armed()
    assert rig.tick().gripper is None
    assert rig.act(gripper=value) == ""
    assert rig.tick().gripper == command


def test_lost_actions_are_no_reason_to_stop():
    rig = Rig().armed()
    assert rig.act((0.1, 0.0, 0.0), sequence=1) == ""
    rig.tick(12)
    assert rig.act((0.1, 0.0, 0.0), sequence=4) == ""
    assert rig.guard.accepted_sequence == 4
    assert rig.guard.state == State.ARMED


# Holding


def test_silent_source_makes_the_guard_hold_and_its_next_action_goes_on():
    rig = Rig().armed()
    rig.stream((0.5, 0.0, 0.0), 0.3)
    rig.tick(17)
    assert rig.guard.state == State.ARMED
    rig.tick(5)
    assert (rig.guard.state, rig.guard.source) == (State.HOLDING, "teleop")
    assert rig.guard.reason == "teleop has been silent for more than 0.15 s"
    assert rig.act((0.5, 0.0, 0.0)) == ""
    assert rig.guard.state == State.ARMED
    rig.tick(20)
    assert rig.guard.target.position[0] == pytest.approx(HOME_M[0] + 10 * 0.01)


def test_stale_state_brakes_to_a_stop_and_drops_what_was_left():
    rig = Rig().armed()
    rig.stream((0.7, 0.0, 0.0), 0.2)
    rig.states = False
    held = False
    for _ in range(40):
        refusal = rig.act((0.7, 0.0, 0.0))
        rig.tick(4)
        held = held or rig.guard.state == State.HOLDING
        assert not (held and rig.guard.state == State.ARMED)
    assert held
    assert refusal == "on hold: current_pose has brought nothing new for more than 0.1 s"
    assert np.ptp(rig.positions()[-40:], axis=0).max() == 0.0
    assert rig.guard.goal.distance_m(rig.guard.target) < 1e-6
    rig.states = True
    rig.act((0.0, 0.0, 0.0))
    rig.tick()
    assert rig.guard.state == State.ARMED
    assert rig.act((0.7, 0.0, 0.0)) == ""


def test_state_that_repeats_its_stamp_is_stale():
    """A driver that hung and publishes its last measurement for ever."""
    rig = Rig().armed()
    rig.tick(5)
    rig.states, stamp_s = False, rig.now
    for _ in range(20):
        rig.state(rig.arm, stamp_s=stamp_s)
        rig.tick()
    assert rig.guard.state == State.HOLDING


def test_silent_camera_makes_the_guard_hold():
    rig = Rig(BOTH_CAMERAS).armed()
    rig.stream((0.0, 0.0, 0.0), 0.2)
    rig.cameras = False
    for _ in range(20):
        rig.act()
        rig.tick(4)
    assert rig.guard.state == State.HOLDING
    assert "the static camera has been silent" in rig.guard.reason
    assert "the gripper camera has been silent" in rig.guard.reason


def test_cameras_that_are_not_required_may_be_silent():
    rig = Rig()
    rig.cameras = False
    rig.armed()
    rig.stream((0.3, 0.0, 0.0), 1.0)
    assert rig.guard.state == State.ARMED


def test_long_hold_disarms():
    rig = Rig(replace(NO_CAMERAS, hold_limit_s=2.0)).armed()
    rig.tick(200)
    assert rig.guard.state == State.HOLDING
    rig.tick(90)
    assert (rig.guard.state, rig.guard.source) == (State.DISARMED, "")
    assert rig.guard.reason == "disarmed: on hold for more than 2 s: teleop has been silent for more than 0.15 s"
