"""The playroom as a Gymnasium environment, ``diwa_sim/Playroom-v0``: 7-DoF delta actions at 7.5 Hz."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, TypeAlias, cast

import gymnasium
import numpy as np
import numpy.typing as npt

from diwa_conventions.actions import (
    ACTION_DIM,
    GRIPPER_INDEX,
    ActionScale,
    FloatArray,
    Pose,
    checked_action,
    difference,
    integrate,
    quantise_gripper,
    rotation_6d,
)
from diwa_conventions.errors import UserError
from diwa_conventions.images import ImageArray, area_resize
from diwa_conventions.rates import FRAMES_PER_STEP, TRAIN_RATE_HZ
from diwa_conventions.tasks import EPISODE_FRAMES, checked_task
from diwa_conventions.topics import CAMERA_SIZE_PX
from diwa_sim.cameras import CAMERAS, Cameras
from diwa_sim.playroom import MAX_LEAD_M, MAX_LEAD_RAD, Playroom
from diwa_sim.scene import Look
from diwa_sim.tasks import SCENE_STATE_DIM, SceneState, StartState, draw_start, is_done, tasks_done

Observation: TypeAlias = dict[str, npt.NDArray[Any]]

PROPRIO_DIM = 10
"""Position [m] (3), 6D rotation (6), gripper width [m] (1) (method.md 17)."""

_FAR = 10.0
"""Bound of the state observations [m, rad]: farther than anything in the room."""


def _corner(name: str, value: object) -> FloatArray:
    try:
        corner = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        corner = np.empty(0)
    if corner.shape != (3,) or not np.isfinite(corner).all():
        raise UserError(f"workspace {name} is {value!r}; expected three finite numbers")
    return corner


@dataclass(frozen=True)
class Workspace:
    """Box in the base frame that the commanded pose stays in [m]."""

    low_m: tuple[float, float, float] = (0.28, -0.42, 0.02)
    high_m: tuple[float, float, float] = (0.80, 0.42, 0.55)

    def __post_init__(self) -> None:
        low, high = (_corner(name, getattr(self, name)) for name in ("low_m", "high_m"))
        if not (low < high).all():
            raise UserError(f"workspace is {self.low_m} to {self.high_m}; expected low below high on every axis")


@dataclass(frozen=True)
class PlayroomConfig:
    """Everything that can be chosen about the environment."""

    task: str = ""
    """One of diwa_conventions.tasks.TASKS; empty: no goal, every object in a random state."""
    look: Look = "clear"
    camera_size_px: int = CAMERA_SIZE_PX
    """What the cameras render, as the real ones deliver it."""
    image_size_px: int = 64
    """What the observation holds, area-resized from the camera's image (method.md 19)."""
    images: bool = True
    """False leaves images out of the observation: physics only."""
    scale: ActionScale = field(default_factory=ActionScale)
    workspace: Workspace = field(default_factory=Workspace)
    max_episode_steps: int = EPISODE_FRAMES // FRAMES_PER_STEP

    def __post_init__(self) -> None:
        for name, kind in _KINDS.items():
            value = getattr(self, name)
            if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
                raise UserError(f"playroom setting {name} is {value!r}; expected {kind.__name__}")
        if self.task:
            checked_task(self.task)
        if not 8 <= self.image_size_px <= self.camera_size_px:
            limit = f"camera_size_px={self.camera_size_px}"
            raise UserError(f"image_size_px is {self.image_size_px}; expected 8 to {limit}")
        if self.max_episode_steps < 1:
            raise UserError(f"max_episode_steps is {self.max_episode_steps}; expected at least 1")


_KINDS: dict[str, type] = {
    "task": str,
    "look": str,
    "camera_size_px": int,
    "image_size_px": int,
    "images": bool,
    "scale": ActionScale,
    "workspace": Workspace,
    "max_episode_steps": int,
}


class PlayroomEnv(gymnasium.Env[Observation, npt.NDArray[np.float32]]):
    """One simulated Panda. Actions move the *commanded* pose, as the command guard does on the robot.

    Observations: ``static`` and ``gripper`` (S, S, 3) uint8, ``proprio`` (10,) float32, ``scene_state`` (12,) float32.
    Reward 1 and termination once the task's oracle holds; truncation after ``max_episode_steps`` (90 = 12 s).
    ``info``: ``success``, ``tasks_done`` (every oracle that holds), ``executed_action`` (7,), the delta that was in
    fact commanded after the gripper was quantised and workspace and lead were bounded (method.md 5, 24); in [-1, 1].
    Errors: UserError that names the index for a misshapen, non-finite or out-of-range action, and for an unknown
    task or configuration key.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": TRAIN_RATE_HZ}

    def __init__(self, config: PlayroomConfig | None = None, render_mode: str | None = None, **overrides: Any) -> None:
        self.config = _override(config or PlayroomConfig(), overrides)
        if render_mode not in (None, "rgb_array"):
            raise UserError(f"render_mode is {render_mode!r}; expected None or 'rgb_array'")
        self.render_mode = render_mode
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (ACTION_DIM,), np.float32)
        self.observation_space = _observation_space(self.config)
        self.playroom = Playroom(self.config.look)
        self._cameras = Cameras(self.playroom, self.config.camera_size_px)
        self.after_frame: Callable[[], None] = lambda: None
        """Called after every 30 Hz frame of a step, by whoever films or watches."""
        self.after_reset: Callable[[], None] = lambda: None
        self._task = self.config.task
        self._target: Pose | None = None
        self._start: SceneState = self.playroom.scene_state()
        self._steps = 0

    @property
    def target(self) -> Pose:
        """The commanded pose. RuntimeError before the first reset."""
        if self._target is None:
            raise RuntimeError("the environment has no state yet; call reset() first")
        return self._target

    @property
    def task(self) -> str:
        return self._task

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """A random start of the task. Options: ``task`` (another one for this episode), ``start`` (a StartState)."""
        options = dict(options or {})
        task = options.pop("task", self.config.task)
        given: StartState | None = options.pop("start", None)
        if options:
            raise UserError(f"unknown reset option {sorted(options)[0]!r}; known options: start, task")
        if seed is not None and seed < 0:
            raise UserError(f"seed is {seed}; expected a whole number from 0")
        super().reset(seed=seed)
        start = given or draw_start(self.np_random, task)
        self._task = task
        self.playroom.reset(start)
        self._target = self.playroom.tool_pose()
        self._start = self.playroom.scene_state()
        self._steps = 0
        self.after_reset()
        return self._observe(self._start), self._info(self._start, np.zeros(ACTION_DIM))

    def step(self, action: npt.ArrayLike) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Execute one action (7,) in [-1, 1] over 1/7.5 s."""
        before = self.target
        checked = checked_action(action)
        checked[GRIPPER_INDEX] = quantise_gripper(checked[GRIPPER_INDEX])
        # A quarter of the action over each 30 Hz frame, as the guard spreads it.
        still = Pose(np.zeros(3), np.eye(3))
        quarter = integrate(still, checked, self.config.scale, fraction=1.0 / FRAMES_PER_STEP)
        for _ in range(FRAMES_PER_STEP):
            self._advance_frame(quarter, checked[GRIPPER_INDEX])
            self.after_frame()
        self._steps += 1
        delta = difference(before, self.target, self.config.scale)
        executed = np.append(np.clip(delta, -1.0, 1.0), checked[GRIPPER_INDEX])
        now = self.playroom.scene_state()
        info = self._info(now, executed)
        truncated = self._steps >= self.config.max_episode_steps
        return self._observe(now), float(info["success"]), bool(info["success"]), truncated, info

    def render(self) -> ImageArray | None:
        """Both views side by side (S, 2S, 3) uint8 at camera size."""
        if self.render_mode is None:
            return None
        return np.hstack([self._cameras.render("static"), self._cameras.render("gripper")])

    def image(self, camera: str) -> ImageArray:
        """What camera ``static`` or ``gripper`` sees now, as it delivers it: (S, S, 3) uint8."""
        return self._cameras.render(camera)

    def intrinsics(self, camera: str) -> FloatArray:
        """Pinhole matrix K (3, 3) [px] of the images of camera ``static`` or ``gripper``."""
        return self._cameras.intrinsics(camera)

    def scene_state(self) -> SceneState:
        return self.playroom.scene_state()

    def close(self) -> None:
        self._cameras.close()

    def _advance_frame(self, move: Pose, gripper: float) -> None:
        """Add the small move to the commanded pose and follow it for one 30 Hz frame.

        Where the arm lags too far behind already (it pushes against something), the command waits for it.
        """
        box, now, measured = self.config.workspace, self.target, self.playroom.tool_pose()
        wanted = Pose(np.clip(now.position + move.position, box.low_m, box.high_m), move.rotation @ now.rotation)
        waits = wanted.distance_m(measured) > max(MAX_LEAD_M, now.distance_m(measured))
        turns = wanted.angle_rad(measured) <= max(MAX_LEAD_RAD, now.angle_rad(measured))
        self._target = Pose(now.position if waits else wanted.position, wanted.rotation if turns else now.rotation)
        self.playroom.advance(self._target, gripper)

    def _observe(self, now: SceneState) -> Observation:
        pose = self.playroom.tool_pose()
        width = self.playroom.gripper_width_m()
        observation: Observation = {
            "proprio": np.concatenate([pose.position, rotation_6d(pose.rotation), [width]]).astype(np.float32),
            "scene_state": now.vector().astype(np.float32),
        }
        if self.config.images:
            for camera in CAMERAS:
                observation[camera] = area_resize(self._cameras.render(camera), self.config.image_size_px)
        return observation

    def _info(self, now: SceneState, executed: FloatArray) -> dict[str, Any]:
        success = bool(self._task) and is_done(self._task, self._start, now)
        return {"success": success, "tasks_done": tasks_done(self._start, now), "executed_action": executed}


def make_vector_env(num_envs: int, config: PlayroomConfig | None = None) -> gymnasium.vector.AsyncVectorEnv:
    """``num_envs`` playrooms, each in a process of its own (spawned: a rendering context does not survive a fork)."""
    if num_envs < 1:
        raise UserError(f"num_envs is {num_envs}; expected at least 1")
    return gymnasium.vector.AsyncVectorEnv([partial(PlayroomEnv, config)] * num_envs, context="spawn")


def _override(config: PlayroomConfig, overrides: dict[str, Any]) -> PlayroomConfig:
    known = {item.name for item in fields(config)}
    unknown = sorted(set(overrides) - known)
    if unknown:
        raise UserError(f"unknown playroom setting {unknown[0]!r}; known settings: {', '.join(sorted(known))}")
    return replace(config, **overrides)


def _observation_space(config: PlayroomConfig) -> gymnasium.Space[Observation]:
    space: dict[str, gymnasium.Space[Any]] = {
        "proprio": gymnasium.spaces.Box(-_FAR, _FAR, (PROPRIO_DIM,), np.float32),
        "scene_state": gymnasium.spaces.Box(-_FAR, _FAR, (SCENE_STATE_DIM,), np.float32),
    }
    if config.images:
        shape = (config.image_size_px, config.image_size_px, 3)
        space |= {name: gymnasium.spaces.Box(0, 255, shape, np.uint8) for name in CAMERAS}
    return cast("gymnasium.Space[Observation]", gymnasium.spaces.Dict(space))
