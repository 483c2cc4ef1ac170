"""The Dream Diffusion MDP (paper III-D, Algorithm 1): denoising and the world model's prior as one decision process.

A decision takes K denoising steps from noise to a chunk; the chunk's first T_a actions drive the world model through
its prior, a frame each, and the classifier scores every frame. Reward comes with the last denoising step alone. No
image is decoded, no environment is touched.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from diwa_conventions.actions import ACTION_DIM
from diwa_conventions.errors import UserError
from diwa_policy.reward import RewardClassifier
from diwa_worldmodel.rssm import State, entropy
from diwa_worldmodel.world_model import WorldModel, quantise_gripper


class Outcome(NamedTuple):
    """What a decision of N dreams led to."""

    latents: Tensor
    """(N, s) behind the last action."""
    reward: Tensor
    """(N,) of the T_a frames, discounted within the chunk (method.md 6)."""
    terminated: Tensor
    """(N,) bool: success ended the dream (``threshold`` mode)."""
    probability: Tensor
    """(N, T_a) the classifier's, of each frame."""
    prior_entropy: Tensor
    """(N, T_a) [nat]: how unsure the world model was of each frame."""


@dataclass(frozen=True)
class DreamRules:
    """How dreams pay; see FineTuningConfig."""

    gamma: float
    reward: str
    uncertainty_penalty: float = 0.0
    usual_entropy: float = 0.0
    """Prior entropy [nat] of recordings, below which nothing is taken off."""


class DreamDiffusionMDP:
    """N dreams side by side, by world model and classifier as they are now. Draws come from ``generator`` alone.

    ``kind``: what their matrices are multiplied as; bfloat16 is faster on CPUs and GPUs that have it.
    """

    def __init__(
        self,
        world_model: WorldModel,
        classifier: RewardClassifier,
        rules: DreamRules,
        generator: torch.Generator,
        kind: torch.dtype = torch.float32,
    ) -> None:
        self.dynamics = world_model.rssm.frozen(kind)
        self.classifier = copy.deepcopy(classifier).requires_grad_(False).to(kind)
        self.threshold = float(classifier.threshold)
        self.rules, self.generator, self.kind = rules, generator, kind

    def state(self, latents: Tensor) -> State:
        """Where a dream goes on from, of latents (N, s)."""
        return State(latents[:, : self.dynamics.deterministic], latents[:, self.dynamics.deterministic :])

    @torch.no_grad()
    def decide(self, latents: Tensor, chunks: Tensor, executed: int) -> Outcome:
        """Execute the first ``executed`` actions of chunks (N, T_p x 7) from latents (N, s).

        UserError where a reward is not a number.
        """
        state = self.state(latents)
        actions = torch.unflatten(chunks.clamp(-1.0, 1.0), -1, (-1, ACTION_DIM))[:, :executed]
        seen, priors = [], []
        for action in quantise_gripper(actions).unbind(1):
            uniforms = torch.rand(
                len(latents), self.dynamics.discrete, generator=self.generator, device=self.generator.device
            )
            state, logits = self.dynamics.imagine_step(state, action, uniforms)
            seen.append(state.latent)
            priors.append(logits)
        prior_entropy = entropy(torch.stack(priors, dim=1))
        probability = torch.sigmoid(self.classifier(torch.stack(seen, dim=1).to(self.kind)).logit.float())
        reward, terminated = rewards(probability, prior_entropy, self.threshold, self.rules)
        _check_finite(reward, {"action": actions, "prior entropy": prior_entropy, "probability": probability})
        return Outcome(seen[-1], reward, terminated, probability, prior_entropy)


def rewards(probability: Tensor, prior_entropy: Tensor, threshold: float, rules: DreamRules) -> tuple[Tensor, Tensor]:
    """A decision's reward (N,), and whether it ended the dream (N,), from its frames (N, T_a) (method.md 6, 7).

    Frame i counts gamma ** (i / T_a). Where success ends a dream, what lies behind it in the chunk does not count.
    """
    frames = probability.shape[1]
    discount = rules.gamma ** (torch.arange(frames, device=probability.device) / frames)
    penalty = rules.uncertainty_penalty * (prior_entropy - rules.usual_entropy).clamp(min=0.0)
    if rules.reward == "probability":
        terminated = torch.zeros(len(probability), dtype=torch.bool, device=probability.device)
        return ((probability - penalty) * discount).sum(dim=1), terminated
    success = probability > threshold
    before = success.cumsum(dim=1) - success.long()
    paid = (success.float() - penalty) * (before == 0)
    return (paid * discount).sum(dim=1), success.any(dim=1)


_AT_FAULT = {
    "action": "the policy has diverged: lower fine_tuning.actor_learning_rate",
    "prior entropy": "the world model has diverged: look at it with diwa evaluate world-model, or train it anew",
    "probability": "the reward classifier has diverged: train it anew with diwa reward",
}


def _check_finite(reward: Tensor, parts: dict[str, Tensor]) -> None:
    if torch.isfinite(reward).all():
        return
    dream = int(torch.isfinite(reward).logical_not().nonzero()[0])
    for name, values in parts.items():
        odd = values[dream][torch.isfinite(values[dream]).logical_not()]
        if len(odd):
            raise UserError(
                f"the reward of dream {dream} is {float(reward[dream])}, for its {name} is {float(odd[0])}; "
                f"{_AT_FAULT[name]}"
            )
