"""Dreams as a Gymnasium vector environment, so that any algorithm can learn in them.

    envs = gymnasium.make_vec(
        "diwa_policy.dream_env:diwa_policy/Dream-v0", num_envs=256, world_model=W, reward=R, demonstrations=D
    )
    latents, infos = envs.reset(seed=0)
    latents, rewards, terminations, truncations, infos = envs.step(chunks)

A step is a decision of the Dream Diffusion MDP without its denoising: an action, or a chunk of them, drives the world
model through its prior, and the classifier pays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from diwa_conventions.actions import ACTION_DIM
from diwa_conventions.errors import UserError
from diwa_policy.artefacts import check_lineage, load_reward
from diwa_policy.config import Preset, load_config
from diwa_policy.demonstrations import load_demonstrations
from diwa_policy.dream import DreamDiffusionMDP, DreamRules
from diwa_policy.finetune.starts import find_starts
from diwa_worldmodel.artefact import load_world_model
from diwa_worldmodel.settings import from_words

Array: TypeAlias = "npt.NDArray[Any]"
DrawStarts: TypeAlias = Callable[[int, torch.Generator], Tensor]
"""So many latents (n, s) to begin at."""


class DreamVectorEnv(VectorEnv[Array, Array, Array]):
    """N dreams side by side. Observations: latents (N, s); actions (N, 7 n), n of them executed in a step.

    ``length``: steps after which a dream is truncated; it terminates where the rules say. Infos hold ``probability``
    (N, n) and ``prior_entropy`` (N, n) [nat]. A dream that has ended begins anew as ``autoreset_mode``
    says: in the next step, whose action is not executed, or at once, with the last latent in ``final_obs``.
    """

    def __init__(
        self,
        mdp: DreamDiffusionMDP,
        draw_starts: DrawStarts,
        num_envs: int,
        latent: int,
        length: int,
        actions: int = 1,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    ) -> None:
        self._mode = AutoresetMode(autoreset_mode)
        if self._mode is AutoresetMode.DISABLED:
            raise UserError("dreams begin anew by themselves; expected autoreset_mode NextStep or SameStep")
        self.metadata = {"autoreset_mode": self._mode, "render_modes": []}
        self.num_envs = num_envs
        # h lies between -1 and 1, z is one-hot.
        self.single_observation_space = gymnasium.spaces.Box(-1.0, 1.0, (latent,), np.float32)
        self.single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (actions * ACTION_DIM,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._mdp, self._draw_starts, self._length, self._actions = mdp, draw_starts, length, actions
        self._latents: Tensor | None = None
        self._steps = np.zeros(num_envs, np.int64)
        self._ended = np.zeros(num_envs, np.bool_)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """All dreams begin. The same seed gives the same dreams for the same actions."""
        super().reset(seed=seed)
        if seed is not None or self._latents is None:
            self._mdp.generator.manual_seed(int(self.np_random.integers(2**63)))
        self._latents = self._draw_starts(self.num_envs, self._mdp.generator)
        self._steps[:], self._ended[:] = 0, False
        return self._observations(), {}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """UserError where a reward is not a number; ResetNeeded before the first :meth:`reset`."""
        if self._latents is None:
            raise ResetNeeded("call reset before step")
        begins = self._ended.copy()
        chunks = torch.as_tensor(np.asarray(actions, np.float32), device=self._latents.device)
        outcome = self._mdp.decide(self._latents, chunks, self._actions)
        self._latents = outcome.latents
        self._steps += 1
        rewards = outcome.reward.double().cpu().numpy()
        terminations, truncations = outcome.terminated.cpu().numpy(), self._steps >= self._length
        told = {"probability": outcome.probability.cpu().numpy(), "prior_entropy": outcome.prior_entropy.cpu().numpy()}
        for values in (rewards, terminations, truncations):
            values[begins] = 0
        self._begin(begins)
        self._ended = terminations | truncations
        if self._mode is AutoresetMode.NEXT_STEP:
            infos = self._infos(told, ~begins)
        else:
            infos = self._infos(told, ~self._ended) | self._final_infos(told)
            self._begin(self._ended)
            self._ended = np.zeros_like(self._ended)
        return self._observations(), rewards, terminations, truncations, infos

    def _observations(self) -> Array:
        assert self._latents is not None
        # A copy: what is given away must not change with the next step.
        return np.array(self._latents.cpu().numpy())

    def _begin(self, which: Array) -> None:
        """Those of N dreams anew."""
        assert self._latents is not None
        if which.any():
            starts = self._draw_starts(int(which.sum()), self._mdp.generator)
            self._latents = self._latents.clone()
            self._latents[torch.as_tensor(which, device=self._latents.device)] = starts
            self._steps[which] = 0

    def _infos(self, told: dict[str, Array], known: Array) -> dict[str, Any]:
        """As Gymnasium has them: each with a mask of the environments it is known of."""
        infos: dict[str, Any] = {}
        for name, values in told.items():
            if known.any():
                infos[name] = np.where(known[:, None], values, np.zeros_like(values))
                infos[f"_{name}"] = known.copy()
        return infos

    def _final_infos(self, told: dict[str, Array]) -> dict[str, Any]:
        """The last latents and infos of dreams that have ended and begin anew at once."""
        infos: dict[str, Any] = {}
        observations = self._observations()
        for number in np.flatnonzero(self._ended):
            own = {name: values[number] for name, values in told.items()}
            infos = self._add_info(infos, {"final_obs": observations[number], "final_info": own}, int(number))
        return infos


def open_dreams(
    num_envs: int,
    world_model: Path,
    reward: Path,
    demonstrations: Path,
    preset: Preset = "paper",
    settings: Sequence[str] = (),
    chunked: bool = True,
    autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    device: str = "cpu",
) -> DreamVectorEnv:
    """Dreams from artefacts: the policy's T_a actions in a step, or one, as fine-tuning's ``settings`` have it.

    ``settings``: ``fine_tuning.reward=probability`` and the like. ``fine_tuning.decisions`` is the longest dream, also
    where a step is one action of them. UserError for an uncertainty penalty.
    """
    config = load_config(preset, from_words(settings))
    penalty = config.fine_tuning.uncertainty_penalty
    if penalty:
        raise UserError(
            f"fine_tuning.uncertainty_penalty is {penalty:g}; expected 0: it counts from the usual prior entropy of "
            "recordings, which diwa finetune alone measures; leave it out, and use prior_entropy of the infos"
        )
    model, classifier = load_world_model(world_model, device), load_reward(reward)
    check_lineage(model, classifier)
    attempts = load_demonstrations(model, demonstrations, classifier.metadata.skill).attempts
    starts = find_starts(attempts, config.policy.warmup_steps).to(torch.device(device))
    tuning, executed = config.fine_tuning, config.policy.executed_actions
    mdp = DreamDiffusionMDP(
        model.model,
        classifier.classifier.to(device),
        DreamRules(tuning.gamma, tuning.reward),
        torch.Generator(device),
    )
    return DreamVectorEnv(
        mdp,
        lambda count, generator: starts.draw(count, tuning.first_frame_share, generator),
        num_envs,
        classifier.metadata.latent,
        tuning.decisions * (1 if chunked else executed),
        executed if chunked else 1,
        autoreset_mode,
    )


gymnasium.register(id="diwa_policy/Dream-v0", vector_entry_point="diwa_policy.dream_env:open_dreams")
