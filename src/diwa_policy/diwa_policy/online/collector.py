"""Whole episodes from the environment as PPO takes dreams: a column is an episode, a row a decision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from diwa_policy.config import FineTuningConfig
from diwa_policy.evaluation.trial_pool import Job, TrialPool
from diwa_policy.evaluation.trials import Episode, Numbers, Trial
from diwa_policy.policy import Policy
from diwa_policy.ppo import Rollout, chain_log_probs, imitate

_FIRST_SEED = 2**31
"""Evaluations have smaller ones (:func:`~diwa_policy.evaluation.trials.episode_seed`)."""


@dataclass(frozen=True)
class Collected:
    """An iteration's episodes."""

    rollout: Rollout
    environment_steps: int
    success: float
    """Share of the episodes."""


def training_seeds(seed: int, iteration: int, count: int) -> list[int]:
    """Of an iteration's episodes; no evaluation has them."""
    words = np.random.SeedSequence((seed, iteration)).generate_state(count)
    return [_FIRST_SEED + int(word) % _FIRST_SEED for word in words]


def collect(
    pool: TrialPool,
    policy: Policy,
    seeds: Sequence[int],
    config: FineTuningConfig,
    generator: torch.Generator,
    stop: Callable[[], bool] = lambda: False,
) -> Collected | None:
    """An episode of each seed by the policy as it is now; None if ``stop()`` said so before all were done."""
    trials = [Trial(seed, config.sampling_std, config.noise_clip, keep="decisions") for seed in seeds]
    found = dict(pool.run([policy], [Job(0, trial) for trial in trials], stop))
    if len(found) < len(seeds):
        return None
    episodes = [found[number] for number in range(len(seeds))]
    return Collected(
        to_rollout(policy, episodes, config, generator),
        sum(one.frames for one in episodes),
        fmean(one.success for one in episodes),
    )


@torch.no_grad()
def to_rollout(
    policy: Policy, episodes: Sequence[Episode], config: FineTuningConfig, generator: torch.Generator
) -> Rollout:
    """(M, N, ...) of N episodes, M the decisions of the longest; shorter ones are filled up with what is not valid.

    An episode that was cut off goes on from its own last latent (method.md 8). ``probability`` is the environment's
    reward of each frame; no world model was asked for its ``prior_entropy``, which is zero.
    """
    decisions = [one.decisions for one in episodes if one.decisions is not None]
    assert len(decisions) == len(episodes)
    latents, chains, reward, last_latents = (_padded(parts) for parts in zip(*decisions, strict=True))
    count = torch.tensor([len(one.latents) for one in decisions])
    row = torch.arange(len(latents))[:, None]
    last, valid = row == count - 1, row < count
    flat = latents.flatten(0, 1), chains.flatten(0, 1)
    imitated = imitate(policy, flat[0], flat[1][:, 0], config, generator)
    log_probs = chain_log_probs(policy, *flat, config.log_prob_std)
    frames = reward.shape[-1]
    # Within the chunk as in dreams (method.md 6).
    discount = config.gamma ** (torch.arange(frames) / frames)
    return Rollout(
        latents=latents,
        chains=chains,
        imitated=torch.unflatten(imitated, 0, valid.shape),
        log_probs=torch.unflatten(log_probs, 0, valid.shape),
        reward=(reward * discount).sum(dim=-1),
        last_latents=last_latents,
        terminated=last & torch.tensor([one.terminated for one in episodes]),
        ended=last | ~valid,
        valid=valid,
        probability=reward,
        prior_entropy=torch.zeros_like(reward),
    )


def _padded(parts: Sequence[Numbers]) -> Tensor:
    """(M, N, ...) from N arrays of up to M rows each."""
    return torch.nn.utils.rnn.pad_sequence([torch.from_numpy(part) for part in parts])
