"""Latents of a data set on disk, as ``diwa encode`` leaves them.

    for episode in open_latents(world_model, data_set):
        episode.latent(), episode.action                # (T, s), (T, 7 k)
        episode.annotations                             # their frames counted in T

They lie in the world model's folder, under a hash of the world model and the filter's settings, a folder for each
recording, named by its content:

    WORLD_MODEL/latents/<hash>/<recording>-<hash of its content>/<first frame>.safetensors

So they stay valid wherever model and data set are moved, go when the model is replaced, and a recording that joins the
data set is encoded alone. h is stored as float32 and z as the numbers of its classes: exact, and at paper size half as
large. Each file holds whole episodes and a check sum.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F

from diwa_conventions.errors import UserError
from diwa_worldmodel.artefact import LoadedWorldModel, check_data_set
from diwa_worldmodel.config import ModelConfig
from diwa_worldmodel.dataset.records import HASH_DIGITS, Annotation, Episode, lineage_hash
from diwa_worldmodel.dataset.store import DataSet, Recording, read
from diwa_worldmodel.latent_filter import Sampling

VERSION = 1
"""Of the files, and of what the filter computes: another one is another cache."""
FOLDER = "latents"
PART_FRAMES = 2000
"""Episodes are put together into files of at least so many frames."""
_PARTIAL = ".partial-"


@dataclass(frozen=True)
class FilterSettings:
    """What latents depend on beside model and frames."""

    sampling: Sampling = "mode"
    seed: int = 0


MODE = FilterSettings()


@dataclass(frozen=True)
class EncodedEpisode:
    """Latents of T frames of an episode; with an action chunk of k, of every k-th."""

    recording: str
    episode: Episode
    """In frames of the recording."""
    deterministic: Tensor
    """h (T, D) float32."""
    chosen: Tensor
    """z (T, G) uint8: the number of each group's class."""
    classes: int
    """C, of each group."""
    surprise: Tensor
    """(T,) one-step KL(q || p) [nat]."""
    prior_entropy: Tensor
    """(T,) [nat]"""
    steps: Tensor
    """(T,) int64: since the filter began; FilterLimits.warmup_steps says from which on a latent is good."""
    action: Tensor
    """(T, 7 k) float32, from each frame to the next."""
    annotations: tuple[Annotation, ...]
    """Of this episode, their frames counted in T."""

    def latent(self, at: Any = slice(None)) -> Tensor:
        """s (..., D + G * C) float32 of the frames that an index or slice chooses, exactly as the filter gave them."""
        one_hot = F.one_hot(self.chosen[at].long(), self.classes).flatten(-2)
        return torch.cat([self.deterministic[at], one_hot.to(torch.float32)], dim=-1)


@dataclass(frozen=True)
class Part:
    """Whole episodes of a recording that share a file."""

    recording: Recording
    episodes: tuple[Episode, ...]
    path: Path

    @property
    def frames(self) -> int:
        return sum(episode.length for episode in self.episodes)

    def described(self) -> dict[str, str]:
        """What the file says about itself, but for its check sum."""
        bounds = [[episode.start, episode.length] for episode in self.episodes]
        return {"version": str(VERSION), "content": self.recording.content_hash, "episodes": json.dumps(bounds)}


class Latents:
    """The latents of a data set, read a file at a time; what :func:`open_latents` returns."""

    def __init__(self, parts: Sequence[Part], model: ModelConfig) -> None:
        self._parts, self._model = tuple(parts), model

    @property
    def episodes(self) -> int:
        return sum(len(part.episodes) for part in self._parts)

    def __iter__(self) -> Iterator[EncodedEpisode]:
        """Episodes in the data set's order. UserError for a file that is damaged."""
        for part in self._parts:
            tensors = read_part(part)
            if tensors is None:
                raise UserError(f"{part.path} is damaged; make it anew with the diwa encode that made it")
            yield from self._split(part, tensors)

    def _split(self, part: Part, tensors: dict[str, Tensor]) -> Iterator[EncodedEpisode]:
        chunk, begin = self._model.action_chunk, 0
        actions = read(part.recording, "action", slice(part.episodes[0].start, part.episodes[-1].end))
        for episode in part.episodes:
            count = episode.length // chunk
            own = {name: tensor[begin : begin + count] for name, tensor in tensors.items()}
            first = episode.start - part.episodes[0].start
            action = torch.from_numpy(actions[first : first + count * chunk].reshape(count, -1))
            begin += count
            yield EncodedEpisode(
                part.recording.id, episode, classes=self._model.classes, action=action,
                annotations=_annotations(part.recording, episode, chunk), **own,
            )  # fmt: skip


def open_latents(
    world_model: LoadedWorldModel,
    data_set: DataSet,
    out: Path | None = None,
    settings: FilterSettings = MODE,
) -> Latents:
    """The latents that :func:`encode_data_set` has made. UserError if some are missing."""
    check_data_set(data_set, world_model.config.model, world_model.metadata)
    parts = find_parts(data_set, cache_folder(world_model, data_set, out, settings), world_model.config.model)
    missing = sum(part.frames for part in parts if not part.path.exists())
    if missing:
        raise UserError(
            f"{missing} of {data_set.frames} frames of {data_set.path} are not encoded by {world_model.folder}; run: "
            f"diwa encode {world_model.folder} {data_set.path}" + (f" --out {out}" if out else "")
        )
    return Latents(parts, world_model.config.model)


def cache_folder(world_model: LoadedWorldModel, data_set: DataSet, out: Path | None, settings: FilterSettings) -> Path:
    """Folder of the latents that this model, with these settings, makes of anything."""
    words = [settings.sampling, str(settings.seed if settings.sampling == "sample" else 0)]
    tolerance = repr(data_set.config.step_tolerance_s)
    key = lineage_hash([FOLDER, str(VERSION), world_model.hash, *words, tolerance])
    return (out or world_model.folder / FOLDER) / key[:HASH_DIGITS]


def find_parts(data_set: DataSet, folder: Path, model: ModelConfig) -> list[Part]:
    """Episodes of at least one step, in files of about PART_FRAMES frames."""
    parts = []
    for recording in data_set.recordings:
        own = folder / f"{recording.id}-{recording.content_hash[:HASH_DIGITS]}"
        together: list[Episode] = []
        long_enough = [episode for episode in recording.episodes if episode.length >= model.action_chunk]
        for number, episode in enumerate(long_enough, start=1):
            together.append(episode)
            if sum(one.length for one in together) >= PART_FRAMES or number == len(long_enough):
                path = own / f"{together[0].start:08d}.safetensors"
                parts.append(Part(recording, tuple(together), path))
                together = []
    return parts


def _annotations(recording: Recording, episode: Episode, chunk: int) -> tuple[Annotation, ...]:
    last = episode.length // chunk - 1
    inside = [mark for mark in recording.annotations if episode.start <= mark.frame < episode.end]
    return tuple(replace(mark, frame=min((mark.frame - episode.start) // chunk, last)) for mark in inside)


def read_part(part: Part) -> dict[str, Tensor] | None:
    """The tensors of a file; None if there is none, it is damaged or of something else."""
    try:
        content = part.path.read_bytes()
        tensors = safetensors.torch.load(content)
        length = int.from_bytes(content[:8], "little")
        described = json.loads(content[8 : 8 + length])["__metadata__"]
    except (FileNotFoundError, SafetensorError, ValueError, KeyError):
        return None
    return tensors if described == {**part.described(), "sha256": _check_sum(tensors)} else None


def write_part(part: Part, tensors: dict[str, Tensor]) -> None:
    """Whole or not at all; what a killed process left half written is overwritten."""
    part.path.parent.mkdir(exist_ok=True)
    new = part.path.parent / f"{_PARTIAL}{part.path.name}"
    content = safetensors.torch.save(tensors, {**part.described(), "sha256": _check_sum(tensors)})
    try:
        with open(new, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, part.path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def _check_sum(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy().data)
    return digest.hexdigest()


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """The right to write. UserError if another process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder} is being written by another diwa encode; wait until it has ended") from None
        yield
