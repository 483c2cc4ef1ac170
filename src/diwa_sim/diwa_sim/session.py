"""A person at the controller, 30 times a second: arms the guard, holds the clutch, plays or demonstrates, lets go.

Knows no ROS: :mod:`diwa_sim.nodes.operator` tells it what comes in and publishes what it does. Times ``now_s`` are of
one steady clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np

from diwa_conventions.actions import GRIPPER_OPEN, Pose
from diwa_conventions.errors import UserError
from diwa_conventions.tasks import checked_task
from diwa_conventions.topics import JOY_ARM_BUTTON, JOY_DISARM_BUTTON, TELEOP_SOURCE
from diwa_sim.marks import AttemptMarks, Mark
from diwa_sim.operator import Command, Demonstrator, Player
from diwa_sim.tasks import SceneState, is_done

MODES = ("play", "demonstration")
STALE_S = 1.0
"""Who has said nothing for so long is gone."""
PULSE_FRAMES, PATIENCE_FRAMES = range(2, 5), 30
"""A button is pressed in these frames of each second until the guard has done what it asks for."""
ANSWER_S = 5.0
"""A reset that is not answered by then is asked for again."""
LEAVING_S = 3.0
"""Who has given all demonstrations waits so long for the guard to disarm and for marks to be answered."""


class GuardMode(IntEnum):
    """The states of diwa_msgs/GuardState."""

    DISARMED = 0
    ARMED = 1
    HOLDING = 2
    FAULT = 3


@dataclass(frozen=True)
class GuardSeen:
    """What the guard says."""

    mode: GuardMode
    source: str
    reason: str

    @property
    def armed(self) -> bool:
        return self.mode in (GuardMode.ARMED, GuardMode.HOLDING)

    @property
    def obeys(self) -> bool:
        """Whether it executes what the controller asks for."""
        return self.armed and self.source == TELEOP_SOURCE


@dataclass(frozen=True)
class SceneSeen:
    """What the operator sees of the scene."""

    stamp_ns: int
    state: SceneState
    success: bool
    """The oracle of the episode's task has held."""
    episode: int


@dataclass(frozen=True)
class Controls:
    """The controller in this frame."""

    hand: Command
    clutch: bool
    button: int | None = None
    """The one that is pressed, if any."""


@dataclass(frozen=True)
class SessionConfig:
    """What the operator is to do."""

    mode: Literal["play", "demonstration"] = "play"
    task: str = "open-drawer"
    """Of the demonstrations."""
    skill: float = 1.0
    """0 sloppy to 1 clean."""
    seed: int = 0
    """Of the first episode; each further one adds 1."""
    episodes: int = 1
    """Demonstrations to give; 0: endless."""
    rearm: bool = False
    """Arm again after the guard has disarmed; else wait until a person has armed it."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(f"parameter mode is {self.mode!r}; expected {' or '.join(MODES)}")
        checked_task(self.task)


class Buttons:
    """Presses a button for a moment, and again after a while, as long as it is wanted."""

    def __init__(self) -> None:
        self._wanted: int | None = None
        self._frames = 0

    def press(self, wanted: int | None) -> int | None:
        """The button that is down in this frame."""
        self._frames = self._frames + 1 if wanted == self._wanted else 0
        self._wanted = wanted
        return wanted if self._frames % PATIENCE_FRAMES in PULSE_FRAMES else None


class OperatorSession:
    """Tell it what is seen, call :meth:`frame` 30 times a second."""

    def __init__(self, config: SessionConfig) -> None:
        self.config = config
        self.waits_for = ""
        """What keeps the operator from moving the arm, in words; "" while nothing does."""
        self.outcomes: list[bool] = []
        """Of the demonstrations given."""
        self.marks: list[Mark] = []
        """To be handed to the recorder; whoever takes them clears the list."""
        self._tool: Pose | None = None
        self._tool_ns = -1
        self._tool_s = self._scene_s = self._guard_s = -math.inf
        self._scene: SceneSeen | None = None
        self._guard: GuardSeen | None = None
        self._buttons = Buttons()
        self._attempts = AttemptMarks()
        self._operator: Player | Demonstrator | None = None
        self._hand = Command(Pose(np.zeros(3), np.eye(3)), GRIPPER_OPEN)
        self._begun = 0
        self._episode = -1
        """In which the operator began."""
        self._reset_s = -math.inf
        self._new_episode: int | None = None
        self._new_episode_ns: int | None = None
        self._barred = False
        self._ended_s = math.inf

    # What is seen

    def on_pose(self, tool: Pose, stamp_ns: int, now_s: float) -> None:
        """The arm's measured pose."""
        self._tool, self._tool_ns, self._tool_s = tool, stamp_ns, now_s

    def on_scene(self, scene: SceneSeen, now_s: float) -> None:
        if self._new_episode_ns is None and scene.episode == self._new_episode:
            self._new_episode_ns = scene.stamp_ns
        self._scene, self._scene_s = scene, now_s
        if isinstance(self._operator, Player) and self._operator.attempt and scene.episode == self._episode:
            attempt = self._operator.attempt
            done = bool(attempt.task) and is_done(attempt.task, attempt.before, scene.state)
            self.marks += self._attempts.see(attempt.number, attempt.task, done, scene.stamp_ns)

    def on_guard(self, guard: GuardSeen, now_s: float) -> None:
        self._guard, self._guard_s = guard, now_s

    def reset_wanted(self, now_s: float) -> int | None:
        """The seed of a new episode, when the playroom is to be reset now; ask again at every frame."""
        if not self._resetting or self._new_episode is not None or now_s - self._reset_s < ANSWER_S:
            return None
        self._reset_s = now_s
        return self.config.seed + len(self.outcomes)

    def on_reset(self, episode: int) -> None:
        """The playroom has begun this episode."""
        self._new_episode = episode

    # What is done

    @property
    def moving(self) -> bool:
        """Whether the hand moves the arm."""
        return self._operator is not None

    def finished(self, now_s: float, answered: bool) -> bool:
        """All demonstrations are given; the guard is disarmed and the marks are ``answered``, or it takes too long."""
        if not self._all_given:
            return False
        disarmed = self._guard is not None and not self._guard.armed
        return (disarmed and answered) or now_s - self._ended_s > LEAVING_S

    def frame(self, now_s: float) -> Controls | None:
        """The controller in the next 1/30 s; None before the arm has ever been seen."""
        self.waits_for, button = self._hindrance(now_s)
        pressed = self._buttons.press(button)
        if self._tool is None:
            return None
        if self.waits_for:
            self._let_go()
            self._hand = Command(self._tool, GRIPPER_OPEN)
            return Controls(self._hand, clutch=False, button=pressed)
        assert self._scene is not None
        if self._operator is None:
            self._begin(self._tool, self._scene)
            self._hand = Command(self._tool, GRIPPER_OPEN)
        elif self._guard is not None and self._guard.mode is GuardMode.ARMED:
            self._hand = self._move(self._operator, self._tool, self._scene, now_s)
        # While the guard holds, a person's hand does so too.
        return Controls(self._hand, clutch=True)

    def _hindrance(self, now_s: float) -> tuple[str, int | None]:
        """What keeps the operator from moving the arm, and the button that may help."""
        guard = self._guard
        if self._tool is None or self._scene is None or now_s - min(self._tool_s, self._scene_s) > STALE_S:
            return "a playroom", None
        if guard is None or now_s - self._guard_s > STALE_S:
            return "a command guard", None
        if self._all_given:
            return "the guard to disarm", JOY_DISARM_BUTTON if guard.armed else None
        if self._operator is not None:
            return self._interruption(guard, self._scene), None
        if guard.mode is GuardMode.FAULT:
            return f"a person: mend what made the guard stop ({guard.reason}), then: diwa guard recover", None
        if self._wants_new_episode():
            return ("the guard to disarm", JOY_DISARM_BUTTON) if guard.armed else ("a new episode", None)
        if guard.obeys:
            self._barred = False
            return "", None
        if guard.armed:
            return f"the guard, which is armed for {guard.source}", None
        if self._barred:
            return f"a person to arm the guard again ({guard.reason}): diwa guard arm", None
        return "the guard to arm", JOY_ARM_BUTTON

    def _interruption(self, guard: GuardSeen, scene: SceneSeen) -> str:
        """What ends an attempt early."""
        if not guard.obeys:
            self._barred = not self.config.rearm
            return f"the guard, which is {guard.mode.name.lower()} ({guard.reason})"
        return "a look at the scene, which was reset" if scene.episode != self._episode else ""

    def _wants_new_episode(self) -> bool:
        if self.config.mode == "play":
            return False
        return self._new_episode_ns is None or self._tool_ns < self._new_episode_ns

    @property
    def _resetting(self) -> bool:
        return self.waits_for == "a new episode"

    @property
    def _all_given(self) -> bool:
        return 0 < self.config.episodes <= len(self.outcomes)

    def _begin(self, tool: Pose, scene: SceneSeen) -> None:
        config = self.config
        self._episode = scene.episode
        if config.mode == "play":
            self._operator = Player(tool, np.random.default_rng(config.seed + self._begun))
        else:
            rng = np.random.default_rng(config.seed + len(self.outcomes))
            self._operator = Demonstrator(config.task, config.skill, tool, scene.state, rng)
        self._begun += 1

    def _move(self, operator: Player | Demonstrator, tool: Pose, scene: SceneSeen, now_s: float) -> Command:
        if isinstance(operator, Player):
            return operator.move(tool, scene.state)
        command = operator.move(tool)
        if scene.success or operator.finished:
            self.marks.append(Mark(self.config.task, scene.success, scene.stamp_ns))
            self.outcomes.append(scene.success)
            self._ended_s = now_s
            self._let_go()
        return command

    def _let_go(self) -> None:
        """Whatever was begun is over; a demonstration begins with a new episode."""
        if self._operator is None:
            return
        self._operator = None
        self._attempts.forget()
        self._new_episode = self._new_episode_ns = None
        self._reset_s = -math.inf
