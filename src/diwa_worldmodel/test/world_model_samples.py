"""Small world models, data sets and batches for tests: a square that moves as the actions say, seen by two cameras.

config = small_config(deterministic=8, training={"batch": 2})
data_set = small_data_set(tmp_path / "play", scene_state=True)
losses, state = WorldModel(config.model)(small_batch(config), ...)
"""

from __future__ import annotations

import resource
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from diwa_conventions.actions import ACTION_DIM, GRIPPER_INDEX
from diwa_worldmodel.config import WorldModelConfig
from diwa_worldmodel.dataset.config import DataSetConfig
from diwa_worldmodel.dataset.records import Episode, Source
from diwa_worldmodel.dataset.store import DataSet, open_data_set, open_or_create
from diwa_worldmodel.settings import from_mapping
from diwa_worldmodel.world_model import WorldModelBatch

IMAGE_SIZE = 16
STEP = 0.3
"""How far the square goes in a step with an action of 1; the picture is 2 wide."""
SCENE_STATE_NAMES = ("square_x", "square_y", "lamp")
_BACKGROUNDS = ((90, 90, 90), (30, 30, 90), (90, 60, 30))

_MODEL = {
    "image_size_px": IMAGE_SIZE,
    "deterministic": 16,
    "discrete": 4,
    "classes": 4,
    "hidden": 16,
    "embedding": 16,
    "encoder_depth": 4,
    "decoder_depth": 4,
}
_TRAINING = {"steps": 4, "batch": 4, "length": 8, "learning_rate": 1e-3, "precision": "fp32", "validation_share": 0.2}


def small_config(training: Mapping[str, Any] | None = None, **model: Any) -> WorldModelConfig:
    """A config for 16 px images that takes milliseconds a step, with what the test says instead."""
    return from_mapping(WorldModelConfig, {"model": {**_MODEL, **model}, "training": {**_TRAINING, **(training or {})}})


def small_data_set(
    path: Path,
    frames: int = 240,
    episodes: int = 6,
    scene_state: bool = False,
    image_size: int = IMAGE_SIZE,
    seed: int = 0,
    recordings: int = 2,
) -> DataSet:
    """``frames`` frames in as many episodes, spread evenly over the recordings; another seed adds others to them."""
    config = DataSetConfig(image_size_px=image_size)
    count = frames // episodes
    for number in range(recordings):
        own = len(range(number, episodes, recordings))
        data_set = open_or_create(path, config)
        source = Source(f"play{number}", "bag", f"{seed:06d}{number:06d}" + "0" * 52)
        with data_set.writing(), data_set.add_recording(source, SCENE_STATE_NAMES if scene_state else ()) as writer:
            for episode in range(own):
                played = _play(count, np.random.default_rng((seed, number, episode)))
                images = [render(played["position"], played["open"], image_size, camera) for camera in (0, 1)]
                stamps = np.arange(episode * count, (episode + 1) * count) * 133_333_333
                scene = played["scene_state"] if scene_state else None
                writer.append(*images, played["proprio"], played["action"], stamps, scene)
            writer.finish([Episode(start * count, count) for start in range(own)])
    return open_data_set(path)


def small_batch(config: WorldModelConfig, seed: int = 0, reset: bool = True) -> WorldModelBatch:
    """One batch of the config's sizes and cameras; its streams begin anew at their first frame if ``reset``."""
    model, batch, length = config.model, config.training.batch, config.training.length
    rng = np.random.default_rng(seed)
    chunk = model.action_chunk
    rows = [_play(length * chunk, rng) for _ in range(batch)]
    played = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    actions = played["action"].reshape(batch, length, ACTION_DIM * chunk)
    seen = {name: torch.from_numpy(values[:, ::chunk].copy()) for name, values in played.items()}
    images = {
        name: torch.from_numpy(
            np.stack([render(row["position"], row["open"], model.image_size_px, i)[::chunk] for row in rows])
        )
        for i, name in enumerate(model.cameras)
    }
    first = torch.zeros(batch, length, dtype=torch.bool)
    first[:, 0] = reset
    previous = np.concatenate([np.zeros_like(actions[:, :1]), actions[:, :-1]], axis=1)
    return {
        "images": images,
        "proprio": seen["proprio"],
        "scene_state": _widened(seen["scene_state"], model.scene_state) if model.scene_state else None,
        "previous_action": torch.from_numpy(previous),
        "reset": first,
        "uniforms": torch.rand(batch, length, model.discrete, generator=torch.Generator().manual_seed(seed)),
    }


def _widened(numbers: torch.Tensor, width: int) -> torch.Tensor:
    """(..., N) repeated or cut to (..., ``width``)."""
    return numbers.repeat(1, 1, -(-width // numbers.shape[-1]))[..., :width]


def _play(count: int, rng: np.random.Generator) -> dict[str, npt.NDArray[Any]]:
    """``count`` frames of an episode: actions that keep their direction for a while, and what comes of them."""
    held = -(-count // 4)
    action = np.zeros((count, ACTION_DIM), np.float32)
    action[:, :2] = np.repeat(rng.uniform(-1.0, 1.0, (held, 2)), 4, axis=0)[:count]
    action[:, GRIPPER_INDEX] = np.repeat(rng.choice([-1.0, 1.0], held), 4)[:count]
    position = np.zeros((count, 2), np.float32)
    position[0] = rng.uniform(-0.7, 0.7, 2)
    opened = np.ones(count, np.bool_)
    for t in range(1, count):
        position[t] = np.clip(position[t - 1] + STEP * action[t - 1, :2], -0.7, 0.7)
        opened[t] = action[t - 1, GRIPPER_INDEX] > 0
    proprio = np.zeros((count, 10), np.float32)
    proprio[:, :2] = position
    proprio[:, 3], proprio[:, 7], proprio[:, 9] = 1.0, 1.0, np.where(opened, 0.08, 0.0)
    action[-1, :GRIPPER_INDEX] = 0.0  # zero motion at an episode's last frame, as importers write it
    scene = np.concatenate([position, opened[:, None]], axis=1).astype(np.float32)
    return {"action": action, "position": position, "open": opened, "proprio": proprio, "scene_state": scene}


def render(
    position: npt.NDArray[np.float32], opened: npt.NDArray[np.bool_], image_size: int, camera: int
) -> npt.NDArray[np.uint8]:
    """Images (T, S, S, 3) of a square at ``position`` (T, 2), white where ``opened`` (T,); mirrored for odd cameras."""
    centres = (np.arange(image_size) + 0.5) / image_size * 2.0 - 1.0
    across = position[:, :1] * (-1.0 if camera % 2 else 1.0)
    inside = (np.abs(centres - across) < 0.3)[:, None, :] & (np.abs(centres - position[:, 1:]) < 0.3)[:, :, None]
    colours = np.where(opened[:, None], 255, (200, 60, 20)).astype(np.uint8)
    background = np.array(_BACKGROUNDS[camera], np.uint8)
    return np.where(inside[..., None], colours[:, None, None], background)


@contextmanager
def full_disk(room_bytes: int = 20_000) -> Iterator[None]:
    """No file can become larger."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
