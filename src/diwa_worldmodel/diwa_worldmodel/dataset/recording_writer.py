"""Writes one recording into a data set, in blocks, so that memory stays the same however long it is."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import ZstdCodec

from diwa_conventions.actions import ACTION_DIM
from diwa_conventions.errors import UserError
from diwa_worldmodel.dataset.records import HASH_DIGITS, Annotation, Episode, Source, Statistics

PARTIAL_PREFIX = ".partial-"
"""Of the folder of a recording that is being written; renamed when it is complete."""

PROPRIO_DIM = 10
CHUNK_FRAMES = 50
"""Frames that are compressed together: a random window of 50 needs two chunks."""
SHARD_BYTES = 12 * 2**20
"""Uncompressed images in one file, 1,000 frames at 64 px: few files, and the block that waits in memory."""
ZSTD_LEVEL = 1
_SOFTWARE = ("diwa_worldmodel", "numpy", "opencv-python-headless", "zarr")


class RecordingWriter:
    """Made by :meth:`DataSet.add_recording`; a context manager. What is not finished is removed."""

    def __init__(self, folder: Path, source: Source, image_size_px: int, scene_state_names: tuple[str, ...]) -> None:
        self._final = folder / source.recording_id
        self._partial = folder / f"{PARTIAL_PREFIX}{source.recording_id}-{os.getpid()}"
        self._source = source
        self._scene_state_names = scene_state_names
        shutil.rmtree(self._partial, ignore_errors=True)
        self._group = zarr.create_group(self._partial)
        image = (image_size_px, image_size_px, 3)
        self._specs: dict[str, tuple[tuple[int, ...], Any]] = {
            "static": (image, np.uint8),
            "gripper": (image, np.uint8),
            "proprio": ((PROPRIO_DIM,), np.float32),
            "action": ((ACTION_DIM,), np.float32),
            "stamp_ns": ((), np.int64),
        }
        if scene_state_names:
            self._specs["scene_state"] = ((len(scene_state_names),), np.float32)
        chunk_bytes = CHUNK_FRAMES * image_size_px**2 * 3
        self._block = CHUNK_FRAMES * max(1, SHARD_BYTES // chunk_bytes)
        self._arrays = {name: self._create(name, shape, kind) for name, (shape, kind) in self._specs.items()}
        self._waiting: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in self._specs}
        self._waiting_frames = 0
        self._digests = {name: hashlib.sha256() for name in self._specs}
        self.frames = 0
        """Appended so far."""

    def append(
        self,
        static: npt.NDArray[np.uint8],
        gripper: npt.NDArray[np.uint8],
        proprio: npt.NDArray[np.floating[Any]],
        action: npt.NDArray[np.floating[Any]],
        stamp_ns: npt.NDArray[np.int64],
        scene_state: npt.NDArray[np.floating[Any]] | None = None,
    ) -> None:
        """The next n frames: images (n, S, S, 3), proprio (n, 10), action (n, 7), stamps (n,), scene state (n, D).

        ValueError for arrays that do not fit together, hold NaN, or actions outside [-1, 1].
        """
        block = {"static": static, "gripper": gripper, "proprio": proprio, "action": action, "stamp_ns": stamp_ns}
        if scene_state is not None:
            block["scene_state"] = scene_state
        if set(block) != set(self._specs):
            raise ValueError(f"got arrays {sorted(block)}; expected {sorted(self._specs)}")
        count = len(stamp_ns)
        for name, values in block.items():
            self._waiting[name].append(self._checked(name, values, count))
        self.frames += count
        self._waiting_frames += count
        if self._waiting_frames >= self._block:
            self._write_blocks()

    def finish(
        self,
        episodes: Sequence[Episode],
        annotations: Sequence[Annotation] = (),
        statistics: Statistics | None = None,
    ) -> None:
        """Write what waits and give the recording its name. ValueError for episodes or marks that do not fit it."""
        self._check_episodes(episodes, annotations)
        self._write_blocks(rest=True)
        marks = [asdict(mark) for mark in annotations]
        bounds = [[episode.start, episode.length] for episode in episodes]
        self._group.attrs.update(
            {
                "source": asdict(self._source),
                "episodes": bounds,
                "annotations": marks,
                "scene_state_names": list(self._scene_state_names),
                "statistics": (statistics or Statistics()).to_json(),
                "software": software(),
                "content_hash": self._content_hash({"episodes": bounds, "annotations": marks}),
            }
        )
        sync_folder(self._partial)
        if existing(self._final.parent, self._source) is None:  # else: written meanwhile, from a copy of the source
            os.rename(self._partial, self._final)

    def __enter__(self) -> RecordingWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        shutil.rmtree(self._partial, ignore_errors=True)

    def _create(self, name: str, shape: tuple[int, ...], kind: Any) -> zarr.Array[Any]:
        images = name in ("static", "gripper")
        return self._group.create_array(
            name,
            shape=(0, *shape),
            dtype=kind,
            chunks=(CHUNK_FRAMES if images else self._block, *shape),
            shards=(self._block, *shape) if images else None,
            compressors=ZstdCodec(level=ZSTD_LEVEL),
            config={"write_empty_chunks": True},  # black pictures are data; a file that is missing is damage
        )

    def _checked(self, name: str, values: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
        shape, kind = self._specs[name]
        if values.shape != (count, *shape):
            raise ValueError(f"{name} has shape {values.shape}; expected {(count, *shape)}")
        if kind is np.float32:
            values = values.astype(np.float32)
            if not np.isfinite(values).all():
                raise ValueError(f"{name} holds a value that is not finite")
            if name == "action" and count and np.abs(values).max() > 1.0:
                raise ValueError("an action component is outside [-1, 1]")
        elif values.dtype != kind:
            raise ValueError(f"{name} is {values.dtype}; expected {np.dtype(kind)}")
        return values

    def _write_blocks(self, rest: bool = False) -> None:
        """Write whole blocks, so that no shard is ever written twice; with ``rest`` also the last, shorter one."""
        written = self._waiting_frames if rest else self._waiting_frames // self._block * self._block
        for name, parts in self._waiting.items():
            values = np.concatenate(parts) if parts else np.zeros((0, *self._specs[name][0]), self._specs[name][1])
            for begin in range(0, written, self._block):
                block = np.ascontiguousarray(values[begin : min(begin + self._block, written)])
                self._arrays[name].append(block)
                self._digests[name].update(block.data)
            self._waiting[name] = [values[written:].copy()]
        self._waiting_frames -= written

    def _check_episodes(self, episodes: Sequence[Episode], annotations: Sequence[Annotation]) -> None:
        expected = 0
        for episode in episodes:
            if episode.start != expected or episode.length < 2:
                raise ValueError(
                    f"{episode} after {expected} frames; expected episodes of two frames and more in a row"
                )
            expected = episode.end
        if expected != self.frames:
            raise ValueError(f"episodes hold {expected} frames, {self.frames} were appended")
        for mark in annotations:
            if not 0 <= mark.frame < self.frames:
                raise ValueError(f"{mark} lies outside the {self.frames} frames")
        if not self.frames:
            raise UserError(f"{self._source.name} holds no frames; nothing was imported from it")

    def _content_hash(self, words: Mapping[str, Any]) -> str:
        digest = hashlib.sha256(json.dumps(words, sort_keys=True).encode())
        for name in sorted(self._digests):
            digest.update(name.encode() + self._digests[name].digest())
        return digest.hexdigest()


def sync_folder(folder: Path) -> None:
    """Force a folder's files to the disk, so that a power cut cannot empty what has its final name."""
    for path in folder.rglob("*"):
        if path.is_file():
            sync(path)


def sync(path: Path) -> None:
    """Force a file, or the names in a folder, to the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def existing(folder: Path, source: Source) -> Path | None:
    """Folder of the recording that was made of a source, under any name; None if there is none."""
    ending = f"*-{source.hash[:HASH_DIGITS]}"
    return next((path for path in folder.glob(ending) if not path.name.startswith(PARTIAL_PREFIX)), None)


def software(packages: Sequence[str] = _SOFTWARE) -> dict[str, str]:
    """Versions of Python and of what made the arrays, or something else."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # another build of it, say opencv-python
            found[package] = "unknown"
    return found
