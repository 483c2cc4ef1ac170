"""Reads bags: ours, and any MCAP bag of rosbag2. Messages are decoded by the definitions that the bag itself holds."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import ChunkIndex, Metadata, Schema
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore

from diwa_conventions.bags.chunks import HEAD, MAGIC, DamageError, Entry, Index, chunk_content, entries, read_index
from diwa_conventions.bags.mcap_file import is_locked
from diwa_conventions.bags.metadata import CUSTOM_NOTE, METADATA, read_metadata
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


class Bag:
    """A bag folder, or a single MCAP file, opened for reading.

    UserError, with what was found and the command that mends it, for a folder without MCAP files, a foreign file, and
    a file that was cut off (``diwa bag repair``).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = files_of(path)
        self.notes: dict[str, dict[str, str]] = {}
        """Named records beside the messages, e.g. the parameters of all nodes."""
        self._schemas: dict[str, Schema] = {}
        self._indexes = [self._open(file) for file in self.files]
        self.topics = _topics(self._indexes)
        full = [index for index in self._indexes if index.messages]
        self.start_ns = min((index.first_ns for index in full), default=0)
        self.end_ns = max((index.last_ns for index in full), default=0)
        self._store = get_typestore(Stores.EMPTY)
        self._known: set[str] = set()

    @property
    def duration_s(self) -> float:
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
        for file, index in zip(self.files, self._indexes, strict=True):
            names = {
                number: (channel.topic, _type_of(index, channel.schema_id))
                for number, channel in index.channels.items()
                if topics is None or channel.topic in topics
            }
            chunks = [chunk for chunk in index.chunks if _may_hold(chunk, names, low, high)]
            with open(file, "rb") as stream, _reading(file, self.path):
                for entry in _in_order(stream, chunks, index):
                    if entry.channel in names and low <= entry.log_ns < high:
                        yield RawMessage(*names[entry.channel], entry.log_ns, entry.publish_ns, entry.data)

    def decode(self, message: RawMessage) -> Any:
        """The message as an object with the fields of its type; UserError if the bytes do not fit the type."""
        if message.type not in self._known:
            self._register(message.type)
        try:
            return self._store.deserialize_cdr(message.data, message.type)
        except Exception as error:  # rosbags raises whatever numpy and struct do
            raise UserError(
                f"{self.path}: a message on {message.topic} cannot be read as {message.type} ({error}); "
                "was it recorded with other message definitions?"
            ) from error

    def _register(self, kind: str) -> None:
        """Take the definition of a type, and of the types in it, from the bag."""
        schema = self._schemas.get(kind)
        encoding = schema.encoding if schema else "nothing"
        if schema is None or encoding not in ("ros2msg", "ros2idl", "omgidl"):
            raise UserError(f"{self.path} defines {kind or 'a type'} by {encoding!r}; expected ros2msg or ros2idl")
        try:
            types = _types_of(kind, encoding, schema.data.decode())
            self._store.register({name: fields for name, fields in types.items() if name not in self._store.fielddefs})
        except Exception as error:  # rosbags' parser raises much
            raise UserError(f"{self.path}: the definition of {kind} in the bag cannot be read ({error})") from error
        self._known.add(kind)

    def _open(self, file: Path) -> Index:
        """The file's index; takes down its definitions and notes."""
        with _reading(file, self.path), open(file, "rb") as stream:
            if not file.stat().st_size:
                raise UserError(f"{file} is empty: nothing was recorded into it; run: diwa bag repair {self.path}")
            check_kind(file, stream)
            index = read_index(stream)
            if index is None and is_locked(stream):
                raise UserError(f"{file} is still being written; stop its recording first")
            if index is None:
                raise UserError(f"{file} has no index: it was not closed; run: diwa bag repair {self.path}")
            for schema in index.schemas.values():
                self._schemas.setdefault(schema.name, schema)
            for note in index.metadata:
                record = _note(stream, note.offset, note.length)
                self.notes[record.name] = dict(record.metadata)
        return index


def _topics(indexes: list[Index]) -> dict[str, BagTopic]:
    topics: dict[str, BagTopic] = {}
    for index in indexes:
        for number, channel in index.channels.items():
            before = topics.get(channel.topic)
            kind = _type_of(index, channel.schema_id) or (before.type if before else "")
            count = index.counts.get(number, 0) + (before.messages if before else 0)
            topics[channel.topic] = BagTopic(channel.topic, kind, count)
    return topics


def _type_of(index: Index, schema: int) -> str:
    return index.schemas[schema].name if schema in index.schemas else ""


def _may_hold(chunk: ChunkIndex, channels: Collection[int], low: int, high: int) -> bool:
    """Whether a chunk may hold messages of the channels in this time."""
    if chunk.message_end_time < low or chunk.message_start_time >= high:
        return False
    offsets = chunk.message_index_offsets
    return not offsets or any(channel in channels for channel in offsets)


def _in_order(stream: BinaryIO, chunks: list[ChunkIndex], index: Index) -> Iterator[Entry]:
    """Messages by log time. Only chunks that overlap in time are in memory together."""
    waiting: list[Entry] = []
    for chunk in sorted(chunks, key=attrgetter("message_start_time", "chunk_start_offset")):
        waiting.sort(key=attrgetter("log_ns"))
        ready = [entry for entry in waiting if entry.log_ns <= chunk.message_start_time]
        waiting = waiting[len(ready) :]
        yield from ready
        del ready
        waiting += _chunk_entries(stream, chunk, index)
    yield from sorted(waiting, key=attrgetter("log_ns"))


def _chunk_entries(stream: BinaryIO, chunk: ChunkIndex, index: Index) -> list[Entry]:
    opcode, payload = _record(stream, chunk.chunk_start_offset, chunk.chunk_length)
    if opcode != Opcode.CHUNK:
        raise DamageError(f"there is no chunk at byte {chunk.chunk_start_offset}, where the index has one")
    found = list(entries(chunk_content(payload)))
    unknown = {entry.channel for entry in found} - set(index.channels)
    if unknown:
        raise DamageError(f"a message is of channel {min(unknown)}, which the index lacks")
    return found


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


def _types_of(kind: str, encoding: str, definition: str) -> dict[str, Any]:
    if encoding == "ros2msg":
        return dict(get_types_from_msg(definition, kind))
    types: dict[str, Any] = {}
    separator = "=" * 80 + "\n"
    for part in definition.split(separator):
        text = part.split("\n", 1)[1] if part.startswith("IDL: ") else part
        if text.strip():
            types.update(get_types_from_idl(text))
    return types


def files_of(path: Path) -> list[Path]:
    """The bag's MCAP files in the order of metadata.yaml, else of their numbers. UserError if there are none."""
    if path.is_file():
        return [path]
    if not path.exists():
        raise UserError(f"there is no bag {path}")
    found = {file.name: file for file in path.glob("*.mcap")}
    if not found:
        others = ", ".join(sorted(file.name for file in path.iterdir())[:5]) or "nothing"
        raise UserError(
            f"{path} holds no .mcap file (found: {others}); expected a bag recorded as MCAP without file compression; "
            "others: ros2 bag convert, with storage_id: mcap"
        )
    metadata = read_metadata(path) or {"relative_file_paths": []}
    if str(metadata.get("compression_mode", "")).lower() == "message":
        raise UserError(f"{path} is compressed message by message; convert it: ros2 bag convert, without compression")
    listed = [Path(name).name for name in metadata["relative_file_paths"]]
    for name in listed:
        if name not in found:
            raise UserError(
                f"{path}: {METADATA} names {name}, which is not there; copy it there, or do without: "
                f"diwa bag repair {path}"
            )
    return [found[name] for name in [*listed, *in_number_order(set(found) - set(listed))]]


def in_number_order(names: Collection[str]) -> list[str]:
    """File names by the number at their end: ``play_9.mcap`` before ``play_10.mcap``."""

    def number(name: str) -> tuple[int, str]:
        digits = name.removesuffix(".mcap").rpartition("_")[2]
        return (int(digits) if digits.isdecimal() else 0, name)

    return sorted(names, key=number)


def check_kind(file: Path, stream: BinaryIO) -> None:
    """UserError for a file that is not MCAP."""
    begin = stream.read(len(MAGIC) * 2)
    if begin.startswith(b"SQLite format 3"):
        raise UserError(f"{file} is an sqlite3 bag; convert it: ros2 bag convert, with storage_id: mcap")
    if not begin.startswith(MAGIC):
        raise UserError(f"{file} is not an MCAP file: it begins with {begin[:8]!r}; expected {MAGIC!r}")


@contextmanager
def _reading(file: Path, bag: Path) -> Iterator[None]:
    """Whatever a damaged file leads to becomes a UserError."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    except Exception as error:  # struct, codecs, mcap: all by bytes that are not as they should be
        raise UserError(f"{file} is damaged ({error or type(error).__name__}); run: diwa bag repair {bag}") from error
