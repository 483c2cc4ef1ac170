"""The hand's side without sockets: one command at a time, and what comes of it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diwa_sim.fci.arms import KinematicArm
from diwa_sim.fci.gripper import GripperController
from diwa_sim.fci.messages import GRIPPER_STATE, GripperCommand, GripperStatus

MOVE, GRASP, STOP, HOMING = GripperCommand.MOVE, GripperCommand.GRASP, GripperCommand.STOP, GripperCommand.HOMING


class Hand:
    """A hand whose fingers do what they are told, unless an object of this width is between them."""

    def __init__(self, between_m: float = 0.0) -> None:
        self.arm = KinematicArm()
        free = self.arm.set_fingers
        self.arm.set_fingers = lambda width, force: free(max(width, between_m), force)
        self.controller = GripperController(self.arm)

    def ask(self, command: GripperCommand, *values: float) -> None:
        payload = np.array(values, "<f8")
        self.controller.request(command, 7, payload.tobytes())

    def cycles(self, count: int) -> list[GripperStatus]:
        """What was answered within these milliseconds."""
        for _ in range(count):
            self.controller.cycle()
        answers = [status for _, _, status in self.controller.answers]
        self.controller.answers.clear()
        return answers


def grasp(width: float, inner: float = 0.005, outer: float = 0.005) -> tuple[float, ...]:
    return width, inner, outer, 0.2, 20.0


def test_a_movement_takes_as_long_as_its_speed_says_and_succeeds():
    hand = Hand()
    hand.ask(MOVE, 0.03, 0.1)
    assert hand.cycles(480) == []
    assert hand.cycles(40) == [GripperStatus.SUCCESS]
    assert hand.arm.width_m == pytest.approx(0.03, abs=0.0015)


@pytest.mark.parametrize(
    ("asked", "status"),
    [(grasp(0.04), GripperStatus.SUCCESS), (grasp(0.02), GripperStatus.UNSUCCESSFUL)]
    + [(grasp(0.0, outer=0.08), GripperStatus.SUCCESS), (grasp(0.06, inner=0.01), GripperStatus.UNSUCCESSFUL)],
)
def test_a_grasp_counts_by_the_width_at_which_the_fingers_are_held(asked, status):
    hand = Hand(between_m=0.04)
    hand.ask(GRASP, *asked)
    assert hand.cycles(600) == [status]


def test_fingers_that_are_held_end_a_movement_without_success():
    hand = Hand(between_m=0.04)
    hand.ask(MOVE, 0.01, 0.2)
    assert hand.cycles(600) == [GripperStatus.UNSUCCESSFUL]


def test_stop_and_a_new_command_abort_what_is_going_on():
    hand = Hand()
    hand.ask(MOVE, 0.0, 0.1)
    hand.cycles(100)
    hand.ask(STOP)
    assert hand.cycles(1) == [GripperStatus.ABORTED, GripperStatus.SUCCESS]
    hand.ask(MOVE, 0.0, 0.1)
    hand.cycles(100)
    hand.ask(MOVE, 0.08, 0.1)
    assert hand.cycles(400) == [GripperStatus.ABORTED, GripperStatus.SUCCESS]


def test_homing_closes_and_opens():
    hand = Hand()
    hand.ask(HOMING)
    assert hand.cycles(790) == [] and hand.arm.width_m < 0.01
    assert hand.cycles(900) == [GripperStatus.SUCCESS] and hand.arm.width_m > 0.078


@given(st.floats(), st.floats())
@settings(deadline=None)
def test_whatever_is_asked_is_answered_once_and_the_fingers_stay_in_their_range(width, speed):
    hand = Hand()
    hand.ask(MOVE, width, speed)
    answers = hand.cycles(900)
    if not (0.0 <= width <= 0.08 and speed > 0.0):
        assert answers == [GripperStatus.FAIL]
    assert len(answers) <= 1 and 0.0 <= hand.arm.width_m <= 0.08


def test_states_come_at_100_hz_with_the_width():
    hand = Hand()
    states = [state for state in (hand.controller.cycle() for _ in range(100)) if state is not None]
    assert len(states) == 10 and np.frombuffer(states[-1], GRIPPER_STATE)[0]["width"] == 0.08
