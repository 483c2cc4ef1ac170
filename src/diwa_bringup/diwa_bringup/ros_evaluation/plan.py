"""What the trial runner is to do, and what it has seen come of it: a JSON file in, a file of JSON lines out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TextIO, TypeAlias, get_args

from diwa_conventions.errors import UserError
from diwa_conventions.rates import RECORD_RATE_HZ
from diwa_conventions.tasks import EPISODE_FRAMES

Scene: TypeAlias = Literal["playroom", "real"]
Judge: TypeAlias = Literal["oracle", "person"]

EPISODE_S = EPISODE_FRAMES / RECORD_RATE_HZ
"""As long as an episode of the offline evaluation."""


@dataclass(frozen=True)
class PlannedPolicy:
    """A policy by its folder; ``name`` is what the user calls it."""

    name: str
    path: str
    hash: str


@dataclass(frozen=True)
class PlannedTrial:
    """One trial that is to be had."""

    policy: int
    """Its place among the plan's policies."""
    number: int
    """Of the start, which all policies share."""
    set: int
    seed: int
    """Of the start and of the policy's noise."""


@dataclass(frozen=True)
class Plan:
    """All trials in their order: every policy at a start before the next start, so that drift hits all alike."""

    task: str
    scene: Scene
    policies: tuple[PlannedPolicy, ...]
    world_model: str
    """Its folder."""
    world_model_hash: str
    trials: tuple[PlannedTrial, ...]
    outcomes: str
    """File of JSON lines, one for each attempt, written as it ends."""
    reward: str = ""
    """Folder of the classifier; empty: none."""
    time_limit_s: float = EPISODE_S

    @property
    def starts(self) -> int:
        """Trials of each policy."""
        return len({trial.number for trial in self.trials})

    def words(self, trial: PlannedTrial) -> str:
        """The trial, for a person."""
        return f"trial {trial.number + 1}/{self.starts} of {self.policies[trial.policy].name}"

    def told(self, trial: PlannedTrial, outcome: Outcome) -> str:
        """How an attempt at it ended, for a person."""
        if not outcome.counted:
            return f"{self.words(trial)} does not count: {outcome.reason}"
        word = "success" if outcome.success else f"failure ({outcome.reason})"
        claim = {True: "; the classifier calls it a success", False: "; the classifier calls it a failure", None: ""}
        return f"{self.words(trial)}: {word} after {outcome.seconds:.1f} s{claim[outcome.claimed]}"

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """UserError for a text that is not a plan."""
        try:
            content = json.loads(text)
            policies = tuple(PlannedPolicy(**one) for one in content.pop("policies"))
            trials = tuple(PlannedTrial(**one) for one in content.pop("trials"))
            plan = cls(policies=policies, trials=trials, **content)
            if plan.scene not in get_args(Scene) or any(not 0 <= t.policy < len(policies) for t in trials):
                raise ValueError("scene or policy out of range")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"the plan of trials cannot be read: {error}; expected what diwa evaluate writes") from None
        return plan


def planned_trials(seeds: Iterable[int], sets: int, policies: int) -> tuple[PlannedTrial, ...]:
    """Each policy at each start; ``seeds`` of the starts as the offline evaluation has them, the sets in turns."""
    return tuple(
        PlannedTrial(policy, number, number % sets, seed)
        for number, seed in enumerate(seeds)
        for policy in range(policies)
    )


@dataclass(frozen=True)
class Outcome:
    """What came of one attempt at a trial."""

    policy: int
    name: str
    number: int
    set: int
    seed: int
    attempt: int
    """1 for the first one."""
    counted: bool
    """False for an attempt that was broken off and is repeated."""
    success: bool
    judge: Judge
    reason: str
    frames: int
    """7.5 Hz steps."""
    seconds: float
    """Of the playroom's time, or of the run of a real arm."""
    claimed: bool | None
    """The classifier's probability reached its threshold in the run; None without a classifier."""
    probability: float | None
    """The highest that the classifier gave."""
    threshold: float | None
    surprise: float | None
    """Mean one-step KL [nat]."""
    stamp_to_action_ms: tuple[float, ...]
    """From an image's stamp to the action that follows from it, for each step."""
    decision_ms: tuple[float, ...]
    """That each decision took to compute."""
    interval_ms: tuple[float, ...]
    """From action to action, by their stamps."""

    def to_json(self) -> dict[str, Any]:
        return {"kind": "attempt", **asdict(self)}


class OutcomeFile:
    """Where outcomes go as they come: each line is on the disk before the next trial begins."""

    def __init__(self, path: Path) -> None:
        self._file: TextIO = path.open("w", encoding="utf-8")

    def write(self, outcome: Outcome) -> None:
        self._line(outcome.to_json())

    def end(self, why: str) -> None:
        """The last line: why no trial follows; empty when all were had."""
        self._line({"kind": "end", "why": why})

    def _line(self, content: dict[str, Any]) -> None:
        self._file.write(json.dumps(content, allow_nan=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True)
class Outcomes:
    """What a file of outcomes holds."""

    attempts: tuple[Outcome, ...]
    why: str | None
    """Why it ended, empty for its natural end; None if it was broken off."""


def read_outcomes(path: Path) -> Outcomes:
    """A last line that was cut off by a crash is left out; no file, no attempts."""
    attempts: list[Outcome] = []
    why: str | None = None
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            content = json.loads(line)
        except ValueError:
            break
        if content.pop("kind") == "end":
            why = str(content["why"])
        else:
            values: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value for name, value in content.items()
            }
            attempts.append(Outcome(**values))
    return Outcomes(tuple(attempts), why)
