"""Whatever comes in, in whatever order: the output never leaves the bounds and never moves while nobody is armed.

``Rig.tick`` checks every output against box, cone, speed, acceleration and lead; this machine adds who may move what.
"""

import math
from dataclasses import replace

import numpy as np
from guard_rig import TICK_S, Rig, State, tilted
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from diwa_conventions.actions import ActionScale, Pose
from diwa_robot.command_guard import CommandGuard
from diwa_robot.limits import GuardConfig
from diwa_robot.so3 import rotation_matrix

COMPONENT = st.floats(-1.0, 1.0)
TRIPLE = st.tuples(COMPONENT, COMPONENT, COMPONENT)
SOURCES = st.sampled_from(["teleop", "policy"])
DURATIONS = st.sampled_from([1.0 / 60.0, 1.0 / 30.0, 1.0 / 7.5, 0.5])
NONSENSE = st.sampled_from([math.nan, math.inf, -math.inf, 1.5, -7.0])
CONFIGS = st.sampled_from(
    [
        GuardConfig(),
        GuardConfig(required_cameras=()),
        GuardConfig(workspace_low_m=(0.0, 0.0, 0.0), workspace_high_m=(0.5, 0.4, 0.4)),
        GuardConfig(workspace_low_m=(0.28, -0.4, 0.02), workspace_high_m=(0.8, 0.0, 0.55)),
        GuardConfig(max_tilt_rad=0.0),
        GuardConfig(max_lead_m=0.0, max_lead_rad=0.0),
        GuardConfig(max_speed_m_s=0.0),
        GuardConfig(max_speed_rad_s=0.0),
        GuardConfig(max_acceleration_m_s2=0.0, max_acceleration_rad_s2=0.0),
        GuardConfig(max_acceleration_m_s2=0.5, max_acceleration_rad_s2=1.0, max_lag_s=0.5),
        GuardConfig(max_speed_m_s=0.05, hold_limit_s=0.0),
    ]
)


class Interlocks(RuleBasedStateMachine):
    """Messages, gaps, jumps, wrong values, services and restarts in any order."""

    @initialize(config=CONFIGS, place=TRIPLE, tilt=st.floats(0.0, 0.79), azimuth=st.floats(-3.0, 3.0))
    def begin(self, config: GuardConfig, place, tilt: float, azimuth: float) -> None:
        """The arm anywhere in the box and the cone, at their edges too."""
        position = 0.5 * (config.low + config.high + np.array(place) * (config.high - config.low))
        self.home = Pose(position, tilted(min(tilt, config.max_tilt_rad), azimuth))
        self.rig = Rig(config, self.home)
        self.latched = False
        self.allowed_m = self.allowed_rad = 0.0
        self.armed_at: Pose | None = None
        self.held: tuple[int, Pose] | None = None

    # What people and processes do

    @rule(source=SOURCES)
    def arm_with_care(self, source: str) -> None:
        """As a person does who wants to work: mend, recover, arm."""
        self.all_is_well_again()
        if self.rig.guard.state == State.FAULT:
            self.recover()
        if not self.rig.guard.active:
            self.arm_is_put_back()
            self.rig.tick(2)
            self.arm(source)
            assert self.rig.guard.active

    @rule(source=SOURCES)
    def arm(self, source: str) -> None:
        before = self.rig.guard.source
        latched = self.rig.guard.state == State.FAULT
        answer = self.rig.arming(source)
        assert not (answer.success and latched)
        if answer.success:
            assert before in ("", source)
            if not before:
                self.armed_at = self.rig.guard.target
                self.allowed_m = self.allowed_rad = 0.0

    @rule()
    def disarm(self) -> None:
        assert self.rig.guard.disarm("asked to", self.rig.now).success
        assert not self.rig.guard.active

    @rule()
    def recover(self) -> None:
        latched = self.rig.guard.state == State.FAULT
        if self.rig.guard.recover(self.rig.now).success:
            assert latched
            assert self.rig.guard.state == State.DISARMED
            self.latched = False

    @rule()
    def restart_the_guard(self) -> None:
        self.rig.guard = CommandGuard(self.rig.guard.config)
        self.latched, self.held = False, None
        self.rig.driver = None
        assert self.rig.guard.state == State.DISARMED

    @rule(there=st.booleans())
    def somebody_else_commands_the_arm(self, there: bool) -> None:
        self.rig.guard.other_publishers(["/diwa/joystick"] if there else [], self.rig.now)

    @rule(report=st.sampled_from(["", "reflex", "no contact"]))
    def driver_reports(self, report: str) -> None:
        self.rig.driver = report
        self.rig.tick()
        assert not (report and self.rig.guard.active)

    # Actions

    def _send(self, translation, rotation, duration_s: float, **fields) -> None:
        guard = self.rig.guard
        source = fields.get("source", "teleop")
        refused, accepted = guard.refused, guard.accepted_sequence
        mine = guard.active and guard.source == source
        goal = guard.goal
        why = self.rig.act(translation, rotation, duration_s=duration_s, **fields)
        if why:
            assert guard.refused == refused + 1
            assert guard.accepted_sequence == accepted
            assert guard.goal is goal or guard.goal.distance_m(goal) + guard.goal.angle_rad(goal) == 0.0
        else:
            assert mine
            steps, scale = duration_s * 7.5, ActionScale()
            self.allowed_m += steps * scale.translation_m * float(np.linalg.norm(translation))
            self.allowed_rad += steps * scale.rotation_rad * float(np.abs(rotation).sum())

    @rule(translation=TRIPLE, rotation=TRIPLE, source=SOURCES, duration_s=DURATIONS, ticks=st.integers(0, 8))
    def act(self, translation, rotation, source: str, duration_s: float, ticks: int) -> None:
        if not self.rig.guard.active and ticks > 2:
            self.arm_with_care(source)
        self._send(translation, rotation, duration_s, source=source)
        self.rig.tick(ticks)

    @rule(
        translation=TRIPLE,
        rotation=TRIPLE,
        rate_hz=st.sampled_from([7.5, 30.0]),
        count=st.integers(1, 20),
        held=st.booleans(),
    )
    def stream(self, translation, rotation, rate_hz: float, count: int, held: bool) -> None:
        if not self.rig.guard.active:
            self.arm_with_care("teleop")
        self.rig.follows = self.rig.follows and not held
        for _ in range(count):
            self._send(translation, rotation, 1.0 / rate_hz, source=self.rig.guard.source or "teleop")
            self.rig.tick(round(120.0 / rate_hz))

    @rule(translation=TRIPLE, place=st.integers(0, 2), value=NONSENSE)
    def act_nonsense(self, translation, place: int, value: float) -> None:
        wrong = list(translation)
        wrong[place] = value
        before = self.rig.guard.refused
        self._send(wrong, (0.0, 0.0, 0.0), 1.0 / 30.0, source=self.rig.guard.source or "teleop")
        assert self.rig.guard.refused == before + 1

    @rule(
        fields=st.sampled_from(
            [
                {"frame_id": "map"},
                {"age_s": 1.0},
                {"age_s": -1.0},
                {"duration_s": 0.001},
                {"duration_s": 5.0},
                {"duration_s": math.nan},
            ]
        )
    )
    def act_wrongly(self, fields: dict) -> None:
        before = self.rig.guard.refused
        values = {"duration_s": 1.0 / 30.0, "source": self.rig.guard.source or "teleop"} | fields
        self._send((1.0, 0.0, 0.0), (0.0, 0.0, 1.0), **values)
        assert self.rig.guard.refused == before + 1

    @rule(back=st.integers(0, 5))
    def act_twice(self, back: int) -> None:
        source = self.rig.guard.source or "teleop"
        self._send((0.2, 0.0, 0.0), (0.0, 0.0, 0.0), 1.0 / 30.0, source=source)
        before = self.rig.guard.refused
        repeated = max(0, self.rig.sequence - back)
        self._send((0.2, 0.0, 0.0), (0.0, 0.0, 0.0), 1.0 / 30.0, source=source, sequence=repeated)
        assert self.rig.guard.refused == before + 1
        self.rig.sequence += back

    # Time, arm and cameras

    @rule(
        rate_hz=st.sampled_from([7.5, 30.0]), speeds=st.lists(TRIPLE, min_size=1, max_size=12), lag=st.integers(0, 12)
    )
    def arm_lags_while_it_works(self, rate_hz: float, speeds: list, lag: int) -> None:
        """A stream of changing actions, executed by an arm that is some ticks late."""
        if not self.rig.guard.active:
            self.arm_with_care("policy")
        follows, self.rig.follows = self.rig.follows, False
        for speed in speeds:
            self._send(speed, speed[::-1], 1.0 / rate_hz, source=self.rig.guard.source or "teleop")
            for _ in range(round(120.0 / rate_hz)):
                output = self.rig.tick()
                if output is not None and len(self.rig.outputs) > lag:
                    self.rig.arm = self.rig.outputs[-1 - lag][1].target
        self.rig.follows = follows

    @rule(count=st.integers(1, 40), dt=st.sampled_from([0.001, 0.004, TICK_S, 0.02, 0.1]))
    def time_passes(self, count: int, dt: float) -> None:
        self.rig.tick(count, dt)

    @rule(gap_s=st.floats(0.1, 0.6))
    def guard_is_held_up(self, gap_s: float) -> None:
        self.rig.tick(1, gap_s)
        assert gap_s <= 0.25 or not self.rig.guard.active

    @rule()
    def clock_goes_back(self) -> None:
        self.rig.guard.tick(self.rig.now - 0.5)
        assert not self.rig.guard.active

    @rule(states=st.booleans(), cameras=st.booleans(), follows=st.booleans())
    def inputs_come_and_go(self, states: bool, cameras: bool, follows: bool) -> None:
        self.rig.states, self.rig.cameras, self.rig.follows = states, cameras, follows

    @rule()
    def all_is_well_again(self) -> None:
        self.rig.states = self.rig.cameras = self.rig.follows = True
        self.rig.guard.other_publishers([], self.rig.now)
        self.rig.driver = self.rig.driver if self.rig.driver is None else ""
        self.rig.tick(2)

    @rule(offset=TRIPLE, turn=TRIPLE, scale=st.sampled_from([0.0, 0.005, 0.05, 0.5]))
    def arm_is_pushed(self, offset, turn, scale: float) -> None:
        pushed = self.rig.arm.position + scale * np.array(offset)
        self.rig.arm = Pose(pushed, rotation_matrix(scale * np.array(turn)) @ self.rig.arm.rotation)

    @rule()
    def arm_is_put_back(self) -> None:
        self.rig.arm = self.home

    @rule(fault=st.sampled_from(["nan", "quaternion", "frame", "stamp"]))
    def state_is_wrong(self, fault: str) -> None:
        quaternion = self.home.quaternion() * (1.1 if fault == "quaternion" else 1.0)
        position = self.home.position * (math.nan if fault == "nan" else 1.0)
        frame = "map" if fault == "frame" else "panda_link0"
        stamp_s = 1.0 if fault == "stamp" else self.rig.now
        known = self.rig.guard.measured.pose is not None
        self.rig.guard.pose(position, quaternion, frame, stamp_s, self.rig.now)
        assert not self.rig.guard.active or (fault == "stamp" and not known)

    # What holds after each of them

    @invariant()
    def fault_stays_until_somebody_recovers(self) -> None:
        """Recovering and restarting say so to ``latched`` themselves."""
        state = self.rig.guard.state
        assert not (self.latched and state != State.FAULT)
        self.latched = state == State.FAULT

    @invariant()
    def nobody_armed_means_nobody_moves(self) -> None:
        guard = self.rig.guard
        assert bool(guard.source) == guard.active
        if guard.target is None:
            return
        if not guard.active and self.held is not None and self.held[0] == self.rig.armings:
            assert guard.target.distance_m(self.held[1]) == 0.0
            assert guard.target.angle_rad(self.held[1]) == 0.0
        self.held = None if guard.active else (self.rig.armings, guard.target)

    @invariant()
    def target_moves_no_farther_than_the_accepted_actions_asked(self) -> None:
        guard = self.rig.guard
        if guard.active and self.armed_at is not None:
            assert guard.target.distance_m(self.armed_at) <= self.allowed_m + 1e-6
            assert guard.target.angle_rad(self.armed_at) <= self.allowed_rad + 1e-5
            assert guard.limited <= self.rig.sequence

    @invariant()
    def goal_is_in_bounds_and_near(self) -> None:
        guard = self.rig.guard
        if guard.active:
            config = guard.config
            assert (guard.goal.position >= config.low).all() and (guard.goal.position <= config.high).all()
            reach_m = config.max_speed_m_s * (0.5 + config.max_lag_s)
            if config.max_acceleration_m_s2 > 0.0:  # a target that the goal turned back on has to brake first
                reach_m += config.max_speed_m_s**2 / (2.0 * config.max_acceleration_m_s2)
            assert guard.goal.distance_m(guard.target) <= reach_m + 1e-6


Interlocks.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow],
)
TestInterlocks = Interlocks.TestCase


def test_lossless_hold_and_resume_in_one_story():
    """The machine's rules in the order of a day's work: arm, move, lose the cameras, go on, hand over."""
    rig = Rig(replace(GuardConfig(), hold_limit_s=5.0)).armed("teleop")
    rig.stream((0.3, 0.0, 0.0), 0.5)
    rig.cameras = False
    for _ in range(30):
        rig.act((0.3, 0.0, 0.0))
        rig.tick(4)
    assert rig.guard.state == State.HOLDING
    rig.cameras = True
    rig.act((0.0, 0.0, 0.0))
    rig.tick()
    assert rig.guard.state == State.ARMED
    rig.guard.disarm("hand over", rig.now)
    rig.armed("policy")
    rig.stream((0.0, 0.3, 0.0), 0.5, rate_hz=7.5, source="policy")
    assert rig.guard.limited == 0
