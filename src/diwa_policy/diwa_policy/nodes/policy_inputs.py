"""What a policy sees, from topics into a frame assembler."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from diwa_msgs.msg import GripperCommand
from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import Image, JointState

from diwa_conventions import topics
from diwa_conventions.errors import UserError
from diwa_conventions.images import ImageArray, raw_to_rgb
from diwa_conventions.messages import pose_from_message
from diwa_policy.serving.frames import FrameAssembler


class PolicyInputs:
    """Takes messages apart. One that is no good is refused: if it goes on, the stream is stale."""

    def __init__(self, assembler: FrameAssembler) -> None:
        self.assembler = assembler
        self.refused = 0
        self.complaint = ""
        """About the last one refused."""

    @property
    def callbacks(self) -> Mapping[topics.Topic, Callable[[Any], None]]:
        """By topic."""
        found = {
            topics.STATIC_IMAGE: self._on_static,
            topics.GRIPPER_IMAGE: self._on_gripper_image,
            topics.CURRENT_POSE: self._on_pose,
            topics.JOINT_STATES: self._on_joints,
            topics.TARGET_POSE: self._on_target,
            topics.GRIPPER_COMMAND: self._on_gripper_command,
        }
        return {topic: partial(self._take, topic.name, callback) for topic, callback in found.items()}

    def _take(self, name: str, callback: Callable[[Any, int, float], None], message: Any) -> None:
        try:
            callback(message, stamp_ns(message), time.monotonic())
        except UserError as error:
            self.refused += 1
            self.complaint = f"{name}: {error}"

    def _on_static(self, message: Image, stamp: int, now_s: float) -> None:
        self.assembler.static_image(stamp, partial(_pixels, _checked(message)), now_s)

    def _on_gripper_image(self, message: Image, stamp: int, now_s: float) -> None:
        self.assembler.gripper_image.add(stamp, partial(_pixels, _checked(message)), now_s)

    def _on_pose(self, message: PoseStamped, stamp: int, now_s: float) -> None:
        _check_frame(message)
        self.assembler.pose.add(stamp, pose_from_message(message.pose), now_s)

    def _on_target(self, message: PoseStamped, stamp: int, now_s: float) -> None:
        _check_frame(message)
        self.assembler.target.add(stamp, pose_from_message(message.pose), now_s)

    def _on_joints(self, message: JointState, stamp: int, now_s: float) -> None:
        fingers = [at for at, name in enumerate(message.name) if name in topics.FINGER_JOINTS or "finger" in name]
        if not fingers or len(message.position) != len(message.name):
            return  # the arm's own joint states, without the gripper's
        width = sum(float(message.position[at]) for at in fingers)
        if not math.isfinite(width):
            raise UserError("a finger's position is not finite")
        self.assembler.width.add(stamp, width, now_s)

    def _on_gripper_command(self, message: GripperCommand, stamp: int, now_s: float) -> None:
        if not math.isfinite(message.command):
            raise UserError("the command is not finite")
        self.assembler.gripper_command.add(stamp, float(message.command), now_s)


def stamp_ns(message: Any) -> int:
    """Of its header."""
    stamp = message.header.stamp
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def _checked(message: Image) -> Image:
    """UserError for an image that cannot be read, before it is taken for one that can."""
    raw_to_rgb(message.encoding, message.height, message.width, message.step, message.data)
    return message


def _pixels(message: Image) -> ImageArray:
    return np.asarray(raw_to_rgb(message.encoding, message.height, message.width, message.step, message.data))


def _check_frame(message: PoseStamped) -> None:
    if message.header.frame_id != topics.BASE_FRAME:
        raise UserError(f"it is in frame {message.header.frame_id!r}; expected {topics.BASE_FRAME!r}")
