"""The Dream Diffusion MDP against Algorithm 1, on a hand-made world: a point on a line that dx moves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from policy_samples import LATENT, small_classifier, small_config, small_policy
from torch import Tensor, nn

from diwa_conventions.errors import UserError
from diwa_policy.dream import DreamDiffusionMDP, DreamRules, Outcome, rewards
from diwa_policy.policy import Policy, draw_noise
from diwa_policy.ppo import PPO, Rollout, roll_out
from diwa_policy.reward import Scores
from diwa_worldmodel.artefact import LoadedWorldModel
from diwa_worldmodel.rssm import State

STEP, GOAL = 0.15, 0.3
"""How far dx = 1 goes, and where success lies; dreams begin at 0."""
EXECUTED = 4
GAMMA = 0.9


class Line:
    """Stands in for the RSSM: h is the position, nothing is drawn, and of two classes each is as probable."""

    deterministic, discrete = 1, 0

    def __init__(self) -> None:
        self.actions: list[Tensor] = []

    def frozen(self, kind: torch.dtype) -> Line:
        return self

    def imagine_step(self, state: State, action: Tensor, uniforms: Tensor) -> tuple[State, Tensor]:
        self.actions.append(action)
        position = state.deterministic + STEP * action[:, :1]
        return State(position, state.stochastic), torch.zeros(len(action), 1, 2)


class Goal(nn.Module):
    """Stands in for the classifier: success is near GOAL."""

    def __init__(self, sharpness: float = 60.0) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.tensor(0.5))
        self.sharpness = sharpness

    def forward(self, latents: Tensor) -> Scores:
        return Scores(self.sharpness * (0.05 - (latents[..., 0] - GOAL).abs()), latents)

    def probability(self, latents: Tensor) -> Tensor:
        return torch.sigmoid(self(latents).logit)


def on_the_line(reward: str = "probability", **rules: float) -> DreamDiffusionMDP:
    world: Any = SimpleNamespace(rssm=Line())
    classifier: Any = Goal()
    return DreamDiffusionMDP(world, classifier, DreamRules(GAMMA, reward, **rules), torch.Generator().manual_seed(0))


def chunk(*dx: float, gripper: float = 1.0) -> Tensor:
    """(1, T_p x 7) that moves by these dx."""
    actions = torch.zeros(len(dx), 7)
    actions[:, 0], actions[:, 6] = torch.tensor(dx), gripper
    return actions.flatten()[None]


def begin(count: int = 1) -> Tensor:
    return torch.zeros(count, 1)


# A decision ----------------------------------------------------------------------------------------------------------


def test_a_decision_executes_its_actions_one_after_the_other() -> None:
    outcome = on_the_line().decide(begin(), chunk(1.0, 1.0, -1.0, 0.5), EXECUTED)
    assert outcome.latents.tolist() == [[pytest.approx(1.5 * STEP)]]
    positions = STEP * torch.tensor([1.0, 2.0, 1.0, 1.5])
    assert torch.allclose(outcome.probability[0], Goal().probability(positions[:, None]))


def test_reward_comes_once_for_a_decision_discounted_within_the_chunk() -> None:
    outcome = on_the_line().decide(begin(), chunk(1.0, 1.0, 0.0, 0.0), EXECUTED)
    expected = sum(GAMMA ** (i / EXECUTED) * float(p) for i, p in enumerate(outcome.probability[0]))
    assert outcome.reward.tolist() == [pytest.approx(expected)]
    assert not outcome.terminated.any()


def test_only_the_first_actions_of_a_chunk_are_executed() -> None:
    mdp = on_the_line()
    outcome = mdp.decide(begin(), chunk(1.0, 1.0, 1.0, 1.0), 2)
    assert outcome.probability.shape == (1, 2)
    assert outcome.latents.tolist() == [[pytest.approx(2 * STEP)]]


def test_actions_out_of_range_are_clipped() -> None:
    assert on_the_line().decide(begin(), chunk(3.0, -7.0), 1).latents.tolist() == [[pytest.approx(STEP)]]


@pytest.mark.parametrize(("gripper", "seen"), [(0.3, 1.0), (0.0, 1.0), (-0.01, -1.0), (-5.0, -1.0)])
def test_the_gripper_is_quantised_before_it_enters_the_world_model(gripper: float, seen: float) -> None:
    world = Line()
    model, classifier = SimpleNamespace(rssm=world), Goal()
    mdp = DreamDiffusionMDP(model, classifier, DreamRules(GAMMA, "probability"), torch.Generator())
    mdp.decide(begin(), chunk(0.5, 0.5, gripper=gripper), 2)
    assert [action[0, 6].item() for action in world.actions] == [seen, seen]
    assert [action[0, 0].item() for action in world.actions] == [0.5, 0.5]


def test_every_dream_goes_its_own_way() -> None:
    chunks = torch.cat([chunk(1.0, 1.0), chunk(-1.0, 1.0), chunk(0.0, 0.0)])
    outcome = on_the_line().decide(begin(3), chunks, 2)
    assert outcome.latents.flatten().tolist() == [pytest.approx(2 * STEP), 0.0, 0.0]


# Rewards -------------------------------------------------------------------------------------------------------------


def test_what_the_world_model_is_unsure_of_beyond_the_usual_costs_its_nats() -> None:
    probability, nats = torch.tensor([[0.5, 0.5]]), torch.tensor([[3.0, 1.0]])
    rules = DreamRules(1.0, "probability", uncertainty_penalty=0.1, usual_entropy=2.0)
    assert rewards(probability, nats, 0.5, rules)[0].tolist() == [pytest.approx(1.0 - 0.1)]


def test_the_penalty_is_measured_from_the_prior_entropy_of_the_dream() -> None:
    still = chunk(0.0, 0.0)
    free, dear = (
        on_the_line(uncertainty_penalty=penalty).decide(begin(), still, 1).reward.item() for penalty in (0.0, 2.0)
    )
    assert free - dear == pytest.approx(2.0 * math.log(2.0), rel=1e-5)


def test_in_threshold_mode_the_first_success_pays_once_and_ends_the_dream() -> None:
    probability = torch.tensor([[0.1, 0.9, 0.9, 0.9], [0.1, 0.2, 0.5, 0.4], [0.9, 0.1, 0.1, 0.1]])
    reward, terminated = rewards(probability, torch.zeros(3, 4), 0.5, DreamRules(GAMMA, "threshold"))
    assert reward.tolist() == [pytest.approx(GAMMA**0.25), 0.0, 1.0]
    assert terminated.tolist() == [True, False, True]


def test_in_threshold_mode_nothing_counts_behind_the_success() -> None:
    rules = DreamRules(1.0, "threshold", uncertainty_penalty=0.1)
    reward, _ = rewards(torch.tensor([[0.1, 0.9, 0.1]]), torch.ones(1, 3), 0.5, rules)
    assert reward.tolist() == [pytest.approx(1.0 - 2 * 0.1)]


def test_the_classifiers_own_threshold_decides() -> None:
    world: Any = SimpleNamespace(rssm=Line())
    classifier: Any = Goal(sharpness=1.0)  # of .51 at the most
    classifier.threshold.fill_(0.6)
    mdp = DreamDiffusionMDP(world, classifier, DreamRules(GAMMA, "threshold"), torch.Generator())
    assert not mdp.decide(begin(), chunk(1.0, 1.0), 2).terminated.any()


def test_a_dream_that_has_ended_pays_nothing_more() -> None:
    mdp = on_the_line("threshold")
    policy = small_policy("gaussian", latent=1)
    policy.begin_fine_tuning(1)

    def stay(latents: Tensor, chunks: Tensor) -> Outcome:
        return mdp.decide(latents, torch.zeros_like(chunks), EXECUTED)

    starts = torch.tensor([[GOAL], [0.0]])  # one is there from the beginning
    dreamed = roll_out(policy, stay, starts, 3, small_config().fine_tuning, torch.Generator().manual_seed(0))
    assert dreamed.reward[0].tolist() == [1.0, 0.0]
    assert dreamed.valid.tolist() == [[True, True], [False, True], [False, True]]
    assert dreamed.ended[0].tolist() == [True, False]


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("action", "for its action is nan; the policy has diverged"),
        ("world", "for its prior entropy is nan; the world model has diverged"),
        ("classifier", "for its probability is nan; the reward classifier has diverged"),
    ],
)
def test_a_reward_that_is_no_number_is_an_error_that_names_what_is_at_fault(
    world_model: LoadedWorldModel, broken: str, words: str
) -> None:
    classifier, starts = small_classifier(), world_model.model.rssm.initial(3).latent
    chunks = torch.zeros(3, 28)
    if broken == "action":
        chunks[1, 0] = torch.nan
    elif broken == "world":
        starts[1, 0] = torch.nan
    mdp = dreams_of(world_model, classifier)
    if broken == "classifier":
        with torch.no_grad():
            next(mdp.classifier.parameters())[0] = torch.nan
    with pytest.raises(UserError, match=rf"the reward of dream {0 if broken == 'classifier' else 1} is nan, {words}"):
        mdp.decide(starts, chunks, EXECUTED)


# With a world model --------------------------------------------------------------------------------------------------


def dreams_of(
    world_model: LoadedWorldModel, classifier: nn.Module | None = None, seed: int = 0, **how: Any
) -> DreamDiffusionMDP:
    rules, generator = DreamRules(GAMMA, "probability"), torch.Generator().manual_seed(seed)
    return DreamDiffusionMDP(world_model.model, classifier or small_classifier(), rules, generator, **how)


def decide(mdp: DreamDiffusionMDP, count: int = 16) -> Outcome:
    numbers = torch.Generator().manual_seed(1)
    starts = torch.cat([torch.rand(count, 16, generator=numbers), torch.eye(4).repeat(1, 4)[:1].expand(count, -1)], 1)
    return mdp.decide(starts, torch.rand(count, 28, generator=numbers) * 2.0 - 1.0, EXECUTED)


def test_dreaming_is_imagining_step_by_step(world_model: LoadedWorldModel) -> None:
    rssm, classifier = world_model.model.rssm, small_classifier()
    outcome = decide(dreams_of(world_model, classifier))
    numbers, uniforms = torch.Generator().manual_seed(1), torch.Generator().manual_seed(0)
    starts = torch.rand(16, 16, generator=numbers)
    state = State(starts, torch.eye(4).repeat(1, 4)[:1].expand(16, -1))
    actions = (torch.rand(16, 28, generator=numbers) * 2.0 - 1.0).unflatten(-1, (4, 7))
    actions[..., 6] = torch.where(actions[..., 6] >= 0.0, 1.0, -1.0)
    with torch.no_grad():
        for t in range(EXECUTED):
            state, _ = rssm.imagine_step(state, actions[:, t], torch.rand(16, 4, generator=uniforms))
            assert torch.allclose(outcome.probability[:, t], classifier.probability(state.latent), atol=1e-5)
    assert torch.allclose(outcome.latents, state.latent, atol=1e-5)


def test_no_image_is_encoded_or_decoded(world_model: LoadedWorldModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*words: object) -> None:
        raise AssertionError("a picture in a dream")

    for part in [world_model.model.encoder, *world_model.model.decoders.values()]:
        monkeypatch.setattr(part, "forward", fail)
    with pytest.raises(AssertionError, match="a picture"):
        world_model.model.decode(torch.zeros(1, LATENT))
    assert decide(dreams_of(world_model)).reward.isfinite().all()


def test_the_same_seed_dreams_the_same_and_another_seed_something_else(world_model: LoadedWorldModel) -> None:
    torch.manual_seed(3)
    one = decide(dreams_of(world_model))
    torch.manual_seed(4)
    same, other = decide(dreams_of(world_model)), decide(dreams_of(world_model, seed=1))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one.latents, other.latents)


def test_dreaming_leaves_world_model_and_classifier_as_they_are(world_model: LoadedWorldModel) -> None:
    classifier = small_classifier()
    parts = (world_model.model, classifier)
    before = [value.clone() for part in parts for value in part.state_dict().values()]
    outcome = decide(dreams_of(world_model, classifier, kind=torch.bfloat16))
    after = [value for part in parts for value in part.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert classifier.classify[0].weight.requires_grad
    assert not outcome.reward.requires_grad


def test_bf16_dreams_are_fp32_dreams_to_rounding(world_model: LoadedWorldModel) -> None:
    exact, rough = (decide(dreams_of(world_model, kind=kind), 256) for kind in (torch.float32, torch.bfloat16))
    assert rough.latents.dtype == rough.reward.dtype == torch.float32
    assert not torch.equal(exact.reward, rough.reward)
    assert (exact.reward - rough.reward).abs().mean() < 0.02
    assert (exact.prior_entropy - rough.prior_entropy).abs().mean() < 0.05


# Algorithm 1 ---------------------------------------------------------------------------------------------------------


class Transition(NamedTuple):
    """One step of the Dream Diffusion MDP, of N dreams: t counts decisions from 0, k denoising steps from K to 1."""

    t: int
    k: int
    state: tuple[Tensor, Tensor]
    """z_t and a_t^k."""
    action: Tensor
    """a_t^{k-1}"""
    reward: Tensor
    next_latents: Tensor


def algorithm_1(
    policy: Policy, latents: Tensor, decisions: int, floor: float, generator: torch.Generator
) -> Iterator[Transition]:
    """Lines 9 to 26, word by word, on the line."""
    classifier = Goal()
    for t in range(decisions):
        noise = draw_noise((len(latents), policy.steps + 1, policy.chunk), generator)
        noisy = noise[:, 0]
        for k in range(policy.steps, 0, -1):
            network = policy.network(k)
            mean, std = policy.step(network, network.condition(latents), noisy, k, floor)
            less_noisy = mean + std * noise[:, policy.steps - k + 1]
            after, reward = latents, torch.zeros(len(latents))
            if k == 1:
                for i, dx in enumerate(less_noisy.unflatten(-1, (-1, 7))[:, :EXECUTED, 0].clamp(-1, 1).unbind(1)):
                    after = after + STEP * dx[:, None]
                    reward = reward + GAMMA ** (i / EXECUTED) * classifier.probability(after)
            yield Transition(t, k, (latents, noisy), less_noisy, reward, after)
            noisy = less_noisy
        latents = after
        for _ in range(policy.fine_tuned_steps):  # what the frozen policy is sampled with, for imitation
            draw_noise((len(latents), policy.chunk), generator)


def stored(dreamed: Rollout, steps: int) -> Iterator[Transition]:
    """The transitions that a rollout stands for: its K' last denoising steps."""
    for t, chain in enumerate(dreamed.chains):
        for k in range(steps, 0, -1):
            last = k == 1
            yield Transition(
                t, k, (dreamed.latents[t], chain[:, steps - k]), chain[:, steps - k + 1],
                dreamed.reward[t] * last, dreamed.last_latents[t] if last else dreamed.latents[t],
            )  # fmt: skip


@pytest.fixture
def policy() -> Policy:
    """K = 4, of which K' = 2."""
    made = small_policy(latent=1)
    made.begin_fine_tuning(2)
    return made


def test_a_rollout_holds_the_last_denoising_steps_of_algorithm_1(policy: Policy) -> None:
    config, mdp, starts = small_config().fine_tuning, on_the_line(), torch.linspace(-0.2, 0.2, 5)[:, None]
    decisions = 3
    dreamed = roll_out(
        policy, lambda z, a: mdp.decide(z, a, EXECUTED), starts, decisions, config, torch.Generator().manual_seed(2)
    )
    with torch.no_grad():
        spelled = list(algorithm_1(policy, starts, decisions, config.sampling_std, torch.Generator().manual_seed(2)))
    assert len(spelled) == decisions * policy.steps
    expected = [one for one in spelled if one.k <= policy.fine_tuned_steps]
    found = list(stored(dreamed, policy.fine_tuned_steps))
    assert [(one.t, one.k) for one in found] == [(one.t, one.k) for one in expected]
    for one, other in zip(found, expected, strict=True):
        pairs = zip((*one.state, *one[3:]), (*other.state, *other[3:]), strict=True)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)


# Fine-tuning ---------------------------------------------------------------------------------------------------------


def best_chunk() -> tuple[float, ...]:
    """Of all chunks that go back, stay or go on at each step."""
    mdp, tried = on_the_line(), list(itertools.product((-1.0, 0.0, 1.0), repeat=EXECUTED))
    outcome = mdp.decide(begin(len(tried)), torch.cat([chunk(*dx) for dx in tried]), EXECUTED)
    return tried[int(outcome.reward.argmax())]


def test_the_best_chunk_is_to_go_to_the_goal_and_stay() -> None:
    assert best_chunk() == (1.0, 1.0, 0.0, 0.0)


def test_ppo_finds_the_best_chunk_in_dreams() -> None:
    over = {
        "dreams": 256, "decisions": 1, "epochs": 8, "batch": 256, "actor_learning_rate": 3e-3, "clip": 0.2,
        "clip_first": 0.2, "critic_warmup": 1, "bc_coefficient": 0.0, "gamma": GAMMA,
    }  # fmt: skip
    config = small_config({"fine_tuning": over}).fine_tuning
    policy, mdp = small_policy("gaussian", latent=1, mlp=[32, 32]), on_the_line()
    policy.begin_fine_tuning(1)
    generator = torch.Generator().manual_seed(0)
    ppo, starts = PPO(policy, config, generator), begin(config.dreams)
    rewards_seen = []
    for _ in range(60):
        dreamed = roll_out(policy, lambda z, a: mdp.decide(z, a, EXECUTED), starts, 1, config, generator)
        ppo.update(dreamed)
        rewards_seen.append(float(dreamed.reward.mean()))
    with torch.no_grad():
        learned = policy.act(begin(), torch.zeros(1, policy.steps + 1, policy.chunk))[0, :, 0]
    best = mdp.decide(begin(), chunk(*best_chunk()), EXECUTED).reward.item()
    reached = mdp.decide(begin(), chunk(*learned.tolist()), EXECUTED).reward.item()
    assert tuple(learned.round().tolist()) == best_chunk()
    assert reached > 0.9 * best > 2.0 * rewards_seen[0]
