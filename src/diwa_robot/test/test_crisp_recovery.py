"""Recovery after a stop, version by version: the steps, what a person is told, and that nothing moves unarmed."""

import numpy as np
import pytest
from franka_world import HOME, VERSIONS, FrankaWorld
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from diwa_conventions.actions import Pose
from diwa_conventions.topics import BASE_FRAME
from diwa_robot.drivers.crisp import Condition, CrispArm, CrispLimits, Input
from diwa_robot.drivers.dialects import DIALECTS
from diwa_robot.drivers.recovery import LIMIT_S, Recovery, Step
from diwa_robot.drivers.target_stream import Target
from diwa_robot.so3 import rotation_matrix

TICK_S = 1.0 / 60.0
LIST_S = 0.25
POSE, STATE = "/current_pose", "/robot_state"
LIMITS = CrispLimits()
AWAY = (0.3, -0.2, 0.1)
CONTROLLER = "cartesian_impedance_controller"


class Rig:
    """The driver's real logic, tick by tick, around a simulated robot. Answers of services take a few ticks."""

    def __init__(self, version: str, asks: bool = True, blind: bool = False) -> None:
        """``blind``: without franka_msgs and controller_manager_msgs, so it knows the measured pose alone."""
        self.world, self.dialect, self.asks = FrankaWorld(version), DIALECTS[VERSIONS[version]], asks
        self.arm = CrispArm([Input(POSE, 0.2, "x"), Input(STATE, 0.5, "x")], "/target_pose", CONTROLLER)
        self.arm.subscribers = 1
        self.now, self.heard, self.answers, self.blind = 100.0, True, not blind, blind
        self.recovery: Recovery | None = None
        self.steps: list[Step] = []
        self.pending: tuple[float, Step] | None = None
        self.goal: Pose | None = None
        """Where the armed source wants the arm to go; None: nobody is armed."""
        self.guard_target: Pose | None = None
        self.worst = (0.0, 0.0)
        """The largest lead in force while nobody was armed."""
        self.unarmed_s = 0.0
        self.sent: list[Pose] = []
        self.noise = 0

    def run(self, time_s: float = TICK_S) -> "Rig":
        for _ in range(max(1, round(time_s / TICK_S))):
            self._tick()
        return self

    def _tick(self) -> None:
        self.now += TICK_S
        self._list()
        self.world.step(TICK_S)
        self._judge()
        self._hear()
        self._guard()
        self._drive()
        self._tell(self.arm.tick(self.now))
        self._judge()

    def _hear(self) -> None:
        if not (self.heard and self.world.broadcasting):
            return
        shown, live = self.world.shown, self.world.hardware == "active"
        self.noise += 1
        pose = Pose(shown.pose.position + (1e-7 * (self.noise % 7) if live else 0.0), shown.pose.rotation)
        wrong = "" if self.blind else self.arm.robot(shown.mode, (), self.now, shown.clock_s)
        self.arm.pose(pose, self.now)
        self.arm.seen(POSE, self.now)
        self.arm.seen(STATE, self.now, wrong)

    def _list(self) -> None:
        if self.now - self.arm.listed_s < LIST_S:
            return
        world, arm = self.world, self.arm
        known = world.running and self.answers and self.heard
        arm.controller_state = world.controller if known else None
        arm.hardware_down = (
            (f"FrankaHardwareInterface is {world.hardware}",) if known and world.hardware != "active" else ()
        )
        arm.broadcasters_down = ("pose_broadcaster",) if known and not world.broadcasting else ()
        arm.listed_s = self.now

    def _guard(self) -> None:
        """The command guard: its target begins at the arm, and it disarms as soon as the arm is not ready."""
        if self.goal is None:
            self.unarmed_s += TICK_S
            return
        if self.arm.state is not Condition.READY:
            self.disarm()
            return
        target = self.guard_target
        way = self.goal.position - target.position
        step = way * min(1.0, 0.005 / max(float(np.linalg.norm(way)), 1e-9))
        nearer = Pose(target.position + step, target.rotation)
        if nearer.distance_m(self.world.shown.pose) < 0.1:
            self.guard_target = nearer
        target = Target(self.guard_target.position, self.guard_target.quaternion(), BASE_FRAME, self.now, 0.0)
        self._tell(self.arm.target(target, self.now)[0])

    def _tell(self, pose: Pose | None) -> None:
        if pose is not None:
            self.sent.append(pose)
            if self.heard:
                self.world.take(pose)

    def _drive(self) -> None:
        if self.recovery is None:
            return
        if self.pending is not None and self.now >= self.pending[0]:
            step, self.pending = self.pending[1], None
            self.recovery.answered(self._carry_out(step), self.now)
        step = self.recovery.tick(self.now)
        if step is not None:
            self.steps.append(step)
            self.pending = (self.now + 3 * TICK_S, step)
        if self.recovery.outcome is not None:
            if self.recovery.outcome == "":
                self.arm.recover(self.now)
            self.recovery, self.pending, self.outcome = None, None, self.recovery.outcome

    def _carry_out(self, step: Step) -> str:
        world = self.world
        if step is Step.RECOVER:
            trouble = world.recover()
            return "" if trouble == "No errors" else trouble
        done = {
            Step.DEACTIVATE: world.deactivate,
            Step.HARDWARE: world.activate_hardware,
            Step.BROADCASTERS: world.activate_broadcasters,
            Step.ACTIVATE: world.activate,
        }[step]()
        return "" if done else "refused"

    def _judge(self) -> None:
        if self.goal is None and self.unarmed_s > LIMITS.target_timeout_s + TICK_S:
            lead = self.world.lead()
            self.worst = max(self.worst[0], lead[0]), max(self.worst[1], lead[1])

    # What people do

    def source(self, goal: Pose) -> bool:
        """Arm a source; whether the guard does."""
        if self.arm.state is not Condition.READY or self.goal is not None:
            return False
        self.goal, self.guard_target, self.unarmed_s = goal, self.arm.measured, 0.0
        return True

    def disarm(self) -> None:
        self.goal, self.unarmed_s = None, 0.0

    def recover_arm(self) -> str:
        """Of the driver; its answer."""
        self.begin_recovery()
        for _ in range(round(2 * LIMIT_S / TICK_S)):
            if self.recovery is None:
                return self.outcome
            self.run()
        raise AssertionError("no answer")

    def begin_recovery(self) -> None:
        if self.recovery is None and not self.arm.obstacle(self.now):
            name = self.dialect.recovery
            self.recovery = Recovery(self.arm, self.dialect, f"/{name}", self.asks, self.now)
            self.steps = []

    def guide(self, way_m) -> None:
        """Slowly enough for a hand: 1 m/s."""
        self.world.guided = True
        way = np.array(way_m, dtype=float)
        ticks = max(1, round(float(np.linalg.norm(way)) / TICK_S))
        for _ in range(ticks):
            self.world.guide(way / ticks)
            self.run()
        self.world.guided = False


def ready(version: str, asks: bool = True) -> Rig:
    rig = Rig(version, asks).run(1.0)
    assert rig.arm.state is Condition.READY
    return rig


def moving(version: str, asks: bool = True) -> Rig:
    """An armed source leads the arm."""
    rig = ready(version, asks)
    assert rig.source(Pose(HOME.position + [0.15, 0.0, 0.0], HOME.rotation))
    return rig.run(0.3)


def moved(pose: Pose, before: Pose) -> float:
    return pose.distance_m(before)


RECOVERABLE = [version for version in VERSIONS if version != "franka_ros2 3.2"]
STEPS = {
    "franka_ros2 3.3": [Step.RECOVER, Step.HARDWARE, Step.BROADCASTERS, Step.ACTIVATE],
    "franka_ros2 2.4": [Step.DEACTIVATE, Step.RECOVER, Step.HARDWARE, Step.ACTIVATE],
    "multipanda": [Step.DEACTIVATE, Step.RECOVER, Step.ACTIVATE],
    "multipanda cartesian": [Step.DEACTIVATE, Step.RECOVER, Step.ACTIVATE],
}


@pytest.mark.parametrize("version", RECOVERABLE)
@pytest.mark.parametrize("stop", ["reflex", "user stop"])
def test_arm_that_was_guided_away_stands_where_it_was_left_after_recovery(version, stop):
    rig = moving(version)
    (rig.world.collide if stop == "reflex" else rig.world.press)()
    rig.run(1.0)
    assert rig.arm.state is Condition.FAULT
    assert rig.goal is None
    rig.world.press()
    rig.run(0.5)
    rig.guide(AWAY)
    rig.run(0.5)
    rig.world.release()
    rig.run(0.5)
    left = rig.world.pose
    assert rig.recover_arm() == ""
    assert rig.steps == STEPS[version]
    rig.run(3.0)
    assert rig.arm.state is Condition.READY
    assert moved(rig.world.pose, left) < 0.002
    assert rig.worst[0] <= LIMITS.max_lead_m + 1e-6
    assert rig.source(left)


@pytest.mark.parametrize("version", RECOVERABLE)
def test_recovery_is_refused_while_the_user_stop_is_pressed_and_nothing_is_broken_by_trying(version):
    rig = moving(version)
    rig.world.press()
    rig.run(1.0)
    answer = rig.recover_arm()
    assert answer.startswith(("the user stop is pressed: release it", "failed to recover the robot from its error"))
    assert rig.world.deaths == 0
    assert rig.arm.state is Condition.FAULT
    rig.world.release()
    rig.run(0.5)
    assert rig.recover_arm() == ""
    assert rig.run(0.5).arm.state is Condition.READY


@pytest.mark.parametrize("version", RECOVERABLE)
def test_user_stop_in_the_middle_of_a_recovery_ends_it_and_the_next_one_succeeds(version):
    for delay_s in (0.05, 0.3, 0.6, 0.9):
        rig = moving(version)
        rig.world.collide()
        rig.run(1.0).begin_recovery()
        rig.run(delay_s).world.press()
        rig.run(1.0)
        while rig.recovery is not None:
            rig.run()
        rig.guide(AWAY)
        rig.world.release()
        rig.run(0.5)
        if rig.world.running:  # multipanda_ros2 may end when control begins while the user stop is pressed
            assert rig.recover_arm() == ""
        assert rig.worst[0] <= LIMITS.max_lead_m + 1e-6


def test_controller_with_a_target_from_before_the_stop_does_not_go_there_when_it_is_activated():
    """CRISP keeps a target that came while it was inactive, and takes it after activation."""
    rig = moving("franka_ros2 3.3")
    rig.world.collide()
    rig.run(0.1)
    assert rig.world.waiting is not None
    rig.run(1.0)
    rig.world.press()
    rig.guide(AWAY)
    rig.world.release()
    assert rig.world.waiting.distance_m(rig.world.pose) > 0.2
    assert rig.recover_arm() == ""
    rig.run(1.0)
    assert rig.worst[0] < 0.01


def test_bring_up_that_ended_says_to_start_it_again():
    rig = moving("franka_ros2 3.2")
    rig.world.collide()
    rig.run(1.0)
    assert rig.arm.state is not Condition.READY
    answer = rig.recover_arm()
    assert "An error ends the bring-up of franka_ros2 before 3.3 (Jazzy) and 2.4 (Humble): start it again" in answer
    rig.world.restart()
    rig.run(0.5)
    assert rig.recover_arm() == ""
    assert rig.run(0.5).arm.state is Condition.READY


@pytest.mark.parametrize("version", RECOVERABLE)
def test_driver_that_may_not_recover_gives_the_commands(version):
    rig = moving(version, asks=False)
    rig.world.collide()
    rig.run(1.0)
    answer = rig.recover_arm()
    assert rig.steps == []
    assert f"ros2 control switch_controllers --deactivate {CONTROLLER}; ros2 " in answer
    assert answer.endswith(f"ros2 control switch_controllers --activate {CONTROLLER}")
    assert ("set_hardware_component_state" in answer) == version.startswith("franka")


@pytest.mark.parametrize("version", ["multipanda", "multipanda cartesian"])
def test_person_who_recovers_multipanda_with_the_controller_active_is_not_hit(version):
    """Its recovery starts control again by itself: the target has to be at the arm before."""
    rig = moving(version)
    rig.world.press()
    rig.run(0.5)
    rig.guide(AWAY)
    rig.world.release()
    rig.run(0.1)
    left = rig.world.pose
    assert rig.world.recover() == ""
    rig.run(2.0)
    assert moved(rig.world.pose, left) < 0.002
    assert rig.arm.state is Condition.FAULT


def test_driver_that_hears_the_pose_alone_keeps_the_target_within_the_clip_too():
    rig = Rig("multipanda cartesian", asks=False, blind=True).run(1.0)
    rig.source(Pose(HOME.position + [0.15, 0.0, 0.0], HOME.rotation))
    rig.run(0.3).disarm()
    rig.run(0.3).world.press()
    rig.guide(AWAY)
    rig.world.release()
    rig.world.recover()
    rig.run(1.0)
    assert rig.worst[0] <= LIMITS.max_lead_m


def test_humble_repeats_the_last_state_of_a_stopped_robot_and_is_not_believed():
    rig = ready("franka_ros2 2.4")
    rig.answers = False
    rig.run(0.5)
    rig.world.press()
    rig.run(1.0)
    assert rig.arm.state is Condition.CONNECTING
    assert "repeats one old state: the robot's clock stands still" in rig.arm.reason
    assert not rig.source(HOME)


def test_controller_manager_that_does_not_answer_is_waited_for_and_then_named():
    rig = moving("multipanda")
    rig.world.collide()
    rig.run(0.5)
    rig.answers = False
    rig.run(0.5)
    assert rig.recover_arm().startswith("the robot's controller manager does not answer")
    assert rig.steps == []


def test_arm_that_does_not_stand_still_is_not_given_to_the_controller():
    rig = moving("multipanda")
    rig.world.collide()
    rig.run(0.5).begin_recovery()
    while rig.recovery is not None:
        if not rig.world.loop and rig.steps[-1:] == [Step.RECOVER]:
            rig.world.pose = Pose(rig.world.pose.position + [0.0, 0.0, 0.002], rig.world.pose.rotation)
        rig.run()
    assert rig.outcome == "the robot is still idle: no controller moves it"
    assert rig.world.controller == "inactive"


@pytest.mark.parametrize("version", VERSIONS)
def test_arm_that_is_pushed_away_while_nobody_is_armed_is_not_pulled_back_hard(version):
    rig = ready(version)
    rig.world.blocked = True
    for _ in range(60):
        rig.world.pose = Pose(rig.world.pose.position + [0.0, 0.004, 0.0], rig.world.pose.rotation)
        rig.run()
    assert rig.worst[0] <= LIMITS.max_lead_m


WAY = st.tuples(*[st.floats(-0.3, 0.3)] * 3)


class Recoveries(RuleBasedStateMachine):
    """People, robot and network, in any order. ``version`` is set by a subclass."""

    version = ""

    def __init__(self) -> None:
        super().__init__()
        self.rig = Rig(self.version).run(0.5)
        self.faulted = False

    @property
    def world(self) -> FrankaWorld:
        return self.rig.world

    @property
    def driver_sees(self) -> bool:
        """Whether the measured pose reaches the driver: nobody may start control by hand while it is cut off."""
        return self.rig.heard and self.world.running and self.world.broadcasting and self.world.hardware == "active"

    @rule()
    def user_stop(self):
        self.world.press()
        self.rig.run(0.1)

    @rule()
    def let_go(self):
        self.world.release()
        self.rig.run(0.1)

    @rule()
    @precondition(lambda self: self.world.loop)
    def reflex(self):
        self.world.collide()
        self.rig.run(0.1)

    @rule(way=WAY)
    @precondition(lambda self: not self.world.loop and self.world.pressed)
    def guide(self, way):
        self.rig.guide(way)

    @rule(way=WAY)
    def arm(self, way):
        self.rig.source(Pose(HOME.position + np.array(way), HOME.rotation))
        self.rig.run(0.2)

    @rule()
    def disarm(self):
        self.rig.disarm()
        self.rig.run(0.1)

    @rule()
    def recover_arm(self):
        self.rig.begin_recovery()
        self.rig.run(0.3)

    @rule()
    def deactivate_by_hand(self):
        self.world.deactivate()
        self.rig.run(0.1)

    @rule()
    @precondition(lambda self: self.driver_sees and not (self.world.error or self.world.pressed or self.world.reflex))
    def activate_by_hand(self):
        """docs/real_robot.md: never on a multipanda_ros2 that still has an error."""
        self.rig.run(0.1)
        self.world.activate()
        self.rig.run(0.1)

    @rule()
    @precondition(lambda self: self.driver_sees or not self.world.multipanda)
    def recover_by_hand(self):
        self.rig.run(0.1)
        self.world.recover()
        self.rig.run(0.1)

    @rule()
    @precondition(lambda self: self.rig.heard)
    def hardware_and_broadcasters_by_hand(self):
        if self.world.activate_hardware() and self.world.activate_broadcasters():
            self.rig.run(0.1)

    @rule()
    @precondition(lambda self: not self.world.running)
    def start_again(self):
        self.world.restart()
        self.rig.run(0.3)

    @rule()
    def cut(self):
        """The network, or the state's topics."""
        self.rig.heard = False
        self.rig.run(0.3)

    @rule()
    def mend(self):
        self.rig.heard = True
        self.rig.run(0.3)

    @rule()
    def silence_of_the_manager(self):
        self.rig.answers = not self.rig.answers
        self.rig.run(0.3)

    @rule()
    def hand_in_the_way(self):
        self.world.blocked = not self.world.blocked
        self.rig.run(0.3)

    @rule(time_s=st.floats(0.01, 2.0))
    def wait(self, time_s):
        self.rig.run(time_s)

    @invariant()
    def nothing_far_is_in_force_while_nobody_is_armed(self):
        assert self.rig.worst[0] <= LIMITS.max_lead_m + 1e-6
        assert self.rig.worst[1] <= LIMITS.max_lead_rad + 1e-6

    @invariant()
    def no_torques_from_before_the_stop(self):
        assert not self.world.stale_torques

    def teardown(self):
        """Whatever happened, a person gets the arm back."""
        rig = self.rig
        rig.heard = rig.answers = True
        rig.disarm()
        self.world.blocked = False
        self.world.release()
        rig.run(1.0)
        if not self.world.running:
            self.world.restart()
            rig.run(1.0)
        while rig.recovery is not None:
            rig.run()
        for _ in range(2):
            answer = rig.recover_arm()
        assert answer == ""
        assert rig.run(1.0).arm.state is Condition.READY, rig.arm.reason
        self.nothing_far_is_in_force_while_nobody_is_armed()


@pytest.mark.parametrize("version", VERSIONS)
def test_whatever_the_order_no_target_beyond_the_clip_is_in_force_while_nobody_is_armed(version):
    """User stop, guiding, reflex, recovery, restarts, arming, disarming and silence, in any order."""
    machine = type(f"Recoveries_{version}", (Recoveries,), {"version": version})
    run_state_machine_as_test(machine, settings=settings(max_examples=20, stateful_step_count=25, deadline=None))


def test_property_notices_a_driver_that_recovers_with_the_controller_active(monkeypatch):
    """The test of the test: multipanda's recovery, and a driver that leaves the old target where it is."""
    monkeypatch.setattr(CrispArm, "_aim", lambda self, now: None)
    rig = moving("multipanda")
    rig.world.press()
    rig.run(0.5)
    rig.guide(AWAY)
    rig.world.release()
    rig.world.recover()
    assert rig.run(0.1).worst[0] > LIMITS.max_lead_m


def test_turned_arm_is_aimed_at_too():
    rig = moving("multipanda")
    rig.world.press()
    rig.run(0.5)
    for _ in range(100):
        rig.world.pose = Pose(
            rig.world.pose.position, rotation_matrix(np.array([0.0, 0.0, 0.01])) @ rig.world.pose.rotation
        )
        rig.run()
    assert rig.sent[-1].angle_rad(rig.world.pose) <= LIMITS.aim_rad + 0.01
