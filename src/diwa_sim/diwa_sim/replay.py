"""Gives the commands of a recorded bag to the playroom without ROS, and writes the bag that comes of it.

How far it differs from the recording is how far simulation over topics and without them differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from diwa_conventions import topics
from diwa_conventions.actions import GRIPPER_CLOSE, GRIPPER_OPEN
from diwa_conventions.bags.reader import Bag
from diwa_sim.cameras import Cameras
from diwa_sim.playroom import TICK_RATE_HZ, Playroom
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


def replay(recorded: Path, out: Path, look: Look = "clear", namespace: str = topics.NAMESPACE) -> int:
    """Write bag ``out`` with a frame wherever ``recorded`` has a ``scene_state``; how many there were.

    Each stretch of play (after a reset or a gap) begins in its recorded state; from there on only the commands are
    taken from the recording. UserError for a bag that is not of the playroom, or an ``out`` that exists.
    """
    play = RecordedPlay(Bag(recorded), namespace)
    size_px = play.image_size()
    room = Playroom(look)
    cameras = Cameras(room, size_px)
    try:
        intrinsics = {camera: cameras.intrinsics(camera) for camera in CAMERA_KEYS}
        parameters = {"stage": "replay", "source": recorded.resolve().name, "look": look, "image_size": str(size_px)}
        bag = PlayroomBag(out, intrinsics, size_px, parameters, ("simulated", "replay"))
        _write_all(play, room, cameras, bag)
        bag.close()
    finally:
        cameras.close()
    return len(play.scenes)


def _write_all(play: RecordedPlay, room: Playroom, cameras: Cameras, bag: PlayroomBag) -> None:
    stretches = _stretches(play.scenes)
    joints = play.joints_at([stretch.scenes[0].stamp_ns for stretch in stretches])
    others = play.raw(COPIED)
    waiting = next(others, None)
    with progress_bar("frames", len(play.scenes)) as bar:
        for stretch in stretches:
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


@dataclass(frozen=True)
class _Stretch:
    """Scenes between which the simulation went on without a break."""

    scenes: list[RecordedScene]
    by_reset: bool
    """It begins with a reset, which makes the arm forget what it was told before."""


def _stretches(scenes: list[RecordedScene]) -> list[_Stretch]:
    stretches = [_Stretch(scenes[:1], by_reset=False)]
    for before, scene in pairwise(scenes):
        if scene.episode != before.episode:
            stretches.append(_Stretch([], by_reset=True))
        elif scene.stamp_ns - before.stamp_ns > GAP_NS:
            stretches.append(_Stretch([], by_reset=False))
        stretches[-1].scenes.append(scene)
    return stretches


def _frames(stretch: _Stretch, room: Playroom, commands: Commands, bag: PlayroomBag) -> Iterator[Frame]:
    """The frames of a stretch, simulated from the room's present state; their commands are written to the bag."""
    first = stretch.scenes[0]
    since_ns = first.stamp_ns if stretch.by_reset else 0
    still = room.tool_pose()
    hand = GRIPPER_OPEN if stretch.by_reset or room.gripper_width_m() > FINGER_TRAVEL_M else GRIPPER_CLOSE
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
