"""Bags for the tests of this folder."""

from pathlib import Path

import numpy as np

from diwa_conventions import topics
from diwa_conventions.bags.definitions import connection, typestore
from diwa_conventions.bags.writer import BagWriter, Compression, Split

START_NS = 1_700_000_000_000_000_000
STEP_NS = 33_333_333
ONE_FILE = Split()
POSE, ACTION = "/diwa/current_pose", "/diwa/action"


def pose(stamp_ns: int) -> bytes:
    """A PoseStamped in CDR."""
    types = typestore().types
    place = types["geometry_msgs/msg/Point"](0.1, 0.2, 0.3)
    turn = types["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0)
    kind = "geometry_msgs/msg/PoseStamped"
    return _cdr(kind, _header(stamp_ns), types["geometry_msgs/msg/Pose"](place, turn))


def action(stamp_ns: int, sequence: int) -> bytes:
    """A DeltaAction in CDR."""
    return _cdr(
        "diwa_msgs/msg/DeltaAction", _header(stamp_ns), "teleop", sequence, 1 / 30, np.zeros(3), np.zeros(3), 1.0
    )


def _cdr(kind: str, *fields: object) -> bytes:
    store = typestore()
    return bytes(store.serialize_cdr(store.types[kind](*fields), kind))


def _header(stamp_ns: int) -> object:
    types = typestore().types
    stamp = types["builtin_interfaces/msg/Time"](stamp_ns // 10**9, stamp_ns % 10**9)
    return types["std_msgs/msg/Header"](stamp, "panda_link0")


def write_bag(
    folder: Path, frames: int = 20, compression: Compression = "none", split: Split = ONE_FILE, close: bool = True
) -> BagWriter:
    """Poses and actions at 30 Hz, the n-th with sequence n; a chunk every second frame."""
    writer = BagWriter(folder, compression, split, custom={"tags": "test"})
    channels = [writer.add(connection(topic, "diwa")) for topic in (topics.CURRENT_POSE, topics.ACTION)]
    writer.note("parameters", {"/diwa/recorder": "compression: none"})
    for frame in range(frames):
        stamp_ns = START_NS + frame * STEP_NS
        writer.write(channels[0], stamp_ns, pose(stamp_ns), sequence=frame)
        writer.write(channels[1], stamp_ns + 1, action(stamp_ns, frame), sequence=frame)
        if frame % 2:
            writer._file.flush()
    if close:
        writer.close()
    return writer
