"""One MCAP file being written. At every moment it is whole up to its last chunk, also after an error of the disk.

The record layouts are those of the ``mcap`` package; its own writer is not used because it cannot go on after an error
and copies every message three times (this one: once).
"""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Literal

import lz4.frame  # type: ignore[import-untyped]
import zstandard
from mcap.opcode import Opcode
from mcap.records import AttachmentIndex, Channel, ChunkIndex, Header, Metadata, MetadataIndex, Schema

from diwa_conventions.bags.chunks import CHUNK_INDEX, MAGIC, Index, to_bytes
from diwa_conventions.errors import UserError

Compression = Literal["none", "lz4", "zstd"]

PROFILE = "ros2"
LIBRARY = "diwa"
CHUNK_BYTES = 4 * 2**20
"""A chunk is written when it is larger than this: what a writer holds back at most, beside the last message."""

_MESSAGE = struct.Struct("<BQHIQQ")
_CHUNK = struct.Struct("<BQQQQII")
_NAMES: Mapping[Compression, str] = {"none": "", "lz4": "lz4", "zstd": "zstd"}


class McapFile:
    """Writes one file. Messages wait in memory for :meth:`flush`, which writes a chunk whole or not at all.

    After an OSError the messages of that chunk are gone and counted in ``lost``; :meth:`finish` can still be called.
    """

    def __init__(self, path: Path, compression: Compression = "none") -> None:
        self._begin(path, compression, "xb")
        try:
            self._append(MAGIC, to_bytes(Header(PROFILE, LIBRARY)))
        except OSError:
            self._file.close()
            path.unlink()
            raise

    @classmethod
    def resume(cls, path: Path, index: Index, end: int) -> McapFile:
        """Go on at byte ``end`` of a file whose content up to there is ``index``; what follows is cut off."""
        file = cls.__new__(cls)
        file._begin(path, "none", "r+b")
        file.index, file.end = index, end
        file._file.truncate(end)
        file._file.seek(end)
        return file

    def _begin(self, path: Path, compression: Compression, mode: Literal["xb", "r+b"]) -> None:
        self._file = open(path, mode, buffering=0)
        # Held until the process ends, however it ends: so nobody repairs a file that is being written.
        locked = is_locked(self._file)
        if locked:
            self._file.close()
            raise UserError(f"{path} is being written; stop its recording first")
        self._compression: Compression = compression
        self.index = Index()
        self.end = 0
        """Bytes in the file."""
        self.lost = 0
        """Messages that an error of the disk cost."""
        self._clear()

    def _clear(self) -> None:
        self._parts: list[bytes] = []
        self._offsets: dict[int, list[int]] = {}
        self._start_ns = self._end_ns = 0
        self.waiting_bytes = 0
        """In the chunk that is not yet written."""

    @property
    def finished(self) -> bool:
        return self._file.closed

    def add_schema(self, name: str, encoding: str, data: bytes) -> int:
        schema = Schema(id=len(self.index.schemas) + 1, name=name, encoding=encoding, data=data)
        # Outside of the chunks: no lost chunk takes the definitions with it.
        self._append(to_bytes(schema))
        self.index.schemas[schema.id] = schema
        return schema.id

    def add_channel(self, topic: str, schema: int, metadata: Mapping[str, str], encoding: str = "cdr") -> int:
        number = len(self.index.channels) + 1
        channel = Channel(id=number, topic=topic, message_encoding=encoding, schema_id=schema, metadata=dict(metadata))
        self._append(to_bytes(channel))
        self.index.channels[number] = channel
        return number

    def add_message(self, channel: int, log_ns: int, publish_ns: int, sequence: int, data: bytes) -> None:
        if self._parts:
            self._start_ns, self._end_ns = min(self._start_ns, log_ns), max(self._end_ns, log_ns)
        else:
            self._start_ns = self._end_ns = log_ns
        self._offsets.setdefault(channel, []).extend((log_ns, self.waiting_bytes))
        self._parts.append(_MESSAGE.pack(Opcode.MESSAGE, 22 + len(data), channel, sequence, log_ns, publish_ns))
        self._parts.append(data)
        self.waiting_bytes += _MESSAGE.size + len(data)
        if self.waiting_bytes > CHUNK_BYTES:
            self.flush()

    def add_metadata(self, name: str, values: Mapping[str, str]) -> None:
        data = to_bytes(Metadata(name, dict(values)))
        at = self.end
        self._append(data)
        self.index.metadata.append(MetadataIndex(at, len(data), name))

    def add_attachment(self, index: AttachmentIndex, record: bytes) -> None:
        """An attachment of another file as it stands there."""
        at = self.end
        self._append(record)
        self.index.attachments.append(replace(index, offset=at))

    def flush(self) -> None:
        """Write the messages that wait as one chunk with its index."""
        if not self._parts:
            return
        raw, offsets = b"".join(self._parts), self._offsets
        start_ns, end_ns = self._start_ns, self._end_ns
        self._clear()
        counts = {channel: len(pairs) // 2 for channel, pairs in offsets.items()}
        data, name = _compress(raw, self._compression), _NAMES[self._compression].encode()
        length = _CHUNK.size - 9 + len(name) + 8 + len(data)
        head = _CHUNK.pack(Opcode.CHUNK, length, start_ns, end_ns, len(raw), zlib.crc32(raw), len(name))
        head += name + struct.pack("<Q", len(data))
        chunk_bytes = len(head) + len(data)
        index = ChunkIndex(
            message_start_time=start_ns,
            message_end_time=end_ns,
            chunk_start_offset=self.end,
            chunk_length=chunk_bytes,
            message_index_offsets={},
            message_index_length=0,
            compression=name.decode(),
            compressed_size=len(data),
            uncompressed_size=len(raw),
        )
        tail = bytearray()
        for channel, pairs in offsets.items():
            index.message_index_offsets[channel] = self.end + chunk_bytes + len(tail)
            tail += CHUNK_INDEX.pack(Opcode.MESSAGE_INDEX, 6 + 8 * len(pairs), channel, 8 * len(pairs))
            tail += struct.pack(f"<{len(pairs)}Q", *pairs)
        index.message_index_length = len(tail)
        try:
            self._append(head, data, bytes(tail))
        except OSError:
            self.lost += sum(counts.values())
            raise
        self.index.add_chunk(index, counts)

    def sync(self) -> None:
        """Wait until the disk has what was written; then the system need not keep a copy of it in memory."""
        os.fdatasync(self._file.fileno())
        os.posix_fadvise(self._file.fileno(), 0, self.end, os.POSIX_FADV_DONTNEED)

    def finish(self, sync: bool = True) -> None:
        """Write what waits, the index and, with ``sync``, all of it to the disk; close the file, whatever happens.

        After an OSError the file is whole up to its last chunk; it has its index too if there was room for that.
        """
        if self.finished:
            return
        try:
            try:
                self.flush()
            finally:  # a chunk that did not fit leaves room
                self._append(self.index.to_bytes(self.end))
            if sync:
                os.fsync(self._file.fileno())
        finally:
            self._file.close()

    def _append(self, *buffers: bytes) -> None:
        """All of it or nothing: after an OSError the file ends where it did."""
        try:
            for buffer in buffers:
                left = memoryview(buffer)
                while left:
                    left = left[self._file.write(left) :]
        except OSError:
            with suppress(OSError):
                self._file.truncate(self.end)
                self._file.seek(self.end)
            raise
        self.end += sum(map(len, buffers))


def is_locked(file: IO[bytes]) -> bool:
    """Whether another process writes the file; if not, from now on this one does, until it closes ``file``."""
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    return False


def _compress(raw: bytes, compression: Compression) -> bytes:
    if compression == "lz4":
        return bytes(lz4.frame.compress(raw))
    if compression == "zstd":
        return zstandard.compress(raw, 1)
    return raw
