"""A film of what a fine-tuned policy dreams: ``RUN/dream.mp4``, both cameras decoded from the latents it acted on."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from diwa_conventions.film import FilmWriter, film_picture
from diwa_conventions.images import ImageArray
from diwa_conventions.rates import TRAIN_RATE_HZ
from diwa_policy.dream import DreamDiffusionMDP
from diwa_policy.policy import Policy, draw_noise
from diwa_worldmodel.world_model import WorldModel

DREAM_FILM = "dream.mp4"
STARTS = 15
"""Dreams, of which the one that is filmed is the median: neither the best nor the worst."""
_VIEW_PX = 200
_HOLD = 4
"""Frames for which the last picture stays."""


class FilmedDreams(NamedTuple):
    """N dreams of H frames."""

    latents: Tensor
    """(N, 1 + H, s), where they begin included."""
    probability: Tensor
    """(N, 1 + H) of success; 0 where they begin."""


@torch.no_grad()
def dream_frames(policy: Policy, mdp: DreamDiffusionMDP, starts: Tensor, decisions: int) -> FilmedDreams:
    """Dreams from latents (N, s) as a policy would be served, every frame kept."""
    latents, seen, probability = starts, [starts], [torch.zeros(len(starts), 1, device=starts.device)]
    for _ in range(decisions):
        noise = draw_noise((len(latents), policy.steps + 1, policy.chunk), mdp.generator)
        actions = policy.act(latents, noise)
        for number in range(policy.config.executed_actions):
            outcome = mdp.decide(latents, actions[:, number], 1)
            latents = outcome.latents
            seen.append(latents)
            probability.append(outcome.probability)
    return FilmedDreams(torch.stack(seen, dim=1), torch.cat(probability, dim=1))


def median_dream(dreams: FilmedDreams) -> int:
    """Number of the dream with the median of the highest probabilities of success."""
    order = dreams.probability.amax(dim=1).argsort(stable=True)
    return int(order[(len(order) - 1) // 2])


@torch.no_grad()
def write_dream_film(
    path: Path, world_model: WorldModel, policy: Policy, mdp: DreamDiffusionMDP, starts: Tensor, decisions: int
) -> None:
    """A film of the median of dreams from the first STARTS of latents (N, s), to its success or its end.

    OSError where it cannot be written.
    """
    dreams = dream_frames(policy, mdp, starts[:STARTS], decisions)
    number = median_dream(dreams)
    probability = dreams.probability[number]
    successes = torch.nonzero(probability > mdp.threshold)
    frames = int(successes[0]) + 1 if len(successes) else len(probability)
    pictures = world_model.decode(dreams.latents[number : number + 1, :frames].float())
    views = {name: np.asarray(images[0].cpu()) for name, images in pictures.items()}
    with FilmWriter(path, TRAIN_RATE_HZ, crf=26) as film:
        for step in [*range(frames), *[frames - 1] * _HOLD]:
            caption = f"dreamed {step / TRAIN_RATE_HZ:.1f} s  probability of success {probability[step]:.2f}"
            film.add(film_picture(_enlarged(views["static"][step]), _enlarged(views["gripper"][step]), caption))


def _enlarged(image: ImageArray) -> ImageArray:
    """Smoothly: squares of single pixels are hard to read as a picture."""
    size = (_VIEW_PX, _VIEW_PX)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
