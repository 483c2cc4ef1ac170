"""A policy as a chain of Gaussian steps, of which fine-tuning changes the last alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_samples import LATENT, small_policy
from torch import Tensor

from diwa_policy.policy import Policy, Step, draw_noise, log_likelihood

KINDS = ("diffusion", "gaussian")


def inputs(policy: Policy, count: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Latents and noise."""
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(count, LATENT, generator=generator)
    return latents, torch.randn(count, policy.steps + 1, policy.chunk, generator=generator)


def disturb(policy: Policy) -> None:
    """Change every weight that fine-tuning may change."""
    assert policy.tuned is not None
    with torch.no_grad():
        for weight in policy.tuned.parameters():
            weight += 0.3


# Chains


@pytest.mark.parametrize("kind", KINDS)
def test_a_chain_has_k_steps_from_the_noise_on(kind: str) -> None:
    policy = small_policy(kind)
    latents, noise = inputs(policy)
    chains = policy.sample(latents, noise)
    assert chains.shape == (5, policy.steps + 1, 28) and policy.steps == (4 if kind == "diffusion" else 1)
    assert torch.equal(chains[:, 0], noise[:, 0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_each_link_is_drawn_from_its_steps_distribution(kind: str, floor: float) -> None:
    policy = small_policy(kind)
    latents, noise = inputs(policy)
    chains = policy.sample(latents, noise, floor)
    condition = policy.pretrained.condition(latents)
    for number, k in enumerate(range(policy.steps, 0, -1), start=1):
        mean, std = policy.step(policy.pretrained, condition, chains[:, number - 1], k, floor)
        torch.testing.assert_close(chains[:, number], mean + std * noise[:, number])
        assert float(std.detach().min()) >= floor


def test_a_row_does_not_depend_on_the_others() -> None:
    policy = small_policy()
    latents, noise = inputs(policy)
    together, alone = policy.sample(latents, noise), policy.sample(latents[2:3], noise[2:3])
    torch.testing.assert_close(together[2:3], alone)


def test_what_the_network_makes_of_a_latent_is_computed_once_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, calls = small_policy(fine_tuned_steps=2), list[str]()
    for name, network in (("pretrained", policy.pretrained), ("tuned", policy.tuned)):
        assert network is not None
        before = network.condition

        def counted(latents: Tensor, name: str = name, before: Any = before) -> Any:
            calls.append(name)
            return before(latents)

        monkeypatch.setattr(network, "condition", counted)
    policy.sample(*inputs(policy))
    assert calls == ["pretrained", "tuned"]


# Likelihoods


@pytest.mark.parametrize("kind", KINDS)
def test_log_likelihood_of_a_step_is_that_of_torch_distributions(kind: str) -> None:
    policy = small_policy(kind)
    latents, noise = inputs(policy)
    chains = policy.sample(latents, noise, 0.1)
    condition = policy.pretrained.condition(latents)
    for number, k in enumerate(range(policy.steps, 0, -1)):
        step = policy.step(policy.pretrained, condition, chains[:, number], k, 0.1)
        normal = torch.distributions.Normal(step.mean, step.std.expand_as(step.mean))
        expected = torch.distributions.Independent(normal, 1).log_prob(chains[:, number + 1])
        torch.testing.assert_close(log_likelihood(step, chains[:, number + 1]), expected)


@given(floor=st.floats(0.01, 1.0), chunk=st.integers(1, 30))
@settings(max_examples=30, deadline=None)
def test_the_mean_is_the_likeliest_value(floor: float, chunk: int) -> None:
    step = Step(torch.linspace(-1.0, 1.0, chunk), torch.full((1,), floor))
    assert float(log_likelihood(step, step.mean)) > float(log_likelihood(step, step.mean + floor))


# Fine-tuning


@pytest.mark.parametrize("kind", KINDS)
def test_fine_tuning_begins_with_the_same_policy(kind: str) -> None:
    policy = small_policy(kind)
    latents, noise = inputs(policy)
    before = policy.sample(latents, noise)
    policy.begin_fine_tuning(2)
    assert torch.equal(policy.sample(latents, noise), before)


def test_only_the_last_steps_change() -> None:
    policy = small_policy(fine_tuned_steps=2)
    latents, noise = inputs(policy)
    before = policy.sample(latents, noise)
    disturb(policy)
    after = policy.sample(latents, noise)
    assert torch.equal(after[:, :3], before[:, :3])  # a^4, a^3, a^2: the first K - K' links
    assert not torch.isclose(after[:, 3], before[:, 3]).all(dim=-1).any()


def test_the_frozen_network_stays_as_it_was_and_has_no_gradient() -> None:
    policy = small_policy(fine_tuned_steps=2)
    frozen = copy.deepcopy(policy.pretrained.state_dict())
    optimiser = torch.optim.AdamW(policy.parameters(), 0.1)
    policy.sample(*inputs(policy))[:, -1].square().sum().backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    assert policy.tuned is not None
    assert all(torch.equal(value, frozen[name]) for name, value in policy.pretrained.state_dict().items())
    assert all(weight.grad is None for weight in policy.pretrained.parameters())
    assert not torch.equal(policy.tuned.state_dict()["noise.bias"], frozen["noise.bias"])


@pytest.mark.parametrize(("asked", "tuned"), [(1, 1), (3, 3), (4, 4), (9, 4)])
def test_at_most_all_steps_are_fine_tuned(asked: int, tuned: int) -> None:
    policy = small_policy(fine_tuned_steps=asked)
    assert policy.fine_tuned_steps == tuned
    served = [policy.network(k) is policy.tuned for k in range(1, 5)]
    assert served == [k <= tuned for k in range(1, 5)]


def test_fine_tuning_is_not_begun_twice() -> None:
    with pytest.raises(AssertionError, match="forget"):
        small_policy(fine_tuned_steps=2).begin_fine_tuning(2)


# Acting


@pytest.mark.parametrize("kind", KINDS)
@given(scale=st.floats(0.0, 1e4), seed=st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_actions_lie_between_minus_one_and_one(kind: str, scale: float, seed: int) -> None:
    policy = small_policy(kind, planned_actions=3, executed_actions=2)
    latents, noise = inputs(policy, seed=seed)
    actions = policy.act(latents * scale, noise * scale, floor=0.1)
    assert actions.shape == (5, 3, 7)
    assert float(actions.abs().max()) <= 1.0


def test_actions_are_the_end_of_the_chain_action_by_action() -> None:
    policy = small_policy()
    latents, noise = inputs(policy)
    chunk = policy.sample(latents, noise)[:, -1].clamp(-1.0, 1.0)
    actions = policy.act(latents, noise)
    assert torch.equal(actions[:, 1], chunk[:, 7:14])
    assert torch.equal(actions.flatten(1), chunk)


def test_acting_keeps_no_gradient() -> None:
    policy = small_policy()
    assert not policy.act(*inputs(policy)).requires_grad


def test_ddim_acts_without_randomness_but_for_the_first_noise() -> None:
    policy = small_policy(sampler="ddim", ddim_steps=2)
    latents, noise = inputs(policy)
    other = torch.cat([noise[:, :1], torch.zeros_like(noise[:, 1:])], dim=1)
    assert torch.equal(policy.act(latents, noise), policy.act(latents, other))
    assert not torch.equal(policy.act(latents, noise), policy.act(latents, noise.flip(1)))


def test_ddim_leaves_the_chains_of_fine_tuning_alone() -> None:
    policy, quick = small_policy(), small_policy(sampler="ddim", ddim_steps=2)
    latents, noise = inputs(policy)
    assert torch.equal(policy.sample(latents, noise), quick.sample(latents, noise))
    assert not torch.equal(policy.act(latents, noise), quick.act(latents, noise))


# Noise


def test_noise_is_clipped_and_comes_from_the_generator_alone() -> None:
    before = torch.random.get_rng_state()
    drawn = draw_noise((1000, 7), torch.Generator().manual_seed(5), clip=1.0)
    assert float(drawn.abs().max()) == 1.0
    assert torch.equal(drawn, draw_noise((1000, 7), torch.Generator().manual_seed(5), clip=1.0))
    assert torch.equal(torch.random.get_rng_state(), before)
