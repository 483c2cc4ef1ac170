"""The limits of :mod:`verdicts`."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from diwa_conventions.errors import UserError


@dataclass(frozen=True)
class Thresholds:
    """A value beyond a limit is worth a warning, or bad. Shares are from 0 to 1."""

    dropped_warn: float = 0.01
    """Of a camera's frames. At 1%, lost singly, 39% of the training sequences of 50 steps (Table S.2) hold a frame from
    another moment than the rest, 1 - 0.99^50; lost together they end an episode."""
    dropped_bad: float = 0.05
    late_warn: float = 0.02
    """Of a camera's frames: they are aligned by their stamps all the same, but the recording machine is overloaded."""
    disordered_warn: float = 0.01
    """Of a topic's messages with a stamp seen before, or overtaken: a sign of two publishers or a full network."""
    camera_rate_off: float = 0.05
    """How far a camera's rate may be from a multiple of 7.5 Hz, as a share of it: at 30 Hz every fourth frame is a step
    (paper S.3.2), at 25 Hz steps would come unevenly."""
    skew_warn_ms: float = 10.0
    """95th percentile. At 0.6 m/s, the full speed of an action, the tool moves 6 mm in 10 ms."""
    skew_bad_ms: float = 20.0
    """More than half a frame at 30 Hz: the importer's default limit, beyond which frames are left out."""
    left_out_warn: float = 0.05
    """Of all frames, for any reason but that the arm was not commanded yet."""
    left_out_bad: float = 0.20
    saturated_warn: float = 0.05
    """Of the steps: their action says less than what was done, and the world model learns a wrong effect."""
    still_warn: float = 0.30
    """Of the steps: the world model spends that share of its training on nothing, and policies learn to wait."""
    little_min: float = 10.0
    """Minutes of usable play. The paper used four hours (method.md 22); this is enough to try the pipeline only."""
    short_warn: float = 0.10
    """Of the frames that lie in episodes shorter than 4 s; training sequences are 50 frames, 6.7 s (Table S.2)."""
    coverage_litres: float = 5.0
    """Space that the tool visited, in cubes of 5 cm (40 of them). Half a minute of a person's play in CALVIN visits
    10 l, 80 s of the scripted operator's 25 l. Where the tool has never been, the world model dreams nonsense."""
    gripper_events_min: float = 1.0
    """Closings and openings per minute; people's play in CALVIN and scripted play make about eleven."""
    successes_min: int = 20
    """Per skill: ten demonstrations measured too few for a classifier, the paper used 50."""
    blank_warn: float = 0.001
    """Of a camera's frames."""
    blank_bad: float = 0.02
    dark_warn: float = 0.05
    """Of a camera's frames."""
    frozen_warn: float = 0.01
    """Of the steps in which the tool moved."""
    frozen_bad: float = 0.10
    same_bad: float = 0.5
    """Of the frames on which both cameras show something: both topics carry one camera."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= 0):
                raise UserError(f"Thresholds.{item.name} is {value!r}; expected a finite number from 0")
