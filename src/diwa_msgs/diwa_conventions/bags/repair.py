"""Makes a bag readable again that was cut off by a kill, a full disk or an interrupted copy, or that was damaged.

The repaired bag is written beside the original, which stays as it is. In place, a file whose end is missing gets a new
end, which takes hardly any time and room; a file with damage in the middle is replaced. Good files are not touched:
legal files without chunks or index are good.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml

from diwa_conventions.bags.chunks import MAGIC, Entry, Index
from diwa_conventions.bags.mcap_file import Compression, McapFile, is_locked
from diwa_conventions.bags.metadata import (
    METADATA,
    FileSummary,
    TopicSummary,
    bag_span,
    read_metadata,
    write_metadata,
)
from diwa_conventions.bags.reader import Bag, bag_files
from diwa_conventions.bags.scan import Scan, Scanner, torn_entries
from diwa_conventions.bags.storage import SQLITE_MAGIC, ZSTD_MAGIC, Storage, not_a_bag, open_storage
from diwa_conventions.errors import UserError


@dataclass
class RepairReport:
    """What a repair found and did."""

    path: Path
    """The bag that can be read now: the repaired copy, or the original where it is good or was repaired in place."""
    repaired: list[str] = field(default_factory=list)
    """Files that were repaired."""
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


def repair(path: Path, in_place: bool = False, out: Path | None = None) -> RepairReport:
    """Repair the files of a bag folder, or one MCAP file, and write metadata.yaml again where that is needed.

    The result goes to ``out`` (default: beside the original, with ``_repaired`` in its name) unless ``in_place``.
    UserError if there is no bag, it is being written, a file is not MCAP, the result exists, or the disk has no room.
    """
    if in_place and out is not None:
        raise UserError(f"repairing in place writes no other bag; leave out either --in-place or --out {out}")
    files = [path] if path.is_file() else _files_in(path)
    broken = [file for file in files if not _is_whole(file, path)]
    if in_place or not (broken or (path.is_dir() and _needs_metadata(path, files))):
        return _repair_in_place(path, broken)
    target = out or path.with_name(f"{path.stem}_repaired{path.suffix}" if path.is_file() else f"{path.name}_repaired")
    if target.exists():
        raise UserError(f"{target} exists already; remove it, or choose another place with --out")
    try:
        return _repair_in_place(target, _copied(path, files, broken, target))
    except BaseException:
        shutil.rmtree(target, ignore_errors=True) if target.is_dir() else target.unlink(missing_ok=True)
        raise


def _copied(path: Path, files: Sequence[Path], broken: Sequence[Path], target: Path) -> list[Path]:
    """The bag under another name, before it is repaired there; its broken files. Good files are linked, not copied."""
    needed = sum(file.stat().st_size for file in broken)
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise UserError(
            f"{target} needs {needed / 1e6:.0f} MB and {free / 1e6:.0f} MB are free; free some, or choose another disk "
            "with --out, or repair the original with --in-place"
        )
    if path.is_file():
        shutil.copyfile(path, target)
        return [target]
    target.mkdir()
    for file in files:
        if file in broken:
            shutil.copyfile(file, target / file.name)
        else:
            _link(file, target / file.name)
    if (path / METADATA).exists():
        shutil.copyfile(path / METADATA, target / METADATA)
    return [target / file.name for file in broken]


def _link(file: Path, target: Path) -> None:
    try:
        os.link(file, target)
    except OSError:  # another disk, or a file system without links
        shutil.copyfile(file, target)


def _files_in(folder: Path) -> list[Path]:
    if not folder.exists():
        raise UserError(f"there is no bag {folder}")
    files = sorted(bag_files(folder))
    if not files:
        others = ", ".join(sorted(file.name for file in folder.iterdir())[:5]) or "nothing"
        raise UserError(f"{folder} holds no .mcap file (found: {others}); there is nothing to repair")
    return files


def _is_whole(file: Path, bag: Path) -> bool:
    """Whether a file is legal, closed and undamaged. UserError for what is not MCAP or is being written."""
    with open(file, "rb") as stream:
        begin = stream.read(len(SQLITE_MAGIC))
        if is_locked(stream):
            raise UserError(f"{file} is being written; stop its recording first")
    compressed, sqlite = begin.startswith(ZSTD_MAGIC), begin.startswith(SQLITE_MAGIC)
    if begin and not (compressed or sqlite or begin.startswith(MAGIC)):
        raise not_a_bag(file, begin)
    with suppress(Exception):  # struct, codecs, mcap, sqlite3: whatever damage leads to
        if _is_readable(open_storage(file, bag)):
            return True
    if sqlite or compressed:
        what = "an sqlite3 file: save what can be read with sqlite3 OLD .recover" if sqlite else "compressed: copy it"
        raise UserError(f"{file} is damaged, and only MCAP files can be repaired; this is {what} again")
    return False


def _is_readable(storage: Storage) -> bool:
    """Whether all of a file's messages are there, and where its index says."""
    counts: dict[int, int] = {}
    for block in storage.blocks:
        found, times = storage.entries(block), storage.times(block)
        if [(entry.channel, entry.log_ns) for entry in found] != list(zip(times.channel, times.log_ns, strict=True)):
            return False
        for entry in found:
            counts[entry.channel] = counts.get(entry.channel, 0) + 1
    return counts == {channel: count for channel, count in storage.counts.items() if count}


def _repair_in_place(path: Path, broken: Sequence[Path]) -> RepairReport:
    report = RepairReport(path)
    for file in broken:
        _repair_file(file, report)
    files = [path] if path.is_file() else _files_in(path)
    storages = [open_storage(file, path) for file in files]
    summaries = sorted(
        (_summary(file, storage) for file, storage in zip(files, storages, strict=True)),
        key=lambda summary: (not summary.messages, summary.first_ns),
    )
    topics = _topics(storages)
    report.messages = {topic.topic: topic.messages for topic in topics}
    report.duration_s = bag_span(summaries)[1] * 1e-9
    if path.is_dir():
        _repair_metadata(path, summaries, topics, report)
    return report


def _summary(file: Path, storage: Storage) -> FileSummary:
    first = min((block.start_ns for block in storage.blocks), default=0)
    last = max((block.end_ns for block in storage.blocks), default=0)
    return FileSummary(file.name, first, last, sum(storage.counts.values()))


def _repair_file(file: Path, report: RepairReport) -> None:
    with open(file, "rb") as stream:
        scan = Scanner(stream).run()
        torn = torn_entries(stream, scan)
    try:
        if scan.gaps or scan.has_index:
            _write_anew(file, scan)
        else:
            _mend_end(file, scan, torn)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            raise UserError(
                f"{file.parent} has no room for the index of {file.name}; free some and try again"
            ) from None
        raise
    report.repaired.append(file.name)
    report.lost_bytes += max(0, scan.lost_bytes - sum(len(entry.data) for entry in torn))


def _mend_end(file: Path, scan: Scan, torn: Sequence[Entry]) -> None:
    """Cut the torn end off, put what could be read of it and the index there."""
    mended = McapFile.resume(file, scan.index, scan.end)
    try:
        for entry in torn:
            mended.add_message(entry.channel, entry.log_ns, entry.publish_ns, entry.sequence, entry.data)
    finally:
        mended.finish()


def _write_anew(file: Path, scan: Scan) -> None:
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
        _copy(file, scan, new)
        os.replace(new, file)
    finally:
        new.unlink(missing_ok=True)


def _copy(file: Path, scan: Scan, new: Path) -> None:
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


def _define(target: McapFile, index: Index) -> dict[int, int]:
    """Announce all topics; from the old numbers of the channels to the new ones."""
    schemas = {s.id: target.add_schema(s.name, s.encoding, s.data) for s in index.schemas.values()}
    return {
        c.id: target.add_channel(c.topic, schemas.get(c.schema_id, 0), c.metadata, c.message_encoding)
        for c in index.channels.values()
    }


def _topics(storages: Sequence[Storage]) -> list[TopicSummary]:
    """All topics of all files, each once."""
    topics: dict[str, TopicSummary] = {}
    for storage in storages:
        for number, channel in storage.channels.items():
            before = topics.get(channel.topic)
            count = storage.counts.get(number, 0) + (before.messages if before else 0)
            kind = channel.definition.type
            topics[channel.topic] = TopicSummary(channel.topic, kind, channel.type_hash, _qos(channel.qos), count)
    return list(topics.values())


def _qos(text: str) -> list[Mapping[str, object]]:
    try:
        profiles = yaml.safe_load(text) or []
    except yaml.YAMLError:
        return []
    return [dict(profile) for profile in profiles] if isinstance(profiles, list) else []


def _needs_metadata(folder: Path, files: Sequence[Path]) -> bool:
    """Whether metadata.yaml is missing, cannot be read, or says something else than the files, all of them whole."""
    if any(_is_sqlite(file) for file in files):
        return False  # bags are read without it, and `ros2 bag reindex` writes it for ROS
    old = _old_metadata(folder)
    if old is None:
        return True
    listed = [Path(name).name for name in old["relative_file_paths"]]
    count = sum(sum(open_storage(file, folder).counts.values()) for file in files)
    return sorted(listed) != sorted(file.name for file in files) or old.get("message_count") != count


def _is_sqlite(file: Path) -> bool:
    return ".db3" in file.suffixes


def _old_metadata(folder: Path) -> Mapping[str, Any] | None:
    with suppress(UserError):
        return read_metadata(folder)
    return None


def _repair_metadata(
    folder: Path, summaries: Sequence[FileSummary], topics: Sequence[TopicSummary], report: RepairReport
) -> None:
    """Write metadata.yaml again where that is needed."""
    old = _old_metadata(folder) or {}
    names = [summary.name for summary in summaries]
    report.missing = [Path(name).name for name in old.get("relative_file_paths", ()) if Path(name).name not in names]
    if not report.repaired and not _needs_metadata(folder, [folder / name for name in names]):
        return
    custom = old.get("custom_data") or Bag(folder / names[0]).custom
    write_metadata(folder, summaries, topics, {str(key): str(value) for key, value in dict(custom).items()})
    report.metadata_written = True
