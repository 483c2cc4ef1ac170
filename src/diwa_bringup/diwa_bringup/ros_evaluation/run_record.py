"""What is measured in one run of the policy, and the outcome that it makes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import fmean

from diwa_bringup.ros_evaluation.bounds import READY_STEPS
from diwa_bringup.ros_evaluation.plan import Outcome, Plan, PlannedTrial
from diwa_bringup.ros_evaluation.seen import PolicyMode, PolicySeen, SceneSeen
from diwa_conventions.rates import FRAMES_PER_STEP, RECORD_RATE_HZ, TRAIN_RATE_HZ

SLIP_S = 0.25
"""A gap between the playroom's stamps from this on: the machine stood still, simulated time did not go on. A shorter
one is of messages that were lost on the way (MAX_CATCH_UP_S of the playroom's node)."""


@dataclass
class RunRecord:
    """Fed with what arrives between the goal and the result."""

    begun: bool = False
    """The policy has said that it runs."""
    scene_frames: int = 0
    """Of the playroom, 30 Hz, since then."""
    success: bool = False
    """The oracle's word."""
    threshold: float = math.nan
    _scene_ns: int | None = None
    _step: int = -1
    _actions_ns: list[int] = field(default_factory=list)
    _probability: list[float] = field(default_factory=list)
    _surprise: list[float] = field(default_factory=list)
    _latency_s: list[float] = field(default_factory=list)
    _decision_s: list[float] = field(default_factory=list)

    def scene(self, seen: SceneSeen) -> None:
        """A state of the trial's own episode."""
        before_ns, self._scene_ns = self._scene_ns, seen.stamp_ns
        if not self.begun or before_ns is None:
            return
        gap_s = (seen.stamp_ns - before_ns) * 1e-9
        self.scene_frames += max(1, round(gap_s * RECORD_RATE_HZ)) if gap_s < SLIP_S else 1
        self.success = self.success or seen.success

    def policy(self, seen: PolicySeen) -> None:
        """The same step may be told more than once."""
        if seen.mode is not PolicyMode.RUNNING or seen.step <= self._step:
            return
        if not self.begun:
            self._begin(seen.frame_ns)
        self._step = seen.step
        self.threshold = seen.threshold
        for numbers, value, since in (
            (self._probability, seen.probability, 1),  # no action has led to the first frame
            (self._surprise, seen.surprise, READY_STEPS),
            (self._latency_s, seen.latency_s, 0),
        ):
            if seen.step >= since and math.isfinite(value):
                numbers.append(value)
        # The newest decision's time is told until there is another one.
        if math.isfinite(seen.decision_s) and seen.decision_s != (self._decision_s or [math.nan])[-1]:
            self._decision_s.append(seen.decision_s)

    def _begin(self, frame_ns: int) -> None:
        """Time counts from the first frame that the policy saw."""
        self.begun = True
        passed_s = ((self._scene_ns or frame_ns) - frame_ns) * 1e-9
        if 0.0 < passed_s < SLIP_S:
            self.scene_frames = round(passed_s * RECORD_RATE_HZ)

    def action(self, stamp_ns: int) -> None:
        """An action of the policy."""
        self._actions_ns.append(stamp_ns)

    def result(self, steps: int, probability: float) -> None:
        """What the policy node says of the whole run."""
        self._step = max(self._step, steps)
        if math.isfinite(probability):
            self._probability.append(probability)

    @property
    def steps(self) -> int:
        """7.5 Hz steps that the policy says it has done."""
        return max(self._step, 0)

    @property
    def probability(self) -> float | None:
        return max(self._probability, default=None)

    @property
    def claimed(self) -> bool | None:
        """The classifier called a frame a success."""
        if self.probability is None or not math.isfinite(self.threshold):
            return None
        return self.probability >= self.threshold

    def outcome(
        self, plan: Plan, trial: PlannedTrial, attempt: int, counted: bool, success: bool, reason: str
    ) -> Outcome:
        """The playroom's own time is what an offline episode is told in; a real scene has only the policy's steps."""
        frames = math.ceil(self.scene_frames / FRAMES_PER_STEP) if plan.scene == "playroom" else self.steps
        seconds = self.scene_frames / RECORD_RATE_HZ if plan.scene == "playroom" else self.steps / TRAIN_RATE_HZ
        gaps_ns = [after - before for before, after in zip(self._actions_ns, self._actions_ns[1:], strict=False)]
        return Outcome(
            policy=trial.policy,
            name=plan.policies[trial.policy].name,
            number=trial.number,
            set=trial.set,
            seed=trial.seed,
            attempt=attempt,
            counted=counted,
            success=success,
            judge="oracle" if plan.scene == "playroom" else "person",
            reason=reason,
            frames=frames,
            seconds=round(seconds, 3),
            claimed=self.claimed,
            probability=self.probability,
            threshold=self.threshold if math.isfinite(self.threshold) else None,
            surprise=fmean(self._surprise) if self._surprise else None,
            stamp_to_action_ms=_milliseconds(self._latency_s),
            decision_ms=_milliseconds(self._decision_s),
            interval_ms=tuple(round(gap * 1e-6, 3) for gap in gaps_ns),
        )


def _milliseconds(seconds: list[float]) -> tuple[float, ...]:
    return tuple(round(1e3 * value, 3) for value in seconds)
