"""Gives the commands of a recorded bag to the playroom without ROS, and writes the bag that comes of it.

How far it differs from the recording is how far simulation over topics and without them differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from diwa_conventions import topics
from diwa_conventions.actions import GRIPPER_CLOSE, GRIPPER_OPEN
from diwa_conventions.bags.reader import Bag
from diwa_sim.cameras import Cameras
from diwa_sim.playroom import TICK_RATE_HZ, JointState, Playroom
from diwa_sim.recorded import Commands, RecordedPlay, RecordedScene
from diwa_sim.recording import CAMERA_KEYS, Frame, PlayroomBag
from diwa_sim.scene import FINGER_TRAVEL_M, Look
from diwa_sim.tasks import is_done
from diwa_sim.workers import progress_bar

GAP_NS = 250_000_000
"""A longer silence of the playroom may have been one of the simulation too: what follows is a new stretch."""
COPIED = (
    topics.OPERATOR_POSE,
    topics.OPERATOR_JOY,
    topics.ACTION,
    topics.EXECUTED_ACTION,
    topics.ANNOTATION,
)
"""What went on before the arm: taken over as it is."""


class Replayed(NamedTuple):
    """Frames of a replay."""

    written: int
    left_out: int
    """At the beginning of a stretch, before its first joint states: a busy machine loses some."""


def replay(recorded: Path, out: Path, look: Look = "clear", namespace: str = topics.NAMESPACE) -> Replayed:
    """Write bag ``out`` with a frame wherever ``recorded`` has a ``scene_state``.

    Each stretch of play (after a reset or a gap) begins in its first recorded state with joint states; from there on
    only the commands are taken from the recording. UserError for a bag that is not of the playroom, or an ``out`` that
    exists.
    """
    play = RecordedPlay(Bag(recorded), namespace)
    size_px = play.image_size()
    room = Playroom(look)
    cameras = Cameras(room, size_px)
    try:
        intrinsics = {camera: cameras.intrinsics(camera) for camera in CAMERA_KEYS}
        parameters = {"stage": "replay", "source": recorded.resolve().name, "look": look, "image_size": str(size_px)}
        bag = PlayroomBag(out, intrinsics, size_px, parameters, ("simulated", "replay"))
        written = _write_all(play, room, cameras, bag)
        bag.close()
    finally:
        cameras.close()
    return Replayed(written, len(play.scenes) - written)


def _write_all(play: RecordedPlay, room: Playroom, cameras: Cameras, bag: PlayroomBag) -> int:
    """How many frames were written."""
    joints = play.joints_at([scene.stamp_ns for scene in play.scenes])
    stretches = [_from_joints(stretch, joints) for stretch in _stretches(play.scenes)]
    written = sum(len(stretch.scenes) for stretch in stretches)
    others = play.raw(COPIED)
    waiting = next(others, None)
    with progress_bar("frames", written) as bar:
        for stretch in filter(lambda one: one.scenes, stretches):
            first = stretch.scenes[0]
            room.restore(joints[first.stamp_ns], first.scene)
            for frame in _frames(stretch, room, play.commands, bag):
                while waiting is not None and waiting[1] <= frame.stamp_ns:
                    bag.copy(*waiting)
                    waiting = next(others, None)
                bag.add_frame(replace(frame, images={camera: cameras.render(camera) for camera in CAMERA_KEYS}))
                bar.advance(1)
        while waiting is not None:
            bag.copy(*waiting)
            waiting = next(others, None)
    return written


@dataclass(frozen=True)
class _Stretch:
    """Scenes between which the simulation went on without a break."""

    scenes: list[RecordedScene]
    reset_ns: int
    """When it began with a reset, which makes the arm forget what it was told before; 0: it did not."""


def _stretches(scenes: list[RecordedScene]) -> list[_Stretch]:
    stretches = [_Stretch(scenes[:1], reset_ns=0)]
    for before, scene in pairwise(scenes):
        if scene.episode != before.episode:
            stretches.append(_Stretch([], reset_ns=scene.stamp_ns))
        elif scene.stamp_ns - before.stamp_ns > GAP_NS:
            stretches.append(_Stretch([], reset_ns=0))
        stretches[-1].scenes.append(scene)
    return stretches


def _from_joints(stretch: _Stretch, joints: Mapping[int, JointState]) -> _Stretch:
    """The stretch from its first scene with joint states on."""
    known = (index for index, scene in enumerate(stretch.scenes) if scene.stamp_ns in joints)
    return replace(stretch, scenes=stretch.scenes[next(known, len(stretch.scenes)) :])


def _frames(stretch: _Stretch, room: Playroom, commands: Commands, bag: PlayroomBag) -> Iterator[Frame]:
    """The frames of a stretch, simulated from the room's present state; their commands are written to the bag."""
    first = stretch.scenes[0]
    since_ns = stretch.reset_ns
    still = room.tool_pose()
    hand = GRIPPER_OPEN if first.stamp_ns == since_ns or room.gripper_width_m() > FINGER_TRAVEL_M else GRIPPER_CLOSE
    start, success, before_ns = room.scene_state(), first.success, first.stamp_ns
    for scene in stretch.scenes:
        ticks = round((scene.stamp_ns - before_ns) * 1e-9 * TICK_RATE_HZ)
        for tick in range(1, ticks + 1):
            tick_ns = before_ns + (scene.stamp_ns - before_ns) * tick // ticks
            target, gripper = commands.pose(tick_ns, since_ns), commands.gripper(tick_ns, since_ns)
            room.advance(target or still, hand if gripper is None else gripper, ticks=1)
        before_ns = scene.stamp_ns
        bag.add_command(before_ns, commands.pose(before_ns, since_ns), commands.gripper(before_ns, since_ns))
        now = room.scene_state()
        success = success or (bool(scene.task) and is_done(scene.task, start, now))
        yield Frame(before_ns, room.tool_pose(), room.joint_state(), now, scene.task, success, scene.episode)
