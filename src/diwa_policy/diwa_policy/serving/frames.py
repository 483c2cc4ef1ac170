"""From messages as they arrive to 7.5 Hz frames: the same choice that the importer makes with a whole bag in hand.

A frame takes, for the stamp of a static image, the nearest gripper image, pose and gripper width and the command in
force (diwa_worldmodel.dataset.timeline). Here the future is not known, so a frame waits for the first message after its
stamp on each stream, but not for long.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from diwa_conventions.actions import GRIPPER_OPEN, FloatArray, Pose
from diwa_conventions.errors import UserError
from diwa_conventions.images import ImageArray, SquareImages
from diwa_conventions.rates import TRAIN_RATE_HZ
from diwa_worldmodel.dataset.config import DataSetConfig
from diwa_worldmodel.dataset.records import Episode
from diwa_worldmodel.dataset.steps import commanded_actions, proprioception

STEP_NS = round(1e9 / TRAIN_RATE_HZ)
SETTLE_S = 0.1
"""How long a frame waits for what belongs to it and has not come: less than until the next one."""
_KEPT = 256
"""Messages of a stream: two seconds at 120 Hz."""

_SILENT_S = 0.1
_PERIODS = 8
_WAITING = 16
"""Static images that can become a frame."""

Value = TypeVar("Value")


class FrameFault(UserError):
    """A frame cannot be put together; whoever acts on frames has to stop."""


@dataclass(frozen=True)
class Command:
    """What the arm was told last."""

    target: Pose
    gripper: float


@dataclass(frozen=True)
class Frame:
    """What was seen at one moment, and what was done since the frame before."""

    stamp_ns: int
    """Of the static camera."""
    images: Mapping[str, ImageArray]
    """Of each camera (S, S, 3)."""
    proprio: FloatArray
    """(10,) as a data set has it (method.md 17)."""
    pose: Pose
    executed: FloatArray | None
    """(7,) the action that was executed since the frame before; None for the first."""
    arrived_s: float
    """When the static image came, on the caller's clock."""


class Stream(Generic[Value]):
    """The last messages of one topic by their stamps. One that comes late is put in its place."""

    def __init__(self) -> None:
        self._stamps: list[int] = []
        self._values: list[Value] = []
        self.arrived_s = -np.inf

    def add(self, stamp_ns: int, value: Value, now_s: float) -> None:
        self.arrived_s = now_s
        at = bisect_right(self._stamps, stamp_ns)
        if at and self._stamps[at - 1] == stamp_ns:
            return
        self._stamps.insert(at, stamp_ns)
        self._values.insert(at, value)
        if len(self._stamps) > _KEPT:
            del self._stamps[0], self._values[0]

    def clear(self) -> None:
        self._stamps.clear()
        self._values.clear()

    def reaches(self, stamp_ns: int) -> bool:
        """A message of this stamp or a later one is there."""
        return bool(self._stamps) and self._stamps[-1] >= stamp_ns

    def nearest(self, stamp_ns: int) -> tuple[Value, int] | None:
        """The value nearest in time, of two the earlier, and how far it is away [ns]."""
        after = bisect_right(self._stamps, stamp_ns - 1)
        found = [at for at in (after - 1, after) if 0 <= at < len(self._stamps)]
        if not found:
            return None
        at = min(found, key=lambda one: abs(self._stamps[one] - stamp_ns))
        return self._values[at], abs(self._stamps[at] - stamp_ns)

    def latest(self, stamp_ns: int) -> Value | None:
        """The last value that is not after the stamp."""
        at = bisect_right(self._stamps, stamp_ns) - 1
        return self._values[at] if at >= 0 else None


@dataclass(frozen=True)
class _Static:
    """A static image that may become a frame."""

    stamp_ns: int
    image: Callable[[], ImageArray]
    arrived_s: float


class FrameAssembler:
    """Feed it with every message; :meth:`frame` gives one as soon as it is complete.

    Images come as functions, called only for those that become a frame: each of them is used once in four.
    ``needs_command``: there is no frame before the first command, as in a data set. Otherwise an arm without commands
    counts as held with an open gripper. All times are seconds of one steady clock, all stamps nanoseconds of another.
    """

    def __init__(self, config: DataSetConfig, needs_command: bool = True, settle_s: float = SETTLE_S) -> None:
        self.config, self.needs_command, self.settle_s = config, needs_command, settle_s
        self.gripper_image: Stream[Callable[[], ImageArray]] = Stream()
        self.pose: Stream[Pose] = Stream()
        self.width: Stream[float] = Stream()
        self.target: Stream[Pose] = Stream()
        self.gripper_command: Stream[float] = Stream()
        self.static_arrived_s = -np.inf
        self._square = SquareImages(config.image_size_px, config.fit)
        self._statics: list[_Static] = []
        """Later than the last frame, by stamps."""
        self._periods_ns: deque[int] = deque([STEP_NS], maxlen=_PERIODS)
        self._newest_ns = 0
        self._chosen: _Static | None = None
        self._last: tuple[int, Command | None] | None = None

    @property
    def streams(self) -> Mapping[str, Stream[Any]]:
        """All but the static camera's, by a word for a person."""
        return {
            "gripper camera": self.gripper_image,
            "pose": self.pose,
            "joint states": self.width,
            "target pose": self.target,
        }

    def begin(self) -> None:
        """What comes from now on makes frames, the next is a first one.

        Commands given before do not count where one is needed: they were another's.
        """
        self._chosen = self._last = None
        self._statics.clear()
        if self.needs_command:
            self.target.clear()

    def static_image(self, stamp_ns: int, image: Callable[[], ImageArray], now_s: float) -> None:
        """A static image, which may become a frame."""
        self.static_arrived_s = now_s
        if stamp_ns > self._newest_ns > 0:
            self._periods_ns.append(stamp_ns - self._newest_ns)
        self._newest_ns = max(self._newest_ns, stamp_ns)
        insort(self._statics, _Static(stamp_ns, image, now_s), key=lambda one: one.stamp_ns)
        del self._statics[:-_WAITING]

    def _choose(self) -> _Static | None:
        """The image nearest to one step after the last frame, as soon as no later one can be nearer."""
        if self._last is None:
            return self._statics[0] if self._statics else None
        last_ns = self._last[0]
        self._statics = [one for one in self._statics if one.stamp_ns > last_ns]
        target_ns = last_ns + STEP_NS
        late = [at for at, one in enumerate(self._statics) if one.stamp_ns >= target_ns - min(self._periods_ns) / 2]
        if not late:
            return None
        near = self._statics[max(late[0] - 1, 0) : late[0] + 1]
        return min(near, key=lambda one: abs(one.stamp_ns - target_ns))

    def frame(self, now_s: float) -> Frame | None:
        """The next frame, once; None while there is none or it is not complete. FrameFault if it cannot be."""
        chosen = self._chosen = self._chosen or self._choose()
        if chosen is None:
            return None
        waited = now_s - chosen.arrived_s >= self.settle_s
        if not waited and not self._complete(chosen):
            return None
        self._chosen = None
        if self._last is None and not self._can_begin(chosen.stamp_ns):
            self._statics = [one for one in self._statics if one is not chosen]
            return None
        return self._put_together(chosen)

    def _complete(self, chosen: _Static) -> bool:
        """On every stream there is a message behind which none can come that belongs to the frame."""
        stamp_ns = chosen.stamp_ns
        measured = all(stream.reaches(stamp_ns) for stream in (self.gripper_image, self.pose, self.width))
        silent = self.target.arrived_s < chosen.arrived_s - _SILENT_S  # nobody is armed: none will come
        return measured and (silent or self.target.reaches(stamp_ns + 1))

    def _can_begin(self, stamp_ns: int) -> bool:
        """All of it is there and in time: a run that has just begun waits for better instead of failing."""
        state_limit_s = self.config.state_limit_s
        limits = (
            (self.gripper_image, self.config.skew_limit_s),
            (self.pose, state_limit_s),
            (self.width, state_limit_s),
        )
        heard = all(_within(stream.nearest(stamp_ns), limit_s) for stream, limit_s in limits)
        return heard and (self.target.latest(stamp_ns) is not None or not self.needs_command)

    def _put_together(self, chosen: _Static) -> Frame:
        stamp_ns, config = chosen.stamp_ns, self.config
        gripper = self._near("gripper camera", self.gripper_image, stamp_ns, config.skew_limit_s)
        pose = self._near("pose", self.pose, stamp_ns, config.state_limit_s)
        width = self._near("joint states", self.width, stamp_ns, config.state_limit_s)
        command = self._command(stamp_ns)
        executed = None if self._last is None else _executed(self._last[1], command, config)
        self._last = (stamp_ns, command)
        images = {"static": self._square(chosen.image()), "gripper": self._square(gripper())}
        proprio = proprioception([pose], np.array([width]))[0]
        return Frame(stamp_ns, images, proprio, pose, executed, chosen.arrived_s)

    def _near(self, name: str, stream: Stream[Value], stamp_ns: int, limit_s: float) -> Value:
        found = stream.nearest(stamp_ns)
        if found is None or not _within(found, limit_s):
            far = "nothing" if found is None else f"{found[1] * 1e-6:.0f} ms"
            raise FrameFault(
                f"{name}: {far} away from the static camera's image in time; expected at most {limit_s * 1e3:.0f} ms "
                "(is it stale or skewed, do the clocks agree?)"
            )
        return found[0]

    def _command(self, stamp_ns: int) -> Command | None:
        target = self.target.latest(stamp_ns)
        if target is None:
            return None
        gripper = self.gripper_command.latest(stamp_ns)
        return Command(target, GRIPPER_OPEN if gripper is None else gripper)


def _within(found: tuple[Any, int] | None, limit_s: float) -> bool:
    return found is not None and found[1] <= limit_s * 1e9


def _executed(before: Command | None, after: Command | None, config: DataSetConfig) -> FloatArray:
    """(7,) of one step, by the importer's own function; no motion where there was no command."""
    if after is None or before is None:
        still: npt.NDArray[np.float64] = np.zeros(7)
        still[-1] = GRIPPER_OPEN if after is None or after.gripper >= 0.0 else -GRIPPER_OPEN
        return still
    grips = np.array([before.gripper, after.gripper])
    actions, _ = commanded_actions([before.target, after.target], grips, [Episode(0, 2)], config.scale)
    action: FloatArray = actions[0]
    return action
