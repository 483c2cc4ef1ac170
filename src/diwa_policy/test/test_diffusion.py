"""Diffusion of chunks: the schedule, the posterior against what Bayes' rule says, DDIM, the loss."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_samples import LATENT, small_policy
from torch import Tensor

from diwa_policy.diffusion import Denoiser, DiffusionSchedule, ddim, denoising_loss

K = 20


def cosine_alpha_bar(steps: int) -> list[float]:
    """Nichol and Dhariwal 2021, eq. 17, with betas up to 0.999; independently of the module."""
    values, product = [1.0], 1.0
    for k in range(1, steps + 1):
        now, before = (math.cos((x / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for x in (k, k - 1))
        product *= 1.0 - min(0.999, 1.0 - now / before)
        values.append(product)
    return values


class Oracle(torch.nn.Module):
    """The noise as it is where every chunk is ``clean``; stands in for the denoiser."""

    def __init__(self, schedule: DiffusionSchedule, clean: Tensor) -> None:
        super().__init__()
        self.schedule, self.clean = schedule, clean

    def noise(self, noisy: Tensor, step: Tensor) -> Tensor:
        alpha_bar = self.schedule.alpha_bar[step]
        return (noisy - alpha_bar.sqrt() * self.clean) / (1.0 - alpha_bar).sqrt()


@pytest.fixture
def schedule() -> DiffusionSchedule:
    return DiffusionSchedule(K)


# The schedule


@pytest.mark.parametrize("steps", [1, 4, 20, 100])
def test_alpha_bar_is_the_cosine_schedule(steps: int) -> None:
    expected = torch.tensor(cosine_alpha_bar(steps))
    torch.testing.assert_close(DiffusionSchedule(steps).alpha_bar, expected, rtol=1e-5, atol=1e-7)


@given(steps=st.integers(1, 200))
@settings(max_examples=25, deadline=None)
def test_noise_only_grows_from_none_to_nearly_all(steps: int) -> None:
    schedule = DiffusionSchedule(steps)
    assert float(schedule.alpha_bar[0]) == 1.0 and float(schedule.beta[0]) == 0.0
    assert bool((schedule.alpha_bar.diff() < 0).all()) and bool((schedule.beta[1:] <= 0.999).all())
    assert float(schedule.alpha_bar[-1]) < 2e-3


def test_noising_mixes_chunk_and_noise_so_that_the_variance_stays(schedule: DiffusionSchedule) -> None:
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 20_000, 3, generator=generator)
    for step in (1, 10, K):
        noisy = schedule.add_noise(clean, noise, torch.full((20_000,), step))
        assert float(noisy.var()) == pytest.approx(1.0, abs=0.02)
    assert torch.equal(schedule.add_noise(clean, noise, torch.zeros(20_000, dtype=torch.int64)), clean)


@given(step=st.integers(1, K), clean=st.floats(-1.0, 1.0), noise=st.floats(-3.0, 3.0))
@settings(max_examples=50, deadline=None)
def test_the_true_noise_gives_the_chunk_back(step: int, clean: float, noise: float) -> None:
    schedule, k = DiffusionSchedule(K), torch.tensor([step])
    noisy = schedule.add_noise(torch.tensor([[clean]]), torch.tensor([[noise]]), k)
    found = float(schedule.clean(noisy, torch.tensor([[noise]]), k))
    rounding = 1e-6 * (1.0 + abs(noise)) / float(schedule.alpha_bar[step]) ** 0.5
    assert found == pytest.approx(clean, abs=rounding)


def test_the_predicted_chunk_is_clipped(schedule: DiffusionSchedule) -> None:
    far = schedule.clean(torch.tensor([[40.0, -40.0]]), torch.zeros(1, 2), torch.tensor([5]))
    assert far.tolist() == [[1.0, -1.0]]


# The posterior


@pytest.mark.parametrize("step", [1, 2, 7, 19, 20])
def test_posterior_is_the_closed_form_of_ho_et_al(schedule: DiffusionSchedule, step: int) -> None:
    """Eq. 6 and 7 in double precision, from a schedule of its own."""
    alpha_bar, clean, noise = cosine_alpha_bar(K), 0.37, -0.8
    now, before = alpha_bar[step], alpha_bar[step - 1]
    beta = 1.0 - now / before
    noisy = math.sqrt(now) * clean + math.sqrt(1 - now) * noise
    mean = math.sqrt(before) * beta / (1 - now) * clean + math.sqrt(now / before) * (1 - before) / (1 - now) * noisy
    variance = (1 - before) / (1 - now) * beta
    found_mean, found_std = schedule.posterior(torch.tensor([[noisy]]), torch.tensor([[noise]]), torch.tensor([step]))
    assert float(found_mean) == pytest.approx(mean, abs=2e-5)
    assert float(found_std) == pytest.approx(math.sqrt(variance), abs=1e-5)


@pytest.mark.parametrize("step", [2, 10, 19])
def test_posterior_is_bayes_rule_on_the_forward_process(step: int) -> None:
    """p(a^{k-1} | a^k, a^0) ~ p(a^k | a^{k-1}) p(a^{k-1} | a^0), summed over a fine grid."""
    schedule, clean, noise = DiffusionSchedule(K), -0.4, 0.6
    noisy = schedule.add_noise(torch.tensor([[clean]]), torch.tensor([[noise]]), torch.tensor([step]))
    alpha_bar, beta = schedule.alpha_bar.double(), schedule.beta.double()
    grid = torch.linspace(-8.0, 8.0, 400_001, dtype=torch.float64)
    forward = -0.5 * (float(noisy) - (1 - beta[step]).sqrt() * grid) ** 2 / beta[step]
    marginal = -0.5 * (grid - alpha_bar[step - 1].sqrt() * clean) ** 2 / (1 - alpha_bar[step - 1])
    weight = torch.softmax(forward + marginal, dim=0)
    mean = (weight * grid).sum()
    std = (weight * (grid - mean) ** 2).sum().sqrt()
    found_mean, found_std = schedule.posterior(noisy, torch.tensor([[noise]]), torch.tensor([step]))
    assert float(found_mean) == pytest.approx(float(mean), abs=1e-4)
    assert float(found_std) == pytest.approx(float(std), abs=1e-4)


def test_the_last_step_has_no_noise_of_its_own(schedule: DiffusionSchedule) -> None:
    noisy, noise = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    mean, std = schedule.posterior(noisy, noise, torch.ones(3, dtype=torch.int64))
    assert float(std.abs().max()) == 0.0
    torch.testing.assert_close(mean, schedule.clean(noisy, noise, torch.ones(3, dtype=torch.int64)))


def test_steps_of_a_batch_are_taken_one_by_one(schedule: DiffusionSchedule) -> None:
    noisy, noise = torch.randn(2, K, 6, generator=torch.Generator().manual_seed(1))
    mean, std = schedule.posterior(noisy, noise, torch.arange(1, K + 1))
    for row in range(K):
        alone = schedule.posterior(noisy[row], noise[row], torch.tensor(row + 1))
        torch.testing.assert_close(mean[row], alone[0])
        torch.testing.assert_close(std[row], alone[1])


def test_chains_with_the_true_noise_end_in_the_chunk_whatever_the_draws(schedule: DiffusionSchedule) -> None:
    clean = torch.tensor([0.5, -0.9, 0.0])
    oracle, generator = Oracle(schedule, clean), torch.Generator().manual_seed(2)
    noisy = torch.randn(16, 3, generator=generator)
    for k in range(K, 0, -1):
        mean, std = schedule.posterior(noisy, oracle.noise(noisy, torch.tensor(k)), torch.tensor(k))
        noisy = mean + std * torch.randn(16, 3, generator=generator)
    torch.testing.assert_close(noisy, clean.expand(16, 3), atol=1e-5, rtol=0.0)


# The denoiser


def test_what_the_latent_adds_is_a_linear_part_of_the_first_layer() -> None:
    denoiser = small_policy().pretrained
    assert isinstance(denoiser, Denoiser)
    generator = torch.Generator().manual_seed(3)
    latents, noisy = torch.randn(5, LATENT, generator=generator), torch.randn(5, 28, generator=generator)
    step = torch.tensor([1, 2, 3, 4, 4])
    told = denoiser.step_embedding(step - 1)
    weight = torch.cat([denoiser.latent_layer.weight, denoiser.chunk_layer.weight], dim=1)
    first = torch.cat([latents, noisy, told], dim=1) @ weight.T + denoiser.latent_layer.bias
    whole = denoiser.noise(denoiser.hidden(torch.nn.functional.silu(first)))
    torch.testing.assert_close(denoiser(denoiser.condition(latents), noisy, step), whole)


def test_one_condition_serves_many_steps() -> None:
    denoiser = small_policy().pretrained
    assert isinstance(denoiser, Denoiser)
    generator = torch.Generator().manual_seed(4)
    latents, noisy = torch.randn(3, LATENT, generator=generator), torch.randn(3, 4, 28, generator=generator)
    steps = torch.tensor([4, 3, 2, 1]).expand(3, -1)
    shared = denoiser(denoiser.condition(latents).unsqueeze(1), noisy, steps)
    for number in range(4):
        alone = denoiser(denoiser.condition(latents), noisy[:, number], steps[:, number])
        torch.testing.assert_close(shared[:, number], alone)


def test_loss_is_the_squared_error_of_the_noise() -> None:
    policy, generator = small_policy(), torch.Generator().manual_seed(5)
    latents, chunks = torch.randn(6, LATENT, generator=generator), torch.rand(6, 28, generator=generator) * 2 - 1
    noise, step = torch.randn(6, 28, generator=generator), torch.tensor([1, 2, 3, 4, 1, 4])
    assert policy.schedule is not None and isinstance(policy.pretrained, Denoiser)
    scale = policy.schedule.alpha_bar[step].unsqueeze(-1)
    noisy = scale.sqrt() * chunks + (1 - scale).sqrt() * noise
    predicted = policy.pretrained(policy.pretrained.condition(latents), noisy, step)
    loss = denoising_loss(policy, latents, chunks, noise, step)
    assert loss.shape == (6,)
    torch.testing.assert_close(loss, ((predicted - noise) ** 2).mean(1))


# DDIM


def test_ddim_follows_song_et_al_step_by_step() -> None:
    policy = small_policy(denoising_steps=6)
    assert policy.schedule is not None and isinstance(policy.pretrained, Denoiser)
    generator = torch.Generator().manual_seed(6)
    latents, noisy = torch.randn(4, LATENT, generator=generator), torch.randn(4, 28, generator=generator)
    found = ddim(policy, latents, noisy, 3)
    for now, after in ((6, 4), (4, 2), (2, 0)):
        noise = policy.pretrained(policy.pretrained.condition(latents), noisy, torch.tensor(now))
        a, b = policy.schedule.alpha_bar[now], policy.schedule.alpha_bar[after]
        clean = ((noisy - (1 - a).sqrt() * noise) / a.sqrt()).clamp(-1, 1)
        noise = (noisy - a.sqrt() * clean) / (1 - a).sqrt()  # what the clipped chunk implies
        noisy = b.sqrt() * clean + (1 - b).sqrt() * noise
    torch.testing.assert_close(found, noisy, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_ddim_finds_the_only_chunk_there_is_in_any_number_of_steps(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = small_policy()
    clean = torch.linspace(-0.9, 0.9, 28)
    assert policy.schedule is not None
    oracle = Oracle(policy.schedule, clean)
    monkeypatch.setattr(policy.pretrained, "forward", lambda condition, noisy, step: oracle.noise(noisy, step))
    noise = torch.randn(5, 28, generator=torch.Generator().manual_seed(7))
    found = ddim(policy, torch.zeros(5, LATENT), noise, steps)
    torch.testing.assert_close(found, clean.expand(5, 28), atol=1e-4, rtol=0.0)


def test_ddim_goes_through_the_fine_tuned_network_in_the_last_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, asked = small_policy(fine_tuned_steps=2), list[tuple[str, int]]()
    for name, network in (("pretrained", policy.pretrained), ("tuned", policy.tuned)):

        def told(condition: Tensor, noisy: Tensor, step: Tensor, name: str = name) -> Tensor:
            asked.append((name, int(step)))
            return noisy

        monkeypatch.setattr(network, "forward", told)
    ddim(policy, torch.zeros(1, LATENT), torch.zeros(1, 28), 4)
    assert asked == [("pretrained", 4), ("pretrained", 3), ("tuned", 2), ("tuned", 1)]
