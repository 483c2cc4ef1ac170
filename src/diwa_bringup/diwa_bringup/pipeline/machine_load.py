"""How busy the machine is, in one line."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_STAT, _MEMORY = Path("/proc/stat"), Path("/proc/meminfo")


class MachineLoad:
    """Processor since the last look, memory, free disk; where there is no /proc, the load average instead."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._before = _times()

    def line(self) -> str:
        """E.g. ``CPU 97%, memory 6.1 of 23.4 GiB, 37 GiB of disk free``."""
        free_gib = shutil.disk_usage(self._folder).free / 2**30
        return ", ".join([self._processor(), *_memory(), f"{free_gib:.1f} GiB of disk free"])

    def _processor(self) -> str:
        now, before = _times(), self._before
        if now is None or before is None:
            return f"load {os.getloadavg()[0]:.1f}"
        self._before = now
        busy, total = now[0] - before[0], now[1] - before[1]
        return f"CPU {100 * busy / total:.0f}%" if total else "CPU ?"


def _times() -> tuple[int, int] | None:
    """Busy and all time of all cores since the machine started [ticks]."""
    try:
        ticks = [int(word) for word in _STAT.read_text(encoding="utf-8").splitlines()[0].split()[1:9]]
    except (OSError, ValueError, IndexError):
        return None
    idle = ticks[3] + ticks[4]  # and waiting for a disk
    return sum(ticks) - idle, sum(ticks)


def _memory() -> list[str]:
    try:
        lines = (line.split() for line in _MEMORY.read_text(encoding="utf-8").splitlines())
        kib = {words[0].rstrip(":"): int(words[1]) for words in lines if len(words) > 1}
        total, used = kib["MemTotal"], kib["MemTotal"] - kib["MemAvailable"]
    except (OSError, ValueError, KeyError):
        return []
    return [f"memory {used / 2**20:.1f} of {total / 2**20:.1f} GiB"]
