"""A virtual VIVE for tests: builds ``vrclient.c``, names it to the openvr client as its runtime, says what it shows.

The client itself, the package ``openvr``, is the unmodified one.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from diwa_conventions.actions import Pose

CONTROLLER, TRACKER, BASE_STATION = 2, 3, 4
LEFT, RIGHT = 1, 2
CALIBRATING, RUNNING_OK, OUT_OF_RANGE, ROTATION_ONLY = 100, 200, 201, 300
BUTTONS = {"system": 0, "menu": 1, "grip": 2, "a": 7, "touchpad": 32, "trigger": 33}
_SOURCE = Path(__file__).with_name("vrclient.c")
_TEXT = 32
TIMEOUT_S = 60.0


class Device(ctypes.Structure):
    """``struct device`` of vrclient.c."""

    _fields_ = [
        ("kind", ctypes.c_int32),
        ("role", ctypes.c_int32),
        ("connected", ctypes.c_uint32),
        ("valid", ctypes.c_uint32),
        ("tracking", ctypes.c_int32),
        ("pose", ctypes.c_float * 12),
        ("velocity", ctypes.c_float * 3),
        ("turning", ctypes.c_float * 3),
        ("packet", ctypes.c_uint32),
        ("buttons", ctypes.c_uint32 * 2),
        ("axes", ctypes.c_float * 10),
        ("battery", ctypes.c_float),
        ("serial", ctypes.c_char * _TEXT),
        ("model", ctypes.c_char * _TEXT),
    ]


class Room(ctypes.Structure):
    """``struct room`` of vrclient.c."""

    _fields_ = [
        ("sequence", ctypes.c_uint32),
        ("running", ctypes.c_uint32),
        ("quits", ctypes.c_uint32),
        ("clients", ctypes.c_uint32),
        ("acknowledged", ctypes.c_uint32),
        ("readings", ctypes.c_uint32),
        ("devices", Device * 8),
    ]


def why_not() -> str:
    """Why the virtual runtime cannot be built here, or ""."""
    if platform.machine() != "x86_64" or platform.system() != "Linux":
        return f"the openvr client for {platform.system()} {platform.machine()} loads another kind of runtime"
    return "" if shutil.which("cc") else "no C compiler (cc) for the virtual OpenVR runtime"


def build(folder: Path) -> Path:
    """The runtime's folder, as SteamVR's is laid out."""
    library = folder / "bin" / "linux64" / "vrclient.so"
    library.parent.mkdir(parents=True)
    flags = ["-O1", "-shared", "-fPIC", "-Wall", "-Wno-unused-parameter", "-o", str(library), str(_SOURCE)]
    subprocess.run(["cc", *flags], check=True)
    return folder


class VirtualVive:
    """SteamVR with its devices. Give processes ``environment`` for them to find it."""

    def __init__(self, runtime: Path, folder: Path) -> None:
        registry = folder / "openvr" / "openvrpaths.vrpath"
        registry.parent.mkdir(parents=True)
        paths = {"config": [str(folder)], "log": [str(folder)], "runtime": [str(runtime)]}
        registry.write_text(json.dumps({**paths, "external_drivers": None, "jsonid": "vrpathreg", "version": 1}))
        shared = folder / "room"
        shared.write_bytes(bytes(ctypes.sizeof(Room)))
        self.environment = {"XDG_CONFIG_HOME": str(folder), "DIWA_VIRTUAL_VIVE": str(shared)}
        with open(shared, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self.room = Room.from_buffer(self._map)
        self.room.running = 1
        self._frame = 0

    @contextmanager
    def writing(self, index: int) -> Iterator[Device]:
        """Readers see all changes of one device or none."""
        self.room.sequence += 1
        try:
            yield self.room.devices[index]
        finally:
            self.room.sequence += 1

    def add(
        self, index: int, serial: str, kind: int = CONTROLLER, role: int = 0, model: str = "VIVE Controller"
    ) -> None:
        """A device that is on, tracked, at the world's origin, with a battery three quarters full."""
        with self.writing(index) as device:
            device.kind, device.role, device.connected = kind, role, 1
            device.serial, device.model, device.battery = serial.encode(), model.encode(), 0.75
        self.track(index)
        self.move(index, Pose(np.zeros(3), np.eye(3)))

    def move(self, index: int, pose: Pose) -> None:
        """Put it somewhere in the tracking world, with a tremor as small as that of a real one."""
        self._frame += 1
        matrix = np.hstack([pose.rotation, pose.position.reshape(3, 1)])
        matrix[0, 3] += 1e-6 * (self._frame % 7)
        with self.writing(index) as device:
            device.pose = (ctypes.c_float * 12)(*matrix.ravel())

    def track(self, index: int, result: int = RUNNING_OK, valid: bool = True) -> None:
        with self.writing(index) as device:
            device.tracking, device.valid = result, int(valid)

    def connect(self, index: int, connected: bool) -> None:
        """Switch it on or off; one that is off is not tracked."""
        with self.writing(index) as device:
            device.connected = int(connected)
            device.valid, device.tracking = int(connected), RUNNING_OK if connected else 1

    def press(self, index: int, names: Sequence[str], trigger: float = 0.0, touchpad: Sequence[float] = (0, 0)) -> None:
        """These buttons and no others."""
        mask = sum(1 << BUTTONS[name] for name in names)
        with self.writing(index) as device:
            device.packet += 1
            device.buttons = (ctypes.c_uint32 * 2)(mask & 0xFFFFFFFF, mask >> 32)
            device.axes[0:3] = [*touchpad, trigger]

    def charge(self, index: int, share: float) -> None:
        """Of the battery; below 0: it has none."""
        with self.writing(index) as device:
            device.battery = share

    def wait_for_readings(self, count: int) -> None:
        """Until clients have read a controller so many times more."""
        deadline_s, before = time.monotonic() + TIMEOUT_S, self.room.readings
        while self.room.readings - before < count:
            assert time.monotonic() < deadline_s, f"no {count} readings within {TIMEOUT_S:g} s"
            time.sleep(0.01)

    def quit(self) -> None:
        """End as SteamVR does: tell every client, and refuse new ones."""
        self.room.running = 0
        self.room.quits += 1

    def start(self) -> None:
        """Run again."""
        self.room.running = 1

    def process_environment(self) -> Mapping[str, str]:
        return {**os.environ, **self.environment}
