"""What importing needs of a message: by fixed offsets where its definition is the known one, else by the fields' names.

So messages of old, extended or reordered definitions are read rightly, and the usual ones fast. Each channel's own
definition counts, also where a bag holds two of one type.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np

from diwa_conventions.bags.message_types import Definition
from diwa_conventions.bags.reader import Bag, RawMessage
from diwa_conventions.images import UNNAMED_COLOURS
from diwa_worldmodel.dataset import cdr

Value = TypeVar("Value")
Numbers: TypeAlias = tuple[float, ...]
_READ_ERRORS = (struct.error, ValueError)
"""Of a message that is not what its definition says."""


@dataclass(frozen=True)
class Image:
    """An image in the message that carries it."""

    data: bytes
    fields: cdr.ImageFields


class FieldReader(Generic[Value]):
    """Reads stamp [ns] (0 without one) and value of one topic's messages."""

    def __init__(self, bag: Bag, by_offset: Callable[[bytes, int], Value], by_name: Callable[[Any], Value]) -> None:
        self._bag, self._by_offset, self._by_name = bag, by_offset, by_name
        self._known: dict[Definition, bool] = {}
        self.refused = 0
        """Messages whose value could not be read."""
        self.complaint = ""
        """About the first of them."""

    def __call__(self, message: RawMessage) -> tuple[int, Value | None] | None:
        """Stamp and value, which is None where it cannot be read; None for a message that is not what it should be.

        UserError for a definition that cannot be read or lacks a field that is needed.
        """
        known = self._known.get(message.definition)
        if known is None:
            known = self._known[message.definition] = self._bag.is_known(message.definition)
        try:
            return self._at_offsets(message) if known else self._decoded(message)
        except cdr.UnusableTopicError:
            raise
        except _READ_ERRORS as error:
            self.complaint = self.complaint or str(error)
            return None

    def _at_offsets(self, message: RawMessage) -> tuple[int, Value | None]:
        stamp, offset = cdr.header(message.data)
        try:
            return stamp, self._by_offset(message.data, offset)
        except cdr.UnusableTopicError:
            raise
        except _READ_ERRORS as error:
            self.refuse(error)
            return stamp, None

    def _decoded(self, message: RawMessage) -> tuple[int, Value | None]:
        decoded = self._bag.decode(message)
        try:
            return _stamp_of(decoded), self._by_name(decoded)
        except cdr.UnusableTopicError:
            raise
        except _READ_ERRORS as error:
            self.refuse(error)
            return _stamp_of(decoded), None
        except AttributeError as error:
            raise cdr.UnusableTopicError(
                f"{self._bag.path}: {message.type} on {message.topic} has no field {error.name}; the bag defines it "
                f"with {', '.join(_names(decoded))}: choose another topic with --remap"
            ) from error

    def refuse(self, error: Exception) -> None:
        """Count a message whose value is of no use."""
        self.refused += 1
        self.complaint = self.complaint or str(error)


def _stamp_of(decoded: Any) -> int:
    stamp = getattr(getattr(decoded, "header", None), "stamp", None)
    return 0 if stamp is None else int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def _names(decoded: Any) -> list[str]:
    return [name for name in vars(decoded) if not name.startswith("_")]


def poses(bag: Bag) -> FieldReader[Numbers]:
    """(7,) x, y, z [m] and quaternion, scalar last, of a PoseStamped."""
    return FieldReader(bag, cdr.pose, _pose)


def _pose(message: Any) -> Numbers:
    place, turn = message.pose.position, message.pose.orientation
    return tuple(map(float, (place.x, place.y, place.z, turn.x, turn.y, turn.z, turn.w)))


def gripper_commands(bag: Bag) -> FieldReader[Numbers]:
    """(1,) command of a GripperCommand."""
    return FieldReader(bag, cdr.gripper_command, lambda message: (float(message.command),))


def finger_widths(bag: Bag, fingers: cdr.FingerWidth) -> FieldReader[Numbers]:
    """(1,) width between the fingers [m] of a JointState; () for a message without finger joints."""
    return FieldReader(bag, fingers, lambda message: fingers.of(list(message.name), np.asarray(message.position)))


def raw_images(bag: Bag, colours: str = "") -> FieldReader[Image]:
    """Of sensor_msgs/Image; ``colours``: what an encoding that only counts its channels holds."""

    def named(image: Image) -> Image:
        if not colours or image.fields.encoding not in UNNAMED_COLOURS:
            return image
        return replace(image, fields=replace(image.fields, encoding=colours))

    return FieldReader(
        bag,
        lambda data, offset: named(Image(data, cdr.image_fields(data, offset))),
        lambda message: named(_raw_image(message)),
    )


def _raw_image(message: Any) -> Image:
    data = bytes(message.data)
    size = int(message.height), int(message.width), int(message.step)
    return Image(data, cdr.ImageFields(str(message.encoding), *size, begin=0, size=len(data)))


def compressed_images(bag: Bag) -> FieldReader[Image]:
    """Of sensor_msgs/CompressedImage; ValueError for bytes that are neither JPEG nor PNG."""
    return FieldReader(bag, lambda data, offset: Image(data, cdr.compressed_fields(data, offset)), _compressed_image)


def _compressed_image(message: Any) -> Image:
    data = bytes(message.data)
    return Image(data, cdr.compressed_content(str(message.format), data, 0, len(data)))
