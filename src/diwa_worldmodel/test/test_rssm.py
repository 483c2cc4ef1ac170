"""The recurrent state-space model: draws, gradients, resets, and that the fast scan is the step-by-step one."""

from __future__ import annotations

import math
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from diwa_worldmodel.rssm import (
    RSSM,
    LayerNormGRU,
    State,
    Trajectory,
    balanced_kl,
    entropy,
    kl_divergence,
    straight_through,
)

BATCH, STEPS, ACTION, EMBEDDING = 3, 7, 4, 6
DETERMINISTIC, GROUPS, CLASSES, HIDDEN = 10, 4, 5, 8
JUST_BELOW_ONE = float(torch.nextafter(torch.tensor(1.0), torch.tensor(0.0)))


def rssm() -> RSSM:
    torch.manual_seed(0)
    model = RSSM(ACTION, EMBEDDING, DETERMINISTIC, GROUPS, CLASSES, HIDDEN)
    for name, parameter in model.named_parameters():
        if "norm" in name:  # ones and zeros would hide mistakes
            torch.nn.init.normal_(parameter, 1.0 if name.endswith("weight") else 0.0, 0.3)
    return model


def randoms(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def seen(steps: int = STEPS) -> dict[str, Tensor]:
    """Inputs of :meth:`RSSM.observe`; nothing is reset."""
    generator = randoms()
    return {
        "embeddings": torch.randn(BATCH, steps, EMBEDDING, generator=generator),
        "actions": torch.randn(BATCH, steps, ACTION, generator=generator),
        "reset": torch.zeros(BATCH, steps, dtype=torch.bool),
        "uniforms": torch.rand(BATCH, steps, GROUPS, generator=generator),
    }


def some_state() -> State:
    generator = randoms(1)
    classes = torch.randint(0, CLASSES, (BATCH, GROUPS), generator=generator)
    return State(torch.randn(BATCH, DETERMINISTIC, generator=generator), F.one_hot(classes, CLASSES).float().flatten(1))


def observe(model: RSSM, inputs: dict[str, Tensor], state: State) -> Trajectory:
    return model.observe(inputs["embeddings"], inputs["actions"], inputs["reset"], state, inputs["uniforms"])


def part(inputs: dict[str, Tensor], steps: slice) -> dict[str, Tensor]:
    return {name: values[:, steps] for name, values in inputs.items()}


# Draws ---------------------------------------------------------------------------------------------------------------


def test_draws_are_one_hot_in_every_group() -> None:
    drawn = straight_through(torch.randn(100, GROUPS, CLASSES, generator=randoms()), torch.rand(100, GROUPS))
    grouped = drawn.unflatten(-1, (GROUPS, CLASSES))
    assert set(grouped.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(grouped.sum(-1), torch.ones(100, GROUPS))


def test_draws_follow_the_probabilities() -> None:
    count, probabilities = 20_000, torch.tensor([0.5, 0.25, 0.15, 0.07, 0.03])
    logits = probabilities.log().expand(count, 1, -1)
    found = straight_through(logits, torch.rand(count, 1, generator=randoms())).sum(0)
    chi_square = ((found - count * probabilities).square() / (count * probabilities)).sum().item()
    assert chi_square < 18.5  # exceeded once in 1000 for 4 degrees of freedom; the seed is fixed


def test_a_uniform_number_chooses_by_the_cumulated_probabilities() -> None:
    uniforms = torch.tensor([0.0, 0.49, 0.51, 0.74, 0.76, JUST_BELOW_ONE])[:, None]
    logits = torch.tensor([0.5, 0.25, 0.25]).log().expand(6, 1, 3)
    assert straight_through(logits, uniforms).argmax(-1).tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("uniform", [0.0, 0.3, JUST_BELOW_ONE])
@pytest.mark.parametrize("certain", range(CLASSES))
def test_a_certain_class_is_drawn_whatever_the_number(uniform: float, certain: int) -> None:
    logits = torch.full((1, 1, CLASSES), -1e4)
    logits[..., certain] = 0.0
    assert straight_through(logits, torch.tensor([[uniform]])).argmax(-1).item() == certain


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(-50, 50, width=32), min_size=2, max_size=40),
    st.floats(0, JUST_BELOW_ONE, width=32),
)
def test_exactly_one_class_is_drawn_from_any_logits(logits: list[float], uniform: float) -> None:
    drawn = straight_through(torch.tensor([[logits]]), torch.tensor([[uniform]]))
    assert drawn.sum().item() == 1.0


def test_without_numbers_the_most_probable_class_is_taken() -> None:
    logits = torch.randn(50, GROUPS, CLASSES, generator=randoms())
    drawn = straight_through(logits, None).unflatten(-1, (GROUPS, CLASSES))
    assert torch.equal(drawn.argmax(-1), logits.argmax(-1))


def test_gradient_goes_straight_through_to_the_probabilities() -> None:
    logits = torch.randn(2, GROUPS, CLASSES, generator=randoms()).requires_grad_()
    weights = torch.randn(2, GROUPS * CLASSES, generator=randoms(1))
    (weights * straight_through(logits, torch.rand(2, GROUPS, generator=randoms(2)))).sum().backward()
    found, logits.grad = logits.grad, None
    (weights * F.softmax(logits, -1).flatten(1)).sum().backward()
    assert found is not None and logits.grad is not None
    assert torch.allclose(found, logits.grad, atol=1e-7)
    assert found.abs().max() > 1e-3


# KL ------------------------------------------------------------------------------------------------------------------


def logit_pair() -> tuple[Tensor, Tensor]:
    posterior, prior = torch.randn(2, 5, 3, GROUPS, CLASSES, generator=randoms())
    return posterior.requires_grad_(), prior.requires_grad_()


def gradients(value: Tensor, posterior: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
    by_posterior, by_prior = torch.autograd.grad(value.sum(), [posterior, prior])
    return by_posterior, by_prior


def test_kl_and_entropy_are_those_of_torch_distributions() -> None:
    posterior, prior = logit_pair()
    q, p = (torch.distributions.Categorical(logits=logits) for logits in (posterior, prior))
    assert torch.allclose(kl_divergence(posterior, prior), torch.distributions.kl_divergence(q, p).sum(-1), atol=1e-6)
    assert torch.allclose(entropy(posterior), q.entropy().sum(-1), atol=1e-6)


def test_kl_is_zero_between_equals_and_entropy_largest_for_equal_probabilities() -> None:
    posterior, _ = logit_pair()
    assert kl_divergence(posterior, posterior).abs().max() < 1e-6
    assert entropy(torch.zeros(GROUPS, CLASSES)).item() == pytest.approx(GROUPS * math.log(CLASSES))


def test_prior_gets_eight_tenths_of_the_gradient() -> None:
    posterior, prior = logit_pair()
    _, plain = gradients(kl_divergence(posterior, prior), posterior, prior)
    _, found = gradients(balanced_kl(posterior, prior, 0.8), posterior, prior)
    assert torch.allclose(found, 0.8 * plain, atol=1e-7)


def test_posterior_gets_two_tenths_of_the_gradient() -> None:
    posterior, prior = logit_pair()
    plain, _ = gradients(kl_divergence(posterior, prior), posterior, prior)
    found, _ = gradients(balanced_kl(posterior, prior, 0.8), posterior, prior)
    assert torch.allclose(found, 0.2 * plain, atol=1e-7)


@pytest.mark.parametrize("balance", [0.0, 0.3, 0.8, 1.0])
def test_balance_does_not_change_the_value_of_the_kl(balance: float) -> None:
    posterior, prior = logit_pair()
    assert torch.allclose(balanced_kl(posterior, prior, balance), kl_divergence(posterior, prior), atol=1e-5)


# GRU -----------------------------------------------------------------------------------------------------------------


def test_gru_keeps_most_of_its_state_at_first() -> None:
    gru = LayerNormGRU(HIDDEN, DETERMINISTIC)
    torch.nn.init.zeros_(gru.norm.weight)
    state = torch.ones(1, DETERMINISTIC)
    kept = 1.0 - 1.0 / (1.0 + math.e)  # 1 - sigmoid(-1), with a candidate of zero
    assert torch.allclose(gru(torch.ones(1, HIDDEN), state), kept * state)


# The scan ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fast", [True, False])
def test_observing_at_once_is_observing_step_by_step(fast: bool) -> None:
    model, inputs, state = rssm(), seen(), some_state()
    model.fast = fast
    inputs["reset"][1, 3] = inputs["reset"][2, 0] = True
    trajectory = observe(model, inputs, state)
    for t in range(STEPS):
        state, logits = model.observe_step(
            state, inputs["actions"][:, t], inputs["embeddings"][:, t], inputs["reset"][:, t], inputs["uniforms"][:, t]
        )
        assert torch.allclose(trajectory.deterministic[:, t], state.deterministic, atol=1e-6)
        assert torch.equal(trajectory.stochastic[:, t], state.stochastic)
        assert torch.allclose(trajectory.posterior[:, t], logits, atol=1e-6)
        assert torch.allclose(trajectory.prior[:, t], model.prior(state.deterministic), atol=1e-6)
    assert torch.equal(trajectory.last.latent, trajectory.latent[:, -1])


def scan_results(model: RSSM, drawn: bool = True, uniform: float | None = None) -> list[Tensor]:
    """States, logits and the gradient by all weights, inputs and the first state, of a sum with different weights."""
    inputs, state = seen(), some_state()
    if uniform is not None:
        inputs["uniforms"].fill_(uniform)
    inputs["reset"][1, 3] = inputs["reset"][2, 0] = True
    leaves = [inputs["embeddings"], inputs["actions"], *state]
    for leaf in leaves:
        leaf.requires_grad_()
    uniforms = inputs["uniforms"] if drawn else None
    trajectory = model.observe(inputs["embeddings"], inputs["actions"], inputs["reset"], state, uniforms)
    parts = [torch.linspace(-1.0, 2.0, one.numel()).view(one.shape) * one for one in trajectory]
    used = [*leaves, *model.parameters()]
    return [*trajectory, *torch.autograd.grad(torch.stack([one.sum() for one in parts]).sum(), used)]


@pytest.mark.parametrize("drawn", [True, False])
def test_fast_scan_has_the_numbers_and_gradients_of_autograd_to_1e_5(drawn: bool) -> None:
    model = rssm()
    fast = scan_results(model, drawn)
    model.fast = False
    for one, other in zip(fast, scan_results(model, drawn), strict=True):
        assert other.norm() > 0
        assert (one - other).norm() <= 1e-5 * other.norm()


def test_fast_scan_in_bf16_has_the_gradients_of_autograd_in_fp32_to_a_tenth() -> None:
    model = rssm()
    with torch.no_grad():  # rounding must not let a draw fall elsewhere: the first class has nine tenths
        model.posterior_logits.bias.unflatten(0, (GROUPS, CLASSES))[:, 0] += 4.0
    model.fast = False
    exact = scan_results(model, uniform=0.5)
    model.fast = True
    with torch.autocast("cpu", torch.bfloat16):
        rough = scan_results(model, uniform=0.5)
    for one, other in zip(rough, exact, strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() <= 0.1 * other.norm()
    assert not torch.equal(rough[0], exact[0])


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler")
def test_compiled_scan_has_the_same_numbers_and_gradients_to_1e_5() -> None:
    model = rssm()
    plain = scan_results(model)
    model.scan_steps = model.scan_steps.compiled("default")
    for one, other in zip(scan_results(model), plain, strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()


@pytest.mark.parametrize("fast", [True, False])
def test_two_halves_with_the_state_carried_are_the_whole(fast: bool) -> None:
    model, inputs = rssm(), seen(8)
    model.fast = fast
    whole = observe(model, inputs, some_state())
    first = observe(model, part(inputs, slice(0, 4)), some_state())
    second = observe(model, part(inputs, slice(4, 8)), first.last)
    for together, *halves in zip(whole, first, second, strict=True):
        assert torch.allclose(together, torch.cat(halves, dim=1), atol=1e-6)


# Resets --------------------------------------------------------------------------------------------------------------


def perturbed(inputs: dict[str, Tensor], steps: slice) -> dict[str, Tensor]:
    """Other frames, actions and draws in these steps."""
    changed = {name: values.clone() for name, values in inputs.items()}
    changed["embeddings"][:, steps] += 1.0
    changed["actions"][:, steps] -= 1.0
    changed["uniforms"][:, steps] = 1.0 - changed["uniforms"][:, steps]
    return changed


@pytest.mark.parametrize("fast", [True, False])
def test_after_a_reset_nothing_before_it_has_any_influence(fast: bool) -> None:
    model, inputs = rssm(), seen()
    model.fast = fast
    inputs["reset"][:, 3] = True
    one = observe(model, inputs, some_state())
    changed = perturbed(inputs, slice(0, 3))
    changed["actions"][:, 3] += 5.0  # led to the frame at the reset
    other = observe(model, changed, model.initial(BATCH))
    for before, after in zip(one, other, strict=True):
        assert not torch.equal(before[:, :3], after[:, :3])
        assert torch.equal(before[:, 3:], after[:, 3:])


def test_a_reset_of_one_row_leaves_the_others_alone() -> None:
    model, inputs = rssm(), seen()
    plain = observe(model, inputs, some_state())
    inputs["reset"][1, 3] = True
    reset = observe(model, inputs, some_state())
    assert torch.equal(plain.deterministic[[0, 2]], reset.deterministic[[0, 2]])
    assert not torch.equal(plain.deterministic[1, 3:], reset.deterministic[1, 3:])


def test_without_a_reset_the_state_and_the_action_before_matter() -> None:
    model, inputs = rssm(), seen()
    plain = observe(model, inputs, some_state())
    without_state = observe(model, inputs, model.initial(BATCH))
    changed = observe(model, perturbed(inputs, slice(3, 4)), some_state())
    for other in (without_state, changed):
        assert not torch.allclose(other.deterministic[:, -1], plain.deterministic[:, -1])


# Dreams --------------------------------------------------------------------------------------------------------------


def test_dreaming_at_once_is_dreaming_step_by_step() -> None:
    model, inputs, state = rssm(), seen(), some_state()
    latents, priors = model.imagine(state, inputs["actions"], inputs["uniforms"])
    for t in range(STEPS):
        state, logits = model.imagine_step(state, inputs["actions"][:, t], inputs["uniforms"][:, t])
        assert torch.equal(latents[:, t], state.latent)
        assert torch.equal(priors[:, t], logits)


def test_a_dream_depends_on_its_actions() -> None:
    model, inputs = rssm(), seen()
    one, _ = model.imagine(some_state(), inputs["actions"], inputs["uniforms"])
    other, _ = model.imagine(some_state(), -inputs["actions"], inputs["uniforms"])
    assert not torch.allclose(one[:, 0], other[:, 0])


@pytest.mark.parametrize("drawn", [True, False])
def test_frozen_dynamics_dream_the_same_classes_and_the_same_numbers_to_1e_6(drawn: bool) -> None:
    model, inputs, state = rssm(), seen(), some_state()
    frozen, other = model.frozen(), state
    for t in range(STEPS):
        uniforms = inputs["uniforms"][:, t] if drawn else None
        state, logits = model.imagine_step(state, inputs["actions"][:, t], uniforms)
        other, found = frozen.imagine_step(other, inputs["actions"][:, t], uniforms)
        assert torch.allclose(found, logits, atol=1e-6)
        assert torch.allclose(other.deterministic, state.deterministic, atol=1e-6)
        assert torch.equal(other.stochastic, state.stochastic.round())


def test_frozen_dynamics_dream_from_the_state_before_anything_was_seen() -> None:
    model, inputs = rssm(), seen()
    _, logits = model.imagine_step(model.initial(BATCH), inputs["actions"][:, 0], None)
    _, found = model.frozen().imagine_step(model.initial(BATCH), inputs["actions"][:, 0], None)
    assert torch.allclose(found, logits, atol=1e-6)


def test_frozen_dynamics_keep_the_weights_they_were_made_of() -> None:
    model, inputs, state = rssm(), seen(), some_state()
    frozen = model.frozen()
    _, before = frozen.imagine_step(state, inputs["actions"][:, 0], None)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1.0
    _, after = frozen.imagine_step(state, inputs["actions"][:, 0], None)
    assert torch.equal(before, after)
    assert not after.requires_grad


def test_frozen_dynamics_in_bf16_have_the_logits_of_fp32_to_a_twentieth() -> None:
    model, inputs, state = rssm(), seen(), some_state()
    _, exact = model.imagine_step(state, inputs["actions"][:, 0], None)
    after, rough = model.frozen(torch.bfloat16).imagine_step(state, inputs["actions"][:, 0], None)
    assert after.latent.dtype == rough.dtype == torch.float32
    assert 0.0 < (rough - exact).norm() <= 0.05 * exact.norm()
