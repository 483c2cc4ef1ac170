"""Which targets an arm's driver follows, and that its command never jumps."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diwa_conventions.actions import Pose
from diwa_conventions.topics import BASE_FRAME
from diwa_robot.drivers.target_stream import JUMP_MARGIN_M, JUMP_MARGIN_RAD, StreamLimits, Target, TargetStream
from diwa_robot.so3 import rotation_matrix

HOME_M = np.array([0.46, 0.0, 0.33])
DOWN = np.diag([1.0, -1.0, -1.0])
TICK_S = 1.0 / 120.0
LIMITS = StreamLimits()


class Rig:
    """A stream, a clock and an arm that stands at home unless a test moves it."""

    def __init__(self) -> None:
        self.stream = TargetStream()
        self.now = 100.0
        self.arm = Pose(HOME_M.copy(), DOWN)
        self.states = True
        self.wait(1.0)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        if self.states:
            self.stream.measured(self.arm, self.now)

    def send(self, offset_m=(0.0, 0.0, 0.0), turn_rad=(0.0, 0.0, 0.0), **fields) -> str:
        pose = Pose(HOME_M + np.array(offset_m), rotation_matrix(np.array(turn_rad, dtype=float)) @ DOWN)
        values = {
            "position": pose.position,
            "quaternion_xyzw": pose.quaternion(),
            "frame_id": BASE_FRAME,
            "stamp_s": self.now,
            "age_s": 0.001,
        } | fields
        return self.stream.take(Target(**values), self.now)

    def streaming(self, offset_m=(0.0, 0.0, 0.0), seconds: float = 0.6) -> "Rig":
        """Targets at 120 Hz until the command has caught up with them."""
        for _ in range(round(seconds / TICK_S)):
            self.wait(TICK_S)
            assert self.send(offset_m) == ""
        return self


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_nothing_is_commanded_before_a_target(rig):
    assert rig.stream.command is None
    assert not rig.stream.live(rig.now)


def test_first_command_is_where_the_arm_stands_and_catches_up_evenly(rig):
    assert rig.send((0.05, 0.0, 0.0)) == ""
    assert rig.stream.command.distance_m(rig.arm) < 1e-9
    ways = []
    for _ in range(66):
        before = rig.stream.command
        rig.wait(TICK_S)
        assert rig.send((0.05, 0.0, 0.0)) == ""
        ways.append(rig.stream.command.distance_m(before))
    np.testing.assert_allclose(rig.stream.command.position, HOME_M + [0.05, 0.0, 0.0], atol=1e-12)
    assert max(ways) == pytest.approx(0.05 / LIMITS.catch_up_s * TICK_S, rel=1e-6)


@pytest.mark.parametrize(
    ("offset_m", "turn_rad"), [((0.0, 0.0, 0.101), (0.0, 0.0, 0.0)), ((0.0, 0.0, 0.0), (0.0, 0.0, 0.51))]
)
def test_stream_that_begins_far_from_the_arm_is_refused(rig, offset_m, turn_rad):
    assert "from the arm; expected at most 0.1 m and 0.5 rad" in rig.send(offset_m, turn_rad)
    assert rig.stream.command is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"position": np.array([math.nan, 0.0, 0.3])}, "holds a value that is not finite"),
        ({"position": np.array([math.inf, 0.0, 0.3])}, "holds a value that is not finite"),
        ({"quaternion_xyzw": np.array([0.5, 0.0, 0.0, 0.0])}, "a quaternion of length 0.5000; expected 1"),
        ({"quaternion_xyzw": np.zeros(4)}, "a quaternion of length 0.0000; expected 1"),
        ({"frame_id": "camera"}, "is in frame 'camera'; expected 'panda_link0'"),
        ({"age_s": 0.3}, "is 0.300 s old by its stamp"),
        ({"age_s": -0.3}, "is -0.300 s old by its stamp"),
        ({"age_s": math.nan}, "is nan s old by its stamp"),
    ],
)
def test_target_that_is_not_in_order_changes_nothing(rig, fields, message):
    rig.streaming((0.02, 0.0, 0.0))
    before = rig.stream.command
    rig.wait(TICK_S)
    assert message in rig.send((0.03, 0.0, 0.0), **fields)
    assert rig.stream.command is before


def test_arm_holds_the_last_command_when_targets_fall_silent(rig):
    rig.streaming((0.02, 0.0, 0.0))
    held = rig.stream.command
    rig.wait(LIMITS.timeout_s + 0.01)
    assert not rig.stream.live(rig.now)
    assert rig.stream.command is held


def test_new_stream_near_the_arm_goes_on_from_the_held_command(rig):
    rig.streaming((0.02, 0.0, 0.0))
    held = rig.stream.command
    rig.wait(2.0)
    assert rig.send((0.06, 0.0, 0.0)) == ""
    assert rig.stream.command.distance_m(held) < 1e-9


def test_new_stream_far_from_the_arm_is_refused_and_the_arm_holds(rig):
    rig.streaming((0.05, 0.0, 0.0))
    held = rig.stream.command
    rig.wait(2.0)
    assert "0.120 m" in rig.send((0.12, 0.0, 0.0))
    assert rig.stream.command is held


def test_target_that_jumps_is_refused_and_the_arm_holds(rig):
    rig.streaming()
    held = rig.stream.command
    rig.wait(TICK_S)
    assert "the target jumped by 0.060 m" in rig.send((0.06, 0.0, 0.0))
    assert rig.stream.command is held


def test_targets_that_come_in_a_bunch_are_followed(rig):
    """As after a network hiccup: 50 ms of silence, then several at once with the stamps of when they were made."""
    rig.streaming()
    begin = rig.now
    rig.wait(0.05)
    for tick in range(1, 7):
        stamp = begin + tick * TICK_S
        assert rig.send((0.0075 * tick, 0.0, 0.0), stamp_s=stamp, age_s=rig.now - stamp) == ""


def test_old_stamp_is_refused(rig):
    rig.streaming()
    stamp = rig.now
    rig.wait(TICK_S)
    assert "the stamps of target_pose do not go on" in rig.send(stamp_s=stamp)


def test_silent_arm_is_not_commanded(rig):
    rig.streaming()
    rig.states = False
    for _ in range(round(LIMITS.state_timeout_s / TICK_S)):
        rig.wait(TICK_S)
        rig.send()
    rig.wait(TICK_S)
    assert rig.send() == "the arm has not said for 0.1 s where it is"


def test_two_publishers_are_refused_both(rig):
    rig.streaming()
    rig.stream.publishers = 2
    rig.wait(TICK_S)
    assert rig.send() == "target_pose has 2 publishers; expected one: stop the others"


def test_after_a_stop_only_a_new_stream_moves_the_arm(rig):
    rig.streaming()
    rig.stream.reset(rig.now)
    for _ in range(120):
        rig.wait(TICK_S)
        assert "targets have to fall silent and begin anew" in rig.send()
    assert rig.stream.command is None
    rig.wait(LIMITS.timeout_s + 0.01)
    assert rig.send((0.02, 0.0, 0.0)) == ""
    assert rig.stream.command.distance_m(rig.arm) < 1e-9


def test_new_stream_may_begin_far_away_and_come_near(rig):
    rig.streaming()
    rig.stream.reset(rig.now)
    rig.wait(LIMITS.timeout_s + 0.01)
    for offset_m in (0.2, 0.15, 0.11):
        rig.wait(TICK_S)
        assert "from the arm" in rig.send((offset_m, 0.0, 0.0))
    rig.wait(TICK_S)
    assert rig.send((0.09, 0.0, 0.0)) == ""
    assert rig.stream.command.distance_m(rig.arm) < 1e-9


numbers = st.floats(-0.15, 0.15) | st.sampled_from([0.0, math.nan, math.inf, 5.0])
events = st.one_of(
    st.tuples(st.just("send"), st.tuples(numbers, numbers, numbers), st.floats(-0.6, 0.6)),
    st.tuples(st.just("walk"), st.tuples(*[st.floats(-0.008, 0.008)] * 3), st.floats(-0.02, 0.02)),
    st.tuples(st.just("wait"), st.floats(0.0, 0.5), st.just(0.0)),
    st.tuples(st.just("push"), st.tuples(*[st.floats(-0.05, 0.05)] * 3), st.just(0.0)),
    st.tuples(st.sampled_from(["reset", "second", "frame", "silent state", "old"]), st.just(None), st.just(0.0)),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(events, max_size=40))
def test_command_never_jumps_whatever_comes(sequence):
    rig = Rig()
    walked = np.zeros(3)
    for kind, amount, turn in sequence:
        before, stood_s = rig.stream.command, rig.now
        rig.states = kind != "silent state"
        if kind == "push":
            rig.arm = Pose(rig.arm.position + np.array(amount), rig.arm.rotation)
        rig.wait(amount if kind == "wait" else TICK_S)
        if kind == "send":
            walked = np.array(amount)
        elif kind == "walk":
            walked = walked + np.array(amount)
        elif kind == "reset":
            rig.stream.reset(rig.now)
            before = None
        rig.stream.publishers = 2 if kind == "second" else 1
        fields = {"frame_id": "world"} if kind == "frame" else {"age_s": 9.0} if kind == "old" else {}
        live = rig.stream.live(rig.now)
        refusal = rig.send(tuple(walked), (0.0, 0.0, turn), **fields)
        command = rig.stream.command
        if refusal:
            assert command is before
            continue
        assert np.isfinite(command.position).all() and np.isfinite(command.rotation).all()
        np.testing.assert_allclose(command.rotation @ command.rotation.T, np.eye(3), atol=1e-9)
        assert command.distance_m(rig.arm) <= 3.0 * LIMITS.max_lead_m
        from_m = before if before is not None and live else None
        if from_m is None:  # it begins at the arm, or where it was held
            assert min(p.distance_m(command) for p in (before, rig.arm) if p is not None) <= 1e-9
            continue
        passed_s = max(rig.now - stood_s, LIMITS.timeout_s)
        catching_up_m = 2.0 * LIMITS.max_lead_m * passed_s / LIMITS.catch_up_s
        assert command.distance_m(from_m) <= LIMITS.max_speed_m_s * passed_s + JUMP_MARGIN_M + catching_up_m
        assert command.angle_rad(from_m) <= LIMITS.max_speed_rad_s * passed_s + JUMP_MARGIN_RAD + 2.0 * passed_s
