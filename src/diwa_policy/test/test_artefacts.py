"""Policies and classifiers on disk: they come back as they were, and are refused where they do not belong together."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from policy_samples import (
    LATENT,
    SKILL,
    saved_policy,
    saved_reward,
    small_classifier,
    small_config,
    small_policy,
)

from diwa_conventions.errors import UserError
from diwa_policy.artefacts import (
    POLICY,
    PolicyMetadata,
    RewardMetadata,
    as_trained,
    check_lineage,
    load_policy,
    load_reward,
    save_policy,
    save_reward,
)
from diwa_policy.config import PretrainingConfig
from diwa_policy.policy import Policy
from diwa_worldmodel.artefact import LoadedWorldModel, save_artefact, save_world_model
from diwa_worldmodel.settings import to_mapping

METADATA = PolicyMetadata(
    SKILL, "ab" * 32, "cd" * 32, "tiny", 41, base_hash="ef" * 32, reward_hash="01" * 32, origin="dreams", iteration=30,
    imagined_steps=250_000, promoted=False, reasons=("dreams of success that other seeds do not share",),
)  # fmt: skip


def chains(policy: Policy) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(5, policy.steps + 1, policy.chunk, generator=generator)
    return policy.sample(torch.randn(5, LATENT, generator=generator), noise)


def policy_error(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_policy(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("fine_tuned_steps", [0, 2])
@pytest.mark.parametrize("kind", ["diffusion", "gaussian"])
def test_a_loaded_policy_samples_the_same_chunks(tmp_path: Path, kind: str, fine_tuned_steps: int) -> None:
    policy = small_policy(kind, fine_tuned_steps=fine_tuned_steps)
    if policy.tuned is not None:
        torch.nn.init.normal_(next(policy.tuned.parameters()), std=0.1)  # as fine-tuning leaves it: not the same
    saved = save_policy(tmp_path / "policy", policy, METADATA, small_config())
    before = torch.random.get_rng_state()
    loaded = load_policy(tmp_path / "policy")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(chains(loaded.policy), chains(policy))
    assert loaded.hash == saved and not loaded.policy.training and loaded.folder == tmp_path / "policy"
    assert loaded.policy.fine_tuned_steps == policy.fine_tuned_steps == loaded.metadata.fine_tuned_steps


def test_what_a_policy_was_made_from_comes_back(tmp_path: Path) -> None:
    save_policy(tmp_path / "policy", small_policy(fine_tuned_steps=2), METADATA, small_config())
    found = load_policy(tmp_path / "policy")
    expected = replace(METADATA, latent=LATENT, fine_tuned_steps=2, software=found.metadata.software)
    assert found.metadata == expected
    assert found.metadata.software["torch"] == torch.__version__
    assert found.config == to_mapping(small_config())


def test_the_policys_own_shape_is_saved_whatever_the_rest_of_the_config_says(tmp_path: Path) -> None:
    policy = small_policy(planned_actions=6)
    save_policy(tmp_path / "policy", policy, METADATA, small_config())
    assert load_policy(tmp_path / "policy").policy.config == policy.config


def test_a_loaded_classifier_says_the_same(tmp_path: Path) -> None:
    classifier = small_classifier()
    classifier.threshold.fill_(0.75)
    metadata = RewardMetadata(SKILL, "ab" * 32, "cd" * 32, "tiny", LATENT, (33, 8), {"recall": 0.9})
    saved = save_reward(tmp_path / "reward", classifier, metadata, small_config())
    loaded = load_reward(tmp_path / "reward")
    latents = torch.randn(7, LATENT, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded.classifier.probability(latents), classifier.probability(latents))
    assert float(loaded.classifier.threshold) == 0.75
    assert loaded.metadata == replace(metadata, software=loaded.metadata.software)
    assert loaded.hash == saved and not loaded.classifier.training


def test_a_policy_is_not_read_as_a_classifier(tmp_path: Path) -> None:
    saved_policy(tmp_path / "policy", "ab" * 32)
    with pytest.raises(UserError, match="expected a reward classifier: 'diwa-reward' version 1, as made by: diwa rew"):
        load_reward(tmp_path / "policy")


def test_a_missing_folder_is_named_with_what_makes_one(tmp_path: Path) -> None:
    assert f"there is no policy {tmp_path / 'none'}; make one with: diwa pretrain" in policy_error(tmp_path / "none")


@pytest.mark.parametrize(
    ("change", "line"),
    [({"iteration": None}, "metadata.json has no 'iteration'"), ({"mood": 1}, "metadata.json has an unknown 'mood'")],
)
def test_other_metadata_is_another_version(tmp_path: Path, change: dict[str, int | None], line: str) -> None:
    policy = small_policy()
    save_policy(tmp_path / "policy", policy, METADATA, small_config())
    metadata = json.loads((tmp_path / "policy" / "metadata.json").read_text())["metadata"]
    changed = {name: value for name, value in {**metadata, **change}.items() if name not in change or value}
    save_artefact(tmp_path / "policy", POLICY, policy.state_dict(), to_mapping(small_config()), changed)
    assert f"of another version of this software: {line}" in policy_error(tmp_path / "policy")


def test_a_config_of_another_version_is_refused_by_its_key(tmp_path: Path) -> None:
    policy = small_policy()
    save_policy(tmp_path / "policy", policy, METADATA, small_config())
    metadata = json.loads((tmp_path / "policy" / "metadata.json").read_text())["metadata"]
    config = {**to_mapping(small_config()), "policy": {"flow": True}}
    save_artefact(tmp_path / "policy", POLICY, policy.state_dict(), config, metadata)
    assert "another version of this software: unknown setting 'policy.flow'" in policy_error(tmp_path / "policy")


def test_what_an_artefact_was_trained_with_comes_back(tmp_path: Path) -> None:
    found = saved_policy(tmp_path / "policy", "ab" * 32)
    assert as_trained(PretrainingConfig, "pretraining", found) == small_config().pretraining


def test_training_settings_of_another_version_are_refused_with_the_folder(tmp_path: Path) -> None:
    found = replace(saved_policy(tmp_path / "policy", "ab" * 32), config={"pretraining": {"warmth": 1}})
    with pytest.raises(UserError) as caught:
        as_trained(PretrainingConfig, "pretraining", found)
    line = f"{found.folder} is of another version of this software: unknown setting 'pretraining.warmth'"
    assert str(caught.value).startswith(line) and str(caught.value).endswith(f"make it anew with: {POLICY.command}")


class TestLineage:
    def test_what_belongs_together_passes(self, tmp_path: Path, world_model: LoadedWorldModel) -> None:
        policy = saved_policy(tmp_path / "policy", world_model.hash)
        check_lineage(world_model, policy, saved_reward(tmp_path / "reward", world_model.hash))

    def test_a_policy_of_another_world_model_is_refused_with_the_command(
        self, tmp_path: Path, world_model: LoadedWorldModel
    ) -> None:
        policy = saved_policy(tmp_path / "policy", "ab" * 32)
        with pytest.raises(UserError) as caught:
            check_lineage(world_model, policy)
        line = str(caught.value)
        assert f"{policy.folder} is a policy on the latents of world model abababababab" in line
        assert f"{world_model.folder} is {world_model.hash[:12]}" in line
        assert line.endswith(f"diwa pretrain {world_model.folder} DEMONSTRATIONS --task push-left --out OUT")

    def test_so_is_a_classifier(self, tmp_path: Path, world_model: LoadedWorldModel) -> None:
        policy, reward = (
            saved_policy(tmp_path / "policy", world_model.hash),
            saved_reward(tmp_path / "reward", "ab" * 32),
        )
        with pytest.raises(UserError, match="is a reward classifier on the latents of .* diwa reward "):
            check_lineage(world_model, policy, reward)

    def test_a_classifier_of_another_task_is_refused(self, tmp_path: Path, world_model: LoadedWorldModel) -> None:
        policy = saved_policy(tmp_path / "policy", world_model.hash)
        reward = saved_reward(tmp_path / "reward", world_model.hash, skill="push-right")
        with pytest.raises(UserError, match="a policy for 'push-left', .* a reward classifier for 'push-right'"):
            check_lineage(world_model, policy, reward)

    def test_a_world_model_that_was_trained_on_is_another_one(
        self, tmp_path: Path, world_model: LoadedWorldModel
    ) -> None:
        policy = saved_policy(tmp_path / "policy", world_model.hash)
        metadata = replace(world_model.metadata, steps=world_model.metadata.steps + 1)
        again = save_world_model(tmp_path / "world_model", world_model.model, world_model.config, metadata)
        with pytest.raises(UserError, match="policy on the latents of world model"):
            check_lineage(replace(world_model, hash=again), policy)
