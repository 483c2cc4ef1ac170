"""The Gaussian policy: a diffusion policy of one step, as far as anything else can tell."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_samples import LATENT, small_policy

from diwa_policy.gaussian import GaussianHead, likelihood_loss, log_density


@given(mean=st.floats(-2.0, 2.0), std=st.floats(1e-3, 10.0), value=st.floats(-5.0, 5.0))
@settings(max_examples=100, deadline=None)
def test_log_density_is_that_of_torch_distributions(mean: float, std: float, value: float) -> None:
    numbers = [torch.tensor(one, dtype=torch.float64) for one in (mean, std, value)]
    expected = torch.distributions.Normal(*numbers[:2]).log_prob(numbers[2])
    torch.testing.assert_close(log_density(*numbers), expected)


def test_a_chain_is_noise_and_chunk() -> None:
    policy = small_policy("gaussian")
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(5, LATENT, generator=generator), torch.randn(5, 2, 28, generator=generator)
    chain = policy.sample(latents, noise)
    assert chain.shape == (5, 2, 28) and torch.equal(chain[:, 0], noise[:, 0])
    head = policy.pretrained
    assert isinstance(head, GaussianHead)
    mean, std = head(head.condition(latents))
    torch.testing.assert_close(chain[:, 1], mean + std * noise[:, 1])


def test_the_chunk_does_not_depend_on_where_the_chain_begins() -> None:
    policy, latents = small_policy("gaussian"), torch.ones(1, LATENT)
    noise = torch.zeros(1, 2, 28)
    other = noise.clone()
    other[:, 0] = 7.0
    assert torch.equal(policy.act(latents, noise), policy.act(latents, other))


def test_mean_lies_within_the_actions_and_the_deviation_within_its_bounds() -> None:
    head = small_policy("gaussian").pretrained
    assert isinstance(head, GaussianHead)
    with torch.no_grad():
        head.mean.bias.fill_(30.0)
        head.log_std.copy_(torch.linspace(-40.0, 40.0, 28))
        mean, std = head(head.condition(torch.zeros(3, LATENT)))
    assert float(mean.max()) <= 1.0
    assert std.shape == (3, 28) and float(std.min()) > 0.0 and float(std.max()) <= 1.0


def test_loss_is_the_negated_mean_log_likelihood() -> None:
    policy, generator = small_policy("gaussian"), torch.Generator().manual_seed(1)
    latents, chunks = torch.randn(6, LATENT, generator=generator), torch.rand(6, 28, generator=generator) * 2 - 1
    head = policy.pretrained
    assert isinstance(head, GaussianHead)
    expected = -torch.distributions.Normal(*head(head.condition(latents))).log_prob(chunks).mean(1)
    torch.testing.assert_close(likelihood_loss(policy, latents, chunks), expected)


def test_fine_tuning_has_one_step_to_tune_however_many_are_asked_for() -> None:
    policy = small_policy("gaussian")
    policy.begin_fine_tuning(10)
    assert policy.fine_tuned_steps == 1 and policy.network(1) is policy.tuned
