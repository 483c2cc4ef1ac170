"""Measures a data set: pure functions from its arrays and statistics to :class:`quality.Quality`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from diwa_conventions.actions import GRIPPER_INDEX, ActionScale
from diwa_conventions.rates import TRAIN_RATE_HZ
from diwa_worldmodel.dataset.motion import Array, BoolArray, FloatArray, Motion, opens, still_frames
from diwa_worldmodel.dataset.quality import (
    SHORT_EPISODE_S,
    VOXEL_M,
    Episodes,
    Gripper,
    Images,
    NamedHistogram,
    Quality,
    RecordingQuality,
    Saturation,
    SceneQuantity,
    Skew,
    Skill,
    Stillness,
    Timeline,
    TopicQuality,
    Workspace,
    off_multiple,
    share,
)
from diwa_worldmodel.dataset.records import Episode, Histogram, Role, Statistics, TopicReport
from diwa_worldmodel.dataset.store import DataSet, Recording

ACTION_NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
AXES = ("x", "y", "z")
TIMELINE_BINS = 400
_BINS = 40
CONSTANT = 1e-6
"""Values that differ by less are one value."""
_PERCENTILES = (50, 95, 99)


def measure(data_set: DataSet, name: str, motion: Motion, images: Images, not_imported: Sequence[str] = ()) -> Quality:
    """Everything that the report shows of a data set; ``images`` comes from :func:`samples.look_at_images`."""
    recordings = data_set.recordings
    statistics = [recording.statistics for recording in recordings]
    still = still_frames(motion)
    return Quality(
        name=name,
        frames=motion.frames,
        steps=data_set.steps,
        recorded_s=sum(one.duration_s for one in statistics),
        usable_s=data_set.steps / TRAIN_RATE_HZ,
        recordings=tuple(map(_recording_quality, recordings)),
        topics=merge_topics([(one.source.name, one.statistics.topics) for one in recordings]),
        skew=measure_skew([one.camera_skew_ms for one in statistics]),
        frames_left_out=_total(one.frames_left_out for one in statistics),
        episode_ends=_total(one.episode_ends for one in statistics),
        episodes=measure_episodes(motion.episodes),
        saturation=measure_saturation(statistics, motion),
        actions=action_histograms(motion),
        speeds=speed_histograms(motion, data_set.config.scale),
        workspace=measure_workspace(np.asarray(motion.proprio[:, :3], dtype=np.float64)),
        scene=measure_scene(motion),
        stillness=measure_stillness(motion, still),
        gripper=measure_gripper(motion),
        skills=count_skills(recordings),
        timeline=measure_timeline(motion, still, recordings),
        images=images,
        not_imported=tuple(not_imported),
        notes=tuple(f"{one.source.name}: {words}" for one in recordings for words in one.statistics.remarks()),
    )


def histogram(values: Array, bins: int | FloatArray = _BINS, low_high: tuple[float, float] | None = None) -> Histogram:
    """Of the finite values (N,), in plain numbers."""
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    if isinstance(bins, int) and low_high is None and finite.size and np.ptp(finite) < CONSTANT:
        low_high = (float(finite[0]) - 0.5, float(finite[0]) + 0.5)
    counts, edges = np.histogram(finite, bins=bins, range=low_high)
    return Histogram(tuple(map(float, edges)), tuple(map(int, counts)))


def merge_topics(reports: Sequence[tuple[str, Sequence[TopicReport]]]) -> tuple[TopicQuality, ...]:
    """One entry for each topic from the names and reports of all recordings."""
    merged: dict[tuple[str, Role], TopicQuality] = {}
    for recording, topics in reports:
        for topic in topics:
            one = TopicQuality(
                topic.topic, topic.role, topic.messages, topic.rate_hz, topic.expected_hz, topic.dropped, topic.late,
                topic.duplicates, topic.backwards, topic.largest_gap_s, 0.0, recording, topic.rate_hz,
            )  # fmt: skip
            one = replace(one, worst_dropped=one.dropped_share)
            before = merged.get((topic.topic, topic.role))
            merged[topic.topic, topic.role] = _joined(before, one) if before else one
    return tuple(merged.values())


def _joined(a: TopicQuality, b: TopicQuality) -> TopicQuality:
    messages = a.messages + b.messages
    worst = b if b.worst_dropped > a.worst_dropped else a
    return TopicQuality(
        topic=a.topic,
        role=a.role,
        messages=messages,
        rate_hz=share(a.rate_hz * a.messages + b.rate_hz * b.messages, messages),
        expected_hz=min(a.expected_hz, b.expected_hz),
        dropped=a.dropped + b.dropped,
        late=a.late + b.late,
        duplicates=a.duplicates + b.duplicates,
        backwards=a.backwards + b.backwards,
        largest_gap_s=max(a.largest_gap_s, b.largest_gap_s),
        worst_dropped=worst.worst_dropped,
        worst_recording=worst.worst_recording,
        oddest_rate_hz=max(a.oddest_rate_hz, b.oddest_rate_hz, key=off_multiple),
    )


def measure_skew(histograms: Sequence[Histogram]) -> Skew:
    """All recordings' skews in the bins of the first; percentiles are as fine as a tenth of a bin."""
    known = [one for one in histograms if sum(one.counts)]
    if not known:
        return Skew()
    edges = np.asarray(known[0].edges)
    counts = np.zeros(len(edges) - 1)
    for one in known:
        centres = 0.5 * (np.asarray(one.edges[1:]) + np.asarray(one.edges[:-1]))
        counts += np.histogram(np.clip(centres, edges[0], edges[-1]), bins=edges, weights=np.asarray(one.counts))[0]
    whole = Histogram(known[0].edges, tuple(int(count) for count in counts))
    return Skew(whole, absolute_percentiles(whole))


def absolute_percentiles(values: Histogram) -> dict[str, float]:
    """p50, p95 and p99 of the amounts, values spread evenly in their bins."""
    edges, counts = np.asarray(values.edges), np.asarray(values.counts, dtype=np.float64)
    within = (np.arange(10) + 0.5) / 10
    points = np.abs(edges[:-1, None] + np.diff(edges)[:, None] * within).ravel()
    order = np.argsort(points)
    reached = np.cumsum(np.repeat(counts / 10, 10)[order])
    found = [points[order][np.searchsorted(reached, percent / 100 * reached[-1])] for percent in _PERCENTILES]
    return {f"p{percent}": round(float(point), 3) for percent, point in zip(_PERCENTILES, found, strict=True)}


def measure_episodes(episodes: Sequence[Episode]) -> Episodes:
    frames = np.array([episode.length for episode in episodes])
    lengths_s = frames / TRAIN_RATE_HZ
    if not len(frames):
        return Episodes(0, 0.0, 0.0, 0.0, 0, 0, Histogram())
    short = lengths_s < SHORT_EPISODE_S
    return Episodes(
        count=len(frames),
        shortest_s=float(lengths_s.min()),
        median_s=float(np.median(lengths_s)),
        longest_s=float(lengths_s.max()),
        short=int(short.sum()),
        short_frames=int(frames[short].sum()),
        lengths_s=histogram(lengths_s, bins=30, low_high=(0.0, float(lengths_s.max()))),
    )


def measure_saturation(statistics: Sequence[Statistics], motion: Motion) -> Saturation:
    """As the importer counted it; where it could not, steps with a component of exactly one."""
    steps = sum(one.steps for one in statistics)
    if steps:
        counts = _total(one.saturated for one in statistics)
        return Saturation(steps, counts.get("translation", 0), counts.get("rotation", 0))
    actions = np.abs(motion.action[motion.has_next()])
    full = actions[:, :GRIPPER_INDEX] >= 1.0
    return Saturation(len(actions), int(full[:, :3].any(axis=1).sum()), int(full[:, 3:].any(axis=1).sum()))


def action_histograms(motion: Motion) -> tuple[NamedHistogram, ...]:
    """Of each component over all steps, in [-1, 1]."""
    actions = motion.action[motion.has_next()]
    return tuple(
        NamedHistogram(name, "", histogram(actions[:, column], 41, (-1.0, 1.0)))
        for column, name in enumerate(ACTION_NAMES)
    )


def speed_histograms(motion: Motion, scale: ActionScale) -> tuple[NamedHistogram, ...]:
    """Of the commanded linear and angular speed."""
    actions = np.asarray(motion.action[motion.has_next()], dtype=np.float64)
    linear = np.linalg.norm(actions[:, :3], axis=1) * scale.speed_m_s
    angular = np.linalg.norm(actions[:, 3:6], axis=1) * scale.speed_rad_s
    return (
        NamedHistogram("speed", "m/s", _from_zero(linear)),
        NamedHistogram("turning", "rad/s", _from_zero(angular)),
    )


def _from_zero(values: FloatArray) -> Histogram:
    return histogram(values, _BINS, (0.0, max(float(values.max(initial=0.0)), 1e-3)))


def measure_workspace(positions: FloatArray) -> Workspace:
    """Of tool positions (N, 3) [m]."""
    if not len(positions):
        return Workspace((0.0,) * 3, (0.0,) * 3, 0, 0.0, ())
    cubes = np.floor(positions / VOXEL_M).astype(np.int64)
    visited = len(np.unique(cubes, axis=0))
    box = int(np.prod(np.ptp(cubes, axis=0) + 1, dtype=np.float64))
    return Workspace(
        low_m=tuple(map(float, positions.min(axis=0))),
        high_m=tuple(map(float, positions.max(axis=0))),
        voxels=visited,
        occupied_share=visited / box,
        axes=tuple(NamedHistogram(name, "m", histogram(positions[:, i])) for i, name in enumerate(AXES)),
    )


def measure_scene(motion: Motion) -> tuple[SceneQuantity, ...]:
    """Every column of the scene state, over the recordings that know it."""
    found = []
    for name, column in motion.scene.items():
        values = column[np.isfinite(column)]
        if len(values):
            low, high = float(values.min()), float(values.max())
            crossings = sum(_crossings(column[one.start : one.end], low, high) for one in motion.episodes)
            found.append(SceneQuantity(name, low, high, crossings, histogram(values, 30)))
    return tuple(found)


def _crossings(values: Array, low: float, high: float) -> int:
    """How often the values (T,) go from one outer third of low..high to the other."""
    if high - low < CONSTANT:
        return 0
    from_middle = (values - (low + high) / 2) / (high - low)
    sides = np.sign(from_middle[np.abs(from_middle) > 1 / 6])
    return int(np.count_nonzero(np.diff(sides)))


def measure_stillness(motion: Motion, still: BoolArray) -> Stillness:
    steps = int(motion.has_next().sum())
    bounds = np.flatnonzero(np.diff(np.concatenate([[0], still.astype(np.int8), [0]]))).reshape(-1, 2)
    if not len(bounds):
        return Stillness(0, 0.0, 0.0, "")
    begin, end = bounds[np.argmax(bounds[:, 1] - bounds[:, 0])].tolist()
    total = int(still.sum())
    return Stillness(total, share(total, steps), (end - begin) / TRAIN_RATE_HZ, motion.where(begin))


def measure_gripper(motion: Motion) -> Gripper:
    opened = opens(motion).astype(np.int8)
    changes = np.diff(opened)[motion.has_next()[:-1]] if motion.frames else np.zeros(0)
    closings, openings = int((changes < 0).sum()), int((changes > 0).sum())
    minutes = motion.has_next().sum() / TRAIN_RATE_HZ / 60.0
    closed = 1.0 - float(opened.mean()) if motion.frames else 0.0
    return Gripper(closings, openings, share(closings + openings, float(minutes)), closed)


def count_skills(recordings: Sequence[Recording]) -> tuple[Skill, ...]:
    """In the order of their names."""
    marks = Counter((mark.skill, mark.success) for recording in recordings for mark in recording.annotations)
    names = sorted({name for name, _ in marks})
    return tuple(Skill(name, marks[name, True], marks[name, False]) for name in names)


def measure_timeline(motion: Motion, still: BoolArray, recordings: Sequence[Recording]) -> Timeline:
    width = max(1, -(-motion.frames // TIMELINE_BINS))
    starts = np.arange(0, motion.frames, width)
    sizes = np.diff(np.append(starts, motion.frames))
    shares = [
        np.add.reduceat(values.astype(np.float64), starts) / sizes if len(starts) else np.zeros(0)
        for values in (still, ~opens(motion))
    ]
    marks = [
        (mark.success, (start + mark.frame) / TRAIN_RATE_HZ)
        for start, recording in zip(motion.recording_starts, recordings, strict=True)
        for mark in recording.annotations
    ]
    return Timeline(
        bin_s=width / TRAIN_RATE_HZ,
        still=tuple(round(float(value), 4) for value in shares[0]),
        closed=tuple(round(float(value), 4) for value in shares[1]),
        successes_s=tuple(time for success, time in marks if success),
        failures_s=tuple(time for success, time in marks if not success),
        recordings_s=tuple(start / TRAIN_RATE_HZ for start in motion.recording_starts),
    )


def _recording_quality(recording: Recording) -> RecordingQuality:
    statistics = recording.statistics
    percentiles = measure_skew([statistics.camera_skew_ms]).percentiles_ms
    return RecordingQuality(
        name=recording.source.name,
        kind=recording.source.kind,
        frames=recording.frames,
        episodes=len(recording.episodes),
        recorded_s=statistics.duration_s,
        left_out=sum(statistics.frames_left_out.values()),
        annotations=len(recording.annotations),
        skew_p95_ms=percentiles["p95"] if percentiles else None,
    )


def _total(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for one in counts:
        for name, count in one.items():
            total[name] = total.get(name, 0) + count
    return total
