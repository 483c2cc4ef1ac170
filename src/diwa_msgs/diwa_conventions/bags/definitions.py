"""Message definitions without ROS: what a bag has to say about its topics so that any reader can decode it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from diwa_conventions.errors import UserError
from diwa_conventions.topics import Topic

PACKAGE = "diwa_msgs"


@dataclass(frozen=True)
class Connection:
    """One recorded topic: its full name, and how its messages are encoded (CDR) and were offered."""

    topic: str
    """Absolute, e.g. ``/diwa/current_pose``."""
    type: str
    """E.g. ``geometry_msgs/msg/PoseStamped``."""
    definition: str
    """The .msg text with those of all types in it, as MCAP's schema encoding ``ros2msg`` wants it."""
    type_hash: str
    """``RIHS01_...``; empty if unknown."""
    reliable: bool = True
    depth: int = 10


@cache
def typestore() -> Typestore:
    """rosbags' types of ROS 2, and ours. UserError if diwa_msgs is not there."""
    store = get_typestore(Stores.ROS2_KILTED)
    types = {}
    for path in sorted(_interface_folder().glob("*.msg")):
        types.update(get_types_from_msg(path.read_text(encoding="utf-8"), f"{PACKAGE}/msg/{path.stem}"))
    store.register(types)
    return store


def _interface_folder() -> Path:
    """``msg/`` of the source tree, else the installed one (by the ament index)."""
    candidates = [Path(__file__).resolve().parents[2]]
    candidates += [Path(prefix, "share", PACKAGE) for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(":")]
    for share in candidates:
        if any(share.glob("msg/*.msg")):
            return share / "msg"
    raise UserError(f"the message definitions of {PACKAGE} were not found; run: make setup && source env.sh")


def connection(topic: Topic, namespace: str) -> Connection:
    """The connection of one of our topics in a namespace (``/`` of it may be missing)."""
    return of_type(full_name(topic.name, namespace), topic.type, topic.reliable, topic.depth)


def of_type(name: str, type_name: str, reliable: bool = True, depth: int = 10) -> Connection:
    """The connection of any topic; UserError for a type whose definition is not on this machine."""
    store = store_with(type_name)
    definition, _ = store.generate_msgdef(type_name, ros_version=2)
    return Connection(name, type_name, definition, store.hash_rihs01(type_name), reliable, depth)


def full_name(name: str, namespace: str) -> str:
    """``("current_pose", "diwa") -> "/diwa/current_pose"``; an absolute name stays as it is."""
    return name if name.startswith("/") else f"/{namespace.strip('/')}/{name}".replace("//", "/")


def store_with(type_name: str) -> Typestore:
    """The typestore after the definitions of a foreign type, and of those in it, have been read from the install."""
    store = typestore()
    missing = [type_name]
    while missing:
        name = missing.pop()
        if name in store.fielddefs:
            continue
        types = get_types_from_msg(_installed_definition(name), name)
        missing += [part for part in parts_of(types, name) if part not in store.fielddefs and part not in types]
        store.register(types)
    return store


def parts_of(types: object, name: str) -> list[str]:
    """Message types named in the field definitions of ``name``."""
    found: list[str] = []

    def walk(item: object) -> None:
        if isinstance(item, str) and item.count("/") == 2:
            found.append(item)
        elif isinstance(item, (tuple, list)):
            for part in item:
                walk(part)

    walk(types[name])  # type: ignore[index]
    return found


def _installed_definition(type_name: str) -> str:
    package, _, name = (type_name.split("/") + ["", ""])[:3]
    for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(":"):
        path = Path(prefix, "share", package, "msg", f"{name}.msg")
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise UserError(f"the definition of {type_name!r} was not found; install and source the package {package}")
