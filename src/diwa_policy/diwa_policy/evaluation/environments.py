"""Environments that policies can be tried in, by their word for ``--env``; they are Gymnasium's and come by name alone.

What is expected of one: actions (7,) in [-1, 1] at 7.5 Hz; reset option ``task``; observations ``static`` and
``gripper`` (S, S, 3) uint8, ``proprio`` (10,), ``scene_state`` (N,) for hybrid world models; ``info["success"]`` and
``info["executed_action"]`` (7,); both views side by side as ``rgb_array``.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium

from diwa_conventions.errors import UserError, unknown
from diwa_conventions.tasks import TASKS
from diwa_worldmodel.artefact import LoadedWorldModel
from diwa_worldmodel.settings import from_words


@dataclass(frozen=True)
class Environment:
    """One of :data:`ENVIRONMENTS`."""

    id: str
    """As gymnasium.make takes it."""
    tasks: tuple[str, ...]


ENVIRONMENTS = {"playroom": Environment("diwa_sim:diwa_sim/Playroom-v0", TASKS)}

_DECIDED = {
    "task": "the policy", "image_size_px": "the world model", "images": "the world model", "scale": "the world model",
    "render_mode": "this command",
}  # fmt: skip
"""Settings of environments that are not the user's to choose, and who decides them."""


@dataclass(frozen=True)
class World:
    """What a process needs to know to try policies out; goes to worker processes as it is."""

    world_model: Path
    world_model_hash: str
    environment: str
    """As gymnasium.make takes it."""
    task: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of the environment."""
    reward: Path | None = None
    """A classifier that also looks at every frame."""

    def make(self) -> gymnasium.Env[Any, Any]:
        """UserError where the environment is not installed or refuses its settings."""
        module, _, name = self.environment.rpartition(":")
        try:
            if module:
                importlib.import_module(module)
            # As keywords of gymnasium.make some, such as max_episode_steps, would not reach the environment.
            spec = copy.deepcopy(gymnasium.spec(name))
            spec.kwargs |= {**self.settings, "render_mode": "rgb_array"}
            return gymnasium.make(spec, disable_env_checker=True)
        except UserError:
            raise
        except (ModuleNotFoundError, gymnasium.error.UnregisteredEnv) as error:
            raise UserError(f"environment {self.environment} is not installed here ({error})") from None
        except (gymnasium.error.Error, ValueError, TypeError) as error:
            raise UserError(
                f"environment {self.environment} refuses its settings ({error}); change those of --env-set"
            ) from None


@dataclass(frozen=True)
class EnvironmentOptions:
    """Where policies are tried."""

    env: str = "playroom"
    """Name of the environment: playroom; ros: the real nodes (diwa evaluate policy --env ros --help)."""
    env_set: tuple[str, ...] = ()
    """Settings of the environment that differ from its defaults, e.g. look=hard max_episode_steps=120."""
    workers: int = 0
    """Processes that try policies side by side, each in an environment of its own; 0: one for each core."""

    def check(self, task: str) -> None:
        """UserError for an unknown environment or task, or a number out of range."""
        if self.env not in ENVIRONMENTS:
            raise unknown("environment", self.env, ENVIRONMENTS)
        if task not in ENVIRONMENTS[self.env].tasks:
            raise unknown("task", task, ENVIRONMENTS[self.env].tasks)
        if not 0 <= self.workers <= 1024:
            raise UserError(f"--workers is {self.workers}; expected 0 (one for each core) to 1024")

    def world(self, world_model: LoadedWorldModel, task: str, reward: Path | None = None) -> World:
        """Frames of the size and actions of the scale that the world model knows.

        UserError as for :meth:`check`, and for settings that the environment refuses: it is made once, so that this is
        known before anything is written.
        """
        self.check(task)
        asked = from_words(self.env_set)
        for name in asked:
            if name in _DECIDED:
                raise UserError(f"--env-set {name}={asked[name]}: {_DECIDED[name]} decides that; leave it out")
        if world_model.config.model.action_chunk != 1:
            raise UserError(
                f"{world_model.folder} takes {world_model.config.model.action_chunk} actions a step; policies act on "
                "world models that take one: train one with --set model.action_chunk=1"
            )
        known = {
            "image_size_px": world_model.config.model.image_size_px,
            "scale": world_model.metadata.data_set.scale,
        }
        settings = {**known, **asked}
        world = World(world_model.folder, world_model.hash, ENVIRONMENTS[self.env].id, task, settings, reward)
        world.make().close()
        return world
