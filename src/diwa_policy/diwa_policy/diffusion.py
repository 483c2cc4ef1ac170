"""Denoising diffusion of action chunks (DDPM: Ho et al. 2020; cosine betas: Nichol and Dhariwal 2021; paper S.2.2)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diwa_policy.config import PolicyConfig
from diwa_policy.networks import hidden_layers

if TYPE_CHECKING:
    from diwa_policy.policy import Policy


class DiffusionSchedule(nn.Module):
    """alpha_bar of the cosine schedule, and the posterior that undoes a step. Steps k are counted from K down to 1."""

    alpha_bar: Tensor
    """(K + 1,): 1 at k = 0."""
    beta: Tensor
    """(K + 1,): 0 at k = 0."""

    def __init__(self, steps: int, offset: float = 0.008, largest_beta: float = 0.999) -> None:
        super().__init__()
        wave = [math.cos((k / steps + offset) / (1.0 + offset) * math.pi / 2.0) ** 2 for k in range(steps + 1)]
        beta = [0.0] + [min(1.0 - wave[k] / wave[k - 1], largest_beta) for k in range(1, steps + 1)]
        exact = torch.tensor(beta, dtype=torch.float64)
        self.register_buffer("beta", exact.float(), persistent=False)
        self.register_buffer("alpha_bar", torch.cumprod(1.0 - exact, dim=0).float(), persistent=False)

    def add_noise(self, clean: Tensor, noise: Tensor, step: Tensor) -> Tensor:
        """a^k (..., C) from a^0 (..., C), noise of the same shape and k (...)."""
        alpha_bar = self.alpha_bar[step].unsqueeze(-1)
        return alpha_bar.sqrt() * clean + (1.0 - alpha_bar).sqrt() * noise

    def clean(self, noisy: Tensor, noise: Tensor, step: Tensor) -> Tensor:
        """a^0 as the predicted noise tells it, clipped to [-1, 1] (method.md 15)."""
        alpha_bar = self.alpha_bar[step].unsqueeze(-1)
        return ((noisy - (1.0 - alpha_bar).sqrt() * noise) / alpha_bar.sqrt()).clamp(-1.0, 1.0)

    def posterior(self, noisy: Tensor, noise: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (..., C) and standard deviation (..., 1) of a^{k-1} from a^k and predicted noise (DDPM eq. 6, 7)."""
        alpha_bar, before = (self.alpha_bar[one].unsqueeze(-1) for one in (step, step - 1))
        beta = self.beta[step].unsqueeze(-1)
        clean = self.clean(noisy, noise, step)
        mean = before.sqrt() * beta * clean + (1.0 - beta).sqrt() * (1.0 - before) * noisy
        variance = beta * (1.0 - before) / (1.0 - alpha_bar)
        return mean / (1.0 - alpha_bar), variance.sqrt()


class Denoiser(nn.Module):
    """Predicts the noise in a chunk, from the latent and the step. What the latent adds is computed once per chunk."""

    def __init__(self, config: PolicyConfig, latent: int) -> None:
        super().__init__()
        self.step_embedding = nn.Embedding(config.denoising_steps, config.step_embedding)
        self.latent_layer = nn.Linear(latent, config.mlp[0])
        self.chunk_layer = nn.Linear(config.chunk + config.step_embedding, config.mlp[0], bias=False)
        self.hidden = hidden_layers(config.mlp)
        self.noise = nn.Linear(config.mlp[-1], config.chunk)

    def condition(self, latents: Tensor) -> Tensor:
        """The latent half of the first layer (..., H)."""
        part: Tensor = self.latent_layer(latents)
        return part

    def forward(self, condition: Tensor, noisy: Tensor, step: Tensor) -> Tensor:
        """The noise (..., C) in a^k (..., C) at step k (...)."""
        told = self.step_embedding(step - 1).expand(*noisy.shape[:-1], -1)
        first = condition + self.chunk_layer(torch.cat([noisy, told], dim=-1))
        noise: Tensor = self.noise(self.hidden(F.silu(first)))
        return noise


def denoising_loss(policy: Policy, latents: Tensor, chunks: Tensor, noise: Tensor, step: Tensor) -> Tensor:
    """Squared error of the predicted noise, one step per sample (Eq. 12 as DDPM simplifies it; method.md 14): (B,).

    ``latents`` (B, s), ``chunks`` (B, C), ``noise`` (B, C), ``step`` (B,) from 1 to K.
    """
    assert policy.schedule is not None and isinstance(policy.pretrained, Denoiser)
    noisy = policy.schedule.add_noise(chunks, noise, step)
    predicted = policy.pretrained(policy.pretrained.condition(latents), noisy, step)
    loss: Tensor = (predicted - noise).square().mean(dim=-1)
    return loss


def ddim(policy: Policy, latents: Tensor, noise: Tensor, steps: int) -> Tensor:
    """Chunks (B, C) in [-1, 1] from latents (B, s) and noise (B, C) by ``steps`` of the K steps, without randomness.

    Song et al. 2021, eq. 12 with sigma = 0: a^0 as the predicted noise tells it, noised again for the next step.
    """
    assert policy.schedule is not None
    alpha_bar = policy.schedule.alpha_bar
    visited = torch.linspace(policy.steps, 0, steps + 1).round().long().tolist()
    noisy = clean = noise
    for (k, network, condition), after in zip(policy.served(latents, visited[:-1]), visited[1:], strict=True):
        assert isinstance(network, Denoiser)
        step = torch.tensor(k, device=noise.device)
        clean = policy.schedule.clean(noisy, network(condition, noisy, step), step)
        implied = (noisy - alpha_bar[k].sqrt() * clean) / (1.0 - alpha_bar[k]).sqrt()
        noisy = alpha_bar[after].sqrt() * clean + (1.0 - alpha_bar[after]).sqrt() * implied
    return clean
