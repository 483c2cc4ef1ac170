"""Several policies tried from the same starts: what is known of each, and how it differs from another."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean, median, stdev
from typing import Any

from diwa_policy.artefacts import LoadedPolicy
from diwa_policy.evaluation.progress import episodes_bar
from diwa_policy.evaluation.trial_pool import Job, TrialPool
from diwa_policy.evaluation.trials import Episode, Trial, episode_seed
from diwa_policy.evaluation.wilson import Rate, paired_difference, wilson

INTERVALS = "95%: Wilson for success, Newcombe's square-and-add for differences over the same starts"
_SHOWN = 4
"""Policies whose success is told while they are tried."""


@dataclass(frozen=True)
class Starts:
    """Sets of episodes that all compared policies share."""

    sets: int
    episodes: int
    """In each set."""

    def seeds(self) -> list[int]:
        """Of all of them; the sets take turns, so that those of an evaluation that was broken off are alike."""
        return [episode_seed(one, number) for number in range(self.episodes) for one in range(self.sets)]

    def set_of(self, number: int) -> int:
        """To which the episode in place ``number`` of :meth:`seeds` belongs."""
        return number % self.sets


@dataclass
class Tried:
    """A policy and its episodes so far, by their place among the starts."""

    name: str
    loaded: LoadedPolicy
    threshold: float = 0.5
    """Probability from which on the classifier calls a frame a success."""
    episodes: dict[int, Episode] = field(default_factory=dict)

    @property
    def success(self) -> Rate:
        return wilson(sum(one.success for one in self.episodes.values()), len(self.episodes))

    def against(self, base: Tried) -> Rate:
        """Difference in success over the starts that both have tried."""
        shared = sorted(self.episodes.keys() & base.episodes.keys())
        return paired_difference(*([one.episodes[number].success for number in shared] for one in (base, self)))

    def by_set(self, starts: Starts) -> list[float]:
        """Success in each set of which there is an episode."""
        sets = [
            [one.success for number, one in self.episodes.items() if starts.set_of(number) == own]
            for own in range(starts.sets)
        ]
        return [fmean(own) for own in sets if own]

    @property
    def frames_to_success(self) -> float | None:
        """Median."""
        frames = [one.frames for one in self.episodes.values() if one.success]
        return float(median(frames)) if frames else None

    @property
    def surprise(self) -> float | None:
        """Mean one-step KL [nat] over the episodes."""
        known = [one.surprise for one in self.episodes.values() if one.surprise is not None]
        return fmean(known) if known else None

    def believed(self, success: bool) -> float | None:
        """Share of the successful or failed episodes in which the classifier saw a success."""
        known = [
            one.probability > self.threshold
            for one in self.episodes.values()
            if one.probability is not None and one.success == success
        ]
        return fmean(known) if known else None

    def to_json(self, base: Tried, starts: Starts) -> dict[str, Any]:
        """Differences are to ``base``."""
        by_set = self.by_set(starts)
        metadata = self.loaded.metadata
        return {
            "policy": self.name,
            "hash": self.loaded.hash,
            **{
                name: getattr(metadata, name) for name in ("origin", "iteration", "imagined_steps", "environment_steps")
            },
            "promoted": metadata.promoted,
            "reasons": list(metadata.reasons),
            "episodes": len(self.episodes),
            "successes": sum(one.success for one in self.episodes.values()),
            "success": plain_rate(self.success),
            "by_set": {
                "success": by_set,
                "mean": fmean(by_set) if by_set else None,
                "std": stdev(by_set) if len(by_set) > 1 else None,
            },
            "against_first": None if self is base else plain_rate(self.against(base)),
            "frames_to_success": self.frames_to_success,
            "surprise": self.surprise,
            "classifier": {"true_alarms": self.believed(True), "false_alarms": self.believed(False)},
        }


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """What is told of every evaluation, whatever came of it."""

    task: str
    environment: str
    world_model: str
    """Its hash."""
    starts: Starts
    command: str
    seconds: float
    interrupted: bool

    def head(self, form: str, version: int) -> dict[str, Any]:
        """For JSON."""
        return {
            "format": form,
            "version": version,
            "command": self.command,
            "task": self.task,
            "environment": self.environment,
            "world_model": self.world_model,
            "starts": asdict(self.starts),
            "interrupted": self.interrupted,
            "seconds": round(self.seconds, 1),
            "intervals": INTERVALS,
        }

    def interruption(self, tried: Sequence[Tried]) -> list[str]:
        """A line that says of how many episodes the numbers are, if not of all."""
        done, wanted = sum(len(one.episodes) for one in tried), len(tried) * self.starts.sets * self.starts.episodes
        return [f"interrupted: the numbers are of {done} of {wanted} episodes"] if self.interrupted else []


def try_policies(pool: TrialPool, tried: Sequence[Tried], starts: Starts, stop: Callable[[], bool]) -> None:
    """All policies at a start before the next one, so that what is done by the time of ``stop()`` can be compared."""
    seeds = starts.seeds()
    places = [(number, policy) for number in range(len(seeds)) for policy in range(len(tried))]
    jobs = [Job(policy, Trial(seeds[number])) for number, policy in places]
    with episodes_bar("trials", len(jobs)) as tell:
        for done, episode in pool.run([one.loaded.policy for one in tried], jobs, stop):
            number, policy = places[done]
            tried[policy].episodes[number] = episode
            shown = [f"{100 * one.success.value:.0f}%" for one in tried if one.episodes]
            tell(" / ".join(shown[:_SHOWN]) + (" ..." if len(shown) > _SHOWN else ""))


def all_tried(tried: Sequence[Tried], starts: Starts) -> bool:
    """Nothing has stopped it."""
    return all(len(one.episodes) == starts.sets * starts.episodes for one in tried)


def plain_rate(rate: Rate) -> dict[str, float | None]:
    """For JSON."""
    return {name: None if math.isnan(value) else value for name, value in rate._asdict().items()}


def rate_words(rate: Rate, sign: str = "") -> list[str]:
    """In percent: the value, and its interval."""
    value, low, high = (f"{100 * number:{sign}.1f}" for number in rate)
    return ["-", "-"] if math.isnan(rate.value) else [value, f"{low} to {high}"]
