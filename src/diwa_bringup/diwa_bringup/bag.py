"""``diwa bag info`` and ``diwa bag repair``."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from diwa_conventions.bags.definitions import full_name
from diwa_conventions.topics import ANNOTATION

if TYPE_CHECKING:
    from diwa_conventions.bags.reader import Bag
    from diwa_conventions.bags.repair import RepairReport
    from diwa_conventions.bags.sections import Section


@dataclass(frozen=True)
class BagInfo:
    """Say what is in a bag: duration, size, topics with counts and rates, tags, annotations, notes."""

    bag: tyro.conf.Positional[Path]
    """Folder of the bag, or one of its MCAP files."""

    def run(self) -> int:
        """0. UserError for a bag that cannot be read."""
        from diwa_conventions.bags.reader import Bag
        from diwa_conventions.bags.sections import sections

        bag = Bag(self.bag)
        found = sections(bag.catalogue.topics)
        lines = [*_clock(found), *_topics(bag, found), *_annotations(bag, found), *_remarks(bag)]
        print("\n".join([_heading(bag, found), *lines]))
        return 0


@dataclass(frozen=True)
class BagRepair:
    """Make a bag readable that was cut off by a kill, a full disk or an interrupted copy. Good bags are not touched.

    The repaired bag is written beside the original, which stays as it is.
    """

    bag: tyro.conf.Positional[Path]
    """Folder of the bag, or one of its MCAP files."""
    out: Path | None = None
    """Where the repaired bag goes; by default beside the original, with _repaired in its name."""
    in_place: bool = False
    """Repair the original itself, which needs hardly any room."""

    def run(self) -> int:
        """0. UserError if nothing can be repaired there."""
        from diwa_conventions.bags.repair import repair

        print("\n".join(_report(repair(self.bag, self.in_place, self.out))))
        return 0


def _heading(bag: Bag, found: list[Section]) -> str:
    begin = datetime.datetime.fromtimestamp(bag.start_ns * 1e-9).strftime("%Y-%m-%d %H:%M:%S")
    messages = sum(topic.messages for topic in bag.topics.values())
    if not messages:
        return f"{bag.path}: no messages"
    files = f", {len(bag.files)} files" if len(bag.files) > 1 else ""
    return (
        f"{bag.path}: {_length(_recorded_s(found))} from {begin}, {bag.size_bytes / 1e6:.1f} MB{files}, "
        f"{messages} messages"
    )


def _recorded_s(found: list[Section]) -> float:
    return sum(section.duration_s for section in found)


def _clock(found: list[Section]) -> list[str]:
    """A line for each step of the recorder's clock."""
    lines, at_s = [], 0.0
    for section in found:
        if section.step_ns is not None:
            way = "set back" if section.step_ns < 0 else "set forward, or the recording paused,"
            lines.append(f"clock: {way} by {abs(section.step_ns) * 1e-9:.3f} s at {at_s:.3f} s")
        at_s += section.duration_s
    return lines


def _length(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else f"{int(seconds) // 60} min {seconds % 60:.0f} s"


def _topics(bag: Bag, found: list[Section]) -> list[str]:
    """A line a topic, in columns."""
    topics = sorted(bag.topics.values(), key=lambda topic: topic.name)
    recorded_s = _recorded_s(found)
    rates = [topic.messages / recorded_s if recorded_s else 0.0 for topic in topics]
    rows = [(t.name, t.type, str(t.messages), f"{rate:.1f}") for t, rate in zip(topics, rates, strict=True)]
    rows = [("topic", "type", "messages", "Hz"), *rows]
    wide = [max(len(row[column]) for row in rows) for column in range(4)]
    return [
        f"  {name.ljust(wide[0])}  {kind.ljust(wide[1])}  {count.rjust(wide[2])}  {rate.rjust(wide[3])}"
        for name, kind, count, rate in rows
    ]


def _annotations(bag: Bag, found: list[Section]) -> list[str]:
    """A line a mark, with its time from the bag's beginning."""
    namespace = bag.custom.get("namespace", "diwa")
    name = full_name(ANNOTATION.name, namespace)
    marks = []
    for at_s, section in zip(accumulate(one.duration_s for one in found), found, strict=True):
        begin_s = at_s - section.duration_s
        if name in section.ranges:
            marks += [
                (begin_s + _since(section, message.log_ns, mark), mark)
                for message in bag.recorded([name], {name: section.ranges[name]})
                for mark in [bag.decode(message)]
            ]
    lines = []
    for at_s, mark in marks:
        note = f" ({mark.note})" if getattr(mark, "note", "") else ""
        lines.append(f"  {at_s:8.1f} s  {mark.skill}: {'success' if mark.success else 'failure'}{note}")
    return [f"annotations: {len(marks)}", *lines] if marks else []


def _since(section: Section, log_ns: int, mark: Any) -> float:
    """Seconds from the section's beginning to a mark's stamp, or to its arrival if the stamp is of another clock."""
    stamp_ns = mark.header.stamp.sec * 10**9 + mark.header.stamp.nanosec
    at_ns = stamp_ns if section.begin_ns <= stamp_ns <= log_ns else log_ns
    return (at_ns - section.begin_ns) * 1e-9


def _remarks(bag: Bag) -> list[str]:
    lines = [f"{name}: {value}" for name, value in bag.custom.items() if value]
    return [*lines, *(f"{name}: {_names(values)}" for name, values in bag.notes.items() if name != "custom_data")]


def _names(values: Mapping[str, str]) -> str:
    return ", ".join(sorted(values)) or "none"


def _report(report: RepairReport) -> list[str]:
    kept = sum(report.messages.values())
    summary = f"{kept} messages of {len(report.messages)} topics, {_length(report.duration_s)}"
    if report.nothing_to_repair:
        return [f"{report.path}: nothing to repair; {summary}"]
    what = [*report.repaired, *(["metadata.yaml"] if report.metadata_written else [])]
    lines = [f"{report.path}: repaired {', '.join(what)}; kept {summary}"]
    lines += [f"  {count:8d}  {topic}" for topic, count in sorted(report.messages.items())]
    if report.lost_bytes:
        lines.append(f"lost: {report.lost_bytes} bytes that were cut off or damaged")
    if report.missing:
        lines.append(f"lost: {', '.join(report.missing)}, named in metadata.yaml but not there")
    return lines
