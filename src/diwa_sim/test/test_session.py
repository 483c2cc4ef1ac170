"""The scripted operator at its controller: when it arms, when it holds the clutch, what it marks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diwa_conventions.actions import Pose
from diwa_conventions.topics import JOY_ARM_BUTTON, JOY_DISARM_BUTTON
from diwa_sim.environment import PlayroomEnv
from diwa_sim.marks import AttemptMarks, Mark
from diwa_sim.operator import FRAME_S
from diwa_sim.session import (
    PATIENCE_FRAMES,
    STALE_S,
    Controls,
    GuardMode,
    GuardSeen,
    OperatorSession,
    SceneSeen,
    SessionConfig,
)


class Room:
    """A playroom, a guard and a teleoperation that do at once what the controller says."""

    def __init__(self, session: OperatorSession, task: str = "", willing: bool = True) -> None:
        self.session, self.willing = session, willing
        self.env = PlayroomEnv(images=False)
        self.env.reset(seed=0, options={"task": task})
        self.room = self.env.playroom
        self.target = self.room.tool_pose()
        self.mode, self.source, self.reason = GuardMode.DISARMED, "", "started"
        self.now_s, self.episode, self.success = 100.0, 1, False
        self.presses: list[int] = []
        self.resets: list[int] = []
        self._button: int | None = None

    def frame(self, arm: bool = True, guard: bool = True) -> Controls | None:
        """One thirtieth of a second; without ``arm`` or ``guard`` they are silent."""
        self.now_s += FRAME_S
        stamp_ns = int(self.now_s * 1e9)
        if guard:
            self.session.on_guard(GuardSeen(self.mode, self.source, self.reason), self.now_s)
        if arm:
            self.session.on_pose(self.room.tool_pose(), stamp_ns, self.now_s)
            scene = SceneSeen(stamp_ns, self.room.scene_state(), self.success, self.episode)
            self.session.on_scene(scene, self.now_s)
        controls = self.session.frame(self.now_s)
        if controls is not None:
            self._obey(controls)
        seed = self.session.reset_wanted(self.now_s)
        if seed is not None:
            self._reset(seed)
        return controls

    def frames(self, count: int) -> list[Controls | None]:
        return [self.frame() for _ in range(count)]

    def until(self, condition, frames: int = 600) -> Controls:
        for _ in range(frames):
            controls = self.frame()
            if condition(controls):
                return controls
        raise AssertionError(f"not within {frames} frames; waits for {self.session.waits_for!r}")

    def _obey(self, controls: Controls) -> None:
        if controls.button is not None and controls.button != self._button:
            self.presses.append(controls.button)
            if controls.button == JOY_DISARM_BUTTON:
                self.mode, self.source = GuardMode.DISARMED, ""
            elif self.willing and self.mode is GuardMode.DISARMED:
                self.mode, self.source = GuardMode.ARMED, "teleop"
        self._button = controls.button
        if controls.clutch and self.mode is GuardMode.ARMED:
            self.target = controls.hand.pose
        self.room.advance(self.target, controls.hand.gripper)
        self.success = self.success or self.env._info(self.room.scene_state(), np.zeros(7))["success"]

    def _reset(self, seed: int) -> None:
        self.resets.append(seed)
        self.env.reset(seed=seed)
        self.target, self.success = self.room.tool_pose(), False
        self.episode += 1
        self.session.on_reset(self.episode)


def test_it_presses_arm_and_takes_the_clutch_only_when_the_guard_is_armed():
    room = Room(OperatorSession(SessionConfig()))
    before = room.until(lambda controls: room.mode is GuardMode.ARMED)
    assert room.presses == [JOY_ARM_BUTTON]
    assert not before.clutch
    assert room.frame().clutch


def test_the_clutch_is_taken_where_the_arm_is():
    room = Room(OperatorSession(SessionConfig()))
    room.until(lambda controls: room.mode is GuardMode.ARMED)
    here = room.room.tool_pose()
    assert room.frame().hand.pose.distance_m(here) == 0.0


def test_arm_is_pressed_again_with_patience_and_released_in_between():
    room = Room(OperatorSession(SessionConfig()), willing=False)
    buttons = [controls.button for controls in room.frames(3 * PATIENCE_FRAMES)]
    assert room.presses == [JOY_ARM_BUTTON] * 3
    assert buttons[0] is None
    assert buttons.count(JOY_ARM_BUTTON) == 9


def test_a_guard_that_is_armed_already_is_not_armed_again():
    room = Room(OperatorSession(SessionConfig()))
    room.mode, room.source = GuardMode.HOLDING, "teleop"
    assert room.frame().clutch
    assert not room.presses


def test_it_waits_while_the_guard_is_armed_for_somebody_else():
    room = Room(OperatorSession(SessionConfig()))
    room.mode, room.source = GuardMode.ARMED, "policy"
    assert not any(controls.clutch for controls in room.frames(60))
    assert not room.presses
    assert "armed for policy" in room.session.waits_for


def test_with_rearm_it_lets_go_after_a_disarming_arms_again_and_begins_a_new_plan():
    room = Room(OperatorSession(SessionConfig(rearm=True)))
    room.until(lambda controls: controls.clutch)
    room.frames(20)
    room.mode, room.source = GuardMode.DISARMED, ""
    assert not room.frame().clutch
    room.until(lambda controls: controls.clutch)
    assert room.presses == [JOY_ARM_BUTTON] * 2


def test_after_a_disarming_it_waits_for_a_person():
    room = Room(OperatorSession(SessionConfig()))
    room.until(lambda controls: controls.clutch)
    room.mode, room.source = GuardMode.DISARMED, ""
    assert not any(controls.clutch for controls in room.frames(120))
    assert room.presses == [JOY_ARM_BUTTON]
    assert "a person to arm the guard again" in room.session.waits_for
    room.mode, room.source = GuardMode.ARMED, "teleop"
    assert room.frame().clutch


def test_after_a_fault_it_says_what_a_person_has_to_do_and_presses_nothing():
    room = Room(OperatorSession(SessionConfig(rearm=True)))
    room.until(lambda controls: controls.clutch)
    room.mode, room.source, room.reason = GuardMode.FAULT, "", "the arm lags behind"
    assert not any(controls.clutch for controls in room.frames(60))
    assert room.presses == [JOY_ARM_BUTTON]
    assert room.session.waits_for == (
        "a person: mend what made the guard stop (the arm lags behind), then: diwa guard recover"
    )
    room.mode = GuardMode.DISARMED  # recovered
    room.until(lambda controls: controls.clutch)


def test_the_hand_rests_while_the_guard_holds():
    room = Room(OperatorSession(SessionConfig()))
    room.until(lambda controls: controls.clutch)
    room.frames(20)
    room.mode = GuardMode.HOLDING
    held = room.frames(10)
    assert all(controls.clutch for controls in held)
    assert len({tuple(controls.hand.pose.position) for controls in held}) == 1
    room.mode = GuardMode.ARMED
    assert room.frame().hand.pose.distance_m(held[0].hand.pose) > 0.0


@pytest.mark.parametrize("silent", ["arm", "guard"])
def test_it_lets_go_when_arm_or_guard_fall_silent_and_goes_on_when_they_are_back(silent):
    room = Room(OperatorSession(SessionConfig()))
    room.until(lambda controls: controls.clutch)
    for _ in range(round(STALE_S / FRAME_S) + 2):
        controls = room.frame(**{silent: False})
    assert not controls.clutch
    assert room.session.waits_for == ("a playroom" if silent == "arm" else "a command guard")
    room.until(lambda controls: controls.clutch)


def test_before_it_has_seen_an_arm_it_publishes_nothing():
    session = OperatorSession(SessionConfig())
    assert session.frame(1.0) is None
    assert session.waits_for == "a playroom"


def test_a_demonstration_disarms_resets_arms_and_succeeds():
    session = OperatorSession(SessionConfig(mode="demonstration", task="open-drawer", seed=2, episodes=2))
    room = Room(session, task="open-drawer")
    room.env.config = PlayroomEnv(task="open-drawer", images=False).config
    room.mode, room.source = GuardMode.ARMED, "teleop"
    room.until(lambda controls: session.finished(room.now_s, answered=True), frames=900)
    assert room.presses == [JOY_DISARM_BUTTON, JOY_ARM_BUTTON] * 2 + [JOY_DISARM_BUTTON]
    assert room.resets == [2, 3]
    assert session.outcomes == [True, True]
    assert [(mark.skill, mark.success) for mark in session.marks] == [("open-drawer", True)] * 2


def test_a_demonstration_that_fails_is_marked_so_at_its_end():
    session = OperatorSession(SessionConfig(mode="demonstration", task="lift-cube", episodes=1))
    room = Room(session)  # its oracle never holds
    room.until(lambda controls: session.outcomes)
    assert session.outcomes == [False]
    assert session.marks == [Mark("lift-cube", False, int(room.now_s * 1e9))]


def test_a_demonstration_that_the_guard_breaks_off_is_given_again_and_not_marked():
    session = OperatorSession(SessionConfig(mode="demonstration", task="open-drawer", episodes=1, rearm=True))
    room = Room(session)
    room.until(lambda controls: controls.clutch)
    room.mode, room.source = GuardMode.DISARMED, ""
    room.frame()
    room.until(lambda controls: controls.clutch)
    assert room.resets == [0, 0]
    assert not session.outcomes
    assert not session.marks


def test_play_begins_anew_when_somebody_resets_the_scene():
    room = Room(OperatorSession(SessionConfig()))
    room.until(lambda controls: controls.clutch)
    room._reset(7)
    assert not room.frame().clutch
    assert room.frame().clutch


def test_play_marks_what_it_attempts():
    room = Room(OperatorSession(SessionConfig(seed=1)))
    room.frames(900)
    marks = room.session.marks
    assert len(marks) >= 3
    assert any(mark.success for mark in marks)
    assert (np.diff([mark.stamp_ns for mark in marks]) > 0).all()


def test_it_leaves_though_nobody_disarms_or_answers():
    session = OperatorSession(SessionConfig(mode="demonstration", task="lift-cube", episodes=1))
    room = Room(session)
    room.until(lambda controls: session.outcomes)
    room.mode, room.source = GuardMode.ARMED, "teleop"
    assert not session.finished(room.now_s, answered=False)
    assert session.finished(room.now_s + 10.0, answered=False)


MODES = st.sampled_from(list(GuardMode))
EVENTS = st.one_of(
    st.tuples(st.just("guard"), MODES, st.sampled_from(["", "teleop", "policy"])),
    st.tuples(st.just("arm"), st.just(0), st.integers(1, 3)),
    st.tuples(st.just("time"), st.floats(0.0, 2.0), st.just(0)),
    st.tuples(st.just("reset"), st.integers(0, 4), st.just(0)),
)


@settings(max_examples=60, deadline=None)
@given(events=st.lists(EVENTS, max_size=40), mode=st.sampled_from(["play", "demonstration"]), rearm=st.booleans())
def test_the_clutch_is_held_only_while_a_fresh_guard_obeys_and_a_fresh_arm_is_seen(events, mode, rearm):
    session = OperatorSession(SessionConfig(mode=mode, rearm=rearm))
    scene = _scene()
    now_s, guard, guard_s, arm_s = 10.0, None, -1.0, -1.0
    for what, one, other in events:
        if what == "guard":
            guard, guard_s = GuardSeen(one, other, ""), now_s
            session.on_guard(guard, now_s)
        elif what == "arm":
            arm_s = now_s
            session.on_scene(SceneSeen(int(now_s * 1e9), scene, False, other), now_s)
            session.on_pose(Pose(np.array([0.4, 0.0, 0.3]), np.eye(3)), int(now_s * 1e9), now_s)
        elif what == "reset":
            session.on_reset(one)
        else:
            now_s += one
        controls = session.frame(now_s)
        session.reset_wanted(now_s)
        if controls is not None and controls.clutch:
            assert guard is not None
            assert guard.obeys
            assert now_s - min(guard_s, arm_s) <= STALE_S
        if controls is not None and controls.button == JOY_ARM_BUTTON:
            assert guard.mode is GuardMode.DISARMED


def _scene(made=[]):  # noqa: B006 (one world for all examples)
    if not made:
        env = PlayroomEnv(images=False)
        env.reset(seed=0)
        made.append(env.scene_state())
    return made[0]


def test_wrong_modes_and_tasks_are_refused():
    with pytest.raises(ValueError, match="mode is 'sleep'; expected play or demonstration"):
        SessionConfig(mode="sleep")
    with pytest.raises(ValueError, match="unknown task 'open-door'"):
        SessionConfig(task="open-door")


# Marks


def test_an_attempt_is_marked_once_when_it_is_done():
    marks = AttemptMarks()
    assert marks.see(0, "open-drawer", False, 1) == []
    assert marks.see(0, "open-drawer", True, 2) == [Mark("open-drawer", True, 2)]
    assert marks.see(0, "open-drawer", True, 3) == []
    assert marks.see(1, "close-drawer", False, 4) == []


def test_an_attempt_that_ends_undone_is_marked_as_failed_where_it_ended():
    marks = AttemptMarks()
    marks.see(0, "open-drawer", False, 1)
    marks.see(0, "open-drawer", False, 2)
    assert marks.see(1, "", False, 3) == [Mark("open-drawer", False, 2)]
    assert marks.see(2, "lift-cube", False, 4) == []


def test_an_attempt_that_was_broken_off_is_not_marked():
    marks = AttemptMarks()
    marks.see(0, "open-drawer", False, 1)
    marks.forget()
    assert marks.end() == []
    assert marks.see(0, "open-drawer", False, 5) == []
