"""Reads bags of any ROS 2 recorder: MCAP and sqlite3, compressed or not. Messages are decoded by their own definition.

Two orders are offered. :meth:`Bag.messages` goes by log time. :meth:`Bag.recorded` goes by the order in which the
messages were written, which a clock that is set cannot change.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zstandard

from diwa_conventions.bags.chunks import Entry, IntArray
from diwa_conventions.bags.message_types import Definition, MessageTypes
from diwa_conventions.bags.metadata import CUSTOM_NOTE, METADATA, read_metadata
from diwa_conventions.bags.storage import BAG_SUFFIXES, ZSTD_MAGIC, Block, Channel, Storage, open_storage
from diwa_conventions.errors import UserError


@dataclass(frozen=True)
class BagTopic:
    """One topic of a bag."""

    name: str
    type: str
    messages: int


class RawMessage(NamedTuple):
    """One message as it was recorded."""

    topic: str
    type: str
    log_ns: int
    """When it was received."""
    publish_ns: int
    data: bytes
    """CDR with its encapsulation header."""
    definition: Definition = Definition("")
    """Of its own channel."""


@dataclass(frozen=True)
class TopicTimes:
    """All N messages of one topic in the order of the file."""

    log_ns: IntArray
    """(N,)"""
    place: IntArray
    """(N,) how many messages of the whole bag were written before each."""


@dataclass(frozen=True)
class Catalogue:
    """When the messages of a bag were received, without the messages themselves."""

    topics: Mapping[str, TopicTimes]
    starts: Mapping[str, IntArray]
    """By topic (B + 1,): how many of its messages lie before each of the bag's B blocks, and in all of them."""

    def blocks_of(self, ranges: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
        """First block and one past the last of those that hold messages in the ranges."""
        firsts, ends = [], []
        for name, (first, end) in ranges.items():
            starts = self.starts[name]
            if first < min(end, int(starts[-1])):
                firsts.append(int(np.searchsorted(starts, first, side="right")) - 1)
                ends.append(int(np.searchsorted(starts, min(end, int(starts[-1])), side="left")))
        return min(firsts, default=0), max(ends, default=0)


class Bag:
    """A bag folder, or a single file of one, opened for reading.

    UserError, with what was found and the command that mends it, for a folder without bag files, a foreign file, and
    a file that was cut off (``diwa bag repair``).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        metadata = _metadata_of(path)
        opened = {file: self._open(file) for file in _present(path, metadata)}
        self.files = self._in_order(opened, metadata)
        """In the order in which they were recorded."""
        self._storages = [opened[file] for file in self.files]
        self._fill_in_types(metadata)
        self.notes: dict[str, dict[str, str]] = {}
        """Named records beside the messages, e.g. the parameters of all nodes."""
        for storage in self._storages:
            self.notes.update(storage.notes)
        self.topics = _topics(self._storages)
        self._blocks = [(opened[file], block, file) for file in self.files for block in opened[file].blocks]
        self.start_ns = min((block.start_ns for _, block, _ in self._blocks), default=0)
        self.end_ns = max((block.end_ns for _, block, _ in self._blocks), default=0)
        self._types = MessageTypes(path)

    @property
    def duration_s(self) -> float:
        """From the earliest to the latest log time; a clock that was set makes it long."""
        return (self.end_ns - self.start_ns) * 1e-9

    @property
    def size_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)

    @property
    def custom(self) -> Mapping[str, str]:
        """What the recorder said about the bag: tags, software."""
        return self.notes.get(CUSTOM_NOTE, {})

    def messages(
        self, topics: Collection[str] | None = None, start_ns: int | None = None, end_ns: int | None = None
    ) -> Iterator[RawMessage]:
        """Messages of these topics (None: all) in the order of their log time, from ``start_ns`` to before ``end_ns``.

        UserError where a file turns out to be damaged; what came before it is good.
        """
        low = 0 if start_ns is None else start_ns
        high = 2**64 if end_ns is None else end_ns
        for file, storage in zip(self.files, self._storages, strict=True):
            chosen = _chosen(storage, topics)
            blocks = [block for block in storage.blocks if _may_hold(block, chosen, low, high)]
            with _reading(file, self.path):
                for entry in _by_log_time(storage, blocks):
                    if entry.channel in chosen and low <= entry.log_ns < high:
                        yield _message(chosen[entry.channel], entry)

    def recorded(
        self, topics: Collection[str], ranges: Mapping[str, tuple[int, int]] | None = None
    ) -> Iterator[RawMessage]:
        """Messages of these topics in the order in which they were written.

        ``ranges`` limits each topic to the messages from the first number to before the second, which count the topic's
        messages from 0. UserError as of :meth:`messages`.
        """
        catalogue = self.catalogue
        first, end = catalogue.blocks_of(ranges or dict.fromkeys(topics, (0, 2**62)))
        wanted = _Wanted(catalogue, first, ranges)
        for number in range(first, end):
            storage, block, file = self._blocks[number]
            chosen = _chosen(storage, topics)
            if block.channels is not None and not block.channels & set(chosen):
                continue
            with _reading(file, self.path):
                for entry in storage.entries(block):
                    channel = chosen.get(entry.channel)
                    if channel is not None and wanted.take(channel.topic):
                        yield _message(channel, entry)

    @cached_property
    def catalogue(self) -> Catalogue:
        """When all messages were received; UserError for an index that does not agree with the messages."""
        parts: dict[str, list[tuple[IntArray, IntArray]]] = {name: [] for name in self.topics}
        starts = {name: [0] for name in self.topics}
        written = 0
        for storage, block, file in self._blocks:
            with _reading(file, self.path):
                times = storage.times(block)
            place = written + np.arange(len(times.log_ns))
            written += len(place)
            for count in starts.values():
                count.append(count[-1])
            for number in np.unique(times.channel).tolist():
                own, name = times.channel == number, storage.channels[number].topic
                parts[name].append((times.log_ns[own], place[own]))
                starts[name][-1] += int(own.sum())
        self._check_counts({name: count[-1] for name, count in starts.items()})
        none = np.zeros((2, 0), dtype=np.int64)
        topics = {name: TopicTimes(*_merged(np.hstack([none, *map(np.stack, found)]))) for name, found in parts.items()}
        return Catalogue(topics, {name: np.array(count) for name, count in starts.items()})

    def _check_counts(self, found: Mapping[str, int]) -> None:
        for name, topic in self.topics.items():
            if found[name] != topic.messages:
                raise UserError(
                    f"{self.path} is damaged (its index counts {topic.messages} messages on {name}, and {found[name]} "
                    f"are there); run: diwa bag repair {self.path}"
                )

    def decode(self, message: RawMessage) -> Any:
        """The message as an object with the fields of its own definition; UserError if that cannot be done."""
        definition = message.definition if message.definition.type else Definition(message.type)
        return self._types.decode(definition, message.topic, message.data)

    def is_known(self, definition: Definition) -> bool:
        """Whether messages of this definition lie as this install's do; UserError for one that cannot be read."""
        return self._types.is_known(definition)

    def _in_order(self, opened: Mapping[Path, Storage], metadata: Mapping[str, Any]) -> list[Path]:
        """Files by their first log time, whatever their names are.

        The order of metadata.yaml counts where the log times agree with it: where each file begins after the message
        that was written last into the one before. So a clock that was set back does not tear a recording apart.
        """
        files = [file for file, storage in opened.items() if storage.blocks]
        empty = [file for file in opened if file not in files]
        listed = len(metadata.get("relative_file_paths", ())) == len(opened)
        if not (listed and self._agree(files, opened)):
            files.sort(key=lambda file: min(block.start_ns for block in opened[file].blocks))
        return [*files, *empty]

    def _agree(self, files: list[Path], opened: Mapping[Path, Storage]) -> bool:
        for before, after in zip(files, files[1:], strict=False):
            with _reading(after, self.path):
                last = opened[before].times(opened[before].blocks[-1]).log_ns
                first = opened[after].times(opened[after].blocks[0]).log_ns
            if not len(last) or not len(first) or last[-1] > first[0]:
                return False
        return True

    def _open(self, file: Path) -> Storage:
        with _reading(file, self.path):
            return open_storage(file, self.path)

    def _fill_in_types(self, metadata: Mapping[str, Any]) -> None:
        """Channels without a schema have the type that metadata.yaml names."""
        named = metadata.get("topics_with_message_count") or []
        types = {topic["topic_metadata"]["name"]: str(topic["topic_metadata"]["type"]) for topic in named}
        for storage in self._storages:
            for number, channel in storage.channels.items():
                if not channel.definition.type and channel.topic in types:
                    definition = replace(channel.definition, type=types[channel.topic])
                    storage.channels[number] = replace(channel, definition=definition)


class _Wanted:
    """Counts the messages of each topic from a block on, and says which of them lie in their topic's range."""

    def __init__(self, catalogue: Catalogue, block: int, ranges: Mapping[str, tuple[int, int]] | None) -> None:
        self._next = {name: int(starts[block]) for name, starts in catalogue.starts.items()}
        self._ranges = ranges

    def take(self, topic: str) -> bool:
        """Count one message; whether it is in the range."""
        number = self._next[topic]
        self._next[topic] += 1
        if self._ranges is None:
            return True
        first, end = self._ranges[topic]
        return first <= number < end


def _merged(columns: IntArray) -> IntArray:
    """Log times and places (2, N) of a topic that a file defines twice, back in the order of the file."""
    return columns[:, np.argsort(columns[1], kind="stable")]


def _message(channel: Channel, entry: Entry) -> RawMessage:
    data = entry.data
    if data[:4] == ZSTD_MAGIC:  # rosbag2's compression_mode MESSAGE; no CDR begins like this
        data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    definition = channel.definition
    return RawMessage(channel.topic, definition.type, entry.log_ns, entry.publish_ns, data, definition)


def _chosen(storage: Storage, topics: Collection[str] | None) -> dict[int, Channel]:
    return {n: channel for n, channel in storage.channels.items() if topics is None or channel.topic in topics}


def _topics(storages: list[Storage]) -> dict[str, BagTopic]:
    topics: dict[str, BagTopic] = {}
    for storage in storages:
        for number, channel in storage.channels.items():
            before = topics.get(channel.topic)
            kind = channel.definition.type or (before.type if before else "")
            count = storage.counts.get(number, 0) + (before.messages if before else 0)
            topics[channel.topic] = BagTopic(channel.topic, kind, count)
    return topics


def _may_hold(block: Block, channels: Collection[int], low: int, high: int) -> bool:
    """Whether a block may hold messages of the channels in this time."""
    if block.end_ns < low or block.start_ns >= high:
        return False
    return block.channels is None or any(channel in channels for channel in block.channels)


def _by_log_time(storage: Storage, blocks: list[Block]) -> Iterator[Entry]:
    """Messages by log time. Only blocks that overlap in time are in memory together."""
    waiting: list[Entry] = []
    for block in sorted(blocks, key=attrgetter("start_ns", "first")):
        waiting.sort(key=attrgetter("log_ns"))
        ready = [entry for entry in waiting if entry.log_ns <= block.start_ns]
        waiting = waiting[len(ready) :]
        yield from ready
        del ready
        waiting += storage.entries(block)
    yield from sorted(waiting, key=attrgetter("log_ns"))


def _metadata_of(path: Path) -> Mapping[str, Any]:
    """Of a bag folder; empty for a single file and for a folder without metadata.yaml."""
    if not path.exists():
        raise UserError(f"there is no bag {path}")
    return (read_metadata(path) or {}) if path.is_dir() else {}


def _present(path: Path, metadata: Mapping[str, Any]) -> list[Path]:
    """The bag's files in the order of metadata.yaml, then the others by the numbers in their names."""
    if path.is_file():
        return [path]
    found = {file.name: file for file in bag_files(path)}
    if not found:
        others = ", ".join(sorted(file.name for file in path.iterdir())[:5]) or "nothing"
        raise UserError(f"{path} holds no bag file (found: {others}); expected files that end in .mcap or .db3")
    names = []
    for listed in [Path(name).name for name in metadata.get("relative_file_paths", ())]:
        # rosbag2 names a compressed file with or without its last suffix, by release.
        name = next((one for one in (listed, f"{listed}.zstd", listed.removesuffix(".zstd")) if one in found), None)
        if name is None:
            raise UserError(
                f"{path}: {METADATA} names {listed}, which is not there; copy it there, or do without: "
                f"diwa bag repair {path}"
            )
        names.append(name)
    return [found[name] for name in [*names, *in_number_order(set(found) - set(names))]]


def bag_files(folder: Path) -> list[Path]:
    """Files of a folder that may be a bag's; of one that is there compressed and uncompressed, the latter."""
    names = {file.name: file for suffix in BAG_SUFFIXES for file in folder.glob(f"*{suffix}")}
    return [file for name, file in names.items() if name.removesuffix(".zstd") == name or name[:-5] not in names]


def in_number_order(names: Collection[str]) -> list[str]:
    """File names by the number at their end: ``play_9.mcap`` before ``play_10.mcap``."""

    def number(name: str) -> tuple[int, str]:
        digits = name.partition(".")[0].rpartition("_")[2]
        return (int(digits) if digits.isdecimal() else 0, name)

    return sorted(names, key=number)


@contextmanager
def _reading(file: Path, bag: Path) -> Iterator[None]:
    """Whatever a damaged file leads to becomes a UserError."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    except Exception as error:  # struct, codecs, mcap, sqlite3: all by bytes that are not as they should be
        words = " ".join(str(error).split()) or type(error).__name__
        remedy = f"run: diwa bag repair {bag}"
        if isinstance(error, sqlite3.Error):
            remedy = f"save what can be read: sqlite3 {file} .recover | sqlite3 NEW.db3"
        raise UserError(f"{file} is damaged ({words}); {remedy}") from error
