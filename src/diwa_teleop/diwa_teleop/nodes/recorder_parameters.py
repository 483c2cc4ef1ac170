"""The recorder's ROS parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from rclpy.node import Node

from diwa_conventions import topics
from diwa_conventions.bags.writer import Compression, Split
from diwa_conventions.errors import UserError
from diwa_conventions.parameters import declare
from diwa_teleop.recording.recording import Options

REQUIRED = (
    topics.STATIC_IMAGE,
    topics.GRIPPER_IMAGE,
    topics.CURRENT_POSE,
    topics.JOINT_STATES,
    topics.TARGET_POSE,
)
"""What a recording is of no use without."""

_COMPRESSIONS = ("none", "lz4", "zstd")
_LARGEST_BYTES = 2**50
_LONGEST_S = 1e6


@dataclass(frozen=True)
class RecorderParameters:
    """What the parameters say; each is described where it is declared."""

    bag: str
    folder: str
    autostart: bool
    duration_s: float
    required_topics: tuple[str, ...]
    extra_topics: tuple[str, ...]
    tags: tuple[str, ...]
    options: Options


def declare_parameters(node: Node) -> RecorderParameters:
    """UserError for a word that is not known; rclpy refuses other types and values out of bounds by name."""
    return RecorderParameters(
        bag=declare(node, "bag", "", "folder of the bag; empty: a new one in folder, named by date and time"),
        folder=declare(node, "folder", "bags", "where new bags go"),
        autostart=declare(node, "autostart", False, "record as soon as all required topics have come"),
        duration_s=declare(
            node, "duration_s", 0.0, "seconds to record, then a node with autostart ends; 0: endless", (0.0, _LONGEST_S)
        ),
        required_topics=_words(
            node,
            "required_topics",
            [topic.name for topic in REQUIRED],
            "with autostart, recording begins when a message of each has come",
        ),
        extra_topics=_words(node, "extra_topics", [""], "further topics to record, by their names"),
        tags=_words(node, "tags", [""], "words kept with the bag"),
        options=_options(node),
    )


def _options(node: Node) -> Options:
    compression = declare(node, "compression", "none", f"of the bag: {', '.join(_COMPRESSIONS)}")
    if compression not in _COMPRESSIONS:
        raise UserError(f"compression is {compression!r}; expected one of {', '.join(_COMPRESSIONS)}")
    split = Split(
        declare(node, "split_bytes", 0, "a new file begins at this size [B]; 0: never", (0, _LARGEST_BYTES)),
        declare(node, "split_s", 0.0, "a new file begins after so many seconds; 0: never", (0.0, _LONGEST_S)),
    )
    queue_bytes = declare(
        node,
        "queue_bytes",
        256 * 2**20,
        "messages that wait for the disk [B]; more are dropped and counted",
        (2**20, _LARGEST_BYTES),
    )
    min_free_bytes = declare(
        node, "min_free_bytes", 500_000_000, "recording stops when the disk has less left [B]", (0, _LARGEST_BYTES)
    )
    return Options(cast(Compression, compression), split, queue_bytes, min_free_bytes)


def _words(node: Node, name: str, default: list[str], about: str) -> tuple[str, ...]:
    # rclpy cannot tell the type of an empty list: an empty word stands for none.
    return tuple(word for word in declare(node, name, default, about) if word)
