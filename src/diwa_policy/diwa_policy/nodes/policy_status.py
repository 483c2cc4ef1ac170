"""What the policy node says about itself."""

from __future__ import annotations

import math

from builtin_interfaces.msg import Time
from diwa_msgs.msg import PolicyStatus

from diwa_policy.serving.frames import Frame
from diwa_policy.serving.served import Served
from diwa_policy.serving.skill_run import Seen

_UNKNOWN = ("success_probability", "success_threshold", "surprise", "mean_surprise", "latency_s", "decision_s")


def tell_served(message: PolicyStatus, served: Served | None, surprise_factor: float) -> None:
    """What is loaded, and its bounds; NaN for what is not known, infinite for a bound that is not there."""
    for name in _UNKNOWN:
        setattr(message, name, math.nan)
    message.surprise_bound = message.mean_surprise_bound = math.inf
    if served is None:
        return
    message.skill, message.policy_hash = served.skill, served.policy.hash
    message.world_model_hash = served.world_model.hash
    message.success_threshold, message.surprise_bound = served.threshold, served.bounds.one_step
    message.mean_surprise_bound = surprise_factor * served.bounds.mean if surprise_factor else math.inf


def tell_seen(message: PolicyStatus, seen: Seen | None, frame: Frame | None) -> None:
    """What the newest frame came to."""
    if seen is None or frame is None:
        return
    message.step, message.success_probability = seen.step, seen.probability
    message.surprise, message.mean_surprise = seen.surprise, seen.mean_surprise
    message.frame = Time(sec=frame.stamp_ns // 10**9, nanosec=frame.stamp_ns % 10**9)
