"""The presets have the paper's numbers, and a config that cannot work is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from diwa_conventions.errors import UserError
from diwa_policy.config import Config, PolicyConfig, load_config
from diwa_worldmodel.settings import from_mapping, from_words, to_mapping

_PLACES = [folder / "shared" / "paper" / "parameters.yaml" for folder in Path(__file__).resolve().parents]
PAPER_NUMBERS = next((path for path in _PLACES if path.exists()), None)
"""What the paper prints, where this workspace has it beside it."""


def refusal(over: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        load_config("paper", over)
    return str(caught.value)


def test_paper_preset_is_table_s3() -> None:
    policy, training = load_config("paper").policy, load_config("paper").pretraining
    assert (policy.kind, policy.planned_actions, policy.executed_actions) == ("diffusion", 4, 4)
    assert (policy.denoising_steps, policy.mlp) == (20, (512, 512, 512))
    assert (training.epochs, training.batch, training.weight_decay) == (5000, 256, 1e-6)
    assert (training.learning_rate, training.final_learning_rate) == (1e-4, 1e-5)
    assert (training.ema_decay, training.ema_start_epoch, training.ema_every) == (0.995, 20, 10)


def test_paper_preset_is_table_s4() -> None:
    reward = load_config("paper").reward
    assert (reward.embedding_mlp, reward.classification_mlp) == ((512, 512), (512, 512))
    assert (reward.epochs, reward.batch, reward.learning_rate, reward.temperature) == (100, 32, 1e-6, 0.5)


def test_paper_preset_is_table_s5() -> None:
    tuning = load_config("paper").fine_tuning
    assert (tuning.imagined_steps, tuning.fine_tuned_steps, tuning.batch) == (5_000_000, 10, 7500)
    assert (tuning.actor_learning_rate, tuning.critic_learning_rate) == (1e-5, 1e-3)
    assert tuning.critic_mlp == (256, 256, 256)
    assert (tuning.gamma, tuning.gamma_denoise, tuning.gae_lambda) == (0.999, 0.99, 0.95)
    assert tuning.bc_coefficient == 0.05


def test_where_the_paper_is_silent_the_defaults_are_those_of_the_decisions() -> None:
    tuning = load_config("paper").fine_tuning
    assert (tuning.clip, tuning.clip_first, tuning.epochs, tuning.value_coefficient) == (0.01, 0.001, 10, 0.5)
    assert (tuning.dreams, tuning.decisions, tuning.critic_warmup) == (50, 36, 2)
    assert (tuning.sampling_std, tuning.log_prob_std, tuning.noise_clip) == (0.1, 0.1, 3.0)


@pytest.mark.skipif(PAPER_NUMBERS is None, reason="the paper's numbers are not beside this workspace")
def test_paper_preset_is_what_the_paper_prints() -> None:
    assert PAPER_NUMBERS is not None
    printed, config = yaml.safe_load(PAPER_NUMBERS.read_text(encoding="utf-8")), load_config("paper")
    policy, training, reward, tuning = config.policy, config.pretraining, config.reward, config.fine_tuning
    table = printed["diffusion_policy"]
    assert (policy.planned_actions, policy.executed_actions) == (table["planning_horizon"], table["action_horizon"])
    assert (policy.denoising_steps, list(policy.mlp)) == (table["denoising_steps"], table["mlp"])
    assert (training.epochs, training.batch) == (table["epochs"], table["batch_size"])
    rates = (table["learning_rate"]["initial"], table["learning_rate"]["final"])
    assert (training.learning_rate, training.final_learning_rate) == rates
    assert training.weight_decay == table["weight_decay"]
    ema = (training.ema_decay, training.ema_start_epoch, training.ema_every)
    assert ema == (table["ema"]["decay"], table["ema"]["start_epoch"], table["ema"]["update_every"])
    table = printed["reward_classifier"]
    for name, key in (("epochs", "epochs"), ("batch", "batch_size"), ("learning_rate", "learning_rate")):
        assert getattr(reward, name) == table[key]
    assert reward.temperature == table["temperature"]
    assert (list(reward.embedding_mlp), list(reward.classification_mlp)) == (
        table["embedding_mlp"],
        table["classification_mlp"],
    )
    table = printed["fine_tuning"]
    same = ("actor_learning_rate", "critic_learning_rate", "gamma", "gamma_denoise", "gae_lambda")
    assert all(getattr(tuning, name) == table[name] for name in same)
    assert (tuning.fine_tuned_steps, tuning.batch) == (table["fine_tuned_denoising_steps"], table["batch_size"])
    assert (list(policy.mlp), list(tuning.critic_mlp)) == (table["actor_mlp"], table["critic_mlp"])
    assert tuning.bc_coefficient == table["bc_coefficient"]["default"]
    assert tuning.imagined_steps == table["imagined_steps"]["simulation"]


def test_tiny_preset_plans_as_far_as_the_paper() -> None:
    paper, tiny = load_config("paper").policy, load_config("tiny").policy
    assert (tiny.planned_actions, tiny.executed_actions) == (paper.planned_actions, paper.executed_actions)
    assert tiny.denoising_steps < paper.denoising_steps


def test_the_average_forgets_the_first_epochs_within_a_tiny_training() -> None:
    """50 demonstrations of 20 frames are some 4 steps an epoch: what is left of the weights of ema_start_epoch?"""
    for preset in ("paper", "tiny"):
        training = load_config(preset).pretraining  # type: ignore[arg-type]
        updates = 4 * (training.epochs - training.ema_start_epoch) // training.ema_every
        assert training.ema_decay**updates < 0.01


@pytest.mark.parametrize("preset", ["paper", "tiny"])
def test_a_config_comes_back_from_its_table(preset: Any) -> None:
    config = load_config(preset)
    assert from_mapping(Config, to_mapping(config)) == config


def test_what_is_said_goes_over_the_preset() -> None:
    config = load_config("tiny", from_words(["fine_tuning.bc_coefficient=0.1", "policy.kind=gaussian"]))
    assert (config.fine_tuning.bc_coefficient, config.policy.kind) == (0.1, "gaussian")
    assert config.policy.mlp == load_config("tiny").policy.mlp


def test_a_gaussian_policy_has_one_step_whatever_the_denoising_steps() -> None:
    assert load_config("paper", {"policy": {"kind": "gaussian"}}).policy.steps == 1
    assert load_config("paper").policy.steps == 20


@pytest.mark.parametrize(
    ("over", "line"),
    [
        ({"policy": {"executed_actions": 5}}, "policy.executed_actions is 5; expected at most policy.planned_actions"),
        ({"policy": {"mlp": []}}, "policy.mlp is []; expected widths of at least 1"),
        ({"policy": {"mlp": [512, 0]}}, "policy.mlp is [512, 0]; expected widths of at least 1"),
        ({"reward": {"embedding_mlp": []}}, "reward.embedding_mlp is []; expected widths of at least 1 for at least"),
        ({"reward": {"embedding_mlp": [0]}}, "reward.embedding_mlp is [0]; expected widths of at least 1"),
        ({"reward": {"classification_mlp": [8, -1]}}, "reward.classification_mlp is [8, -1]; expected widths of at"),
        ({"fine_tuning": {"critic_mlp": [0]}}, "fine_tuning.critic_mlp is [0]; expected widths of at least 1"),
        ({"policy": {"kind": "flow"}}, "policy.kind is 'flow'; expected one of diffusion, gaussian"),
        (
            {"policy": {"sampler": "ddim", "ddim_steps": 21}},
            "policy.ddim_steps is 21; expected at most policy.denoising_steps 20",
        ),
        ({"pretraining": {"epochs": 0}}, "pretraining.epochs is 0; expected a whole number of at least 1"),
        ({"pretraining": {"held_out_share": 0.9}}, "pretraining.held_out_share is 0.9; expected a number from 0 to"),
        ({"pretraining": {"learning_rate": float("nan")}}, "pretraining.learning_rate is nan; expected a number from"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_by_key_and_value(over: dict[str, Any], line: str) -> None:
    assert refusal(over).startswith(line)


def test_classification_and_critic_may_be_linear() -> None:
    config = load_config("paper", {"reward": {"classification_mlp": []}, "fine_tuning": {"critic_mlp": []}})
    assert config.reward.classification_mlp == config.fine_tuning.critic_mlp == ()


def test_an_unknown_key_is_refused_with_the_nearest_known() -> None:
    assert refusal({"policy": {"denoise_steps": 5}}).startswith(
        "unknown setting 'policy.denoise_steps'; did you mean 'policy.denoising_steps'?"
    )


def test_few_denoising_steps_do_not_stand_against_a_sampler_that_is_not_used() -> None:
    assert PolicyConfig(denoising_steps=2).sampler == "ddpm"
