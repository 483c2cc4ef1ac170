"""The offline evaluation's comparison, of trials through the real nodes: the same numbers, and what only nodes have."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from diwa_bringup.ros_evaluation.plan import Outcome, Scene
from diwa_policy.evaluation.comparison import Comparison
from diwa_policy.evaluation.trials import Episode

LATENCIES = ("stamp_to_action_ms", "decision_ms", "interval_ms")
_WORDS = ("image to action", "a decision", "action to action")


def episode(outcome: Outcome) -> Episode:
    """As the offline evaluation has it."""
    return Episode(
        seed=outcome.seed,
        success=outcome.success,
        terminated=outcome.success,
        frames=outcome.frames,
        surprise=outcome.surprise,
        probability=outcome.probability,
    )


@dataclass(frozen=True, kw_only=True)
class RosComparison(Comparison):
    """A comparison with latencies, the classifier's agreement and the attempts that did not count."""

    scene: Scene
    attempts: tuple[Outcome, ...]

    @property
    def counted(self) -> list[Outcome]:
        return [one for one in self.attempts if one.counted]

    @property
    def latency(self) -> Mapping[str, Sequence[float]]:
        """Of all runs that count [ms]."""
        return {name: [value for one in self.counted for value in getattr(one, name)] for name in LATENCIES}

    @property
    def agreement(self) -> dict[str, Any]:
        """How often the classifier's claim and the judge's word are the same."""
        claims = [(one.claimed, one.success) for one in self.counted if one.claimed is not None]
        thresholds = {one.threshold for one in self.counted if one.threshold is not None}
        return {
            "threshold": max(thresholds, default=None),
            "judge": "oracle" if self.scene == "playroom" else "person",
            "trials": len(claims),
            "agree": sum(claimed == success for claimed, success in claims),
            "missed": sum(success and not claimed for claimed, success in claims),
            "imagined": sum(claimed and not success for claimed, success in claims),
        }

    def to_json(self) -> str:
        broken_off = [
            {"policy": one.name, "seed": one.seed, "attempt": one.attempt, "reason": one.reason}
            for one in self.attempts
            if not one.counted
        ]
        own = {
            "scene": self.scene,
            "latency": self.latency,
            "classifier": self.agreement,
            "reasons": {one.name: self._reasons(number) for number, one in enumerate(self.tried)},
            "not_counted": broken_off,
        }
        return json.dumps(json.loads(super().to_json()) | own, indent=1, allow_nan=False) + "\n"

    def _reasons(self, policy: int) -> dict[str, int]:
        """Why runs ended, and how often."""
        reasons = [one.reason for one in self.counted if one.policy == policy]
        return {reason: reasons.count(reason) for reason in sorted(set(reasons))}

    def _last_broken(self) -> Outcome:
        return [one for one in self.attempts if not one.counted][-1]

    def table(self) -> Table:
        """With a title that says what the trials went through."""
        table = super().table()
        where = "the playroom" if self.scene == "playroom" else "the real scene"
        trials = f"{self.starts.sets} x {self.starts.episodes}" if self.starts.sets > 1 else str(self.starts.episodes)
        table.title = f"{self.task} over ROS in {where}: {trials} trials"
        return table

    def notes(self) -> list[str]:
        """What must be said beside the numbers."""
        lines = super().notes()
        agreement, lost = self.agreement, len(self.attempts) - len(self.counted)
        if agreement["trials"]:
            lines.append(
                f"the classifier agrees with the {agreement['judge']} in {agreement['agree']} of "
                f"{agreement['trials']} trials; it missed {agreement['missed']} successes and imagined "
                f"{agreement['imagined']}"
            )
        if lost:
            lines.append(f"attempts that were broken off: {lost}; the last one: {self._last_broken().reason}")
        for words, (name, values) in zip(_WORDS, self.latency.items(), strict=True):
            if values:
                middle, high = np.percentile(values, [50, 99])
                lines.append(f"{words}: median {middle:.1f} ms, 99% below {high:.1f} ms ({len(values)} {name})")
        return lines
