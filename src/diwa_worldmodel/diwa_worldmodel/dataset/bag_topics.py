"""Finds the topics that importing needs in a bag, under any namespace or by the names that the user gives."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from diwa_conventions import topics
from diwa_conventions.bags.definitions import full_name
from diwa_conventions.bags.reader import Bag, BagTopic
from diwa_conventions.errors import UserError, unknown
from diwa_conventions.images import ENCODINGS
from diwa_worldmodel.dataset.plausible import GripperOptions
from diwa_worldmodel.dataset.records import Role

COMPRESSED = "/compressed"
"""What image_transport adds to the name of a topic with compressed images."""
COMPRESSED_TYPE = "sensor_msgs/msg/CompressedImage"

ROLES: Mapping[Role, topics.Topic] = {
    "static_image": topics.STATIC_IMAGE,
    "gripper_image": topics.GRIPPER_IMAGE,
    "current_pose": topics.CURRENT_POSE,
    "joint_states": topics.JOINT_STATES,
    "target_pose": topics.TARGET_POSE,
    "gripper_command": topics.GRIPPER_COMMAND,
}
"""Every recording must have these."""
EXTRAS = (topics.SCENE_STATE, topics.ANNOTATION)
"""These are used if they are there."""

Clock = Literal["stamp", "log"]
QuaternionOrder = Literal["xyzw", "wxyz"]


@dataclass(frozen=True)
class BagOptions:
    """How to read bags whose topics have other names or whose stamps are of no use."""

    namespace: str = ""
    """Of the topics to read; empty: whichever there is."""
    remap: Mapping[str, str] = field(default_factory=dict)
    """From our name (``static_camera/image_raw``) to the bag's (``/camera/color/image_raw``)."""
    clock: Clock = "stamp"
    """``log``: align by the times of arrival instead of the stamps."""
    encoding: Mapping[str, str] = field(default_factory=dict)
    """From our name of an image topic to what its 8UC1, 8UC3 or 8UC4 holds, e.g. ``bgr8``."""
    gripper: GripperOptions = GripperOptions()
    width_scale: float = 1.0
    """Positions of the finger joints times this are metres."""
    position_scale: float = 1.0
    """Positions of poses times this are metres."""
    quaternion: QuaternionOrder = "xyzw"
    """What the fields x, y, z, w of the poses hold; ``wxyz`` for a driver that fills them in that order."""

    def __post_init__(self) -> None:
        names = [topic.name for topic in (*ROLES.values(), *EXTRAS)]
        for name in self.remap:
            if name not in names:
                raise unknown("topic to remap", name, names)
        images = [ROLES["static_image"].name, ROLES["gripper_image"].name]
        for name, encoding in self.encoding.items():
            if name not in images:
                raise unknown("image topic", name, images)
            if encoding not in ENCODINGS:
                raise unknown("image encoding", encoding, ENCODINGS)
        for name in ("width_scale", "position_scale"):
            scale = getattr(self, name)
            if not (math.isfinite(scale) and scale > 0.0):
                raise UserError(f"{name} is {scale!r}; expected a number above 0")
        if self.quaternion not in get_args(QuaternionOrder):
            raise unknown("order of quaternions", self.quaternion, get_args(QuaternionOrder))
        if self.clock not in get_args(Clock):
            raise unknown("clock", self.clock, get_args(Clock))

    def to_json(self) -> dict[str, str]:
        """Those that are not the default."""
        options = {f"remap {name}": value for name, value in sorted(self.remap.items())}
        if self.namespace:
            options["namespace"] = self.namespace
        options |= self.gripper.to_json()
        for name, default in (("width_scale", 1.0), ("position_scale", 1.0), ("quaternion", "xyzw")):
            if getattr(self, name) != default:
                options[name] = str(getattr(self, name))
        options |= {f"encoding {name}": value for name, value in sorted(self.encoding.items())}
        if self.clock != "stamp":
            options["clock"] = self.clock
        return options


@dataclass(frozen=True)
class BagTopics:
    """The bag's topic for each role; scene state and annotations may be missing."""

    roles: Mapping[Role, BagTopic]
    scene_state: BagTopic | None
    annotation: BagTopic | None
    encoding: Mapping[str, str] = field(default_factory=dict)
    """BagOptions.encoding."""
    complaints: tuple[str, ...] = ()
    """About topics that could not be used and are not needed."""

    def names(self) -> list[str]:
        extras = (self.scene_state, self.annotation)
        return [topic.name for topic in (*self.roles.values(), *extras) if topic is not None]

    def colours(self, role: Role) -> str:
        """What the user says that the images of a role hold; empty: nothing."""
        return self.encoding.get(ROLES[role].name, "")

    def not_used(self, bag: Bag) -> tuple[str, ...]:
        """Topics of the bag that hold messages and are not read."""
        used = self.names()
        return tuple(sorted(topic.name for topic in bag.topics.values() if topic.messages and topic.name not in used))


def find_topics(bag: Bag, options: BagOptions) -> BagTopics:
    """UserError that names what the bag has, and the option that helps, for a topic that is missing or not clear."""
    roles: dict[Role, BagTopic] = {}
    missing = []
    for role, topic in ROLES.items():
        found = _find(bag, topic, options)
        if found is None or not found.messages:
            missing.append(topic.name)
        else:
            roles[role] = found
    if missing:
        raise UserError(_missing(bag, missing, options))
    _check_apart(bag, roles)
    complaints: list[str] = []
    scene_state, annotation = (_find_extra(bag, topic, options, complaints) for topic in EXTRAS)
    return BagTopics(roles, scene_state, annotation, options.encoding, tuple(complaints))


def _find_extra(bag: Bag, topic: topics.Topic, options: BagOptions, complaints: list[str]) -> BagTopic | None:
    """A topic that a bag may lack: what cannot be used costs nothing else, unless the user named it."""
    try:
        found = _find(bag, topic, options)
    except UserError as error:
        if topic.name in options.remap:
            raise
        complaints.append(f"{topic.name} is not read: {error}")
        return None
    return found if found and found.messages else None


def _check_apart(bag: Bag, roles: Mapping[Role, BagTopic]) -> None:
    """UserError if two of our topics are the same one of the bag."""
    taken: dict[str, str] = {}
    for role, topic in roles.items():
        ours = ROLES[role].name
        if topic.name in taken:
            raise UserError(
                f"{bag.path}: {topic.name} would be both {taken[topic.name]} and {ours}; give each its own with: "
                f"--remap {ours}=/its/name"
            )
        taken[topic.name] = ours


def _missing(bag: Bag, missing: Iterable[str], options: BagOptions) -> str:
    names = ", ".join(missing)
    where = f" in namespace {options.namespace}" if options.namespace else ""
    found = ", ".join(f"{topic.name} ({topic.messages})" for topic in bag.topics.values()) or "no topics"
    return (
        f"{bag.path} has no messages on {names}{where}; it has {found}; name the topics to use with: "
        f"--remap {next(iter(missing))}=/its/name"
    )


def _find(bag: Bag, topic: topics.Topic, options: BagOptions) -> BagTopic | None:
    """The one topic of the bag for one of ours; UserError if there are several or it has the wrong type."""
    if topic.name in options.remap:
        return _checked(_named(bag, topic, options.remap[topic.name]), topic)
    names = [topic.name, topic.name + COMPRESSED] if topic.type.endswith("/Image") else [topic.name]
    for name in names:
        found = _candidates(bag, name, options.namespace)
        with_messages = [candidate for candidate in found if candidate.messages]
        if len(with_messages) > 1:
            choices = ", ".join(candidate.name for candidate in with_messages)
            raise UserError(
                f"{bag.path} has several topics for {name}: {choices}; "
                f"choose with --namespace NAME or --remap {name}=NAME"
            )
        if with_messages or (found and name == names[-1]):
            return _checked((with_messages or found)[0], topic)
    return None


def _candidates(bag: Bag, name: str, namespace: str) -> list[BagTopic]:
    if namespace:
        wanted = full_name(name, namespace)
        return [topic for topic in bag.topics.values() if topic.name == wanted]
    return [topic for topic in bag.topics.values() if topic.name.endswith(f"/{name}")]


def _named(bag: Bag, topic: topics.Topic, name: str) -> BagTopic:
    if name not in bag.topics:
        raise unknown(f"topic for {topic.name} in {bag.path}:", name, bag.topics)
    return bag.topics[name]


def _checked(found: BagTopic, topic: topics.Topic) -> BagTopic:
    allowed = [topic.type, COMPRESSED_TYPE] if topic.type.endswith("/Image") else [topic.type]
    if found.type not in allowed:
        raise UserError(f"{found.name} is of type {found.type or 'unknown'}; expected {' or '.join(allowed)}")
    return found
