"""``metadata.yaml`` of a bag, as the rosbag2 of the running ROS 2 release reads it (``ros2 bag info`` and ``play``).

Jazzy and later read version 9; Humble's rosbag2 reads version 5, with the quality of service as text and in the numbers
of rmw's enumerations (rosbag2, metadata_io.cpp and qos.cpp of both releases).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from diwa_conventions.bags.definitions import Connection
from diwa_conventions.errors import UserError

METADATA = "metadata.yaml"
VERSION, HUMBLES_VERSION = 9, 5
CUSTOM_NOTE = "custom_data"
"""The note in each MCAP file that repeats metadata.yaml's custom data, for metadata.yaml comes only at the end."""
_ROOT = "rosbag2_bagfile_information"
_NUMBERS = {"keep_last": 1, "reliable": 1, "best_effort": 2, "volatile": 2, "automatic": 1}
"""Of rmw's enumerations."""


@dataclass
class FileSummary:
    """One MCAP file of a bag, as metadata.yaml lists it."""

    name: str
    first_ns: int = 0
    last_ns: int = 0
    messages: int = 0

    def add(self, stamp_ns: int) -> None:
        self.first_ns = min(self.first_ns, stamp_ns) if self.messages else stamp_ns
        self.last_ns = max(self.last_ns, stamp_ns) if self.messages else stamp_ns
        self.messages += 1


@dataclass(frozen=True)
class TopicSummary:
    """One topic of a bag, as metadata.yaml lists it."""

    topic: str
    type: str
    type_hash: str
    qos: Sequence[Mapping[str, object]]
    messages: int


def summary_of(connection: Connection, messages: int) -> TopicSummary:
    return TopicSummary(connection.topic, connection.type, connection.type_hash, qos_profiles(connection), messages)


def bag_span(files: Sequence[FileSummary]) -> tuple[int, int]:
    """Start and duration [ns] of a bag's files; zeros if they hold nothing."""
    full = [file for file in files if file.messages]
    if not full:
        return 0, 0
    start = min(file.first_ns for file in full)
    return start, max(file.last_ns for file in full) - start


def write_metadata(
    folder: Path, files: Sequence[FileSummary], topics: Sequence[TopicSummary], custom: Mapping[str, str]
) -> None:
    """In one step: there is a whole one or none."""
    start, duration = bag_span(files)
    version = metadata_version()
    information = {
        "version": version,
        "storage_identifier": "mcap",
        "duration": {"nanoseconds": duration},
        "starting_time": {"nanoseconds_since_epoch": start},
        "message_count": sum(file.messages for file in files),
        "topics_with_message_count": [
            {"topic_metadata": _topic_metadata(topic, version), "message_count": topic.messages} for topic in topics
        ],
        "compression_format": "",
        "compression_mode": "",
        "relative_file_paths": [file.name for file in files],
        "files": [
            {
                "path": file.name,
                "starting_time": {"nanoseconds_since_epoch": file.first_ns},
                "duration": {"nanoseconds": file.last_ns - file.first_ns},
                "message_count": file.messages,
            }
            for file in files
        ],
        "custom_data": dict(custom) or None,
        "ros_distro": os.environ.get("ROS_DISTRO", "kilted"),
    }
    new = folder / f"{METADATA}.new"
    new.write_text(yaml.safe_dump({_ROOT: information}, sort_keys=False), encoding="utf-8")
    os.replace(new, folder / METADATA)


def read_metadata(folder: Path) -> Mapping[str, Any] | None:
    """What metadata.yaml says, None if there is none; UserError if it cannot be read or names no files."""
    path = folder / METADATA
    if not path.exists():
        return None
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))[_ROOT]
        if not all(isinstance(name, str) for name in content["relative_file_paths"]):
            raise TypeError("relative_file_paths holds something else than names")
    except (yaml.YAMLError, KeyError, TypeError, ValueError, OSError) as error:
        words = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read ({words}); run: diwa bag repair {folder}") from error
    return dict(content)


def metadata_version() -> int:
    """The version that the running release's rosbag2 reads; without ROS the newest."""
    return HUMBLES_VERSION if os.environ.get("ROS_DISTRO") == "humble" else VERSION


def _topic_metadata(topic: TopicSummary, version: int) -> dict[str, object]:
    if version == HUMBLES_VERSION:
        text = str(yaml.safe_dump(deepcopy(list(topic.qos)), sort_keys=False)) if topic.qos else ""
        return {
            "name": topic.topic,
            "type": topic.type,
            "serialization_format": "cdr",
            "offered_qos_profiles": text,
        }
    return {
        "name": topic.topic,
        "type": topic.type,
        "serialization_format": "cdr",
        "offered_qos_profiles": deepcopy(list(topic.qos)),
        "type_description_hash": topic.type_hash,
    }


def qos_profiles(connection: Connection) -> list[Mapping[str, object]]:
    """What the publishers offered."""
    # rmw's value for "no limit"; copied, for YAML would refer to a second use by an anchor
    for_ever = {"sec": 9223372036, "nsec": 854775807}
    words = {"history": "keep_last", "durability": "volatile", "liveliness": "automatic"}
    words["reliability"] = "reliable" if connection.reliable else "best_effort"
    policies: Mapping[str, object] = words
    if metadata_version() == HUMBLES_VERSION:
        policies = {name: _NUMBERS[word] for name, word in words.items()}
    return [
        {
            "history": policies["history"],
            "depth": connection.depth,
            "reliability": policies["reliability"],
            "durability": policies["durability"],
            "deadline": dict(for_ever),
            "lifespan": dict(for_ever),
            "liveliness": policies["liveliness"],
            "liveliness_lease_duration": dict(for_ever),
            "avoid_ros_namespace_conventions": False,
        }
    ]


def qos_text(connection: Connection) -> str:
    """The same as a channel of an MCAP file carries it."""
    return str(yaml.safe_dump(qos_profiles(connection), sort_keys=False))
