"""Small world models, demonstrations, policies and classifiers for tests: a square that is pushed to the left or right.

world_model = small_world_model(tmp_path / "world_model")
data_set = small_demonstrations(tmp_path / "demonstrations")       # SKILL and OTHER_SKILL, successes and failures
Pretrain(world_model.folder, data_set.path, task=SKILL, out=tmp_path / "policy", config=small_yaml(tmp_path)).run()
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import yaml

from diwa_conventions.actions import ACTION_DIM, GRIPPER_INDEX
from diwa_policy.artefacts import (
    LoadedPolicy,
    LoadedReward,
    PolicyMetadata,
    RewardMetadata,
    load_policy,
    load_reward,
    save_policy,
    save_reward,
)
from diwa_policy.config import Config, PolicyConfig, load_config
from diwa_policy.policy import Policy
from diwa_policy.reward import RewardClassifier
from diwa_worldmodel.artefact import LoadedWorldModel, WorldModelMetadata, load_world_model, save_world_model
from diwa_worldmodel.config import WorldModelConfig
from diwa_worldmodel.dataset.config import DataSetConfig
from diwa_worldmodel.dataset.records import Annotation, Episode, Source
from diwa_worldmodel.dataset.store import DataSet, open_data_set, open_or_create
from diwa_worldmodel.settings import from_mapping, merged
from diwa_worldmodel.world_model import WorldModel

IMAGE_SIZE = 16
SKILL, OTHER_SKILL = "push-left", "push-right"
FRAMES = 12
"""Of each attempt in :func:`small_demonstrations`."""
STEP = 0.15
"""How far the square goes in a step with an action of 1; the picture is 2 wide."""

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
LATENT = 16 + 4 * 4
"""Width of s of :func:`small_world_model`."""
SMALL: Mapping[str, Any] = {
    "policy": {"denoising_steps": 4, "mlp": [16, 16], "step_embedding": 4},
    "pretraining": {"epochs": 4, "batch": 32, "ema_start_epoch": 1, "ema_every": 2, "held_out_share": 0.25},
    "reward": {
        "embedding_mlp": [16, 8],
        "classification_mlp": [8],
        "epochs": 4,
        "dreamed_steps": 2,
        "held_out_share": 0.25,
    },
    "fine_tuning": {
        "reward": "probability",  # dreams that nothing ends early
        "imagined_steps": 128,
        "dreams": 8,
        "decisions": 2,
        "fine_tuned_steps": 2,
        "critic_mlp": [16],
        "epochs": 2,
        "batch": 16,
        "critic_warmup": 1,
    },
}
"""What makes every stage take milliseconds, over the preset ``tiny``."""


def small_config(over: Mapping[str, Any] | None = None) -> Config:
    """Sizes of SMALL, with what the test says instead: ``{"policy": {"kind": "gaussian"}}``."""
    return load_config("tiny", merged(SMALL, over or {}))


def small_yaml(folder: Path, over: Mapping[str, Any] | None = None) -> Path:
    """A file for ``--config`` (with ``--preset tiny``) that says the same as :func:`small_config`."""
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(merged(SMALL, over or {})))
    return path


def small_world_model(folder: Path, seed: int = 0, **model: Any) -> LoadedWorldModel:
    """A saved world model for 16 px images with random weights; another seed gives another hash."""
    config = from_mapping(WorldModelConfig, {"model": {**_MODEL, **model}})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        untrained = WorldModel(config.model)
    metadata = WorldModelMetadata(("ab" * 32,), DataSetConfig(image_size_px=config.model.image_size_px), preset="tiny")
    save_world_model(folder, untrained, config, metadata)
    return load_world_model(folder)


def small_demonstrations(
    path: Path,
    successes: int = 6,
    failures: int = 3,
    skills: Sequence[str] = (SKILL, OTHER_SKILL),
    image_size: int = IMAGE_SIZE,
    seed: int = 0,
) -> DataSet:
    """Attempts at each skill, each in an episode of FRAMES frames that ends in its mark; a recording for each skill.

    The successful ones push the square to their side, the failed ones stop half-way.
    """
    for skill in skills:
        rng = np.random.default_rng((seed, skill == SKILL))
        direction = -1.0 if skill == SKILL else 1.0
        outcomes = [True] * successes + [False] * failures
        parts = [_push(FRAMES, direction, success, rng) for success in outcomes]
        marks = [Annotation((n + 1) * FRAMES - 1, skill, success) for n, success in enumerate(outcomes)]
        episodes = [Episode(n * FRAMES, FRAMES) for n in range(len(outcomes))]
        add_recording(path, skill, parts, episodes, marks, image_size)
    return open_data_set(path)


def long_recording(path: Path, frames: int, marks: Sequence[Annotation], name: str = "long") -> DataSet:
    """A recording of a single episode with these marks; the square goes to and fro."""
    rng = np.random.default_rng(len(marks))
    add_recording(path, name, [_push(frames, 1.0, True, rng)], [Episode(0, frames)], marks)
    return open_data_set(path)


def add_recording(
    path: Path,
    name: str,
    parts: Sequence[Mapping[str, npt.NDArray[Any]]],
    episodes: Sequence[Episode],
    marks: Sequence[Annotation],
    image_size: int = IMAGE_SIZE,
) -> None:
    """One more recording, of parts with ``position`` (T, 2), ``proprio`` (T, 10) and ``action`` (T, 7) each."""
    data_set = open_or_create(path, DataSetConfig(image_size_px=image_size))
    whole = {key: np.concatenate([part[key] for part in parts]) for key in ("position", "proprio", "action")}
    stamps = np.arange(len(whole["action"])) * 133_333_333
    images = [_render(whole["position"], image_size, camera) for camera in (0, 1)]
    source = Source(name, "bag", f"{len(data_set.recordings):02d}" * 32)
    with data_set.writing(), data_set.add_recording(source, ()) as writer:
        writer.append(*images, whole["proprio"], whole["action"], stamps, None)
        writer.finish(episodes, marks)


def _push(count: int, direction: float, success: bool, rng: np.random.Generator) -> dict[str, npt.NDArray[Any]]:
    """``count`` frames of a square that starts in the middle; a push that fails stops half-way."""
    action = np.zeros((count, ACTION_DIM), np.float32)
    until = count - 1 if success else count // 2
    action[:until, 0] = direction * rng.uniform(0.4, 1.0, until)
    action[:until, 1] = rng.uniform(-0.3, 0.3, until)
    action[:, GRIPPER_INDEX] = np.where(np.arange(count) < count // 2, 1.0, -1.0)
    position = np.zeros((count, 2), np.float32)
    position[0] = rng.uniform(-0.1, 0.1, 2)
    for t in range(1, count):
        position[t] = np.clip(position[t - 1] + STEP * action[t - 1, :2], -0.8, 0.8)
    proprio = np.zeros((count, 10), np.float32)
    proprio[:, :2], proprio[:, 3], proprio[:, 7], proprio[:, 9] = position, 1.0, 1.0, 0.08
    return {"position": position, "proprio": proprio, "action": action}


def _render(position: npt.NDArray[np.float32], size: int, camera: int) -> npt.NDArray[np.uint8]:
    """Images (T, S, S, 3) of a white square at ``position`` (T, 2); mirrored for the second camera."""
    centres = (np.arange(size) + 0.5) / size * 2.0 - 1.0
    across = position[:, :1] * (-1.0 if camera else 1.0)
    inside = (np.abs(centres - across) < 0.3)[:, None, :] & (np.abs(centres - position[:, 1:]) < 0.3)[:, :, None]
    return np.where(inside[..., None], 255, (90, 60, 30)).astype(np.uint8)


def small_policy(
    kind: str = "diffusion", latent: int = LATENT, fine_tuned_steps: int = 0, seed: int = 0, **policy: Any
) -> Policy:
    """A policy with random weights, in evaluation mode."""
    config = small_config({"policy": {"kind": kind, **policy}}).policy
    return policy_of(config, latent, fine_tuned_steps, seed)


def policy_of(config: PolicyConfig, latent: int = LATENT, fine_tuned_steps: int = 0, seed: int = 0) -> Policy:
    """The same from its config."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Policy(config, latent, fine_tuned_steps).eval()


def small_classifier(latent: int = LATENT, seed: int = 0) -> RewardClassifier:
    """A reward classifier with random weights, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RewardClassifier(small_config().reward, latent).eval()


def saved_policy(
    folder: Path, world_model_hash: str, policy: Policy | None = None, skill: str = SKILL, **metadata: Any
) -> LoadedPolicy:
    """An untrained policy as an artefact."""
    about = PolicyMetadata(skill, world_model_hash, "cd" * 32, "tiny", demonstrations=6)
    described = PolicyMetadata(**{**about.__dict__, **metadata})
    save_policy(folder, policy or small_policy(), described, small_config())
    return load_policy(folder)


def saved_reward(
    folder: Path,
    world_model_hash: str,
    classifier: RewardClassifier | None = None,
    skill: str = SKILL,
    latent: int = LATENT,
) -> LoadedReward:
    """An untrained reward classifier as an artefact."""
    metadata = RewardMetadata(skill, world_model_hash, "cd" * 32, "tiny", latent, (7, 2), {"recall": 0.5})
    save_reward(folder, classifier or small_classifier(latent), metadata, small_config())
    return load_reward(folder)
