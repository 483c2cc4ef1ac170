"""A bag becomes a recording: a pass over stamps and numbers, then one over the images that are used.

Time runs in the order of the file. Where the recorder's clock makes a step, a new section begins. Its episodes and
marks are apart from those before; commands stay in force. Long sections are read in parts of an hour, so that memory
stays the same however long the bag is: some 200 MB. An episode that goes on over such an hour is two.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from diwa_conventions.actions import FloatArray
from diwa_conventions.bags.reader import Bag, RawMessage
from diwa_conventions.bags.sections import Section, parts, sections
from diwa_conventions.errors import UserError
from diwa_conventions.images import SquareImages
from diwa_worldmodel.dataset import plausible
from diwa_worldmodel.dataset.bag_clocks import ClockReport
from diwa_worldmodel.dataset.bag_images import ImagePairs
from diwa_worldmodel.dataset.bag_statistics import skew_histogram, total
from diwa_worldmodel.dataset.bag_streams import SCENE_STATE_NAMES, BagStreams, Mark, Part, read_streams
from diwa_worldmodel.dataset.bag_topics import BagOptions, find_topics
from diwa_worldmodel.dataset.clock_steps import NS, IntArray
from diwa_worldmodel.dataset.recording_writer import RecordingWriter
from diwa_worldmodel.dataset.records import (
    LEFT_OUT,
    MOST_STRETCHES,
    Annotation,
    Episode,
    MarkLeftOut,
    Source,
    Statistics,
    Stretch,
)
from diwa_worldmodel.dataset.steps import commanded_actions, poses_of, proprioception
from diwa_worldmodel.dataset.store import DataSet, Progress, Recording
from diwa_worldmodel.dataset.timeline import Plan, plan

PART_S = 3600.0
"""How much of a section is put together at a time, at most."""

_HASH_BYTES = 2**20


def import_bag(
    path: Path, data_set: DataSet, progress: Progress = lambda done, total: None, options: BagOptions | None = None
) -> Recording:
    """Write the recording of a bag folder or .mcap file, or return the one that is there already.

    UserError, with what was found and what to do, for a bag that cannot be used.
    """
    options = options or BagOptions()
    bag = Bag(path)
    source = bag_source(bag, options)
    already = data_set.find(source)
    if already is not None:
        return already
    task = _BagImport(bag, data_set, source, options, progress)
    while not task.run():
        pass
    recording = data_set.find(source)
    assert recording is not None, "it was just written"
    return recording


def bag_source(bag: Bag, options: BagOptions) -> Source:
    """Provenance: the hash covers the content of all files, in their order, and the options."""
    digest = hashlib.sha256(json.dumps(options.to_json(), sort_keys=True).encode())
    for file in bag.files:
        with open(file, "rb") as stream:
            while block := stream.read(_HASH_BYTES):
                digest.update(block)
    name = bag.path.resolve().name
    return Source(name.removesuffix(".mcap"), "bag", digest.hexdigest(), options.to_json())


@dataclass(frozen=True)
class _Stretch:
    """A part of a bag before it is read."""

    ranges: dict[str, tuple[int, int]]
    section: int
    log_step_ns: int
    """By how much the recorder's clock was set before it; 0 within a section."""


def _stretches(bag: Bag, found: Sequence[Section]) -> list[_Stretch]:
    times = bag.catalogue.topics
    return [
        _Stretch(ranges, number, (section.step_ns or 0) if not i else 0)
        for number, section in enumerate(found)
        for i, ranges in enumerate(parts(times, section, PART_S))
    ]


@dataclass
class _Written:
    """What one section has put into the recording."""

    episodes: list[Episode] = field(default_factory=list)
    stamps: list[IntArray] = field(default_factory=list)
    """Of the frames, by part."""
    first_frame: int = 0
    marks: list[Mark] = field(default_factory=list)


class _BagImport:
    """One bag into one recording."""

    def __init__(self, bag: Bag, data_set: DataSet, source: Source, options: BagOptions, progress: Progress) -> None:
        self._bag, self._data_set, self._source, self._options = bag, data_set, source, options
        self._topics = find_topics(bag, options)
        self._square = SquareImages(data_set.config.image_size_px, data_set.config.fit)
        times = bag.catalogue.topics
        self._sections = sections({name: times[name] for name in self._topics.names()})
        self._parts = _stretches(bag, self._sections)
        self._offsets_s = [0.0, *np.cumsum([section.duration_s for section in self._sections]).tolist()]
        messages = [sum(end - first for first, end in one.ranges.values()) for one in self._parts]
        self._progress = _PartProgress(progress, messages)
        self._bad: list[list[tuple[bool, int]]] = [[] for _ in self._parts]
        """By part, images that cannot be decoded: (is it static, index into the stream)."""
        self._undecodable: dict[str, str] = {}

    def run(self) -> bool:
        """Write the recording. False if images turned out to be unreadable: run it again, without them."""
        bad = sum(map(len, self._bad))
        statistics: list[Statistics] = []
        written = [_Written() for _ in self._sections]
        clocks, gripper = ClockReport(self._sections), _Gripper()
        scene_names = SCENE_STATE_NAMES if self._topics.scene_state else ()
        with self._data_set.add_recording(self._source, scene_names) as writer:
            part = Part()
            for number, stretch in enumerate(self._parts):
                part = replace(part, ranges=stretch.ranges, log_step_ns=stretch.log_step_ns)
                self._progress.begin(number)
                found = read_streams(self._bag, part, self._topics, self._options, self._progress.first)
                frames = self._plan(number, found)
                here = written[stretch.section]
                here.first_frame = here.first_frame if here.stamps else writer.frames
                here.episodes += [Episode(writer.frames + e.start, e.length) for e in frames.episodes]
                here.stamps.append(frames.stamps_ns)
                here.marks += found.marks
                begin_ns = self._begin_ns(stretch.section, found)
                clocks.add(stretch.section, begin_ns, found, frames)
                gripper.add(found, frames)
                if number == len(self._parts) - 1:
                    gripper.check(self._options, self._topics.roles["gripper_command"].name)
                statistics.append(self._write_part(number, part, found, frames, writer, begin_ns))
                part = replace(part, before=found.end)
            if sum(map(len, self._bad)) > bad:
                return False
            self._finish(writer, written, statistics, clocks)
        return True

    def _begin_ns(self, section: int, found: BagStreams) -> float:
        """Stamp at which the recorded time of the whole bag would be 0, as this section's clock has it."""
        delay_ns = found.ordered["static_image"].delay_ns
        return float(self._sections[section].begin_ns - delay_ns - self._offsets_s[section] * NS)

    def _finish(
        self, writer: RecordingWriter, written: Sequence[_Written], parts: Sequence[Statistics], clocks: ClockReport
    ) -> None:
        placed: list[Annotation] = []
        left_out: list[MarkLeftOut] = []
        for number, here in enumerate(written):
            stamps = np.concatenate([np.zeros(0, dtype=np.int64), *here.stamps])
            inside, outside = place_marks(here.marks, stamps, here.episodes, here.first_frame)
            placed += inside
            offset_ns = self._offsets_s[number] * NS - self._sections[number].begin_ns
            left_out += [
                MarkLeftOut(round((mark.log_ns + offset_ns) / NS, 3), mark.skill, why) for mark, why in outside
            ]
        summed = total(parts, self._offsets_s[-1])
        summed = replace(
            summed,
            annotations_left_out=len(left_out),
            marks_left_out=tuple(left_out),
            topics_not_used=self._topics.not_used(self._bag),
            warnings=(*clocks.lines(), *self._topics.complaints, *summed.warnings, *self._decoding_warnings()),
        )
        episodes = [episode for here in written for episode in here.episodes]
        if not episodes:
            raise UserError(_no_frames(self._bag, summed))
        writer.finish(episodes, placed, summed)

    def _decoding_warnings(self) -> list[str]:
        static = sum(is_static for part in self._bad for is_static, _ in part)
        counts = {"static_image": static, "gripper_image": sum(map(len, self._bad)) - static}
        names = {self._topics.roles[role].name: count for role, count in counts.items()}  # type: ignore[index]
        return [f"{name}: {names[name]} images cannot be decoded ({why})" for name, why in self._undecodable.items()]

    def _plan(self, number: int, found: BagStreams) -> Plan:
        for static, index in self._bad[number]:
            (found.streams.static if static else found.streams.gripper).usable[index] = False
        return plan(found.streams, self._data_set.config)

    def _write_part(
        self, number: int, part: Part, found: BagStreams, frames: Plan, writer: RecordingWriter, begin_ns: float
    ) -> Statistics:
        streams = found.streams
        proprio = proprioception(poses_of(streams.pose.values[frames.pose]), streams.width.values[frames.width])
        commands = poses_of(streams.target.values[frames.target])
        grips = streams.gripper_command.values[frames.gripper_command]
        action, saturated = commanded_actions(commands, grips, frames.episodes, self._data_set.config.scale)
        scene = None if frames.scene is None or found.scene_state is None else found.scene_state[frames.scene]
        pairs = ImagePairs(self._bag, part, self._topics, found, frames, self._square, self._progress.second)
        for block, static, gripper in pairs.blocks():
            rows = None if scene is None else scene[block]
            writer.append(static, gripper, proprio[block], action[block], frames.stamps_ns[block], rows)
        self._bad[number] += pairs.bad
        self._undecodable = {**pairs.complaints, **self._undecodable}
        return Statistics(
            topics=found.reports,
            camera_skew_ms=skew_histogram(frames.skew_ns),
            frames_left_out=frames.frames_left_out,
            episode_ends=frames.episode_ends,
            steps=sum(episode.length - 1 for episode in frames.episodes),
            saturated=saturated,
            stretches_left_out=_longest(frames.left_out_ns, begin_ns),
            uneven_steps=frames.uneven_steps,
            warnings=found.warnings,
        )


@dataclass
class _Gripper:
    """What the gripper was told, and how wide it was, over all parts."""

    commands: list[FloatArray] = field(default_factory=list)
    signs: list[FloatArray] = field(default_factory=list)
    widths_m: list[FloatArray] = field(default_factory=list)

    def add(self, found: BagStreams, frames: Plan) -> None:
        self.commands.append(found.gripper_commands)
        self.signs.append(found.streams.gripper_command.values[frames.gripper_command])
        self.widths_m.append(found.streams.width.values[frames.width])

    def check(self, options: BagOptions, topic: str) -> None:
        """UserError for commands that cannot mean what they are taken for."""
        commands, widths_m = np.concatenate(self.commands), np.concatenate(self.widths_m)
        plausible.check_gripper_commands(commands, options.gripper.threshold, topic, widths_m=widths_m)
        plausible.check_gripper_sense(np.concatenate(self.signs), widths_m, topic)


def _longest(stretches: Sequence[tuple[int, int, str]], begin_ns: float) -> tuple[Stretch, ...]:
    """The longest stretches without frames, in their order."""
    chosen = sorted(sorted(stretches, key=lambda one: one[0] - one[1])[:MOST_STRETCHES])
    return tuple(
        Stretch(round((first - begin_ns) / NS, 3), round((last - begin_ns) / NS, 3), why) for first, last, why in chosen
    )


class _PartProgress:
    """Progress of both passes over all parts, by messages; the first pass is a quarter of the work."""

    def __init__(self, progress: Progress, messages: Sequence[int]) -> None:
        self._progress, self._messages = progress, messages
        self._number = self._done = self._told = 0

    def begin(self, number: int) -> None:
        self._number, self._done = number, 0

    def first(self, message: RawMessage) -> None:
        self._tell(250)

    def second(self, message: RawMessage) -> None:
        self._tell(750)

    def _tell(self, weight: int) -> None:
        self._done += weight
        done = 1000 * self._number + min(1000, self._done // max(1, self._messages[self._number]))
        if done > self._told:
            self._told = done
            self._progress(done, 1000 * len(self._messages))


def _no_frames(bag: Bag, statistics: Statistics) -> str:
    counts = statistics.frames_left_out
    reasons = ", ".join(f"{counts[reason]} ({reason})" for reason in LEFT_OUT if counts[reason])
    hints = "".join(f"; {line}" for line in statistics.warnings)
    return (
        f"{bag.path} has no two frames {1 / 7.5:.3f} s apart with images, state and command; left out: "
        f"{reasons or 'none'}{hints}"
    )


def place_marks(
    marks: Sequence[Mark], stamps_ns: IntArray, episodes: Sequence[Episode], first_frame: int = 0
) -> tuple[list[Annotation], list[tuple[Mark, str]]]:
    """Annotations at the frames nearest to them in time, and those that lie outside all episodes, with the reason.

    A mark counts for an episode up to half a step outside of it. ``stamps_ns`` (F,) are those of the frames from
    ``first_frame`` on, to which the episodes belong.
    """
    spans = [stamps_ns[episode.start - first_frame : episode.end - first_frame] for episode in episodes]
    placed: list[Annotation] = []
    outside: list[tuple[Mark, str]] = []
    for mark in marks:
        away = [max(int(span[0]) - mark.stamp_ns, mark.stamp_ns - int(span[-1]), 0) for span in spans]
        nearest = int(np.argmin(away)) if away else -1
        if nearest < 0 or away[nearest] > NS / 15:
            outside.append((mark, _why_outside(mark, spans)))
            continue
        frame = episodes[nearest].start + int(np.argmin(np.abs(spans[nearest] - mark.stamp_ns)))
        placed.append(Annotation(frame, mark.skill, mark.success, mark.note))
    return placed, outside


def _why_outside(mark: Mark, spans: Sequence[IntArray]) -> str:
    before = [(mark.stamp_ns - int(span[-1])) / NS for span in spans if span[-1] < mark.stamp_ns]
    after = [(int(span[0]) - mark.stamp_ns) / NS for span in spans if span[0] > mark.stamp_ns]
    if before and after:
        return f"{min(before):.1f} s after the end of one episode and {min(after):.1f} s before the next"
    if before:
        return f"{min(before):.1f} s after the last frame"
    if after:
        return f"{min(after):.1f} s before the first frame"
    return "there are no frames between the steps of the clock around it"
