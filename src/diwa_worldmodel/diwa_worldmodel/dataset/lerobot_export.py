"""LeRobot v3 data sets out, through LeRobot's own data set class (``make setup EXTRA=lerobot``).

Images are kept as PNG inside the Parquet files: without loss, and videos cannot have 7.5 frames per second there.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from diwa_conventions.actions import ACTION_DIM
from diwa_conventions.errors import UserError
from diwa_conventions.rates import TRAIN_RATE_HZ
from diwa_worldmodel.dataset import lerobot_layout as layouts
from diwa_worldmodel.dataset.lerobot_import import PLAY, mark_json
from diwa_worldmodel.dataset.records import Annotation, Episode
from diwa_worldmodel.dataset.store import DataSet, Recording, read

ROBOT_TYPE = "panda"
ATTEMPT_FRAMES = 75
"""Frames (10 s) before a mark that count as the attempt at its skill, unless another mark or the episode is nearer."""

_OUR_FORMAT = {"format": "diwa-lerobot", "version": 1}


def export_lerobot(data_set: DataSet, out: Path, progress: Callable[[int, int], None]) -> None:
    """Write all recordings as one LeRobot data set in the new folder ``out``; ``progress(frames, frames in all)``.

    UserError if the folder exists, the data set is empty or the extra is not installed.
    """
    if out.exists():
        raise UserError(f"{out} exists already; choose another folder for the LeRobot data set")
    if not data_set.recordings:
        raise UserError(f"{data_set.path} holds no recordings; fill it with: diwa import BAG --out {data_set.path}")
    kind = lerobot_class()
    partial = out.parent / f".partial-{out.name}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _write(kind, data_set, partial, out.name, progress)
        _write_own_metadata(data_set, partial)
        os.rename(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def lerobot_class() -> Any:
    """LeRobotDataset, made to stay off the network. UserError if the extra is not installed."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        _import_torchvision()
        import datasets
        from ledataset.datasets.lerobot_dataset import LeRobotDataset
    except ImportError as error:
        raise UserError(
            f"writing LeRobot data sets needs an extra that is not installed ({error}): {layouts.INSTALL}"
        ) from None
    datasets.disable_progress_bars()
    return LeRobotDataset


def _import_torchvision() -> None:
    """The package index has it for CUDA builds of torch only: beside a CPU build its compiled operators do not load,
    and then it fails to describe two of them. LeRobot uses none: names without a function are enough."""
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        from torch import library

        names: Any = library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for name in ("nms", "qnms"):
            names.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(names)
        import torchvision  # noqa: F401


_KEPT: list[Any] = []
"""Names of operators vanish with their library object."""


def _write(kind: Any, data_set: DataSet, root: Path, name: str, progress: Callable[[int, int], None]) -> None:
    scene_names = _common_scene_names(data_set)
    target = kind.create(
        repo_id=f"diwa/{name}",
        fps=TRAIN_RATE_HZ,
        features=features(data_set.config.image_size_px, scene_names),
        root=root,
        robot_type=ROBOT_TYPE,
        use_videos=False,
        video_backend="pyav",
    )
    try:
        _add_episodes(target, data_set, bool(scene_names), progress)
    finally:
        target.finalize()  # otherwise its destructor would write, into a folder that may be gone
    shutil.rmtree(root / "images", ignore_errors=True)  # empty folders of images that are in the Parquet files by now


def _add_episodes(target: Any, data_set: DataSet, with_scene: bool, progress: Callable[[int, int], None]) -> None:
    done = 0
    for recording in data_set.recordings:
        for episode in recording.episodes:
            for frame in _frames(recording, episode, with_scene):
                target.add_frame(frame)
                done += 1
                progress(done, data_set.frames)
            with warnings.catch_warnings():
                # its statistics of truth values
                warnings.filterwarnings("ignore", "Converting input from bool", RuntimeWarning)
                target.save_episode()


def features(image_size_px: int, scene_names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """LeRobot's description of our frames."""
    image = {"dtype": "image", "shape": (image_size_px, image_size_px, 3), "names": ["height", "width", "channels"]}
    state_dim = len(layouts.STATE_NAMES)
    described: dict[str, dict[str, Any]] = {
        layouts.STATIC_KEY: dict(image),
        layouts.GRIPPER_KEY: dict(image),
        layouts.STATE_KEY: {"dtype": "float32", "shape": (state_dim,), "names": list(layouts.STATE_NAMES)},
        layouts.ACTION_KEY: {"dtype": "float32", "shape": (ACTION_DIM,), "names": list(layouts.ACTION_NAMES)},
        layouts.SUCCESS_KEY: {"dtype": "bool", "shape": (1,), "names": None},
        layouts.STAMP_KEY: {"dtype": "int64", "shape": (2,), "names": list(layouts.STAMP_NAMES)},
        layouts.MARKS_KEY: {"dtype": "string", "shape": (1,), "names": None},
    }
    if scene_names:
        shape = (len(scene_names),)
        described[layouts.SCENE_KEY] = {"dtype": "float32", "shape": shape, "names": list(scene_names)}
    return described


def _frames(recording: Recording, episode: Episode, with_scene: bool) -> Iterator[dict[str, Any]]:
    """The episode's frames as LeRobotDataset.add_frame takes them."""
    taken = slice(episode.start, episode.end)
    tasks = episode_tasks(episode, recording.annotations)
    marks = [mark for mark in recording.annotations if episode.start <= mark.frame < episode.end]
    arrays = {
        layouts.STATIC_KEY: read(recording, "static", taken),
        layouts.GRIPPER_KEY: read(recording, "gripper", taken),
        layouts.STATE_KEY: read(recording, "proprio", taken),
        layouts.ACTION_KEY: read(recording, "action", taken),
        layouts.STAMP_KEY: np.stack(np.divmod(read(recording, "stamp_ns", taken), 1_000_000_000), axis=1),
        layouts.SUCCESS_KEY: _success(episode, marks)[:, None],
    }
    if with_scene and recording.scene_state is not None:
        arrays[layouts.SCENE_KEY] = read(recording, "scene_state", taken)
    for index in range(episode.length):
        here = [mark_json(mark) for mark in marks if mark.frame == episode.start + index]
        frame = {key: values[index] for key, values in arrays.items()}
        yield {**frame, layouts.MARKS_KEY: json.dumps(here) if here else "", "task": tasks[index]}


def episode_tasks(episode: Episode, annotations: tuple[Annotation, ...]) -> list[str]:
    """The task of each frame: the skill of the next mark within ATTEMPT_FRAMES, "play" elsewhere."""
    tasks = [PLAY] * episode.length
    begin = episode.start
    for mark in sorted(annotations, key=lambda mark: mark.frame):
        if episode.start <= mark.frame < episode.end:
            for frame in range(max(begin, mark.frame - ATTEMPT_FRAMES), mark.frame + 1):
                tasks[frame - episode.start] = mark.skill
            begin = mark.frame + 1
    return tasks


def _success(episode: Episode, marks: list[Annotation]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """(length,): true where the step leads to a frame that is marked as a success."""
    success = np.zeros(episode.length, np.bool_)
    for mark in marks:
        if mark.success:
            success[max(0, mark.frame - episode.start - 1)] = True
    return success


def _common_scene_names(data_set: DataSet) -> tuple[str, ...]:
    """LeRobot's features hold for all episodes: the scene state goes along where all recordings have the same one."""
    kinds = {recording.scene_state_names for recording in data_set.recordings}
    return kinds.pop() if len(kinds) == 1 else ()


def _write_own_metadata(data_set: DataSet, root: Path) -> None:
    first = 0
    recordings = []
    for recording in data_set.recordings:
        recordings.append(
            {
                "id": recording.id,
                "source": asdict(recording.source),
                "first_episode": first,
                "episodes": len(recording.episodes),
                "content_hash": recording.content_hash,
                "software": recording.software,
            }
        )
        first += len(recording.episodes)
    content = {
        **_OUR_FORMAT,
        "rate_hz": TRAIN_RATE_HZ,
        "action_scale": asdict(data_set.config.scale),
        "data_set_hash": data_set.hash(),
        "recordings": recordings,
    }
    (root / layouts.OWN_METADATA_PATH).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
