"""Numbers of the online baseline: how much of the environment it may use, and when it is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from diwa_conventions.errors import UserError
from diwa_policy.config import FineTuningConfig, Preset, load_config
from diwa_worldmodel.settings import from_mapping, merged, setting, to_mapping

_OF_DREAMS = (
    "imagined_steps", "dreams", "decisions", "reward", "uncertainty_penalty", "precision", "first_frame_share",
    "trust_every", "trust_dreams", "replay_draws",
)  # fmt: skip
"""Settings of fine-tuning that say nothing to whoever does not dream."""


@dataclass(frozen=True)
class OnlineConfig:
    """Beside what PPO needs."""

    environment_steps: int = setting(500_000, 1)
    """To learn from, at most; the paper's slowest skill took 495k (Table I)."""
    episodes: int = setting(50, 1)
    """In an iteration, each from its beginning to its end."""
    evaluate_every: int = setting(10_000, 1)
    """Environment steps between two evaluations, which do not count themselves."""
    evaluation_episodes: int = setting(100, 1)
    """Always from the same held-out starts."""


@dataclass(frozen=True)
class DppoConfig:
    """What ``diwa dppo`` resolves from preset, file and words."""

    online: OnlineConfig = field(default_factory=OnlineConfig)
    fine_tuning: FineTuningConfig = field(default_factory=FineTuningConfig)


def load_dppo_config(preset: Preset, over: Mapping[str, Any] | None = None) -> DppoConfig:
    """The preset's PPO without behaviour cloning, which DPPO has not, and what ``over`` says instead.

    UserError for an unknown key, a bad value, and a setting that only matters in dreams.
    """
    words: Mapping[str, Any] = over or {}
    asked = words.get("fine_tuning", {})
    for name in _OF_DREAMS:
        if isinstance(asked, Mapping) and name in asked:
            raise UserError(f"setting fine_tuning.{name} is about dreams, of which DPPO has none; leave it out")
    usual = to_mapping(load_config(preset).fine_tuning) | {"bc_coefficient": 0.0}
    return from_mapping(DppoConfig, merged({"fine_tuning": usual}, words))
