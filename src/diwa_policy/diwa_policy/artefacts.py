"""Policies and reward classifiers on disk, and whether they belong together.

    POLICY/ and REWARD/ hold model.safetensors, config.yaml and metadata.json, as every artefact does

    save_policy(folder, policy, PolicyMetadata(skill=..., world_model_hash=..., ...), config)
    loaded = load_policy(folder)                        # .policy .metadata .hash .config
    check_lineage(world_model, loaded, load_reward(other_folder))
    check_pretrained(loaded)

A policy works on the latents of one world model and no other: both name that world model's hash.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import torch

from diwa_conventions.errors import UserError
from diwa_policy.config import Config, PolicyConfig, PretrainingConfig, RewardConfig
from diwa_policy.policy import Policy
from diwa_policy.reward import RewardClassifier
from diwa_worldmodel.artefact import METADATA, Artefact, Kind, LoadedWorldModel, fill, load_artefact, save_artefact
from diwa_worldmodel.dataset.recording_writer import software
from diwa_worldmodel.dataset.records import HASH_DIGITS
from diwa_worldmodel.settings import from_mapping, to_mapping

POLICY = Kind("diwa-policy", 1, "policy", "diwa pretrain WORLD_MODEL DEMONSTRATIONS --task TASK --out OUT")
REWARD = Kind("diwa-reward", 1, "reward classifier", "diwa reward WORLD_MODEL DEMONSTRATIONS --task TASK --out OUT")
SOFTWARE = ("diwa_policy", "diwa_worldmodel", "torch", "safetensors", "numpy")

Origin: TypeAlias = Literal["pretrained", "dreams", "environment"]
Described = TypeVar("Described", "PolicyMetadata", "RewardMetadata")
Part = TypeVar("Part", PolicyConfig, PretrainingConfig, RewardConfig)


@dataclass(frozen=True)
class PolicyMetadata:
    """What a policy was made from. :func:`save_policy` fills in ``latent``, ``fine_tuned_steps`` and ``software``."""

    skill: str
    """Its task, as the demonstrations' marks call it."""
    world_model_hash: str
    data_set_hash: str
    """Of the demonstrations."""
    preset: str
    demonstrations: int
    """Successes that it imitates."""
    latent: int = 0
    """Width of s."""
    fine_tuned_steps: int = 0
    """K'; 0 for a policy that only imitates."""
    base_hash: str = ""
    """Of the pre-trained policy that it was fine-tuned from."""
    reward_hash: str = ""
    """Of the classifier that paid it."""
    origin: Origin = "pretrained"
    """How it came about: by imitation alone, or fine-tuned in dreams or in the environment."""
    iteration: int = 0
    """Of fine-tuning."""
    imagined_steps: int = 0
    """Dreamed steps it has learned from."""
    environment_steps: int = 0
    """Steps in the true environment it has learned from."""
    promoted: bool | None = None
    """Whether the offline signals speak for it; None: never judged."""
    reasons: tuple[str, ...] = ()
    """Why it was promoted, or not."""
    software: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RewardMetadata:
    """What a classifier was made from. :func:`save_reward` fills in ``software``."""

    skill: str
    world_model_hash: str
    data_set_hash: str
    """Of the demonstrations."""
    preset: str
    latent: int
    """Width of s."""
    attempts: tuple[int, int]
    """Learned from, and held out."""
    measures: Mapping[str, float] = field(default_factory=dict)
    """On the attempts held out, finite numbers: precision, recall, ..."""
    software: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LoadedPolicy:
    """A policy in evaluation mode, with all that its folder says about it."""

    policy: Policy
    metadata: PolicyMetadata
    hash: str
    folder: Path
    config: Mapping[str, Any]
    """Everything it was trained with; ``policy.config`` is the part that describes its shape."""


@dataclass(frozen=True)
class LoadedReward:
    """A reward classifier in evaluation mode, with all that its folder says about it."""

    classifier: RewardClassifier
    metadata: RewardMetadata
    hash: str
    folder: Path
    config: Mapping[str, Any]
    """Everything it was trained with."""


def save_policy(folder: Path, policy: Policy, metadata: PolicyMetadata, config: Config) -> str:
    """Write a policy's folder, whole or not at all; its hash. UserError if something else stands in its place."""
    whole = replace(
        metadata, latent=policy.latent, fine_tuned_steps=policy.fine_tuned_steps, software=software(SOFTWARE)
    )
    told = to_mapping(replace(config, policy=policy.config))
    return save_artefact(folder, POLICY, policy.state_dict(), told, _plain(whole))


def load_policy(folder: Path) -> LoadedPolicy:
    """The policy in a folder, checked; the caller's random numbers are not touched. UserError in a line."""
    artefact = load_artefact(folder, POLICY)
    metadata = _metadata(PolicyMetadata, artefact, folder, POLICY)
    config = _part(PolicyConfig, "policy", artefact.config, folder, POLICY)
    with torch.random.fork_rng(devices=[]):
        policy = Policy(config, metadata.latent, metadata.fine_tuned_steps)
    fill(policy, artefact.tensors, folder)
    return LoadedPolicy(policy.eval(), metadata, artefact.hash, folder, artefact.config)


def save_reward(folder: Path, classifier: RewardClassifier, metadata: RewardMetadata, config: Config) -> str:
    """Write a classifier's folder, whole or not at all; its hash. UserError if something else stands in its place."""
    whole = replace(metadata, software=software(SOFTWARE))
    return save_artefact(folder, REWARD, classifier.state_dict(), to_mapping(config), _plain(whole))


def load_reward(folder: Path) -> LoadedReward:
    """The classifier in a folder, checked; the caller's random numbers are not touched. UserError in a line."""
    artefact = load_artefact(folder, REWARD)
    metadata = _metadata(RewardMetadata, artefact, folder, REWARD)
    config = _part(RewardConfig, "reward", artefact.config, folder, REWARD)
    with torch.random.fork_rng(devices=[]):
        classifier = RewardClassifier(config, metadata.latent)
    fill(classifier, artefact.tensors, folder)
    return LoadedReward(classifier.eval(), metadata, artefact.hash, folder, artefact.config)


def check_lineage(world_model: LoadedWorldModel, *artefacts: LoadedPolicy | LoadedReward) -> None:
    """UserError unless all were made with this world model, and for the same skill."""
    for artefact in artefacts:
        made_with, skill = artefact.metadata.world_model_hash, artefact.metadata.skill
        if made_with != world_model.hash:
            kind = _kind_of(artefact)
            command = kind.command.replace("WORLD_MODEL", str(world_model.folder)).replace("TASK", skill)
            raise UserError(
                f"{artefact.folder} is a {kind.what} on the latents of world model {made_with[:HASH_DIGITS]}, but "
                f"{world_model.folder} is {world_model.hash[:HASH_DIGITS]}: name the world model it was made with, "
                f"or make it anew with: {command}"
            )
    for artefact in artefacts[1:]:
        first = artefacts[0]
        if artefact.metadata.skill != first.metadata.skill:
            raise UserError(
                f"{first.folder} is a {_kind_of(first).what} for {first.metadata.skill!r}, {artefact.folder} a "
                f"{_kind_of(artefact).what} for {artefact.metadata.skill!r}; expected the same task"
            )


def check_pretrained(policy: LoadedPolicy) -> None:
    """UserError for one that was fine-tuned already: what moves away from it would be told against the wrong one."""
    if policy.metadata.fine_tuned_steps:
        raise UserError(
            f"{policy.folder} is fine-tuned already (iteration {policy.metadata.iteration}); name the pre-trained "
            f"policy {policy.metadata.base_hash[:HASH_DIGITS]}, or make one with: {POLICY.command}"
        )


def as_trained(kind: type[Part], name: str, artefact: LoadedPolicy | LoadedReward) -> Part:
    """One table of what an artefact was trained with. UserError that names the folder for one of another version."""
    return _part(kind, name, artefact.config, artefact.folder, _kind_of(artefact))


def _kind_of(artefact: LoadedPolicy | LoadedReward) -> Kind:
    return POLICY if isinstance(artefact, LoadedPolicy) else REWARD


def _plain(metadata: PolicyMetadata | RewardMetadata) -> dict[str, Any]:
    """As JSON gives it back: lists for tuples."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(metadata).items()}


def _metadata(kind: type[Described], artefact: Artefact, folder: Path, made_by: Kind) -> Described:
    """Metadata with all of its parts and no others."""
    found = artefact.metadata
    names = {item.name for item in fields(kind)}
    for name in sorted(names ^ set(found)):
        what = f"no {name!r}" if name in names else f"an unknown {name!r}"
        raise _other_version(folder, f"{METADATA} has {what}", made_by)
    values: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in found.items()}
    return kind(**values)


def _part(kind: type[Part], name: str, config: Mapping[str, Any], folder: Path, made_by: Kind) -> Part:
    """One table of an artefact's config."""
    try:
        return from_mapping(kind, config.get(name, {}), f"{name}.")
    except UserError as error:
        raise _other_version(folder, str(error), made_by) from None


def _other_version(folder: Path, line: str, kind: Kind) -> UserError:
    return UserError(f"{folder} is of another version of this software: {line}; make it anew with: {kind.command}")
