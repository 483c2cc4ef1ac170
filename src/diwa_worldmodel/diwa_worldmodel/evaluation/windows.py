"""Windows of play that an evaluation looks at: chosen evenly, read as batches, each with random numbers of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diwa_conventions.errors import UserError
from diwa_worldmodel.dataset.records import Episode
from diwa_worldmodel.dataset.sampler import FrameSource
from diwa_worldmodel.rssm import Trajectory
from diwa_worldmodel.world_model import Observations, WorldModel, WorldModelBatch, quantise_gripper

BATCH_FRAMES = 4096
"""In memory at once: 100 MB of pictures. Windows in a batch share the time of its scan."""
ENCODE_AT_ONCE = 512
"""Frames: a few hundred MB of activations at paper size."""


@dataclass(frozen=True)
class Window:
    """Frames ``begin`` to ``begin + length - 1`` of one episode."""

    begin: int
    length: int
    stretch: int
    """Windows that overlap are mostly of one stretch; what is measured in them is not independent."""


def choose_windows(episodes: Sequence[Episode], length: int, count: int) -> list[Window]:
    """At most ``count`` windows, spread evenly over all places where one fits; they overlap where there are many.

    UserError if none fits.
    """
    fitting = [episode for episode in episodes if episode.length >= length]
    if not fitting:
        longest = max((episode.length for episode in episodes), default=0)
        raise UserError(
            f"no episode has {length} frames, the longest of {len(episodes)} has {longest}; record longer episodes"
        )
    places = np.cumsum([0] + [episode.length - length + 1 for episode in fitting])
    stretches = np.cumsum([0] + [episode.length // length for episode in fitting])
    chosen = np.unique(np.linspace(0, places[-1] - 1, min(count, int(places[-1]))).round().astype(np.int64))
    windows = []
    for place in chosen.tolist():
        number = int(np.searchsorted(places, place, side="right")) - 1
        offset = place - int(places[number])
        stretch = min(offset // length, fitting[number].length // length - 1)
        windows.append(Window(fitting[number].start + offset, length, int(stretches[number]) + stretch))
    return windows


def batches(windows: Sequence[Window]) -> Iterator[list[int]]:
    """Numbers of the windows, in batches that each range over all of them, so that neighbours are far apart."""
    if windows:
        at_once = max(BATCH_FRAMES // windows[0].length, 2)
        count = -(-len(windows) // at_once)
        yield from (list(range(first, len(windows), count)) for first in range(count))


def read_windows(source: FrameSource, windows: Sequence[Window], seed: int, groups: int) -> WorldModelBatch:
    """A batch (B, T, ...) that starts from the zero state at the first frame of each window."""
    read = source.read([[(window.begin, window.begin + window.length)] for window in windows])
    action = torch.from_numpy(read["action"])
    reset = torch.zeros(action.shape[:2], dtype=torch.bool)
    reset[:, 0] = True
    return WorldModelBatch(
        images={name: torch.from_numpy(array) for name, array in read.items() if array.dtype == np.uint8},
        proprio=torch.from_numpy(read["proprio"]),
        scene_state=torch.from_numpy(read["scene_state"]) if "scene_state" in read else None,
        previous_action=torch.cat([torch.zeros_like(action[:, :1]), action[:, :-1]], dim=1),
        reset=reset,
        uniforms=draws(seed, windows, groups, "z"),
    )


def draws(seed: int, windows: Sequence[Window], groups: int, purpose: str) -> Tensor:
    """Uniform numbers (B, T, G) that depend on seed, purpose and the window's first frame alone."""
    rows = []
    for window in windows:
        rng = np.random.default_rng([seed, window.begin, *purpose.encode()])
        rows.append(rng.random((window.length, groups), dtype=np.float32))
    return torch.from_numpy(np.stack(rows))


def on_device(batch: WorldModelBatch, device: torch.device) -> WorldModelBatch:
    """The batch in the memory of the device."""
    scene = batch["scene_state"]
    return WorldModelBatch(
        images={name: images.to(device) for name, images in batch["images"].items()},
        proprio=batch["proprio"].to(device),
        scene_state=None if scene is None else scene.to(device),
        previous_action=batch["previous_action"].to(device),
        reset=batch["reset"].to(device),
        uniforms=batch["uniforms"].to(device),
    )


@torch.inference_mode()
def observe(model: WorldModel, batch: WorldModelBatch, uniforms: Tensor | None) -> Trajectory:
    """Closed loop from the zero state; as :meth:`WorldModel.observe`, encoding a few windows at once."""
    rows, length = batch["reset"].shape
    step = max(ENCODE_AT_ONCE // length, 1)
    embeddings = torch.cat([model.encode(_rows(batch, slice(i, i + step))) for i in range(0, rows, step)])
    actions = quantise_gripper(batch["previous_action"])
    return model.rssm.observe(embeddings, actions, batch["reset"], model.rssm.initial(rows, actions.device), uniforms)


def _rows(batch: WorldModelBatch, rows: slice) -> Observations:
    scene = batch["scene_state"]
    images = {name: images[rows] for name, images in batch["images"].items()}
    return Observations(
        images=images, proprio=batch["proprio"][rows], scene_state=None if scene is None else scene[rows]
    )
