"""The Gaussian policy (paper S.5.3): a chunk in one step, behind the same interface as the diffusion policy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from diwa_policy.config import PolicyConfig
from diwa_policy.networks import hidden_layers

if TYPE_CHECKING:
    from diwa_policy.policy import Policy

_LOG_STD = (-4.0, 0.0)
"""Between these the logarithm of the standard deviation stays."""


class GaussianHead(nn.Module):
    """Mean in (-1, 1) by tanh, and a standard deviation of its own for each number of the chunk."""

    def __init__(self, config: PolicyConfig, latent: int) -> None:
        super().__init__()
        self.latent_layer = nn.Linear(latent, config.mlp[0])
        self.hidden = nn.Sequential(nn.SiLU(), hidden_layers(config.mlp))
        self.mean = nn.Linear(config.mlp[-1], config.chunk)
        self.log_std = nn.Parameter(torch.full((config.chunk,), -1.0))

    def condition(self, latents: Tensor) -> Tensor:
        """The first layer (..., H)."""
        part: Tensor = self.latent_layer(latents)
        return part

    def forward(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (..., C)."""
        mean = torch.tanh(self.mean(self.hidden(condition)))
        return mean, self.log_std.clamp(*_LOG_STD).exp().expand_as(mean)


def likelihood_loss(policy: Policy, latents: Tensor, chunks: Tensor) -> Tensor:
    """-log p of chunks (B, C) under latents (B, s), mean over C: (B,)."""
    head = policy.pretrained
    assert isinstance(head, GaussianHead)
    mean, std = head(head.condition(latents))
    return -log_density(mean, std, chunks).mean(dim=-1)


def log_density(mean: Tensor, std: Tensor, values: Tensor) -> Tensor:
    """log N(values; mean, std^2), number by number; all broadcast against each other."""
    return -0.5 * ((values - mean) / std).square() - std.log() - 0.5 * math.log(2.0 * math.pi)
