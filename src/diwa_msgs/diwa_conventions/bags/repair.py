"""Makes a bag readable again that was cut off by a kill, a full disk or an interrupted copy, or that was damaged.

A file whose end is missing is mended in place: its torn end is cut off and the index is written there, which takes no
time and hardly any room. A file with damage in the middle is written anew beside the old one, which it then replaces.
Good files are not touched.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml

from diwa_conventions.bags.chunks import Entry, Index
from diwa_conventions.bags.mcap_file import Compression, McapFile, is_locked
from diwa_conventions.bags.metadata import (
    FileSummary,
    TopicSummary,
    bag_span,
    read_metadata,
    write_metadata,
)
from diwa_conventions.bags.reader import Bag, check_kind, in_number_order
from diwa_conventions.bags.scan import Scan, Scanner, torn_entries
from diwa_conventions.errors import UserError


@dataclass
class RepairReport:
    """What a repair found and did."""

    path: Path
    repaired: list[str] = field(default_factory=list)
    """Files that were mended."""
    missing: list[str] = field(default_factory=list)
    """Files that metadata.yaml names and that are gone."""
    messages: dict[str, int] = field(default_factory=dict)
    """Kept, by topic."""
    duration_s: float = 0.0
    """From the first to the last message kept."""
    lost_bytes: int = 0
    """What could not be read, and so is gone."""
    metadata_written: bool = False

    @property
    def nothing_to_repair(self) -> bool:
        return not (self.repaired or self.metadata_written)


def repair(path: Path) -> RepairReport:
    """Mend the files of a bag folder, or one MCAP file, and write metadata.yaml anew where that is needed.

    UserError if there is no bag, it is being written, a file is not MCAP, or the disk has no room.
    """
    report = RepairReport(path)
    files = [path] if path.is_file() else _files_in(path)
    indexes = [_repair_file(file, report) for file in files]
    summaries = [FileSummary(f.name, i.first_ns, i.last_ns, i.messages) for f, i in zip(files, indexes, strict=True)]
    topics = _topics(indexes)
    report.messages = {topic.topic: topic.messages for topic in topics}
    report.duration_s = bag_span(summaries)[1] * 1e-9
    if path.is_dir():
        _repair_metadata(path, files, summaries, topics, report)
    return report


def _files_in(folder: Path) -> list[Path]:
    if not folder.exists():
        raise UserError(f"there is no bag {folder}")
    names = in_number_order({file.name for file in folder.glob("*.mcap")})
    if not names:
        others = ", ".join(sorted(file.name for file in folder.iterdir())[:5]) or "nothing"
        raise UserError(f"{folder} holds no .mcap file (found: {others}); there is nothing to repair")
    return [folder / name for name in names]


def _repair_file(file: Path, report: RepairReport) -> Index:
    with open(file, "rb") as stream:
        if is_locked(stream):
            raise UserError(f"{file} is being written; stop its recording first")
        if file.stat().st_size:
            check_kind(file, stream)
        scan = Scanner(stream).run()
        if scan.has_index:
            return scan.index
        torn = torn_entries(stream, scan)
    try:
        index = _write_anew(file, scan) if scan.gaps else _mend_end(file, scan, torn)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            raise UserError(
                f"{file.parent} has no room for the index of {file.name}; free some and try again"
            ) from None
        raise
    report.repaired.append(file.name)
    report.lost_bytes += max(0, scan.lost_bytes - sum(len(entry.data) for entry in torn))
    return index


def _mend_end(file: Path, scan: Scan, torn: Sequence[Entry]) -> Index:
    """Cut the torn end off, put what could be read of it and the index there."""
    mended = McapFile.resume(file, scan.index, scan.end)
    try:
        for entry in torn:
            mended.add_message(entry.channel, entry.log_ns, entry.publish_ns, entry.sequence, entry.data)
    finally:
        mended.finish()
    return mended.index


def _write_anew(file: Path, scan: Scan) -> Index:
    """A new file of all that is whole, which then replaces the old one."""
    free = shutil.disk_usage(file.parent).free
    if free < scan.size:
        raise UserError(
            f"{file} must be written anew, which needs {scan.size / 1e6:.0f} MB; {free / 1e6:.0f} MB are free; "
            "free some, or copy the bag to another disk and repair it there"
        )
    new = file.with_name(file.name + ".repairing")
    new.unlink(missing_ok=True)
    try:
        index = _copy(file, scan, new)
        os.replace(new, file)
    finally:
        new.unlink(missing_ok=True)
    return index


def _copy(file: Path, scan: Scan, new: Path) -> Index:
    used = {chunk.compression for chunk in scan.index.chunks} or {""}
    target = McapFile(new, cast(Compression, used.pop() or "none"))
    try:
        channels = _define(target, scan.index)
        for note in scan.notes:
            target.add_metadata(note.name, note.metadata)
        with open(file, "rb") as stream:
            for attachment in scan.index.attachments:
                stream.seek(attachment.offset)
                target.add_attachment(attachment, stream.read(attachment.length))
            Scanner(
                stream, lambda e: target.add_message(channels[e.channel], e.log_ns, e.publish_ns, e.sequence, e.data)
            ).run()
    finally:
        target.finish()
    return target.index


def _define(target: McapFile, index: Index) -> dict[int, int]:
    """Announce all topics; from the old numbers of the channels to the new ones."""
    schemas = {s.id: target.add_schema(s.name, s.encoding, s.data) for s in index.schemas.values()}
    return {
        c.id: target.add_channel(c.topic, schemas.get(c.schema_id, 0), c.metadata, c.message_encoding)
        for c in index.channels.values()
    }


def _topics(indexes: Sequence[Index]) -> list[TopicSummary]:
    """All topics of all files, each once."""
    topics: dict[str, TopicSummary] = {}
    for index in indexes:
        for number, channel in index.channels.items():
            before = topics.get(channel.topic)
            count = index.counts.get(number, 0) + (before.messages if before else 0)
            kind = index.schemas[channel.schema_id].name if channel.schema_id in index.schemas else ""
            type_hash = channel.metadata.get("topic_type_hash", "")
            qos = _qos(channel.metadata.get("offered_qos_profiles", ""))
            topics[channel.topic] = TopicSummary(channel.topic, kind, type_hash, qos, count)
    return list(topics.values())


def _qos(text: str) -> list[Mapping[str, object]]:
    try:
        profiles = yaml.safe_load(text) or []
    except yaml.YAMLError:
        return []
    return [dict(profile) for profile in profiles] if isinstance(profiles, list) else []


def _repair_metadata(
    folder: Path,
    files: Sequence[Path],
    summaries: Sequence[FileSummary],
    topics: Sequence[TopicSummary],
    report: RepairReport,
) -> None:
    """Write metadata.yaml anew if it is missing, cannot be read, or says something else than the files."""
    try:
        old: Mapping[str, Any] | None = read_metadata(folder)
    except UserError:
        old = None
    if old is not None:
        listed = [Path(name).name for name in old["relative_file_paths"]]
        names = [file.name for file in files]
        report.missing = [name for name in listed if name not in names]
        count = sum(summary.messages for summary in summaries)
        if sorted(listed) == sorted(names) and old.get("message_count") == count and not report.repaired:
            return
    custom = (old or {}).get("custom_data") or Bag(files[0]).custom
    write_metadata(folder, summaries, topics, {str(key): str(value) for key, value in dict(custom).items()})
    report.metadata_written = True
