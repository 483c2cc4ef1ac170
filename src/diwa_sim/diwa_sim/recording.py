"""Writes what happens in a playroom environment as the bag that the recorder would have made of it over ROS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from diwa_conventions import topics
from diwa_conventions.actions import (
    GRIPPER_INDEX,
    GRIPPER_OPEN,
    ActionScale,
    FloatArray,
    Pose,
    difference,
    quantise_gripper,
)
from diwa_conventions.bags.definitions import connection, typestore
from diwa_conventions.bags.writer import BagWriter, Compression
from diwa_conventions.images import ImageArray
from diwa_conventions.rates import FRAMES_PER_STEP, RECORD_RATE_HZ
from diwa_sim.bag_messages import Messages
from diwa_sim.environment import PlayroomEnv
from diwa_sim.marks import Mark
from diwa_sim.operator import Command, Step
from diwa_sim.playroom import JointState
from diwa_sim.tasks import SceneState, is_done

PAUSE_FRAMES = 60
"""Stamps go on by 2 s between two episodes, so that nobody takes them for one."""
PARAMETERS_NOTE = "parameters"

CAMERA_TOPICS = {
    "static": (topics.STATIC_IMAGE, topics.STATIC_INFO),
    "gripper": (topics.GRIPPER_IMAGE, topics.GRIPPER_INFO),
}
CAMERA_KEYS = tuple(CAMERA_TOPICS)
WRITTEN = (
    topics.CURRENT_POSE,
    topics.JOINT_STATES,
    topics.TARGET_POSE,
    topics.GRIPPER_COMMAND,
    topics.SCENE_STATE,
    *(topic for pair in CAMERA_TOPICS.values() for topic in pair),
    topics.OPERATOR_POSE,
    topics.OPERATOR_JOY,
    topics.ACTION,
    topics.EXECUTED_ACTION,
    topics.ANNOTATION,
)
"""No ``guard_state``: no guard was running."""


@dataclass(frozen=True)
class Frame:
    """Arm and scene at one 30 Hz moment."""

    stamp_ns: int
    tool: Pose
    joints: JointState
    scene: SceneState
    task: str
    success: bool
    """The oracle of ``task`` has held in this episode."""
    episode: int
    images: Mapping[str, ImageArray] = field(default_factory=dict)
    """By camera; none if the cameras skip this frame."""


class PlayroomBag:
    """A bag of the playroom's topics. The same frames make the same bytes: log times are stamps, nothing is timed."""

    def __init__(
        self,
        folder: Path,
        intrinsics: Mapping[str, FloatArray],
        size_px: int,
        parameters: Mapping[str, str],
        tags: tuple[str, ...],
        compression: Compression = "lz4",
    ) -> None:
        self._writer = BagWriter(folder, compression, custom={"tags": ",".join(tags)}, chunk_s=inf)
        self._channels = {topic: self._writer.add(connection(topic, topics.NAMESPACE)) for topic in WRITTEN}
        self._writer.note(PARAMETERS_NOTE, parameters)
        self._serialize = typestore().serialize_cdr
        self._messages = Messages()
        self._infos = {
            camera: self._messages.camera_info(0, camera, matrix, size_px) for camera, matrix in intrinsics.items()
        }

    @property
    def bytes_written(self) -> int:
        return self._writer.bytes_written

    def add_frame(self, frame: Frame) -> None:
        make, stamp_ns = self._messages, frame.stamp_ns
        self._write(topics.CURRENT_POSE, stamp_ns, make.pose(stamp_ns, frame.tool))
        self._write(topics.JOINT_STATES, stamp_ns, make.joints(stamp_ns, frame.joints))
        scene = make.scene(stamp_ns, frame.scene, frame.task, frame.success, frame.episode)
        self._write(topics.SCENE_STATE, stamp_ns, scene)
        for camera, image in frame.images.items():
            image_topic, info_topic = CAMERA_TOPICS[camera]
            self._write(image_topic, stamp_ns, make.image(stamp_ns, camera, image))
            info = self._infos[camera]
            info.header = make.header(stamp_ns, info.header.frame_id)
            self._write(info_topic, stamp_ns, info)

    def add_command(self, stamp_ns: int, target: Pose | None, gripper: float | None) -> None:
        """The commanded pose at this moment, and the gripper (+1 or -1) in force until then; None: none so far."""
        if target is not None:
            self._write(topics.TARGET_POSE, stamp_ns, self._messages.pose(stamp_ns, target))
        if gripper is not None:
            self._write(topics.GRIPPER_COMMAND, stamp_ns, self._messages.gripper(stamp_ns, gripper))

    def add_hand(self, stamp_ns: int, hand: Command) -> None:
        self._write(topics.OPERATOR_POSE, stamp_ns, self._messages.pose(stamp_ns, hand.pose))
        self._write(topics.OPERATOR_JOY, stamp_ns, self._messages.joy(stamp_ns, hand))

    def add_action(self, topic: topics.Topic, stamp_ns: int, action: FloatArray, sequence: int) -> None:
        self._write(topic, stamp_ns, self._messages.action(stamp_ns, action, sequence))

    def add_mark(self, mark: Mark) -> None:
        self._write(
            topics.ANNOTATION, mark.stamp_ns, self._messages.annotation(mark.stamp_ns, mark.skill, mark.success)
        )

    def copy(self, topic: topics.Topic, stamp_ns: int, data: bytes) -> None:
        """A message of another bag as it is."""
        self._writer.write(self._channels[topic], stamp_ns, data)

    def close(self, outcome: Mapping[str, str] | None = None) -> None:
        """The bag is complete; ``outcome`` is noted in it."""
        if outcome:
            self._writer.note("outcome", outcome)
        self._writer.close()

    def _write(self, topic: topics.Topic, stamp_ns: int, message: Any) -> None:
        self._writer.write(self._channels[topic], stamp_ns, bytes(self._serialize(message, message.__msgtype__)))


class EnvironmentRecording:
    """Watches an environment frame by frame; :meth:`add` writes a step once the operator has said what it was."""

    def __init__(self, env: PlayroomEnv, bag: PlayroomBag, begin_ns: int, frames_per_image: int) -> None:
        self._env, self._bag = env, bag
        self._begin_ns, self._frames_per_image = begin_ns, frames_per_image
        self._index = -PAUSE_FRAMES
        """Of the newest 30 Hz frame."""
        self._in_episode = 0
        self._episode = 0
        self._sequence = 0
        self._success = False
        self._start: SceneState | None = None
        self._waiting: list[tuple[Frame, Pose]] = []
        """With the commanded pose at each."""
        self._last: tuple[Frame, Pose] | None = None
        """The newest one that was written in this episode."""
        env.after_reset, env.after_frame = self._begin_episode, self._take_frame

    def add(self, step: Step) -> int:
        """Write the frames of a step that has just been made; the stamp [ns] of the last one."""
        if self._last is None:
            self._last = self._waiting.pop(0)
            self._put(*self._last, GRIPPER_OPEN)
        assert len(self._waiting) == len(step.hand) == FRAMES_PER_STEP
        gripper = quantise_gripper(float(step.asked[GRIPPER_INDEX]))
        before, start = self._last
        for (frame, target), hand in zip(self._waiting, step.hand, strict=True):
            self._sequence += 1
            self._bag.add_action(topics.ACTION, before.stamp_ns, step.asked, self._sequence)
            self._bag.add_hand(frame.stamp_ns, hand)
            moved = executed(start, target, gripper, self._env.config.scale)
            self._bag.add_action(topics.EXECUTED_ACTION, frame.stamp_ns, moved, self._sequence)
            self._put(frame, target, gripper)
            before, start = frame, target
        self._last = before, start
        self._waiting.clear()
        return before.stamp_ns

    def _begin_episode(self) -> None:
        self._index += PAUSE_FRAMES
        self._in_episode, self._episode = 0, self._episode + 1
        self._waiting.clear()
        self._last, self._success, self._start = None, False, self._env.scene_state()
        self._waiting.append((self._frame(), self._env.target))

    def _take_frame(self) -> None:
        self._index += 1
        self._in_episode += 1
        self._waiting.append((self._frame(), self._env.target))

    def _frame(self) -> Frame:
        env, task, start = self._env, self._env.task, self._start
        assert start is not None
        scene = env.scene_state()
        self._success = self._success or (bool(task) and is_done(task, start, scene))
        seen = self._in_episode % self._frames_per_image == 0
        return Frame(
            stamp_ns=self._begin_ns + round(self._index * 10**9 / RECORD_RATE_HZ),
            tool=env.playroom.tool_pose(),
            joints=env.playroom.joint_state(),
            scene=scene,
            task=task,
            success=self._success,
            episode=self._episode,
            images={camera: env.image(camera) for camera in CAMERA_TOPICS} if seen else {},
        )

    def _put(self, frame: Frame, target: Pose, gripper: float) -> None:
        self._bag.add_command(frame.stamp_ns, target, gripper)
        self._bag.add_frame(frame)


def executed(before: Pose, after: Pose, gripper: float, scale: ActionScale) -> FloatArray:
    """The action (7,) for 1/30 s that moved the commanded pose from ``before`` to ``after``."""
    return np.append(np.clip(FRAMES_PER_STEP * difference(before, after, scale), -1.0, 1.0), gripper)
