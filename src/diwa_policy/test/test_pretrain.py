"""``diwa pretrain`` as a whole: what it leaves, what it says, what it refuses, and what an interruption leaves."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from policy_samples import (
    LATENT,
    OTHER_SKILL,
    SKILL,
    saved_policy,
    saved_reward,
    small_config,
    small_demonstrations,
    small_policy,
    small_world_model,
    small_yaml,
)

from diwa_conventions.errors import UserError
from diwa_policy import pretraining_run
from diwa_policy.artefacts import check_lineage, load_policy
from diwa_policy.demonstrations import imitation_pairs, load_demonstrations, split_attempts
from diwa_policy.pretrain import Pretrain
from diwa_policy.pretraining import Epoch, imitation_error, imitation_loss
from diwa_worldmodel.artefact import LoadedWorldModel
from diwa_worldmodel.dataset.store import open_data_set
from diwa_worldmodel.settings import to_mapping
from diwa_worldmodel.training.metrics import read_metrics


@pytest.fixture
def options(tmp_path: Path, world_model: LoadedWorldModel, demonstrations_path: Path) -> Pretrain:
    """Four epochs of one step on four demonstrations; two are held out."""
    out, config = tmp_path / "policy", small_yaml(tmp_path)
    return Pretrain(world_model.folder, demonstrations_path, task=SKILL, out=out, preset="tiny", config=config)


def refusal(options: Pretrain) -> str:
    with pytest.raises(UserError) as caught:
        options.run()
    assert "\n" not in str(caught.value) and not (options.out / "model.safetensors").exists()
    return str(caught.value)


# What it leaves


def test_it_leaves_a_policy_that_says_what_it_was_made_from(options: Pretrain, world_model: LoadedWorldModel) -> None:
    assert options.run() == 0
    loaded = load_policy(options.out)
    about = loaded.metadata
    assert (about.skill, about.preset, about.demonstrations, about.latent) == (SKILL, "tiny", 4, LATENT)
    assert about.world_model_hash == world_model.hash
    assert about.data_set_hash == open_data_set(options.demonstrations).hash()
    assert (about.origin, about.fine_tuned_steps, about.base_hash, about.promoted) == ("pretrained", 0, "", None)
    assert loaded.config == to_mapping(small_config())
    check_lineage(world_model, loaded)


def test_it_leaves_metrics_of_every_epoch_and_for_tensorboard(options: Pretrain) -> None:
    options.run()
    lines = read_metrics(options.out / "metrics.jsonl")
    # 4 demonstrations of 12 frames have 44 steps: two batches of up to 32.
    assert [(line["step"], line["epoch"]) for line in lines] == [(2, 1), (4, 2), (6, 3), (8, 4)]
    held_out = {"held_out_loss", "held_out_action_error", "held_out_gripper_error"}
    assert all({"loss", "learning_rate", *held_out} <= line.keys() for line in lines)
    assert len(list((options.out / "tensorboard").iterdir())) == 1
    assert os.listdir(options.out.parent).count("policy") == 1 and not list(options.out.parent.glob(".policy*"))


def test_held_out_demonstrations_are_measured_on_the_policy_that_is_saved(
    options: Pretrain, world_model: LoadedWorldModel
) -> None:
    options.run()
    last, policy = read_metrics(options.out / "metrics.jsonl")[-1], load_policy(options.out).policy
    successes = load_demonstrations(world_model, options.demonstrations, SKILL).successes
    latents, chunks = imitation_pairs(split_attempts(successes, 0.25, 0)[1], 4, 0)
    generator = torch.Generator().manual_seed(0)
    loss = imitation_loss(policy, latents.repeat(8, 1), chunks.repeat(8, 1), generator)
    error = imitation_error(policy, latents, chunks, generator)
    assert last["held_out_loss"] == pytest.approx(float(loss.detach()))
    assert last["held_out_action_error"] == pytest.approx(error.motion)
    assert last["held_out_gripper_error"] == pytest.approx(error.gripper)


def test_held_out_demonstrations_are_looked_at_now_and_then_in_a_long_training(options: Pretrain) -> None:
    replace(options, set=("pretraining.epochs=50",)).run()
    lines = read_metrics(options.out / "metrics.jsonl")
    looked = [line["epoch"] for line in lines if "held_out_loss" in line]
    assert len(lines) == 50 and looked == list(range(2, 51, 2))


def test_same_seed_same_policy_and_another_seed_another(options: Pretrain) -> None:
    hashes = []
    for number, seed in enumerate((1, 1, 2)):
        own = replace(options, out=options.out.with_name(f"policy{number}"), set=(f"pretraining.seed={seed}",))
        own.run()
        hashes.append(load_policy(own.out).hash)
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_other_skill_gives_another_policy_from_the_same_data_set(options: Pretrain) -> None:
    options.run()
    other = replace(options, task=OTHER_SKILL, out=options.out.with_name("other"))
    other.run()
    assert load_policy(other.out).metadata.skill == OTHER_SKILL
    assert load_policy(other.out).hash != load_policy(options.out).hash


@pytest.mark.parametrize(
    "words", [("policy.kind=gaussian",), ("policy.sampler=ddim", "policy.ddim_steps=2"), ("policy.planned_actions=6",)]
)
def test_variants_train_and_load(options: Pretrain, words: tuple[str, ...]) -> None:
    assert replace(options, set=words).run() == 0
    policy = load_policy(options.out).policy
    actions = policy.act(torch.zeros(2, LATENT), torch.zeros(2, policy.steps + 1, policy.chunk))
    assert actions.shape == (2, 6 if "policy.planned_actions=6" in words else 4, 7)


def test_a_policy_that_is_there_is_replaced_with_its_metrics(options: Pretrain) -> None:
    options.run()
    before = load_policy(options.out).hash
    replace(options, set=("pretraining.seed=5", "pretraining.epochs=2")).run()
    assert load_policy(options.out).hash != before
    assert len(read_metrics(options.out / "metrics.jsonl")) == 2


# What it says


def test_it_says_what_it_learned_from_how_well_and_what_comes_next(
    options: Pretrain, capsys: pytest.CaptureFixture[str]
) -> None:
    options.run()
    said = capsys.readouterr()
    assert "4 demonstrations of 'push-left', 44 frames; 2 more held out; 3 failed attempts are not imitated" in said.err
    lines, own_hash = said.out.splitlines(), load_policy(options.out).hash
    assert lines[0] == f"{options.out}: policy for 'push-left' after 8 steps, hash {own_hash[:12]}"
    assert lines[1].startswith("on 2 held-out demonstrations: loss ") and "always the mean action: " in lines[1]
    assert lines[2] == (
        f"next: diwa reward {options.world_model} {options.demonstrations} --task push-left "
        f"--out {options.out}_reward --preset tiny"
    )


def test_without_held_out_demonstrations_nothing_is_said_about_them(
    options: Pretrain, capsys: pytest.CaptureFixture[str]
) -> None:
    replace(options, set=("pretraining.held_out_share=0",)).run()
    assert "held-out" not in capsys.readouterr().out
    assert load_policy(options.out).metadata.demonstrations == 6
    assert not any("held_out_loss" in line for line in read_metrics(options.out / "metrics.jsonl"))


# An interruption


def interrupting(at_epoch: int) -> Callable[..., Any]:
    """What stands in for pretrain, and is interrupted as by Ctrl-C."""

    def pretrain(*words: Any) -> None:
        *_, report = words
        for number in range(1, at_epoch):
            report(Epoch(number, number, 0.5, 1e-3, small_policy()))
        raise KeyboardInterrupt

    return pretrain


def test_an_interruption_says_so_in_a_line_and_leaves_nothing(
    options: Pretrain, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pretraining_run, "pretrain", interrupting(at_epoch=3))
    assert options.run() == 130
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == f"{options.out}: stopped, no policy was saved; the same command begins anew"
    assert said.out == "" and os.listdir(options.out.parent) == ["small.yaml"]


def test_an_interruption_leaves_the_policy_that_was_there(options: Pretrain, monkeypatch: pytest.MonkeyPatch) -> None:
    options.run()
    before = load_policy(options.out).hash
    monkeypatch.setattr(pretraining_run, "pretrain", interrupting(at_epoch=2))
    replace(options, set=("pretraining.seed=5",)).run()
    assert load_policy(options.out).hash == before and len(read_metrics(options.out / "metrics.jsonl")) == 4


# What it refuses


def test_an_unknown_key_is_refused_before_anything_is_read(options: Pretrain) -> None:
    line = refusal(replace(options, world_model=Path("nowhere"), set=("policy.denoise=3",)))
    assert line.startswith("unknown setting 'policy.denoise'")


def test_something_else_in_the_policys_place_is_refused_before_anything_is_read(options: Pretrain) -> None:
    saved_reward(options.out, "ab" * 32)
    with pytest.raises(UserError, match="exists already and is no policy .*choose another folder"):
        replace(options, world_model=Path("nowhere")).run()


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_read(options: Pretrain) -> None:
    blocked = options.out.parent / "file"
    blocked.write_text("")
    line = refusal(replace(options, world_model=Path("nowhere"), out=blocked / "policy"))
    assert line.startswith(f"the policy cannot be written to {blocked}") and line.endswith("with --out")


def test_a_policy_in_the_world_models_place_is_refused(options: Pretrain, tmp_path: Path) -> None:
    policy = saved_policy(tmp_path / "other", "ab" * 32)
    assert "expected a world model" in refusal(replace(options, world_model=policy.folder))


def test_a_task_without_demonstrations_is_refused_with_those_there_are(options: Pretrain) -> None:
    line = refusal(replace(options, task="open-drawer"))
    assert "unknown task" in line and "known: push-left, push-right" in line


def test_a_world_model_for_other_images_is_refused(options: Pretrain, tmp_path: Path) -> None:
    path = small_demonstrations(tmp_path / "large", successes=1, failures=0, image_size=24).path
    assert "images of 24 px" in refusal(replace(options, demonstrations=path))


def test_a_world_model_of_several_actions_a_step_is_refused(options: Pretrain, tmp_path: Path) -> None:
    chunked = small_world_model(tmp_path / "chunked", action_chunk=2)
    assert "takes 2 actions a step" in refusal(replace(options, world_model=chunked.folder))


def test_a_warm_up_longer_than_every_demonstration_is_refused(options: Pretrain) -> None:
    line = refusal(replace(options, set=("policy.warmup_steps=50",)))
    assert "no demonstration of 'push-left'" in line and "policy.warmup_steps 50: set fewer" in line


def test_a_loss_that_is_no_number_leaves_nothing(options: Pretrain, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoiled(*words: Any) -> Any:
        latents, chunks = imitation_pairs(*words)
        return latents, chunks * torch.nan

    monkeypatch.setattr(pretraining_run, "imitation_pairs", spoiled)
    assert "the imitation loss is nan in epoch 1; lower pretraining.learning_rate" in refusal(options)
    assert os.listdir(options.out.parent) == ["small.yaml"]
