"""What a data set says about a recording beside its arrays: source, episodes, annotations, statistics.

Each record turns into JSON and back: it is stored in the attributes of the recording's Zarr group.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

SourceKind: TypeAlias = Literal["bag", "calvin", "lerobot"]
Role: TypeAlias = Literal[
    "static_image", "gripper_image", "current_pose", "joint_states", "target_pose", "gripper_command"
]
LEFT_OUT = ("gap", "skew", "state", "command", "image", "rate")
"""Why a frame is not in the data set: alone between two gaps, no gripper image, no (sound) state, no command yet, image
unreadable, the camera ran at a rate that 7.5 Hz does not divide."""
EPISODE_ENDS = ("gap", "jump", "reset", "image", "rate", "clock", "end")
"""Why episodes end: lost frames, pose or command jumped, scene was reset, image size changed, camera's rate changed, a
clock was set, recording ended."""
REASONS = {
    "gap": "alone between two gaps",
    "skew": "no gripper image near enough",
    "state": "no (sound) robot state near enough",
    "command": "not commanded yet",
    "image": "image unreadable",
    "rate": "camera at a rate that 7.5 Hz does not divide",
}
"""Of LEFT_OUT, in words."""

HASH_DIGITS = 12
MOST_STRETCHES = 20
_SPANS, _NAMES = 3, 6
"""How many are named in a line."""


@dataclass(frozen=True)
class Source:
    """Where a recording comes from."""

    name: str
    """File or folder name, without its path."""
    kind: SourceKind
    hash: str
    """SHA-256 (hexadecimal) of the files' contents and of the options of reading them."""
    options: dict[str, str] = field(default_factory=dict)
    """How it was read: namespace, remapped topics, clock."""

    @property
    def recording_id(self) -> str:
        """Name of the recording's group: the source's name made safe, and the hash's first digits."""
        safe = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in self.name)
        return f"{safe}-{self.hash[:HASH_DIGITS]}"


@dataclass(frozen=True)
class Episode:
    """Frames ``start`` to ``start + length - 1``, each one step after the one before."""

    start: int
    length: int

    @property
    def end(self) -> int:
        """One past the last frame."""
        return self.start + self.length


@dataclass(frozen=True)
class Annotation:
    """A mark at one frame: the skill was done there, or an attempt at it ended without success."""

    frame: int
    skill: str
    success: bool
    note: str = ""


@dataclass(frozen=True)
class MarkLeftOut:
    """An annotation of the source that is in no episode."""

    at_s: float
    """From the beginning of the source, in recorded time."""
    skill: str
    reason: str


@dataclass(frozen=True)
class Stretch:
    """A stretch of a source of which no frame is in the data set."""

    from_s: float
    """From the beginning of the source, in recorded time."""
    to_s: float
    reason: str
    """One of LEFT_OUT."""


@dataclass(frozen=True)
class TopicReport:
    """How one topic arrived."""

    topic: str
    role: Role
    messages: int
    rate_hz: float
    """Of the stamps: one over their median distance."""
    expected_hz: float
    """The next of 7.5, 15, 30, 60, 120, 240 ... to ``rate_hz``; 0 for a topic on event."""
    dropped: int = 0
    """Messages that gaps between stamps leave room for at the expected rate."""
    late: int = 0
    """Messages that arrived more than 1.5 periods after their stamp, beyond the topic's usual delay."""
    duplicates: int = 0
    """Stamp equal to the one before; not used."""
    backwards: int = 0
    """Overtaken by a later stamp; put back in their place."""
    largest_gap_s: float = 0.0


@dataclass(frozen=True)
class Histogram:
    """``counts[i]`` values lie in ``[edges[i], edges[i + 1])``."""

    edges: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Statistics:
    """What the importer saw, for ``diwa inspect``."""

    duration_s: float = 0.0
    """Of the whole source, frames left out included."""
    topics: tuple[TopicReport, ...] = ()
    camera_skew_ms: Histogram = Histogram()
    """Gripper minus static camera's stamp, of the frames in the data set and those left out for it."""
    frames_left_out: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LEFT_OUT, 0))
    """By the words of LEFT_OUT, in frames at 7.5 Hz."""
    episode_ends: dict[str, int] = field(default_factory=lambda: dict.fromkeys(EPISODE_ENDS, 0))
    """By the words of EPISODE_ENDS."""
    steps: int = 0
    """Steps from one frame to the next; ``saturated`` counts some of them."""
    saturated: dict[str, int] = field(default_factory=lambda: {"translation": 0, "rotation": 0})
    """Steps with a component outside [-1, 1], which was clipped."""
    annotations_left_out: int = 0
    """Annotations that lie outside all episodes."""
    marks_left_out: tuple[MarkLeftOut, ...] = ()
    """Those of them whose time and reason are known."""
    stretches_left_out: tuple[Stretch, ...] = ()
    """The longest stretches without a frame, MOST_STRETCHES at most."""
    uneven_steps: int = 0
    """Steps that are a camera period longer or shorter than 1/7.5 s, where a neighbour stands in for a lost image."""
    topics_not_used: tuple[str, ...] = ()
    """Topics with messages that importing does not read."""
    warnings: tuple[str, ...] = ()

    def remarks(self) -> tuple[str, ...]:
        """A line for all that was left out, changed or not understood, with times and reasons."""
        lines = list(self.warnings)
        for reason, count in self.frames_left_out.items():
            if count:
                spans = [
                    f"{one.from_s:.1f} to {one.to_s:.1f} s" for one in self.stretches_left_out if one.reason == reason
                ]
                where = (
                    f", at {', '.join(spans[:_SPANS])}{' and elsewhere' if len(spans) > _SPANS else ''}"
                    if spans
                    else ""
                )
                lines.append(f"{count} frames left out: {REASONS.get(reason, reason)}{where}")
        lines += [f"annotation {one.skill} at {one.at_s:.1f} s left out: {one.reason}" for one in self.marks_left_out]
        unknown = self.annotations_left_out - len(self.marks_left_out)
        if unknown > 0:
            lines.append(f"{unknown} annotations left out: outside of all episodes")
        if self.uneven_steps:
            lines.append(
                f"{self.uneven_steps} of {self.steps} steps are one camera period longer or shorter than 1/7.5 s: an "
                "image was lost, and its neighbour stands in"
            )
        if self.topics_not_used:
            names = ", ".join(self.topics_not_used[:_NAMES])
            lines.append(
                f"{len(self.topics_not_used)} topics not read: {names}{', ...' * (len(self.topics_not_used) > _NAMES)}"
            )
        return tuple(lines)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Statistics:
        """Inverse of :meth:`to_json`."""
        known = dict(values)
        known["topics"] = tuple(TopicReport(**topic) for topic in known.get("topics", ()))
        skew = known.get("camera_skew_ms", {"edges": (), "counts": ()})
        known["camera_skew_ms"] = Histogram(tuple(skew["edges"]), tuple(skew["counts"]))
        known["marks_left_out"] = tuple(MarkLeftOut(**mark) for mark in known.get("marks_left_out", ()))
        known["stretches_left_out"] = tuple(Stretch(**one) for one in known.get("stretches_left_out", ()))
        known["topics_not_used"] = tuple(known.get("topics_not_used", ()))
        known["warnings"] = tuple(known.get("warnings", ()))
        return cls(**known)


def lineage_hash(parts: list[str]) -> str:
    """SHA-256 (hexadecimal) of the parts in their order."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part.encode())
    return digest.hexdigest()
