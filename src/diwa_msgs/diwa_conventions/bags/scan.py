"""Reads an MCAP file from its beginning, whatever its end looks like, and says what in it is whole."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from typing import BinaryIO

from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import AttachmentIndex, Channel, ChunkIndex, Metadata, MetadataIndex, Schema

from diwa_conventions.bags.chunks import (
    CHUNK_INDEX,
    HEAD,
    LARGEST_CHUNK_BYTES,
    MAGIC,
    DamageError,
    Entry,
    Index,
    chunk_content,
    chunk_header,
    entries,
    entry,
    parse,
    read_index,
    walk,
)

Visit = Callable[[Entry], None]


@dataclass
class Scan:
    """What is whole in a file."""

    size: int
    index: Index = field(default_factory=Index)
    """Of everything that is whole."""
    end: int = 0
    """Byte up to which the file is whole without a gap; its own index, if it has one, begins here."""
    notes: list[Metadata] = field(default_factory=list)
    lost_bytes: int = 0
    """In damaged places before the last whole chunk, and at the end if that is torn."""
    gaps: bool = False
    """Something whole follows something that is not, or messages lie outside of chunks: only a new file helps."""
    has_index: bool = False
    """Its own index agrees with what is there: nothing is to be done."""


class Scanner:
    """One pass over a file; ``visit`` gets every whole message in the order of the file."""

    def __init__(self, stream: BinaryIO, visit: Visit = lambda found: None) -> None:
        self._stream = stream
        self._visit = visit
        self._own = _own_index(stream)
        self._known = sorted(chunk.chunk_start_offset for chunk in self._own.chunks) if self._own else []
        self.scan = Scan(size=stream.seek(0, 2))
        self._at = 0
        self._broken = False
        """Something before was damaged, so that ``scan.end`` stays."""
        self._chunk: ChunkIndex | None = None
        """The last chunk while its message indexes are read."""
        self._counts: dict[int, int] = {}

    def run(self) -> Scan:
        scan = self.scan
        self._stream.seek(0)
        if self._stream.read(len(MAGIC)) != MAGIC:
            scan.gaps, scan.lost_bytes = True, scan.size
            return scan
        self._at = scan.end = len(MAGIC)
        while self._step():
            pass
        self._end_chunk()
        if not self._at_end():
            scan.lost_bytes += scan.size - max(self._at, scan.end)
        own = self._own
        scan.has_index = own is not None and not (scan.gaps or scan.lost_bytes) and _agree(own, scan.index)
        return scan

    def _step(self) -> bool:
        """Take the next record; False at the end of the data or of what can be understood."""
        if self._known and self._known[0] < self._at:  # lengths that are wrong led past a chunk
            self._at = self._known.pop(0)
            self._broken = True
        self._stream.seek(self._at)
        head = self._stream.read(HEAD.size)
        if len(head) == HEAD.size:
            opcode, length = HEAD.unpack(head)
            end = self._at + HEAD.size + length
            if opcode == Opcode.DATA_END and length == 4 and not self._known:
                return False
            if opcode not in (0, Opcode.DATA_END, Opcode.FOOTER) and end <= self.scan.size:
                self._take(opcode, length, end)
                return True
        return self._find_again()

    def _find_again(self) -> bool:
        """Go on at the next chunk that the file's own index knows of."""
        later = [offset for offset in self._known if offset > self._at]
        if not later:
            return False
        self._end_chunk()
        self.scan.lost_bytes += later[0] - self._at
        self._at, self._known, self._broken = later[0], later, True
        return True

    def _take(self, opcode: int, length: int, end: int) -> None:
        at = self._at
        self._known = [offset for offset in self._known if offset > at]
        if opcode == Opcode.MESSAGE_INDEX:
            self._take_message_index(at)
        else:
            self._end_chunk()
            try:
                self._take_other(opcode, at, length)
                if self._broken:
                    self.scan.gaps = True
                elif opcode != Opcode.CHUNK:
                    self.scan.end = end
            except DamageError:
                self._chunk = None
                self.scan.lost_bytes += end - at
                self._broken = True
        self._at = end

    def _take_other(self, opcode: int, at: int, length: int) -> None:
        index = self.scan.index
        if opcode == Opcode.CHUNK:
            self._take_chunk(at, length)
        elif opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
            self._define(opcode, self._stream.read(length))
        elif opcode == Opcode.METADATA:
            note = parse(opcode, self._stream.read(length))
            assert isinstance(note, Metadata)
            self.scan.notes.append(note)
            index.metadata.append(MetadataIndex(at, HEAD.size + length, note.name))
        elif opcode == Opcode.ATTACHMENT:
            index.attachments.append(_attachment(self._stream, at, length))
        elif opcode == Opcode.MESSAGE:
            self._count([entry(self._stream.read(length))])
            self.scan.gaps = True

    def _take_chunk(self, at: int, length: int) -> None:
        if length > LARGEST_CHUNK_BYTES:
            raise DamageError(f"a chunk claims {length} bytes")
        payload = self._stream.read(length)
        header, raw = chunk_header(payload), chunk_content(payload)
        for opcode, begin, end in walk(raw):
            if opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
                self._define(opcode, raw[begin:end])
        self._counts = self._count(list(entries(raw)))
        self._chunk = ChunkIndex(
            message_start_time=header.start_ns,
            message_end_time=header.end_ns,
            chunk_start_offset=at,
            chunk_length=HEAD.size + length,
            message_index_offsets={},
            message_index_length=0,
            compression=header.compression,
            compressed_size=header.data_bytes,
            uncompressed_size=header.raw_bytes,
        )

    def _define(self, opcode: int, payload: bytes) -> None:
        record, own = parse(opcode, payload), self._own or Index()
        # The file's own index has a check sum, this record has none.
        if isinstance(record, Schema):
            self.scan.index.schemas.setdefault(record.id, own.schemas.get(record.id, record))
        elif isinstance(record, Channel):
            record = own.channels.get(record.id, record)
            if record.schema_id and record.schema_id not in self.scan.index.schemas:
                raise DamageError(f"topic {record.topic} is of schema {record.schema_id}, which is not there")
            self.scan.index.channels.setdefault(record.id, record)

    def _count(self, found: list[Entry]) -> dict[int, int]:
        """Hand the messages on; how many by channel. Those of channels that nobody defines are lost."""
        self._adopt({one.channel for one in found} - set(self.scan.index.channels))
        counts: dict[int, int] = {}
        for one in found:
            if one.channel in self.scan.index.channels:
                counts[one.channel] = counts.get(one.channel, 0) + 1
                self._visit(one)
            else:
                self.scan.gaps = True
                self.scan.lost_bytes += len(one.data)
        return counts

    def _adopt(self, unknown: set[int]) -> None:
        """Channels whose definition was in a damaged place stand in the file's own index once more."""
        own, index = self._own, self.scan.index
        for number in unknown & set(own.channels if own else ()):
            assert own is not None
            channel = own.channels[number]
            index.channels[number] = channel
            if channel.schema_id in own.schemas:
                index.schemas.setdefault(channel.schema_id, own.schemas[channel.schema_id])

    def _take_message_index(self, at: int) -> None:
        self._stream.seek(at)
        head = self._stream.read(CHUNK_INDEX.size)
        if self._chunk is None or len(head) < CHUNK_INDEX.size:
            return
        _, length, channel, size = CHUNK_INDEX.unpack(head)
        if size == length - 6 == 16 * self._counts.get(channel, -1):
            self._chunk.message_index_offsets[channel] = at
            self._chunk.message_index_length += HEAD.size + length

    def _end_chunk(self) -> None:
        """The chunk before is over: it is whole with all its message indexes."""
        chunk, self._chunk = self._chunk, None
        if chunk is None:
            return
        if set(chunk.message_index_offsets) != set(self._counts):
            self._broken = True
            return
        self.scan.index.add_chunk(chunk, self._counts)
        if not self._broken:
            self.scan.end = self._at

    def _at_end(self) -> bool:
        """Whether the data ended in order, before the file's own index or at the very end."""
        self._stream.seek(self._at)
        rest = self._stream.read(1)
        return not rest or rest[0] == Opcode.DATA_END


def torn_entries(stream: BinaryIO, scan: Scan) -> list[Entry]:
    """Whole messages of the chunk, itself not whole, with which the file breaks off."""
    if scan.gaps or scan.size - scan.end > LARGEST_CHUNK_BYTES:
        return []
    stream.seek(scan.end)
    tail = stream.read()
    if len(tail) < HEAD.size or tail[0] != Opcode.CHUNK:
        return []
    payload = tail[HEAD.size : HEAD.size + HEAD.unpack_from(tail)[1]]
    found: list[Entry] = []
    with suppress(DamageError):
        if len(payload) == HEAD.unpack_from(tail)[1]:
            return [one for one in entries(chunk_content(payload)) if one.channel in scan.index.channels]
        header = chunk_header(payload)
        if not header.compression:
            data = payload[header.data_offset : header.data_offset + header.data_bytes]
            for one in entries(data, tolerant=True):
                # What a power cut left is not always what was written.
                if one.channel not in scan.index.channels or not header.start_ns <= one.log_ns <= header.end_ns:
                    break
                found.append(one)
    return found


def _own_index(stream: BinaryIO) -> Index | None:
    with suppress(DamageError):
        return read_index(stream)
    return None


def _attachment(stream: BinaryIO, at: int, length: int) -> AttachmentIndex:
    reader = ReadDataStream(BytesIO(stream.read(min(length, 2**16))))
    try:
        log_ns, create_ns = reader.read8(), reader.read8()
        name, media_type = reader.read_prefixed_string(), reader.read_prefixed_string()
        return AttachmentIndex(
            offset=at,
            length=HEAD.size + length,
            log_time=log_ns,
            create_time=create_ns,
            data_size=reader.read8(),
            name=name,
            media_type=media_type,
        )
    except Exception as error:  # mcap raises whatever struct and codecs do
        raise DamageError(f"an attachment cannot be read ({error})") from error


def _agree(own: Index, found: Index) -> bool:
    def key(index: Index) -> tuple[object, ...]:
        chunks = [(chunk.chunk_start_offset, chunk.message_index_offsets) for chunk in index.chunks]
        counts = {number: count for number, count in index.counts.items() if count}
        notes = [note.offset for note in index.metadata]
        return sorted(chunks, key=lambda pair: pair[0]), counts, sorted(notes), set(index.channels)

    return key(own) == key(found)
