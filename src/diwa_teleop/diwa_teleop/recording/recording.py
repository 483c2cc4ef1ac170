"""One recording: takes messages from any thread and writes them in a thread of its own."""

from __future__ import annotations

import shutil
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from diwa_conventions.bags.definitions import Connection
from diwa_conventions.bags.writer import BagWriter, Compression, Split
from diwa_teleop.recording.queue import BoundedQueue

_TICK_S = 0.1
_DISK_CHECK_S = 0.5
_SYNC_S = 1.0
"""What a power cut can cost, beside the chunk that is being filled."""
WARN_TIMES = 3
"""A warning begins when this many times ``min_free_bytes`` are left."""


@dataclass(frozen=True)
class Options:
    """How a bag is written."""

    compression: Compression = "none"
    split: Split = field(default_factory=Split)
    queue_bytes: int = 256 * 2**20
    """Messages that wait for the disk; more are dropped and counted."""
    min_free_bytes: int = 500_000_000
    """Left on the disk when the recording stops by itself."""


@dataclass(frozen=True)
class Summary:
    """What came of a recording."""

    bag: Path
    messages: int
    duration_s: float
    bytes_written: int
    lost: int
    """Messages that an error of the disk cost."""
    fault: str
    """Why the recording ended by itself; empty if it did not."""


class Recording:
    """Writes one bag from its beginning until :meth:`close`.

    UserError if the folder cannot be used. An error of the disk, or a disk that becomes full, sets ``fault``; what
    was written until then is kept, and messages after it are refused.
    """

    def __init__(self, folder: Path, options: Options, custom: Mapping[str, str]) -> None:
        self.folder = folder
        self.fault = ""
        self.free_bytes = 0
        self._options = options
        self._writer = BagWriter(folder, options.compression, options.split, custom, sync_s=_SYNC_S)
        self._queue: BoundedQueue[Callable[[], object]] = BoundedQueue(options.queue_bytes)
        self._began_s = time.monotonic()
        self._disk_checked_s = 0.0
        self._channels = 0
        self._over = False
        self._check_disk()
        self._thread = threading.Thread(target=self._run, name="bag writer")
        self._thread.start()

    @property
    def duration_s(self) -> float:
        """Since it began."""
        return time.monotonic() - self._began_s

    @property
    def bytes_written(self) -> int:
        return self._writer.bytes_written

    @property
    def queued(self) -> int:
        """Messages that wait for the writer."""
        return len(self._queue)

    @property
    def disk_is_low(self) -> bool:
        return self.free_bytes < WARN_TIMES * self._options.min_free_bytes

    def add(self, connection: Connection) -> int:
        """Announce a topic; the number to put its messages with. From one thread only."""
        self._queue.put(lambda: self._writer.add(connection), 0)
        self._channels += 1
        return self._channels - 1

    def put(self, channel: int, log_ns: int, data: bytes, publish_ns: int = 0, sequence: int = 0) -> bool:
        """One message; False if it was dropped, because the queue is full or there is a fault."""
        if self.fault or self._over:
            return False
        return self._queue.put(lambda: self._writer.write(channel, log_ns, data, publish_ns, sequence), len(data))

    def note(self, name: str, values: Mapping[str, str]) -> None:
        """Texts beside the messages."""
        self._queue.put(lambda: self._writer.note(name, values), 0)

    def close(self) -> Summary:
        """Write what waits, the index and metadata.yaml; never raises for the disk's sake."""
        self._over = True
        self._thread.join()
        writer = self._writer
        return Summary(self.folder, writer.messages, writer.duration_s, writer.bytes_written, writer.lost, self.fault)

    def _run(self) -> None:
        try:
            self._drain()
        except OSError as error:
            self.fault = f"the bag cannot be written: {error}"
        except Exception as error:
            traceback.print_exc()
            self.fault = f"the writer failed, by a fault of this software: {error!r}"
        try:
            self._writer.close()
        except OSError as error:
            self.fault = self.fault or f"the bag cannot be written: {error}"
        self._queue.clear()

    def _drain(self) -> None:
        """Until the recording is over and nothing waits any more."""
        while True:
            self._check_disk()
            write = self._queue.get(0.0 if self._over else _TICK_S)
            if write is not None:
                write()
            elif self._over:
                return
            self._writer.tick()

    def _check_disk(self) -> None:
        now_s = time.monotonic()
        if self._over or now_s - self._disk_checked_s < _DISK_CHECK_S:
            return
        self._disk_checked_s = now_s
        self.free_bytes = shutil.disk_usage(self.folder).free
        if self.free_bytes < self._options.min_free_bytes:
            self.fault = (
                f"the disk of {self.folder} is full: {self.free_bytes / 1e6:.0f} MB are left, "
                f"{self._options.min_free_bytes / 1e6:.0f} MB must stay free"
            )
            self._over = True
