"""A small bag to be played: gripper commands and poses, and whatever topic a test adds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diwa_conventions import topics
from diwa_conventions.bags.definitions import Connection, connection, typestore
from diwa_conventions.bags.reader import Bag, RawMessage
from diwa_conventions.bags.writer import BagWriter

START_NS = 1_700_000_000_000_000_000
NS = 10**9
ODD = Connection("/diwa/odd", "odd_msgs/msg/Odd", "uint8 one\n", "")
"""Of a type that no machine has."""


def command_bytes(stamp_ns: int, command: float) -> bytes:
    """A serialized GripperCommand."""
    store = typestore()
    stamp = store.types["builtin_interfaces/msg/Time"](sec=stamp_ns // NS, nanosec=stamp_ns % NS)
    header = store.types["std_msgs/msg/Header"](stamp=stamp, frame_id="")
    message = store.types[topics.GRIPPER_COMMAND.type](header=header, command=command)
    return bytes(store.serialize_cdr(message, topics.GRIPPER_COMMAND.type))


def write_bag(
    folder: Path,
    seconds: Sequence[float] = (0.0, 0.1, 0.2),
    namespace: str = "diwa",
    also: Sequence[Connection] = (),
) -> Bag:
    """A gripper command at each of these seconds, its value the number; one message of each other connection."""
    writer = BagWriter(folder)
    commands = writer.add(connection(topics.GRIPPER_COMMAND, namespace))
    for other in also:
        writer.write(writer.add(other), START_NS, bytes(12))
    for number, at_s in enumerate(seconds):
        at_ns = START_NS + round(at_s * NS)
        writer.write(commands, at_ns, command_bytes(at_ns, float(number)))
    writer.close()
    return Bag(folder)


def raw(at_s: float, topic: str = "/diwa/gripper_command") -> RawMessage:
    """A message that was recorded ``at_s`` after START_NS."""
    log_ns = START_NS + round(at_s * NS)
    return RawMessage(topic, topics.GRIPPER_COMMAND.type, log_ns, log_ns, b"")
