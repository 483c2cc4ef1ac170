"""A policy as a chain: from noise, through K Gaussian steps, to a chunk of actions (paper III-B, III-D).

    a^K ~ N(0, I);   a^{k-1} ~ N(mean(a^k, k, s), std(k)^2)   for k = K ... 1;   a^0 is the chunk

A diffusion policy has K denoising steps, a Gaussian policy one, so that pre-training, dreams and PPO are the same for
both. Fine-tuning changes a copy of the network that serves the last K' steps alone; the steps before stay bit-equal.
All noise comes from the caller. Only :meth:`Policy.act` may take the shorter way of DDIM: chains are always whole.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn

from diwa_policy.config import PolicyConfig
from diwa_policy.diffusion import Denoiser, DiffusionSchedule, ddim
from diwa_policy.gaussian import GaussianHead, log_density

NetworkKind = Denoiser | GaussianHead


class Step(NamedTuple):
    """The distribution of one step of the chain."""

    mean: Tensor
    """(..., C)"""
    std: Tensor
    """Broadcasts against the mean; 0 where the step is not random."""


class Policy(nn.Module):
    """Sizes: latent s, C = T_p x 7 numbers in a chunk, K steps, of which the last K' may be fine-tuned."""

    def __init__(self, config: PolicyConfig, latent: int, fine_tuned_steps: int = 0) -> None:
        super().__init__()
        self.config, self.latent, self.steps, self.chunk = config, latent, config.steps, config.chunk
        if config.kind == "diffusion":
            self.pretrained: NetworkKind = Denoiser(config, latent)
            self.schedule: DiffusionSchedule | None = DiffusionSchedule(config.denoising_steps)
        else:
            self.pretrained, self.schedule = GaussianHead(config, latent), None
        self.tuned: NetworkKind | None = None
        self.fine_tuned_steps = 0
        if fine_tuned_steps:
            self.begin_fine_tuning(fine_tuned_steps)

    def begin_fine_tuning(self, steps: int) -> NetworkKind:
        """A copy of the network for the last ``steps`` steps (at most K); the other one is frozen. The copy."""
        assert self.tuned is None, "a second time would forget what the first has learned"
        self.fine_tuned_steps = min(steps, self.steps)
        self.pretrained.requires_grad_(False)
        self.tuned = copy.deepcopy(self.pretrained).requires_grad_(True)
        return self.tuned

    def network(self, step: int) -> NetworkKind:
        """Which one serves step ``step``, from K down to 1."""
        return self.tuned if self.tuned is not None and step <= self.fine_tuned_steps else self.pretrained

    def served(self, latents: Tensor, steps: Iterable[int]) -> Iterator[tuple[int, NetworkKind, Tensor]]:
        """Each of ``steps``, downwards, with its network and what that makes of the latents, computed once for each."""
        for network, own in groupby(steps, key=self.network):
            condition = network.condition(latents)
            for step in own:
                yield step, network, condition

    def step(self, network: NetworkKind, condition: Tensor, noisy: Tensor, step: Tensor | int, floor: float) -> Step:
        """p(a^{k-1} | a^k, s) with a standard deviation of at least ``floor``.

        ``condition`` (..., H) from ``network.condition(latents)``, ``noisy`` a^k (..., C), ``step`` k (...) or one for
        all.
        """
        if self.schedule is None:
            assert isinstance(network, GaussianHead)
            mean, std = network(condition)
        else:
            assert isinstance(network, Denoiser)
            steps = torch.as_tensor(step, device=noisy.device)
            mean, std = self.schedule.posterior(noisy, network(condition, noisy, steps), steps)
        return Step(mean, std.clamp(min=floor))

    def sample(self, latents: Tensor, noise: Tensor, floor: float = 0.0) -> Tensor:
        """Chains (B, K + 1, C), a^K first, from latents (B, s) and standard normal noise (B, K + 1, C)."""
        noisy = noise[:, 0]
        chain = [noisy]
        for number, (k, network, condition) in enumerate(self.served(latents, range(self.steps, 0, -1)), start=1):
            mean, std = self.step(network, condition, noisy, k, floor)
            noisy = mean + std * noise[:, number]
            chain.append(noisy)
        return torch.stack(chain, dim=1)

    @torch.no_grad()
    def act(self, latents: Tensor, noise: Tensor, floor: float = 0.0) -> Tensor:
        """Chunks (B, T_p, 7) in [-1, 1], the gripper not yet quantised; latents and noise as in :meth:`sample`.

        Drawn as ``config.sampler`` says: DDIM uses the first of the noise alone, and no ``floor``.
        """
        if self.schedule is not None and self.config.sampler == "ddim":
            chunk = ddim(self, latents, noise[:, 0], self.config.ddim_steps)
        else:
            chunk = self.sample(latents, noise, floor)[:, -1]
        return torch.unflatten(chunk.clamp(-1.0, 1.0), -1, (self.config.planned_actions, -1))


def log_likelihood(step: Step, values: Tensor) -> Tensor:
    """log p of values (..., C), summed over C: (...)."""
    return log_density(step.mean, step.std, values).sum(dim=-1)


def draw_noise(shape: tuple[int, ...], generator: torch.Generator, clip: float = 3.0) -> Tensor:
    """Standard normal numbers, clipped."""
    return torch.randn(shape, generator=generator, device=generator.device).clamp(-clip, clip)
