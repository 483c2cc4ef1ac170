"""How good a reward classifier is, on attempts that it has not learned from; and from which probability on it pays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from diwa_policy.config import RewardConfig
from diwa_policy.demonstrations import Attempt
from diwa_policy.reward import RewardClassifier
from diwa_policy.reward_training import Labelled, dreamed_frames, frame_labels, posterior_frames
from diwa_worldmodel.rssm import RSSM

MEASURED_STEPS = 8
"""Dreamed steps that are measured if ``reward.dreamed_steps`` is smaller: two chunks of the default length."""
BINS = 10
THRESHOLDS = 99
"""0.01, 0.02 ... 0.99 are tried."""
TRACES = 3
"""Successes, and failures, whose probability is shown over time."""


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
    """All that was measured, at ``threshold`` where one is needed."""

    threshold: float
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


@torch.no_grad()
def measure(
    classifier: RewardClassifier, held_out: Sequence[Attempt], frames: Sequence[Labelled], config: RewardConfig
) -> RewardMeasures:
    """On attempts held out and :func:`frames_to_measure` of them, with the threshold that is best on those."""
    scored = [(classifier.probability(one.latents), one.labels) for one in frames]
    dreamed = _joined(scored[1:])
    threshold = choose_threshold(*_joined(scored))
    traces = [classifier.probability(attempt.latents) for attempt in held_out]
    return RewardMeasures(
        threshold=threshold,
        seen=detect(*scored[0], threshold),
        dreamed=detect(*dreamed, threshold),
        dreamed_by_step=tuple(detect(*one, threshold) for one in scored[1:]),
        seen_calibration=calibrate(*scored[0]),
        dreamed_calibration=calibrate(*dreamed),
        alarms=count_alarms(held_out, traces, threshold, config),
        traces=_telling_traces(held_out, traces),
    )


def detect(probability: Tensor, labels: Tensor, threshold: float) -> Detection:
    """From probabilities and labels (M,)."""
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


def _joined(scored: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Probabilities and labels of all parts."""
    probabilities, labels = zip(*scored, strict=True)
    return torch.cat(probabilities), torch.cat(labels)


def _share(count: int, total: int) -> float:
    return count / total if total else math.nan
