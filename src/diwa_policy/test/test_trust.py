"""Signals of trust, on a hand-made world with known ends and on a small world model."""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, replace

import pytest
import torch
from policy_samples import SKILL, small_classifier, small_config, small_demonstrations, small_policy, small_world_model
from torch import Tensor

from diwa_conventions.actions import GRIPPER_INDEX
from diwa_conventions.errors import UserError
from diwa_policy.demonstrations import Attempt, Demonstrations, load_demonstrations
from diwa_policy.dream import DreamDiffusionMDP, DreamRules, Outcome, rewards
from diwa_policy.finetune.draws import Purpose, reseed
from diwa_policy.finetune.starts import find_starts
from diwa_policy.finetune.trust import Dreams, LearnedFrom, TrustCheck, distance, dream, replay, usual_entropy
from diwa_policy.policy import Policy, draw_noise
from diwa_policy.reward import RewardClassifier

CONFIG = replace(small_config().fine_tuning, trust_dreams=6, replay_draws=3)
CPU = torch.device("cpu")
NOBODY = LearnedFrom(False, False)


class Slope:
    """A ball (N, 2: place, 0) that rolls on by ``slope`` and the first action a step; success is a place beyond 2.5."""

    threshold = 0.5

    def __init__(self, slope: float = 0.0, reward: str = "probability") -> None:
        self.slope, self.rules = slope, DreamRules(0.5, reward)
        self.generator = torch.Generator().manual_seed(0)
        self.chunks: list[Tensor] = []

    def decide(self, latents: Tensor, chunks: Tensor, executed: int) -> Outcome:
        self.chunks.append(chunks)
        moved = torch.unflatten(chunks, -1, (-1, 7))[:, :executed, 0] + self.slope
        places = latents[:, :1] + moved.cumsum(dim=1)
        probability = (places > 2.5).float()
        reward, terminated = rewards(probability, places, self.threshold, self.rules)
        after = torch.stack([places[:, -1], latents[:, 1]], dim=1)
        return Outcome(after, reward, terminated, probability, places)


def rolled(*pushes: float, begin: float = 0.0, steps_before: int = 0, success: bool = True) -> Attempt:
    """An attempt with these first actions; a last frame's is never part of it."""
    frames = len(pushes) + 1
    actions, latents = torch.zeros(frames, 7), torch.zeros(frames, 2)
    actions[:, 0] = torch.tensor([*pushes, 100.0])
    latents[:, 0] = begin + torch.tensor([0.0, *pushes]).cumsum(dim=0)
    nothing = torch.zeros(frames)
    return Attempt(latents, actions, nothing, nothing, torch.arange(frames) + steps_before, success)


# Replay of recorded attempts


def test_replay_follows_the_recorded_actions_to_their_end_and_no_further():
    found = replay([rolled(1.0, 1.0, 1.0), rolled(1.0, 1.0), rolled(1.0, 1.0, 1.0, -3.0)], Slope(), 0, 4)
    assert found.success.tolist() == pytest.approx([1.0, 0.0, 1.0])


def test_what_is_dreamed_behind_the_end_of_a_short_attempt_does_not_count():
    found = replay([rolled(0.0, 0.0), rolled(0.0, 0.0, 0.0)], Slope(slope=1.0), 0, 2)
    assert found.success.tolist() == pytest.approx([0.0, 1.0])
    assert torch.isnan(found.prior_entropy).tolist() == [[False, False, True], [False, False, False]]


def test_replay_begins_at_the_first_frame_that_the_filter_has_warmed_up_for():
    found = replay([rolled(9.0, 1.0, 1.0, begin=-9.0)], Slope(), 1, 1)
    assert found.prior_entropy.tolist() == [[1.0, 2.0]]


def test_attempts_too_short_to_warm_up_are_left_out():
    found = replay([rolled(1.0), rolled(1.0, 1.0, 1.0)], Slope(), 1, 1)
    assert len(found.success) == 1
    assert len(replay([rolled(1.0)], Slope(), 5, 1).success) == 0


def test_share_of_success_is_over_draws():
    world = Slope()
    world.decide = lambda latents, chunks, executed: Slope(  # every second dream is on a slope
        slope=float(torch.rand(1, generator=world.generator) < 0.5) * 10.0
    ).decide(latents, chunks, executed)  # fmt: skip
    found = replay([rolled(0.0, 0.0)], world, 0, 400)
    assert float(found.success[0]) == pytest.approx(0.5, abs=0.1)


def test_usual_entropy_is_held_where_few_attempts_go_on():
    nan = math.nan
    curve = usual_entropy(torch.tensor([[1.0, 3.0, 8.0, 9.0], [3.0, 5.0, nan, nan], [2.0, nan, nan, nan]]))
    assert curve.tolist() == pytest.approx([2.0, 4.0, 4.0, 4.0])


# Dreams as a policy would be served


def test_dreams_act_as_the_policy_does_without_exploring():
    world, policy = Slope(), small_policy(latent=2)
    dream(policy, world, torch.zeros(3, 2), 1)
    noise = draw_noise((3, policy.steps + 1, policy.chunk), torch.Generator().manual_seed(0))
    assert torch.equal(world.chunks[0], policy.act(torch.zeros(3, 2), noise, floor=0.0).flatten(1))
    assert not torch.equal(world.chunks[0], policy.act(torch.zeros(3, 2), noise, floor=0.1).flatten(1))


def test_success_return_and_confidence_of_a_dream():
    """A decision is four steps down a slope of one: from 0 the third is a success, from -9 none in two decisions."""
    policy = still_policy()
    found = dream(policy, Slope(slope=1.0), torch.tensor([[0.0, 0.0], [-9.0, 0.0]]), 2)
    assert found.success.tolist() == [True, False]
    assert found.confidence.tolist() == [1.0, 0.0]
    within = [0.5 ** (i / 4) for i in range(4)]
    assert found.returns.tolist() == pytest.approx([sum(within[2:]) + 0.5 * sum(within), 0.0])
    assert torch.isnan(found.prior_entropy).sum(dim=1).tolist() == [5, 0], "behind a success nothing is asked"


def test_where_success_ends_the_dream_the_return_ends_too():
    found = dream(still_policy(), Slope(slope=1.0, reward="threshold"), torch.zeros(1, 2), 3)
    assert found.returns.tolist() == pytest.approx([0.5**0.5])


def still_policy() -> Policy:
    """A Gaussian policy that does next to nothing."""
    policy = small_policy("gaussian", latent=2)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
        policy.pretrained.log_std.fill_(-4.0)
    policy.pretrained.forward = lambda condition: (torch.zeros(len(condition), 28), torch.zeros(1))
    return policy


# Distance


def biased(index: int, by: float) -> tuple[Policy, Policy]:
    """A Gaussian policy, and one with another mean of one component of each action."""
    policy = small_policy("gaussian")
    policy.begin_fine_tuning(1)
    other = copy.deepcopy(policy)
    with torch.no_grad():
        for network in (policy.tuned, other.tuned):
            network.log_std.fill_(-4.0)
        other.tuned.mean.bias[index::7] += by
    return policy, other


@pytest.mark.parametrize(("index", "name"), [(0, "translation"), (2, "translation"), (3, "rotation"), (5, "rotation")])
def test_distance_is_of_its_own_kind(index, name):
    policy, other = biased(index, 0.3)
    found = distance(policy, other, torch.zeros(8, 32), torch.Generator().manual_seed(0))._asdict()
    assert 0.05 < found.pop(name) < 0.3
    assert all(value == 0.0 for value in found.values())


def test_gripper_flips_count_signs_and_no_size():
    policy, other = biased(GRIPPER_INDEX, 50.0)
    latents, generator = torch.zeros(64, 32), torch.Generator().manual_seed(0)
    closed = policy.act(latents, draw_noise((64, 2, 28), torch.Generator().manual_seed(0)))[..., GRIPPER_INDEX] < 0.0
    found = distance(policy, other, latents, generator)
    assert found.gripper_flips == pytest.approx(float(closed.float().mean()))
    assert found.translation == found.rotation == 0.0


def test_a_policy_is_no_distance_from_itself():
    policy = small_policy()
    tuned = copy.deepcopy(policy)
    tuned.begin_fine_tuning(2)
    assert distance(tuned, policy, torch.zeros(8, 32), torch.Generator()) == (0.0, 0.0, 0.0)


# The check of a run


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory) -> Demonstrations:
    folder = tmp_path_factory.mktemp("trust")
    data_set = small_demonstrations(folder / "demonstrations")
    return load_demonstrations(small_world_model(folder / "world_model"), data_set.path, SKILL)


@pytest.fixture(scope="module")
def world_model(tmp_path_factory):
    return small_world_model(tmp_path_factory.mktemp("model") / "world_model").model


def check_of(world_model, demonstrations, classifier: RewardClassifier | None = None, **config) -> TrustCheck:
    changed, starts = replace(CONFIG, **config), find_starts(demonstrations.attempts, 0)
    return TrustCheck(
        world_model, classifier or small_classifier(), demonstrations, starts, small_policy(), changed, CPU, NOBODY
    )


def certain(logit: float) -> RewardClassifier:
    """A classifier that says the same of everything."""
    classifier = small_classifier()
    with torch.no_grad():
        classifier.classify[-1].weight.zero_()
        classifier.classify[-1].bias.fill_(logit)
    return classifier


@pytest.mark.parametrize(("logit", "share"), [(9.0, 1.0), (-9.0, 0.0)])
def test_replay_signals_of_a_classifier_that_always_says_the_same(world_model, demonstrations, logit, share):
    found = check_of(world_model, demonstrations, certain(logit)).replay
    assert (found.successes, found.failures) == (6, 3)
    assert found.recall == found.false_success == share and found.discrimination == 0.0
    assert found.recall_error == found.false_success_error == 0.0
    assert found.prior_entropy > 0.0 and found.entropy_spread > 0.0


def test_without_recorded_failures_nobody_knows(world_model, demonstrations):
    only = replace(demonstrations, attempts=demonstrations.successes)
    found = check_of(world_model, only).replay
    assert found.failures == 0 and math.isnan(found.false_success) and math.isnan(found.discrimination)


def test_base_is_no_distance_from_itself_and_the_same_policy_has_the_same_signals(world_model, demonstrations):
    check, policy = check_of(world_model, demonstrations), small_policy()
    policy.begin_fine_tuning(2)
    first, again = check.see(policy, 0, 0), check.see(policy, 0, 0)
    assert first == again
    assert first.translation_distance == first.rotation_distance == first.gripper_flips == 0.0
    assert all(math.isfinite(value) for value in asdict(first).values())
    assert first.dreamed_return != first.other_return, "the two sets are two"
    assert first.gain_error == 0.0 < first.return_error


def test_entropy_excess_is_held_against_the_same_steps_of_demonstrations(world_model, demonstrations):
    """No dream succeeds, so that all steps count: four in each of two decisions."""
    check = check_of(world_model, demonstrations, certain(-9.0))
    mdp = DreamDiffusionMDP(world_model, certain(-9.0), check.rules, torch.Generator())
    reseed(mdp.generator, CONFIG.seed, Purpose.REPLAY)
    usual = usual_entropy(replay(demonstrations.successes, mdp, 0, CONFIG.replay_draws).prior_entropy)
    found = check.see(small_policy(), 0, 0)
    assert found.entropy_excess == pytest.approx(found.prior_entropy - float(usual[:8].mean()), abs=1e-4)


def test_another_policy_has_other_signals(world_model, demonstrations):
    check, policy = check_of(world_model, demonstrations), small_policy(seed=1)
    found, base = check.see(policy, 5, 640), check.see(small_policy(), 0, 0)
    assert (found.iteration, found.imagined_steps) == (5, 640)
    assert found.translation_distance > 0.0 and found.dreamed_return != base.dreamed_return
    assert found.gain_error > 0.0


def test_dreams_that_begin_alike_count_once_for_the_errors(world_model, demonstrations, monkeypatch):
    """What a dream returns is which start it had; 40 dreams of 9 starts are no more sure of the mean than 9."""
    check = check_of(world_model, demonstrations, trust_dreams=40)
    sets = [[0.0, 1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]

    def returns_of_the_start(policy, mdp, starts, decisions):
        own = torch.tensor(sets[0] if len(starts) == 40 and torch.equal(starts[0], starts[5]) else sets[1])
        nothing = torch.zeros(len(starts))
        return Dreams(nothing > 0, own.repeat(len(starts) // len(own)), nothing, nothing[:, None])

    monkeypatch.setattr("diwa_policy.finetune.trust.dream", returns_of_the_start)
    found = check.see(small_policy(), 0, 0)
    assert (found.dreamed_return, found.other_return) == (2.0, 6.5)
    assert found.return_error == pytest.approx(float(torch.arange(9.0).std()) / math.sqrt(4.5))


def test_the_gain_and_its_error_are_of_the_same_starts(world_model, demonstrations):
    """Starts differ by more than policies do, and that says nothing about the policies."""
    check, policy = check_of(world_model, demonstrations, trust_dreams=400), small_policy(seed=1)
    found = check.see(policy, 5, 640)
    assert found.gain_error < found.return_error


def test_checks_leave_policy_and_everybodys_random_numbers_alone(world_model, demonstrations):
    policy = small_policy()
    before, state = copy.deepcopy(policy.state_dict()), torch.get_rng_state()
    check_of(world_model, demonstrations).see(policy, 0, 0)
    assert all(torch.equal(before[name], tensor) for name, tensor in policy.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def test_who_has_learned_from_the_attempts_is_told(world_model, demonstrations):
    starts, learned = find_starts(demonstrations.attempts, 0), LearnedFrom(world_model=False, classifier=True)
    check = TrustCheck(
        world_model, small_classifier(), demonstrations, starts, small_policy(), CONFIG, CPU, learned
    )  # fmt: skip
    assert (check.replay.learned_from, check.replay.classifier_learned_from) == (False, True)


def test_uncertainty_is_paid_for_from_what_demonstrations_have_upward(world_model, demonstrations):
    check = check_of(world_model, demonstrations, uncertainty_penalty=0.5)
    assert check.rules == DreamRules(CONFIG.gamma, CONFIG.reward, 0.5, check.replay.prior_entropy)


def test_successes_that_never_warm_up_are_refused(world_model, demonstrations):
    cold = [replace(one, steps=one.steps - 10**6) if one.success else one for one in demonstrations.attempts]
    with pytest.raises(UserError, match="none of the 6 successful attempts in .* is longer than policy.warmup_steps 0"):
        check_of(world_model, replace(demonstrations, attempts=tuple(cold)))
