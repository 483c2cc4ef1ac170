"""Which frames are success, what is dreamed of them, and that a classifier learns it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from policy_samples import LATENT, small_config

from diwa_conventions.errors import UserError
from diwa_policy.config import RewardConfig
from diwa_policy.demonstrations import Attempt
from diwa_policy.reward import RewardClassifier
from diwa_policy.reward_training import (
    DREAMED_ANEW,
    Labelled,
    check_labels,
    dreamed_frames,
    fit_probabilities,
    frame_labels,
    posterior_frames,
    together,
    train_classifier,
)
from diwa_worldmodel.artefact import LoadedWorldModel
from diwa_worldmodel.rssm import RSSM, State
from diwa_worldmodel.world_model import quantise_gripper

GROUPS, CLASSES, DETERMINISTIC = 4, 4, 16


def reward_config(**over: object) -> RewardConfig:
    return small_config({"reward": {"positive_frames": 1, "margin_frames": 2, "dreamed_steps": 0, **over}}).reward


def attempt(frames: int, success: bool, seed: int = 0) -> Attempt:
    """h's first number is the share of the way to success; a failure stops at a half of it."""
    generator = torch.Generator().manual_seed(seed)
    deterministic = 0.1 * torch.randn(frames, DETERMINISTIC, generator=generator)
    deterministic[:, 0] = torch.linspace(-1.0, 1.0 if success else 0.0, frames)
    classes = torch.randint(CLASSES, (frames, GROUPS), generator=generator)
    one_hot = torch.nn.functional.one_hot(classes, CLASSES).float().flatten(1)
    actions = torch.rand(frames, 7, generator=generator) * 2.0 - 1.0
    zeros = torch.zeros(frames)
    latents = torch.cat([deterministic, one_hot], dim=1)
    return Attempt(latents, actions, zeros, zeros, torch.arange(frames), success)


def attempts() -> list[Attempt]:
    return [attempt(10 + number % 3, number % 3 > 0, number) for number in range(12)]


@pytest.fixture(scope="module")
def rssm(world_model: LoadedWorldModel) -> RSSM:
    return world_model.model.rssm


def test_success_is_the_last_frame_and_those_before_it_are_neither() -> None:
    assert frame_labels(attempt(6, True), reward_config()).tolist() == [0, 0, 0, -1, -1, 1]
    assert frame_labels(attempt(6, True), reward_config(positive_frames=2, margin_frames=0)).tolist() == [
        0, 0, 0, 0, 1, 1,
    ]  # fmt: skip


def test_a_failed_attempt_has_no_success_and_no_doubt() -> None:
    assert frame_labels(attempt(6, False), reward_config()).tolist() == [0.0] * 6


def test_a_short_success_has_no_other_frames() -> None:
    assert frame_labels(attempt(2, True), reward_config()).tolist() == [-1, 1]


def test_frames_of_which_nobody_can_tell_are_left_out() -> None:
    one = attempt(6, True)
    frames = posterior_frames([one], reward_config())
    assert frames.labels.tolist() == [0, 0, 0, 1]
    assert torch.equal(frames.latents, one.latents[[0, 1, 2, 5]])


def dream_one_by_one(tried: Sequence[Attempt], rssm: RSSM, config: RewardConfig, steps: int) -> dict[int, int]:
    """How many labelled frames dreams of each number of steps end in, counted attempt by attempt."""
    found = {}
    for ahead in range(1, steps + 1):
        found[ahead] = sum(int((frame_labels(one, config)[ahead:] >= 0).sum()) for one in tried)
    return found


def test_dreams_begin_at_every_frame_from_which_the_attempt_goes_on_long_enough(rssm: RSSM) -> None:
    config, tried = reward_config(), [attempt(6, True), attempt(4, False, 1)]
    dreamed = dreamed_frames(tried, config, rssm, 5, torch.Generator().manual_seed(0))
    counts = {ahead: len(one.labels) for ahead, one in enumerate(dreamed, start=1)}
    assert counts == dream_one_by_one(tried, rssm, config, 5)


def test_no_dream_is_longer_than_the_longest_attempt(rssm: RSSM) -> None:
    assert len(dreamed_frames([attempt(4, True)], reward_config(), rssm, 64, torch.Generator())) == 3


def test_a_dream_follows_the_recorded_actions_and_has_the_label_of_the_frame_it_ends_at(rssm: RSSM) -> None:
    config, one, other = reward_config(margin_frames=0), attempt(5, True), attempt(3, False, 1)
    found = dreamed_frames([one, other], config, rssm, 2, torch.Generator().manual_seed(0))
    uniforms = torch.Generator().manual_seed(0)
    state = [State(part.latents[:-1, :DETERMINISTIC], part.latents[:-1, DETERMINISTIC:]) for part in (one, other)]
    begin = State(*(torch.cat(parts) for parts in zip(*state, strict=True)))
    actions = quantise_gripper(torch.cat([one.actions[:-1], other.actions[:-1]]))
    first, _ = rssm.imagine_step(begin, actions, torch.rand(6, GROUPS, generator=uniforms))
    assert torch.allclose(found[0].latents, first.latent, atol=1e-5)
    assert found[0].labels.tolist() == [0, 0, 0, 1, 0, 0]
    goes_on = [0, 1, 2, 4]  # the last dream of each attempt is at its end
    second, _ = rssm.imagine_step(
        State(*(part[goes_on] for part in first)), actions[[1, 2, 3, 5]], torch.rand(4, GROUPS, generator=uniforms)
    )
    assert torch.allclose(found[1].latents, second.latent, atol=1e-5)
    assert found[1].labels.tolist() == [0, 0, 1, 0]


def test_a_classifier_tells_success_from_other_frames(rssm: RSSM) -> None:
    config = reward_config(epochs=60, learning_rate=3e-3, batch=32)
    classifier = train_classifier(attempts(), config, rssm)
    latents, labels = posterior_frames(attempts(), config)
    probability = classifier.probability(latents).detach()
    assert float(probability[labels > 0.5].min()) > float(probability[labels < 0.5].max())
    assert not classifier.training


def test_the_same_seed_gives_the_same_classifier_and_another_seed_another(rssm: RSSM) -> None:
    weights = [
        torch.cat([one.flatten() for one in train_classifier(attempts(), config, rssm).state_dict().values()])
        for config in (reward_config(dreamed_steps=2), reward_config(dreamed_steps=2), reward_config(seed=1))
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_training_does_not_touch_the_callers_random_numbers(rssm: RSSM) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train_classifier(attempts(), reward_config(dreamed_steps=2, epochs=1), rssm)
    assert torch.equal(torch.rand(3), expected)


def test_training_changes_nothing_in_the_world_model(rssm: RSSM) -> None:
    before = {name: value.clone() for name, value in rssm.state_dict().items()}
    train_classifier(attempts(), reward_config(dreamed_steps=2), rssm)
    assert all(torch.equal(before[name], value) for name, value in rssm.state_dict().items())


def test_dreams_are_drawn_anew_every_few_epochs(rssm: RSSM, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(
        "diwa_policy.reward_training.dreamed_frames",
        lambda *words: calls.append(1) or [posterior_frames(attempts(), reward_config())],
    )
    train_classifier(attempts(), reward_config(dreamed_steps=2, epochs=2 * DREAMED_ANEW + 1), rssm)
    assert len(calls) == 3


def test_every_epoch_is_reported_with_its_mean_loss(rssm: RSSM) -> None:
    told: list[tuple[int, float]] = []
    train_classifier(attempts(), reward_config(epochs=30, learning_rate=3e-3), rssm, lambda *one: told.append(one))
    assert [epoch for epoch, _ in told] == list(range(1, 31))
    assert told[-1][1] < told[0][1]


def test_a_loss_that_diverges_names_the_learning_rate(rssm: RSSM) -> None:
    broken = attempts()
    broken[0].latents[0] = torch.nan
    with pytest.raises(UserError, match=r"loss is nan in epoch 1; lower reward.learning_rate, which is 0.0003"):
        train_classifier(broken, reward_config(learning_rate=3e-4), rssm)


def labelled(count: int, share: float, seed: int = 0) -> Labelled:
    """Latents whose first number says how probable success is: at 0, ``share`` of them are."""
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(count, 4, generator=generator)
    chance = torch.sigmoid(2.0 * latents[:, 0] + math.log(share / (1.0 - share)))
    return Labelled(latents, (torch.rand(count, generator=generator) < chance).float())


def linear(slope: float, shift: float) -> RewardClassifier:
    """Its logit is ``slope`` times the first number and ``shift``."""
    classifier = RewardClassifier(reward_config(embedding_mlp=[2], classification_mlp=[2]), 4)
    state = {name: torch.zeros_like(value) for name, value in classifier.state_dict().items()}
    state["embed.0.weight"][0, 0], state["embed.0.weight"][1, 0] = 1.0, -1.0  # ReLU passes either one
    state["classify.0.weight"] = torch.eye(2)
    state["classify.2.weight"][0] = torch.tensor([slope, -slope])
    state["classify.2.bias"][0] = shift
    classifier.load_state_dict(state)
    return classifier


def test_probabilities_become_those_of_frames_that_were_not_learned() -> None:
    classifier, shift = linear(10.0, 3.0), math.log(0.1 / 0.9)
    fit_probabilities(classifier, labelled(20_000, 0.1))
    latents = torch.tensor([[-1.0], [0.0], [1.0]]) * torch.eye(4)[0]
    found = classifier(latents).logit.detach()
    assert torch.allclose(found, torch.tensor([-2.0 + shift, shift, 2.0 + shift]), atol=0.15)


def test_frames_that_are_told_apart_without_a_mistake_keep_finite_probabilities() -> None:
    latents = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]]) * torch.eye(4)[0]
    classifier = linear(1.0, 0.0)
    fit_probabilities(classifier, Labelled(latents, torch.tensor([0.0, 0.0, 1.0, 1.0])))
    probability = classifier.probability(latents).detach()
    assert probability.mean().item() == pytest.approx(0.5, abs=1e-3)
    assert 0.2 < float(probability[0]) + float(probability[1]) < 0.8  # Platt's targets: 1 of 4 on either side


def test_fitting_probabilities_never_turns_the_order_round() -> None:
    frames, classifier = labelled(1000, 0.5), linear(-1.0, 0.0)  # it has learned the opposite
    order = classifier(frames.latents).logit.argsort()
    fit_probabilities(classifier, frames)
    after = classifier(frames.latents).logit[order].detach()
    assert bool((after.diff() >= -1e-6).all())


def test_attempts_without_a_success_are_refused() -> None:
    with pytest.raises(UserError, match="no positives: none of the 2 attempts at 'x' succeeded"):
        check_labels([attempt(6, False), attempt(6, False, 1)], reward_config(), "at 'x'")


def test_successes_without_any_other_frame_are_refused() -> None:
    with pytest.raises(UserError, match=r"no negatives: all attempts at 'x' are successes of at most 3 frames"):
        check_labels([attempt(3, True)], reward_config(), "at 'x'")


def test_early_frames_of_successes_are_negatives_enough() -> None:
    check_labels([attempt(4, True)], reward_config(), "at 'x'")
    assert posterior_frames([attempt(4, True)], reward_config()).labels.tolist() == [0, 1]


def test_parts_are_put_together_in_their_order() -> None:
    parts = [posterior_frames([attempt(6, success)], reward_config()) for success in (True, False)]
    whole = together(parts)
    assert whole.labels.tolist() == [0, 0, 0, 1] + [0] * 6
    assert whole.latents.shape == (10, LATENT)
