"""Trials of a policy in an environment: whole episodes, as the policy would be served (method.md 24).

Every frame and every action in fact executed pass through the world model's latent filter; every T_a frames the policy
decides on the filter's latent. The same seed gives the same episode.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diwa_conventions.actions import ACTION_DIM, GRIPPER_INDEX, GRIPPER_OPEN
from diwa_conventions.errors import UserError
from diwa_conventions.rates import TRAIN_RATE_HZ
from diwa_policy.artefacts import load_reward
from diwa_policy.evaluation.environments import World
from diwa_policy.policy import Policy, draw_noise
from diwa_worldmodel.artefact import load_world_model
from diwa_worldmodel.latent_filter import FilterFrame, FilterOutput, LatentFilter

Observation: TypeAlias = Mapping[str, npt.NDArray[Any]]
Image: TypeAlias = "npt.NDArray[np.uint8]"
Numbers: TypeAlias = "npt.NDArray[np.float32]"

_SEEDS_IN_SET = 1_000_000
_STEP_NS = round(1e9 / TRAIN_RATE_HZ)
_STILL: npt.NDArray[np.float64] = np.eye(ACTION_DIM)[GRIPPER_INDEX] * GRIPPER_OPEN
"""No motion, gripper open, as it is at an episode's start."""


def episode_seed(episodes: int, number: int) -> int:
    """Of episode ``number`` in set ``episodes``, which decides its start and its noise, whatever the policy is."""
    if not 0 <= number < _SEEDS_IN_SET:
        raise ValueError(f"episode {number}; expected 0 to {_SEEDS_IN_SET - 1}")
    return episodes * _SEEDS_IN_SET + number


@dataclass(frozen=True)
class Trial:
    """An episode to be had."""

    seed: int
    sampling_std: float = 0.0
    """Smallest standard deviation of a denoising step; 0: as the policy is served."""
    noise_clip: float = 3.0
    keep: Literal["outcome", "decisions", "pictures"] = "outcome"
    """What is told beside the outcome: decisions to learn from, sampled step by step whatever the policy's sampler is;
    or pictures for a film."""


class Decisions(NamedTuple):
    """The D decisions of an episode, in turn."""

    latents: Numbers
    """(D, s) that were acted on."""
    chains: Numbers
    """(D, K' + 1, C): a^{K'} to a^0."""
    reward: Numbers
    """(D, T_a) of each frame; zero for those that the episode's end left out."""
    last_latents: Numbers
    """(D, s) behind the decision's last executed action."""


@dataclass(frozen=True)
class Episode:
    """What came of a trial."""

    seed: int
    success: bool
    terminated: bool
    """By the environment; otherwise it was cut off after the longest time."""
    frames: int
    """Actions executed, the still ones before the first decision included."""
    surprise: float | None
    """Mean one-step KL [nat] of the frames for which the filter was ready; None if there were none."""
    probability: float | None
    """The highest that the classifier, if there is one, gave a frame that an action led to."""
    decisions: Decisions | None = None
    pictures: tuple[Image, ...] = ()
    """Both views side by side, from the start to the end."""


class TrialRoom:
    """Environment, filter and classifier of one process."""

    def __init__(self, world: World) -> None:
        loaded = load_world_model(world.world_model)
        if loaded.hash != world.world_model_hash:
            raise UserError(f"{world.world_model} was replaced while it was used; start again")
        self.task, self.cameras = world.task, loaded.config.model.cameras
        self.filter = LatentFilter(loaded.model)
        self.classifier = load_reward(world.reward).classifier if world.reward else None
        self.environment = world.make()

    def run(self, policy: Policy, trial: Trial) -> Episode:
        """One episode, from its reset to termination or truncation."""
        return _Run(self, policy, trial).episode()

    def reset(self, seed: int) -> Observation:
        self.filter.reset()
        observation, _ = self.environment.reset(seed=seed, options={"task": self.task})
        return _checked(observation, self.cameras)

    def see(self, observation: Observation, frame: int, executed: npt.NDArray[Any] | None) -> FilterOutput:
        """Take in frame number ``frame`` of the episode and the action (7,) that led to it."""
        images = {name: observation[name][None] for name in self.cameras}
        scene_state = observation["scene_state"][None] if "scene_state" in observation else None
        stamp_ns = np.array([frame * _STEP_NS], np.int64)
        seen = FilterFrame(images, observation["proprio"][None], stamp_ns, scene_state)
        return self.filter.update(seen, None if executed is None else executed[None].astype(np.float32))

    def close(self) -> None:
        self.environment.close()


class _Run:
    """One episode under way."""

    def __init__(self, room: TrialRoom, policy: Policy, trial: Trial) -> None:
        self.room, self.policy, self.trial = room, policy, trial
        self.generator = torch.Generator().manual_seed(trial.seed)
        self.chunk: npt.NDArray[np.float64] = np.zeros((0, ACTION_DIM))
        self.at = 0
        self.surprise: list[float] = []
        self.probability: list[float] = []
        self.latents: list[Tensor] = []
        self.chains: list[Tensor] = []
        self.rewards: list[list[float]] = []
        self.last_latents: list[Tensor] = []
        self.pictures: list[Image] = []

    def episode(self) -> Episode:
        room, frame = self.room, 0
        output = room.see(room.reset(self.trial.seed), 0, None)
        self._look(output)
        while True:
            action = self._action(output, frame)
            observation, reward, terminated, truncated, info = room.environment.step(action)
            frame += 1
            output = room.see(observation, frame, info["executed_action"])
            self._look(output)
            if self.rewards:
                self.rewards[-1].append(float(reward))
            ended = terminated or truncated
            if self.rewards and (ended or self.at == self.policy.config.executed_actions):
                self.last_latents.append(output.latent[0])
            if ended:
                return self._outcome(bool(info["success"]), bool(terminated), frame)

    def _action(self, output: FilterOutput, frame: int) -> npt.NDArray[np.float64]:
        """The next of the chunk, of a new one where that is used up; still until the filter has warmed up."""
        config = self.policy.config
        if frame < config.warmup_steps:
            return _STILL
        if frame == config.warmup_steps or self.at == config.executed_actions:
            self._decide(output.latent)
        self.at += 1
        action: npt.NDArray[np.float64] = self.chunk[self.at - 1]
        return action

    @torch.inference_mode()
    def _decide(self, latent: Tensor) -> None:
        policy, trial = self.policy, self.trial
        noise = draw_noise((1, policy.steps + 1, policy.chunk), self.generator, trial.noise_clip)
        if trial.keep == "decisions":
            chain = policy.sample(latent, noise, trial.sampling_std)[0, -policy.fine_tuned_steps - 1 :]
            self.chains.append(chain)
            chunk = chain[-1].clamp(-1.0, 1.0).reshape(-1, ACTION_DIM)
        else:
            chunk = policy.act(latent, noise, trial.sampling_std)[0]
        self.chunk, self.at = chunk.double().numpy(), 0
        self.latents.append(latent[0])
        self.rewards.append([])

    @torch.inference_mode()
    def _look(self, output: FilterOutput) -> None:
        if output.ready[0]:
            self.surprise.append(float(output.surprise[0]))
        if self.room.classifier is not None and output.steps[0] > 0:
            self.probability.append(float(self.room.classifier.probability(output.latent[0])))
        if self.trial.keep == "pictures":
            self.pictures.append(np.asarray(self.room.environment.render(), dtype=np.uint8))

    def _outcome(self, success: bool, terminated: bool, frames: int) -> Episode:
        return Episode(
            seed=self.trial.seed,
            success=success,
            terminated=terminated,
            frames=frames,
            surprise=float(np.mean(self.surprise)) if self.surprise else None,
            probability=max(self.probability, default=None),
            decisions=self._decisions() if self.trial.keep == "decisions" else None,
            pictures=tuple(self.pictures),
        )

    def _decisions(self) -> Decisions:
        config = self.policy.config
        reward = np.zeros((len(self.rewards), config.executed_actions), np.float32)
        for row, paid in zip(reward, self.rewards, strict=True):
            row[: len(paid)] = paid
        if not self.latents:
            raise UserError(
                f"the episode of seed {self.trial.seed} ended before the policy's first decision, which comes after "
                f"{config.warmup_steps} still steps"
            )
        parts = (torch.stack(part).numpy() for part in (self.latents, self.chains, self.last_latents))
        latents, chains, last_latents = parts
        return Decisions(latents, chains, reward, last_latents)


def _checked(observation: Observation, cameras: tuple[str, ...]) -> Observation:
    missing = [name for name in (*cameras, "proprio") if name not in observation]
    if missing:
        raise UserError(
            f"the environment's observations hold {', '.join(observation)}; the world model needs {', '.join(missing)}"
        )
    return observation
