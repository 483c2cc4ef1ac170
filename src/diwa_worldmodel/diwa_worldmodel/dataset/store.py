"""The data set on disk (Zarr v3): what training reads and importers write.

    data_set = create_data_set(path, DataSetConfig())           # or open_data_set(path), open_or_create(path, config)
    with data_set.writing():                                    # one process writes; its workers share its right
        with data_set.add_recording(source) as writer:          # a RecordingWriter
            writer.append(static, gripper, proprio, action, stamp_ns)     # as often as needed, in blocks of any length
            writer.finish(episodes, annotations, statistics)    # without it, or after an exception, nothing remains
    for recording in open_data_set(path).recordings:
        recording.static[10:60]                                 # (50, S, S, 3) uint8, read from disk

Importers for other formats have this shape:
``import_x(path: Path, data_set: DataSet, progress: Progress) -> Recording``. They call ``progress(done, total)`` in
whatever unit they count, and do not write the recording of a source anew that is already there
(``data_set.find(source)``).
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import zarr

from diwa_conventions.errors import UserError
from diwa_worldmodel.dataset.config import DataSetConfig
from diwa_worldmodel.dataset.recording_writer import PARTIAL_PREFIX, RecordingWriter, existing
from diwa_worldmodel.dataset.records import Annotation, Episode, Source, Statistics, lineage_hash

FORMAT = "diwa-dataset"
VERSION = 1
CAMERAS = ("static", "gripper")
"""Of every data set."""
BLOCK_FRAMES = 1000
"""Images that are read at once: a whole file at 64 px."""
_LOCK = ".lock"

Progress: TypeAlias = Callable[[int, int], None]
"""Called with (done, total), in a unit of the caller's."""


@dataclass(frozen=True)
class Recording:
    """One imported source; ``frames`` frames at 7.5 Hz in episodes that follow each other without overlap.

    The arrays are read from disk when they are sliced, e.g. ``recording.static[10:60]``. Axis 0 is the frame.
    """

    id: str
    source: Source
    episodes: tuple[Episode, ...]
    annotations: tuple[Annotation, ...]
    statistics: Statistics
    scene_state_names: tuple[str, ...]
    """Columns of ``scene_state``; empty if there is none."""
    software: dict[str, str]
    """Versions of what wrote it."""
    content_hash: str
    """SHA-256 of the arrays' values and of episodes and annotations."""
    group: zarr.Group

    @property
    def frames(self) -> int:
        return self.episodes[-1].end if self.episodes else 0

    @property
    def static(self) -> zarr.Array[Any]:
        """(T, S, S, 3) uint8."""
        return self._array("static")

    @property
    def gripper(self) -> zarr.Array[Any]:
        """(T, S, S, 3) uint8."""
        return self._array("gripper")

    @property
    def proprio(self) -> zarr.Array[Any]:
        """(T, 10) float32: position [m], 6D rotation, gripper width [m] (method.md 17, 18)."""
        return self._array("proprio")

    @property
    def action(self) -> zarr.Array[Any]:
        """(T, 7) float32 in [-1, 1], from each frame to the next; zero motion at an episode's last frame."""
        return self._array("action")

    @property
    def stamp_ns(self) -> zarr.Array[Any]:
        """(T,) int64: stamp of the static camera."""
        return self._array("stamp_ns")

    @property
    def scene_state(self) -> zarr.Array[Any] | None:
        """(T, D) float32, or None where it is not known."""
        return self._array("scene_state") if self.scene_state_names else None

    def _array(self, name: str) -> zarr.Array[Any]:
        array = self.group[name]
        assert isinstance(array, zarr.Array)
        return array


@dataclass(frozen=True)
class Numbers:
    """All frames of a data set in memory but for their images, recordings one after the other; N frames."""

    proprio: npt.NDArray[np.float32]
    """(N, 10)."""
    action: npt.NDArray[np.float32]
    """(N, 7)."""
    stamp_ns: npt.NDArray[np.int64]
    """(N,)."""
    scene_state: npt.NDArray[np.float32] | None
    """(N, D) with the columns :attr:`DataSet.scene_state_names`; None where there are none."""
    episodes: tuple[Episode, ...]
    """Their starts count from the first frame of all."""

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What there is of every frame, by name."""
        named: dict[str, npt.NDArray[Any]] = {
            "proprio": self.proprio, "action": self.action, "stamp_ns": self.stamp_ns
        }  # fmt: skip
        return named if self.scene_state is None else {**named, "scene_state": self.scene_state}


@dataclass(frozen=True)
class Frames(Numbers):
    """All frames of a data set in memory, recordings one after the other; N frames."""

    static: npt.NDArray[np.uint8]
    """(N, S, S, 3)."""
    gripper: npt.NDArray[np.uint8]
    """(N, S, S, 3)."""

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {"static": self.static, "gripper": self.gripper, **super().arrays()}


@dataclass(frozen=True)
class DataSet:
    """A data set folder. Its recordings are looked up when it is opened; open it again to see new ones."""

    path: Path
    config: DataSetConfig
    recordings: tuple[Recording, ...]
    """In the order of their ids."""

    @property
    def frames(self) -> int:
        return sum(recording.frames for recording in self.recordings)

    @property
    def steps(self) -> int:
        """Transitions: frames that have a next one."""
        return sum(episode.length - 1 for recording in self.recordings for episode in recording.episodes)

    def hash(self) -> str:
        """What an artefact made from this data set names as its origin: config, recordings and their contents."""
        recordings = [f"{recording.id} {recording.content_hash}" for recording in self.recordings]
        return lineage_hash([json.dumps(self.config.to_json(), sort_keys=True), *recordings])

    def find(self, source: Source) -> Recording | None:
        """The recording that was made of this source, whatever its name was, also if it came after this was opened."""
        path = existing(_recordings_folder(self.path), source)
        return _open_recording(path) if path else None

    def add_recording(self, source: Source, scene_state_names: tuple[str, ...] = ()) -> RecordingWriter:
        """A context manager to write one recording with. UserError if the source is already there."""
        if self.find(source) is not None:
            raise UserError(f"{source.name} is already in {self.path} as {source.recording_id}")
        return RecordingWriter(_recordings_folder(self.path), source, self.config.image_size_px, scene_state_names)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the right to write; what an import that was killed left behind is removed. UserError if held already."""
        with open(self.path / _LOCK, "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(f"{self.path} is being written by another import; wait until it has ended") from error
            for partial in _recordings_folder(self.path).glob(f"{PARTIAL_PREFIX}*"):
                shutil.rmtree(partial)
            yield

    @property
    def scene_state_names(self) -> tuple[str, ...] | None:
        """Columns of ``scene_state`` in every recording: () where none has it, None where recordings differ."""
        names = {recording.scene_state_names for recording in self.recordings}
        return None if len(names) > 1 else next(iter(names), ())

    def load(self, progress: Progress = lambda done, total: None) -> Frames:
        """Everything in memory: about 25 KB a frame at 64 px."""
        numbers = self.load_numbers()
        size = self.config.image_size_px
        images = {name: np.empty((self.frames, size, size, 3), np.uint8) for name in CAMERAS}
        for begin, block in self.image_blocks(progress):
            for name, values in block.items():
                images[name][begin : begin + len(values)] = values
        return Frames(**vars(numbers), static=images["static"], gripper=images["gripper"])

    def load_numbers(self) -> Numbers:
        """Everything but the images: 76 bytes a frame and its scene state. UserError for a data set without frames."""
        if not self.recordings:
            raise UserError(f"{self.path} holds no recordings; fill it with: diwa import BAG --out {self.path}")
        names = ["proprio", "action", "stamp_ns", *(["scene_state"] if self.scene_state_names else [])]
        arrays: dict[str, Any] = {"scene_state": None}
        for name in names:
            arrays[name] = np.concatenate([read(recording, name) for recording in self.recordings])
        return Numbers(**arrays, episodes=self.episodes)

    @property
    def recording_begins(self) -> tuple[int, ...]:
        """Number of each recording's first frame where recordings follow one another."""
        ends = accumulate((recording.frames for recording in self.recordings), initial=0)
        return tuple(ends)[:-1]

    @property
    def episodes(self) -> tuple[Episode, ...]:
        """Of all recordings, one after the other; their starts count from the first frame of all."""
        return tuple(
            Episode(begin + episode.start, episode.length)
            for begin, recording in zip(self.recording_begins, self.recordings, strict=True)
            for episode in recording.episodes
        )

    def image_blocks(self, progress: Progress) -> Iterator[tuple[int, dict[str, npt.NDArray[np.uint8]]]]:
        """Number of the first frame, and images (n, S, S, 3) of each camera, block after block."""
        for begin, recording in zip(self.recording_begins, self.recordings, strict=True):
            for start in range(0, recording.frames, BLOCK_FRAMES):
                part = slice(start, min(start + BLOCK_FRAMES, recording.frames))
                yield begin + start, {name: read(recording, name, part) for name in CAMERAS}
                progress(begin + part.stop, self.frames)


def read(recording: Recording, name: str, part: slice | int = slice(None)) -> npt.NDArray[Any]:
    """Frames of one array of a recording; UserError if its files are damaged."""
    try:
        return np.asarray(getattr(recording, name)[part])
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"{recording.id}: {name} cannot be read ({' '.join(str(error).split())}); the data set is damaged: remove "
            f"the folder recordings/{recording.id} and import its source again"
        ) from error


def create_data_set(path: Path, config: DataSetConfig) -> DataSet:
    """A new, empty data set. UserError if the folder exists and holds anything."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} exists already and is not an empty folder; choose another folder for the data set")
    _recordings_folder(path).mkdir(parents=True, exist_ok=True)
    # The marker comes last: a folder without it was never a data set.
    zarr.create_group(_recordings_folder(path))
    new = path / "zarr.json.new"
    content = {"format": FORMAT, "version": VERSION, "config": config.to_json()}
    new.write_text(json.dumps({"attributes": content, "zarr_format": 3, "node_type": "group"}, indent=2))
    os.replace(new, path / "zarr.json")
    return DataSet(path, config, ())


def open_data_set(path: Path) -> DataSet:
    """The data set in a folder; UserError, with what was found instead, for any other folder or version."""
    config = _read_config(path)
    folders = sorted(_recordings_folder(path).iterdir()) if _recordings_folder(path).is_dir() else []
    found = [folder for folder in folders if folder.is_dir() and not folder.name.startswith(PARTIAL_PREFIX)]
    return DataSet(path, config, tuple(_open_recording(folder) for folder in found))


def open_or_create(path: Path, config: DataSetConfig) -> DataSet:
    """The data set to add recordings to. UserError if it exists with another config, naming the difference."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return create_data_set(path, config)
    data_set = open_data_set(path)
    differences = data_set.config.differences(config)
    if differences:
        raise UserError(
            f"{path} was made with {'; '.join(differences)}; import with the same options or into another folder"
        )
    return data_set


def _recordings_folder(path: Path) -> Path:
    return path / "recordings"


def _read_config(path: Path) -> DataSetConfig:
    if not path.exists():
        raise UserError(f"there is no data set {path}; make one with: diwa import BAG --out {path}")
    try:
        attributes = json.loads((path / "zarr.json").read_text(encoding="utf-8"))["attributes"]
        form, version, config = attributes["format"], attributes["version"], attributes["config"]
    except (OSError, ValueError, KeyError, TypeError):
        found = ", ".join(sorted(item.name for item in path.iterdir())[:5]) if path.is_dir() else "a file"
        raise UserError(
            f"{path} is not a data set (found: {found or 'nothing'}); expected a folder made by diwa import"
        ) from None
    if form != FORMAT or version != VERSION:
        raise UserError(
            f"{path} has format {form!r} version {version!r}; this software reads {FORMAT!r} version {VERSION}: "
            "import its sources again into a new folder"
        )
    if not isinstance(config, dict):
        raise UserError(f"{path}/zarr.json: config is {config!r}; expected a table: import into a new folder")
    return DataSetConfig.from_json(config)


def _open_recording(folder: Path) -> Recording:
    try:
        group = zarr.open_group(folder, mode="r")
        attributes = dict(group.attrs)
        recording = _recording(folder.name, group, attributes)
        _check_arrays(recording, folder)
        return recording
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} cannot be read as a recording ({type(error).__name__}: {error}); "
            "remove this folder and import its source again"
        ) from error


def _check_arrays(recording: Recording, folder: Path) -> None:
    """ValueError if an array is not as long as the episodes, or files of it are missing: they would read as zeros."""
    frames = max((episode.end for episode in recording.episodes), default=0)
    for name, array in recording.group.arrays():
        if array.shape[0] != frames:
            raise ValueError(f"{name} holds {array.shape[0]} frames, the episodes {frames}")
        rows = (array.shards or array.chunks)[0]
        files = -(-frames // rows)
        found = sum(path.is_file() for path in (folder / name / "c").rglob("*"))
        if found != files:
            raise ValueError(f"{name} has {found} of its {files} files")


def _recording(name: str, group: zarr.Group, attributes: dict[str, Any]) -> Recording:
    return Recording(
        id=name,
        source=Source(**attributes["source"]),
        episodes=tuple(Episode(start, length) for start, length in attributes["episodes"]),
        annotations=tuple(Annotation(**mark) for mark in attributes["annotations"]),
        statistics=Statistics.from_json(attributes["statistics"]),
        scene_state_names=tuple(attributes["scene_state_names"]),
        software=dict(attributes["software"]),
        content_hash=attributes["content_hash"],
        group=group,
    )
