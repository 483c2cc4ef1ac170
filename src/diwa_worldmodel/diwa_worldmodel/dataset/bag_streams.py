"""First pass over a part of a bag: stamps and numbers of all topics that make frames, but no pixels."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from diwa_conventions.actions import FloatArray, Pose, matrix_to_euler
from diwa_conventions.bags.reader import Bag, RawMessage
from diwa_conventions.errors import UserError
from diwa_conventions.topics import FINGER_JOINTS
from diwa_worldmodel.dataset import cdr
from diwa_worldmodel.dataset.bag_topics import COMPRESSED_TYPE, BagOptions, BagTopics
from diwa_worldmodel.dataset.records import Role, TopicReport
from diwa_worldmodel.dataset.stamps import IntArray, Ordered, check_clocks, order
from diwa_worldmodel.dataset.timeline import Images, Numbers, Poses, Streams

SCENE_STATE_NAMES = (
    "slider_m",
    "drawer_m",
    "button_m",
    "switch_m",
    "lightbulb",
    "led",
    "cube_x_m",
    "cube_y_m",
    "cube_z_m",
    "cube_roll_rad",
    "cube_pitch_rad",
    "cube_yaw_rad",
)
"""Of the playroom, in the order of CALVIN's ``scene_obs``."""

_Read = Callable[[bytes, int], "tuple[float, ...]"]


class Row(NamedTuple):
    """One message of a column."""

    stamp_ns: int
    log_ns: int
    values: tuple[float, ...]


class Column:
    """Stamp, time of arrival and a few numbers of each message of one topic, as they arrive."""

    def __init__(self, topic: str, width: int, read: _Read) -> None:
        self.topic = topic
        self._width = width
        self.read = read
        self._stamps, self._log, self._values = array("q"), array("q"), array("d")
        self.unreadable = 0
        """Messages without a readable header."""
        self.without_values = 0
        """Messages without what is looked for."""

    def add(self, message: RawMessage) -> None:
        try:
            stamp, offset = cdr.header(message.data)
        except (struct.error, ValueError):
            self.unreadable += 1
            return
        try:
            values = self.read(message.data, offset)
        except (struct.error, ValueError):
            values = (np.nan,) * self._width
        if values:
            self.append(Row(stamp, message.log_ns, values))
        else:
            self.without_values += 1

    def append(self, row: Row) -> None:
        self._stamps.append(row.stamp_ns)
        self._log.append(row.log_ns)
        self._values.extend(row.values)

    def last(self) -> Row | None:
        """The message that arrived last."""
        if not self._stamps:
            return None
        return Row(self._stamps[-1], self._log[-1], tuple(self._values[-self._width :]))

    def times(self) -> tuple[IntArray, IntArray]:
        """Stamps and times of arrival, each (N,) [ns]."""
        return np.array(self._stamps, dtype=np.int64), np.array(self._log, dtype=np.int64)

    def values(self, kept: IntArray) -> FloatArray:
        """(K, width) of these messages."""
        return np.frombuffer(self._values, dtype=np.float64).reshape(-1, self._width)[kept]


class ImageReader:
    """Says whether an image is readable, by a number for its size or NaN, without touching its pixels."""

    def __init__(self, compressed: bool) -> None:
        self._fields = cdr.compressed_fields if compressed else cdr.image_fields
        self.refused = 0
        self.complaint = ""
        """About the first one refused."""

    def __call__(self, data: bytes, offset: int) -> tuple[float, ...]:
        try:
            fields = self._fields(data, offset)
            cdr.check_image(fields)
        except (struct.error, ValueError) as error:
            self.complaint = self.complaint or str(error)
            self.refused += 1
            return (np.nan,)
        return (fields.height * 65536.0 + fields.width,)


@dataclass(frozen=True)
class Mark:
    """An annotation before it has found its frame."""

    stamp_ns: int
    skill: str
    success: bool
    note: str


@dataclass(frozen=True)
class BagStreams:
    """What the first pass found."""

    streams: Streams
    ordered: dict[Role, Ordered]
    scene_state: FloatArray | None
    """(N, 12) by SCENE_STATE_NAMES, for the N usable messages of that topic; None if the bag has no such topic."""
    marks: tuple[Mark, ...]
    warnings: tuple[str, ...]
    last_commands: dict[Role, Row]
    """In force at the end of the part."""

    @property
    def reports(self) -> tuple[TopicReport, ...]:
        return tuple(topic.report for topic in self.ordered.values())


_COMMANDS: tuple[Role, ...] = ("target_pose", "gripper_command")
_WIDTHS: dict[Role, int] = {
    "static_image": 1,
    "gripper_image": 1,
    "current_pose": 7,
    "joint_states": 1,
    "target_pose": 7,
    "gripper_command": 1,
}


@dataclass(frozen=True)
class Part:
    """A stretch of a bag, by the times of arrival, and what was in force before it."""

    begin_ns: int
    end_ns: int
    """One past the last."""
    commands: Mapping[Role, Row] = field(default_factory=dict)


def read_streams(
    bag: Bag, part: Part, topics: BagTopics, options: BagOptions, progress: Callable[[RawMessage], None]
) -> BagStreams:
    """UserError for clocks that differ or were set back, and for joint states without fingers."""
    columns = {
        role: Column(topic.name, _WIDTHS[role], _reader(role, topic.type)) for role, topic in topics.roles.items()
    }
    for role, row in part.commands.items():
        columns[role].append(row)
    by_name = {column.topic: column for column in columns.values()}
    scene: list[tuple[int, int, list[float]]] = []
    marks: list[Mark] = []
    unsound = 0
    scene_name = topics.scene_state.name if topics.scene_state else None
    for message in bag.messages(topics.names(), part.begin_ns, part.end_ns):
        progress(message)
        column = by_name.get(message.topic)
        if column is not None:
            column.add(message)
        elif message.topic == scene_name:
            found = _scene_row(bag.decode(message), message.log_ns)
            scene += [found] if found else []
            unsound += not found
        else:
            marks.append(_mark(bag.decode(message), message.log_ns, options))
    by_log = options.clock == "log"
    scene_states = _Scene(scene_name, scene, by_log)
    resets = scene_states.resets_ns()
    ordered = {role: order(column.topic, role, *column.times(), by_log, resets) for role, column in columns.items()}
    _check_found(columns, ordered)
    clocks = {topic.report.topic: topic for topic in [*ordered.values(), scene_states.ordered]}
    check_clocks(clocks, ordered["static_image"].report.topic)
    warnings = [line for topic in ordered.values() for line in topic.warnings]
    warnings += [line for column in columns.values() for line in _complaints(column)]
    if unsound:
        warnings.append(f"{scene_name}: {unsound} messages hold a number that is not finite and were left out")
    streams = _streams(columns, ordered, scene_states.episode)
    commands = {role: last for role in _COMMANDS if (last := columns[role].last()) is not None}
    return BagStreams(streams, ordered, scene_states.values, tuple(marks), tuple(warnings), commands)


def _reader(role: Role, kind: str) -> _Read:
    if role in ("static_image", "gripper_image"):
        return ImageReader(kind == COMPRESSED_TYPE)
    if role == "joint_states":
        return cdr.FingerWidth()
    return cdr.gripper_command if role == "gripper_command" else cdr.pose


def _check_found(columns: dict[Role, Column], ordered: dict[Role, Ordered]) -> None:
    """UserError for a topic all of whose messages are of no use."""
    for role, column in columns.items():
        if len(ordered[role].stamps_ns):
            continue
        if column.without_values:
            raise UserError(
                f"{column.topic} names no finger joints; expected {' and '.join(FINGER_JOINTS)}: "
                "use the gripper's topic with --remap joint_states=/its/name"
            )
        if column.unreadable:
            raise UserError(f"{column.topic} has no readable message; was it recorded with other definitions?")


def _complaints(column: Column) -> list[str]:
    found = []
    if column.unreadable:
        found.append(f"{column.topic}: {column.unreadable} messages cannot be read")
    if isinstance(column.read, ImageReader) and column.read.refused:
        found.append(f"{column.topic}: {column.read.refused} images cannot be read ({column.read.complaint})")
    return found


def _streams(columns: dict[Role, Column], ordered: dict[Role, Ordered], episode: Numbers | None) -> Streams:
    def images(role: Role) -> Images:
        sizes = columns[role].values(ordered[role].kept)[:, 0]
        usable = np.isfinite(sizes)
        return Images(ordered[role].stamps_ns, usable, np.where(usable, sizes, -1.0).astype(np.int64))

    def poses(role: Role) -> Poses:
        return Poses(ordered[role].stamps_ns, columns[role].values(ordered[role].kept))

    def numbers(role: Role) -> Numbers:
        return Numbers(ordered[role].stamps_ns, columns[role].values(ordered[role].kept)[:, 0])

    return Streams(
        static=images("static_image"),
        gripper=images("gripper_image"),
        pose=poses("current_pose"),
        width=numbers("joint_states"),
        target=poses("target_pose"),
        gripper_command=numbers("gripper_command"),
        scene_episode=episode,
    )


def stamp_of(message: Any) -> int:
    """Of a decoded message's header [ns]."""
    return int(message.header.stamp.sec) * 1_000_000_000 + int(message.header.stamp.nanosec)


def _scene_row(message: Any, log_ns: int) -> tuple[int, int, list[float]] | None:
    """Stamp, time of arrival and (13,) of a SceneState: its 12 numbers and the episode. None if one is not finite."""
    place, turn = message.cube.position, message.cube.orientation
    quaternion = np.array([turn.x, turn.y, turn.z, turn.w])
    joints = [message.slider_m, message.drawer_m, message.button_m, message.switch_m]
    numbers = [*joints, message.lightbulb, message.led, place.x, place.y, place.z]
    if not np.isfinite([*numbers, *quaternion]).all() or not quaternion.any():
        return None
    angles = matrix_to_euler(Pose.from_quaternion(np.zeros(3), quaternion).rotation)
    return stamp_of(message), log_ns, [*map(float, numbers), *angles.tolist(), float(message.episode)]


class _Scene:
    """The usable scene states in order; None if the bag has no such topic."""

    def __init__(self, topic: str | None, rows: list[tuple[int, int, list[float]]], by_log: bool) -> None:
        stamps = np.array([stamp for stamp, _, _ in rows], dtype=np.int64)
        arrivals = np.array([arrival for _, arrival, _ in rows], dtype=np.int64)
        # Its report is not kept: a real scene has no such topic.
        self.ordered = order(topic or "", "current_pose", stamps, arrivals, by_log)
        self.episode: Numbers | None = None
        self.values: FloatArray | None = None
        """(N, 12)."""
        if topic is not None:
            values = np.array([row for _, _, row in rows]).reshape(len(rows), len(SCENE_STATE_NAMES) + 1)
            values = values[self.ordered.kept]
            self.episode, self.values = Numbers(self.ordered.stamps_ns, values[:, -1]), values[:, :-1]

    def resets_ns(self) -> IntArray:
        """(R, 2): the last stamp of each episode and the first of the next."""
        if self.episode is None:
            return np.empty((0, 2), dtype=np.int64)
        last = np.flatnonzero(np.diff(self.episode.values))
        return np.stack([self.episode.stamps_ns[last], self.episode.stamps_ns[last + 1]], axis=1)


def _mark(message: Any, log_ns: int, options: BagOptions) -> Mark:
    stamp = stamp_of(message)
    at = log_ns if options.clock == "log" or not stamp else stamp
    return Mark(at, str(message.skill), bool(message.success), str(message.note))
