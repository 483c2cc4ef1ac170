"""What is known of a fine-tuning run without the true environment, as plain numbers; ``RUN/trust.json`` holds them.

trust = read_trust(run / TRUST)
judge(trust, TrustLimits(...))          # selection.py
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from diwa_conventions.errors import UserError

TRUST = "trust.json"
FORMAT, VERSION = "diwa-trust", 2

Signals = TypeVar("Signals", "CheckpointSignals", "ReplaySignals")


@dataclass(frozen=True)
class ReplaySignals:
    """What the world model makes of recorded attempts: their own actions, open loop from their first latent."""

    successes: int
    """Attempts that succeeded."""
    failures: int
    recall: float
    """Share of dreams along successful attempts in which the classifier sees a success; NaN without any."""
    recall_error: float
    """Its standard error over attempts; NaN with fewer than two."""
    false_success: float
    """The same share along failed attempts: failures that the world model dreams into successes."""
    false_success_error: float
    prior_entropy: float
    """Mean along successful attempts [nat]."""
    entropy_spread: float
    """Standard deviation of an attempt's mean from what is usual at its steps [nat]; NaN with fewer than two."""
    learned_from: bool
    """The world model was trained on these very attempts, which flatters it."""
    classifier_learned_from: bool
    """The classifier was trained on most of these attempts, which flatters it."""

    @property
    def discrimination(self) -> float:
        """How much more often successes than failures are dreamed as success."""
        return self.recall - self.false_success

    @property
    def discrimination_error(self) -> float:
        """Its standard error over attempts."""
        return math.hypot(self.recall_error, self.false_success_error)


@dataclass(frozen=True)
class CheckpointSignals:
    """What a policy dreams as it would be served: without exploring, twice, with other starts and other seeds.

    All are first frames of recorded attempts that training does not begin at; they and the random numbers are the same
    for all policies of a run.
    """

    iteration: int
    imagined_steps: int
    """Dreamed before it; those behind a dream's end are not learned from."""
    dreamed_success: float
    """Share of dreams in which the classifier sees a success."""
    other_success: float
    """The same with the other starts and seeds."""
    dreamed_return: float
    """Mean discounted reward of a dream."""
    other_return: float
    return_error: float
    """Standard error of either return over starts: dreams that begin alike are not independent."""
    gain_error: float
    """Of what ``other_return`` is above the pre-trained policy's, from the differences at each start."""
    confidence: float
    """Mean of a dream's highest probability of success."""
    prior_entropy: float
    """Mean up to the success [nat]."""
    entropy_excess: float
    """What that is above demonstrations at the same steps of their replay [nat]."""
    translation_distance: float
    """RMS difference from the pre-trained policy's actions, of 1 for the largest action, from equal noise."""
    rotation_distance: float
    gripper_flips: float
    """Share of actions whose gripper goes the other way."""

    @property
    def success(self) -> float:
        """Over both sets of seeds."""
        return 0.5 * (self.dreamed_success + self.other_success)

    @property
    def distance(self) -> float:
        """The larger of translation and rotation."""
        return max(self.translation_distance, self.rotation_distance)

    @property
    def seed_difference(self) -> float:
        return abs(self.dreamed_success - self.other_success)


@dataclass(frozen=True)
class Trust:
    """All signals of a run, and what of its settings they must be read with."""

    skill: str
    bc_coefficient: float
    starts: int
    """Recorded frames at which those dreams begin, half of them in each set."""
    dreams: int
    """Of each set, at most."""
    replay: ReplaySignals
    classifier: Mapping[str, float]
    """Measured on held-out attempts when it was trained."""
    checkpoints: tuple[CheckpointSignals, ...]
    """By iteration, the first is iteration 0: the pre-trained policy."""

    @property
    def base(self) -> CheckpointSignals:
        return self.checkpoints[0]

    def at(self, iteration: int) -> CheckpointSignals:
        return next(one for one in self.checkpoints if one.iteration == iteration)


def write_trust(path: Path, trust: Trust, verdict: Mapping[str, Any] | None = None) -> None:
    """In one step; ``verdict`` is what was made of it, for people."""
    content = {"format": FORMAT, "version": VERSION, **asdict(trust), "verdict": verdict}
    new = path.with_name(f".{path.name}")
    new.write_text(json.dumps(_without_nan(content), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(new, path)


def read_trust(path: Path) -> Trust:
    """Inverse of :func:`write_trust`. UserError for a file that holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if (content["format"], content["version"]) != (FORMAT, VERSION):
            raise ValueError(f"format {content['format']!r} version {content['version']!r}")
        return Trust(
            content["skill"], content["bc_coefficient"], content["starts"], content["dreams"],
            _signals(ReplaySignals, content["replay"]), content["classifier"],
            tuple(_signals(CheckpointSignals, one) for one in content["checkpoints"]),
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); diwa finetune makes it") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not {FORMAT!r} version {VERSION} ({error}); make it anew with: diwa finetune"
        ) from None


def _signals(kind: type[Signals], values: Mapping[str, Any]) -> Signals:
    names = {item.name for item in fields(kind)}
    if names != set(values):
        raise ValueError(f"{sorted(names ^ set(values))[0]} is missing or unknown")
    known: dict[str, Any] = {name: math.nan if value is None else value for name, value in values.items()}
    return kind(**known)


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nan(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
