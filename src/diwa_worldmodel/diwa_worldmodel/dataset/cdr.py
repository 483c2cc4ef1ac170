"""Reads the few fixed fields that importing needs from messages in CDR, some 30 times as fast as decoding them whole.

Layouts are those of ROS 2's common interfaces; :mod:`bag_topics` checks a topic's type before these are used.
Every function raises ``struct.error`` or ``ValueError`` for bytes that are too short or do not fit.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diwa_conventions.errors import UserError
from diwa_conventions.images import ImageArray, check_raw, compressed_to_rgb, raw_to_rgb
from diwa_conventions.topics import FINGER_JOINTS

FINGER_JOINT = re.compile(r"(.*_)?finger_joint_?[12lr]")
"""Sliding joints of a Franka hand, whatever the robot is called."""
_HAND = re.compile("finger|gripper|knuckle")
_ENCAPSULATION = 4
_HEADER = {order: struct.Struct(f"{order}iII") for order in "<>"}
_COUNT = {order: struct.Struct(f"{order}I") for order in "<>"}
_POSE = {order: struct.Struct(f"{order}7d") for order in "<>"}
_FLOAT = {order: struct.Struct(f"{order}d") for order in "<>"}


class UnusableTopicError(UserError):
    """No message of a topic can be used, whatever it holds."""


def byte_order(data: bytes) -> str:
    """``<`` or ``>``; ValueError for an encapsulation that is not plain CDR."""
    if len(data) < _ENCAPSULATION or data[0] != 0 or data[1] > 1:
        raise ValueError("not a message in plain CDR")
    return "<" if data[1] else ">"


def header(data: bytes) -> tuple[int, int]:
    """(stamp [ns], offset of what follows the header) of a message that begins with a std_msgs/Header."""
    seconds, nanoseconds, length = _HEADER[byte_order(data)].unpack_from(data, _ENCAPSULATION)
    return seconds * 1_000_000_000 + nanoseconds, _ENCAPSULATION + 12 + length


def _aligned(offset: int, size: int) -> int:
    """CDR aligns each number to its own size, counted from the end of the encapsulation header."""
    return offset + (-(offset - _ENCAPSULATION) % size)


def pose(data: bytes, offset: int) -> tuple[float, ...]:
    """(7,) x, y, z [m] and quaternion x, y, z, w of a geometry_msgs/PoseStamped."""
    return _POSE[byte_order(data)].unpack_from(data, _aligned(offset, 8))


def gripper_command(data: bytes, offset: int) -> tuple[float, ...]:
    """(1,) command of a diwa_msgs/GripperCommand."""
    return _FLOAT[byte_order(data)].unpack_from(data, _aligned(offset, 8))


class FingerWidth:
    """Width between the fingers from sensor_msgs/JointState. Names seldom change: where they stand is remembered."""

    def __init__(self) -> None:
        self._prefix = b""
        self._begin = 0
        self._offsets: tuple[int, ...] = ()
        self._factor = 1.0
        self.joints: tuple[str, ...] = ()
        """Finger joints of the last message that had any, for the report."""

    def __call__(self, data: bytes, offset: int) -> tuple[float, ...]:
        """(1,) width [m]; () for a message without finger joints; UserError for a hand that is not understood."""
        order = byte_order(data)
        end = offset + len(self._prefix)
        if not self._prefix or offset != self._begin or data[offset:end] != self._prefix:
            self._find(data, offset, order)
        if not self._offsets:
            return ()
        return (self._factor * sum(_FLOAT[order].unpack_from(data, at)[0] for at in self._offsets),)

    def of(self, names: Sequence[str], positions: npt.NDArray[np.float64]) -> tuple[float, ...]:
        """The same from names and positions [m] that are already decoded."""
        chosen = self._choose(names[: len(positions)])
        return (self._factor * float(positions[list(chosen)].sum()),) if chosen else ()

    def _find(self, data: bytes, offset: int, order: str) -> None:
        """Read names and where the positions of the fingers stand."""
        names, at = _strings(data, _aligned(offset, 4), order)
        at = _aligned(at, 4)
        count = _COUNT[order].unpack_from(data, at)[0]
        at += 4
        if count not in (0, len(names)):
            raise ValueError(f"{len(names)} joint names with {count} positions")
        chosen = self._choose(names[:count])
        self._prefix, self._begin = data[offset:at], offset
        self._offsets = tuple(_aligned(at, 8) + 8 * i for i in chosen)

    def _choose(self, names: Sequence[str]) -> tuple[int, ...]:
        """Joints whose sum is the width; of a single one twice its position, for the fingers move together."""
        chosen = tuple(i for i, name in enumerate(names) if FINGER_JOINT.fullmatch(name))
        hand = [i for i, name in enumerate(names) if _HAND.search(name)]
        if not chosen and len(hand) == 2 and all("finger" in names[i] for i in hand):
            chosen = tuple(hand)
        if len(chosen) > 2 or (hand and not chosen):
            found = ", ".join(names[i] for i in chosen or hand)
            raise UnusableTopicError(
                f"the joint states name {found}, and no width follows from that; expected the two sliding joints of a "
                f"hand [m], such as {' and '.join(FINGER_JOINTS)}: name their topic with --remap joint_states=/its/name"
            )
        if chosen:
            self._factor, self.joints = 2.0 / len(chosen), tuple(names[i] for i in chosen)
        return chosen


def _strings(data: bytes, offset: int, order: str) -> tuple[list[str], int]:
    """A sequence of strings and the offset after it."""
    (count,) = _COUNT[order].unpack_from(data, offset)
    offset += 4
    found = []
    for _ in range(count):
        text, offset = _string(data, _aligned(offset, 4), order)
        found.append(text)
    return found, offset


def _string(data: bytes, offset: int, order: str) -> tuple[str, int]:
    (length,) = _COUNT[order].unpack_from(data, offset)
    offset += 4
    if offset + length > len(data):
        raise ValueError("a string ends behind its message")
    return data[offset : offset + max(length - 1, 0)].decode(errors="replace"), offset + length


@dataclass(frozen=True)
class ImageFields:
    """What a sensor_msgs/Image says about its bytes; a compressed one has no size before it is decoded."""

    encoding: str
    height: int
    width: int
    step: int
    begin: int
    """Offset and number of the bytes."""
    size: int


def image_fields(data: bytes, offset: int) -> ImageFields:
    """Of a sensor_msgs/Image."""
    order = byte_order(data)
    at = _aligned(offset, 4)
    height, width = struct.unpack_from(f"{order}II", data, at)
    encoding, at = _string(data, at + 8, order)
    step, size = struct.unpack_from(f"{order}II", data, _aligned(at + 1, 4))
    begin = _aligned(at + 1, 4) + 8
    if begin + size > len(data):
        raise ValueError("the image ends behind its message")
    return ImageFields(encoding, height, width, step, begin, size)


def compressed_fields(data: bytes, offset: int) -> ImageFields:
    """Of a sensor_msgs/CompressedImage; ValueError for bytes that are neither JPEG nor PNG."""
    order = byte_order(data)
    form, at = _string(data, _aligned(offset, 4), order)
    at = _aligned(at, 4)
    (size,) = _COUNT[order].unpack_from(data, at)
    return compressed_content(form, data, at + 4, size)


def compressed_content(form: str, data: bytes, begin: int, size: int) -> ImageFields:
    """Of ``size`` bytes of a compressed image from ``begin`` on."""
    if begin + size > len(data):
        raise ValueError("the image ends behind its message")
    if "compressedDepth" in form:
        raise ValueError(f"format {form!r}: a depth image; expected a colour image")
    if data[begin : begin + 2] not in (b"\xff\xd8", b"\x89P"):
        raise ValueError(
            f"format {form!r}: neither JPEG nor PNG; republish it as one: ros2 run image_transport republish"
        )
    return ImageFields(f"compressed {form}", 0, 0, 0, begin, size)


def rgb(data: bytes, fields: ImageFields) -> ImageArray:
    """The image (H, W, 3); UserError if it cannot be decoded."""
    flat = np.frombuffer(data, dtype=np.uint8, count=fields.size, offset=fields.begin)
    if fields.encoding.startswith("compressed "):
        return compressed_to_rgb(flat)
    return raw_to_rgb(fields.encoding, fields.height, fields.width, fields.step, flat)


def check_image(fields: ImageFields) -> None:
    """UserError for a raw image of an encoding that is not read, or whose sizes do not fit its bytes."""
    if not fields.encoding.startswith("compressed "):
        check_raw(fields.encoding, fields.height, fields.width, fields.step, fields.size)
