"""Behaviour cloning of demonstrations, on the filter's latents (paper S.2.2, Table S.3)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from diwa_conventions.actions import ACTION_DIM, GRIPPER_INDEX
from diwa_conventions.errors import UserError
from diwa_policy.config import PolicyConfig, PretrainingConfig
from diwa_policy.diffusion import denoising_loss
from diwa_policy.gaussian import likelihood_loss
from diwa_policy.policy import Policy, draw_noise

DRAWS = 8
"""Of noise for each held-out frame: a single one says little of so few frames."""


class Epoch(NamedTuple):
    """How far pre-training is."""

    number: int
    """Epochs done."""
    step: int
    """Gradient steps done."""
    loss: float
    """Mean over the epoch."""
    learning_rate: float
    policy: Policy
    """The averaged weights as they are now; not to be changed."""


class ImitationError(NamedTuple):
    """How far a policy is from demonstrations it has not seen; they differ among themselves, so 0 is not the aim."""

    motion: float
    """Root mean square over the six components of motion, in their units of [-1, 1]."""
    gripper: float
    """Share of actions with the other gripper command."""


def imitation_loss(policy: Policy, latents: Tensor, chunks: Tensor, generator: torch.Generator) -> Tensor:
    """Mean over a batch: of the noise's squared error (Eq. 12), or of -log p for a Gaussian policy."""
    if policy.schedule is None:
        return likelihood_loss(policy, latents, chunks).mean()
    noise = torch.randn(chunks.shape, generator=generator)
    step = torch.randint(1, policy.steps + 1, (len(chunks),), generator=generator)
    return denoising_loss(policy, latents, chunks, noise, step).mean()


def imitation_error(policy: Policy, latents: Tensor, chunks: Tensor, generator: torch.Generator) -> ImitationError:
    """Of what the policy does in latents (M, s) on average over DRAWS chunks, against demonstrated chunks (M, C).

    On average, for what it draws varies as demonstrations do, which is no error.
    """
    noise = draw_noise((DRAWS * len(latents), policy.steps + 1, policy.chunk), generator)
    acted = policy.act(latents.repeat(DRAWS, 1), noise)
    return difference(torch.unflatten(acted, 0, (DRAWS, -1)), chunks)


def difference(acted: Tensor, chunks: Tensor) -> ImitationError:
    """Of draws of actions (D, M, T_p, 7) from chunks (M, T_p x 7)."""
    wanted = torch.unflatten(chunks, -1, (-1, ACTION_DIM))
    motion = (acted.mean(dim=0) - wanted)[..., :GRIPPER_INDEX].square().mean().sqrt()
    opens, should_open = acted[..., GRIPPER_INDEX] >= 0.0, wanted[..., GRIPPER_INDEX] >= 0.0
    return ImitationError(float(motion), float((opens != should_open).float().mean()))


def pretrain(
    config: PolicyConfig,
    training: PretrainingConfig,
    latents: Tensor,
    chunks: Tensor,
    report: Callable[[Epoch], None] = lambda epoch: None,
) -> Policy:
    """A policy trained on latents (M, s) and chunks (M, C): the averaged weights. ``report`` hears of every epoch.

    Until an average falls due its place is taken by the weights as they are, so that a short training counts.
    UserError if the loss is no finite number any more.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        policy = Policy(config, latents.shape[1])
    averaged = AveragedModel(policy, multi_avg_fn=get_ema_multi_avg_fn(training.ema_decay))  # type: ignore[no-untyped-call]
    average = averaged.module
    assert isinstance(average, Policy)
    optimiser = torch.optim.AdamW(
        policy.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay, fused=True
    )
    generator = torch.Generator().manual_seed(training.seed)
    step = 0
    for epoch in range(training.epochs):
        rate = _set_rate(optimiser, training, epoch)
        losses = []
        for rows in torch.split(torch.randperm(len(latents), generator=generator), training.batch):
            loss = imitation_loss(policy, latents[rows], chunks[rows], generator)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            losses.append(loss.detach())
            step += 1
            if epoch >= training.ema_start_epoch and step % training.ema_every == 0:
                averaged.update_parameters(policy)
        if int(averaged.n_averaged) == 0:  # none has fallen due
            average.load_state_dict(policy.state_dict())
        mean = float(torch.stack(losses).mean())
        if not math.isfinite(mean):
            raise UserError(
                f"the imitation loss is {mean} in epoch {epoch + 1}; lower pretraining.learning_rate, which is "
                f"{training.learning_rate:g}"
            )
        report(Epoch(epoch + 1, step, mean, rate, average))
    return average.eval()


def _set_rate(optimiser: torch.optim.Optimizer, training: PretrainingConfig, epoch: int) -> float:
    """Cosine from the first learning rate to the last; the one set."""
    share = 0.5 * (1.0 + math.cos(math.pi * epoch / training.epochs))
    rate = training.final_learning_rate + share * (training.learning_rate - training.final_learning_rate)
    for group in optimiser.param_groups:
        group["lr"] = rate
    return rate
