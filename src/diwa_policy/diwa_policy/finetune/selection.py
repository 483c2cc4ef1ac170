"""Which policy of a run to take, and whether to promote it, from offline signals alone. Pure functions of a Trust.

    judgement = judge(read_trust(RUN / "trust.json"))
    judgement.iteration, judgement.promoted, judgement.reasons

Choosing: of the policies whose own signals lie within bounds, the one with the highest dreamed return; or rather, of
those that come within an error of it, the one that acts most like the pre-trained policy. The choice is made by one set
of seeds and its gain measured by the other, so that luck with the seeds does not count twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from diwa_policy.finetune.signals import CheckpointSignals, Trust
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
    """Difference of the two: what a reward is worth. Policies gained 30 points and more with .09 to .34."""
    base_success: Bound = Bound(0.9, 0.95)
    """Dreamed by the policy that only imitates. Near 1 nothing is left to learn in dreams, and drift costs nothing."""
    false_positives: Bound = Bound(0.02, 0.05)
    """Of the classifier on held-out frames, seen or dreamed: what it wrongly pays for is what dreams learn to do."""
    false_alarms: Bound = Bound(0.3, 0.5)
    """Of the classifier on held-out failed attempts. With .32 a policy that every frame paid lost 24 points, one that
    was paid once for a success gained 27 (docs/results/fine_tuning.md)."""
    gain_errors: Bound = Bound(2.0, 1.0)
    """Gain over the pre-trained policy, in standard errors of the return, under seeds that it was not chosen by."""
    seed_difference: Bound = Bound(0.1, 0.2)
    """Of dreamed success between the two sets of seeds: chance, and more than that is luck to be exploited."""
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
    seen = ", which the world model was trained on" if replay.learned_from else ""
    if replay.failures < limits.least_failures:
        words = f"{replay.failures} failed attempts are recorded{seen}, too few to tell whether failures are dreamed "
        yield Verdict("failures", "warn", f"{words}into successes: keep those that fail while demonstrating")
    else:
        words = f"{_percent(replay.false_success)} of the dreams along {replay.failures} failed attempts{seen} succeed"
        yield Verdict("failures", limits.false_success.level(replay.false_success), words)
        words = f"successes are dreamed as success {_points(replay.discrimination)} more often than failures"
        yield Verdict("discrimination", limits.discrimination.level(replay.discrimination), words)
    words = f"{_percent(replay.recall)} of the dreams along {replay.successes} successful attempts succeed"
    yield Verdict("successes", limits.recall.level(replay.recall), words)


def _room(trust: Trust, chosen: CheckpointSignals, limits: TrustLimits) -> Iterator[Verdict]:
    """Is anything left to learn?"""
    level = limits.base_success.level(trust.base.success)
    rest = {"ok": "", "warn": ", little is left to learn", "bad": ", nothing is left to learn"}[level]
    yield Verdict("room", level, f"the pre-trained policy already dreams {_percent(trust.base.success)} success{rest}")


def _classifier(trust: Trust, chosen: CheckpointSignals, limits: TrustLimits) -> Iterator[Verdict]:
    """Does the classifier see success where there is none?"""
    for name, where in {"false_positives": "frames", "dreamed_false_positives": "dreams of frames"}.items():
        if name in trust.classifier:
            share = trust.classifier[name]
            words = f"{_percent(share, 1)} false positives on held-out {where}"
            yield Verdict("classifier", limits.false_positives.level(share), words)
    if "false_alarms" in trust.classifier:
        share = trust.classifier["false_alarms"]
        words = f"it sees a success in {_percent(share)} of the held-out failed attempts"
        yield Verdict("classifier", limits.false_alarms.level(share), words)


def _gain(trust: Trust, chosen: CheckpointSignals, limits: TrustLimits) -> Iterator[Verdict]:
    """Has it learned anything?"""
    gain = chosen.other_return - trust.base.other_return
    errors = gain / max(math.hypot(chosen.return_error, trust.base.return_error), 1e-9)
    words = (
        f"under the other seeds its dreamed return is {gain:+.2f} on the pre-trained policy's ({errors:+.1f} standard "
        f"errors), dreamed success {_percent(trust.base.other_success)} -> {_percent(chosen.other_success)}"
    )
    yield Verdict("gain", limits.gain_errors.level(errors), words)


def _drift(trust: Trust, one: CheckpointSignals, limits: TrustLimits) -> Iterator[Verdict]:
    """Where has it gone?"""
    words = f"dreamed success differs by {_points(one.seed_difference)} between two sets of seeds"
    yield Verdict("seeds", limits.seed_difference.level(one.seed_difference), words)
    spreads = one.entropy_excess / trust.replay.entropy_spread if trust.replay.entropy_spread else math.nan
    compared = "too few to compare" if math.isnan(spreads) else f"{spreads:+.1f} standard deviations among them"
    words = f"prior entropy in its dreams is {one.entropy_excess:+.2f} nat on that along demonstrations ({compared})"
    yield Verdict("uncertainty", limits.entropy_excess.level(spreads), words)
    words = (
        f"its actions differ from the pre-trained policy's by {_percent(one.translation_distance)} (translation) and "
        f"{_percent(one.rotation_distance)} (rotation) of the largest, RMS"
    )
    yield Verdict("distance", limits.distance.level(one.distance), words)
    words = f"the gripper goes the other way in {_percent(one.gripper_flips)} of the actions"
    yield Verdict("gripper", limits.gripper_flips.level(one.gripper_flips), words)


def _imitation(trust: Trust, checks: list[Verdict]) -> list[Verdict]:
    """Weak signs that imitation may outweigh weigh more without it (Fig. S.6)."""
    weak = [check.check for check in checks if check.level != "ok"]
    if trust.bc_coefficient > 0.0 or not weak:
        return []
    words = f"fine_tuning.bc_coefficient is 0, so that nothing holds it where signs are weak ({', '.join(weak)})"
    return [Verdict("imitation", "bad", words)]


_CHECKS: tuple[Check, ...] = (_replay, _room, _classifier, _gain, _drift)


def _percent(share: float, digits: int = 0) -> str:
    return f"{100.0 * share:.{digits}f}%"


def _points(difference: float) -> str:
    return f"{100.0 * difference:.0f} points"
