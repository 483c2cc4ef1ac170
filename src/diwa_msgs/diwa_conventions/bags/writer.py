"""Writes bags that a crash cannot spoil: MCAP chunks of at most half a second, each handed to the system at once."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path

from diwa_conventions.bags.definitions import Connection
from diwa_conventions.bags.mcap_file import CHUNK_BYTES, Compression, McapFile
from diwa_conventions.bags.metadata import (
    CUSTOM_NOTE,
    METADATA,
    FileSummary,
    bag_span,
    qos_text,
    summary_of,
    write_metadata,
)
from diwa_conventions.errors import UserError

__all__ = ["CHUNK_BYTES", "CHUNK_S", "METADATA", "BagWriter", "Compression", "Split"]

CHUNK_S = 0.5
"""What a kill can cost at most, twice: a chunk is written when it is this old and a new message or a tick comes."""


@dataclass(frozen=True)
class Split:
    """When a new file begins; 0 means never."""

    bytes: int = 0
    seconds: float = 0.0


@dataclass
class _Channel:
    connection: Connection
    id: int = 0
    """In the present file."""
    written: int = 0
    """Messages in the files before."""


class BagWriter:
    """Writes one bag: ``<folder>/<folder's name>_0.mcap``, ``_1`` ... and, at the end, ``metadata.yaml``.

    UserError if the folder exists and holds anything. After an OSError (disk full, say) what was written before it
    is whole; call :meth:`close`, which writes the index and metadata.yaml if there is room for them; if not,
    :func:`diwa_conventions.bags.repair.repair` does it later. One thread at a time.
    """

    def __init__(
        self,
        folder: Path,
        compression: Compression = "none",
        split: Split = Split(),
        custom: Mapping[str, str] | None = None,
        chunk_s: float = CHUNK_S,
        sync_s: float = inf,
    ) -> None:
        """``chunk_s`` inf: chunks end by size alone, so that the same messages make the same bytes. Every ``sync_s``
        what was written is forced from the system's memory to the disk: a power cut costs no more, and a fast
        recording does not pile up gigabytes that then hold everything up."""
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} exists already and is not an empty folder; choose another bag folder")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.lost = 0
        """Messages that an OSError cost."""
        self._compression: Compression = compression
        self._chunk_s = chunk_s
        self._split = split
        self._custom = dict(custom or {})
        self._channels: list[_Channel] = []
        self._notes: list[tuple[str, dict[str, str]]] = [(CUSTOM_NOTE, self._custom)] if self._custom else []
        self._files: list[FileSummary] = []
        self._earlier_bytes = 0
        self._schemas: dict[str, int] = {}
        self._flushed_s = 0.0
        self._sync_s = sync_s
        self._synced_s = time.monotonic()
        self._closed = False
        self._syncing: list[threading.Thread] = []
        self._begin_file()

    @property
    def bytes_written(self) -> int:
        """Of all files so far, the unwritten chunk not counted."""
        return self._earlier_bytes + self._file.end

    @property
    def messages(self) -> int:
        """Those of the unwritten chunk are counted."""
        return sum(file.messages for file in self._files)

    @property
    def duration_s(self) -> float:
        """From the first to the last message."""
        return bag_span(self._files)[1] * 1e-9

    def add(self, connection: Connection) -> int:
        """Announce a topic; the number to write its messages with."""
        channel = _Channel(connection)
        self._register(channel)
        self._channels.append(channel)
        return len(self._channels) - 1

    def write(
        self, channel: int, log_ns: int, data: bytes | memoryview, publish_ns: int = 0, sequence: int = 0
    ) -> None:
        """One message in CDR with its header; ``log_ns``: when it was received, ``publish_ns``: sent (0: the same)."""
        if self._is_full(log_ns):
            self._end_file()
            self._earlier_bytes += self._file.end
            self._begin_file()
        self._files[-1].add(log_ns)
        # A view's owner may change the bytes before they are written.
        whole = data if isinstance(data, bytes) else bytes(data)
        self._file.add_message(self._channels[channel].id, log_ns, publish_ns or log_ns, sequence % 2**32, whole)
        self.tick()

    def note(self, name: str, values: Mapping[str, str]) -> None:
        """A named record of texts beside the messages (parameters of nodes, tags); repeated in each later file."""
        self._notes.append((name, dict(values)))
        self._file.add_metadata(name, values)

    def tick(self) -> None:
        """Hand a chunk that is old enough to the system. Call it also when no messages come."""
        now_s = time.monotonic()
        if now_s - self._flushed_s >= self._chunk_s:
            self._flushed_s = now_s
            self._file.flush()
        if now_s - self._synced_s >= self._sync_s:
            self._file.sync()
            self._synced_s = time.monotonic()

    def close(self) -> None:
        """Write the index and metadata.yaml; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            self._end_file(sync=True)
        finally:
            for thread in self._syncing:
                thread.join()
            topics = [summary_of(channel.connection, channel.written) for channel in self._channels]
            write_metadata(self.folder, self._files, topics, self._custom)

    def _is_full(self, log_ns: int) -> bool:
        file = self._files[-1]
        if not file.messages:
            return False
        size = self._file.end + self._file.waiting_bytes
        too_long = self._split.seconds and (log_ns - file.first_ns) * 1e-9 >= self._split.seconds
        return bool((self._split.bytes and size >= self._split.bytes) or too_long)

    def _begin_file(self) -> None:
        name = f"{self.folder.resolve().name}_{len(self._files)}.mcap"
        self._file = McapFile(self.folder / name, self._compression)
        self._files.append(FileSummary(name))
        self._flushed_s = time.monotonic()
        self._schemas.clear()
        for channel in self._channels:
            self._register(channel)
        for note, values in self._notes:
            self._file.add_metadata(note, values)

    def _register(self, channel: _Channel) -> None:
        connection = channel.connection
        schema = self._schemas.get(connection.type)
        if schema is None:
            schema = self._file.add_schema(connection.type, "ros2msg", connection.definition.encode())
            self._schemas[connection.type] = schema
        metadata = {"offered_qos_profiles": qos_text(connection), "topic_type_hash": connection.type_hash}
        channel.id = self._file.add_channel(connection.topic, schema, metadata)

    def _end_file(self, sync: bool = False) -> None:
        """Close the file and take down what it really holds."""
        file, summary = self._file, self._files[-1]
        if file.finished:
            return
        try:
            file.finish(sync)
        finally:
            index = file.index
            summary.first_ns, summary.last_ns, summary.messages = index.first_ns, index.last_ns, index.messages
            for channel in self._channels:
                channel.written += index.counts.get(channel.id, 0)
            self.lost += file.lost
        if not sync:
            self._sync_later(self.folder / summary.name)

    def _sync_later(self, path: Path) -> None:
        """A disk may take seconds for a whole file; messages must not wait for it."""
        thread = threading.Thread(target=_sync, args=(path,), daemon=True)
        thread.start()
        self._syncing = [*(other for other in self._syncing if other.is_alive()), thread]


def _sync(path: Path) -> None:
    with suppress(OSError), open(path, "rb") as file:
        os.fsync(file.fileno())
