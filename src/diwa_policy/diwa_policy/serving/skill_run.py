"""One run of a skill: frames in, actions out, and when it stops by itself. No ROS, no clock but the frames' stamps.

The same as a trial in the playroom (evaluation/trials.py): every frame and the action executed since the last one pass
through the latent filter; every T_a frames the policy decides on its latent, with noise that follows from the seed.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from enum import Enum

import numpy as np
import torch

from diwa_conventions.actions import ACTION_DIM, GRIPPER_INDEX, GRIPPER_OPEN, FloatArray, quantise_gripper
from diwa_conventions.errors import UserError
from diwa_conventions.rates import TRAIN_RATE_HZ
from diwa_policy.policy import draw_noise
from diwa_policy.serving.frames import Frame
from diwa_policy.serving.served import Served
from diwa_policy.serving.views import unlike
from diwa_worldmodel.latent_filter import FilterFrame, FilterOutput, LatentFilter
from diwa_worldmodel.settings import setting

_STILL: FloatArray = np.eye(ACTION_DIM)[GRIPPER_INDEX] * GRIPPER_OPEN
_NO_JUMP_M, _NO_JUMP_RAD = 0.02, 0.1
"""Noise of a measured pose."""


class End(Enum):
    """Why a run ended, by the word for a person."""

    SUCCESS = "success"
    TIME = "time limit"
    FAULT = "fault"


@dataclass(frozen=True)
class RunLimits:
    """When a run stops by itself."""

    stop_on_success: bool = True
    """The classifier's success ends it."""
    surprise_factor: float = setting(1.5, 0.0, 1000.0)
    """Times the bound that the mean surprise may reach; 0: surprise stops nothing. The bound is a quantile of recorded
    play and a skill is not played (docs/results/serving.md)."""
    check_views: bool = True
    """Do not begin where the cameras show something else than the world model knows of them."""
    executed_actions: int = setting(0, 0, 64)
    """T_a: of a chunk before the next decision; 0: as the policy was trained."""
    noise_clip: float = setting(3.0, 0.1, 100.0)
    """As in fine-tuning and evaluation."""


@dataclass(frozen=True)
class Seen:
    """What a frame came to."""

    step: int
    """Of the run; 0: its first frame."""
    action: FloatArray | None
    """(7,) to be executed until the next frame, the gripper +1 or -1; None: the run is over."""
    decided: bool
    """A new chunk begins with the action."""
    probability: float
    """Of success; NaN without a classifier."""
    surprise: float
    mean_surprise: float
    """[nat]; NaN before there were enough steps."""
    end: End | None = None
    reason: str = ""
    latent: torch.Tensor | None = None
    """(1, s) that was acted on."""


class SkillRun:
    """From the first frame to the end. After an end nothing more may be shown to it."""

    def __init__(self, served: Served, latent_filter: LatentFilter, limits: RunLimits, seed: int, time_limit_s: float):
        self.served, self.limits, self.seed = served, limits, seed
        self.steps_limit = max(1, round(time_limit_s * TRAIN_RATE_HZ))
        self.executed_actions = _executed_actions(served, limits)
        self.best_probability = math.nan
        self.step = -1
        self._filter = latent_filter
        self._filter.reset()
        self._generator = torch.Generator().manual_seed(seed)
        self._chunk: FloatArray = np.zeros((0, ACTION_DIM))
        self._at = 0
        self._before: Frame | None = None
        self._recent: deque[float] = deque(maxlen=served.bounds.mean_steps)

    def see(self, frame: Frame) -> Seen:
        """Take in the next frame; the action that follows, or why there is none any more."""
        self.step += 1
        reason = self._moved_too_fast(frame)
        try:
            output = self._filter.update(_filter_frame(frame), None if frame.executed is None else _row(frame.executed))
        except UserError as error:
            return self._ended(None, End.FAULT, str(error))
        self._remember(frame, output)
        if not reason and self.step and output.events[0] != "step":
            reason = "frames were lost: the last one is not one step of 1/7.5 s before this"
        reason = reason or self._surprised(frame, output) or self._unlike(frame, output)
        if reason:
            return self._ended(output, End.FAULT, reason)
        probability = self._probability(output)
        if self.step and not math.isnan(probability):
            self.best_probability = max(probability, self.best_probability if self.best_probability >= 0.0 else 0.0)
        if self.step and self.limits.stop_on_success and probability >= self.served.threshold:
            return self._ended(output, End.SUCCESS, f"success: the classifier gives {probability:.2f}", probability)
        if self.step >= self.steps_limit:
            return self._ended(output, End.TIME, f"time limit: {self.steps_limit / TRAIN_RATE_HZ:.1f} s", probability)
        return self._act(output, probability)

    def _act(self, output: FilterOutput, probability: float) -> Seen:
        config = self.served.policy.policy.config
        decided = self.step == config.warmup_steps or (
            self.step > config.warmup_steps and self._at == self.executed_actions
        )
        action = _STILL
        if decided:
            self._decide(output)
        if self.step >= config.warmup_steps:
            action = self._chunk[self._at].copy()
            self._at += 1
        if not np.isfinite(action).all():
            return self._ended(output, End.FAULT, "the policy's action is not finite; load another policy", probability)
        action[GRIPPER_INDEX] = quantise_gripper(float(action[GRIPPER_INDEX]))
        return self._seen(output, action, decided, probability)

    def _decide(self, output: FilterOutput) -> None:
        policy = self.served.policy.policy
        noise = draw_noise((1, policy.steps + 1, policy.chunk), self._generator, self.limits.noise_clip)
        self._chunk, self._at = self.served.inference.decide(output.latent, noise).double().numpy(), 0

    @torch.inference_mode()
    def _probability(self, output: FilterOutput) -> float:
        if self.served.reward is None:
            return math.nan
        return float(self.served.reward.classifier.probability(output.latent[0]))

    # What stops it

    def _moved_too_fast(self, frame: Frame) -> str:
        """Why the arm cannot have moved from the last frame to this, or ""."""
        before, config = self._before, self.served.world_model.metadata.data_set
        if before is None:
            return ""
        passed_s = max((frame.stamp_ns - before.stamp_ns) * 1e-9, 0.0)
        way_m, turn_rad = frame.pose.distance_m(before.pose), frame.pose.angle_rad(before.pose)
        if way_m <= config.max_speed_m_s * passed_s + _NO_JUMP_M and (
            turn_rad <= config.max_turn_rad_s * passed_s + _NO_JUMP_RAD
        ):
            return ""
        return f"the arm's state jumped by {way_m:.2f} m and {turn_rad:.2f} rad in {passed_s:.2f} s"

    def _remember(self, frame: Frame, output: FilterOutput) -> None:
        surprise = float(output.surprise[0])
        self._before = frame
        if int(output.steps[0]) >= self.served.bounds.warmup_steps:
            self._recent.append(surprise)

    @property
    def mean_surprise(self) -> float:
        """Over the last steps; NaN before there were enough."""
        enough = len(self._recent) == self.served.bounds.mean_steps
        return float(np.mean(self._recent)) if enough else math.nan

    @property
    def surprise_limit(self) -> float:
        """[nat] of the mean; inf: none."""
        factor = self.limits.surprise_factor
        return factor * self.served.bounds.mean if factor else math.inf

    def _surprised(self, frame: Frame, output: FilterOutput) -> str:
        mean = self.mean_surprise
        if not mean > self.surprise_limit:
            return ""
        limit = f"at most {self.surprise_limit:.0f}"
        what = f"the world model is surprised: {mean:.0f} nat a step over the last second, {limit}"
        cameras = unlike(self._filter.model, output.latent, frame.images)
        return f"{what}: {cameras or 'scene, cameras or arm are not as it knows them'}"

    def _unlike(self, frame: Frame, output: FilterOutput) -> str:
        """At the frame of the first decision: why the cameras are not the world model's, or ""."""
        if not self.limits.check_views or self.step != self.served.policy.policy.config.warmup_steps:
            return ""
        return unlike(self._filter.model, output.latent, frame.images)

    # What it says

    def _ended(self, output: FilterOutput | None, end: End, reason: str, probability: float = math.nan) -> Seen:
        return self._seen(output, None, False, probability, end, reason)

    def _seen(
        self,
        output: FilterOutput | None,
        action: FloatArray | None,
        decided: bool,
        probability: float,
        end: End | None = None,
        reason: str = "",
    ) -> Seen:
        return Seen(
            step=self.step,
            action=action,
            decided=decided,
            probability=probability,
            surprise=math.nan if output is None else float(output.surprise[0]),
            mean_surprise=self.mean_surprise,
            end=end,
            reason=reason,
            latent=None if output is None else output.latent,
        )


def _executed_actions(served: Served, limits: RunLimits) -> int:
    """T_a. UserError for more than the policy plans."""
    config = served.policy.policy.config
    if limits.executed_actions > config.planned_actions:
        raise UserError(
            f"executed_actions is {limits.executed_actions}; expected at most {config.planned_actions}, which is what "
            f"{served.policy.folder} plans"
        )
    return limits.executed_actions or config.executed_actions


def _filter_frame(frame: Frame) -> FilterFrame:
    images = {name: image[None] for name, image in frame.images.items()}
    return FilterFrame(images, frame.proprio[None].astype(np.float32), np.array([frame.stamp_ns], np.int64))


def _row(action: FloatArray) -> FloatArray:
    row: FloatArray = action[None].astype(np.float32)
    return row
