"""What lies in the chunks of an MCAP file, and the index at its end. Any damage is a DamageError."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import BinaryIO, NamedTuple, TypeAlias

import lz4.frame  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
import zstandard
from mcap.data_stream import ReadDataStream, RecordBuilder
from mcap.opcode import Opcode
from mcap.records import (
    AttachmentIndex,
    Channel,
    ChunkIndex,
    DataEnd,
    Footer,
    McapRecord,
    Metadata,
    MetadataIndex,
    Schema,
    Statistics,
    SummaryOffset,
)

IntArray: TypeAlias = npt.NDArray[np.int64]

MAGIC = b"\x89MCAP0\r\n"
LARGEST_CHUNK_BYTES = 2**30
"""A chunk that claims to be larger is damaged: it would not fit into memory."""

HEAD = struct.Struct("<BQ")
"""Opcode and length of every record."""
MESSAGE = struct.Struct("<HIQQ")
CHUNK = struct.Struct("<QQQII")
CHUNK_INDEX = struct.Struct("<BQHI")
"""Begin of a message index: opcode, length, channel, bytes of what follows."""
FOOTER = struct.Struct("<BQQQI")


class DamageError(ValueError):
    """The bytes are not what MCAP wants; says where and what."""


class Entry(NamedTuple):
    """One message of a chunk."""

    channel: int
    sequence: int
    log_ns: int
    publish_ns: int
    data: bytes


class ChunkHeader(NamedTuple):
    """What stands before the messages of a chunk."""

    start_ns: int
    end_ns: int
    raw_bytes: int
    crc: int
    compression: str
    data_offset: int
    """From the record's first byte after opcode and length."""
    data_bytes: int


@dataclass
class Index:
    """What the end of an MCAP file says about its content."""

    schemas: dict[int, Schema] = field(default_factory=dict)
    channels: dict[int, Channel] = field(default_factory=dict)
    chunks: list[ChunkIndex] = field(default_factory=list)
    attachments: list[AttachmentIndex] = field(default_factory=list)
    metadata: list[MetadataIndex] = field(default_factory=list)
    counts: dict[int, int] = field(default_factory=dict)
    """Messages by channel."""

    @property
    def messages(self) -> int:
        return sum(self.counts.values())

    @property
    def first_ns(self) -> int:
        return min((chunk.message_start_time for chunk in self.chunks), default=0)

    @property
    def last_ns(self) -> int:
        return max((chunk.message_end_time for chunk in self.chunks), default=0)

    def add_chunk(self, chunk: ChunkIndex, counts: Mapping[int, int]) -> None:
        self.chunks.append(chunk)
        for channel, count in counts.items():
            self.counts[channel] = self.counts.get(channel, 0) + count

    def define(self, opcode: int, payload: bytes) -> None:
        """Take a schema or a channel down; the first definition of a number counts."""
        record = parse(opcode, payload)
        if isinstance(record, Schema):
            self.schemas.setdefault(record.id, record)
        elif isinstance(record, Channel):
            self.channels.setdefault(record.id, record)

    def statistics(self) -> Statistics:
        return Statistics(
            attachment_count=len(self.attachments),
            channel_count=len(self.channels),
            channel_message_counts=dict(self.counts),
            chunk_count=len(self.chunks),
            message_count=self.messages,
            message_end_time=self.last_ns,
            message_start_time=self.first_ns,
            metadata_count=len(self.metadata),
            schema_count=len(self.schemas),
        )

    def to_bytes(self, at: int) -> bytes:
        """Everything that follows the data of a file, which ends at byte ``at``: the summary, footer and magic."""
        end = to_bytes(DataEnd(0))
        summary, offsets = bytearray(), []
        groups: list[tuple[Opcode, list[McapRecord]]] = [
            (Opcode.SCHEMA, list(self.schemas.values())),
            (Opcode.CHANNEL, list(self.channels.values())),
            (Opcode.STATISTICS, [self.statistics()]),
            (Opcode.CHUNK_INDEX, list(self.chunks)),
            (Opcode.ATTACHMENT_INDEX, list(self.attachments)),
            (Opcode.METADATA_INDEX, list(self.metadata)),
        ]
        start = at + len(end)
        for opcode, records in groups:
            group = b"".join(map(to_bytes, records))
            if group:
                offsets.append(SummaryOffset(opcode, start + len(summary), len(group)))
                summary += group
        offsets_start = start + len(summary)
        summary += b"".join(map(to_bytes, offsets))
        # The footer's check sum covers the footer itself up to there.
        head = FOOTER.pack(Opcode.FOOTER, 20, start, offsets_start, 0)[:-4]
        return end + summary + to_bytes(Footer(start, offsets_start, zlib.crc32(summary + head))) + MAGIC


def to_bytes(record: McapRecord) -> bytes:
    builder = RecordBuilder()
    record.write(builder)
    return bytes(builder.end())  # type: ignore[no-untyped-call]


def read_index(file: BinaryIO) -> Index | None:
    """The index at the end of an MCAP file, None if it has none or only a part of one."""
    size = file.seek(0, 2)
    ending = FOOTER.size + len(MAGIC)
    if size < len(MAGIC) + ending:
        return None
    file.seek(size - ending)
    footer = file.read(ending)
    opcode, length, start, _, crc = FOOTER.unpack_from(footer)
    if opcode != Opcode.FOOTER or length != 20 or not footer.endswith(MAGIC) or not 0 < start <= size - ending:
        return None
    file.seek(start)
    summary = file.read(size - ending - start)
    if crc and zlib.crc32(footer[: FOOTER.size - 4], zlib.crc32(summary)) != crc:
        raise DamageError("the index does not agree with its check sum")
    return _parse_index(summary)


def is_closed(file: BinaryIO) -> bool:
    """Whether an MCAP file ends as a file that was closed does, with or without an index."""
    ending = FOOTER.size + len(MAGIC)
    size = file.seek(0, 2)
    if size < len(MAGIC) + ending:
        return False
    file.seek(size - ending)
    footer = file.read(ending)
    return footer[0] == Opcode.FOOTER and footer.endswith(MAGIC)


def records(file: BinaryIO) -> Iterator[tuple[int, int, int]]:
    """Opcode, first byte and length of the payload of all records up to the end of the data; the file stands at the
    payload."""
    size, at = file.seek(0, 2), len(MAGIC)
    while at + HEAD.size <= size:
        file.seek(at)
        opcode, length = HEAD.unpack(file.read(HEAD.size))
        if opcode in (Opcode.DATA_END, Opcode.FOOTER):
            return
        if not opcode or length > size - at - HEAD.size:
            break
        yield opcode, at, length
        at += HEAD.size + length
    raise DamageError(f"the record at byte {at} is cut off, or no record")


def message_times(buffer: bytes) -> list[tuple[int, IntArray]]:
    """Channel, and log times and places in the chunk (N, 2), from the message indexes that follow a chunk."""
    found = []
    for opcode, begin, end in walk(buffer):
        if opcode == Opcode.MESSAGE_INDEX:
            channel, size = struct.unpack_from("<HI", buffer, begin)
            if size != end - begin - 6 or size % 16:
                raise DamageError("a message index does not have the length that it claims")
            found.append((channel, np.frombuffer(buffer, "<i8", size // 8, begin + 6).reshape(-1, 2)))
    return found


def _parse_index(summary: bytes) -> Index | None:
    index, counted = Index(), False
    for opcode, start, end in walk(summary):
        record = parse(opcode, summary[start:end])
        if isinstance(record, Schema):
            index.schemas[record.id] = record
        elif isinstance(record, Channel):
            index.channels[record.id] = record
        elif isinstance(record, ChunkIndex):
            index.chunks.append(record)
        elif isinstance(record, AttachmentIndex):
            index.attachments.append(record)
        elif isinstance(record, MetadataIndex):
            index.metadata.append(record)
        elif isinstance(record, Statistics):
            index.counts, counted = dict(record.channel_message_counts), True
    schemas = {channel.schema_id for channel in index.channels.values()} - {0}
    whole = counted and (bool(index.chunks) or not index.messages)
    whole = whole and set(index.counts) <= set(index.channels) and schemas <= set(index.schemas)
    return index if whole else None


_PARSERS: Mapping[int, Callable[[ReadDataStream], McapRecord]] = {
    Opcode.SCHEMA: Schema.read,
    Opcode.CHANNEL: Channel.read,
    Opcode.CHUNK_INDEX: ChunkIndex.read,
    Opcode.ATTACHMENT_INDEX: AttachmentIndex.read,
    Opcode.METADATA: Metadata.read,
    Opcode.METADATA_INDEX: MetadataIndex.read,
    Opcode.STATISTICS: Statistics.read,
}


def parse(opcode: int, payload: bytes) -> McapRecord | None:
    """A record of the index, a schema, a channel or a note; None for any other kind."""
    parser = _PARSERS.get(opcode)
    if parser is None:
        return None
    try:
        return parser(ReadDataStream(BytesIO(payload)))
    except Exception as error:  # mcap raises whatever struct and codecs do
        raise DamageError(f"record {Opcode(opcode).name} cannot be read ({type(error).__name__} {error})") from error


def walk(buffer: bytes, tolerant: bool = False) -> Iterator[tuple[int, int, int]]:
    """Opcode, first byte and end of the payload of all records in ``buffer``; ``tolerant``: a torn last one is left."""
    at, size = 0, len(buffer)
    while at < size:
        if at + HEAD.size > size:
            break
        opcode, length = HEAD.unpack_from(buffer, at)
        begin = at + HEAD.size
        if length > size - begin:
            break
        at = begin + length
        yield opcode, begin, at
    if at < size and not tolerant:
        raise DamageError(f"a record is cut off at byte {at} of {size}")


def entries(buffer: bytes, tolerant: bool = False) -> Iterator[Entry]:
    """The messages in the uncompressed bytes of a chunk."""
    for opcode, begin, end in walk(buffer, tolerant):
        if opcode == Opcode.MESSAGE:
            yield entry(buffer, begin, end)


def entry(buffer: bytes, begin: int = 0, end: int | None = None) -> Entry:
    """The message whose record's payload is ``buffer[begin:end]``."""
    end = len(buffer) if end is None else end
    if end - begin < MESSAGE.size:
        raise DamageError("a message is shorter than its header")
    channel, sequence, log_ns, publish_ns = MESSAGE.unpack_from(buffer, begin)
    return Entry(channel, sequence, log_ns, publish_ns, buffer[begin + MESSAGE.size : end])


def chunk_header(payload: bytes) -> ChunkHeader:
    """From the first bytes of a chunk's record after opcode and length."""
    try:
        start_ns, end_ns, raw_bytes, crc, length = CHUNK.unpack_from(payload)
        if length > 16:
            raise DamageError(f"a chunk's compression has a name of {length} bytes")
        name = payload[CHUNK.size : CHUNK.size + length].decode()
        (data_bytes,) = struct.unpack_from("<Q", payload, CHUNK.size + length)
    except (struct.error, UnicodeDecodeError) as error:
        raise DamageError(f"a chunk's header cannot be read ({error})") from error
    return ChunkHeader(start_ns, end_ns, raw_bytes, crc, name, CHUNK.size + length + 8, data_bytes)


def chunk_content(payload: bytes) -> bytes:
    """The uncompressed records of a chunk, checked against its size and check sum."""
    header = chunk_header(payload)
    if max(header.raw_bytes, header.data_bytes) > LARGEST_CHUNK_BYTES:
        raise DamageError(f"a chunk claims {header.raw_bytes} bytes; the most is {LARGEST_CHUNK_BYTES}")
    data = payload[header.data_offset : header.data_offset + header.data_bytes]
    try:
        raw = _decompress(data, header.compression, header.raw_bytes)
    except (zstandard.ZstdError, RuntimeError, MemoryError) as error:
        raise DamageError(f"a chunk cannot be uncompressed ({error})") from error
    if len(raw) != header.raw_bytes:
        raise DamageError(f"a chunk holds {len(raw)} bytes instead of {header.raw_bytes}")
    if header.crc and zlib.crc32(raw) != header.crc:
        raise DamageError("a chunk does not agree with its check sum")
    return raw


def _decompress(data: bytes, compression: str, size: int) -> bytes:
    if compression == "zstd":
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=size)
    if compression == "lz4":
        # Not more than it should be, however much it claims to be.
        return bytes(lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=size))
    if compression:
        raise DamageError(f"a chunk is compressed as {compression!r}; known: lz4, zstd")
    return data
