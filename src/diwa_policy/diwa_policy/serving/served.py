"""All that acts, checked to belong together: world model, policy, reward classifier, bounds on surprise."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diwa_conventions.actions import ACTION_DIM
from diwa_conventions.errors import UserError
from diwa_policy.artefacts import LoadedPolicy, LoadedReward, check_lineage, load_policy, load_reward
from diwa_policy.serving.frames import STEP_NS
from diwa_policy.serving.inference import Backend, Inference, inference
from diwa_policy.serving.views import likeness
from diwa_worldmodel.artefact import LoadedWorldModel, load_world_model
from diwa_worldmodel.latent_filter import FilterFrame, LatentFilter
from diwa_worldmodel.world_model import PROPRIO_DIM

EVALUATION = "evaluation/evaluation.json"
"""In a world model's folder, by ``diwa evaluate world-model``."""


@dataclass(frozen=True)
class SurpriseBounds:
    """On the filter's KL [nat], as ``diwa evaluate world-model`` found them on held-out recordings; inf: none."""

    one_step: float = math.inf
    mean: float = math.inf
    """Over :attr:`mean_steps` steps."""
    mean_steps: int = 8
    warmup_steps: int = 8
    """First steps of a run that do not count."""


@dataclass(frozen=True)
class Served:
    """What one run acts with."""

    world_model: LoadedWorldModel
    policy: LoadedPolicy
    reward: LoadedReward | None
    bounds: SurpriseBounds
    inference: Inference
    warnings: tuple[str, ...]
    """What is missing or doubtful, a line each."""

    @property
    def skill(self) -> str:
        return self.policy.metadata.skill

    @property
    def threshold(self) -> float:
        """The classifier's; NaN without one."""
        return float(self.reward.classifier.threshold) if self.reward else math.nan


def load_served(
    policy: Path,
    world_model: Path,
    reward: Path | None = None,
    backend: Backend = "auto",
    device: torch.device | str = "cpu",
    known: dict[str, Inference] | None = None,
) -> Served:
    """UserError for what is missing or does not belong together, and for models that a robot cannot serve.

    ``known``: inferences by policy hash, to be used and added to; making one takes seconds.
    """
    model, loaded = load_world_model(world_model, device), load_policy(policy)
    classifier = load_reward(reward) if reward else None
    if classifier is not None:
        classifier.classifier.to(device)
    check_lineage(model, loaded, *([classifier] if classifier else []))
    check_servable(model)
    warnings = []
    bounds = read_bounds(model)
    if not math.isfinite(bounds.mean):
        warnings.append(
            f"{world_model} was never evaluated: surprise has no bound and stops nothing; run: "
            f"diwa evaluate world-model {world_model} --data DATA"
        )
    if classifier is None:
        warnings.append("there is no reward classifier: runs end at the time limit alone (parameter reward)")
    if loaded.metadata.promoted is False:
        reasons = "; ".join(loaded.metadata.reasons) or "no reason was kept"
        warnings.append(f"{policy} was not promoted by its fine-tuning: {reasons}")
    known = {} if known is None else known
    if loaded.hash not in known:
        known[loaded.hash] = inference(loaded.policy, backend, device)
    return Served(model, loaded, classifier, bounds, known[loaded.hash], tuple(warnings))


def rehearse(served: Served, steps: int = 3) -> None:
    """Let the filter see and the policy decide: first times take longer, and should not in a run."""
    config, policy = served.world_model.config.model, served.policy.policy
    latent_filter = LatentFilter(served.world_model.model)
    black = np.zeros((1, config.image_size_px, config.image_size_px, 3), np.uint8)
    for step in range(steps):
        images = dict.fromkeys(config.cameras, black)
        frame = FilterFrame(images, np.zeros((1, PROPRIO_DIM), np.float32), np.array([step * STEP_NS]))
        output = latent_filter.update(frame, np.zeros((1, ACTION_DIM), np.float32))
        served.inference.decide(output.latent, torch.zeros(1, policy.steps + 1, policy.chunk))
        likeness(served.world_model.model, output.latent, {name: image[0] for name, image in images.items()})


def check_servable(world_model: LoadedWorldModel) -> None:
    """UserError for models that need what a robot does not have."""
    config = world_model.config.model
    if config.scene_state:
        raise UserError(
            f"{world_model.folder} is a hybrid world model that needs the scene's true state; a robot has none: train "
            "one with --set model.scene_state=0"
        )
    if config.action_chunk != 1:
        raise UserError(
            f"{world_model.folder} takes {config.action_chunk} actions a step; policies act on world models that take "
            "one: train one with --set model.action_chunk=1"
        )
    if set(config.cameras) != {"static", "gripper"}:
        raise UserError(
            f"{world_model.folder} sees {', '.join(config.cameras)}; the policy node has static and gripper"
        )


def read_bounds(world_model: LoadedWorldModel) -> SurpriseBounds:
    """From the world model's evaluation; none where it was not evaluated. UserError for a file that is another's."""
    path = world_model.folder / EVALUATION
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return SurpriseBounds()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); make it anew: {_anew(world_model)}") from None
    try:
        found, told = content["surprise"], content["world_model"]["hash"]
        bounds = SurpriseBounds(
            float(found["one_step"]["bound"]),
            float(found["mean"]["bound"]),
            int(found["mean"]["steps"]),
            int(found["warmup_steps"]),
        )
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} has no bounds on surprise; make it anew: {_anew(world_model)}") from None
    if told != world_model.hash:
        raise UserError(f"{path} is about another world model ({told[:12]}); make it anew: {_anew(world_model)}")
    return bounds


def _anew(world_model: LoadedWorldModel) -> str:
    return f"diwa evaluate world-model {world_model.folder} --data DATA"
