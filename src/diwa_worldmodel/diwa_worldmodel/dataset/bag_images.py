"""Second pass over a part of a bag: the images that frames use, decoded and made small."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from diwa_conventions.bags.reader import Bag, RawMessage
from diwa_conventions.images import ImageArray, SquareImages
from diwa_worldmodel.dataset import cdr
from diwa_worldmodel.dataset.bag_streams import BagStreams, Part
from diwa_worldmodel.dataset.bag_topics import COMPRESSED_TYPE, BagTopics
from diwa_worldmodel.dataset.records import Role
from diwa_worldmodel.dataset.stamps import IntArray
from diwa_worldmodel.dataset.timeline import Plan

_BLOCK_FRAMES = 50


@dataclass
class _Camera:
    """Which images of one camera frames wait for, in the order in which they come."""

    rows: IntArray
    """(F,) rows of the first pass."""
    fields: Callable[[bytes, int], cdr.ImageFields]
    row: int = -1
    next: int = 0
    ready: deque[ImageArray | None] = field(default_factory=deque)
    """None: could not be decoded."""


class ImagePairs:
    """Second pass: decodes and shrinks the images that frames use, and hands them out in blocks."""

    def __init__(
        self,
        bag: Bag,
        part: Part,
        topics: BagTopics,
        found: BagStreams,
        frames: Plan,
        square: SquareImages,
        progress: Callable[[RawMessage], None],
    ) -> None:
        self._bag, self._part, self._square, self._progress = bag, part, square, progress
        self._frames = len(frames.stamps_ns)
        self._plan = frames
        self._cameras: dict[str, _Camera] = {}
        chosen: dict[Role, IntArray] = {"static_image": frames.static, "gripper_image": frames.gripper}
        for role, index in chosen.items():
            compressed = topics.roles[role].type == COMPRESSED_TYPE
            fields = cdr.compressed_fields if compressed else cdr.image_fields
            self._cameras[topics.roles[role].name] = _Camera(found.ordered[role].kept[index], fields)
        self.bad: list[tuple[bool, int]] = []
        """(is it static, index into the stream) of images that cannot be decoded."""

    def blocks(self) -> Iterator[tuple[slice, npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]:
        """Which frames, and their static and gripper images (n, S, S, 3)."""
        static, gripper = self._cameras.values()
        done = 0
        for message in self._bag.messages(list(self._cameras), self._part.begin_ns, self._part.end_ns):
            self._progress(message)
            self._take(message)
            while min(len(static.ready), len(gripper.ready)) >= _BLOCK_FRAMES:
                yield self._block(done, _BLOCK_FRAMES)
                done += _BLOCK_FRAMES
        if done < self._frames:
            yield self._block(done, self._frames - done)

    def _block(self, begin: int, count: int) -> tuple[slice, npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        size = self._square.size_px
        stacks = []
        for number, camera in enumerate(self._cameras.values()):
            stack = np.zeros((count, size, size, 3), dtype=np.uint8)
            for i in range(count):
                image = camera.ready.popleft()
                if image is None:
                    index = (self._plan.static if number == 0 else self._plan.gripper)[begin + i]
                    self.bad.append((number == 0, int(index)))
                else:
                    stack[i] = image
            stacks.append(stack)
        return slice(begin, begin + count), stacks[0], stacks[1]

    def _take(self, message: RawMessage) -> None:
        """Decode the image if a frame uses it. Rows are counted as in the first pass."""
        camera = self._cameras[message.topic]
        try:
            _, offset = cdr.header(message.data)
        except (struct.error, ValueError):
            return
        camera.row += 1
        image: ImageArray | None = None
        decoded = False
        while camera.next < len(camera.rows) and camera.rows[camera.next] == camera.row:
            if not decoded:
                image, decoded = self._decode(camera, message.data, offset), True
            camera.ready.append(image)
            camera.next += 1

    def _decode(self, camera: _Camera, data: bytes, offset: int) -> ImageArray | None:
        try:
            return self._square(cdr.rgb(data, camera.fields(data, offset)))
        except (struct.error, ValueError):
            return None
