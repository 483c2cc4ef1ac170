"""Where a data set's frames are kept while a world model learns: in memory, on disk, or on the training device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from diwa_conventions.errors import UserError
from diwa_worldmodel.dataset.records import Episode
from diwa_worldmodel.dataset.sampler import Batch, DiskFrames, ResidentFrames, Spans, cut
from diwa_worldmodel.dataset.store import CAMERAS, DataSet, Numbers, Progress
from diwa_worldmodel.world_model import WorldModel

Place: TypeAlias = Literal["auto", "memory", "disk", "device"]

MEMORY_SHARE = 0.6
"""Of the memory that is free, images may take so much by themselves; the rest is for the training."""
DEVICE_SHARE = 0.5
"""The same on a GPU."""

_COLUMNS = {
    "proprio": ("x", "y", "z", *(f"rotation_6d_{i}" for i in range(6)), "gripper_width"),
    "action": ("dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper"),
}


class DeviceFrames:
    """A data set whose images are uint8 tensors on a device and are cut there: only frame numbers cross over to it."""

    def __init__(self, data_set: DataSet, device: torch.device, progress: Progress = lambda done, total: None) -> None:
        self.numbers = data_set.load_numbers()
        self.episodes = self.numbers.episodes
        self._device = device
        size = data_set.config.image_size_px
        shape = (data_set.frames, size, size, 3)
        self._images = {name: torch.empty(shape, dtype=torch.uint8, device=device) for name in CAMERAS}
        for begin, block in data_set.image_blocks(progress):
            for name, images in block.items():
                self._images[name][begin : begin + len(images)].copy_(torch.from_numpy(images))
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # batches are cut on another stream

    def read(self, spans: Spans) -> Batch:
        """As :meth:`FrameSource.read`, images as tensors on the device."""
        rows = [np.concatenate([np.arange(begin, end) for begin, end in parts]) for parts in spans]
        frames = torch.from_numpy(np.stack(rows)).to(self._device)
        images = {
            name: stored.index_select(0, frames.flatten()).reshape(*frames.shape, *stored.shape[1:])
            for name, stored in self._images.items()
        }
        return {**images, **cut(self.numbers.arrays(), spans)}

    def actions(self, frames: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        return self.numbers.action[frames]


StoredFrames: TypeAlias = ResidentFrames | DiskFrames | DeviceFrames
"""A :class:`~diwa_worldmodel.dataset.sampler.FrameSource`, with the ``numbers`` of all frames in memory."""


def open_frames(
    data_set: DataSet,
    place: Place = "auto",
    device: torch.device | None = None,
    processes: int = 1,
    progress: Progress = lambda done, total: None,
) -> StoredFrames:
    """All frames of a data set, where they are to be kept; numbers are checked to be finite.

    ``auto``: on the device if that is a GPU and they fit, else in memory if they fit, else on disk. ``processes`` on
    this machine share its memory, and each has a GPU of its own.
    """
    device = device or torch.device("cpu")
    if place == "auto":
        place = _choose(image_bytes(data_set), device, processes)
    _check_room(data_set, place, device, processes)
    if place == "memory":
        frames: StoredFrames = ResidentFrames(data_set.load(progress))
    else:
        frames = DeviceFrames(data_set, device, progress) if place == "device" else DiskFrames(data_set)
    check_finite(data_set, frames.numbers)
    return frames


def place_of(frames: StoredFrames) -> Place:
    """Where :func:`open_frames` put them."""
    if isinstance(frames, ResidentFrames):
        return "memory"
    return "device" if isinstance(frames, DeviceFrames) else "disk"


def image_bytes(data_set: DataSet) -> int:
    """Of both cameras' images, uncompressed."""
    return data_set.frames * len(CAMERAS) * 3 * data_set.config.image_size_px**2


def _choose(needed: int, device: torch.device, processes: int) -> Place:
    if device.type == "cuda" and needed <= DEVICE_SHARE * device_bytes_free(device):
        return "device"
    return "memory" if needed * processes <= MEMORY_SHARE * memory_bytes_free() else "disk"


def _check_room(data_set: DataSet, place: Place, device: torch.device, processes: int) -> None:
    """UserError if what was asked for cannot be had."""
    in_gpu = place == "device" and device.type == "cuda"
    if place == "disk":
        return
    needed = image_bytes(data_set) * (1 if in_gpu else processes)
    free = device_bytes_free(device) if in_gpu else memory_bytes_free()
    if needed > free:
        where = "GPU memory" if in_gpu else f"memory for {processes} processes" if processes > 1 else "memory"
        raise UserError(
            f"the images of {data_set.path} take {needed / 1e9:.1f} GB of {where}, {free / 1e9:.1f} GB are free; "
            f"choose place {'memory or disk' if in_gpu else 'disk'}"
        )


def device_bytes_free(device: torch.device) -> int:
    """Of a GPU's memory."""
    return int(torch.cuda.mem_get_info(device)[0])


def memory_bytes_free() -> int:
    """What the machine has left, or the container that this runs in."""
    words = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(words["MemAvailable"].split()[0]) * 1024
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return free
    return free if limit == "max" else min(free, int(limit) - used)


def check_finite(data_set: DataSet, numbers: Numbers) -> None:
    """UserError naming recording, episode, frame and column of the first number that is none."""
    columns = {**_COLUMNS, "scene_state": data_set.scene_state_names or ()}
    for name, values in numbers.arrays().items():
        bad = ~np.isfinite(values) if name in columns else np.zeros(0)
        if not bad.any():
            continue
        frame, column = np.argwhere(bad)[0].tolist()
        raise UserError(
            f"{_where(data_set, frame)}: {name} {columns[name][column]} is {values[frame, column]}, one of {bad.sum()} "
            f"values that are not finite; expected finite numbers: remove the recording's folder from "
            f"{data_set.path}/recordings and import its source again"
        )


def _where(data_set: DataSet, frame: int) -> str:
    """E.g. ``recording monday-1a2b, episode 3, frame 17 of it (frame 230 of the recording)``."""
    begins = np.array(data_set.recording_begins)
    number = int(np.searchsorted(begins, frame, side="right")) - 1
    recording, at = data_set.recordings[number], frame - int(begins[number])
    episode = next(i for i, one in enumerate(recording.episodes) if at < one.end)
    inside = at - recording.episodes[episode].start
    return f"recording {recording.id}, episode {episode}, frame {inside} of it (frame {at} of the recording)"


@dataclass(frozen=True)
class Moments:
    """Of each column."""

    mean: npt.NDArray[np.float64]
    std: npt.NDArray[np.float64]

    def to_json(self) -> dict[str, list[float]]:
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}


@dataclass(frozen=True)
class Normalisation:
    """What a world model's :class:`~diwa_worldmodel.world_model.Normaliser` is fitted to."""

    proprio: Moments
    scene_state: Moments | None

    def fit(self, world_model: WorldModel) -> None:
        """Give it to the world model; the scene state only to the hybrid variant."""
        pairs = [(world_model.proprio, self.proprio)]
        if world_model.config.scene_state:
            assert self.scene_state is not None, "the hybrid variant needs the scene state"
            pairs.append((world_model.scene_state, self.scene_state))
        for normaliser, moments in pairs:
            normaliser.fit(torch.from_numpy(moments.mean).float(), torch.from_numpy(moments.std).float())

    def to_json(self) -> dict[str, Any]:
        named = {"proprio": self.proprio, "scene_state": self.scene_state}
        return {name: moments.to_json() for name, moments in named.items() if moments}


def normalisation(numbers: Numbers, episodes: Sequence[Episode]) -> Normalisation:
    """Over the frames of these episodes: those that are learned from."""

    def moments(values: npt.NDArray[np.float32]) -> Moments:
        chosen = np.concatenate([values[episode.start : episode.end] for episode in episodes]).astype(np.float64)
        return Moments(chosen.mean(axis=0), chosen.std(axis=0))

    return Normalisation(
        moments(numbers.proprio), None if numbers.scene_state is None else moments(numbers.scene_state)
    )
