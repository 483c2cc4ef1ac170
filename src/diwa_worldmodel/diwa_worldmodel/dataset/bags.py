"""A bag becomes a recording: a first pass over stamps and numbers, a second one over the images that are used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diwa_conventions.bags.reader import Bag, RawMessage
from diwa_conventions.errors import UserError
from diwa_conventions.images import SquareImages
from diwa_worldmodel.dataset.bag_images import ImagePairs
from diwa_worldmodel.dataset.bag_streams import SCENE_STATE_NAMES, BagStreams, Mark, read_streams
from diwa_worldmodel.dataset.bag_topics import BagOptions, BagTopics, find_topics
from diwa_worldmodel.dataset.recording_writer import RecordingWriter
from diwa_worldmodel.dataset.records import Annotation, Episode, Histogram, Source, Statistics
from diwa_worldmodel.dataset.stamps import IntArray
from diwa_worldmodel.dataset.steps import commanded_actions, poses_of, proprioception
from diwa_worldmodel.dataset.store import DataSet, Progress, Recording
from diwa_worldmodel.dataset.timeline import Plan, plan

SKEW_EDGES_MS = tuple(range(-50, 55, 5))
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
    topics = find_topics(bag, options)
    passes = _Passes(bag, progress)
    found = read_streams(bag, topics, options, passes.first)
    while True:
        frames = plan(found.streams, data_set.config)
        _check_frames(bag, frames, found)
        bad = _write(bag, topics, found, frames, data_set, source, passes)
        if not bad:
            break
        # Such images show only when they are decoded (compressed ones); plan again without them.
        for static, index in bad:
            (found.streams.static if static else found.streams.gripper).usable[index] = False
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


class _Passes:
    """Progress of both passes, by the messages' time: the first one is a quarter of the work."""

    def __init__(self, bag: Bag, progress: Progress) -> None:
        self._start_ns, self._span_ns = bag.start_ns, max(bag.end_ns - bag.start_ns, 1)
        self._progress = progress
        self._told = 0

    def first(self, message: RawMessage) -> None:
        self._tell((message.log_ns - self._start_ns) * 250 // self._span_ns)

    def second(self, message: RawMessage) -> None:
        self._tell(250 + (message.log_ns - self._start_ns) * 750 // self._span_ns)

    def _tell(self, done: int) -> None:
        if done > self._told:
            self._told = done
            self._progress(done, 1000)


def _check_frames(bag: Bag, frames: Plan, found: BagStreams) -> None:
    """UserError if not a single episode is left."""
    if frames.episodes:
        return
    reasons = ", ".join(f"{count} ({reason})" for reason, count in frames.frames_left_out.items() if count)
    hints = "; ".join(found.warnings)
    raise UserError(
        f"{bag.path} has no two frames {1 / 7.5:.3f} s apart with images, state and command; left out: "
        f"{reasons or 'none'}{'; ' + hints if hints else ''}"
    )


def _write(
    bag: Bag,
    topics: BagTopics,
    found: BagStreams,
    frames: Plan,
    data_set: DataSet,
    source: Source,
    passes: _Passes,
) -> list[tuple[bool, int]]:
    """Write the recording; if images turn out to be unreadable, nothing but (is it static, which) of each."""
    streams = found.streams
    proprio = proprioception(poses_of(streams.pose.values[frames.pose]), streams.width.values[frames.width])
    commands = poses_of(streams.target.values[frames.target])
    grips = streams.gripper_command.values[frames.gripper_command]
    action, saturated = commanded_actions(commands, grips, frames.episodes, data_set.config.scale)
    scene = None if frames.scene is None or found.scene_state is None else found.scene_state[frames.scene]
    square = SquareImages(data_set.config.image_size_px, data_set.config.fit)
    pairs = ImagePairs(bag, topics, found, frames, square, passes.second)
    with data_set.add_recording(source, SCENE_STATE_NAMES if scene is not None else ()) as writer:
        for block, static, gripper in pairs.blocks():
            if not pairs.bad:
                rows = None if scene is None else scene[block]
                writer.append(static, gripper, proprio[block], action[block], frames.stamps_ns[block], rows)
        if not pairs.bad:
            _finish(writer, bag, found, frames, saturated)
    return pairs.bad


def _finish(writer: RecordingWriter, bag: Bag, found: BagStreams, frames: Plan, saturated: dict[str, int]) -> None:
    marks, outside = place_marks(found.marks, frames)
    counts, _ = np.histogram(np.clip(frames.skew_ns * 1e-6, SKEW_EDGES_MS[0], SKEW_EDGES_MS[-1]), bins=SKEW_EDGES_MS)
    statistics = Statistics(
        duration_s=bag.duration_s,
        topics=found.reports,
        camera_skew_ms=Histogram(tuple(map(float, SKEW_EDGES_MS)), tuple(counts.tolist())),
        frames_left_out=frames.frames_left_out,
        episode_ends=frames.episode_ends,
        steps=sum(episode.length - 1 for episode in frames.episodes),
        saturated=saturated,
        annotations_left_out=outside,
        warnings=found.warnings,
    )
    writer.finish(frames.episodes, marks, statistics)


def place_marks(marks: Sequence[Mark], frames: Plan) -> tuple[list[Annotation], int]:
    """Annotations at the frames nearest to them in time, and how many lie outside all episodes."""
    spans = [(frames.stamps_ns[e.start], frames.stamps_ns[e.end - 1], e) for e in frames.episodes]
    placed: list[Annotation] = []
    for mark in marks:
        frame = _frame_of(mark.stamp_ns, spans, frames.stamps_ns)
        if frame is not None:
            placed.append(Annotation(frame, mark.skill, mark.success, mark.note))
    return placed, len(marks) - len(placed)


def _frame_of(stamp_ns: int, spans: Sequence[tuple[np.int64, np.int64, Episode]], stamps: IntArray) -> int | None:
    """A mark counts for an episode up to half a step outside of it."""
    margin = int(0.5e9 / 7.5)
    for first, last, episode in spans:
        if first - margin <= stamp_ns <= last + margin:
            near = np.abs(stamps[episode.start : episode.end] - stamp_ns)
            return episode.start + int(np.argmin(near))
    return None
