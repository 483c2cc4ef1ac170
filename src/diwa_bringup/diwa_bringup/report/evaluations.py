"""How often policies of a run succeeded, offline and over ROS, and how fast they answered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diwa_bringup.report.json_files import DREAM_VS_TRUTH, EVALUATION, Content, read_json
from diwa_conventions.rates import TRAIN_RATE_HZ
from diwa_policy.evaluation.wilson import Rate, wilson
from diwa_worldmodel.dataset.quality import counted

OFFLINE, ROS = "evaluation/evaluation.json", "evaluation_ros/evaluation.json"
TRUTH = "finetuned/evaluation/dream_vs_truth.json"


@dataclass(frozen=True)
class Tried:
    """A policy and its episodes."""

    place: int
    """Among the policies of its evaluation, from 0."""
    folder: str
    hash: str
    iteration: int
    """Of fine-tuning."""
    origin: str
    promoted: bool | None
    successes: int
    episodes: int
    gain: Rate | None
    """Share of success less that of the first policy, from the same starts."""

    @property
    def success(self) -> Rate:
        """With Wilson's interval."""
        return wilson(self.successes, self.episodes)


@dataclass(frozen=True)
class Latency:
    """Of every action that the policy node published, in ms. Any may be empty."""

    stamp_to_action: tuple[float, ...]
    """From the stamp of the later image to its action on the topic."""
    interval: tuple[float, ...]
    """From an action to the next one."""
    decision: tuple[float, ...]
    """Of the computation alone."""

    @property
    def jitter(self) -> tuple[float, ...]:
        """What intervals differ from the policy's period."""
        return tuple(abs(one - 1000.0 / TRAIN_RATE_HZ) for one in self.interval)


@dataclass(frozen=True)
class Evaluation:
    """The content of evaluation.json."""

    task: str
    environment: str
    command: str
    seconds: float
    interrupted: bool
    tried: tuple[Tried, ...]
    """The first one is what others are compared with."""
    latency: Latency | None
    notes: tuple[str, ...] = ()
    """What else trials over ROS tell."""

    @property
    def before(self) -> Tried:
        return self.tried[0]

    def after(self, chosen: str) -> Tried | None:
        """The policy with the hash ``chosen``; the first one that was fine-tuned where it is not known."""
        others = self.tried[1:]
        named = [one for one in others if one.hash == chosen]
        return next(iter(named or others), None) if named or not chosen else None


def read_evaluation(path: Path) -> Evaluation | None:
    return read_json(path, EVALUATION, _evaluation)


def _evaluation(content: Content) -> Evaluation:
    tried = tuple(_tried(place, one) for place, one in enumerate(content["policies"]))
    done = tuple(one for one in tried if one.episodes)
    if not done or done[0].place:
        raise ValueError("no episode of its first policy")
    latency = content.get("latency")
    return Evaluation(
        str(content["task"]), str(content["environment"]), str(content["command"]), float(content["seconds"]),
        bool(content["interrupted"]), done, _latency(latency) if latency else None,
        tuple(_notes(content)),
    )  # fmt: skip


def _notes(content: Content) -> Iterator[str]:
    """Whether the classifier that ends runs is to be believed, and what was not counted."""
    told = content.get("classifier") or {}
    if told.get("trials"):
        yield (
            f"over ROS the classifier agrees with the {told['judge']} in {told['agree']} of {told['trials']} trials: "
            f"{told['missed']} successes missed, {told['imagined']} imagined"
        )
    if lost := content.get("not_counted"):
        yield f"{counted(len(lost), 'attempt')} over ROS broken off and not counted; the last: {lost[-1]['reason']}"


def _tried(place: int, content: Content) -> Tried:
    successes, episodes = int(content["successes"]), int(content["episodes"])
    if not 0 <= successes <= episodes:
        raise ValueError(f"{successes} successes in {episodes} episodes")
    gain = content["against_first"]
    promoted = content["promoted"]
    return Tried(
        place, str(content["policy"]), str(content["hash"]), int(content["iteration"]), str(content["origin"]),
        promoted if promoted is None else bool(promoted), successes, episodes, rate(gain) if gain else None,
    )  # fmt: skip


def rate(content: Content) -> Rate:
    return Rate(float(content["value"]), float(content["low"]), float(content["high"]))


def _latency(content: Content) -> Latency:
    names = ("stamp_to_action_ms", "interval_ms", "decision_ms")
    return Latency(*(_numbers(content.get(name, ())) for name in names))


def _numbers(values: Any) -> tuple[float, ...]:
    """Without those that are not known."""
    found = np.asarray([one for one in values if one is not None], dtype=np.float64)
    return tuple(float(one) for one in found[np.isfinite(found)])


def read_truth(path: Path) -> dict[int, Rate] | None:
    """True success of each checkpoint of fine-tuning, by iteration."""
    return read_json(path, DREAM_VS_TRUTH, _truth)


def _truth(content: Content) -> dict[int, Rate]:
    return {int(one["signals"]["iteration"]): rate(one["truth"]["success"]) for one in content["checkpoints"]}


def truth_of_policies(*evaluations: Evaluation | None) -> dict[int, Rate]:
    """The same of those policies alone that were evaluated, where not every checkpoint was."""
    found: dict[int, Rate] = {}
    for one in evaluations:
        for tried in one.tried if one else ():
            if tried.origin in ("pretrained", "dreams"):
                found.setdefault(tried.iteration, tried.success)
    return found
