"""Decodes messages by the definition of their own channel, whatever order, width or number of fields it has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from diwa_conventions.bags.definitions import parts_of, store_with, typestore
from diwa_conventions.errors import UserError

CDR = "cdr"


@dataclass(frozen=True)
class Definition:
    """How one channel encodes its messages."""

    type: str
    """E.g. ``geometry_msgs/msg/PoseStamped``."""
    language: str = ""
    """``ros2msg`` or ``ros2idl``; empty: the bag holds no definition."""
    text: str = ""
    encoding: str = CDR
    """Of the messages themselves."""


class MessageTypes:
    """The message types of one bag. Two definitions of one type live side by side."""

    def __init__(self, bag: Path) -> None:
        self._bag = bag
        self._stores: dict[Definition, Typestore] = {}

    def decode(self, definition: Definition, topic: str, data: bytes) -> Any:
        """The message as an object with the fields of its definition.

        UserError for a definition that is missing or cannot be read, and for bytes that do not fit it.
        """
        store = self._store(definition)
        try:
            return store.deserialize_cdr(data, definition.type)
        except Exception as error:  # rosbags raises whatever numpy and struct do
            raise UserError(
                f"{self._bag}: a message on {topic} cannot be read as {definition.type} ({error}); "
                "expected the definition that the bag itself holds"
            ) from error

    def is_known(self, definition: Definition) -> bool:
        """Whether the definition's type hash is that of this install, so that fixed offsets are right.

        UserError as of :meth:`decode`.
        """
        found = self._store(definition)
        try:
            return found.hash_rihs01(definition.type) == store_with(definition.type).hash_rihs01(definition.type)
        except UserError:  # a type that only the bag knows
            return False

    def _store(self, definition: Definition) -> Typestore:
        if definition not in self._stores:
            self._stores[definition] = self._made(definition)
        return self._stores[definition]

    def _made(self, definition: Definition) -> Typestore:
        kind = definition.type
        if definition.encoding != CDR:
            raise UserError(
                f"{self._bag}: messages of {kind or 'an unnamed type'} are encoded as {definition.encoding!r}; "
                f"expected {CDR}{_hint(definition.encoding)}"
            )
        if not definition.text.strip():
            return self._installed(kind)
        if definition.language not in ("ros2msg", "ros2idl", "omgidl"):
            raise UserError(
                f"{self._bag} defines {kind or 'a type'} by {definition.language!r}; expected ros2msg or ros2idl"
            )
        try:
            return _store_of(definition)
        except Exception as error:  # rosbags' parser raises much
            raise UserError(f"{self._bag}: the definition of {kind} in the bag cannot be read ({error})") from error

    def _installed(self, kind: str) -> Typestore:
        """Without a definition in the bag that of this install counts."""
        try:
            return store_with(kind)
        except UserError as error:
            raise UserError(
                f"{self._bag} holds no definition of {kind or 'a type'}, and this machine has none: install and source "
                "its package, or convert the bag where it was recorded: ros2 bag convert, with storage_id: mcap"
            ) from error


def _hint(encoding: str) -> str:
    return ": a ROS 1 bag; convert it with rosbags-convert" if encoding == "ros1" else ""


def _store_of(definition: Definition) -> Typestore:
    types = _types_of(definition)
    if definition.type not in types:
        raise ValueError(f"it defines {', '.join(types) or 'nothing'}")
    # Some writers leave out the types inside a type: those of the install stand in.
    known, waiting = typestore().fielddefs, list(types)
    while waiting:
        for part in parts_of(types, waiting.pop()):
            if part not in types and part in known:
                types[part] = known[part]
                waiting.append(part)
    store = get_typestore(Stores.EMPTY)
    store.register(types)
    return store


def _types_of(definition: Definition) -> dict[str, Any]:
    if definition.language == "ros2msg":
        return dict(get_types_from_msg(definition.text, definition.type))
    types: dict[str, Any] = {}
    separator = "=" * 80 + "\n"
    for part in definition.text.split(separator):
        text = part.split("\n", 1)[1] if part.startswith("IDL: ") else part
        if text.strip():
            types.update(get_types_from_idl(text))
    return types
