"""PPO: returns, ratios, clipping, imitation, what changes and what stays; and that it climbs where there is a hill."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_samples import LATENT, small_classifier, small_config, small_policy, small_world_model
from torch import Tensor, nn

from diwa_policy.config import FineTuningConfig
from diwa_policy.dream import DreamDiffusionMDP, DreamRules, Outcome
from diwa_policy.policy import Policy
from diwa_policy.ppo import (
    PPO,
    RewardScale,
    Rollout,
    advantages,
    chain_log_probs,
    clip_ranges,
    denoising_discounts,
    roll_out,
)

CONFIG = replace(small_config().fine_tuning, critic_warmup=0)
KINDS = ("diffusion", "gaussian")


def tuned_policy(kind: str = "diffusion", config: FineTuningConfig = CONFIG) -> Policy:
    policy = small_policy(kind)
    policy.begin_fine_tuning(config.fine_tuned_steps)
    return policy


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Lane:
    """A world of one kind of place: a decision pays what ``pays`` makes of its chunk (N, C), and leads on as drawn."""

    def __init__(self, pays=lambda chunks: chunks[:, 0], ends=lambda chunks: chunks[:, 0] > torch.inf) -> None:
        self.pays, self.ends, self.generator = pays, ends, seeded(5)

    def __call__(self, latents: Tensor, chunks: Tensor) -> Outcome:
        after = torch.randn(latents.shape, generator=self.generator)
        nothing = torch.zeros(len(latents), 1)
        return Outcome(after, self.pays(chunks), self.ends(chunks), nothing, nothing)


def dreamed(policy: Policy, config: FineTuningConfig = CONFIG, lane: Lane | None = None, dreams: int = 8) -> Rollout:
    starts = torch.randn(dreams, LATENT, generator=seeded(1))
    return roll_out(policy, lane or Lane(), starts, config.decisions, config, seeded(2))


def flat(rollout: Rollout) -> dict[str, Tensor]:
    """As PPO's minibatches have it, with the reward as advantage."""
    names = ("latents", "chains", "imitated", "log_probs")
    data = {name: getattr(rollout, name).flatten(0, 1) for name in names}
    return {**data, "advantage": rollout.reward.flatten()}


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# Returns


class Flow(NamedTuple):
    """What goes into advantages, (M, N) each."""

    reward: Tensor
    values: Tensor
    next_values: Tensor
    terminated: Tensor
    ended: Tensor


@st.composite
def flows(draw: st.DrawFn) -> Flow:
    decisions, dreams = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    generator = seeded(draw(st.integers(0, 10**6)))
    reward, values, after = torch.randn(3, decisions, dreams, generator=generator, dtype=torch.float64)
    terminated, truncated = torch.rand(2, decisions, dreams, generator=generator) < 0.25
    return Flow(reward, values, after, terminated, terminated | truncated)


@settings(max_examples=80, deadline=None)
@given(flow=flows(), gamma=st.floats(0.0, 1.0), lam=st.floats(0.0, 1.0))
def test_advantage_is_the_sum_of_discounted_errors_up_to_the_end_of_the_dream(flow, gamma, lam):
    found = advantages(*flow, gamma, lam)
    decisions, dreams = flow.reward.shape
    for n in range(dreams):
        for begin in range(decisions):
            total = 0.0
            for t in range(begin, decisions):
                behind = 0.0 if flow.terminated[t, n] else gamma * float(flow.next_values[t, n])
                error = float(flow.reward[t, n]) + behind - float(flow.values[t, n])
                total += (gamma * lam) ** (t - begin) * error
                if flow.ended[t, n]:
                    break
            assert float(found[begin, n]) == pytest.approx(total, abs=1e-9)


def test_advantage_at_termination_has_no_value_behind_it_and_at_truncation_its_own_last_latents():
    one, false, true = torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.bool), torch.ones(1, 1, dtype=torch.bool)
    assert advantages(one, 2 * one, 10 * one, true, true, 0.5, 0.9).item() == pytest.approx(1.0 - 2.0)
    assert advantages(one, 2 * one, 10 * one, false, true, 0.5, 0.9).item() == pytest.approx(1.0 + 5.0 - 2.0)


def test_next_values_are_of_the_same_dream_also_behind_the_last_decision():
    rollout = dreamed(tuned_policy())
    assert torch.equal(rollout.last_latents[:-1], rollout.latents[1:])
    assert not any((rollout.last_latents[-1] == other).all(dim=-1).any() for other in rollout.latents)
    assert rollout.ended[-1].all() and not rollout.ended[:-1].any() and rollout.valid.all()


def test_values_behind_the_last_decision_are_of_its_own_last_latents_unless_success_ended_it():
    """With a critic that is a linear function: the sum of errors, dream by dream, over what the rollout holds."""
    config = replace(CONFIG, decisions=4, gamma=0.9, gae_lambda=0.8)
    rollout = dreamed(tuned_policy(config=config), config, Lane(ends=lambda chunks: chunks[:, 0] > 0.5))
    assert rollout.terminated[-1].any() and not rollout.terminated[-1].all()
    ppo = PPO(tuned_policy(config=config), config, seeded())
    ppo.critic = nn.Linear(LATENT, 1)
    ppo.scale.see(rollout.reward, rollout.valid)
    values, found = ppo.values_and_advantages(rollout)

    weight, bias = ppo.critic.weight.detach()[0], float(ppo.critic.bias.detach())

    def value(latents: Tensor) -> float:
        return float(latents @ weight) + bias

    ends = set()
    for n in range(rollout.valid.shape[1]):
        length, expected = int(rollout.valid[:, n].sum()), 0.0
        ends.add(bool(rollout.terminated[length - 1, n]))
        for t in reversed(range(length)):
            behind = 0.0 if rollout.terminated[t, n] else value(rollout.last_latents[t, n])
            now = value(rollout.latents[t, n])
            error = float(rollout.reward[t, n]) / ppo.scale.std + 0.9 * behind - now
            expected = error + 0.9 * 0.8 * expected
            assert values[t, n].item() == pytest.approx(now, abs=1e-5)
            assert found[t, n].item() == pytest.approx(expected, abs=1e-4)
    assert ends == {True, False}


def test_nothing_is_dreamed_once_all_dreams_have_ended():
    config, counts = replace(CONFIG, decisions=6), []

    def rolled(decisions: int) -> Rollout:
        lane, calls = Lane(ends=lambda chunks: torch.arange(len(chunks)) < 4 * len(calls)), []

        def decide(latents: Tensor, chunks: Tensor) -> Outcome:
            calls.append(1)
            return lane(latents, chunks)

        starts = torch.randn(8, LATENT, generator=seeded(1))
        rollout = roll_out(tuned_policy(), decide, starts, decisions, config, seeded(2))
        counts.append(len(calls))
        return rollout

    whole, cut = rolled(6), rolled(2)
    assert counts == [2, 2]
    assert whole.valid.tolist() == [[True] * 8, [False] * 4 + [True] * 4]
    assert whole.ended[-1].all()
    for name, one, other in zip(Rollout._fields, whole, cut, strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("kind", KINDS)
def test_dreams_are_drawn_with_one_smallest_deviation_and_judged_with_another(kind):
    config, policy = replace(CONFIG, sampling_std=0.4, log_prob_std=0.8), tuned_policy(kind)
    rollout = dreamed(policy, config, dreams=64)
    for chains in (rollout.chains, rollout.imitated):  # by two networks that are still the same
        likely, deviations = [], []
        for number, k in enumerate(range(policy.fine_tuned_steps, 0, -1)):
            noisy, less_noisy = chains[:, :, number], chains[:, :, number + 1]
            with torch.no_grad():
                mean, std = policy.step(policy.tuned, policy.tuned.condition(rollout.latents), noisy, k, 0.0)
            distribution = torch.distributions.Normal(mean, std.clamp(min=0.8))
            likely.append(distribution.log_prob(less_noisy).mean(dim=-1))
            deviations.append(float(((less_noisy - mean) / std.clamp(min=0.4)).std()))
        assert deviations == pytest.approx([1.0] * policy.fine_tuned_steps, abs=0.05)
        if chains is rollout.chains:
            assert torch.allclose(rollout.log_probs, torch.stack(likely, dim=-1), atol=1e-5)


def test_reward_scale_is_the_standard_deviation_of_running_discounted_returns():
    reward = torch.randn(5, 4, generator=seeded(), dtype=torch.float64).float()
    valid = torch.ones(5, 4, dtype=torch.bool)
    valid[3:, 1] = False
    scale, seen = RewardScale(0.5), []
    for n in range(4):
        total = 0.0
        for t in range(5):
            total = 0.5 * total + float(reward[t, n])
            seen += [total] if valid[t, n] else []
    assert scale.std == 1.0
    scale.see(reward, valid)
    assert scale.std == pytest.approx(float(torch.tensor(seen).std(correction=0)), rel=1e-5)


def test_reward_scale_remembers_the_iterations_before():
    first, second = torch.zeros(2, 3), torch.full((2, 3), 4.0)
    valid = torch.ones(2, 3, dtype=torch.bool)
    scale = RewardScale(0.0)
    scale.see(first, valid)
    scale.see(second, valid)
    assert scale.std == pytest.approx(2.0)


def test_the_size_of_rewards_does_not_matter():
    results = []
    for size in (1.0, 64.0):
        ppo = PPO(tuned_policy(), CONFIG, seeded())
        ppo.update(dreamed(ppo.policy, lane=Lane(pays=lambda chunks, size=size: size * chunks[:, 0])))
        results.append(ppo.policy.state_dict())
    assert all(torch.allclose(results[0][name], results[1][name], atol=1e-5) for name in results[0])
    assert not same(results[0], weights(tuned_policy()))


# The surrogate


@pytest.mark.parametrize("kind", KINDS)
def test_ratio_is_one_before_the_first_step(kind):
    ppo = PPO(tuned_policy(kind), CONFIG, seeded())
    _, ratio, clipped = ppo.surrogate(flat(dreamed(ppo.policy)))
    assert torch.allclose(ratio, torch.ones_like(ratio), atol=1e-5)
    assert clipped == 0.0


def test_ratio_is_that_of_likelihoods_after_a_step():
    ppo = PPO(tuned_policy(), CONFIG, seeded())
    data = flat(dreamed(ppo.policy))
    ppo.update(dreamed(ppo.policy))
    now = chain_log_probs(ppo.policy, data["latents"], data["chains"], CONFIG.log_prob_std)
    _, ratio, _ = ppo.surrogate(data)
    assert torch.allclose(ratio, now.exp() / data["log_probs"].exp(), atol=1e-5)
    assert (ratio - 1.0).abs().max() > 1e-3


def test_advantages_are_normalised_within_a_minibatch():
    ppo = PPO(tuned_policy(), CONFIG, seeded())
    data = flat(dreamed(ppo.policy))
    other = {**data, "advantage": 7.0 * data["advantage"] + 3.0}
    gradients = []
    for one in (data, other):
        loss, _, _ = ppo.surrogate(one)
        gradients.append(torch.autograd.grad(loss, list(ppo.policy.tuned.parameters())))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))
    assert any(a.abs().max() > 1e-3 for a in gradients[0])


def test_a_ratio_beyond_its_range_on_the_good_side_has_no_gradient():
    """Two decisions, one better than the other, both already as far as they may go."""
    ppo = PPO(tuned_policy(), CONFIG, seeded())
    data = {name: values[:2] for name, values in flat(dreamed(ppo.policy)).items()}
    far = 2.0 * CONFIG.clip
    data["advantage"] = torch.tensor([1.0, -1.0])
    beyond = {**data, "log_probs": data["log_probs"] + torch.tensor([[-far], [far]])}
    behind = {**data, "log_probs": data["log_probs"] + torch.tensor([[far], [-far]])}
    sizes = []
    for one in (beyond, behind):
        loss, _, clipped = ppo.surrogate(one)
        gradient = torch.autograd.grad(loss, list(ppo.policy.tuned.parameters()), allow_unused=True)
        sizes.append(max(float(part.abs().max()) for part in gradient if part is not None))
        assert clipped == 1.0
    assert sizes[0] == 0.0 and sizes[1] > 0.0


def test_clip_ranges_grow_exponentially_up_to_the_last_denoising_step():
    ranges = clip_ranges(FineTuningConfig(clip=0.01, clip_first=0.0001), 3)
    assert ranges.tolist() == pytest.approx([0.0001, 0.001, 0.01])
    assert clip_ranges(FineTuningConfig(clip=0.01, clip_first=0.0001), 1).tolist() == pytest.approx([0.01])
    assert clip_ranges(FineTuningConfig(clip=0.01, clip_first=0.0), 3).tolist() == pytest.approx([0.0, 0.005, 0.01])


def test_denoising_discount_has_exponent_zero_at_the_last_step_and_nine_at_the_first_of_ten():
    discounts = denoising_discounts(FineTuningConfig(gamma_denoise=0.9), 10)
    assert discounts.tolist() == pytest.approx([0.9**k for k in range(9, -1, -1)])


def test_the_first_of_the_steps_weighs_less_in_the_loss():
    """With ratios that differ in one step only, the loss differs by that step's discount."""
    config = replace(CONFIG, gamma_denoise=0.5, clip=1.0, clip_first=1.0)
    ppo = PPO(tuned_policy(config=config), config, seeded())
    data = {name: values[:2] for name, values in flat(dreamed(ppo.policy)).items()}
    data["advantage"] = torch.tensor([1.0, -1.0])
    plain, _, _ = ppo.surrogate(data)
    changes = []
    for step in range(2):
        old = data["log_probs"].clone()
        old[0, step] -= 0.5
        loss, _, _ = ppo.surrogate({**data, "log_probs": old})
        changes.append((plain - loss).item())
    assert changes[0] > 0.0 and changes[0] == pytest.approx(0.5 * changes[1], rel=1e-3)


# Imitation


@pytest.mark.parametrize("kind", KINDS)
def test_imitated_chains_are_the_frozen_policys_from_the_same_noise(kind):
    policy = tuned_policy(kind)
    with torch.no_grad():
        for parameter in policy.tuned.parameters():
            parameter.zero_()
    rollout = dreamed(policy)
    assert torch.equal(rollout.imitated[:, :, 0], rollout.chains[:, :, 0])
    own = chain_log_probs(policy, rollout.latents.flatten(0, 1), rollout.imitated.flatten(0, 1), 0.1).mean()
    frozen = small_policy(kind)
    frozen.begin_fine_tuning(CONFIG.fine_tuned_steps)
    theirs = chain_log_probs(frozen, rollout.latents.flatten(0, 1), rollout.imitated.flatten(0, 1), 0.1).mean()
    assert theirs > own


def zero(critic: nn.Module) -> None:
    """No value anywhere, and without reward no advantage either."""
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.zero_()


@pytest.mark.parametrize("kind", KINDS)
def test_imitation_has_a_gradient_and_pulls_towards_the_frozen_policy(kind):
    """No reward and a critic of zeros leave no advantage: imitation alone moves the actor (method.md 1)."""
    config = replace(CONFIG, bc_coefficient=1.0, epochs=1, batch=1000)
    policy = tuned_policy(kind, config)
    with torch.no_grad():
        for parameter in policy.tuned.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=seeded(3)))
    rollout = dreamed(policy, config, Lane(pays=lambda chunks: torch.zeros(len(chunks))))

    def likelihood() -> Tensor:
        latents, chains = rollout.latents.flatten(0, 1), rollout.imitated.flatten(0, 1)
        return chain_log_probs(policy, latents, chains, config.log_prob_std).mean()

    before = likelihood()
    uphill = torch.autograd.grad(before, list(policy.tuned.parameters()))
    ppo = PPO(policy, config, seeded())
    zero(ppo.critic)
    ppo.update(rollout)
    size = min(1.0, config.gradient_clip / float(torch.cat([one.flatten() for one in uphill]).norm()))
    for parameter, direction in zip(policy.tuned.parameters(), uphill, strict=True):
        assert torch.allclose(parameter.grad, -size * direction, atol=1e-6)
    for _ in range(4):
        ppo.update(rollout)
    assert likelihood() > before + 1e-3


def test_without_reward_and_imitation_the_actor_stays():
    config = replace(CONFIG, bc_coefficient=0.0)
    ppo = PPO(tuned_policy(config=config), config, seeded())
    before = weights(ppo.policy)
    zero(ppo.critic)
    ppo.update(dreamed(ppo.policy, config, Lane(pays=lambda chunks: torch.zeros(len(chunks)))))
    assert same(before, weights(ppo.policy))


# What changes, and what stays


def test_only_the_network_of_the_last_steps_changes(tmp_path):
    world_model, classifier, policy = small_world_model(tmp_path).model, small_classifier(), tuned_policy()
    before = [weights(one) for one in (world_model, classifier, policy.pretrained, policy.tuned)]
    mdp = DreamDiffusionMDP(world_model, classifier, DreamRules(CONFIG.gamma, CONFIG.reward), seeded(4))
    executed = policy.config.executed_actions
    starts = world_model.rssm.initial(8).latent
    rollout = roll_out(policy, lambda s, a: mdp.decide(s, a, executed), starts, CONFIG.decisions, CONFIG, seeded(2))
    PPO(policy, CONFIG, seeded()).update(rollout)
    after = [weights(one) for one in (world_model, classifier, policy.pretrained, policy.tuned)]
    assert [same(a, b) for a, b in zip(before, after, strict=True)] == [True, True, True, False]


def test_steps_before_the_fine_tuned_ones_go_on_as_they_were():
    ppo = PPO(tuned_policy(), CONFIG, seeded())
    latents, noise = torch.randn(3, LATENT, generator=seeded(1)), torch.randn(3, 5, 28, generator=seeded(2))
    before = ppo.policy.sample(latents, noise)
    ppo.update(dreamed(ppo.policy))
    after = ppo.policy.sample(latents, noise)
    fixed = ppo.policy.steps - ppo.policy.fine_tuned_steps + 1
    assert torch.equal(before[:, :fixed], after[:, :fixed])
    assert not torch.equal(before[:, fixed:], after[:, fixed:])


def test_the_critic_alone_learns_while_it_warms_up():
    config = replace(CONFIG, critic_warmup=1)
    ppo = PPO(tuned_policy(config=config), config, seeded())
    actor, critic = weights(ppo.policy), weights(ppo.critic)
    ppo.update(dreamed(ppo.policy, config))
    assert same(actor, weights(ppo.policy)) and not same(critic, weights(ppo.critic))
    ppo.update(dreamed(ppo.policy, config))
    assert not same(actor, weights(ppo.policy))


def test_what_would_follow_the_end_of_a_dream_is_not_learned_from():
    config = replace(CONFIG, decisions=3)
    ends = Lane(ends=lambda chunks: chunks[:, 0] > 0.0)
    rollout = dreamed(tuned_policy(config=config), config, ends)
    alive = torch.cat([torch.ones(1, 8, dtype=torch.bool), ~rollout.terminated[:-1]]).cumprod(dim=0).bool()
    assert torch.equal(rollout.valid, alive) and 0 < int(rollout.valid[1:].sum()) < 16
    poisoned = {
        name: getattr(rollout, name).masked_fill(~_widened(rollout.valid, getattr(rollout, name)), 1e6)
        for name in ("latents", "chains", "imitated", "log_probs", "last_latents", "reward")
    }
    results = []
    for one in (rollout, rollout._replace(**poisoned)):
        ppo = PPO(tuned_policy(config=config), config, seeded())
        ppo.update(one)
        results.append(ppo.tensors())
    assert same(*results)


def _widened(mask: Tensor, like: Tensor) -> Tensor:
    return mask.reshape(*mask.shape, *[1] * (like.ndim - mask.ndim))


@pytest.mark.parametrize(
    ("decisions", "sizes"), [(4, [4]), (10, [10]), (11, [6, 5]), (20, [10, 10]), (21, [7, 7, 7]), (31, [8, 8, 8, 7])]
)
def test_minibatches_are_of_equal_size_with_no_rest(decisions, sizes):
    """Of ten decisions at most, of two steps each; each decision is in one."""
    ppo = PPO(tuned_policy(), replace(CONFIG, batch=20), seeded())
    parts = ppo._minibatches(decisions)
    assert [len(rows) for rows in parts] == sizes
    assert torch.cat(parts).sort().values.tolist() == list(range(decisions))
    assert decisions == 4 or torch.cat(parts).tolist() != list(range(decisions))


def test_a_minibatch_of_one_decision_leaves_numbers():
    config = replace(CONFIG, batch=2)
    ppo = PPO(tuned_policy(config=config), config, seeded())
    ppo.update(dreamed(ppo.policy, config))
    assert all(tensor.isfinite().all() for tensor in ppo.tensors().values())


@pytest.mark.parametrize("kept", [0.0, 0.75])
def test_the_average_keeps_its_share_in_every_iteration(kept):
    config = replace(CONFIG, actor_average=kept)
    ppo = PPO(tuned_policy(config=config), config, seeded())
    expected = weights(ppo.policy.tuned)
    for _ in range(3):
        ppo.update(dreamed(ppo.policy, config))
        now = weights(ppo.policy.tuned)
        expected = {name: kept * expected[name] + (1.0 - kept) * now[name] for name in now}
    found = weights(ppo.averaged.tuned)
    assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in found)
    assert same(found, now) == (kept == 0.0)
    assert same(weights(ppo.averaged.pretrained), weights(ppo.policy.pretrained))


# Doing it again


def test_same_seed_same_result():
    results = []
    for seed in (0, 0, 1):
        ppo = PPO(tuned_policy(), CONFIG, seeded(seed))
        ppo.update(dreamed(ppo.policy))
        results.append(ppo.tensors())
    assert same(results[0], results[1]) and not same(results[0], results[2])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("done", [1, 2], ids=["in the warm-up", "behind it"])
def test_what_is_restored_goes_on_bit_for_bit(kind, done):
    config = replace(CONFIG, critic_warmup=1)
    whole = PPO(tuned_policy(kind, config), config, seeded())
    saved = {}
    for number in range(3):
        whole.generator.manual_seed(number)
        whole.update(dreamed(whole.policy, config))
        if number + 1 == done:
            saved = whole.tensors()
    again = PPO(tuned_policy(kind, config), config, seeded(9))
    again.restore(done, saved)
    for number in range(done, 3):
        again.generator.manual_seed(number)
        again.update(dreamed(again.policy, config))
    assert again.iteration == 3 and again.scale.std == whole.scale.std
    assert same(again.tensors(), whole.tensors())


@pytest.mark.parametrize("kind", KINDS)
def test_it_moves_the_mean_to_the_rewarded_side(kind):
    """One decision, paid by its first number: nothing to plan, only a hill to climb."""
    config = replace(CONFIG, decisions=1, epochs=4, batch=256, clip=0.05, clip_first=0.05, bc_coefficient=0.0)
    config = replace(config, actor_learning_rate=3e-3)
    policy = tuned_policy(kind, config)
    generator = seeded()
    ppo = PPO(policy, config, generator)
    latents, noise = torch.randn(64, LATENT, generator=seeded(1)), torch.randn(64, policy.steps + 1, 28).clamp(-3, 3)

    def first_number() -> float:
        with torch.no_grad():
            return float(policy.act(latents, noise)[:, 0, 0].mean())

    before = first_number()
    for _ in range(15):
        ppo.update(roll_out(policy, Lane(), latents, 1, config, generator))
    assert first_number() > before + 0.2
