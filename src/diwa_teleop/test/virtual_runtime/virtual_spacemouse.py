"""A virtual SpaceMouse for tests: builds ``hidapi.c`` and writes the raw reports of a SpaceMouse Compact.

The client library, ``pyspacemouse`` with ``easyhid``, is the unmodified one.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path

_SOURCE = Path(__file__).with_name("hidapi.c")
_NAME = "libhidapi-hidraw.so"
COMPACT, PRO = "256f c635", "046d c62b"
"""Vendor and product of the SpaceMouse Compact, and of another model."""
FULL = 350
"""What the cap reports at its end."""


def why_not() -> str:
    """Why the virtual device cannot be built here, or ""."""
    return "" if shutil.which("cc") and shutil.which("ld") else "no C compiler (cc, ld) for the virtual hidapi"


def translation(x: int = 0, y: int = 0, z: int = 0) -> bytes:
    """Report 1: the device's axes point right, to the user and down."""
    return struct.pack("<Bhhh", 1, x, y, z)


def rotation(x: int = 0, y: int = 0, z: int = 0) -> bytes:
    """Report 2."""
    return struct.pack("<Bhhh", 2, x, y, z)


def buttons(*, left: bool = False, right: bool = False) -> bytes:
    """Report 3."""
    return bytes([3, left | right << 1, 0, 0])


class VirtualSpaceMouse:
    """Give processes ``environment`` for them to find it."""

    def __init__(self, folder: Path, model: str = COMPACT) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        library = folder / _NAME
        flags = ["-O1", "-shared", "-fPIC", f"-Wl,-soname,{_NAME}.0", "-o", str(library), str(_SOURCE)]
        subprocess.run(["cc", *flags], check=True)
        shutil.copy(library, folder / f"{_NAME}.0")
        self.pipe = folder / "reports"
        self.pipe.with_name("reports.id").write_text(model)
        self._folder = folder
        self._out = -1

    def environment(self) -> Mapping[str, str]:
        search = f"{self._folder}:{os.environ.get('LD_LIBRARY_PATH', '')}"
        return {**os.environ, "LD_LIBRARY_PATH": search, "DIWA_VIRTUAL_HID": str(self.pipe)}

    def plug_in(self) -> None:
        os.mkfifo(self.pipe)
        self._out = os.open(self.pipe, os.O_RDWR | os.O_NONBLOCK)

    def unplug(self) -> None:
        self.pipe.unlink()
        os.close(self._out)
        self._out = -1

    def send(self, *reports: bytes) -> None:
        for report in reports:
            os.write(self._out, bytes([len(report)]) + report)
