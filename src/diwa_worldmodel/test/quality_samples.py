"""A flawless Quality to spoil, and small data sets with known contents, for tests of the quality report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from diwa_worldmodel.dataset.config import DataSetConfig
from diwa_worldmodel.dataset.quality import (
    CameraImages,
    Episodes,
    Gripper,
    Images,
    Quality,
    RecordingQuality,
    Saturation,
    SceneQuantity,
    Skew,
    Skill,
    Stillness,
    Timeline,
    TopicQuality,
    Workspace,
)
from diwa_worldmodel.dataset.records import Annotation, Episode, Histogram, Source, Statistics, TopicReport
from diwa_worldmodel.dataset.store import DataSet, create_data_set, open_data_set, open_or_create

CAMERA_TOPICS = (
    ("/diwa/static_camera/image_raw", "static_image"),
    ("/diwa/gripper_camera/image_raw", "gripper_image"),
)


def flawless() -> Quality:
    """20 minutes of play without a fault."""
    frames = 9000
    counts = Histogram((-1.0, 0.0, 1.0), (4000, 5000))
    return Quality(
        name="flawless",
        frames=frames,
        steps=frames - 10,
        recorded_s=1210.0,
        usable_s=(frames - 10) / 7.5,
        recordings=(RecordingQuality("monday", "bag", frames, 10, 1210.0, 0, 60, 1.0),),
        topics=tuple(
            TopicQuality(topic, role, 36_000, 30.0, 30.0, 0, 0, 0, 0, 0.04, 0.0, "monday", 30.0)  # type: ignore[arg-type]
            for topic, role in CAMERA_TOPICS
        ),
        skew=Skew(counts, {"p50": 0.5, "p95": 1.0, "p99": 1.0}),
        frames_left_out={"gap": 0, "skew": 0, "state": 0, "command": 0, "image": 0},
        episode_ends={"gap": 0, "end": 10},
        episodes=Episodes(10, 100.0, 120.0, 140.0, 0, 0, counts),
        saturation=Saturation(frames - 10, 0, 0),
        actions=(),
        speeds=(),
        workspace=Workspace((0.3, -0.3, 0.0), (0.7, 0.3, 0.4), 200, 0.2, ()),
        scene=(SceneQuantity("drawer_m", 0.0, 0.17, 9, counts),),
        stillness=Stillness(100, 0.01, 1.2, "monday at 0:10 min"),
        gripper=Gripper(60, 60, 6.0, 0.5),
        skills=(Skill("open-drawer", 50, 10),),
        timeline=Timeline(3.0, (0.0,) * 400, (0.5,) * 400, (1.0,), (2.0,), (0.0,)),
        images=Images(
            (CameraImages("static", 1000, 0, 0, 900, 0), CameraImages("gripper", 1000, 0, 0, 900, 0)), 1000, 0
        ),
        not_imported=(),
        notes=(),
    )


def with_topic(number: int = 0, **changes: float) -> Quality:
    """Flawless but for the static (0) or gripper (1) camera's topic."""
    topics = list(flawless().topics)
    topics[number] = replace(topics[number], **changes)  # type: ignore[arg-type]
    return replace(flawless(), topics=tuple(topics))


def with_images(**changes: int) -> Quality:
    """Flawless but for the static camera's images."""
    images = flawless().images
    return replace(
        flawless(), images=replace(images, cameras=(replace(images.cameras[0], **changes), images.cameras[1]))
    )


def noise_images(count: int, seed: int, size: int = 8) -> np.ndarray:
    """(count, size, size, 3), all different."""
    return np.random.default_rng(seed).integers(30, 220, (count, size, size, 3)).astype(np.uint8)


def walk(count: int, step_m: float = 0.01) -> np.ndarray:
    """(count, 10) proprioception: along x by ``step_m`` a frame, hand down, fingers 8 cm apart."""
    proprio = np.zeros((count, 10), np.float32)
    proprio[:, 0] = 0.3 + step_m * np.arange(count)
    proprio[:, 3], proprio[:, 7], proprio[:, 9] = 1.0, -1.0, 0.08
    return proprio


def reports(messages: int, dropped: int = 0) -> tuple[TopicReport, ...]:
    return tuple(
        TopicReport(topic, role, messages, 30.0, 30.0, dropped)  # type: ignore[arg-type]
        for topic, role in CAMERA_TOPICS
    )


def add_recording(
    path: Path,
    name: str,
    frames: int,
    episodes: Sequence[tuple[int, int]] = (),
    annotations: Sequence[Annotation] = (),
    statistics: Statistics | None = None,
    proprio: np.ndarray | None = None,
    action: np.ndarray | None = None,
    static: np.ndarray | None = None,
    gripper: np.ndarray | None = None,
    scene: dict[str, np.ndarray] | None = None,
) -> DataSet:
    """One more recording in the data set at ``path``; noise for images, a straight walk, an open gripper by default."""
    static = noise_images(frames, 1) if static is None else static
    gripper = noise_images(frames, 2) if gripper is None else gripper
    data_set = open_or_create(path, DataSetConfig(image_size_px=static.shape[1]))
    action = np.zeros((frames, 7), np.float32) if action is None else action.astype(np.float32)
    action[action[:, 6] == 0.0, 6] = 1.0
    source = Source(name, "bag", f"{len(data_set.recordings):02d}" * 32)
    with data_set.writing(), data_set.add_recording(source, tuple(scene or {})) as writer:
        writer.append(
            static,
            gripper,
            walk(frames) if proprio is None else proprio,
            action,
            1_700_000_000_000_000_000 + np.rint(np.arange(frames) * 1e9 / 7.5).astype(np.int64),
            np.stack(list(scene.values()), axis=1).astype(np.float32) if scene else None,
        )
        bounds = [Episode(*bound) for bound in episodes or ((0, frames),)]
        writer.finish(bounds, annotations, statistics or Statistics(duration_s=frames / 7.5))
    return open_data_set(path)


def empty_data_set(path: Path) -> DataSet:
    return create_data_set(path, DataSetConfig(image_size_px=8))
