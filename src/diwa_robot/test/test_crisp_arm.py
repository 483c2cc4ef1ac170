"""What is passed on to a ROS 2 controller, what it is told when targets stop, and what the driver makes of a robot."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diwa_conventions.actions import Pose
from diwa_conventions.topics import BASE_FRAME
from diwa_robot.drivers.crisp import Condition, CrispArm, CrispLimits, Input, pulled_to
from diwa_robot.drivers.target_stream import Target
from diwa_robot.so3 import rotation_matrix

HOME = Pose(np.array([0.46, 0.0, 0.33]), np.diag([1.0, -1.0, -1.0]))
LIMITS = CrispLimits()
TICK_S = 1.0 / 120.0
NOISE_M = 1e-7
POSE, STATE, HAND = "/current_pose", "/robot_state", "/franka_gripper/joint_states"


def moved(pose: Pose, way_m=(0.0, 0.0, 0.0), turn_rad=(0.0, 0.0, 0.0)) -> Pose:
    return Pose(pose.position + np.array(way_m), rotation_matrix(np.array(turn_rad, dtype=float)) @ pose.rotation)


@dataclass
class Rig:
    """Time, a robot that a test moves, and a guard that sends targets while ``target`` is one."""

    follows: float = 0.3
    """Share of the way to the controller's target in one tick; 0.0: something is in the way."""
    arm: CrispArm = field(
        default_factory=lambda: CrispArm(
            [Input(POSE, 0.2, "is pose_broadcaster active?"), Input(STATE, 0.5, "x"), Input(HAND, 2.0, "x")],
            "/target_pose",
            "cartesian_impedance_controller",
        )
    )
    now: float = 100.0
    pose: Pose = HOME
    target: Pose | None = None
    speaks: bool = True
    noisy: bool = True
    mode: int = 2
    errors: tuple[str, ...] = ()
    controller: Pose = HOME
    """What the controller was told last."""
    told: list[tuple[float, Pose]] = field(default_factory=list)
    refusal: str = ""
    ticks: int = 0

    def __post_init__(self) -> None:
        self.arm.subscribers = 1

    def run(self, duration_s: float = TICK_S) -> "Rig":
        for _ in range(max(1, round(duration_s / TICK_S))):
            self.now += TICK_S
            self.ticks += 1
            self.pose = self._step()
            if self.speaks:
                noise_m = NOISE_M * (self.ticks % 7) if self.noisy else 0.0
                self.arm.pose(moved(self.pose, (noise_m, 0.0, 0.0)), self.now)
                self.arm.robot(self.mode, self.errors, self.now)
                for name in (POSE, STATE, HAND):
                    self.arm.seen(name, self.now)
            if self.target is not None:
                self._told(self.send(self.target))
            self._told(self.arm.tick(self.now))
        return self

    def _step(self) -> Pose:
        way = self.controller.position - self.pose.position
        return Pose(
            self.pose.position + self.follows * way, self.controller.rotation if self.follows else HOME.rotation
        )

    def send(self, pose: Pose, frame: str = BASE_FRAME) -> Pose | None:
        told, self.refusal = self.arm.target(
            Target(pose.position, pose.quaternion(), frame, stamp_s=self.now, age_s=0.0), self.now
        )
        return told

    def _told(self, pose: Pose | None) -> None:
        if pose is not None:
            self.controller = pose
            self.told.append((self.now, pose))

    def go(self, way_m, duration_s: float = 0.5) -> "Rig":
        """Lead the arm evenly."""
        start = self.target or self.pose
        ticks = round(duration_s / TICK_S)
        for tick in range(ticks):
            self.target = moved(start, np.array(way_m) * (tick + 1) / ticks)
            self.run()
        return self

    def said(self) -> tuple[Condition, str]:
        return self.arm.state, self.arm.reason


@pytest.fixture
def rig() -> Rig:
    return Rig().run(0.1)


def test_ready_when_everything_comes_and_nothing_is_sent(rig):
    assert rig.said() == (Condition.READY, "follows target_pose")
    assert rig.told == []


def test_targets_go_on_and_the_arm_follows(rig):
    rig.go((0.2, 0.0, 0.0), 1.0).run(1.0)
    assert rig.pose.distance_m(rig.target) < 1e-6
    assert rig.arm.clipped == 0


def test_arm_never_moves_before_a_target_near_it_came(rig):
    rig.target = moved(HOME, (0.11, 0.0, 0.0))
    rig.run()
    assert rig.refusal.startswith("the target is 0.110 m and 0.00 rad from the arm")
    rig.run(1.0)
    assert rig.told == []


def test_target_ahead_of_an_arm_that_is_stopped_is_pulled_back_to_the_clip(rig):
    rig.go((0.05, 0.0, 0.0))
    rig.follows = 0.0
    rig.go((0.12, 0.0, 0.0))
    assert rig.controller.distance_m(rig.pose) == pytest.approx(LIMITS.max_lead_m, abs=1e-6)
    assert rig.arm.clipped > 0


def test_arm_that_presses_is_held_with_little_force_once_targets_stop(rig):
    rig.go((0.05, 0.0, 0.0))
    rig.follows = 0.0
    rig.go((0.06, 0.0, 0.0))
    rig.target, sent = None, len(rig.told)
    rig.run(5.0)
    assert len(rig.told) == sent + 1
    assert rig.controller.distance_m(rig.pose) == pytest.approx(LIMITS.hold_lead_m, abs=1e-6)


def test_hold_does_not_follow_an_arm_that_sinks_under_a_load(rig):
    rig.go((0.05, 0.0, 0.0)).run(0.5)
    rig.target = None
    rig.run(1.0)
    held = rig.controller
    rig.follows = 0.0
    for _ in range(50):
        rig.pose = moved(rig.pose, (0.0, 0.0, -0.001))
        rig.run(0.1)
    assert rig.controller is held


def test_new_stream_begins_where_the_arm_is_held_without_a_jump(rig):
    rig.go((0.05, 0.0, 0.0)).run(0.5)
    rig.target = None
    rig.run(0.5)
    rig.target = moved(rig.pose, (0.05, 0.0, 0.0))
    before = rig.controller
    rig.run()
    assert rig.told[-1][1].distance_m(before) < 1e-6
    rig.run(2.0)
    assert rig.pose.distance_m(rig.target) < 1e-6


def test_targets_that_come_and_are_refused_make_the_arm_not_ready_until_they_stop(rig):
    """Else a source would stay armed before an arm that stands for ever."""
    rig.target = moved(HOME, (0.11, 0.0, 0.0))
    rig.run(1.0)
    state, reason = rig.said()
    assert state is Condition.CONNECTING
    assert reason.startswith("targets come and are not followed: the target is 0.110 m")
    rig.target = None
    rig.run(0.3)
    assert rig.arm.state is Condition.READY
    rig.target = HOME
    rig.run(0.1)
    assert rig.told


def test_one_refused_target_changes_nothing(rig):
    rig.target = HOME
    rig.run(0.2)
    rig.send(HOME, frame="camera")
    rig.run(1.0)
    assert rig.arm.state is Condition.READY


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (Pose(np.array([np.nan, 0.0, 0.3]), HOME.rotation), "not finite"),
        (moved(HOME, (0.3, 0.0, 0.0)), "from the arm"),
    ],
)
def test_target_that_is_none_is_refused_and_counted(rig, wrong, words):
    assert rig.send(wrong) is None
    assert words in rig.refusal
    assert sum(rig.arm.stream.refusals.values()) == 1


def test_target_in_another_frame_is_refused(rig):
    assert rig.send(HOME, frame="camera") is None
    assert "'camera'; expected 'panda_link0'" in rig.refusal


def test_target_while_two_publish_it_is_refused(rig):
    rig.arm.stream.publishers = 2
    assert rig.send(HOME) is None
    assert "target_pose has 2 publishers" in rig.refusal


def test_second_publisher_to_the_controller_is_a_fault_until_it_is_gone_and_a_person_recovers(rig):
    rig.target = HOME
    rig.run(0.1)
    rig.arm.rivals = ("/rqt",)
    rig.run()
    state, reason = rig.said()
    assert state is Condition.FAULT
    assert reason.startswith("/target_pose has another publisher: /rqt; the controller ignores all targets")
    assert rig.arm.obstacle(rig.now) == reason
    rig.arm.rivals = ()
    rig.run(1.0)
    assert rig.arm.state is Condition.FAULT
    assert rig.arm.obstacle(rig.now) == ""
    rig.arm.recover(rig.now)
    assert rig.arm.state is Condition.READY


def test_publisher_that_is_there_before_the_driver_is_waited_for():
    """A driver that was killed is seen by others for another 20 s."""
    rig = Rig()
    rig.arm.rivals = ("/diwa/crisp_driver",)
    rig.run(0.1)
    assert rig.arm.state is Condition.CONNECTING
    rig.arm.rivals = ()
    assert rig.run().arm.state is Condition.READY


def test_reflex_is_a_fault_that_names_the_error_and_takes_the_target_to_the_arm(rig):
    """The controller may still be active: whoever recovers the robot must not start the old target."""
    rig.go((0.05, 0.0, 0.0))
    rig.follows = 0.0
    rig.go((0.06, 0.0, 0.0))
    rig.mode, rig.errors = 4, ("cartesian_reflex",)
    rig.run(0.1)
    assert rig.said() == (Condition.FAULT, "the robot was stopped by a reflex (cartesian_reflex)")
    assert rig.controller.distance_m(rig.pose) < 1e-6
    rig.pose = moved(rig.pose, (0.3, 0.0, 0.1), (0.0, 0.0, 0.4))
    rig.run()
    assert rig.controller.distance_m(rig.pose) < 1e-6


def test_after_recovery_the_arm_stands_until_targets_begin_anew(rig):
    rig.target = HOME
    rig.run(0.2)
    rig.mode = 4
    rig.run(0.2)
    rig.arm.recover(rig.now)
    assert rig.arm.state is Condition.FAULT  # the robot has not recovered
    rig.mode = 2
    rig.arm.robot(2, (), rig.now)
    rig.arm.recover(rig.now)
    assert rig.arm.state is Condition.READY
    sent = len(rig.told)
    rig.run(0.3)  # the targets never stopped
    assert len(rig.told) == sent
    rig.target = None
    rig.run(0.3)
    rig.arm.recover(rig.now)  # and at once
    rig.target = HOME
    rig.run(0.1)
    assert len(rig.told) > sent


@pytest.mark.parametrize(("mode", "words"), [(1, "idle: no controller moves it"), (9, "in mode 9")])
def test_robot_that_no_controller_moves_is_waited_for_and_goes_on_by_itself(rig, mode, words):
    rig.mode = mode
    state, reason = rig.run().said()
    assert state is Condition.CONNECTING
    assert words in reason and "diwa guard recover" in reason
    rig.mode = 2
    assert rig.run().arm.state is Condition.READY


@pytest.mark.parametrize(
    ("mode", "words"), [(3, "was guided by hand"), (5, "was stopped by the user stop: release it")]
)
def test_stop_by_a_person_is_a_fault_until_a_person_recovers(rig, mode, words):
    rig.mode = mode
    state, reason = rig.run().said()
    assert state is Condition.FAULT
    assert words in reason
    rig.mode = 2
    assert rig.run(1.0).arm.state is Condition.FAULT
    rig.arm.recover(rig.now)
    assert rig.run().arm.state is Condition.READY


def test_user_stop_that_is_pressed_at_the_start_is_waited_for():
    rig = Rig(mode=5).run(0.1)
    assert rig.said()[0] is Condition.CONNECTING
    assert "user stop" in rig.arm.reason


def test_hardware_component_that_is_not_active_is_a_fault_that_names_it(rig):
    rig.arm.hardware_down = ("FrankaHardwareInterface is unconfigured",)
    state, reason = rig.run().said()
    assert state is Condition.FAULT
    assert reason.startswith("FrankaHardwareInterface is unconfigured: the robot stopped with an error")


def test_fault_that_comes_after_silence_is_still_a_fault(rig):
    """The state falls silent before the controller manager says why."""
    rig.speaks = False
    assert rig.run(0.3).arm.state is Condition.CONNECTING
    rig.arm.hardware_down = ("FrankaHardwareInterface is unconfigured",)
    assert rig.run().arm.state is Condition.FAULT


def test_mode_that_is_old_is_not_known(rig):
    rig.mode = 5
    rig.run()
    rig.speaks = False
    rig.run(0.6)
    assert rig.arm.mode is None


def test_state_with_a_clock_that_stands_is_not_believed(rig):
    for _ in range(30):
        rig.run()
        wrong = rig.arm.robot(2, (), rig.now, clock_s=7.5)
    assert wrong == ""
    rig.speaks = False
    for _ in range(90):
        rig.run()
        wrong = rig.arm.robot(2, (), rig.now, clock_s=7.5)
    assert wrong.startswith("repeats one old state: the robot's clock stands still")
    assert rig.arm.mode is None


def test_target_in_force_is_taken_to_an_arm_that_is_pushed_away_while_nobody_is_armed(rig):
    rig.follows = 0.0
    for _ in range(50):
        rig.pose = moved(rig.pose, (0.0, 0.004, 0.0))
        rig.run()
    assert rig.controller.distance_m(rig.pose) <= LIMITS.leash_m + 0.005


def test_pose_that_falls_silent_is_waited_for_and_no_target_goes_on(rig):
    rig.target = HOME
    rig.run(0.2)
    rig.speaks = False
    rig.run(0.5)
    assert rig.said() == (
        Condition.CONNECTING,
        "/current_pose has been silent for more than 0.2 s; is pose_broadcaster active?",
    )
    assert rig.refusal.startswith("the arm is not ready: /current_pose has been silent")


def test_arm_that_was_not_ready_does_not_go_on_with_targets_that_never_stopped(rig):
    rig.target = HOME
    rig.run(0.2)
    rig.speaks = False
    rig.run(0.5)
    rig.speaks, sent = True, len(rig.told)
    rig.run(0.3)
    assert len(rig.told) == sent
    assert "arm the source again" in rig.refusal


def test_nothing_at_all_says_what_to_look_for():
    rig = Rig(speaks=False).run()
    assert rig.said() == (Condition.CONNECTING, "nothing has come on /current_pose; is pose_broadcaster active?")


def test_wrong_message_is_named(rig):
    rig.arm.seen(HAND, rig.now, "has no panda_finger_joint1")
    rig.arm.tick(rig.now)
    assert rig.said() == (Condition.CONNECTING, f"{HAND} has no panda_finger_joint1")


def test_controller_that_is_not_there_says_how_to_look(rig):
    rig.arm.subscribers = 0
    rig.run()
    assert rig.arm.reason == (
        "nobody listens on /target_pose: cartesian_impedance_controller is not loaded there; "
        "ros2 control list_controllers"
    )


@pytest.mark.parametrize(("state", "words"), [("inactive", "is inactive"), ("", "is not loaded")])
def test_controller_that_its_manager_calls_inactive_says_how_to_activate_it(rig, state, words):
    rig.arm.controller_state = state
    rig.run()
    wanted = f"cartesian_impedance_controller {words}; diwa guard recover activates it where the arm stands"
    assert rig.arm.reason.startswith(wanted)
    rig.arm.controller_state = "active"
    assert rig.run().arm.state is Condition.READY


def test_arm_that_never_follows_is_a_fault(rig):
    rig.follows = 0.0
    rig.go((0.08, 0.0, 0.0)).run(1.5)
    state, reason = rig.said()
    assert state is Condition.FAULT
    assert reason.startswith("the arm does not follow its targets; is cartesian_impedance_controller active?")


def test_arm_that_followed_and_then_presses_is_well(rig):
    rig.go((0.05, 0.0, 0.0))
    rig.follows = 0.0
    rig.go((0.08, 0.0, 0.0)).run(10.0)
    assert rig.arm.state is Condition.READY


def test_measured_pose_that_stands_to_the_last_bit_is_a_fault(rig):
    rig.go((0.05, 0.0, 0.0))
    rig.follows, rig.noisy = 0.0, False
    rig.go((0.08, 0.0, 0.0)).run(1.0)
    assert "the measured pose has not changed at all for 0.5 s" in rig.arm.reason
    assert rig.arm.state is Condition.FAULT


def test_arm_that_stands_still_at_its_target_is_well(rig):
    rig.noisy = False
    rig.target = HOME
    rig.run(5.0)
    assert rig.arm.state is Condition.READY


NUMBERS = st.floats(-1.0, 1.0)
WAYS = st.tuples(NUMBERS, NUMBERS, NUMBERS).map(np.array)


@given(way=WAYS, turn=WAYS, most_m=st.floats(0.0, 0.5), most_rad=st.floats(0.0, 1.5))
def test_pulled_pose_is_within_both_bounds_and_on_the_way(way, turn, most_m, most_rad):
    pose = moved(HOME, way, turn)
    pulled = pulled_to(pose, HOME, most_m, most_rad)
    assert pulled.distance_m(HOME) <= most_m + 1e-9
    assert pulled.angle_rad(HOME) <= most_rad + 1e-6
    assert pulled.distance_m(HOME) + pulled.distance_m(pose) == pytest.approx(pose.distance_m(HOME), abs=1e-9)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["go", "jump", "silence", "stop arm", "free arm", "mode", "rival", "mute", "recover", "wait"]),
        WAYS,
    ),
    max_size=20,
)


@settings(max_examples=60, deadline=None)
@given(events=EVENTS)
def test_whatever_happens_the_controller_is_told_nothing_far_and_only_the_measured_pose_while_not_ready(events):
    rig = Rig().run(0.1)
    for event, way in events:
        state = rig.arm.state
        happen(rig, event, way)
        for _ in range(15):
            before, was = len(rig.told), rig.arm.state
            rig.run()
            for _, pose in rig.told[before:]:
                assert pose.distance_m(rig.pose) <= LIMITS.max_lead_m + 1e-6
                assert pose.angle_rad(rig.pose) <= LIMITS.max_lead_rad + 1e-6
                assert was is Condition.READY or pose.distance_m(rig.arm.measured) == 0.0
        if state is Condition.FAULT and event != "recover":
            assert rig.arm.state is Condition.FAULT


def happen(rig: Rig, event: str, way) -> None:
    if event == "go":
        rig.target = moved(rig.target or rig.pose, 0.02 * way)
    elif event == "jump":
        rig.target = moved(HOME, way)
    elif event == "silence":
        rig.target = None
    elif event in ("stop arm", "free arm"):
        rig.follows = 0.0 if event == "stop arm" else 0.3
    elif event == "mode":
        rig.mode = 4 if way[0] > 0.0 else 2
    elif event == "rival":
        rig.arm.rivals = ("/rqt",) if way[0] > 0.0 else ()
    elif event == "mute":
        rig.speaks = way[0] > 0.0
    elif event == "recover":
        rig.arm.recover(rig.now)
