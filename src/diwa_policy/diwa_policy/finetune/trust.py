"""How far dreams are to be trusted: measured in dreams and on recorded attempts, without the true environment.

    check = TrustCheck(world_model, classifier, demonstrations, starts, base, config, device)
    check.replay                                    # the world model, before anything is fine-tuned
    check.see(policy, iteration, imagined_steps)    # a policy

All starts and random numbers are fixed, so that what differs between two policies is the policies' own. Dreams begin at
``starts``, which training should not know; replay follows all attempts.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from diwa_conventions.actions import GRIPPER_INDEX
from diwa_conventions.errors import UserError
from diwa_policy.config import FineTuningConfig
from diwa_policy.demonstrations import Attempt, Demonstrations
from diwa_policy.dream import DreamDiffusionMDP, DreamRules
from diwa_policy.finetune.draws import Purpose, reseed
from diwa_policy.finetune.signals import CheckpointSignals, ReplaySignals
from diwa_policy.finetune.starts import Starts
from diwa_policy.policy import Policy, draw_noise
from diwa_policy.reward import RewardClassifier
from diwa_worldmodel.world_model import WorldModel

ROTATION_INDEX = 3
"""Components before it are translation, from it to the gripper rotation."""
_CHECKS = (Purpose.CHECK, Purpose.OTHER_CHECK)
"""The draws of the two sets of dreams."""
DISTANCE_LATENTS = 512
"""Latents at which policies are compared, spread evenly over demonstrations."""


class Replay(NamedTuple):
    """Dreams along the recorded actions of A attempts, T the longest."""

    success: Tensor
    """(A,) share of an attempt's dreams in which the classifier sees a success."""
    prior_entropy: Tensor
    """(A, T) [nat], mean over its dreams; NaN behind its end."""


def replay(attempts: Sequence[Attempt], mdp: DreamDiffusionMDP, warmup_steps: int, draws: int) -> Replay:
    """``draws`` dreams along each attempt that goes on behind its first latent that the filter has warmed up for."""
    device = mdp.generator.device
    parts = [(one, int(ready[0])) for one in attempts if len(ready := one.ready(warmup_steps)[:-1])]
    if not parts:
        return Replay(torch.zeros(0), torch.zeros(0, 0))
    lengths = torch.tensor([one.frames - 1 - begin for one, begin in parts], device=device)
    starts = torch.stack([one.latents[begin] for one, begin in parts]).to(device)
    padded = torch.nn.utils.rnn.pad_sequence([one.actions[begin:-1] for one, begin in parts], batch_first=True)
    actions, longest = padded.to(device).flatten(1), padded.shape[1]
    inside = torch.arange(longest, device=device) < lengths[:, None]
    success, entropy = torch.zeros(len(parts), device=device), torch.zeros(len(parts), longest, device=device)
    for _ in range(draws):
        outcome = mdp.decide(starts, actions, longest)
        success += ((outcome.probability > mdp.threshold) & inside).any(dim=1) / draws
        entropy += outcome.prior_entropy / draws
    return Replay(success, entropy.masked_fill(~inside, torch.nan))


def usual_entropy(prior_entropy: Tensor) -> Tensor:
    """(T,) mean over attempts (A, T) [nat]; where fewer than half of them go on, the last such mean is held."""
    enough = int((torch.isfinite(prior_entropy).float().mean(dim=0) >= 0.5).sum())
    mean = prior_entropy[:, :enough].nanmean(dim=0)
    return torch.cat([mean, mean[-1:].expand(prior_entropy.shape[1] - enough)])


class Dreams(NamedTuple):
    """N dreams of H frames."""

    success: Tensor
    """(N,) bool: the classifier sees one."""
    returns: Tensor
    """(N,) discounted reward."""
    confidence: Tensor
    """(N,) highest probability of success."""
    prior_entropy: Tensor
    """(N, H) [nat]; NaN behind a success."""


@torch.no_grad()
def dream(policy: Policy, mdp: DreamDiffusionMDP, starts: Tensor, decisions: int) -> Dreams:
    """Dreams from latents (N, s) as a policy would be served: its noise without a floor."""
    latents, executed = starts, policy.config.executed_actions
    alive = torch.ones(len(starts), dtype=torch.bool, device=starts.device)
    returns = torch.zeros(len(starts), device=starts.device)
    probabilities, entropies = [], []
    for number in range(decisions):
        noise = draw_noise((len(latents), policy.steps + 1, policy.chunk), mdp.generator)
        outcome = mdp.decide(latents, policy.act(latents, noise).flatten(1), executed)
        returns += mdp.rules.gamma**number * outcome.reward * alive
        alive = alive & ~outcome.terminated
        latents = outcome.latents
        probabilities.append(outcome.probability)
        entropies.append(outcome.prior_entropy)
    probability, prior_entropy = torch.cat(probabilities, dim=1), torch.cat(entropies, dim=1)
    success = probability > mdp.threshold
    behind = success.cumsum(dim=1) - success.long() > 0
    return Dreams(
        success.any(dim=1), returns, probability.amax(dim=1), prior_entropy.masked_fill(behind, torch.nan)
    )  # fmt: skip


class Distance(NamedTuple):
    """Between two policies' actions from equal noise."""

    translation: float
    """RMS, of 1 for the largest action."""
    rotation: float
    gripper_flips: float
    """Share of actions."""


@torch.no_grad()
def distance(policy: Policy, other: Policy, latents: Tensor, generator: torch.Generator) -> Distance:
    """At latents (N, s), over the actions that are executed."""
    noise = draw_noise((len(latents), policy.steps + 1, policy.chunk), generator)
    one, two = (each.act(latents, noise)[:, : policy.config.executed_actions] for each in (policy, other))
    square = (one - two).square()
    flips = (one[..., GRIPPER_INDEX] >= 0.0) != (two[..., GRIPPER_INDEX] >= 0.0)
    return Distance(
        float(square[..., :ROTATION_INDEX].mean().sqrt()),
        float(square[..., ROTATION_INDEX:GRIPPER_INDEX].mean().sqrt()),
        float(flips.float().mean()),
    )


class LearnedFrom(NamedTuple):
    """Whether they were trained on the attempts that are replayed."""

    world_model: bool
    classifier: bool


class TrustCheck:
    """Measures what a run's policies dream, against the policy ``base`` that it began with.

    ``learned_from``: who was trained on the attempts that are replayed, the world model or the classifier.
    """

    def __init__(
        self,
        world_model: WorldModel,
        classifier: RewardClassifier,
        demonstrations: Demonstrations,
        starts: Starts,
        base: Policy,
        config: FineTuningConfig,
        device: torch.device,
        learned_from: LearnedFrom,
    ) -> None:
        self._config, self._base = config, copy.deepcopy(base).to(device)
        rules = DreamRules(config.gamma, config.reward)
        self._mdp = DreamDiffusionMDP(world_model, classifier, rules, torch.Generator(device))
        warmup = base.config.warmup_steps
        self._starts = [half.to(device).fixed(config.trust_dreams) for half in starts.halves()]
        ready = torch.cat([one.latents[one.ready(warmup)] for one in demonstrations.successes])
        self._latents = ready[:: max(len(ready) // DISTANCE_LATENTS, 1)].to(device)
        self._reseed(Purpose.REPLAY)
        successes, failures = (
            replay(part, self._mdp, warmup, config.replay_draws)
            for part in (demonstrations.successes, demonstrations.failures)
        )
        if not len(successes.success):
            raise UserError(
                f"none of the {len(demonstrations.successes)} successful attempts in {demonstrations.source} is longer "
                f"than policy.warmup_steps {warmup}; demonstrate longer, or pre-train a policy with fewer"
            )
        self._usual = usual_entropy(successes.prior_entropy)
        self.replay = _replay_signals(successes, failures, self._usual, learned_from)
        self.rules = replace(
            rules, uncertainty_penalty=config.uncertainty_penalty, usual_entropy=self.replay.prior_entropy
        )
        """What dreams pay, in training as in these checks."""
        self._mdp.rules = self.rules
        self._base_returns = self._by_start(self._dream(self._base, 1).returns, 1)

    def _reseed(self, purpose: Purpose) -> torch.Generator:
        return reseed(self._mdp.generator, self._config.seed, purpose)

    def see(self, policy: Policy, iteration: int, imagined_steps: int) -> CheckpointSignals:
        """Signals of a policy."""
        first, other = (self._dream(policy, number) for number in (0, 1))
        returns, other_returns = (self._by_start(one.returns, number) for number, one in enumerate((first, other)))
        prior_entropy = torch.cat([first.prior_entropy, other.prior_entropy])
        away = distance(policy, self._base, self._latents, self._reseed(Purpose.DISTANCE))
        return CheckpointSignals(
            iteration=iteration,
            imagined_steps=imagined_steps,
            dreamed_success=float(first.success.float().mean()),
            other_success=float(other.success.float().mean()),
            dreamed_return=float(returns.mean()),
            other_return=float(other_returns.mean()),
            return_error=_mean_and_error(torch.cat([returns, other_returns]))[1] * math.sqrt(2.0),
            gain_error=_mean_and_error(other_returns - self._base_returns)[1],
            confidence=float(torch.cat([first.confidence, other.confidence]).mean()),
            prior_entropy=float(prior_entropy.nanmean()),
            entropy_excess=float((prior_entropy - _held(self._usual, prior_entropy.shape[1])).nanmean()),
            translation_distance=away.translation,
            rotation_distance=away.rotation,
            gripper_flips=away.gripper_flips,
        )

    def _dream(self, policy: Policy, number: int) -> Dreams:
        """The first set or the other."""
        self._reseed(_CHECKS[number])
        return dream(policy, self._mdp, self._starts[number].flatten(0, 1), self._config.decisions)

    def _by_start(self, values: Tensor, number: int) -> Tensor:
        """(A,) means over the dreams of a set that begin alike."""
        return torch.unflatten(values, 0, self._starts[number].shape[:2]).mean(dim=0)


def _replay_signals(successes: Replay, failures: Replay, usual: Tensor, learned_from: LearnedFrom) -> ReplaySignals:
    own = (successes.prior_entropy - usual).nanmean(dim=1)
    return ReplaySignals(
        len(successes.success), len(failures.success),
        *_mean_and_error(successes.success), *_mean_and_error(failures.success),
        prior_entropy=float(successes.prior_entropy.nanmean()),
        entropy_spread=float(own.std()) if len(own) > 1 else math.nan,
        learned_from=learned_from.world_model,
        classifier_learned_from=learned_from.classifier,
    )  # fmt: skip


def _mean_and_error(values: Tensor) -> tuple[float, float]:
    count = len(values)
    mean = float(values.mean()) if count else math.nan
    return mean, float(values.std()) / math.sqrt(count) if count > 1 else math.nan


def _held(curve: Tensor, steps: int) -> Tensor:
    """(steps,) its beginning, or with its last value held."""
    return torch.cat([curve, curve[-1:].expand(max(steps - len(curve), 0))])[:steps]
