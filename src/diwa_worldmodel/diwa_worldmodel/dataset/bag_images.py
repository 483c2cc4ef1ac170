"""Second pass over a part of a bag: the images that frames use, decoded and made small."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from diwa_conventions.bags.reader import Bag, RawMessage
from diwa_conventions.images import ImageArray, SquareImages
from diwa_worldmodel.dataset import cdr
from diwa_worldmodel.dataset.bag_streams import BagStreams, Part, image_reader
from diwa_worldmodel.dataset.bag_topics import BagTopics
from diwa_worldmodel.dataset.clock_steps import IntArray
from diwa_worldmodel.dataset.message_fields import FieldReader, Image
from diwa_worldmodel.dataset.records import Role
from diwa_worldmodel.dataset.timeline import Plan

_BLOCK_FRAMES = 50


@dataclass
class _Camera:
    """Which images of one camera frames wait for. Some arrived after later ones."""

    frames: dict[int, list[int]]
    """From a row of the first pass to the frames that use it."""
    read: FieldReader[Image]
    row: int = -1
    ready: dict[int, ImageArray | None] = field(default_factory=dict)
    """By frame. None: could not be decoded."""
    complete: int = 0
    """All frames before this one are ready or were handed out."""

    @classmethod
    def waiting_for(cls, rows: IntArray, read: FieldReader[Image]) -> _Camera:
        """``rows`` (F,) of the first pass, by frame."""
        frames: dict[int, list[int]] = {}
        for frame, row in enumerate(rows.tolist()):
            frames.setdefault(row, []).append(frame)
        return cls(frames, read)

    def put(self, image: ImageArray | None) -> None:
        """The image of the present row."""
        self.ready.update(dict.fromkeys(self.frames[self.row], image))
        while self.complete in self.ready:
            self.complete += 1


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
            topic = topics.roles[role]
            rows = found.ordered[role].kept[index]
            self._cameras[topic.name] = _Camera.waiting_for(rows, image_reader(bag, topic.type, topics.colours(role)))
        self.bad: list[tuple[bool, int]] = []
        """(is it static, index into the stream) of images that cannot be decoded."""
        self.complaints: dict[str, str] = {}
        """By topic, why the first of them could not be."""

    def blocks(self) -> Iterator[tuple[slice, npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]:
        """Which frames, and their static and gripper images (n, S, S, 3)."""
        static, gripper = self._cameras.values()
        done = 0
        for message in self._bag.recorded(list(self._cameras), self._part.ranges):
            self._progress(message)
            self._take(message)
            while min(static.complete, gripper.complete) - done >= _BLOCK_FRAMES:
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
                image = camera.ready.pop(begin + i)
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
        found = camera.read(message)
        if found is None:
            return
        camera.row += 1
        if camera.row in camera.frames:
            camera.put(None if found[1] is None else self._decode(message.topic, found[1]))

    def _decode(self, topic: str, image: Image) -> ImageArray | None:
        try:
            return self._square(cdr.rgb(image.data, image.fields))
        except (struct.error, ValueError) as error:
            self.complaints.setdefault(topic, str(error))
            return None
