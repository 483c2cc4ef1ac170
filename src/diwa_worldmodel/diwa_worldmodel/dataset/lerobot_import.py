"""LeRobot v3 data sets in. Needs pyarrow (``make setup EXTRA=lerobot``), nothing of LeRobot's.

One data set becomes one recording. What ``diwa export`` wrote comes back as it was: images, proprioception, actions,
stamps, episodes and annotations are equal. Data sets of others are understood through a LeRobotLayout.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diwa_conventions.actions import ActionScale
from diwa_conventions.errors import UserError
from diwa_conventions.images import ImageArray, SquareImages
from diwa_worldmodel.dataset import lerobot_layout as layouts
from diwa_worldmodel.dataset.lerobot_images import VideoFrame, stored_images, video_images
from diwa_worldmodel.dataset.lerobot_layout import Info, LeRobotLayout
from diwa_worldmodel.dataset.lerobot_rows import (
    Rows,
    SourceEpisode,
    open_parquet,
    read_episodes,
    read_rows,
    read_tasks,
    readable,
)
from diwa_worldmodel.dataset.lerobot_steps import StepMaker, Steps
from diwa_worldmodel.dataset.recording_writer import RecordingWriter
from diwa_worldmodel.dataset.records import Annotation, Episode, Source, Statistics
from diwa_worldmodel.dataset.store import DataSet, Progress, Recording

_BLOCK_FRAMES = 100
PLAY = "play"
"""Task of frames that belong to no attempt."""


def import_lerobot(path: Path, data_set: DataSet, progress: Progress, layout: LeRobotLayout | None = None) -> Recording:
    """The LeRobot v3 data set in the folder ``path`` as one recording, which is not written anew if it is there.

    UserError for other folders and versions, keys or columns that are not found, rates that are no multiple of 7.5 Hz.
    """
    path = path.resolve()
    layout = layout or LeRobotLayout()
    info = layouts.read_info(path)
    layouts.check_keys(info, layout)
    source = _source(info, layout)
    found = data_set.find(source)
    if found is not None:
        return found
    with data_set.add_recording(source, _scene_names(info)) as writer:
        _Import(info, layout, data_set, writer, progress).run()
    recording = data_set.find(source)
    assert recording is not None, "it was just written"
    return recording


@dataclass
class _Result:
    """What was written so far."""

    episodes: list[Episode] = field(default_factory=list)
    annotations: list[Annotation] = field(default_factory=list)
    saturated: dict[str, int] = field(default_factory=lambda: {"translation": 0, "rotation": 0})
    warnings: list[str] = field(default_factory=list)
    source_frames: int = 0

    def statistics(self, fps: float) -> Statistics:
        base = Statistics()
        steps = sum(episode.length - 1 for episode in self.episodes)
        return Statistics(
            duration_s=self.source_frames / fps,
            episode_ends={**base.episode_ends, "end": len(self.episodes)},
            steps=steps,
            saturated=self.saturated,
            warnings=tuple(self.warnings),
        )


class _Import:
    """One run over the data set, file after file."""

    def __init__(
        self, info: Info, layout: LeRobotLayout, data_set: DataSet, writer: RecordingWriter, progress: Progress
    ) -> None:
        own = layouts.read_own_metadata(info.root)
        written_with = _own_scale(info.root, own) if own is not None else None
        self._info = info
        self._layout = layout
        self._writer = writer
        self._progress = progress
        self._steps = StepMaker(info, layout, written_with, data_set.config.scale)
        self._square = SquareImages(data_set.config.image_size_px, data_set.config.fit)
        self._tasks = read_tasks(info)
        self._episodes = read_episodes(info, (layout.static_key, layout.gripper_key))
        self._frames = sum(-(-episode.length // info.stride) for episode in self._episodes)
        self._scene = bool(_scene_names(info))
        self._result = _Result()

    def run(self) -> None:
        for path, episodes in groupby(self._episodes, key=lambda episode: episode.data):
            self._file(path, list(episodes))
        if not self._result.episodes:
            raise UserError(f"{self._info.root.name} has no episode of two frames at 7.5 Hz; nothing was imported")
        self._writer.finish(self._result.episodes, self._result.annotations, self._result.statistics(self._info.fps))

    def _file(self, path: Path, episodes: Sequence[SourceEpisode]) -> None:
        rows = read_rows(self._info, self._layout, path, self._tasks)
        self._result.warnings += self._steps.check(rows.state, rows.action, self._info.root.name)
        parts: list[tuple[SourceEpisode, Steps, int]] = []
        for episode in episodes:
            first = _first_row(rows, episode, path)
            self._result.source_frames += episode.length
            if -(-episode.length // self._info.stride) < 2:
                self._result.warnings.append(f"episode {episode.index} is too short: {episode.length} frames")
                continue
            steps = self._made_steps(rows, episode, first)
            self._note(rows, episode, steps, first)
            parts.append((episode, steps, first))
        self._write(path, rows, parts)

    def _made_steps(self, rows: Rows, episode: SourceEpisode, first: int) -> Steps:
        end = first + episode.length
        try:
            where = f"episode {episode.index} of {self._info.root.name}"
            self._steps.check_deltas(rows.state[first:end], rows.action[first:end], where)
            return self._steps.steps(rows.state[first:end], rows.action[first:end])
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"episode {episode.index} of {self._info.root.name} holds {error}; drop it") from None

    def _note(self, rows: Rows, episode: SourceEpisode, steps: Steps, first: int) -> None:
        """Take episode and marks into the result."""
        result = self._result
        start = result.episodes[-1].end if result.episodes else 0
        result.episodes.append(Episode(start, len(steps.rows)))
        result.saturated["translation"] += steps.saturated_translation
        result.saturated["rotation"] += steps.saturated_rotation
        for row, mark in _marks(rows, first, first + episode.length, self._layout.episodes_succeed):
            frame = min(-(-(row - first) // self._info.stride), len(steps.rows) - 1)
            result.annotations.append(Annotation(start + frame, mark["skill"], mark["success"], mark["note"]))

    def _write(self, path: Path, rows: Rows, parts: Sequence[tuple[SourceEpisode, Steps, int]]) -> None:
        """Images are read while they are written, a block at a time."""
        if not parts:
            return
        taken = np.concatenate([first + steps.rows for _, steps, first in parts])
        proprio = np.concatenate([steps.proprio for _, steps, _ in parts])
        action = np.concatenate([steps.action for _, steps, _ in parts])
        stamps = rows.stamp_ns[taken] if rows.stamp_ns is not None else self._stamps(parts)
        static = self._images(self._layout.static_key, path, taken, parts)
        gripper = self._images(self._layout.gripper_key, path, taken, parts)
        for begin in range(0, len(taken), _BLOCK_FRAMES):
            block = slice(begin, min(begin + _BLOCK_FRAMES, len(taken)))
            count = block.stop - block.start
            self._writer.append(
                np.stack([self._square(next(static)) for _ in range(count)]),
                np.stack([self._square(next(gripper)) for _ in range(count)]),
                proprio[block],
                action[block],
                stamps[block],
                rows.scene[taken[block]].astype(np.float32) if self._scene and rows.scene is not None else None,
            )
            self._progress(self._writer.frames, self._frames)

    def _stamps(self, parts: Sequence[tuple[SourceEpisode, Steps, int]]) -> npt.NDArray[np.int64]:
        """LeRobot's time restarts with every episode; ours runs on through the frames of the whole data set."""
        firsts = self._first_frames
        frames = np.concatenate([firsts[episode.index] + steps.rows for episode, steps, _ in parts])
        return np.asarray(np.round(frames * (1e9 / self._info.fps)), dtype=np.int64)

    @property
    def _first_frames(self) -> dict[int, int]:
        firsts, total = {}, 0
        for episode in self._episodes:
            firsts[episode.index] = total
            total += episode.length
        return firsts

    def _images(
        self, key: str, path: Path, taken: npt.NDArray[np.int64], parts: Sequence[tuple[SourceEpisode, Steps, int]]
    ) -> Iterator[ImageArray]:
        if not self._info.is_video(key):
            with readable(path):
                yield from stored_images(open_parquet(path), path, key, taken)
            return
        moments = [
            VideoFrame(episode.videos[key].path, episode.videos[key].from_s + row / self._info.fps)
            for episode, steps, _ in parts
            for row in steps.rows.tolist()
        ]
        yield from video_images(moments, self._info.fps)


def _first_row(rows: Rows, episode: SourceEpisode, path: Path) -> int:
    """Where the episode begins in its file. UserError if its frames are not there, all and in one piece."""
    places = np.flatnonzero(rows.episode == episode.index)
    if len(places) != episode.length or (len(places) and places[-1] - places[0] + 1 != len(places)):
        raise UserError(
            f"{path} holds {len(places)} frames of episode {episode.index}; meta/episodes says {episode.length} in a "
            "row: copy the data set anew"
        )
    return int(places[0]) if len(places) else 0


def _marks(rows: Rows, first: int, end: int, episodes_succeed: bool) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row, mark): our own annotations, else LeRobot's success column, else the episode's end where that was asked."""
    if rows.marks is not None:
        for row in range(first, end):
            for mark in _own_marks(rows.marks[row], row):
                yield row, mark
        return
    task = rows.task[end - 1]
    if rows.success is None:
        if episodes_succeed:
            yield end - 1, {"skill": task, "success": True, "note": ""}
        return
    done = rows.success[first:end].astype(np.int8)
    rises = first + np.flatnonzero(np.diff(done, prepend=0) > 0)
    for row in rises.tolist():
        # next.success speaks of the frame after it
        yield min(row + 1, end - 1), {"skill": rows.task[row], "success": True, "note": ""}
    if not len(rises) and task != PLAY:
        yield end - 1, {"skill": task, "success": False, "note": ""}


def _own_marks(text: str, row: int) -> list[dict[str, Any]]:
    try:
        marks = [Annotation(frame=0, **mark) for mark in json.loads(text or "[]")]
    except (ValueError, TypeError) as error:
        raise UserError(f"row {row} of {layouts.MARKS_KEY} is no list of marks ({error}); export it anew") from None
    return [mark_json(mark) for mark in marks]


def _scene_names(info: Info) -> tuple[str, ...]:
    feature = info.features.get(layouts.SCENE_KEY)
    return info.columns(layouts.SCENE_KEY, (), "") if feature is not None and feature.get("names") else ()


def _own_scale(root: Path, own: dict[str, Any]) -> ActionScale:
    try:
        return ActionScale(**own["action_scale"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{root}/{layouts.OWN_METADATA_PATH} has no action_scale ({error}); export it anew") from None


def _source(info: Info, layout: LeRobotLayout) -> Source:
    """With the hash of every file that is read, and of the options."""
    options = layout.changed()
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
    folders = ["meta", "data"] + [
        f"videos/{key}" for key in (layout.static_key, layout.gripper_key) if info.is_video(key)
    ]
    for folder in folders:
        for path in sorted(item for item in (info.root / folder).rglob("*") if item.is_file()):
            digest.update(path.relative_to(info.root).as_posix().encode())
            with open(path, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return Source(info.root.name, "lerobot", digest.hexdigest(), options)


def mark_json(annotation: Annotation) -> dict[str, Any]:
    """What the export stores of a mark beside its frame."""
    values = asdict(annotation)
    del values["frame"]
    return values
