"""What the trial protocol is told, and what it asks for; times ``now_s`` are of one steady clock."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias


class GuardMode(IntEnum):
    """The states of diwa_msgs/GuardState."""

    DISARMED = 0
    ARMED = 1
    HOLDING = 2
    FAULT = 3


class PolicyMode(IntEnum):
    """The states of diwa_msgs/PolicyStatus."""

    EMPTY = 0
    READY = 1
    RUNNING = 2
    STOPPED = 3


@dataclass(frozen=True)
class SceneSeen:
    """The playroom's true state, as far as it matters here."""

    stamp_ns: int
    episode: int
    success: bool
    """The oracle has seen the episode's task done."""


@dataclass(frozen=True)
class GuardSeen:
    """What the command guard says."""

    mode: GuardMode
    source: str
    reason: str

    @property
    def armed(self) -> bool:
        return self.mode in (GuardMode.ARMED, GuardMode.HOLDING)


@dataclass(frozen=True)
class PolicySeen:
    """What the policy node says; numbers that it does not have are NaN."""

    mode: PolicyMode
    reason: str
    policy_hash: str
    world_model_hash: str
    dry_run: bool
    frame_ns: int
    """Stamp of the static image that the newest step saw."""
    step: int
    probability: float
    threshold: float
    surprise: float
    latency_s: float
    decision_s: float


# What is asked for. The ticket comes back with the answer: an answer that comes too late is known by it.


@dataclass(frozen=True)
class Load:
    """Call load_policy."""

    ticket: int
    path: str
    world_model: str
    reward: str


@dataclass(frozen=True)
class Reset:
    """Call the playroom's reset."""

    ticket: int
    task: str
    seed: int


@dataclass(frozen=True)
class Recover:
    """Call the guard's recover."""

    ticket: int


@dataclass(frozen=True)
class Goal:
    """Send the goal of run_skill."""

    ticket: int
    skill: str
    time_limit_s: float
    seed: int


@dataclass(frozen=True)
class Cancel:
    """Cancel the goal of that ticket."""

    ticket: int


@dataclass(frozen=True)
class Ask:
    """Ask the person at the terminal."""

    text: str


@dataclass(frozen=True)
class Say:
    """Tell the person."""

    text: str


Request: TypeAlias = Load | Reset | Recover | Goal | Cancel | Ask | Say

# What is answered.


@dataclass(frozen=True)
class Answer:
    """Of a service."""

    success: bool
    message: str
    episode: int = -1
    """Of a reset."""


@dataclass(frozen=True)
class Accepted:
    """The policy node has taken the goal, or not."""

    accepted: bool


@dataclass(frozen=True)
class Result:
    """The end of a run."""

    success: bool
    reason: str
    steps: int
    probability: float


Reply: TypeAlias = Answer | Accepted | Result
