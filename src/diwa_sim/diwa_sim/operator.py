"""The scripted operator: plays and demonstrates as a person at the controls would, more or less skilfully.

It sees the scene's true state, as a person does, and gives the absolute pose of a hand 30 times a second. The
generators at the end of the module turn that into 7-DoF actions for the Gymnasium environment; the ROS node
:mod:`diwa_sim.nodes.operator` publishes the pose.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.spatial.transform import Rotation

from diwa_conventions.actions import ACTION_DIM, GRIPPER_CLOSE, GRIPPER_OPEN, ActionScale, FloatArray, Pose, difference
from diwa_conventions.errors import UserError
from diwa_conventions.rates import FRAMES_PER_STEP, RECORD_RATE_HZ
from diwa_conventions.tasks import TASKS, checked_task
from diwa_sim.environment import Observation, PlayroomEnv
from diwa_sim.playroom import HAND_DOWN
from diwa_sim.skills import Waypoint, plan
from diwa_sim.tasks import DRAWER_TRAVEL_M, SLIDER_TRAVEL_M, SceneState, is_done

FRAME_S = 1.0 / RECORD_RATE_HZ
_ACCELERATION_M_S2 = 2.0
_ARRIVED_M = 0.004
_FOLLOWED_M = 0.015
_PATIENCE_S = 0.4
"""How long the hand waits for the arm to follow before it goes on."""
_TURN_RAD_S = 0.8
_NEAR_MISSES, _WANDERING = 0.3, 0.1
"""Shares of a player's attempts: the world model has to see what failing looks like, and free motion."""
_PLAY_BOX_M = (np.array([0.34, -0.30, 0.22]), np.array([0.68, 0.30, 0.42]))


@dataclass(frozen=True)
class Style:
    """How well one attempt is made."""

    cruise_m_s: float
    aim_error_m: FloatArray
    """(3,) systematic offset of every point of contact in this attempt."""
    tilt: FloatArray
    """(3, 3) how the hand is turned away from straight down."""
    tremor_m: float
    """Standard deviation of the hand's wander."""
    hesitation: float
    """Probability of a pause at each waypoint."""
    stop_short: float = 0.0
    """Share of the contact's way that is left undone: 0 does it all."""

    @classmethod
    def draw(cls, skill: float, rng: np.random.Generator) -> Style:
        """One attempt's style; ``skill`` from 0 (sloppy) to 1 (clean)."""
        if not 0.0 <= skill <= 1.0:
            raise UserError(f"skill is {skill!r}; expected a number from 0 (sloppy) to 1 (clean)")
        sloppy = 1.0 - skill
        return cls(
            cruise_m_s=float(0.36 + rng.uniform(-0.08, 0.08) * (0.3 + sloppy)),
            aim_error_m=rng.normal(0.0, 1.0, 3) * np.array([0.024, 0.024, 0.014]) * sloppy,
            tilt=Rotation.from_rotvec(rng.normal(0.0, 0.10 * sloppy, 3)).as_matrix(),
            tremor_m=0.0005 + 0.005 * sloppy,
            hesitation=0.15 * sloppy,
            stop_short=float(max(0.0, rng.normal(0.0, 0.2))) * sloppy,
        )

    def missing(self, rng: np.random.Generator) -> Style:
        """A near miss: the same hand, 3 to 6 cm beside its aim, or stopping half-way."""
        if rng.random() < 0.3:
            return replace(self, stop_short=float(rng.uniform(0.3, 0.8)))
        angle, distance = rng.uniform(0.0, 2.0 * np.pi), rng.uniform(0.03, 0.06)
        beside = distance * np.array([np.cos(angle), np.sin(angle), rng.uniform(-0.1, 0.6)])
        return replace(self, aim_error_m=self.aim_error_m + beside)


@dataclass(frozen=True)
class Habit:
    """What all attempts of a demonstrator have in common. Errors that differ from one to the next average out in what
    is learned from them; a habit does not."""

    near_misses: float = 0.0
    """Share of attempts that miss on purpose, as in play (some succeed all the same)."""
    aim_offset_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Every point of contact is aimed at so far beside (x, y, z)."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.near_misses <= 1.0:
            raise UserError(f"near_misses is {self.near_misses}; expected a share from 0 to 1")
        if not all(abs(part) <= 0.1 for part in self.aim_offset_m):
            raise UserError(f"aim_offset_m is {self.aim_offset_m}; expected numbers from -0.1 to 0.1")

    def bend(self, style: Style, rng: np.random.Generator) -> Style:
        """One attempt's style with the habit in it."""
        if self.near_misses and rng.random() < self.near_misses:
            style = style.missing(rng)
        return replace(style, aim_error_m=style.aim_error_m + np.array(self.aim_offset_m))


@dataclass(frozen=True)
class Command:
    """What the operator's hand does now: absolute pose, and gripper (>= 0 opens)."""

    pose: Pose
    gripper: float


class Hand:
    """Moves through waypoints with bounded speed and acceleration, tremor, and waits for the arm to follow."""

    def __init__(self, start: Pose, rng: np.random.Generator) -> None:
        self._rng = rng
        self._position = start.position.copy()
        self._rotation = start.rotation.copy()
        self._wander = np.zeros(3)
        self._speed = 0.0
        self._gripper = GRIPPER_OPEN
        self._waypoints: list[Waypoint] = []
        self._style = Style.draw(1.0, rng)
        self._waited_s = 0.0
        self._pause_s = 0.0

    @property
    def idle(self) -> bool:
        return not self._waypoints

    def follow(self, waypoints: list[Waypoint], style: Style) -> None:
        """Begin an attempt: aim errors apply to what is done in contact, a short stop to its last part."""
        self._style = style
        self._waypoints = [self._aimed(waypoints, i) for i in range(len(waypoints))]
        self._begin_waypoint()

    def move(self, tool: Pose) -> Command:
        """The next 1/30 s; ``tool`` is the arm's measured pose."""
        if self._waypoints:
            waypoint = self._waypoints[0]
            self._gripper = waypoint.gripper if self._arrived(waypoint) or not waypoint.dwell_s else self._gripper
            self._approach(waypoint)
            if self._done(waypoint, tool):
                self._waypoints.pop(0)
                self._begin_waypoint()
        self._turn(self._style.tilt @ HAND_DOWN)
        self._wander += -0.15 * self._wander + self._rng.normal(0.0, 0.55 * self._style.tremor_m, 3)
        return Command(Pose(self._position + self._wander, self._rotation), self._gripper)

    def _aimed(self, waypoints: list[Waypoint], i: int) -> Waypoint:
        waypoint = waypoints[i]
        position = waypoint.position + self._style.aim_error_m
        if waypoint.slow and i > 0:
            before = waypoints[i - 1].position
            sideways = np.array([1.0, 1.0, 0.0 if i < len(waypoints) - 1 else 1.0])
            position = position - self._style.stop_short * sideways * (waypoint.position - before)
        return replace(waypoint, position=position)

    def _begin_waypoint(self) -> None:
        self._waited_s = 0.0
        self._pause_s = float(self._rng.uniform(0.1, 0.6)) if self._rng.random() < self._style.hesitation else 0.0

    def _arrived(self, waypoint: Waypoint) -> bool:
        return float(np.linalg.norm(waypoint.position - self._position)) < _ARRIVED_M

    def _approach(self, waypoint: Waypoint) -> None:
        if self._pause_s > 0.0:
            self._pause_s -= FRAME_S
            self._speed = 0.0
            return
        way = waypoint.position - self._position
        distance = float(np.linalg.norm(way))
        braking = np.sqrt(2.0 * _ACCELERATION_M_S2 * distance)
        limit = waypoint.speed_m_s(self._style.cruise_m_s)
        self._speed = float(min(self._speed + _ACCELERATION_M_S2 * FRAME_S, limit, braking))
        self._position += way * min(1.0, self._speed * FRAME_S / max(distance, 1e-9))

    def _done(self, waypoint: Waypoint, tool: Pose) -> bool:
        if not self._arrived(waypoint):
            return False
        self._waited_s += FRAME_S
        followed = float(np.linalg.norm(waypoint.position - tool.position)) < _FOLLOWED_M
        return self._waited_s > waypoint.dwell_s and (followed or self._waited_s > waypoint.dwell_s + _PATIENCE_S)

    def _turn(self, wanted: FloatArray) -> None:
        turn = Rotation.from_matrix(wanted @ self._rotation.T).as_rotvec()
        angle = float(np.linalg.norm(turn))
        if angle > 1e-6:
            turn *= min(1.0, _TURN_RAD_S * FRAME_S / angle)
            self._rotation = Rotation.from_rotvec(turn).as_matrix() @ self._rotation


@dataclass(frozen=True)
class Attempt:
    """What the operator is trying: a task, or "" while it wanders."""

    task: str
    before: SceneState
    number: int


class Player:
    """Plays: one attempt after another at whatever can be done now, with near misses, wandering and pauses."""

    def __init__(self, start: Pose, rng: np.random.Generator) -> None:
        self._rng = rng
        self._hand = Hand(start, rng)
        self._attempt: Attempt | None = None

    @property
    def attempt(self) -> Attempt | None:
        return self._attempt

    def move(self, tool: Pose, scene: SceneState) -> Command:
        """The next 1/30 s."""
        if self._hand.idle:
            self._begin(tool, scene)
        return self._hand.move(tool)

    def _begin(self, tool: Pose, scene: SceneState) -> None:
        rng = self._rng
        number = self._attempt.number + 1 if self._attempt else 0
        style = Style.draw(float(rng.uniform(0.4, 1.0)), rng)
        tilt = Rotation.from_rotvec(rng.normal(0.0, 0.06, 3) * [1.0, 1.0, 2.0]).as_matrix()
        style = replace(style, cruise_m_s=style.cruise_m_s + 0.08, tilt=tilt)
        if rng.random() < _WANDERING:
            self._attempt = Attempt("", scene, number)
            self._hand.follow([self._somewhere() for _ in range(rng.integers(1, 4))], style)
            return
        tasks = [task for task in feasible_tasks(scene) if task != "lift-cube" or rng.random() < 0.4]
        task = str(rng.choice(tasks))
        self._attempt = Attempt(task, scene, number)
        if rng.random() < _NEAR_MISSES:
            style = style.missing(rng)
        self._hand.follow(plan(task, scene, tool.position), style)

    def _somewhere(self) -> Waypoint:
        position = self._rng.uniform(*_PLAY_BOX_M)
        return Waypoint(
            position, float(self._rng.choice([GRIPPER_CLOSE, GRIPPER_OPEN])), float(self._rng.uniform(0.0, 0.4))
        )


class Demonstrator:
    """Demonstrates one task once, with a skill from 0 (sloppy) to 1 (clean)."""

    def __init__(
        self,
        task: str,
        skill: float,
        start: Pose,
        scene: SceneState,
        rng: np.random.Generator,
        habit: Habit = Habit(),
    ) -> None:
        self._hand = Hand(start, rng)
        self._hand.follow(plan(checked_task(task), scene, start.position), habit.bend(Style.draw(skill, rng), rng))

    @property
    def finished(self) -> bool:
        return self._hand.idle

    def move(self, tool: Pose) -> Command:
        """The next 1/30 s."""
        return self._hand.move(tool)


def feasible_tasks(scene: SceneState) -> list[str]:
    """What a player can turn to in this state; for something left half-way, the task that moves it farther."""
    possible = {
        "open-drawer": scene.drawer_m < 0.5 * DRAWER_TRAVEL_M,
        "close-drawer": scene.drawer_m >= 0.5 * DRAWER_TRAVEL_M,
        "move-slider-left": scene.slider_m < 0.5 * SLIDER_TRAVEL_M,
        "move-slider-right": scene.slider_m >= 0.5 * SLIDER_TRAVEL_M,
        "turn-on-lightbulb": not scene.lightbulb,
        "turn-off-lightbulb": scene.lightbulb,
        "turn-on-LED": not scene.led,
        "turn-off-LED": scene.led,
        "lift-cube": _cube_in_reach(scene.cube.position),
    }
    return [task for task in TASKS if possible[task]]


def _cube_in_reach(position: FloatArray) -> bool:
    return bool(0.30 < position[0] < 0.50 and 0.20 < abs(position[1]) < 0.38 and position[2] < 0.05)


def action_towards(command: Command, target: Pose, scale: ActionScale) -> FloatArray:
    """The 7-DoF action (7,) in [-1, 1] that leads the commanded pose to the operator's hand in one 7.5 Hz step."""
    delta = np.clip(difference(target, command.pose, scale), -1.0, 1.0)
    return np.append(delta, command.gripper)


@dataclass(frozen=True)
class Step:
    """One 7.5 Hz step: what was seen, what was then done, and what it is part of."""

    observation: Observation
    action: FloatArray
    """(7,) as executed."""
    task: str
    """What the operator was trying; "" while it wanders."""
    success: bool
    """After the action: the oracle of ``task`` holds since the attempt began."""
    attempt: int = 0
    """Counts the attempts of a stretch of play."""
    hand: tuple[Command, ...] = ()
    """What the operator's hand did in the step's 30 Hz frames."""
    asked: FloatArray = field(default_factory=lambda: np.zeros(ACTION_DIM))
    """(7,) the action that the hand asked for."""


def play(env: PlayroomEnv, seed: int) -> Iterator[Step]:
    """Endless play in the environment, every step one 7.5 Hz frame (task-agnostic, with near misses on purpose)."""
    observation, _ = env.reset(seed=seed, options={"task": ""})
    rng = np.random.default_rng(seed)
    player = Player(env.playroom.tool_pose(), rng)
    while True:
        tool, scene = env.playroom.tool_pose(), env.scene_state()
        hand = tuple(player.move(tool, scene) for _ in range(FRAMES_PER_STEP))
        attempt = player.attempt
        assert attempt is not None
        seen, asked = observation, action_towards(hand[-1], env.target, env.config.scale)
        observation, *_, info = env.step(asked)
        done = bool(attempt.task) and is_done(attempt.task, attempt.before, env.scene_state())
        yield Step(seen, info["executed_action"], attempt.task, done, attempt.number, hand, asked)


def demonstrate(env: PlayroomEnv, task: str, skill: float, seed: int, habit: Habit = Habit()) -> Iterator[Step]:
    """One demonstration, up to the step at which the oracle sees success, the plan ends or the episode times out.

    The last step's ``success`` tells whether it worked; keep the failed ones too, the world model learns from them.
    """
    observation, _ = env.reset(seed=seed, options={"task": task})
    rng = np.random.default_rng(seed)
    demonstrator = Demonstrator(task, skill, env.playroom.tool_pose(), env.scene_state(), rng, habit)
    ended = False
    while not ended:
        tool = env.playroom.tool_pose()
        hand = tuple(demonstrator.move(tool) for _ in range(FRAMES_PER_STEP))
        seen, asked = observation, action_towards(hand[-1], env.target, env.config.scale)
        observation, _, terminated, truncated, info = env.step(asked)
        ended = terminated or truncated or demonstrator.finished
        yield Step(seen, info["executed_action"], task, bool(info["success"]), hand=hand, asked=asked)
