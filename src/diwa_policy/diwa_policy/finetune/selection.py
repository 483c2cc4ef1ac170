"""Which policy of a run to take, and whether to promote it, from offline signals alone. Pure functions of a Trust.

    judgement = judge(read_trust(RUN / "trust.json"))
    judgement.iteration, judgement.promoted, judgement.reasons

Choosing: of the policies whose own signals lie within bounds, the one with the highest dreamed return; or rather, of
those that come within an error of it, the one that acts most like the pre-trained policy. The choice is made by one set
of starts and seeds and its gain measured by the other, so that luck with them does not count twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from diwa_policy.finetune.signals import CheckpointSignals, ReplaySignals, Trust
from diwa_policy.reward_measures import REWARD_LIMITS
from diwa_worldmodel.dataset.verdicts import Level, Verdict


class Bound(NamedTuple):
    """Beyond ``warn`` a signal is weak, beyond ``bad`` the policy is refused; ``bad`` lies above or below ``warn``."""

    warn: float
    bad: float

    def level(self, value: float) -> Level:
        """NaN is weak: nobody knows."""
        if math.isnan(value):
            return "warn"
        sign = 1.0 if self.bad >= self.warn else -1.0
        return "bad" if sign * value > sign * self.bad else "warn" if sign * value > sign * self.warn else "ok"

    def wanted(self, show: Callable[[float], str]) -> str:
        """In words."""
        return f"{'at most' if self.bad >= self.warn else 'at least'} {show(self.warn)}"


@dataclass(frozen=True)
class TrustLimits:
    """Each with its reason. Shares are of 1."""

    false_success: Bound = Bound(0.75, 0.85)
    """Failed attempts dreamed as success. A world model that dreams failures into successes pays for them."""
    least_failures: int = 5
    """Below so many recorded failures nobody can tell."""
    recall: Bound = Bound(0.5, 0.25)
    """Successful attempts dreamed as success. Below, dreams do not lead where demonstrations did, or pay nothing."""
    discrimination: Bound = Bound(0.2, 0.0)
    """Difference of the two: what a reward is worth. Policies gained 20 points and more with .07 to .34."""
    discrimination_error: float = 0.1
    """With a larger standard error too few attempts are recorded to refuse for it."""
    base_success: Bound = Bound(0.9, 0.95)
    """Dreamed by the policy that only imitates. Near 1 nothing is left to learn in dreams, and drift costs nothing."""
    false_positives: Bound = Bound(*REWARD_LIMITS["false positives"])
    """Of the classifier on held-out frames: what it wrongly pays for is what dreams learn to do."""
    dreamed_false_positives: Bound = Bound(*REWARD_LIMITS["dreamed false positives"])
    """On dreams of them."""
    false_alarms: Bound = Bound(*REWARD_LIMITS["false alarms"])
    """Of the classifier on held-out failed attempts. With .32 a policy that every frame paid lost 24 points, one that
    was paid once for a success gained 27 (docs/results/fine_tuning.md)."""
    gain_errors: Bound = Bound(2.0, 1.0)
    """Gain over the pre-trained policy, in its standard errors, from starts and seeds that it was not chosen by."""
    seed_difference: Bound = Bound(0.1, 0.2)
    """Of dreamed success between the two sets: chance, and more than that is luck to be exploited."""
    entropy_excess: Bound = Bound(1.0, 2.0)
    """In standard deviations among demonstrations: a policy that seeks dreams where the world model does not know."""
    distance: Bound = Bound(0.3, 0.5)
    """RMS from the pre-trained policy's actions, the larger of translation and rotation; 1 is the largest action."""
    gripper_flips: Bound = Bound(0.3, 0.5)
    """Actions whose gripper goes the other way than the pre-trained policy's: nothing of it is left."""
    within_errors: float = 1.0
    """A policy within so many standard errors of the best return is as good as the best."""


LIMITS = TrustLimits()


@dataclass(frozen=True)
class Judgement:
    """What comes of it."""

    promoted: bool
    iteration: int
    """Of the policy that was chosen."""
    choice: str
    """Why that one."""
    checks: tuple[Verdict, ...]
    """The worst first."""

    @property
    def faults(self) -> tuple[str, ...]:
        """Names of the checks that refuse it."""
        return tuple(one.check for one in self.checks if one.level == "bad")

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why that one, and why it was refused or what speaks against it all the same."""
        wanted = ("warn",) if self.promoted else ("bad",)
        found = [f"{one.check}: {one.sentence}" for one in self.checks if one.level in wanted]
        return (self.choice, *found)

    def line(self, policy: Path) -> str:
        """For the end of all that is printed."""
        if self.promoted:
            return (
                f"PROMOTED: {policy}, iteration {self.iteration}, dreams that can be trusted as far as can be told here"
            )
        return f"REFUSED: {policy}, iteration {self.iteration}, is not to be served: {'; '.join(self.reasons[1:])}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def judge(trust: Trust, limits: TrustLimits = LIMITS) -> Judgement:
    """Choose a policy, and promote it if no check is bad."""
    iteration, choice = choose(trust, limits)
    checks = [check for part in _CHECKS for check in part(trust, trust.at(iteration), limits)]
    checks += _imitation(trust, checks)
    checks.sort(key=lambda check: ("bad", "warn", "ok").index(check.level))
    return Judgement(all(check.level != "bad" for check in checks), iteration, choice, tuple(checks))


def choose(trust: Trust, limits: TrustLimits = LIMITS) -> tuple[int, str]:
    """Iteration and why."""
    sound = [one for one in trust.checkpoints if all(check.level != "bad" for check in _drift(trust, one, limits))]
    dropped = len(trust.checkpoints) - len(sound)
    beside = f"; {dropped} of {len(trust.checkpoints)} had drifted too far" if dropped else ""
    if not sound:
        return trust.base.iteration, f"the pre-trained policy, for no other is within bounds{beside}"
    best = max(sound, key=lambda one: one.dreamed_return)
    enough = best.dreamed_return - limits.within_errors * best.return_error
    chosen = min((one for one in sound if one.dreamed_return >= enough), key=lambda one: one.distance)
    if chosen is best:
        return (
            best.iteration,
            f"iteration {best.iteration} dreams the highest return, {best.dreamed_return:.2f}{beside}",
        )
    words = (
        f"iteration {chosen.iteration} acts most like the pre-trained policy of those whose dreamed return comes "
        f"within {limits.within_errors:g} standard error of the highest: {chosen.dreamed_return:.2f} against "
        f"{best.dreamed_return:.2f} at iteration {best.iteration}"
    )
    return chosen.iteration, words + beside


Check = Callable[[Trust, CheckpointSignals, TrustLimits], Iterator[Verdict]]


def _replay(trust: Trust, chosen: CheckpointSignals, limits: TrustLimits) -> Iterator[Verdict]:
    """Does the world model know failure from success?"""
    replay = trust.replay
    seen = _learned_from(replay)
    if replay.failures < limits.least_failures:
        words = f"{replay.failures} failed attempts are recorded{seen}, too few to tell whether failures are dreamed "
        yield Verdict("failures", "warn", f"{words}into successes: keep those that fail while demonstrating")
    else:
        words = f"{_percent(replay.false_success)} of the dreams along {replay.failures} failed attempts{seen} succeed"
        yield _judged("failures", limits.false_success, replay.false_success, words)
        yield _discrimination(replay, limits)
    words = f"{_percent(replay.recall)} of the dreams along {replay.successes} successful attempts succeed"
    yield _judged("successes", limits.recall, replay.recall, words)


def _learned_from(replay: ReplaySignals) -> str:
    learners = {
        "the world model": replay.learned_from, "most of which the classifier": replay.classifier_learned_from
    }  # fmt: skip
    if replay.learned_from and replay.classifier_learned_from:
        return ", which world model and classifier were trained on,"
    own = [name for name, learned in learners.items() if learned]
    return f", {'which ' if replay.learned_from else ''}{own[0]} was trained on," if own else ""


def _discrimination(replay: ReplaySignals, limits: TrustLimits) -> Verdict:
    """Too few attempts cannot refuse."""
    error = replay.discrimination_error
    words = (
        f"successes are dreamed as success {_points(replay.discrimination)} (+- {100.0 * error:.0f}) more often than "
        "failures"
    )
    found = _judged("discrimination", limits.discrimination, replay.discrimination, words, _points)
    rough = not error <= limits.discrimination_error
    return replace(found, level="warn") if rough and found.level == "bad" else found


def _room(trust: Trust, chosen: CheckpointSignals, limits: TrustLimits) -> Iterator[Verdict]:
    """Is anything left to learn?"""
    level = limits.base_success.level(trust.base.success)
    rest = {"ok": "", "warn": ", little is left to learn", "bad": ", nothing is left to learn"}[level]
    yield Verdict("room", level, f"the pre-trained policy already dreams {_percent(trust.base.success)} success{rest}")


def _classifier(trust: Trust, chosen: CheckpointSignals, limits: TrustLimits) -> Iterator[Verdict]:
    """Does the classifier see success where there is none?"""
    places = {
        "false_positives": (limits.false_positives, "frames"),
        "dreamed_false_positives": (limits.dreamed_false_positives, "dreams of frames"),
    }
    for name, (bound, where) in places.items():
        share = trust.classifier.get(name, math.nan)
        yield _judged("classifier", bound, share, f"{_percent(share, 1)} false positives on held-out {where}")
    share = trust.classifier.get("false_alarms", math.nan)
    failures = int(trust.classifier.get("held_out_failures", 0))
    words = f"it sees a success in {_percent(share)} of the {failures} held-out failed attempts"
    found = _judged("classifier", limits.false_alarms, share, words)
    yield replace(found, level="warn") if failures < limits.least_failures and found.level == "bad" else found


def _gain(trust: Trust, chosen: CheckpointSignals, limits: TrustLimits) -> Iterator[Verdict]:
    """Has it learned anything?"""
    gain = chosen.other_return - trust.base.other_return
    errors = gain / max(chosen.gain_error, 1e-9) if gain else 0.0
    words = (
        f"from the other starts its dreamed return is {gain:+.2f} on the pre-trained policy's ({errors:+.1f} standard "
        f"errors), dreamed success {_percent(trust.base.other_success)} -> {_percent(chosen.other_success)}"
    )
    yield _judged("gain", limits.gain_errors, errors, words, lambda value: f"{value:g} standard errors")


def _drift(trust: Trust, one: CheckpointSignals, limits: TrustLimits) -> Iterator[Verdict]:
    """Where has it gone?"""
    words = f"dreamed success differs by {_points(one.seed_difference)} between two sets of starts and seeds"
    yield _judged("seeds", limits.seed_difference, one.seed_difference, words, _points)
    spreads = one.entropy_excess / trust.replay.entropy_spread if trust.replay.entropy_spread else math.nan
    compared = "too few to compare" if math.isnan(spreads) else f"{spreads:+.1f} standard deviations among them"
    words = f"prior entropy in its dreams is {one.entropy_excess:+.2f} nat on that along demonstrations ({compared})"
    yield _judged("uncertainty", limits.entropy_excess, spreads, words, lambda value: f"{value:g} of them")
    words = (
        f"its actions differ from the pre-trained policy's by {_percent(one.translation_distance)} (translation) and "
        f"{_percent(one.rotation_distance)} (rotation) of the largest, RMS"
    )
    yield _judged("distance", limits.distance, one.distance, words)
    words = f"the gripper goes the other way in {_percent(one.gripper_flips)} of the actions"
    yield _judged("gripper", limits.gripper_flips, one.gripper_flips, words)


def _imitation(trust: Trust, checks: list[Verdict]) -> list[Verdict]:
    """Weak signs that imitation may outweigh weigh more without it (Fig. S.6)."""
    weak = [check.check for check in checks if check.level != "ok"]
    if trust.bc_coefficient > 0.0 or not weak:
        return []
    words = f"fine_tuning.bc_coefficient is 0, so that nothing holds it where signs are weak ({', '.join(weak)})"
    return [Verdict("imitation", "bad", words)]


_CHECKS: tuple[Check, ...] = (_replay, _room, _classifier, _gain, _drift)


def _percent(share: float, digits: int = 0) -> str:
    return "an unknown share" if math.isnan(share) else f"{100.0 * share:.{digits}f}%"


def _points(difference: float) -> str:
    return f"{100.0 * difference:.0f} points"


def _judged(check: str, bound: Bound, value: float, words: str, show: Callable[[float], str] = _percent) -> Verdict:
    """What is not well says what was wanted."""
    level = bound.level(value)
    return Verdict(check, level, words if level == "ok" else f"{words} (wanted: {bound.wanted(show)})")
