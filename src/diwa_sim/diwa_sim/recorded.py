"""What a recorded bag says about the playroom: its state, and what it was told."""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from diwa_conventions import topics
from diwa_conventions.actions import Pose, quantise_gripper
from diwa_conventions.bags.definitions import full_name
from diwa_conventions.bags.reader import Bag
from diwa_conventions.errors import UserError
from diwa_sim.playroom import JointState
from diwa_sim.tasks import SceneState

NEEDED = (topics.SCENE_STATE, topics.JOINT_STATES, topics.TARGET_POSE, topics.GRIPPER_COMMAND)
JOINTS_NEAR_NS = 50_000_000
"""Joint states are best effort; the nearest may be so far from the moment it is wanted for."""
_UNIT = 1e-3


@dataclass(frozen=True)
class RecordedScene:
    """One ``scene_state``."""

    stamp_ns: int
    scene: SceneState
    task: str
    success: bool
    episode: int


@dataclass
class Commands:
    """Poses and gripper commands by the stamps at which they hold."""

    pose_ns: list[int] = field(default_factory=list)
    poses: list[Pose] = field(default_factory=list)
    gripper_ns: list[int] = field(default_factory=list)
    grippers: list[float] = field(default_factory=list)

    def pose(self, stamp_ns: int, since_ns: int = 0) -> Pose | None:
        """The latest one with a stamp up to ``stamp_ns``, but after ``since_ns``."""
        index = bisect_right(self.pose_ns, stamp_ns) - 1
        return self.poses[index] if index >= 0 and self.pose_ns[index] > since_ns else None

    def gripper(self, stamp_ns: int, since_ns: int = 0) -> float | None:
        """Likewise; +1 or -1."""
        index = bisect_right(self.gripper_ns, stamp_ns) - 1
        return self.grippers[index] if index >= 0 and self.gripper_ns[index] > since_ns else None


class RecordedPlay:
    """A bag with the playroom's topics in a namespace; UserError that names what is missing."""

    def __init__(self, bag: Bag, namespace: str) -> None:
        self._bag = bag
        self._names = {topic: full_name(topic.name, namespace) for topic in topics.TOPICS}
        for topic in NEEDED:
            found = bag.topics.get(self._names[topic])
            if found is None or not found.messages:
                there = ", ".join(sorted(name for name, topic in bag.topics.items() if topic.messages)) or "nothing"
                raise UserError(
                    f"{bag.path} holds no {self._names[topic]}; expected a bag recorded from the playroom in that "
                    f"namespace (found: {there})"
                )
        self.scenes = [_scene(message) for message in self._rising(topics.SCENE_STATE)]
        self.commands = self._commands()

    def image_size(self) -> int:
        """Width of the static camera's images [px]."""
        for message in self._decoded(topics.STATIC_INFO):
            return int(message.width)
        return topics.CAMERA_SIZE_PX

    def joints_at(self, stamps_ns: list[int]) -> dict[int, JointState]:
        """The joint states nearest to each stamp, for those that have one near; UserError if none has."""
        nearest: dict[int, tuple[int, JointState]] = {}
        order = sorted(stamps_ns)
        for message in self._decoded(topics.JOINT_STATES):
            here_ns = stamp_of(message)
            index = bisect_right(order, here_ns)
            for wanted in order[max(0, index - 1) : index + 1]:
                away_ns = abs(here_ns - wanted)
                if away_ns <= JOINTS_NEAR_NS and (wanted not in nearest or away_ns < nearest[wanted][0]):
                    nearest[wanted] = away_ns, _joints(message)
        if not nearest:
            raise UserError(
                f"{self._bag.path} holds no joint_states within {JOINTS_NEAR_NS // 10**6} ms of any scene_state; "
                "expected a bag recorded from the playroom, whose stamps are of one clock"
            )
        return {wanted: joints for wanted, (_, joints) in nearest.items()}

    def raw(self, wanted: tuple[topics.Topic, ...]) -> Iterator[tuple[topics.Topic, int, bytes]]:
        """Messages as they are, with their stamps [ns], in the order of their log time."""
        by_name = {self._names[topic]: topic for topic in wanted}
        for message in self._bag.messages(list(by_name)):
            yield by_name[message.topic], stamp_in(message.data), message.data

    def _commands(self) -> Commands:
        """Those that the arm obeyed."""
        commands = Commands()
        for message in self._rising(topics.TARGET_POSE):
            pose = _pose(message.pose)
            if pose is not None and message.header.frame_id == topics.BASE_FRAME:
                commands.pose_ns.append(stamp_of(message))
                commands.poses.append(pose)
        for message in self._rising(topics.GRIPPER_COMMAND):
            if np.isfinite(message.command):
                commands.gripper_ns.append(stamp_of(message))
                commands.grippers.append(quantise_gripper(message.command))
        return commands

    def _rising(self, topic: topics.Topic) -> Iterator[Any]:
        """Messages whose stamps rise; others came twice, or from a clock that was set back."""
        last_ns = -1
        for message in self._decoded(topic):
            if stamp_of(message) > last_ns:
                last_ns = stamp_of(message)
                yield message

    def _decoded(self, topic: topics.Topic) -> Iterator[Any]:
        for message in self._bag.messages([self._names[topic]]):
            yield self._bag.decode(message)


def stamp_of(message: Any) -> int:
    """Of its header [ns]."""
    return int(message.header.stamp.sec) * 10**9 + int(message.header.stamp.nanosec)


def stamp_in(data: bytes) -> int:
    """Stamp [ns] in the CDR of a message that begins with a header."""
    seconds, nanoseconds = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
    return int(seconds * 10**9 + nanoseconds)


def _scene(message: Any) -> RecordedScene:
    cube = _pose(message.cube)
    joints = [message.slider_m, message.drawer_m, message.button_m, message.switch_m]
    if cube is None or not np.isfinite(joints).all():
        raise UserError(f"scene_state at {stamp_of(message) * 1e-9:.3f} s holds values that are not finite")
    slider_m, drawer_m, button_m, switch_m = joints
    scene = SceneState(slider_m, drawer_m, button_m, switch_m, bool(message.lightbulb), bool(message.led), cube)
    return RecordedScene(stamp_of(message), scene, message.task, bool(message.success), int(message.episode))


def _joints(message: Any) -> JointState:
    """In the playroom's order, whatever order they have."""
    names = list(message.name)
    try:
        order = [names.index(name) for name in (*topics.ARM_JOINTS, *topics.FINGER_JOINTS)]
        return JointState(message.position[order], message.velocity[order], message.effort[order])
    except (ValueError, IndexError):
        raise UserError(
            f"joint_states at {stamp_of(message) * 1e-9:.3f} s has joints {', '.join(names) or 'without names'}; "
            "expected position, velocity and effort of the Panda's seven joints and two fingers"
        ) from None


def _pose(message: Any) -> Pose | None:
    """None for what the arm would refuse: not finite, or no unit quaternion."""
    point, turn = message.position, message.orientation
    position, quaternion = np.array([point.x, point.y, point.z]), np.array([turn.x, turn.y, turn.z, turn.w])
    if not np.isfinite([*position, *quaternion]).all() or abs(float(np.linalg.norm(quaternion)) - 1.0) > _UNIT:
        return None
    return Pose.from_quaternion(position, quaternion)
