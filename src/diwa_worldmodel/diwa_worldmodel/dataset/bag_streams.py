"""First pass over a part of a bag: stamps and numbers of all topics that make frames, but no pixels."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from diwa_conventions.actions import FloatArray, Pose, matrix_to_euler
from diwa_conventions.bags.reader import Bag, RawMessage
from diwa_conventions.errors import UserError
from diwa_conventions.topics import FINGER_JOINTS
from diwa_worldmodel.dataset import cdr, message_fields, plausible
from diwa_worldmodel.dataset.bag_topics import COMPRESSED_TYPE, BagOptions, BagTopics
from diwa_worldmodel.dataset.clock_steps import Clock, IntArray, LogStep, log_step_of
from diwa_worldmodel.dataset.message_fields import FieldReader, Image
from diwa_worldmodel.dataset.message_fields import Numbers as Numeric
from diwa_worldmodel.dataset.records import Role, TopicReport
from diwa_worldmodel.dataset.stamps import Ordered, check_clocks, order
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


class Row(NamedTuple):
    """One message of a column."""

    stamp_ns: int
    log_ns: int
    values: Numeric


class Column:
    """Stamp, time of arrival and a few numbers of each message of one topic, in the order of the recording."""

    def __init__(self, topic: str, width: int, read: FieldReader[Any], numbers: Callable[[Any], Numeric]) -> None:
        self.topic = topic
        self.read = read
        self._width, self._numbers = width, numbers
        self._stamps, self._log, self._values = array("q"), array("q"), array("d")
        self.unreadable = 0
        """Messages without a readable header."""
        self.without_values = 0
        """Messages without what is looked for."""

    def add(self, message: RawMessage) -> None:
        found = self.read(message)
        if found is None:
            self.unreadable += 1
            return
        stamp, value = found
        values = (np.nan,) * self._width if value is None else self._numbers(value)
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


def _image_column(topic: str, read: FieldReader[Image]) -> Column:
    """Whether an image is readable, by a number for its size or NaN, without touching its pixels."""

    def size(image: Image) -> Numeric:
        try:
            cdr.check_image(image.fields)
        except ValueError as error:
            read.refuse(error)
            return (np.nan,)
        return (image.fields.height * 65536.0 + image.fields.width,)

    return Column(topic, 1, read, size)


def image_reader(bag: Bag, topic_type: str, colours: str) -> FieldReader[Image]:
    """Reads the images of a topic of this type; ``colours`` as of :func:`message_fields.raw_images`."""
    compressed = topic_type == COMPRESSED_TYPE
    return message_fields.compressed_images(bag) if compressed else message_fields.raw_images(bag, colours)


@dataclass(frozen=True)
class Mark:
    """An annotation before it has found its frame."""

    stamp_ns: int
    log_ns: int
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
    end: PartEnd
    gripper_commands: FloatArray
    """(N,) as they were recorded, those that can be used."""

    @property
    def reports(self) -> tuple[TopicReport, ...]:
        return tuple(topic.report for topic in self.ordered.values())


_COMMANDS: tuple[Role, ...] = ("target_pose", "gripper_command")


@dataclass(frozen=True)
class PartEnd:
    """What a part of a bag leaves to the next one."""

    commands: Mapping[Role, Row] = field(default_factory=dict)
    """In force."""
    clocks: Mapping[str, Clock | None] = field(default_factory=dict)
    """By topic."""


@dataclass(frozen=True)
class Part:
    """A stretch of a bag, in which the recorder's clock makes no step, and what was there before it."""

    ranges: Mapping[str, tuple[int, int]] | None = None
    """By topic, its first message and one past its last; None: all."""
    before: PartEnd = PartEnd()
    log_step_ns: int = 0
    """By how much the recorder's clock was set between the part before and this one."""


def read_streams(
    bag: Bag, part: Part, topics: BagTopics, options: BagOptions, progress: Callable[[RawMessage], None]
) -> BagStreams:
    """UserError for clocks that differ, and for topics that cannot be used."""
    fingers = cdr.FingerWidth()
    columns = {role: _column(bag, role, topics, fingers) for role in topics.roles}
    for role, row in part.before.commands.items():
        columns[role].append(row)
    extras = _Extras(bag, topics)
    by_name = {column.topic: column for column in columns.values()}
    for message in bag.recorded(topics.names(), part.ranges):
        progress(message)
        column = by_name.get(message.topic)
        if column is not None:
            column.add(message)
        else:
            extras.add(message)
    by_log = options.clock == "log"
    times = {column.topic: _times_of(column, role in part.before.commands) for role, column in columns.items()}
    log_step = log_step_of(part.log_step_ns, part.before.clocks, times)
    scene = _Scene(extras.scene_name, extras.scene, by_log, part.before, log_step)
    resets = scene.resets_ns()
    ordered = {}
    for role, column in columns.items():
        clock = part.before.clocks.get(column.topic)
        found = order(column.topic, role, *times[column.topic], by_log, resets, clock, log_step)
        ordered[role] = replace(found, kept=found.kept + (role in part.before.commands))
    _check_found(columns, ordered)
    clocks = {topic.report.topic: topic for topic in [*ordered.values(), scene.ordered]}
    check_clocks(clocks, ordered["static_image"].report.topic)
    _with_held(ordered, part.before.commands)
    warnings = [line for topic in ordered.values() for line in topic.warnings]
    warnings += [line for column in columns.values() for line in _complaints(column)]
    warnings += _about_fingers(fingers, columns["joint_states"].topic)
    warnings += extras.warnings()
    streams = _streams(columns, ordered, scene, options)
    warnings += _check_numbers(streams, topics)
    marks = tuple(_at_time_of_frames(mark, ordered, by_log) for mark in extras.marks)
    end = PartEnd(
        {role: last for role in _COMMANDS if (last := columns[role].last()) is not None},
        {topic.report.topic: topic.clock for topic in clocks.values()},
    )
    commands = columns["gripper_command"].values(ordered["gripper_command"].kept)[:, 0]
    return BagStreams(streams, ordered, scene.values, marks, tuple(warnings), end, commands)


def _column(bag: Bag, role: Role, topics: BagTopics, fingers: cdr.FingerWidth) -> Column:
    topic = topics.roles[role].name
    if role in ("static_image", "gripper_image"):
        return _image_column(topic, image_reader(bag, topics.roles[role].type, topics.colours(role)))
    if role == "joint_states":
        return Column(topic, 1, message_fields.finger_widths(bag, fingers), tuple)
    if role == "gripper_command":
        return Column(topic, 1, message_fields.gripper_commands(bag), tuple)
    return Column(topic, 7, message_fields.poses(bag), tuple)


def _times_of(column: Column, held: bool) -> tuple[IntArray, IntArray]:
    """Stamps and times of arrival, without the command that was in force before the part."""
    stamps, logs = column.times()
    return (stamps[1:], logs[1:]) if held else (stamps, logs)


def _with_held(ordered: dict[Role, Ordered], held: Collection[Role]) -> None:
    """Put the commands that are in force from the beginning before everything else, whatever the clock said then."""
    firsts = [int(topic.stamps_ns[0]) for topic in ordered.values() if len(topic.stamps_ns)]
    for role in held:
        topic = ordered[role]
        stamps = np.insert(topic.stamps_ns, 0, min(firsts, default=0) - 1)
        ordered[role] = replace(topic, stamps_ns=stamps, kept=np.insert(topic.kept, 0, 0))


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
            raise UserError(f"{column.topic} has no readable message ({column.read.complaint})")


def _complaints(column: Column) -> list[str]:
    found, read = [], column.read
    if column.unreadable:
        found.append(f"{column.topic}: {column.unreadable} messages cannot be read ({read.complaint})")
    if read.refused:
        found.append(f"{column.topic}: {read.refused} messages are of no use ({read.complaint})")
    return found


def _about_fingers(fingers: cdr.FingerWidth, topic: str) -> list[str]:
    if len(fingers.joints) != 1:
        return []
    return [f"{topic}: 1 finger joint ({fingers.joints[0]}), expected 2: the width is taken as twice its position"]


def _check_numbers(streams: Streams, topics: BagTopics) -> list[str]:
    """UserError for numbers that cannot be right; remarks."""
    for role, poses in (("current_pose", streams.pose), ("target_pose", streams.target)):
        name = topics.roles[role].name  # type: ignore[index]
        plausible.check_positions(poses.values[:, :3], name)
        plausible.check_quaternions(poses.values[:, 3:], name, "--quaternion wxyz")
    return plausible.check_widths(streams.width.values, topics.roles["joint_states"].name)


def _streams(columns: dict[Role, Column], ordered: dict[Role, Ordered], scene: _Scene, options: BagOptions) -> Streams:
    def images(role: Role) -> Images:
        sizes = columns[role].values(ordered[role].kept)[:, 0]
        usable = np.isfinite(sizes)
        return Images(ordered[role].stamps_ns, usable, np.where(usable, sizes, -1.0).astype(np.int64))

    def poses(role: Role) -> Poses:
        values = columns[role].values(ordered[role].kept).copy()
        values[:, :3] *= options.position_scale
        if options.quaternion == "wxyz":
            values[:, 3:] = np.roll(values[:, 3:], -1, axis=1)
        return Poses(ordered[role].stamps_ns, values)

    def numbers(role: Role, convert: Callable[[FloatArray], FloatArray]) -> Numbers:
        return Numbers(ordered[role].stamps_ns, convert(columns[role].values(ordered[role].kept)[:, 0]))

    clocks = [*ordered.values(), scene.ordered]
    return Streams(
        static=images("static_image"),
        gripper=images("gripper_image"),
        pose=poses("current_pose"),
        width=numbers("joint_states", lambda widths: widths * options.width_scale),
        target=poses("target_pose"),
        gripper_command=numbers("gripper_command", options.gripper.signs),
        scene_episode=scene.episode,
        clock_steps_ns=tuple(sorted(at_ns for topic in clocks for at_ns, _ in topic.steps)),
    )


class _Extras:
    """Scene states and annotations: a bag may lack them, and one that cannot be read costs its topic alone."""

    def __init__(self, bag: Bag, topics: BagTopics) -> None:
        self._bag = bag
        self.scene_name = topics.scene_state.name if topics.scene_state else None
        self.scene: list[tuple[int, int, list[float]]] = []
        self.marks: list[Mark] = []
        self._unsound = 0
        self._unreadable: dict[str, list[str]] = {}

    def add(self, message: RawMessage) -> None:
        try:
            decoded = self._bag.decode(message)
            if message.topic == self.scene_name:
                self._add_scene(decoded, message.log_ns)
            else:
                self.marks.append(_mark(decoded, message.log_ns))
        except (UserError, AttributeError) as error:
            self._unreadable.setdefault(message.topic, []).append(str(error))

    def _add_scene(self, decoded: Any, log_ns: int) -> None:
        found = _scene_row(decoded, log_ns)
        if found is None:
            self._unsound += 1
        else:
            self.scene.append(found)

    def warnings(self) -> list[str]:
        lines = [f"{name}: {len(why)} messages cannot be read ({why[0]})" for name, why in self._unreadable.items()]
        if self._unsound:
            lines.append(
                f"{self.scene_name}: {self._unsound} messages hold a number that is not finite and were left out"
            )
        return lines


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

    def __init__(
        self,
        topic: str | None,
        rows: list[tuple[int, int, list[float]]],
        by_log: bool,
        before: PartEnd,
        log_step: LogStep | None,
    ) -> None:
        stamps = np.array([stamp for stamp, _, _ in rows], dtype=np.int64)
        arrivals = np.array([arrival for _, arrival, _ in rows], dtype=np.int64)
        # Its report is not kept: a real scene has no such topic.
        clock = before.clocks.get(topic or "")
        self.ordered = order(topic or "", "current_pose", stamps, arrivals, by_log, clock=clock, log_step=log_step)
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


def _mark(message: Any, log_ns: int) -> Mark:
    """Old definitions have no note. AttributeError for one without skill or success."""
    return Mark(stamp_of(message), log_ns, str(message.skill), bool(message.success), str(getattr(message, "note", "")))


def _at_time_of_frames(mark: Mark, ordered: Mapping[Role, Ordered], by_log: bool) -> Mark:
    """The mark with the stamp that it has on the clock of the frames.

    Marks are too few to show that their clock was set. Where the static camera's was, the mark's was too if its way
    into the bag would otherwise have taken another time.
    """
    if by_log or not mark.stamp_ns:
        return replace(mark, stamp_ns=mark.log_ns)
    camera = ordered["static_image"]
    if not camera.shifts.steps:
        return mark
    number = max(0, int(np.searchsorted(camera.log_ns, mark.log_ns)) - 1)
    shifted = mark.stamp_ns + int(camera.shifts.shift_ns[number])
    return min(mark, replace(mark, stamp_ns=shifted), key=lambda one: abs(mark.log_ns - camera.delay_ns - one.stamp_ns))
