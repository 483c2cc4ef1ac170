"""Bookkeeping of one attempt at a task, fed with messages and the moments of their arrival. No ROS."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field

from diwa_conventions.actions import RECORD_RATE_HZ

LATE_FACTOR = 2.0
"""An episode may take this many times its nominal time: a busy machine simulates slowly."""


@dataclass
class Arrivals:
    """Messages of one topic."""

    count: int = 0
    first_s: float = 0.0
    last_s: float = 0.0

    def add(self, now_s: float) -> None:
        if self.count == 0:
            self.first_s = now_s
        self.last_s = now_s
        self.count += 1

    @property
    def rate_hz(self) -> float:
        """Mean rate from the first to the last; 0 for fewer than two."""
        return (self.count - 1) / (self.last_s - self.first_s) if self.count > 1 else 0.0


@dataclass(frozen=True)
class ImageCount:
    """Images of one topic, for the report."""

    topic: str
    received: int
    rate_hz: float


@dataclass(frozen=True)
class Report:
    """How an attempt went."""

    task: str
    success: bool
    seconds: float
    """Of the playroom's time, from the start of the last episode to success or to the end."""
    why: str
    images: tuple[ImageCount, ...]

    @classmethod
    def from_json(cls, text: str) -> Report:
        fields = json.loads(text)
        return cls(**{**fields, "images": tuple(ImageCount(**image) for image in fields["images"])})


@dataclass
class Attempt:
    """Is ``task`` done within ``frames`` states of one episode? Starting up may take ``startup_s``."""

    task: str
    frames: int
    startup_s: float
    began_s: float
    images: dict[str, Arrivals] = field(default_factory=dict)
    success: bool = False
    seen: int = 0
    """States of the running episode."""
    episode: int = -1
    was_reset: bool = False
    """The operator has begun an episode; the one before may have run for long while the operator started."""
    first_state_s: float | None = None
    success_s: float | None = None

    def scene(self, task: str, success: bool, episode: int, now_s: float) -> None:
        """A scene state has arrived; those of other tasks count for nothing."""
        if task != self.task or self.success:
            return
        if self.first_state_s is None:
            self.first_state_s = now_s
        if episode != self.episode:
            self.was_reset = self.episode >= 0
            self.episode, self.seen = episode, 0
        self.seen += 1
        if success and self.seen <= self.frames:
            self.success, self.success_s = True, now_s

    def image(self, topic: str, now_s: float) -> None:
        self.images.setdefault(topic, Arrivals()).add(now_s)

    def over(self, now_s: float, linger_s: float = 0.0) -> bool:
        """Done for ``linger_s``, or out of time."""
        if self.success_s is not None:
            return now_s - self.success_s >= linger_s
        if self.was_reset and self.seen > self.frames:
            return True
        return now_s - self.began_s >= self._limit_s()

    def _limit_s(self) -> float:
        """From the beginning: start-up alone until the first state, then the time of an episode on top."""
        if self.first_state_s is None:
            return self.startup_s
        return self.startup_s + LATE_FACTOR * self.frames / RECORD_RATE_HZ

    def report(self) -> Report:
        why = "done" if self.success else f"not done within {self.frames} frames"
        if self.first_state_s is None:
            why = f"no scene_state with task {self.task} within {self.startup_s:g} s"
        images = tuple(ImageCount(name, a.count, round(a.rate_hz, 2)) for name, a in sorted(self.images.items()))
        return Report(self.task, self.success, round(self.seen / RECORD_RATE_HZ, 2), why, images)

    def report_json(self) -> str:
        return json.dumps(dataclasses.asdict(self.report()), indent=1)
