"""The reward classifier: is this latent a success of the skill? (paper S.2.3, Table S.4)"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diwa_policy.config import RewardConfig
from diwa_policy.networks import mlp


class Scores(NamedTuple):
    """What the classifier makes of latents."""

    logit: Tensor
    """(...) above 0: rather a success."""
    embedding: Tensor
    """(..., E)"""


class RewardClassifier(nn.Module):
    """Embedding MLP, then classification MLP. ``threshold`` is the probability from which on a frame is a success."""

    threshold: Tensor

    def __init__(self, config: RewardConfig, latent: int) -> None:
        super().__init__()
        *hidden, embedding = config.embedding_mlp
        self.embed = mlp(latent, hidden, embedding, nn.ReLU)
        self.classify = mlp(embedding, config.classification_mlp, 1, nn.ReLU)
        self.register_buffer("threshold", torch.tensor(0.5))

    def forward(self, latents: Tensor) -> Scores:
        """Latents (..., s)."""
        embedding = self.embed(latents)
        return Scores(self.classify(F.relu(embedding)).squeeze(-1), embedding)

    def probability(self, latents: Tensor) -> Tensor:
        """C(s) (...) of latents (..., s)."""
        return torch.sigmoid(self(latents).logit)


def nt_xent(embeddings: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Supervised NT-Xent: embeddings (B, E) of one label attract each other (S.2.3).

    Mean over the samples that have a partner of their label; 0 if none has.
    """
    unit = F.normalize(embeddings, dim=-1)
    own = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    # The smallest number instead of -inf: alone in a batch, a sample must not have the gradient of -inf less -inf.
    similar = (unit @ unit.T / temperature).masked_fill(own, torch.finfo(unit.dtype).min)
    log_probability = similar - similar.logsumexp(dim=-1, keepdim=True)
    partner = (labels[:, None] == labels[None, :]) & ~own
    count = partner.sum(dim=-1)
    summed = log_probability.masked_fill(~partner, 0.0).sum(dim=-1)
    return -(summed / count.clamp(min=1))[count > 0].sum() / (count > 0).sum().clamp(min=1)


def reward_loss(scores: Scores, labels: Tensor, config: RewardConfig) -> Tensor:
    """Cross-entropy, both classes alike however rare, and NT-Xent (Eq. 14); labels (B,) of 0 and 1."""
    count, positives = len(labels), labels.sum()
    share = torch.where(labels > 0.5, positives, count - positives)
    weight = 0.5 * count / share
    entropy = F.binary_cross_entropy_with_logits(scores.logit, labels, weight=weight)
    return entropy + config.contrastive_coefficient * nt_xent(scores.embedding, labels, config.temperature)
