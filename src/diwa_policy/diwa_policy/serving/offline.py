"""What a policy should do on a recorded run, computed from the bag: the measure for what it did when it was served.

    steps = served_offline(bag, load_policy(folder), load_world_model(other), begin_ns, seed=3)

Frames and executed actions come from the importer's own code, so they are those that a data set would have, had the bag
begun at the frame where the run began; latents and decisions come about as in evaluation (``evaluation/trials.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diwa_conventions.actions import ACTION_DIM, GRIPPER_INDEX, GRIPPER_OPEN, quantise_gripper
from diwa_conventions.bags.reader import Bag, RawMessage
from diwa_conventions.errors import UserError
from diwa_conventions.images import SquareImages
from diwa_policy.artefacts import LoadedPolicy, check_lineage
from diwa_policy.policy import Policy, draw_noise
from diwa_worldmodel.artefact import LoadedWorldModel
from diwa_worldmodel.dataset.bag_images import ImagePairs
from diwa_worldmodel.dataset.bag_streams import BagStreams, Part, read_streams
from diwa_worldmodel.dataset.bag_topics import BagOptions, find_topics
from diwa_worldmodel.dataset.config import DataSetConfig
from diwa_worldmodel.dataset.records import Episode
from diwa_worldmodel.dataset.steps import commanded_actions, poses_of, proprioception
from diwa_worldmodel.dataset.timeline import Numbers, Plan, Poses, Streams, plan
from diwa_worldmodel.latent_filter import THREADS, FilterFrame, FilterLimits, LatentFilter

Actions = npt.NDArray[np.float64]

_STILL: Actions = np.eye(ACTION_DIM)[GRIPPER_INDEX] * GRIPPER_OPEN


@dataclass(frozen=True)
class OfflineStep:
    """One 7.5 Hz frame and what the policy asks for there."""

    stamp_ns: int
    """Of the static camera."""
    latent: Tensor
    """(s,)"""
    surprise: float
    """One-step KL [nat]."""
    action: Actions
    """(7,) with the gripper open or closed."""


@dataclass(frozen=True)
class BagFrames:
    """The F frames of a bag from one of them on, without a gap, as a data set has them."""

    stamps_ns: npt.NDArray[np.int64]
    """(F,)"""
    static: npt.NDArray[np.uint8]
    """(F, S, S, 3)"""
    gripper: npt.NDArray[np.uint8]
    """(F, S, S, 3)"""
    proprio: npt.NDArray[np.float32]
    """(F, 10)"""
    action: npt.NDArray[np.float32]
    """(F, 7) executed from each frame to the next; the last one's is no motion."""
    scene_state: npt.NDArray[np.float32] | None
    """(F, N)"""

    def filter_frames(self) -> Iterator[tuple[FilterFrame, npt.NDArray[np.float32] | None]]:
        """Each frame, a row of the filter, with the action (1, 7) that led to it."""
        for t in range(len(self.stamps_ns)):
            one = slice(t, t + 1)
            images = {"static": self.static[one], "gripper": self.gripper[one]}
            scene_state = None if self.scene_state is None else self.scene_state[one]
            executed = self.action[t - 1 : t] if t else None
            yield FilterFrame(images, self.proprio[one], self.stamps_ns[one], scene_state), executed


def served_offline(
    bag: Bag,
    policy: LoadedPolicy,
    world_model: LoadedWorldModel,
    begin_ns: int,
    seed: int,
    limit: int | None = None,
    namespace: str = "",
) -> list[OfflineStep]:
    """A run that begins with the frame whose stamp is ``begin_ns``, until frames end or there are ``limit``.

    UserError if the artefacts do not belong together, and if the bag has no such frame.
    """
    check_lineage(world_model, policy)
    if world_model.config.model.action_chunk != 1:
        raise UserError(f"{world_model.folder} takes several actions a step; a policy is served on one that takes one")
    data_set = world_model.metadata.data_set
    frames = read_frames(bag, data_set, begin_ns, limit, namespace)
    latent_filter = LatentFilter(world_model.model, limits=FilterLimits(step_tolerance_s=data_set.step_tolerance_s))
    decisions = _Decisions(policy.policy, seed)
    steps = []
    with _serving_threads():
        for stamp_ns, (frame, executed) in zip(frames.stamps_ns.tolist(), frames.filter_frames(), strict=True):
            output = latent_filter.update(frame, executed)
            action = decisions.action(output.latent)
            steps.append(OfflineStep(stamp_ns, output.latent[0], float(output.surprise[0]), action))
    return steps


class _Decisions:
    """The actions of one run, a chunk at a time."""

    def __init__(self, policy: Policy, seed: int) -> None:
        self._policy, self._generator = policy, torch.Generator().manual_seed(seed)
        self._frames = self._at = 0
        self._chunk: Actions = np.zeros((0, ACTION_DIM))

    def action(self, latent: Tensor) -> Actions:
        """(7,) at the next frame, whose latent is (1, s): still until the filter has warmed up."""
        config = self._policy.config
        self._frames += 1
        warm = self._frames - 1 - config.warmup_steps
        if warm < 0:
            return _STILL.copy()
        if warm == 0 or self._at == config.executed_actions:
            noise = draw_noise((1, self._policy.steps + 1, self._policy.chunk), self._generator)
            self._chunk, self._at = self._policy.act(latent, noise)[0].double().numpy(), 0
        self._at += 1
        action: Actions = self._chunk[self._at - 1].copy()
        action[GRIPPER_INDEX] = quantise_gripper(float(action[GRIPPER_INDEX]))
        return action


@contextmanager
def _serving_threads() -> Iterator[None]:
    """As many as serve: others round otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def read_frames(
    bag: Bag, config: DataSetConfig, begin_ns: int, limit: int | None = None, namespace: str = ""
) -> BagFrames:
    """The frames from the one with stamp ``begin_ns`` to the end of its episode, at most ``limit``.

    Those before it are as if they had not been recorded: the 7.5 Hz grid begins with it. UserError if it is not sound.
    """
    options = BagOptions(namespace)
    topics = find_topics(bag, options)
    part = Part()
    found = read_streams(bag, part, topics, options, _silent)
    square = SquareImages(config.image_size_px, config.fit)
    while True:
        chosen = _frames_from(bag, found.streams, config, begin_ns, limit)
        pairs = ImagePairs(bag, part, topics, found, chosen, square, _silent)
        blocks = list(pairs.blocks())
        if not pairs.bad:
            break
        for is_static, index in pairs.bad:
            (found.streams.static if is_static else found.streams.gripper).usable[index] = False
    static, gripper = (np.concatenate([block[camera] for block in blocks]) for camera in (1, 2))
    return _with_numbers(chosen, found, config, static, gripper)


def _frames_from(bag: Bag, streams: Streams, config: DataSetConfig, begin_ns: int, limit: int | None) -> Plan:
    """The importer's plan of what begins with one frame."""
    streams.static.usable[streams.static.stamps_ns < begin_ns] = False
    whole = plan(_commanded_from(streams, begin_ns), config)
    count = whole.episodes[0].length if whole.episodes else 0
    if not count or whole.stamps_ns[0] != begin_ns:
        apart = (
            f"the next one is {(whole.stamps_ns[0] - begin_ns) * 1e-9:.3f} s later" if count else "there is none later"
        )
        raise UserError(
            f"{bag.path} has no frame with images, state and command at {begin_ns} ns that another follows; {apart}"
        )
    count = count if limit is None else min(count, limit)
    columns = ("static", "gripper", "pose", "width", "target", "gripper_command", "stamps_ns")
    cut = {name: getattr(whole, name)[:count] for name in columns}
    scene = None if whole.scene is None else whole.scene[:count]
    return replace(whole, **cut, scene=scene, episodes=(Episode(0, count),))


def _commanded_from(streams: Streams, begin_ns: int) -> Streams:
    """A run may begin before anything was commanded: then the arm counts as held, with an open gripper."""
    target, grip = streams.target, streams.gripper_command
    if len(target.stamps_ns) and target.stamps_ns[0] > begin_ns:
        target = Poses(np.insert(target.stamps_ns, 0, begin_ns), np.insert(target.values, 0, target.values[0], axis=0))
    if len(grip.stamps_ns) and grip.stamps_ns[0] > begin_ns:
        grip = Numbers(np.insert(grip.stamps_ns, 0, begin_ns), np.insert(grip.values, 0, GRIPPER_OPEN))
    return replace(streams, target=target, gripper_command=grip)


def _with_numbers(
    chosen: Plan,
    found: BagStreams,
    config: DataSetConfig,
    static: npt.NDArray[np.uint8],
    gripper: npt.NDArray[np.uint8],
) -> BagFrames:
    streams = _commanded_from(found.streams, int(chosen.stamps_ns[0]))
    proprio = proprioception(poses_of(streams.pose.values[chosen.pose]), streams.width.values[chosen.width])
    commands = poses_of(streams.target.values[chosen.target])
    grips = streams.gripper_command.values[chosen.gripper_command]
    action, _ = commanded_actions(commands, grips, chosen.episodes, config.scale)
    scene = None
    if chosen.scene is not None and found.scene_state is not None:
        scene = found.scene_state[chosen.scene].astype(np.float32)
    return BagFrames(
        chosen.stamps_ns, static, gripper, proprio.astype(np.float32), action.astype(np.float32), scene
    )  # fmt: skip


def _silent(message: RawMessage) -> None:
    """Nobody is told how far it is."""
