"""Training the reward classifier: which frames are success, and what is learned from them (S.2.3, Table S.4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diwa_conventions.errors import UserError
from diwa_policy.config import RewardConfig
from diwa_policy.demonstrations import Attempt
from diwa_policy.reward import RewardClassifier, reward_loss
from diwa_worldmodel.rssm import RSSM, State
from diwa_worldmodel.world_model import quantise_gripper

DREAMED_ANEW = 5
"""Epochs between two draws of dreamed latents; drawing them at every one took half of the time and changed nothing."""


class Labelled(NamedTuple):
    """Frames and whether they are success."""

    latents: Tensor
    """(M, s)"""
    labels: Tensor
    """(M,) float 0 or 1."""


def frame_labels(attempt: Attempt, config: RewardConfig) -> Tensor:
    """(T,) 1 success, 0 not, -1 nobody can tell: the frames just before a success."""
    labels = torch.zeros(attempt.frames)
    if attempt.success:
        labels[-config.positive_frames - config.margin_frames :] = -1.0
        labels[-config.positive_frames :] = 1.0
    return labels


def posterior_frames(attempts: Sequence[Attempt], config: RewardConfig) -> Labelled:
    """What the filter saw."""
    latents = torch.cat([attempt.latents for attempt in attempts])
    return _told(latents, torch.cat([frame_labels(attempt, config) for attempt in attempts]))


def _told(latents: Tensor, labels: Tensor) -> Labelled:
    """Without the frames of which nobody can tell."""
    return Labelled(latents[labels >= 0.0], labels[labels >= 0.0])


@torch.no_grad()
def dreamed_frames(
    attempts: Sequence[Attempt], config: RewardConfig, rssm: RSSM, steps: int, generator: torch.Generator
) -> list[Labelled]:
    """The same frames as dreams of 1, 2, ... ``steps`` steps end in them (learnability.md): one for each number.

    A dream begins at every frame of every attempt and follows the recorded actions as long as the attempt goes on.
    """
    dynamics = rssm.frozen()
    labels = torch.cat([frame_labels(attempt, config) for attempt in attempts])
    actions = quantise_gripper(torch.cat([attempt.actions for attempt in attempts]))
    left = torch.cat([torch.arange(attempt.frames - 1, -1, -1) for attempt in attempts])
    latents = torch.cat([attempt.latents for attempt in attempts])
    state = State(latents[:, : rssm.deterministic], latents[:, rssm.deterministic :])
    begin, found = torch.arange(len(labels)), []
    for ahead in range(1, min(steps, int(left.max())) + 1):
        goes_on = left[begin] >= ahead
        begin, state = begin[goes_on], State(*(part[goes_on] for part in state))
        uniforms = torch.rand(len(begin), rssm.discrete, generator=generator)
        state, _ = dynamics.imagine_step(state, actions[begin + ahead - 1], uniforms)
        found.append(_told(state.latent, labels[begin + ahead]))
    return found


def together(parts: Iterable[Labelled]) -> Labelled:
    """All frames of all parts."""
    return Labelled(*(torch.cat(part) for part in zip(*parts, strict=True)))


def check_labels(attempts: Sequence[Attempt], config: RewardConfig, where: str) -> None:
    """UserError unless there is both to learn from: frames of success and others."""
    labels = posterior_frames(attempts, config).labels if attempts else torch.zeros(0)
    if not (labels > 0.5).any():
        raise UserError(f"no positives: none of the {len(attempts)} attempts {where} succeeded; demonstrate more")
    if not (labels < 0.5).any():
        nearest = config.positive_frames + config.margin_frames
        raise UserError(
            f"no negatives: all attempts {where} are successes of at most {nearest} frames, which is what "
            "reward.positive_frames and reward.margin_frames take off; lower these, or record attempts from their "
            "beginning, failed ones too"
        )


def train_classifier(
    attempts: Sequence[Attempt],
    config: RewardConfig,
    rssm: RSSM,
    report: Callable[[int, float], None] = lambda epoch, loss: None,
) -> RewardClassifier:
    """A classifier trained on all attempts given. ``report`` hears of every epoch. UserError if the loss diverges."""
    generator = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        classifier = RewardClassifier(config, attempts[0].latents.shape[1])
    optimiser = torch.optim.AdamW(
        classifier.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    data = seen = posterior_frames(attempts, config)
    for epoch in range(config.epochs):
        if config.dreamed_steps and epoch % DREAMED_ANEW == 0:
            data = together([seen, *dreamed_frames(attempts, config, rssm, config.dreamed_steps, generator)])
        losses = []
        for rows in torch.split(torch.randperm(len(data.labels), generator=generator), config.batch):
            loss = reward_loss(classifier(data.latents[rows]), data.labels[rows], config)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            losses.append(loss.detach())
        mean = float(torch.stack(losses).mean())
        if not math.isfinite(mean):
            raise UserError(
                f"the classifier's loss is {mean} in epoch {epoch + 1}; lower reward.learning_rate, which is "
                f"{config.learning_rate:g}"
            )
        report(epoch + 1, mean)
    return classifier.eval()


def fit_probabilities(classifier: RewardClassifier, frames: Labelled) -> None:
    """Make the classifier's probabilities those of these frames, by Platt's scaling (1999): logit to a * logit + b.

    Training weighs both classes alike and takes itself for surer than it is; on frames that it has not learned from, a
    and b are fitted and put into the last layer's weights. a > 0, so that the order of frames stays.
    """
    with torch.no_grad():
        logits = classifier(frames.latents).logit.double()
    count, positives = len(frames.labels), float(frames.labels.sum())
    # Platt's targets: frames that can be told apart without a mistake would ask for an infinite slope.
    targets = torch.where(
        frames.labels > 0.5, (positives + 1.0) / (positives + 2.0), 1.0 / (count - positives + 2.0)
    ).double()
    line = torch.zeros(2, dtype=torch.float64, requires_grad=True)  # log a, b
    optimiser = torch.optim.LBFGS([line], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        entropy = F.binary_cross_entropy_with_logits(line[0].exp() * logits + line[1], targets)
        entropy.backward()  # type: ignore[no-untyped-call]
        return entropy

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    last = classifier.classify[-1]
    assert isinstance(last, nn.Linear)
    slope, shift = line.detach().tolist()
    with torch.no_grad():
        last.weight.mul_(math.exp(slope))
        last.bias.mul_(math.exp(slope)).add_(shift)
