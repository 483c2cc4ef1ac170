"""A bag becomes a recording: for each hour a pass over stamps and numbers, then one over the images that are used.

By hours, so that memory stays the same however long the bag is: some 200 MB for one. An episode that goes on over such
an hour is two.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from diwa_conventions.bags.reader import Bag, RawMessage
from diwa_conventions.errors import UserError
from diwa_conventions.images import SquareImages
from diwa_worldmodel.dataset.bag_images import ImagePairs
from diwa_worldmodel.dataset.bag_statistics import skew_histogram, total
from diwa_worldmodel.dataset.bag_streams import SCENE_STATE_NAMES, BagStreams, Mark, Part, read_streams
from diwa_worldmodel.dataset.bag_topics import BagOptions, find_topics
from diwa_worldmodel.dataset.recording_writer import RecordingWriter
from diwa_worldmodel.dataset.records import LEFT_OUT, Annotation, Episode, Source, Statistics
from diwa_worldmodel.dataset.stamps import NS, IntArray
from diwa_worldmodel.dataset.steps import commanded_actions, poses_of, proprioception
from diwa_worldmodel.dataset.store import DataSet, Progress, Recording
from diwa_worldmodel.dataset.timeline import Plan, plan

PART_S = 3600.0
"""How much of a bag is put together at a time, at most."""

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


def parts_of(bag: Bag) -> list[tuple[int, int]]:
    """Stretches of equal length, of PART_S at most, by times of arrival: first and one past the last [ns]."""
    count = max(1, -int(-bag.duration_s // PART_S))
    bounds = np.linspace(bag.start_ns, bag.end_ns + 1, count + 1).astype(np.int64).tolist()
    bounds[0], bounds[-1] = bag.start_ns, bag.end_ns + 1
    return list(zip(bounds, bounds[1:], strict=False))


class _BagImport:
    """One bag into one recording."""

    def __init__(self, bag: Bag, data_set: DataSet, source: Source, options: BagOptions, progress: Progress) -> None:
        self._bag, self._data_set, self._source, self._options = bag, data_set, source, options
        self._topics = find_topics(bag, options)
        self._square = SquareImages(data_set.config.image_size_px, data_set.config.fit)
        self._bounds = parts_of(bag)
        self._progress = _PartProgress(progress, len(self._bounds))
        self._bad: list[list[tuple[bool, int]]] = [[] for _ in self._bounds]
        """By part, images that cannot be decoded: (is it static, index into the stream)."""

    def run(self) -> bool:
        """Write the recording. False if images turned out to be unreadable: run it again, without them."""
        bad = sum(map(len, self._bad))
        statistics: list[Statistics] = []
        marks: list[Mark] = []
        episodes: list[Episode] = []
        stamps: list[IntArray] = []
        scene_names = SCENE_STATE_NAMES if self._topics.scene_state else ()
        with self._data_set.add_recording(self._source, scene_names) as writer:
            part = Part(0, 0)
            for number, (begin, end) in enumerate(self._bounds):
                part = replace(part, begin_ns=begin, end_ns=end)
                self._progress.begin(number, begin, end)
                found = read_streams(self._bag, part, self._topics, self._options, self._progress.first)
                frames = self._plan(number, found)
                episodes += [Episode(writer.frames + e.start, e.length) for e in frames.episodes]
                statistics.append(self._write_part(number, part, found, frames, writer))
                stamps.append(frames.stamps_ns)
                marks += found.marks
                part = replace(part, commands=found.last_commands)
            if sum(map(len, self._bad)) > bad:
                return False
            placed, outside = place_marks(marks, np.concatenate(stamps), episodes)
            summed = replace(total(statistics, self._bag.duration_s), annotations_left_out=outside)
            if not episodes:
                raise UserError(_no_frames(self._bag, summed))
            writer.finish(episodes, placed, summed)
        return True

    def _plan(self, number: int, found: BagStreams) -> Plan:
        for static, index in self._bad[number]:
            (found.streams.static if static else found.streams.gripper).usable[index] = False
        return plan(found.streams, self._data_set.config)

    def _write_part(
        self, number: int, part: Part, found: BagStreams, frames: Plan, writer: RecordingWriter
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
        return Statistics(
            topics=found.reports,
            camera_skew_ms=skew_histogram(frames.skew_ns),
            frames_left_out=frames.frames_left_out,
            episode_ends=frames.episode_ends,
            steps=sum(episode.length - 1 for episode in frames.episodes),
            saturated=saturated,
            warnings=found.warnings,
        )


class _PartProgress:
    """Progress of both passes over all parts, by the messages' time; the first pass is a quarter of the work."""

    def __init__(self, progress: Progress, parts: int) -> None:
        self._progress, self._parts = progress, parts
        self._number = self._begin_ns = self._told = 0
        self._span_ns = 1

    def begin(self, number: int, begin_ns: int, end_ns: int) -> None:
        self._number, self._begin_ns, self._span_ns = number, begin_ns, end_ns - begin_ns

    def first(self, message: RawMessage) -> None:
        self._tell((message.log_ns - self._begin_ns) * 250 // self._span_ns)

    def second(self, message: RawMessage) -> None:
        self._tell(250 + (message.log_ns - self._begin_ns) * 750 // self._span_ns)

    def _tell(self, done: int) -> None:
        done += 1000 * self._number
        if done > self._told:
            self._told = done
            self._progress(done, 1000 * self._parts)


def _no_frames(bag: Bag, statistics: Statistics) -> str:
    counts = statistics.frames_left_out
    reasons = ", ".join(f"{counts[reason]} ({reason})" for reason in LEFT_OUT if counts[reason])
    hints = "".join(f"; {line}" for line in statistics.warnings)
    return (
        f"{bag.path} has no two frames {1 / 7.5:.3f} s apart with images, state and command; left out: "
        f"{reasons or 'none'}{hints}"
    )


def place_marks(
    marks: Sequence[Mark], stamps_ns: IntArray, episodes: Sequence[Episode]
) -> tuple[list[Annotation], int]:
    """Annotations at the frames nearest to them in time, and how many lie outside all episodes.

    A mark counts for an episode up to half a step outside of it. ``stamps_ns`` (F,) are those of the frames.
    """
    placed: list[Annotation] = []
    for mark in marks:
        for episode in episodes:
            inside = stamps_ns[episode.start : episode.end]
            if inside[0] - NS / 15 <= mark.stamp_ns <= inside[-1] + NS / 15:
                frame = episode.start + int(np.argmin(np.abs(inside - mark.stamp_ns)))
                placed.append(Annotation(frame, mark.skill, mark.success, mark.note))
                break
    return placed, len(marks) - len(placed)
