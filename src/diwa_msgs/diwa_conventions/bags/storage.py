"""The files of a bag, whatever their format: MCAP with or without chunks and index, sqlite3, compressed or not.

Each file is read in blocks, in the order in which it was written.
"""

from __future__ import annotations

import errno
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import zstandard
from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import ChunkIndex, Metadata, MetadataIndex

from diwa_conventions.bags.chunks import (
    HEAD,
    MAGIC,
    MESSAGE,
    DamageError,
    Entry,
    Index,
    IntArray,
    chunk_content,
    chunk_header,
    entries,
    entry,
    is_closed,
    message_times,
    read_index,
    records,
    walk,
)
from diwa_conventions.bags.mcap_file import is_locked
from diwa_conventions.bags.message_types import CDR, Definition
from diwa_conventions.errors import UserError

SQLITE_MAGIC = b"SQLite format 3\0"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
BAG_SUFFIXES = (".mcap", ".db3", ".mcap.zstd", ".db3.zstd")
_ROWS = 500
"""Messages of an sqlite3 bag that are read in one go."""
_RUN_BYTES = 4 * 2**20
"""Messages outside of chunks are read in runs of about this size."""


@dataclass(frozen=True)
class Channel:
    """One topic as one file defines it; a file may define a topic more than once."""

    topic: str
    definition: Definition
    type_hash: str = ""
    """As the recorder wrote it."""
    qos: str = ""
    """What the publishers offered, as YAML."""


@dataclass(frozen=True)
class Times:
    """When the N messages of a block were received, in the order in which they were written."""

    channel: IntArray
    """(N,)"""
    log_ns: IntArray
    """(N,)"""


@dataclass(frozen=True)
class Block:
    """A stretch of a file that is read in one go."""

    first: int
    """Byte of an MCAP file, or row of an sqlite3 file."""
    length: int
    start_ns: int
    """Earliest and latest log time in it."""
    end_ns: int
    channels: frozenset[int] | None = None
    """Whose messages are in it; None: not known before it is read."""


class Storage(Protocol):
    """One file, open for reading. Damage is a DamageError or an error of the format's own library."""

    channels: dict[int, Channel]
    counts: dict[int, int]
    """Messages by channel."""
    blocks: list[Block]
    """In the order of the file."""
    notes: dict[str, dict[str, str]]

    def times(self, block: Block) -> Times: ...

    def entries(self, block: Block) -> list[Entry]: ...


def open_storage(file: Path, bag: Path) -> Storage:
    """UserError for an empty, foreign or unfinished file, with the command that helps."""
    if not file.stat().st_size:
        raise UserError(f"{file} is empty: nothing was recorded into it; run: diwa bag repair {bag}")
    content, begin = _Content(file, file), _begin_of(file)
    if begin.startswith(ZSTD_MAGIC):
        content = _uncompressed(file)
        begin = _begin_of(content.path)
    if begin.startswith(SQLITE_MAGIC):
        return SqliteStorage(content)
    if not begin.startswith(MAGIC):
        raise not_a_bag(file, begin)
    return McapStorage(content, bag)


def not_a_bag(file: Path, begin: bytes) -> UserError:
    """The error for a file that is neither MCAP nor sqlite3."""
    hint = " (a ROS 1 bag; convert it with rosbags-convert)" if begin.startswith(b"#ROSBAG V") else ""
    return UserError(
        f"{file} is not an MCAP file and no sqlite3 bag: it begins with {begin[:8]!r}{hint}; expected {MAGIC!r}"
    )


@dataclass(frozen=True)
class _Content:
    """A file of a bag, and where its uncompressed content lies."""

    file: Path
    path: Path
    temporary: Any = None
    """Removed from the disk when nothing refers to it any more."""


def _begin_of(path: Path) -> bytes:
    with open(path, "rb") as stream:
        return stream.read(16)


def _uncompressed(file: Path) -> _Content:
    """The content of a file that is compressed as a whole, in a temporary file."""
    temporary = tempfile.NamedTemporaryFile(prefix="diwa_bag_")
    try:
        with open(file, "rb") as stream:
            zstandard.ZstdDecompressor().copy_stream(stream, temporary)
        temporary.flush()
    except zstandard.ZstdError as error:
        raise DamageError(f"it cannot be uncompressed ({error})") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"{tempfile.gettempdir()} has no room for {file} uncompressed; free some, or name another folder: "
                "TMPDIR=/large/disk diwa ..."
            ) from error
        raise
    return _Content(file, Path(temporary.name), temporary)


class McapStorage:
    """An MCAP file. One that is closed but has no index is read once from its beginning to make one."""

    def __init__(self, content: _Content, bag: Path) -> None:
        self._content = content
        self.notes: dict[str, dict[str, str]] = {}
        with open(content.path, "rb") as stream:
            index = read_index(stream)
            if index is None:
                self._check_closed(stream, bag)
                index, self.blocks = _scanned(stream)
            else:
                self.blocks = [_block_of(chunk) for chunk in sorted(index.chunks, key=_offset)]
            for note in index.metadata:
                record = _note(stream, note.offset, note.length)
                self.notes[record.name] = dict(record.metadata)
        self.counts = dict(index.counts)
        self._chunks = {chunk.chunk_start_offset: chunk for chunk in index.chunks}
        self.channels = {number: _channel(index, number) for number in index.channels}

    def _check_closed(self, stream: BinaryIO, bag: Path) -> None:
        file = self._content.file
        if is_closed(stream):
            return
        if is_locked(stream):
            raise UserError(f"{file} is still being written; stop its recording first")
        raise UserError(f"{file} has no end: it was not closed; run: diwa bag repair {bag}")

    def times(self, block: Block) -> Times:
        """From the index of the chunk where it has one, else from its messages."""
        chunk = self._chunks.get(block.first)
        found: list[tuple[int, IntArray]] = []
        if chunk is not None and chunk.message_index_length:
            with open(self._content.path, "rb") as stream:
                stream.seek(block.first + block.length)
                found = message_times(stream.read(chunk.message_index_length))
        if found:
            channel = np.repeat([number for number, _ in found], [len(rows) for _, rows in found])
            rows = np.concatenate([rows for _, rows in found])
            order = np.argsort(rows[:, 1], kind="stable")
            return Times(channel[order], rows[order, 0])
        messages = self.entries(block)
        return Times(_ints(entry.channel for entry in messages), _ints(entry.log_ns for entry in messages))

    def entries(self, block: Block) -> list[Entry]:
        with open(self._content.path, "rb") as stream:
            if block.first in self._chunks:
                opcode, payload = _record(stream, block.first, block.length)
                if opcode != Opcode.CHUNK:
                    raise DamageError(f"there is no chunk at byte {block.first}, where the index has one")
                found = list(entries(chunk_content(payload)))
            else:
                stream.seek(block.first)
                found = list(entries(stream.read(block.length)))
        unknown = {entry.channel for entry in found} - set(self.channels)
        if unknown:
            raise DamageError(f"a message is of channel {min(unknown)}, which the index lacks")
        return found


def _offset(chunk: ChunkIndex) -> int:
    return int(chunk.chunk_start_offset)


def _ints(values: Iterable[int]) -> IntArray:
    return np.fromiter(values, dtype=np.int64)


def _block_of(chunk: ChunkIndex) -> Block:
    channels = frozenset(chunk.message_index_offsets) or None
    return Block(
        chunk.chunk_start_offset, chunk.chunk_length, chunk.message_start_time, chunk.message_end_time, channels
    )


def _channel(index: Index, number: int) -> Channel:
    channel = index.channels[number]
    schema = index.schemas.get(channel.schema_id)
    encoding, definition = channel.message_encoding or CDR, Definition("")
    if schema is not None:
        definition = Definition(schema.name, schema.encoding, schema.data.decode(errors="replace"))
    values = channel.metadata
    return Channel(
        channel.topic,
        replace(definition, encoding=encoding),
        values.get("topic_type_hash", ""),
        values.get("offered_qos_profiles", ""),
    )


def _scanned(stream: BinaryIO) -> tuple[Index, list[Block]]:
    """Index and blocks of a closed file, from its records."""
    index, blocks, run = Index(), list[Block](), _Run()
    for opcode, at, length in records(stream):
        if opcode != Opcode.MESSAGE or run.length > _RUN_BYTES:
            blocks += run.end(index)
        if opcode == Opcode.MESSAGE:
            run.add(at, HEAD.size + length, entry(stream.read(min(length, MESSAGE.size))))
        elif opcode == Opcode.CHUNK:
            blocks.append(_scan_chunk(index, at, stream.read(length)))
        elif opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
            index.define(opcode, stream.read(length))
        elif opcode == Opcode.METADATA:
            index.metadata.append(MetadataIndex(at, HEAD.size + length, ""))
    blocks += run.end(index)
    return index, blocks


class _Run:
    """Messages in a row outside of chunks."""

    def __init__(self) -> None:
        self._begin = self.length = 0
        self._channels: list[int] = []
        self._log_ns: list[int] = []

    def add(self, at: int, length: int, message: Entry) -> None:
        if not self._channels:
            self._begin = at
        self.length = at + length - self._begin
        self._channels.append(message.channel)
        self._log_ns.append(message.log_ns)

    def end(self, index: Index) -> list[Block]:
        """The run as a block, if there is one; counts its messages."""
        if not self._channels:
            return []
        for channel, count in Counter(self._channels).items():
            index.counts[channel] = index.counts.get(channel, 0) + count
        block = Block(self._begin, self.length, min(self._log_ns), max(self._log_ns), frozenset(self._channels))
        self.__init__()  # type: ignore[misc]
        return [block]


def _scan_chunk(index: Index, at: int, payload: bytes) -> Block:
    header, raw = chunk_header(payload), chunk_content(payload)
    for opcode, begin, end in walk(raw):
        if opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
            index.define(opcode, raw[begin:end])
    found = list(entries(raw))
    times = [one.log_ns for one in found] or [0]
    counts = Counter(one.channel for one in found)
    chunk = ChunkIndex(
        message_start_time=min(times),
        message_end_time=max(times),
        chunk_start_offset=at,
        chunk_length=HEAD.size + len(payload),
        message_index_offsets=dict.fromkeys(counts, 0),
        message_index_length=0,
        compression=header.compression,
        compressed_size=header.data_bytes,
        uncompressed_size=header.raw_bytes,
    )
    index.add_chunk(chunk, counts)
    return _block_of(chunk)


def _note(stream: BinaryIO, at: int, length: int) -> Metadata:
    opcode, payload = _record(stream, at, length)
    if opcode != Opcode.METADATA:
        raise DamageError(f"there is no note at byte {at}, where the index has one")
    note: Metadata = Metadata.read(ReadDataStream(BytesIO(payload)))
    return note


def _record(stream: BinaryIO, at: int, length: int) -> tuple[int, bytes]:
    """Opcode and payload of the record at byte ``at``; ``length`` with opcode and length."""
    size = stream.seek(0, 2)
    if not HEAD.size <= length <= size - at:
        raise DamageError(f"the record at byte {at} should have {length} bytes; the file ends after {size}")
    stream.seek(at)
    opcode, inside = HEAD.unpack(stream.read(HEAD.size))
    if inside != length - HEAD.size:
        raise DamageError(f"the record at byte {at} has {inside} bytes instead of {length - HEAD.size}")
    return opcode, stream.read(inside)


class SqliteStorage:
    """A .db3 file of rosbag2, opened for reading only."""

    def __init__(self, content: _Content) -> None:
        self._content = content
        self.notes: dict[str, dict[str, str]] = {}
        self._database = _opened(content.path)
        self.channels = self._read_channels()
        rows = self._database.execute("SELECT id, topic_id, timestamp FROM messages ORDER BY id").fetchall()
        self._rows: IntArray = np.array(rows, dtype=np.int64).reshape(-1, 3)
        unknown = set(self._rows[:, 1].tolist()) - set(self.channels)
        if unknown:
            raise DamageError(f"messages are of topic {min(unknown)}, which the file lacks")
        numbers, counts = np.unique(self._rows[:, 1], return_counts=True)
        self.counts: dict[int, int] = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
        self.blocks = [self._block(first) for first in range(0, len(self._rows), _ROWS)]

    def _read_channels(self) -> dict[int, Channel]:
        tables = {name for (name,) in self._database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {"topics", "messages"} <= tables:
            names = ", ".join(sorted(tables)) or "none"
            raise UserError(
                f"{self._content.file} is an sqlite3 file, but no bag: it has the tables {names}; expected topics and "
                "messages"
            )
        definitions: dict[str, tuple[str, str]] = {}
        if "message_definitions" in tables:  # Jazzy and later
            query = "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
            definitions = {kind: (language, text) for kind, language, text in self._database.execute(query)}
        channels = {}
        for number, name, kind, encoding in self._database.execute(
            "SELECT id, name, type, serialization_format FROM topics"
        ):
            language, text = definitions.get(kind, ("", ""))
            channels[number] = Channel(name, Definition(kind, language, text, encoding or CDR))
        return channels

    def _block(self, first: int) -> Block:
        rows = self._rows[first : first + _ROWS]
        return Block(
            first, len(rows), int(rows[:, 2].min()), int(rows[:, 2].max()), frozenset(np.unique(rows[:, 1]).tolist())
        )

    def times(self, block: Block) -> Times:
        rows = self._rows[block.first : block.first + block.length]
        return Times(rows[:, 1], rows[:, 2])

    def entries(self, block: Block) -> list[Entry]:
        rows = self._rows[block.first : block.first + block.length]
        found = self._database.execute(
            "SELECT topic_id, timestamp, data FROM messages WHERE id BETWEEN ? AND ? ORDER BY id",
            (int(rows[0, 0]), int(rows[-1, 0])),
        )
        return [Entry(number, 0, log_ns, log_ns, bytes(data)) for number, log_ns, data in found]


def _opened(path: Path) -> sqlite3.Connection:
    """Read only. The plain mode also reads a write-ahead log; in a read-only folder only ``immutable`` works."""
    uri = f"{path.resolve().as_uri()}?mode=ro"
    database = sqlite3.connect(uri, uri=True, check_same_thread=False)
    try:
        database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        if path.with_name(path.name + "-wal").exists():
            raise
        database = sqlite3.connect(f"{uri}&immutable=1", uri=True, check_same_thread=False)
    return database
