"""How good a reward classifier is, on attempts that it has not learned from; and from which probability on it pays."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass
from itertools import zip_longest
from typing import Any, TypeAlias

import torch
from torch import Tensor

from diwa_policy.config import RewardConfig
from diwa_policy.demonstrations import Attempt, split_attempts
from diwa_policy.reward import RewardClassifier
from diwa_policy.reward_training import (
    Labelled,
    dreamed_frames,
    fit_probabilities,
    frame_labels,
    posterior_frames,
    together,
)
from diwa_worldmodel.rssm import RSSM

MEASURED_STEPS = 8
"""Dreamed steps that are measured if ``reward.dreamed_steps`` is smaller: two chunks of the default length."""
BINS = 10
THRESHOLDS = 99
"""0.01, 0.02 ... 0.99 are tried."""
TRACES = 3
"""Successes, and failures, whose probability is shown over time."""
REWARD_LIMITS: dict[str, tuple[float, float]] = {
    "recall": (0.8, 0.5),
    "dreamed recall": (0.5, 0.25),
    "precision": (0.6, 0.3),
    "dreamed precision": (0.4, 0.2),
    "false positives": (0.02, 0.05),
    "dreamed false positives": (0.05, 0.15),
    "false reward": (0.02, 0.05),
    "dreamed false reward": (0.05, 0.15),
    "calibration": (0.05, 0.15),
    "false alarms": (0.3, 0.6),
}
"""(warn, bad). Good runs had at most 2% false positives, those of 5% to 15% gained nothing (learnability.md); false
reward counts the same. False alarms in .64 of the failed attempts misled, in .28 did not (playroom.md). Recall and
precision are ours: success is one frame in thirty, so that precision .6 is what 2% false positives leave."""
Scored: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""Probabilities and labels of frames, and the threshold of the classifier that saw them, (M,) each."""


@dataclass(frozen=True)
class Detection:
    """How frames are told apart at the threshold. A share of nothing is NaN."""

    frames: int
    positives: int
    precision: float
    """Success, of the frames taken for success."""
    recall: float
    """Taken for success, of the frames of success."""
    false_positives: float
    """Taken for success, of the other frames."""
    false_reward: float
    """Mean probability of the other frames: what dreams pay for them where reward is the probability."""


@dataclass(frozen=True)
class Calibration:
    """Probabilities held against shares of success, in BINS bins of equal width."""

    count: tuple[int, ...]
    expected: tuple[float, ...]
    """Mean probability; NaN in an empty bin."""
    true: tuple[float, ...]
    """Share of success."""
    error: float
    """Expected calibration error: mean distance of the two, each frame counting alike."""


@dataclass(frozen=True)
class Alarms:
    """Attempts as a whole: is there a frame that is taken for success and is none?"""

    failures: int
    false_alarms: int
    """Failed attempts with such a frame: the cheapest warning of fine-tuning that goes wrong (playroom.md)."""
    successes: int
    early: int
    """Successful ones with such a frame before those of which nobody can tell."""
    recognised: int
    """Successful ones whose success is seen."""


@dataclass(frozen=True)
class Trace:
    """Probability of success over an attempt's frames."""

    success: bool
    probability: tuple[float, ...]


@dataclass(frozen=True)
class RewardMeasures:
    """All that was measured; see :func:`measure` for what is told apart at which threshold."""

    threshold: float
    """The classifier's."""
    seen: Detection
    """On latents of the filter."""
    dreamed: Detection
    """On dreamed latents of 1, 2, ... steps."""
    dreamed_by_step: tuple[Detection, ...]
    seen_calibration: Calibration
    dreamed_calibration: Calibration
    alarms: Alarms
    traces: tuple[Trace, ...]

    def scalars(self) -> dict[str, float]:
        """What the artefact's metadata keep; what is not known is left out."""
        alarms, shares = self.alarms, ("precision", "recall", "false_positives", "false_reward")
        values = {
            "threshold": self.threshold,
            **{name: getattr(self.seen, name) for name in shares},
            **{f"dreamed_{name}": getattr(self.dreamed, name) for name in shares},
            "calibration_error": self.seen_calibration.error,
            "dreamed_calibration_error": self.dreamed_calibration.error,
            "false_alarms": _share(alarms.false_alarms, alarms.failures),
            "early_alarms": _share(alarms.early, alarms.successes),
            "held_out_failures": float(alarms.failures),
        }
        return {name: value for name, value in values.items() if math.isfinite(value)}

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it: None for NaN."""

        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: plain(one) for name, one in value.items()}
            if isinstance(value, (list, tuple)):
                return [plain(one) for one in value]
            return None if isinstance(value, float) and not math.isfinite(value) else value

        content = plain(asdict(self))
        assert isinstance(content, dict)
        return content


def frames_to_measure(held_out: Sequence[Attempt], config: RewardConfig, rssm: RSSM) -> list[Labelled]:
    """Of attempts held out: what the filter saw, and what dreams of 1, 2, ... steps end in."""
    generator = torch.Generator().manual_seed(config.seed)
    steps = max(config.dreamed_steps, MEASURED_STEPS)
    frames = [posterior_frames(held_out, config), *dreamed_frames(held_out, config, rssm, steps, generator)]
    # A dream as long as the longest attempts may have no frame to end in.
    return [one for one in frames if len(one.labels)]


def fitted(trained: RewardClassifier, frames: Sequence[Labelled]) -> RewardClassifier:
    """A copy with the probabilities (Platt) and the threshold (largest F1) that suit these frames."""
    own, whole = copy.deepcopy(trained), together(frames)
    fit_probabilities(own, whole)
    own.threshold.fill_(choose_threshold(own.probability(whole.latents), whole.labels))
    return own


@torch.no_grad()
def measure(
    trained: RewardClassifier, held_out: Sequence[Attempt], config: RewardConfig, rssm: RSSM
) -> tuple[RewardClassifier, RewardMeasures]:
    """The classifier fitted to all attempts held out, and how good it is.

    On the frames it was fitted to it looks better than it is, most where successes are few. So each half of the
    attempts is judged by the classifier as fitted to the other half, and both are counted together; a single success
    leaves no such halves.
    """
    classifier = fitted(trained, frames_to_measure(held_out, config, rssm))
    halves = split_attempts(held_out, 0.5, config.seed)
    judged = [(classifier, held_out)]
    if all(any(attempt.success for attempt in half) for half in halves):
        others = [fitted(trained, frames_to_measure(half, config, rssm)) for half in reversed(halves)]
        judged = list(zip(others, halves, strict=True))
    scored = [[_score(own, one) for one in frames_to_measure(half, config, rssm)] for own, half in judged]
    seen, *by_step = (_joined(one for one in column if one) for column in zip_longest(*scored))
    dreamed = _joined(by_step)
    return classifier, RewardMeasures(
        threshold=float(classifier.threshold),
        seen=detect(*seen),
        dreamed=detect(*dreamed),
        dreamed_by_step=tuple(detect(*one) for one in by_step),
        seen_calibration=calibrate(*seen[:2]),
        dreamed_calibration=calibrate(*dreamed[:2]),
        alarms=_summed(count_alarms(half, _traces(own, half), float(own.threshold), config) for own, half in judged),
        traces=_telling_traces(held_out, _traces(classifier, held_out)),
    )


def detect(probability: Tensor, labels: Tensor, threshold: float | Tensor) -> Detection:
    """From probabilities and labels (M,), at one threshold or at each frame's own (M,)."""
    taken, success = probability > threshold, labels > 0.5
    found = int((taken & success).sum())
    return Detection(
        frames=len(labels),
        positives=int(success.sum()),
        precision=_share(found, int(taken.sum())),
        recall=_share(found, int(success.sum())),
        false_positives=_share(int((taken & ~success).sum()), int((~success).sum())),
        false_reward=float(probability[~success].mean()),
    )


def choose_threshold(probability: Tensor, labels: Tensor) -> float:
    """The one of 0.01, 0.02 ... 0.99 with the largest F1 = 2 TP / (2 TP + FP + FN); of equals the nearest to 0.5."""
    tried = torch.arange(1, THRESHOLDS + 1, dtype=torch.float64) / (THRESHOLDS + 1)
    taken, success = probability.double() > tried.unsqueeze(-1), labels > 0.5
    found = (taken & success).sum(dim=-1)
    score = 2.0 * found / (taken.sum(dim=-1) + success.sum())
    best = tried[score == score.max()]
    return float(best[(best - 0.5).abs().argmin()])


def calibrate(probability: Tensor, labels: Tensor) -> Calibration:
    """From probabilities and labels (M,)."""
    bins = (probability * BINS).long().clamp(max=BINS - 1)
    parts = [(probability[bins == i], labels[bins == i]) for i in range(BINS)]
    expected = tuple(float(one.mean()) for one, _ in parts)
    true = tuple(float(one.mean()) for _, one in parts)
    count = tuple(len(one) for one, _ in parts)
    off = sum(n * abs(a - b) for n, a, b in zip(count, expected, true, strict=True) if n)
    return Calibration(count, expected, true, off / len(labels))


def count_alarms(
    attempts: Sequence[Attempt], probabilities: Sequence[Tensor], threshold: float, config: RewardConfig
) -> Alarms:
    """From each attempt's probabilities (T,)."""
    failures = false_alarms = successes = early = recognised = 0
    for attempt, probability in zip(attempts, probabilities, strict=True):
        taken, labels = probability > threshold, frame_labels(attempt, config)
        alarmed = bool((taken & (labels == 0.0)).any())
        if attempt.success:
            successes, early = successes + 1, early + alarmed
            recognised += bool((taken & (labels > 0.5)).any())
        else:
            failures, false_alarms = failures + 1, false_alarms + alarmed
    return Alarms(failures, false_alarms, successes, early, recognised)


def _telling_traces(attempts: Sequence[Attempt], probabilities: Sequence[Tensor]) -> tuple[Trace, ...]:
    """The successes that were seen least clearly, and the failures that looked most like success."""
    both = list(zip(attempts, probabilities, strict=True))
    successes = sorted((one for attempt, one in both if attempt.success), key=lambda one: float(one[-1]))
    failures = sorted((one for attempt, one in both if not attempt.success), key=lambda one: -float(one.max()))
    return tuple(
        Trace(success, tuple(round(value, 4) for value in one.tolist()))
        for success, part in ((True, successes), (False, failures))
        for one in part[:TRACES]
    )


def _score(classifier: RewardClassifier, frames: Labelled) -> Scored:
    probability = classifier.probability(frames.latents)
    return probability, frames.labels, classifier.threshold.expand(len(probability))


def _traces(classifier: RewardClassifier, attempts: Sequence[Attempt]) -> list[Tensor]:
    """Probabilities (T,) of each attempt."""
    return [classifier.probability(attempt.latents) for attempt in attempts]


def _joined(scored: Iterable[Scored]) -> Scored:
    probability, labels, threshold = (torch.cat(column) for column in zip(*scored, strict=True))
    return probability, labels, threshold


def _summed(alarms: Iterable[Alarms]) -> Alarms:
    return Alarms(*(sum(column) for column in zip(*map(astuple, alarms), strict=True)))


def _share(count: int, total: int) -> float:
    return count / total if total else math.nan
