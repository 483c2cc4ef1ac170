"""Open-loop prediction: a few frames are seen, then the prior goes on alone with the recorded actions (Fig. S.7).

What the model then shows is held against the truth, and so is what costs nothing: the last frame held, the mean frame,
the last frame's own reconstruction held. No dream can be expected to beat the closed loop, which sees every frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diwa_worldmodel.dataset.sampler import FrameSource
from diwa_worldmodel.evaluation.windows import Window, batches, draws, observe, on_device, read_windows
from diwa_worldmodel.rssm import State, entropy, kl_divergence, straight_through
from diwa_worldmodel.world_model import WorldModel, WorldModelBatch, quantise_gripper

OPEN_LOOP, CLOSED_LOOP, OTHER_ACTIONS = "open_loop", "closed_loop", "other_actions"
TRIVIAL = ("last_frame", "mean_frame", "reconstruction_held")
PREDICTORS = (OPEN_LOOP, *TRIVIAL, CLOSED_LOOP, OTHER_ACTIONS)
WHOLE, CHANGING = "whole", "changing"
AREAS = (WHOLE, CHANGING)
"""All pixels, or those that change in the training data: most of a picture is a background that stands still."""
DECODE_AT_ONCE = 256


class Dream(NamedTuple):
    """What the model makes of windows of W = C + H frames: C seen, H dreamed."""

    closed: Tensor
    """Latents of the posterior, which sees every frame (B, W, s)."""
    one_step: Tensor
    """Latents of the prior one step after the posterior (B, W, s)."""
    open: Tensor
    """Latents of the dream (B, H, s)."""
    other: Tensor
    """Latents of the dream with the actions of another window (B, H, s)."""
    kl: Tensor
    """KL(q || p) [nat] at every frame (B, W)."""
    prior_entropy: Tensor
    """[nat] at every frame of the closed loop (B, W)."""
    dreamed_entropy: Tensor
    """[nat] of the prior in the dream (B, H)."""


@dataclass(frozen=True)
class TrainingPictures:
    """What pictures of the training data have in common."""

    mean: dict[str, Tensor]
    """Of each camera, (S, S, 3) float in [0, 255]."""
    weights: dict[str, Tensor]
    """Of each camera :func:`area_weights` of the pixels that show different things."""


@torch.inference_mode()
def dream(model: WorldModel, batch: WorldModelBatch, context: int, one_step_draws: Tensor) -> Dream:
    """Closed loop over a batch of windows from the zero state, and dreams that leave it after ``context`` frames."""
    uniforms = batch["uniforms"]
    seen = observe(model, batch, uniforms)
    state = State(seen.deterministic[:, context - 1], seen.stochastic[:, context - 1])
    actions = quantise_gripper(batch["previous_action"])[:, context:]
    # Batches range over all windows: half a batch further is another episode, or far away in the same one.
    others = actions.roll(max(len(actions) // 2, 1), dims=0)
    opened, priors = model.rssm.imagine(state, actions, uniforms[:, context:])
    other, _ = model.rssm.imagine(state, others, uniforms[:, context:])
    ahead = straight_through(seen.prior.flatten(0, 1), one_step_draws.flatten(0, 1)).reshape(seen.stochastic.shape)
    return Dream(
        closed=seen.latent,
        one_step=torch.cat([seen.deterministic, ahead], dim=-1),
        open=opened,
        other=other,
        kl=kl_divergence(seen.posterior, seen.prior),
        prior_entropy=entropy(seen.prior),
        dreamed_entropy=entropy(priors),
    )


def dreams(
    model: WorldModel, source: FrameSource, windows: Sequence[Window], context: int, seed: int, device: torch.device
) -> Iterator[tuple[list[int], WorldModelBatch, Dream]]:
    """Numbers of the windows in a batch, the batch, its dream; the memory is that of one batch."""
    groups = model.config.discrete
    for numbers in batches(windows):
        chosen = [windows[number] for number in numbers]
        batch = on_device(read_windows(source, chosen, seed, groups), device)
        yield numbers, batch, dream(model, batch, context, draws(seed, chosen, groups, "one step").to(device))


def training_pictures(
    source: FrameSource, cameras: Sequence[str], windows: Sequence[Window], least_change: int = 16
) -> TrainingPictures:
    """From the frames of some windows; a pixel changes if 95% of its values span more than ``least_change`` of 255."""
    read = source.read([[(window.begin, window.begin + window.length)] for window in windows])
    mean, weights = {}, {}
    for name in cameras:
        images = np.asarray(read[name]).reshape(-1, *read[name].shape[2:])
        low, high = np.percentile(images, (2.5, 97.5), axis=0)
        mean[name] = torch.from_numpy(images.mean(axis=0, dtype=np.float32))
        weights[name] = area_weights(torch.from_numpy((high - low).max(axis=-1) > least_change))
    return TrainingPictures(mean, weights)


def area_weights(changing: Tensor) -> Tensor:
    """(S * S * 3, A) which averages over the pixels of each area, from (S, S) bool; NaN where no pixel changes."""
    masks = torch.stack([torch.ones_like(changing), changing], dim=-1).float()
    return (masks / (3.0 * masks.sum(dim=(0, 1)))).repeat_interleave(3, dim=1).flatten(0, 1)


def squared_error(shown: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Mean squared error of pixels in [0, 1] by AREAS, (B, T, A), of pictures (B, T, S, S, 3) in [0, 255].

    ``shown`` may have 1 in place of B or T where it is the same for all.
    """
    errors: Tensor = ((shown.float() - truth.float()) / 255.0).square().flatten(2) @ weights
    return errors


@torch.inference_mode()
def picture_errors(
    model: WorldModel, images: Mapping[str, Tensor], dreamt: Dream, pictures: TrainingPictures
) -> tuple[dict[str, Tensor], Tensor]:
    """Of each camera (B, P, A, H), and the one-step error (B, W), mean over the cameras.

    ``images`` (B, W, S, S, 3) of each camera are the truth. A few windows at once: no dream is decoded as a whole.
    """
    context = dreamt.closed.shape[1] - dreamt.open.shape[1]
    weights = {name: one.to(dreamt.open.device) for name, one in pictures.weights.items()}
    shown: dict[str, Callable[[slice], Mapping[str, Tensor]]] = {
        OPEN_LOOP: lambda rows: model.decode(dreamt.open[rows]),
        "last_frame": lambda rows: {name: images[name][rows, context - 1 : context] for name in weights},
        "mean_frame": lambda rows: {
            name: one.to(weights[name].device)[None, None] for name, one in pictures.mean.items()
        },
        "reconstruction_held": lambda rows: model.decode(dreamt.closed[rows, context - 1 : context]),
        CLOSED_LOOP: lambda rows: model.decode(dreamt.closed[rows, context:]),
        OTHER_ACTIONS: lambda rows: model.decode(dreamt.other[rows]),
    }
    errors: dict[str, list[Tensor]] = {name: [] for name in weights}
    ahead = []
    for rows in _few(*dreamt.closed.shape[:2]):
        by_word = [show(rows) for show in (shown[word] for word in PREDICTORS)]
        one_step = model.decode(dreamt.one_step[rows])
        for name, own in weights.items():
            truth = images[name][rows]
            errors[name].append(torch.stack([squared_error(one[name], truth[:, context:], own) for one in by_word], 1))
        ahead.append(
            torch.stack([squared_error(one_step[name], images[name][rows], own) for name, own in weights.items()])
        )
    by_camera = {name: torch.cat(parts).transpose(2, 3) for name, parts in errors.items()}
    return by_camera, torch.cat(ahead, dim=1)[..., 0].mean(dim=0)


def _few(windows: int, length: int) -> Iterator[slice]:
    """Rows of so few windows that about DECODE_AT_ONCE frames are decoded at once."""
    step = max(DECODE_AT_ONCE // length, 1)
    yield from (slice(first, first + step) for first in range(0, windows, step))


class Collected:
    """Arrays over all windows, filled batch by batch."""

    def __init__(self, windows: int) -> None:
        self._windows = windows
        self._arrays: dict[str, npt.NDArray[Any]] = {}

    def add(self, numbers: Sequence[int], **values: Tensor | npt.NDArray[Any]) -> None:
        """Values (B, ...) of the windows with these numbers."""
        for name, value in values.items():
            rows = value.cpu().numpy() if isinstance(value, Tensor) else value
            array = self._arrays.setdefault(name, np.full((self._windows, *rows.shape[1:]), np.nan, rows.dtype))
            array[numbers] = rows

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self._arrays[name]
