"""Adds up what the parts of a bag say about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from diwa_worldmodel.dataset.clock_steps import IntArray
from diwa_worldmodel.dataset.records import MOST_STRETCHES, Histogram, Statistics, Stretch, TopicReport

SKEW_EDGES_MS = tuple(edge + 0.5 for edge in range(-51, 51))


def skew_histogram(skew_ns: IntArray) -> Histogram:
    """Of the distances (N,) between the cameras' stamps; those beyond the edges count in the outermost bins."""
    edges: npt.NDArray[np.float64] = np.array(SKEW_EDGES_MS)
    counts, _ = np.histogram(np.clip(skew_ns * 1e-6, edges[0], edges[-1]), bins=edges)
    return Histogram(SKEW_EDGES_MS, tuple(counts.tolist()))


def total(parts: Sequence[Statistics], duration_s: float) -> Statistics:
    """Statistics of a bag from those of its parts, of which there is at least one."""
    skews = [part.camera_skew_ms.counts for part in parts]
    return Statistics(
        duration_s=duration_s,
        topics=tuple(_joined(reports) for reports in zip(*(part.topics for part in parts), strict=True)),
        camera_skew_ms=Histogram(SKEW_EDGES_MS, tuple(map(sum, zip(*skews, strict=True)))),
        frames_left_out=_sums(part.frames_left_out for part in parts),
        episode_ends=_sums(part.episode_ends for part in parts),
        steps=sum(part.steps for part in parts),
        saturated=_sums(part.saturated for part in parts),
        stretches_left_out=_longest([one for part in parts for one in part.stretches_left_out]),
        uneven_steps=sum(part.uneven_steps for part in parts),
        warnings=tuple(dict.fromkeys(line for part in parts for line in part.warnings)),
    )


def _longest(stretches: list[Stretch]) -> tuple[Stretch, ...]:
    chosen = sorted(stretches, key=lambda one: one.from_s - one.to_s)[:MOST_STRETCHES]
    return tuple(sorted(chosen, key=lambda one: one.from_s))


def _sums(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    summed: dict[str, int] = {}
    for part in counts:
        for name, count in part.items():
            summed[name] = summed.get(name, 0) + count
    return summed


def _joined(reports: Sequence[TopicReport]) -> TopicReport:
    """Counts add up; the rates are those of the part with most messages."""
    fullest = max(reports, key=lambda report: report.messages)
    return replace(
        fullest,
        messages=sum(report.messages for report in reports),
        dropped=sum(report.dropped for report in reports),
        late=sum(report.late for report in reports),
        duplicates=sum(report.duplicates for report in reports),
        backwards=sum(report.backwards for report in reports),
        largest_gap_s=max(report.largest_gap_s for report in reports),
    )
