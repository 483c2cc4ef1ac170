"""Behaviour cloning: it learns what it is shown, averages its weights, and is the same for the same seed."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from policy_samples import LATENT, policy_of, small_config
from torch import Tensor

from diwa_conventions.errors import UserError
from diwa_policy.config import Config
from diwa_policy.diffusion import denoising_loss
from diwa_policy.gaussian import likelihood_loss
from diwa_policy.policy import Policy, draw_noise
from diwa_policy.pretraining import DRAWS, Epoch, difference, imitation_error, imitation_loss, pretrain

KINDS = ("diffusion", "gaussian")


def pairs(count: int = 48, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Latents, and chunks that are a function of them: motion by their first numbers, gripper by the sign of one."""
    latents = torch.randn(count, LATENT, generator=torch.Generator().manual_seed(seed))
    actions = torch.tanh(latents[:, :7])
    actions[:, 6] = actions[:, 6].sign()
    return latents, actions.repeat(1, 4)


def config(kind: str = "diffusion", **training: Any) -> Config:
    return small_config({"policy": {"kind": kind}, "pretraining": training})


def trained(own: Config, report: Any = lambda epoch: None, count: int = 48) -> Policy:
    return pretrain(own.policy, own.pretraining, *pairs(count), report)


def weights(policy: Policy) -> Tensor:
    return torch.cat([weight.detach().flatten() for weight in policy.parameters()])


@pytest.mark.parametrize("kind", KINDS)
def test_a_small_batch_is_learned_by_heart(kind: str) -> None:
    own = small_config({
        "policy": {"kind": kind, "mlp": [64, 64], "denoising_steps": 6},
        "pretraining": {"epochs": 300, "batch": 256, "learning_rate": 1e-2, "ema_every": 1, "ema_decay": 0.95},
    })  # fmt: skip
    latents, chunks = pairs(8)
    policy = pretrain(own.policy, own.pretraining, latents.repeat(32, 1), chunks.repeat(32, 1))
    error = imitation_error(policy, latents, chunks, torch.Generator().manual_seed(0))
    nothing = imitation_error(policy_of(own.policy), latents, chunks, torch.Generator().manual_seed(0))
    assert error.motion < 0.2 < 0.4 < nothing.motion
    assert error.gripper < 0.02 < 0.3 < nothing.gripper


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_policy_and_another_seed_another(kind: str) -> None:
    before = torch.random.get_rng_state()
    first, again, other = (trained(config(kind, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))


def test_the_loss_is_the_mean_over_random_steps_and_noise() -> None:
    policy, (latents, chunks) = policy_of(small_config().policy), pairs(4)
    found = imitation_loss(policy, latents, chunks, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(chunks.shape, generator=generator)
    step = torch.randint(1, 5, (4,), generator=generator)
    torch.testing.assert_close(found, denoising_loss(policy, latents, chunks, noise, step).mean())


def test_every_denoising_step_is_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set[int]()

    def watched(policy: Policy, latents: Tensor, chunks: Tensor, noise: Tensor, step: Tensor) -> Tensor:
        seen.update(step.tolist())
        return denoising_loss(policy, latents, chunks, noise, step)

    monkeypatch.setattr("diwa_policy.pretraining.denoising_loss", watched)
    trained(config())
    assert seen == {1, 2, 3, 4}


def test_the_loss_of_a_gaussian_policy_is_its_likelihood() -> None:
    policy, (latents, chunks) = policy_of(config("gaussian").policy), pairs(4)
    found = imitation_loss(policy, latents, chunks, torch.Generator())
    torch.testing.assert_close(found, likelihood_loss(policy, latents, chunks).mean())


# What is told


def test_each_epoch_is_told_with_its_steps_loss_and_rate() -> None:
    epochs = list[Epoch]()
    own = config(epochs=5, batch=20, learning_rate=1e-3, final_learning_rate=1e-4)
    trained(own, epochs.append)
    assert [(one.number, one.step) for one in epochs] == [(1, 3), (2, 6), (3, 9), (4, 12), (5, 15)]
    expected = [1e-4 + 0.5 * (1e-3 - 1e-4) * (1 + math.cos(math.pi * n / 5)) for n in range(5)]
    assert [one.learning_rate for one in epochs] == pytest.approx(expected)
    assert all(math.isfinite(one.loss) for one in epochs)


def test_the_policy_returned_is_the_one_told_last() -> None:
    epochs = list[Epoch]()
    policy = trained(config(), epochs.append)
    assert policy is epochs[-1].policy and not policy.training


# Averaged weights


def history(**training: Any) -> list[Tensor]:
    """The averaged weights after each epoch of one step."""
    told = list[Tensor]()
    own = config(batch=48, **training)
    trained(own, lambda epoch: told.append(weights(epoch.policy)))
    return told


def test_until_it_begins_the_average_is_the_policy_itself() -> None:
    plain = history(epochs=4, ema_start_epoch=4)
    averaged = history(epochs=4, ema_start_epoch=2, ema_every=1, ema_decay=0.9)
    assert all(torch.equal(plain[n], averaged[n]) for n in (0, 1))
    assert not torch.equal(plain[3], averaged[3])


def test_the_average_moves_by_its_decay_at_every_update() -> None:
    plain = history(epochs=5, ema_start_epoch=5)
    averaged = history(epochs=5, ema_start_epoch=2, ema_every=1, ema_decay=0.9)
    torch.testing.assert_close(averaged[2], plain[2])  # it begins with the weights of then
    torch.testing.assert_close(averaged[3], 0.9 * averaged[2] + 0.1 * plain[3])
    torch.testing.assert_close(averaged[4], 0.9 * averaged[3] + 0.1 * plain[4])


def test_between_updates_the_average_stays() -> None:
    averaged = history(epochs=6, ema_start_epoch=1, ema_every=3)
    changed = [not torch.equal(before, after) for before, after in zip(averaged, averaged[1:], strict=False)]
    assert changed == [True, True, False, False, True]  # from the gradient step 3 on at every third


def test_a_training_too_short_for_an_average_returns_the_weights_as_they_are() -> None:
    plain = history(epochs=3, ema_start_epoch=3)
    assert torch.equal(history(epochs=3, ema_start_epoch=0, ema_every=10)[-1], plain[-1])


# How far from what was demonstrated


def test_error_is_of_the_mean_motion_and_of_each_gripper_command() -> None:
    chunks = torch.zeros(1, 2, 7)
    chunks[..., 6] = 1.0
    acted = torch.zeros(2, 1, 2, 7)
    acted[0, ..., :6], acted[1, ..., :6] = 0.3, -0.1  # 0.1 on average
    acted[..., 6] = torch.tensor([[[0.2, -0.3]], [[0.0, 0.9]]])  # one of four closes
    error = difference(acted, chunks.flatten(1))
    assert error.motion == pytest.approx(0.1) and error.gripper == pytest.approx(0.25)


def test_error_is_measured_on_what_the_policy_does() -> None:
    policy, (latents, chunks) = policy_of(small_config().policy), pairs(3)
    found = imitation_error(policy, latents, chunks, torch.Generator().manual_seed(1))
    noise = draw_noise((DRAWS * 3, 5, 28), torch.Generator().manual_seed(1))
    drawn = torch.stack([policy.act(latents, noise[3 * n : 3 * n + 3]) for n in range(DRAWS)])
    assert found == pytest.approx(difference(drawn, chunks))


# What goes wrong


def test_a_loss_that_is_no_number_ends_the_training_with_what_to_do() -> None:
    own, (latents, chunks) = config(), pairs()
    chunks[0, 0] = torch.nan
    with pytest.raises(UserError, match="the imitation loss is nan in epoch 1; lower pretraining.learning_rate, which"):
        pretrain(own.policy, own.pretraining, latents, chunks)
