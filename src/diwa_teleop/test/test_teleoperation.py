"""What the arm is asked to do for what the operator's hand does, with an ideal guard and with a bad one."""

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from diwa_conventions.actions import ActionScale, Pose, integrate
from diwa_conventions.errors import UserError
from diwa_teleop.frame import operator_to_base
from diwa_teleop.teleoperation import ACTION_S, GuardMode, GuardReport, Teleoperation, TeleoperationConfig

DOWN = np.diag([1.0, -1.0, -1.0])
ARM = Pose(np.array([0.45, 0.0, 0.3]), DOWN)
HAND = Pose(np.array([2.0, -1.0, 0.5]), Rotation.from_euler("xyz", [0.3, -0.2, 1.0]).as_matrix())


def turned(pose: Pose, rotation_vector) -> Pose:
    return Pose(pose.position, Rotation.from_rotvec(rotation_vector).as_matrix() @ pose.rotation)


def moved(pose: Pose, *shift_m: float) -> Pose:
    return Pose(pose.position + np.array(shift_m), pose.rotation)


@dataclass
class Bench:
    """Teleoperation at 30 Hz between an operator's hand and a guard that accepts everything ``delay`` ticks later."""

    config: TeleoperationConfig = field(default_factory=TeleoperationConfig)
    delay: int = 0
    ceiling_m: float = math.inf
    now_s: float = 100.0
    goal: Pose = ARM
    accepted: int = 0
    mode: GuardMode = GuardMode.ARMED
    hand: Pose = HAND

    def __post_init__(self) -> None:
        self.teleop = Teleoperation(self.config)
        self.sent: list = []
        self.under_way: list = []

    def tick(self, hand: Pose | None = None, clutch: bool = True, trigger: float = 0.0, silent: bool = False):
        """One thirtieth of a second; the action that was sent, or None."""
        self.now_s += ACTION_S
        self.hand = hand or self.hand
        self.teleop.on_guard(GuardReport(self.mode, self.goal, self.accepted), self.now_s)
        if not silent:
            self.teleop.on_controls(trigger, clutch, self.now_s)
            self.teleop.on_hand(self.hand, self.now_s)
        sent = self.teleop.act(self.now_s)
        if sent is not None:
            self.sent.append(sent)
            self.under_way.append(sent)
        while len(self.under_way) > self.delay:
            self.accept(self.under_way.pop(0))
        return sent

    def accept(self, sent) -> None:
        if self.mode is not GuardMode.ARMED:
            return
        goal = integrate(self.goal, sent.action, ActionScale(), 0.25)
        goal.position[2] = min(goal.position[2], self.ceiling_m)
        self.goal, self.accepted = goal, sent.sequence

    def engage(self) -> "Bench":
        self.tick(clutch=False)
        self.tick(clutch=True)
        return self

    def settle(self, ticks: int = 60) -> None:
        for _ in range(ticks):
            self.tick()


def motion(sent) -> float:
    return float(np.abs(sent.action[:6]).max())


def test_without_the_clutch_nothing_moves_however_the_hand_does():
    bench = Bench()
    for step in range(30):
        assert motion(bench.tick(moved(HAND, 0.01 * step, 0.0, 0.0), clutch=False)) == 0.0


def test_engaging_does_not_move_the_arm():
    assert motion(Bench().engage().sent[-1]) == 0.0


def test_engaging_again_elsewhere_sets_the_origins_anew():
    bench = Bench().engage()
    bench.tick(moved(HAND, 0.015, 0.0, 0.0))
    for step in range(20):
        bench.tick(moved(HAND, 0.0, 0.05 * step, 0.0), clutch=False)
    before = bench.goal
    assert motion(bench.tick(clutch=True)) == 0.0
    bench.tick(moved(bench.hand, 0.0, 0.0, -0.01))
    np.testing.assert_allclose(bench.goal.position - before.position, [0.0, 0.0, -0.01], atol=1e-12)


def test_full_scale_is_two_centimetres_and_a_twentieth_of_a_radian_per_action():
    bench = Bench().engage()
    sent = bench.tick(turned(moved(HAND, 0.01, 0.0, 0.0), [0.0, 0.0, 0.025]))
    np.testing.assert_allclose(sent.action[:6], [0.5, 0.0, 0.0, 0.0, 0.0, 0.5], atol=1e-9)


@given(
    st.lists(
        st.tuples(*[st.floats(-0.0115, 0.0115)] * 3, *[st.floats(-0.028, 0.028)] * 3).map(np.array),
        min_size=1,
        max_size=40,
    ),
    st.integers(0, 4),
)
@settings(max_examples=40, deadline=None)
def test_a_path_within_the_speeds_is_followed_exactly_whatever_the_guard_s_delay(steps, delay):
    bench = Bench(delay=delay).engage()
    hand = HAND
    for step in steps:
        hand = turned(moved(hand, *step[:3]), step[3:])
        assert np.abs(bench.tick(hand).action[:6]).max() < 1.0
        commanded = bench.teleop.commanded()
        np.testing.assert_allclose(commanded.position - ARM.position, hand.position - HAND.position, atol=1e-9)
        wanted = hand.rotation @ HAND.rotation.T @ ARM.rotation
        assert commanded.angle_rad(Pose(commanded.position, wanted)) < 1e-7
    for _ in range(delay + 1):
        bench.tick()
    assert bench.goal.distance_m(commanded) < 1e-9


def test_nothing_is_lost_of_a_motion_that_was_too_fast():
    bench = Bench().engage()
    for step in range(1, 5):
        bench.tick(turned(moved(HAND, 0.03 * step, -0.03 * step, 0.0), [0.1 * step, 0.0, 0.0]))
    bench.settle()
    np.testing.assert_allclose(bench.goal.position - ARM.position, [0.12, -0.12, 0.0], atol=1e-9)
    assert bench.goal.angle_rad(turned(ARM, [0.4, 0.0, 0.0])) < 1e-7


def test_an_action_that_was_lost_on_the_way_is_made_good():
    bench = Bench().engage()
    bench.tick(moved(HAND, 0.015, 0.0, 0.0))
    bench.goal = ARM  # the guard accepted later ones only
    bench.settle(3)
    np.testing.assert_allclose(bench.goal.position - ARM.position, [0.015, 0.0, 0.0], atol=1e-12)


def test_the_grip_slips_where_the_arm_can_not_follow():
    bench = Bench(ceiling_m=0.35).engage()
    for step in range(1, 51):
        bench.tick(moved(HAND, 0.0, 0.0, 0.02 * step))
    top = bench.hand
    for step in range(1, 21):
        bench.tick(moved(top, 0.0, 0.0, -0.01 * step))
    # 0.20 m back, of which 0.15 m only bring the hand back to where the arm waits
    np.testing.assert_allclose(bench.goal.position[2], 0.30, atol=0.005)


def test_a_bound_on_one_axis_does_not_hold_up_the_others():
    bench = Bench(ceiling_m=0.3).engage()
    for step in range(1, 41):
        bench.tick(moved(HAND, 0.008 * step, 0.0, 0.004 * step))
    assert bench.goal.position[0] - ARM.position[0] > 0.008 * 40 - 0.01


def test_when_a_blocked_arm_comes_free_it_does_not_race_far():
    bench = Bench(ceiling_m=0.3).engage()
    for step in range(1, 61):
        bench.tick(moved(HAND, 0.0, 0.0, 0.02 * step))
    bench.ceiling_m = math.inf
    bench.settle()
    assert bench.goal.position[2] - 0.3 < 0.15 + 1e-6


commands = st.lists(
    st.tuples(
        st.tuples(*[st.floats(-0.5, 0.5)] * 3),
        st.tuples(*[st.floats(-3.0, 3.0)] * 3),
        st.booleans(),
        st.floats(-0.5, 1.5),
        st.sampled_from(list(GuardMode)),
        st.sampled_from(["tick", "tick", "tick", "silent", "bad hand", "bad trigger", "forget"]),
    ),
    max_size=40,
)


@given(commands, st.floats(0.1, 5.0), st.floats(0.0, 3.0), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_no_sequence_of_events_gives_an_action_out_of_bounds_or_motion_without_clutch_and_guard(
    events, scale, rotation_scale, delay
):
    config = TeleoperationConfig(scale=scale, rotation_scale=rotation_scale, axes="-y,x,z")
    bench = Bench(config, delay=delay)
    for shift, turn, clutch, trigger, mode, what in events:
        bench.mode = mode
        if what == "bad hand":
            bench.teleop.on_bad_hand()
        elif what == "bad trigger":
            bench.teleop.on_controls(math.nan, clutch, bench.now_s)
        elif what == "forget":
            bench.now_s += 0.4
        silent = what != "tick"
        sent = bench.tick(turned(moved(HAND, *shift), turn), clutch, trigger, silent)
        if sent is None:
            assert silent or mode in (GuardMode.OFF, GuardMode.OTHER)
            continue
        assert np.isfinite(sent.action).all()
        assert np.abs(sent.action).max() <= 1.0
        assert sent.action[6] in (-1.0, 1.0)
        assert np.linalg.norm(sent.action[:3]) <= 1.0 + 1e-9
        assert mode in (GuardMode.ARMED, GuardMode.HOLDING)
        if mode is GuardMode.HOLDING or (not silent and not clutch):
            assert motion(sent) == 0.0
    numbers = [sent.sequence for sent in bench.sent]
    assert all(later > earlier for earlier, later in zip(numbers, numbers[1:], strict=False))


def test_a_stale_operator_sends_no_action_at_all():
    bench = Bench().engage()
    answers = [bench.tick(silent=True) for _ in range(9)]
    assert [answer is None for answer in answers] == [False] * 6 + [True] * 3
    assert not bench.teleop.engaged


def test_after_a_short_absence_the_arm_does_not_move_for_what_the_hand_did_meanwhile():
    bench = Bench().engage()
    for _ in range(12):
        bench.tick(silent=True)
    assert motion(bench.tick(moved(HAND, 0.05, 0.0, 0.0))) == 0.0
    assert bench.teleop.engaged
    bench.settle(5)
    assert bench.goal.distance_m(ARM) < 1e-9


def held_and_pressed_again(bench: Bench) -> tuple[bool, bool]:
    """Whether a clutch that is still held engages, and whether it does when released and pressed."""
    bench.tick(moved(HAND, 0.01, 0.0, 0.0))
    held = bench.teleop.engaged
    bench.engage()
    return held, bench.teleop.engaged


def test_after_a_long_absence_the_clutch_has_to_be_pressed_again():
    bench = Bench().engage()
    for _ in range(40):
        bench.tick(silent=True)
    assert held_and_pressed_again(bench) == (False, True)


def test_after_an_invalid_pose_or_trigger_the_clutch_has_to_be_pressed_again():
    for spoil in (lambda teleop: teleop.on_bad_hand(), lambda teleop: teleop.on_controls(math.nan, True, 100.1)):
        bench = Bench().engage()
        spoil(bench.teleop)
        assert bench.teleop.act(bench.now_s) is None
        assert held_and_pressed_again(bench) == (False, True)


def test_a_clutch_held_from_the_start_moves_nothing_until_it_is_pressed():
    bench = Bench()
    assert held_and_pressed_again(bench) == (False, True)


def test_a_clutch_held_while_the_guard_disarms_has_to_be_pressed_again():
    bench = Bench().engage()
    bench.mode = GuardMode.OFF
    bench.tick()
    bench.mode = GuardMode.ARMED
    assert held_and_pressed_again(bench) == (False, True)


def test_a_clutch_pressed_just_before_the_guard_reports_being_armed_engages():
    bench = Bench(mode=GuardMode.OFF)
    bench.tick(clutch=False)
    bench.tick(clutch=True)
    bench.mode = GuardMode.ARMED
    bench.tick(clutch=True)
    assert bench.teleop.engaged


def test_after_a_hold_of_the_guard_the_grip_begins_anew_where_hand_and_arm_are():
    bench = Bench().engage()
    bench.mode = GuardMode.HOLDING
    for step in range(10):
        assert motion(bench.tick(moved(HAND, 0.01 * step, 0.0, 0.0))) == 0.0
    bench.mode = GuardMode.ARMED
    assert motion(bench.tick()) == 0.0
    bench.tick(moved(bench.hand, 0.0, 0.01, 0.0))
    np.testing.assert_allclose(bench.goal.position - ARM.position, [0.0, 0.01, 0.0], atol=1e-12)


def test_a_silent_guard_stops_the_motion():
    bench = Bench().engage()
    now_s = bench.now_s + 0.6
    bench.teleop.on_controls(0.0, True, now_s)
    bench.teleop.on_hand(moved(HAND, 0.01, 0.0, 0.0), now_s)
    assert motion(bench.teleop.act(now_s)) == 0.0
    assert bench.teleop.situation(now_s) == "no command guard"


@pytest.mark.parametrize("mode", [GuardMode.OFF, GuardMode.OTHER])
def test_while_nobody_or_another_source_is_armed_nothing_is_sent(mode):
    bench = Bench(mode=mode)
    assert bench.tick(clutch=False) is None
    bench.mode = GuardMode.ARMED
    assert motion(bench.tick(clutch=False)) == 0.0


@pytest.mark.parametrize("jump", [moved(HAND, 0.11, 0.0, 0.0), turned(HAND, [0.0, 0.6, 0.0])])
def test_a_leap_of_tracking_moves_nothing_and_the_grip_goes_on_from_there(jump):
    bench = Bench().engage()
    assert motion(bench.tick(jump)) == 0.0
    assert bench.teleop.jumps == 1
    bench.tick(moved(jump, 0.0, 0.01, 0.0))
    np.testing.assert_allclose(bench.goal.position - ARM.position, [0.0, 0.01, 0.0], atol=1e-12)


def test_the_gripper_closes_above_the_upper_threshold_and_opens_below_the_lower_one():
    bench = Bench().engage()
    triggers = [0.0, 0.5, 0.59, 0.61, 0.5, 0.41, 0.39, 0.5, 1.0]
    assert [bench.tick(trigger=t).action[6] for t in triggers] == [1, 1, 1, -1, -1, -1, 1, 1, -1]


def test_the_gripper_stays_as_it_is_while_the_clutch_is_released():
    bench = Bench().engage()
    assert bench.tick(trigger=1.0).action[6] == -1.0
    assert bench.tick(clutch=False, trigger=0.0).action[6] == -1.0


def test_scale_and_axes_map_the_hand_s_motion():
    bench = Bench(TeleoperationConfig(scale=0.5, axes="-y,x,z")).engage()
    bench.tick(moved(HAND, 0.02, 0.01, 0.03))
    np.testing.assert_allclose(bench.goal.position - ARM.position, [-0.005, 0.01, 0.015], atol=1e-12)


def test_turns_are_about_the_mapped_axes_and_scaled():
    bench = Bench(TeleoperationConfig(rotation_scale=0.5, axes="-y,x,z")).engage()
    bench.tick(turned(HAND, [0.04, 0.0, 0.0]))
    assert bench.goal.angle_rad(turned(ARM, [0.0, 0.02, 0.0])) < 1e-7


def test_a_calibrated_workspace_is_turned():
    bench = Bench(TeleoperationConfig(frame_rpy_rad=(0.0, 0.0, math.pi / 2))).engage()
    bench.tick(moved(HAND, 0.01, 0.0, 0.0))
    np.testing.assert_allclose(bench.goal.position - ARM.position, [0.0, 0.01, 0.0], atol=1e-12)


def test_axes_that_are_switched_off_do_not_move():
    bench = Bench(TeleoperationConfig(enabled=(True, True, False, False, False, True))).engage()
    bench.tick(turned(moved(HAND, 0.01, 0.01, 0.01), [0.02, 0.02, 0.02]))
    np.testing.assert_allclose(bench.goal.position - ARM.position, [0.01, 0.01, 0.0], atol=1e-12)
    assert bench.goal.angle_rad(turned(ARM, [0.0, 0.0, 0.02])) < 1e-7


def test_a_scaled_turn_does_not_leap_when_the_hand_turns_past_half_a_circle():
    bench = Bench(TeleoperationConfig(rotation_scale=0.5)).engage()
    for step in range(1, 161):
        bench.tick(turned(HAND, [0.0, 0.0, 0.03 * step]))
    assert bench.goal.angle_rad(turned(ARM, [0.0, 0.0, 0.5 * 0.03 * 160])) < 1e-6


def test_the_speed_cap_is_kept_in_every_direction():
    bench = Bench(TeleoperationConfig(max_speed_m_s=0.3, max_speed_rad_s=0.5)).engage()
    before = bench.goal
    bench.tick(turned(moved(HAND, 0.05, 0.05, 0.05), [0.2, 0.2, 0.2]))
    assert bench.goal.distance_m(before) == pytest.approx(0.3 / 30)
    assert bench.goal.angle_rad(before) == pytest.approx(0.5 / 30)


def test_a_tremor_within_the_dead_band_does_not_move_the_arm():
    bench = Bench(TeleoperationConfig(dead_band_m=0.003, dead_band_rad=0.02)).engage()
    for step in range(20):
        sent = bench.tick(turned(moved(HAND, 0.0025 * (-1) ** step, 0.0, 0.0), [0.0, 0.0, 0.015 * (-1) ** step]))
        assert motion(sent) < 1e-9
    bench.tick(moved(HAND, 0.013, 0.0, 0.0))
    np.testing.assert_allclose(bench.goal.position - ARM.position, [0.01, 0.0, 0.0], atol=1e-9)


def test_a_restarted_teleoperation_goes_on_from_the_guard_s_count():
    bench = Bench(accepted=500).engage()
    assert bench.sent[0].sequence == 501
    bench.tick(moved(HAND, 0.01, 0.0, 0.0))
    np.testing.assert_allclose(bench.goal.position - ARM.position, [0.01, 0.0, 0.0], atol=1e-12)


@given(st.permutations("xyz"), st.tuples(*[st.sampled_from(["", "+", "-"])] * 3))
def test_axes_are_accepted_exactly_if_they_are_a_proper_rotation(order, signs):
    text = ",".join(sign + axis for sign, axis in zip(signs, order, strict=True))
    inversions = sum(order[i] > order[j] for i in range(3) for j in range(i + 1, 3))
    if (inversions + signs.count("-")) % 2:
        with pytest.raises(UserError, match="mirrors space"):
            operator_to_base(text, (0.0, 0.0, 0.0))
    else:
        matrix = operator_to_base(text, (0.1, 0.2, 0.3))
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(matrix) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("settings_", "complaint"),
    [
        ({"axes": "x,y"}, "axes is 'x,y': x, y and z must each be there once"),
        ({"axes": "x,x,z"}, "must each be there once"),
        ({"axes": "x,y,w"}, "'w' is none of x, y, z"),
        ({"axes": ""}, "'' is none of x, y, z"),
        ({"axes": "x,y,-z"}, "mirrors space"),
        ({"frame_rpy_rad": (0.0, math.nan, 0.0)}, "expected three finite angles"),
        ({"scale": 0.0}, "scale is 0.0; expected a number from 0.01 to 10"),
        ({"scale": math.nan}, "scale is nan"),
        ({"gripper_open_below": 0.7}, "gripper_open_below is 0.7; expected less than gripper_close_above = 0.6"),
        ({"stale_s": 0.0}, "stale_s is 0.0"),
        ({"enabled": (True,) * 5}, "enabled has 5 values"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_by_name(settings_, complaint):
    with pytest.raises(UserError, match=complaint.replace("(", r"\(")):
        TeleoperationConfig(**settings_)
