"""When the gripper is asked: on change, not on chatter, never often, and what a failure leads to."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diwa_conventions.errors import UserError
from diwa_robot.drivers.gripper import Grip, GripperLogic, GripperTiming

TIMING = GripperTiming()
TICK_S = 1.0 / 30.0


class Hand:
    """Time, commands thirty times a second, and a hand that answers after ``takes_s`` as it is told to."""

    def __init__(self, takes_s: float | None = 0.6, succeeds: bool = True, timing: GripperTiming = TIMING) -> None:
        self.logic = GripperLogic(timing)
        self.now = 100.0
        self.takes_s = takes_s
        self.succeeds = succeeds
        self.requests: list[tuple[float, object]] = []
        self._answers: list[tuple[float, object]] = []

    def run(self, command: float | None, duration_s: float) -> "Hand":
        for _ in range(max(1, round(duration_s / TICK_S))):
            self.now += TICK_S
            if command is not None:
                self.logic.command(command, self.now)
            self._answer()
            request = self.logic.next_request(self.now)
            if request is not None:
                self.requests.append((self.now, request))
                if self.takes_s is not None:
                    self._answers.append((self.now + self.takes_s, request))
        return self

    def _answer(self) -> None:
        for due, request in [item for item in self._answers if item[0] <= self.now]:
            self.logic.done(self.succeeds, self.now, request)
            self._answers.remove((due, request))

    @property
    def grips(self) -> list[Grip]:
        return [request.grip for _, request in self.requests]


def test_command_said_thirty_times_a_second_is_one_request():
    hand = Hand().run(1.0, 3.0).run(-1.0, 3.0)
    assert hand.grips == [Grip.OPEN, Grip.GRASP]
    assert not hand.logic.blocked


def test_zero_opens_and_below_zero_grasps():
    assert Hand().run(0.0, 1.0).grips == [Grip.OPEN]
    assert Hand().run(-1e-9, 1.0).grips == [Grip.GRASP]


def test_nothing_is_asked_before_the_first_command():
    assert Hand().run(None, 5.0).grips == []


def test_one_stray_command_is_ignored():
    hand = Hand().run(1.0, 2.0).run(-1.0, TICK_S).run(1.0, 2.0)
    assert hand.grips == [Grip.OPEN]


def test_change_of_mind_while_the_hand_moves_supersedes_the_request():
    hand = Hand(takes_s=2.0).run(1.0, 0.6).run(-1.0, 4.0)
    assert hand.grips == [Grip.OPEN, Grip.GRASP]
    assert [request.supersedes for _, request in hand.requests] == [False, True]
    assert hand.logic.wanted is Grip.GRASP and not hand.logic.pending


def test_outcome_of_a_superseded_request_says_nothing():
    hand = Hand(takes_s=None).run(1.0, 0.6).run(-1.0, 0.6)
    first, second = (request for _, request in hand.requests)
    hand.logic.done(False, hand.now, first)
    assert hand.logic.pending and not hand.logic.blocked
    hand.logic.done(True, hand.now, second)
    assert not hand.logic.pending


def test_failure_is_tried_once_more_and_then_the_hand_is_blocked():
    hand = Hand(succeeds=False).run(-1.0, 10.0)
    assert hand.grips == [Grip.GRASP, Grip.GRASP]
    assert hand.logic.blocked
    assert hand.logic.reason.startswith("the gripper did not grasp: blocked")


def test_failure_is_not_tried_again_when_nobody_commands_any_more():
    hand = Hand(succeeds=False).run(-1.0, 0.5).run(None, 10.0)
    assert hand.grips == [Grip.GRASP]
    assert hand.logic.blocked


def test_blocked_hand_obeys_the_other_command_and_is_well_when_that_succeeds():
    hand = Hand(succeeds=False).run(-1.0, 10.0)
    hand.succeeds = True
    hand.run(1.0, 2.0)
    assert hand.grips[-1] is Grip.OPEN
    assert not hand.logic.blocked


def test_hand_that_opened_only_a_little_is_blocked_and_says_how_far():
    hand = Hand()
    hand.logic.width(0.031, hand.now)
    hand.run(1.0, 1.0)
    assert hand.logic.reason == "the gripper did not open: blocked at 31 mm"


def test_any_width_is_a_grasp():
    hand = Hand()
    hand.logic.width(0.045, hand.now)
    assert not hand.run(-1.0, 2.0).logic.blocked


def test_request_without_an_answer_has_failed():
    hand = Hand(takes_s=None).run(-1.0, TIMING.timeout_s + 0.5)
    assert "no answer within 5 s" in hand.logic.reason


def test_reset_makes_the_next_command_count_anew():
    hand = Hand().run(-1.0, 2.0)
    hand.logic.reset()
    assert hand.run(None, 2.0).grips == [Grip.GRASP]
    assert hand.run(-1.0, 2.0).grips == [Grip.GRASP, Grip.GRASP]


def test_hand_that_was_moved_while_nobody_commanded_is_asked_again():
    hand = Hand()
    hand.logic.width(0.03, hand.now)
    hand.run(-1.0, 2.0).run(None, 1.0)
    assert hand.run(-1.0, 1.0).grips == [Grip.GRASP]  # it still holds the thing
    hand.run(None, 1.0)
    hand.logic.width(0.08, hand.now)  # somebody took the thing out
    assert hand.run(-1.0, 1.0).grips == [Grip.GRASP, Grip.GRASP]


def test_hand_that_loses_a_thing_while_it_is_told_to_grasp_is_not_asked_again():
    hand = Hand().run(-1.0, 2.0)
    hand.logic.width(0.08, hand.now)
    assert hand.run(-1.0, 3.0).grips == [Grip.GRASP]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_command_that_is_not_finite_is_refused(value):
    hand = Hand().run(1.0, 1.0)
    assert not hand.logic.command(value, hand.now)
    assert hand.logic.wanted is Grip.OPEN


def test_timing_that_makes_no_sense_is_refused():
    with pytest.raises(UserError, match="min_interval_s of the gripper is nan"):
        GripperTiming(min_interval_s=math.nan)


COMMANDS = st.lists(
    st.tuples(st.sampled_from([1.0, -1.0, 0.3, -0.2, math.nan, None]), st.floats(0.0, 1.5)), min_size=1, max_size=25
)


@given(commands=COMMANDS, takes_s=st.none() | st.floats(0.0, 8.0), succeeds=st.booleans())
def test_requests_are_few_follow_changes_only_and_end_at_the_last_command(commands, takes_s, succeeds):
    hand = Hand(takes_s, succeeds)
    for command, duration_s in commands:
        hand.run(command, duration_s)
    last = next((c for c, _ in reversed(commands) if c is not None and not math.isnan(c)), None)
    hand.run(None, 20.0)

    times = [now for now, _ in hand.requests]
    assert all(later - sooner >= TIMING.min_interval_s - 1e-9 for sooner, later in zip(times, times[1:], strict=False))
    repeats = max_repeats = 0
    for before, grip in zip([None, *hand.grips], hand.grips, strict=False):
        repeats = repeats + 1 if grip is before else 0
        max_repeats = max(max_repeats, repeats)
    assert max_repeats <= (0 if succeeds and takes_s is not None and takes_s < TIMING.timeout_s else TIMING.retries)
    assert len(hand.requests) <= len(commands) * (1 + TIMING.retries)
    if last is None:
        assert hand.requests == []
    else:
        assert hand.grips[-1] is (Grip.OPEN if last >= 0.0 else Grip.GRASP)
