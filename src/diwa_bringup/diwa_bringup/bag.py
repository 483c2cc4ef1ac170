"""``diwa bag info`` and ``diwa bag repair``."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from diwa_conventions.bags.definitions import full_name
from diwa_conventions.topics import ANNOTATION

if TYPE_CHECKING:
    from diwa_conventions.bags.reader import Bag
    from diwa_conventions.bags.repair import RepairReport


@dataclass(frozen=True)
class BagInfo:
    """Say what is in a bag: duration, size, topics with counts and rates, tags, annotations, notes."""

    bag: tyro.conf.Positional[Path]
    """Folder of the bag, or one of its MCAP files."""

    def run(self) -> int:
        """0. UserError for a bag that cannot be read."""
        from diwa_conventions.bags.reader import Bag

        bag = Bag(self.bag)
        print("\n".join([_heading(bag), *_topics(bag), *_annotations(bag), *_remarks(bag)]))
        return 0


@dataclass(frozen=True)
class BagRepair:
    """Make a bag readable that was cut off by a kill, a full disk or an interrupted copy. Good bags are not touched."""

    bag: tyro.conf.Positional[Path]
    """Folder of the bag, or one of its MCAP files."""

    def run(self) -> int:
        """0. UserError if nothing can be repaired there."""
        from diwa_conventions.bags.repair import repair

        print("\n".join(_report(repair(self.bag))))
        return 0


def _heading(bag: Bag) -> str:
    begin = datetime.datetime.fromtimestamp(bag.start_ns * 1e-9).strftime("%Y-%m-%d %H:%M:%S")
    messages = sum(topic.messages for topic in bag.topics.values())
    if not messages:
        return f"{bag.path}: no messages"
    files = f", {len(bag.files)} files" if len(bag.files) > 1 else ""
    return (
        f"{bag.path}: {_length(bag.duration_s)} from {begin}, {bag.size_bytes / 1e6:.1f} MB{files}, {messages} messages"
    )


def _length(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else f"{int(seconds) // 60} min {seconds % 60:.0f} s"


def _topics(bag: Bag) -> list[str]:
    """A line a topic, in columns."""
    topics = sorted(bag.topics.values(), key=lambda topic: topic.name)
    rates = [topic.messages / bag.duration_s if bag.duration_s else 0.0 for topic in topics]
    rows = [(t.name, t.type, str(t.messages), f"{rate:.1f}") for t, rate in zip(topics, rates, strict=True)]
    rows = [("topic", "type", "messages", "Hz"), *rows]
    wide = [max(len(row[column]) for row in rows) for column in range(4)]
    return [
        f"  {name.ljust(wide[0])}  {kind.ljust(wide[1])}  {count.rjust(wide[2])}  {rate.rjust(wide[3])}"
        for name, kind, count, rate in rows
    ]


def _annotations(bag: Bag) -> list[str]:
    """A line a mark, with its time from the bag's beginning."""
    namespace = bag.custom.get("namespace", "diwa")
    name = full_name(ANNOTATION.name, namespace)
    marks = [bag.decode(message) for message in bag.messages([name])] if name in bag.topics else []
    lines = []
    for mark in marks:
        at_s = mark.header.stamp.sec + mark.header.stamp.nanosec * 1e-9 - bag.start_ns * 1e-9
        note = f" ({mark.note})" if mark.note else ""
        lines.append(f"  {at_s:8.1f} s  {mark.skill}: {'success' if mark.success else 'failure'}{note}")
    return [f"annotations: {len(marks)}", *lines] if marks else []


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
