"""Which messages make which frame: stamps to 7.5 Hz frames on the static camera's grid, cut into episodes.

Pure numpy. A frame takes, for the stamp of a static image, the nearest gripper image, pose, joint state and scene state
and the command in force, which is the latest one with a stamp not after it. Before the first command there is no frame
(the arm was not armed yet). From one frame to the next is one step of 1/7.5 s within EVEN_S; where a single image was
lost, its neighbour stands in, one camera period off. The episode ends where no sound frame is that far away, where the
camera's rate changes to one that 7.5 Hz does not divide, where a clock was set, where poses jump, and where the scene
is reset.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.ndimage import median_filter

from diwa_conventions.actions import FloatArray
from diwa_conventions.errors import UserError
from diwa_conventions.rates import TRAIN_RATE_HZ
from diwa_worldmodel.dataset.clock_steps import NS, IntArray
from diwa_worldmodel.dataset.config import DataSetConfig
from diwa_worldmodel.dataset.records import EPISODE_ENDS, LEFT_OUT, Episode
from diwa_worldmodel.dataset.stamps import rate_hz

BoolArray: TypeAlias = npt.NDArray[np.bool_]

RATE_TOLERANCE = 0.05
"""How far the static camera's rate may be from a multiple of 7.5 Hz."""
QUATERNION_TOLERANCE = 1e-3
"""How far from 1 a quaternion's length may be."""
MIN_JUMP_S = 0.01
"""Stamps closer than this are taken as this far apart when speeds are judged: jitter is no jump."""
PAUSE_S = 0.1
"""An arm whose states are lost for this long may have moved on meanwhile."""
MIN_EPISODE_FRAMES = 2
EVEN_S = 0.02
"""How far a step may be from 1/7.5 s. Only a single step between two even ones may be further off."""
LOCAL_RATE_TOLERANCE = 0.07
"""How far the camera's rate over LOCAL_IMAGES may be from one that 7.5 Hz divides."""
LOCAL_IMAGES = 9
SILENCE_S, LONG_SILENCE_S = 0.04, 0.1
"""No stamp on any topic for longer than this, and than their rates explain: all was silent, or the clock was set.

In a short one messages may have been lost: then cameras go on in the rhythm that they had before.
"""
RHYTHM_S = 0.004
"""How far a camera's stamps may be out of their rhythm."""


@dataclass(frozen=True)
class Images:
    """Stamps of one camera."""

    stamps_ns: IntArray
    """(N,) strictly increasing."""
    usable: BoolArray
    """(N,) false: cannot be decoded."""
    size: IntArray
    """(N,) any number that changes with the image's height and width."""


@dataclass(frozen=True)
class Poses:
    """Measured or commanded poses."""

    stamps_ns: IntArray
    """(N,) strictly increasing."""
    values: FloatArray
    """(N, 7) position [m] and quaternion, scalar last."""

    def sound(self) -> BoolArray:
        """(N,) finite, with a quaternion of length 1."""
        length = np.linalg.norm(self.values[:, 3:], axis=1)
        finite = np.isfinite(self.values).all(axis=1)
        return np.asarray(finite & (np.abs(np.where(finite, length, 0.0) - 1.0) <= QUATERNION_TOLERANCE))


@dataclass(frozen=True)
class Numbers:
    """A number at each stamp: gripper width, gripper command, the scene's episode."""

    stamps_ns: IntArray
    """(N,) strictly increasing."""
    values: FloatArray
    """(N,)."""


@dataclass(frozen=True)
class Streams:
    """Everything that is put together."""

    static: Images
    gripper: Images
    pose: Poses
    width: Numbers
    target: Poses
    gripper_command: Numbers
    scene_episode: Numbers | None = None
    clock_steps_ns: tuple[int, ...] = ()
    """Stamps of the first messages after steps of any topic's clock."""


@dataclass(frozen=True)
class Plan:
    """The frames of a recording; F of them, episode after episode. Each (F,) array has indices into a stream."""

    static: IntArray
    gripper: IntArray
    pose: IntArray
    width: IntArray
    target: IntArray
    gripper_command: IntArray
    scene: IntArray | None
    stamps_ns: IntArray
    """(F,) of the static camera."""
    episodes: tuple[Episode, ...]
    skew_ns: IntArray
    """Gripper minus static stamps wherever there were both images, at the full rate."""
    frames_left_out: dict[str, int]
    episode_ends: dict[str, int]
    left_out_ns: tuple[tuple[int, int, str], ...] = ()
    """First and last stamp of each stretch of images that make no frame, and the reason."""
    uneven_steps: int = 0
    """Single steps that are off by more than EVEN_S."""
    silences_ns: tuple[tuple[int, int], ...] = ()
    """Stamps between which all topics are silent: the last before and the first after."""


@dataclass(frozen=True)
class _Barrier:
    """A moment that no step may cross."""

    ns: int
    reason: str


@dataclass(frozen=True)
class _Grid:
    """Step from frame to frame, how far it may be off, and the distance of the static camera's images."""

    step_ns: float
    tolerance_ns: float
    period_ns: float


def plan(streams: Streams, config: DataSetConfig) -> Plan:
    """Frames and episodes. UserError if the static camera's rate is not a multiple of 7.5 Hz."""
    stamps = streams.static.stamps_ns
    stride = grid_stride(stamps)
    period_ns = float(np.median(np.diff(stamps))) if len(stamps) > 1 else NS / TRAIN_RATE_HZ
    grid = _Grid(stride * period_ns, config.step_tolerance_s * NS, period_ns)
    chosen = _Choice(streams, config)
    chosen.leave_out(_off_rate(stamps, grid.step_ns), "rate")
    sound = np.flatnonzero(chosen.reason == 0)
    silent = silences(streams)
    chains, ends, alone = _Walk(stamps[sound], _barriers(streams, config, silent), grid).run()
    left_out = {
        reason: -(-int((chosen.reason == number).sum()) // stride) for number, reason in enumerate(LEFT_OUT) if number
    }
    left_out["gap"] = alone
    frames = sound[np.concatenate(chains)] if chains else np.zeros(0, dtype=np.int64)
    return Plan(
        static=frames,
        gripper=chosen.gripper[frames],
        pose=chosen.pose[frames],
        width=chosen.width[frames],
        target=chosen.target[frames],
        gripper_command=chosen.gripper_command[frames],
        scene=None if chosen.scene is None else chosen.scene[frames],
        stamps_ns=stamps[frames],
        episodes=_episodes([len(chain) for chain in chains]),
        skew_ns=chosen.skew_ns,
        frames_left_out=left_out,
        episode_ends=ends,
        left_out_ns=_stretches(stamps, chosen.reason),
        uneven_steps=sum(int(_uneven(stamps[sound[chain]], grid.step_ns).sum()) for chain in chains),
        silences_ns=silent,
    )


def _off_rate(stamps: IntArray, step_ns: float) -> BoolArray:
    """(N,) whether around an image the camera runs at a rate that 7.5 Hz does not divide."""
    if len(stamps) <= LOCAL_IMAGES:
        return np.zeros(len(stamps), dtype=np.bool_)
    local = median_filter(np.diff(stamps).astype(np.float64), size=LOCAL_IMAGES, mode="nearest")
    stride = np.maximum(np.rint(step_ns / local), 1.0)
    off = np.abs(stride * local / step_ns - 1.0) > LOCAL_RATE_TOLERANCE
    # Images further apart than a step are a gap, and no rate.
    off &= local <= (1.0 + LOCAL_RATE_TOLERANCE) * step_ns
    return np.asarray(np.append(off, off[-1:]) | np.append(off[:1], off))


def _stretches(stamps: IntArray, reason: npt.NDArray[np.uint8]) -> tuple[tuple[int, int, str], ...]:
    edges = [0, *(np.flatnonzero(np.diff(reason)) + 1).tolist(), len(reason)]
    return tuple(
        (int(stamps[first]), int(stamps[end - 1]), LEFT_OUT[reason[first]])
        for first, end in zip(edges, edges[1:], strict=False)
        if first < end and reason[first]
    )


def _uneven(stamps: IntArray, step_ns: float) -> BoolArray:
    """(n - 1,) which steps of n frames are off by more than EVEN_S."""
    return np.asarray(np.abs(np.diff(stamps) - step_ns) > EVEN_S * NS)


def silences(streams: Streams) -> tuple[tuple[int, int], ...]:
    """Stamps (before, after) between which there is none on any topic that comes at a steady rate."""
    steady = [streams.static.stamps_ns, streams.gripper.stamps_ns, streams.pose.stamps_ns, streams.width.stamps_ns]
    if min(map(len, steady)) < 2:
        return ()
    fastest_ns = min(float(np.median(np.diff(stamps))) for stamps in steady)
    stamps = np.unique(np.concatenate(steady))
    limit_ns = max(SILENCE_S * NS, 1.5 * fastest_ns + 0.02 * NS)
    found = ((int(stamps[i]), int(stamps[i + 1])) for i in np.flatnonzero(np.diff(stamps) > limit_ns))
    cameras = (streams.static.stamps_ns, streams.gripper.stamps_ns)
    return tuple(
        (before, after)
        for before, after in found
        if after - before > LONG_SILENCE_S * NS or any(_out_of_rhythm(stamps, before) for stamps in cameras)
    )


def _out_of_rhythm(stamps: IntArray, moment: int) -> bool:
    """Whether the first stamp after a moment is no whole number of periods after the last one before it."""
    periods = np.diff(stamps)
    period, jitter = float(np.median(periods)), float(np.median(np.abs(periods - np.median(periods))))
    place = int(np.searchsorted(stamps, moment, side="right"))
    if not 0 < place < len(stamps):
        return False
    apart = float(stamps[place] - stamps[place - 1])
    return abs(apart - round(apart / period) * period) > max(RHYTHM_S * NS, 4.0 * jitter)


def grid_stride(stamps: IntArray) -> int:
    """How many static images make one step. UserError for a rate that 7.5 Hz does not divide."""
    rate = rate_hz(stamps)
    if not rate:
        return 1
    stride = round(rate / TRAIN_RATE_HZ)
    if stride < 1 or abs(rate / (stride * TRAIN_RATE_HZ) - 1.0) > RATE_TOLERANCE:
        raise UserError(
            f"the static camera runs at {rate:.2f} Hz; expected 7.5, 15, 30, 60 Hz or another multiple of 7.5: "
            "set the camera's rate and record again"
        )
    return stride


def _episodes(lengths: list[int]) -> tuple[Episode, ...]:
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(int).tolist()
    return tuple(Episode(start, length) for start, length in zip(starts, lengths, strict=False))


class _Choice:
    """What each of the N static images would be joined with, and why not."""

    def __init__(self, streams: Streams, config: DataSetConfig) -> None:
        at = streams.static.stamps_ns
        self.reason: npt.NDArray[np.uint8] = np.zeros(len(at), dtype=np.uint8)
        """(N,) index into LEFT_OUT; 0: the frame is sound."""
        self.gripper, skew = nearest(streams.gripper.stamps_ns, at)
        self.leave_out(~_take(streams.gripper.usable, self.gripper, False) | ~streams.static.usable, "image")
        self.leave_out(np.abs(skew) > config.skew_limit_s * NS, "skew")
        self.skew_ns = skew if len(streams.gripper.stamps_ns) else np.zeros(0, dtype=np.int64)
        limit = config.state_limit_s * NS
        self.pose, far = nearest(streams.pose.stamps_ns, at)
        self.leave_out((np.abs(far) > limit) | ~_take(streams.pose.sound(), self.pose, False), "state")
        self.width, far = nearest(streams.width.stamps_ns, at)
        widths = np.isfinite(streams.width.values)
        self.leave_out((np.abs(far) > limit) | ~_take(widths, self.width, False), "state")
        self.scene: IntArray | None = None
        if streams.scene_episode is not None:
            self.scene, far = nearest(streams.scene_episode.stamps_ns, at)
            self.leave_out(np.abs(far) > limit, "state")
        self.target = latest(streams.target.stamps_ns, at)
        self.gripper_command = latest(streams.gripper_command.stamps_ns, at)
        commands = np.isfinite(streams.gripper_command.values)
        self.leave_out((self.target < 0) | ~_take(streams.target.sound(), self.target, False), "command")
        self.leave_out((self.gripper_command < 0) | ~_take(commands, self.gripper_command, False), "command")

    def leave_out(self, frames: BoolArray, reason: str) -> None:
        """Mark these frames; the first reason stays."""
        self.reason[frames & (self.reason == 0)] = LEFT_OUT.index(reason)


def nearest(stamps: IntArray, at: IntArray) -> tuple[IntArray, IntArray]:
    """Index (N,) of the stamp nearest to each of ``at`` (N,), the earlier of two, and how far after it is [ns].

    Without stamps the indices are -1 and the distances as large as can be.
    """
    if not len(stamps):
        return np.full(len(at), -1), np.full(len(at), np.iinfo(np.int64).max)
    after = np.clip(np.searchsorted(stamps, at), 0, len(stamps) - 1)
    before = np.maximum(after - 1, 0)
    index = np.where(np.abs(stamps[before] - at) <= np.abs(stamps[after] - at), before, after)
    return index, stamps[index] - at


def latest(stamps: IntArray, at: IntArray) -> IntArray:
    """Index (N,) of the last stamp that is not after each of ``at`` (N,); -1 if there is none."""
    return np.searchsorted(stamps, at, side="right").astype(np.int64) - 1


def _take(flags: BoolArray, index: IntArray, missing: bool) -> BoolArray:
    """``flags[index]``, ``missing`` where the index is -1."""
    if not len(flags):
        return np.full(len(index), missing)
    return np.where(index < 0, missing, flags[index])


def _barriers(streams: Streams, config: DataSetConfig, silent: tuple[tuple[int, int], ...]) -> list[_Barrier]:
    """Moments no step may cross, in their order."""
    clocks = [_Barrier(ns, "clock") for ns in streams.clock_steps_ns]
    clocks += [_Barrier(after, "gap") for _, after in silent]
    return sorted(
        [*clocks, *_scene_barriers(streams, config)], key=lambda barrier: (barrier.ns, _TELLING[barrier.reason])
    )


_TELLING = {reason: i for i, reason in enumerate(("reset", "clock", "jump", "image", "rate", "gap"))}
"""Of several barriers at one place the first in this order gives the reason: a reset also makes poses jump."""


def _scene_barriers(streams: Streams, config: DataSetConfig) -> list[_Barrier]:
    """Where poses jump, the scene is reset or images change their size."""
    found = [_Barrier(ns, "jump") for ns in _middles(streams.pose.stamps_ns, _jumps(streams.pose, config, PAUSE_S))]
    jumps = _jumps(streams.target, config, 0.0)
    found += [_Barrier(int(streams.target.stamps_ns[i + 1]), "jump") for i in jumps]
    if streams.scene_episode is not None:
        stamps, episode = streams.scene_episode.stamps_ns, streams.scene_episode.values
        found += [_Barrier(ns, "reset") for ns in _middles(stamps, np.flatnonzero(np.diff(episode) != 0.0))]
    for camera in (streams.static, streams.gripper):
        stamps, size = camera.stamps_ns[camera.usable], camera.size[camera.usable]
        found += [_Barrier(int(stamps[i + 1]), "image") for i in np.flatnonzero(np.diff(size) != 0)]
    return found


def _middles(stamps: IntArray, index: IntArray) -> list[int]:
    """Between each stamp and the next one: what is nearest to the later one comes after the middle."""
    return [int(stamps[i] + (stamps[i + 1] - stamps[i]) // 2 + 1) for i in index]


def _jumps(poses: Poses, config: DataSetConfig, pause_s: float) -> IntArray:
    """Indices of the poses whose next one is further away than the limits on speed allow.

    After a pause longer than ``pause_s`` and than usual, no more is allowed: an arm moves on while its states are lost,
    but commands that pause (the guard is disarmed) and go on elsewhere were not executed on the way.
    """
    sound = np.flatnonzero(poses.sound())
    stamps, values = poses.stamps_ns[sound], poses.values[sound]
    if len(stamps) < 2:
        return np.zeros(0, dtype=np.int64)
    apart_s = np.diff(stamps) / NS
    allowed_s = np.clip(apart_s, MIN_JUMP_S, max(MIN_JUMP_S, pause_s, 1.5 * float(np.median(apart_s))))
    way_m = np.linalg.norm(np.diff(values[:, :3], axis=0), axis=1)
    same = np.abs(np.einsum("ij,ij->i", values[1:, 3:], values[:-1, 3:]))
    turn_rad = 2.0 * np.arccos(np.clip(same, 0.0, 1.0))
    jumps = (way_m > config.max_speed_m_s * allowed_s) | (turn_rad > config.max_turn_rad_s * allowed_s)
    # The later of the two decides where it was: unsound ones may lie between them.
    return np.asarray(sound[1:][jumps] - 1, dtype=np.int64)


class _Walk:
    """Goes from each frame to the one nearest to one step later, so that a lost frame shifts the grid once."""

    def __init__(self, stamps: IntArray, barriers: list[_Barrier], grid: _Grid) -> None:
        self._stamps = stamps
        self._times: list[int] = stamps.tolist()
        self._moments = [barrier.ns for barrier in barriers]
        self._reasons = [barrier.reason for barrier in barriers]
        self._grid = grid

    def run(self) -> tuple[list[IntArray], dict[str, int], int]:
        """Chains of indices into the stamps of sound frames, why each ended, and how many frames were left alone."""
        chains: list[IntArray] = []
        ends = dict.fromkeys(EPISODE_ENDS, 0)
        alone = begin = 0
        while begin < len(self._times):
            chain = [begin]
            while (step := self._next(chain[-1])) is not None:
                chain.append(step)
            reason, begin = self._end_of(chain[-1])
            even = self._even_parts(np.array(chain, dtype=np.int64))
            for part, why in zip(even, ["rate"] * (len(even) - 1) + [reason], strict=True):
                if len(part) < MIN_EPISODE_FRAMES:
                    alone += len(part)
                else:
                    chains.append(part)
                    ends[why] += 1
        return chains, ends, alone

    def _even_parts(self, chain: IntArray) -> list[IntArray]:
        """The chain, cut at its uneven steps. A single one among even ones stays: one image was lost there."""
        uneven = _uneven(self._stamps[chain], self._grid.step_ns)
        around = np.concatenate([[False], uneven, [False]])
        alone = ~(around[:-2] | around[2:]) & (len(uneven) > 1)
        return np.split(chain, np.flatnonzero(uneven & ~alone) + 1)

    def _next(self, last: int) -> int | None:
        """Index of the frame one step after ``last``; None if there is none or a barrier stands before it."""
        times, target = self._times, self._times[last] + self._grid.step_ns
        after = bisect_left(times, target, last + 1)
        near = [i for i in (after - 1, after) if last < i < len(times)]
        index = min(near, key=lambda i: abs(times[i] - target), default=None)
        if index is None or abs(times[index] - target) > self._grid.tolerance_ns:
            return None
        # An earlier frame stands in for a lost one, but not for one behind the end.
        goes_on = after < len(times) and times[after] - target <= self._grid.step_ns
        if target - times[index] > self._grid.period_ns / 2 and not goes_on:
            return None
        barrier = bisect_left(self._moments, times[last] + 1)
        return None if barrier < len(self._moments) and self._moments[barrier] <= times[index] else index

    def _end_of(self, last: int) -> tuple[str, int]:
        """Why the chain ended at ``last``, and the index of the frame where the next one begins."""
        times = self._times
        begin = bisect_left(times, times[last] + self._grid.step_ns - self._grid.period_ns / 2, last + 1)
        barrier = bisect_left(self._moments, times[last] + 1)
        if barrier < len(self._moments) and (begin == len(times) or self._moments[barrier] <= times[begin]):
            return self._reasons[barrier], bisect_left(times, self._moments[barrier], last + 1)
        return ("gap" if begin < len(times) else "end"), begin
