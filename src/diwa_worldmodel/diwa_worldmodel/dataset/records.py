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
LEFT_OUT = ("gap", "skew", "state", "command", "image")
"""Why a frame is not in the data set: alone between two gaps, no gripper image, no (sound) state, no command yet, image
unreadable."""
EPISODE_ENDS = ("gap", "jump", "reset", "image", "end")
"""Why episodes end: lost frames, pose or command jumped, scene was reset, image size changed, recording ended."""

HASH_DIGITS = 12


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
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Statistics:
        """Inverse of :meth:`to_json`."""
        known = dict(values)
        known["topics"] = tuple(TopicReport(**topic) for topic in known.get("topics", ()))
        skew = known.get("camera_skew_ms", {"edges": (), "counts": ()})
        known["camera_skew_ms"] = Histogram(tuple(skew["edges"]), tuple(skew["counts"]))
        known["warnings"] = tuple(known.get("warnings", ()))
        return cls(**known)


def lineage_hash(parts: list[str]) -> str:
    """SHA-256 (hexadecimal) of the parts in their order."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part.encode())
    return digest.hexdigest()
