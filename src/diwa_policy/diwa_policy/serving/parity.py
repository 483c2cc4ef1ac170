"""Served and offline, side by side: whether a run in a bag did what the policy computes from the same bag."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from diwa_conventions import topics
from diwa_conventions.actions import ACTION_DIM, GRIPPER_INDEX, quantise_gripper
from diwa_conventions.bags.definitions import full_name
from diwa_conventions.bags.reader import Bag
from diwa_conventions.errors import UserError
from diwa_conventions.rates import TRAIN_RATE_HZ
from diwa_policy.artefacts import LoadedPolicy
from diwa_policy.serving.offline import OfflineStep, served_offline
from diwa_worldmodel.artefact import LoadedWorldModel
from diwa_worldmodel.dataset.bag_streams import stamp_of
from diwa_worldmodel.dataset.records import HASH_DIGITS
from diwa_worldmodel.dataset.timeline import MIN_EPISODE_FRAMES

TOLERANCE = 1e-5
"""How far served and offline actions may differ."""
_STEP_NS = round(1e9 / TRAIN_RATE_HZ)
_COMPONENTS = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")


@dataclass
class ServedRun:
    """A run of the policy node, from its messages."""

    seed: int
    begin_ns: int
    """Stamp of its first frame."""
    begun_before: bool
    """Its first steps are not in the bag."""
    surprise: dict[int, float] = field(default_factory=dict)
    """By the frame's stamp [ns]."""
    actions: dict[int, npt.NDArray[np.float64]] = field(default_factory=dict)
    """(7,) by the frame's stamp [ns]."""


@dataclass(frozen=True)
class Comparison:
    """One run, served and offline."""

    number: int
    seed: int
    served: int
    """Actions in the bag."""
    compared: int
    """Those at a frame that the importer makes too."""
    action: float
    """Largest difference."""
    where: str
    """Of that."""
    surprise: float
    """Largest difference [nat]."""

    def agrees(self, tolerance: float) -> bool:
        return self.compared == self.served > 0 and self.action <= tolerance

    def __str__(self) -> str:
        text = f"run {self.number}, seed {self.seed}: {self.compared} of {self.served} served actions compared"
        if self.compared:
            text += f"; largest difference {self.action:.2g} ({self.where}), of the surprise {self.surprise:.2g} nat"
        if self.compared < self.served:
            text += f"; {self.served - self.compared} were served at frames that the importer does not make of the bag"
        return text + ("; they agree" if self.agrees(TOLERANCE) else f"; they DIFFER by more than {TOLERANCE:g}")


def compare(bag: Bag, policy: LoadedPolicy, world_model: LoadedWorldModel, namespace: str = "") -> list[Comparison]:
    """Every whole run in the bag. UserError if there is none, or if another policy was served.

    Not one of a single action: the importer leaves out frames that stand alone.
    """
    found = served_runs(bag, policy.hash, namespace)
    runs = [run for run in found if len(run.actions) >= MIN_EPISODE_FRAMES and not run.begun_before]
    if not runs:
        raise UserError(
            f"{bag.path} has no run of a policy from its beginning; expected {topics.POLICY_STATUS.name} that says "
            f"running, and {topics.ACTION.name} or {topics.SHADOW_ACTION.name}"
        )
    return [_compared(number, run, bag, policy, world_model, namespace) for number, run in enumerate(runs, start=1)]


def _compared(
    number: int, run: ServedRun, bag: Bag, policy: LoadedPolicy, world_model: LoadedWorldModel, namespace: str
) -> Comparison:
    limit = (max(run.actions) - run.begin_ns) // _STEP_NS + 2
    offline = served_offline(bag, policy, world_model, run.begin_ns, run.seed, int(limit), namespace)
    return compare_run(number, run, offline)


def compare_run(number: int, run: ServedRun, offline: Sequence[OfflineStep]) -> Comparison:
    """Pure: a run beside the steps computed offline, frame by frame."""
    both = [(step, run.actions[one.stamp_ns], one) for step, one in enumerate(offline) if one.stamp_ns in run.actions]
    if not both:
        return Comparison(number, run.seed, len(run.actions), 0, 0.0, "nowhere", 0.0)
    apart = np.abs([served - one.action for _, served, one in both])
    row, component = np.unravel_index(int(np.argmax(apart)), apart.shape)  # the first that is NaN, if one is
    where = f"step {both[row][0]}, {_COMPONENTS[component]}"
    surprise = np.max(np.abs([run.surprise[one.stamp_ns] - one.surprise for _, _, one in both]))
    return Comparison(
        number, run.seed, len(run.actions), len(both), float(apart[row, component]), where, float(surprise)
    )


def served_runs(bag: Bag, policy_hash: str, namespace: str = "") -> list[ServedRun]:
    """The runs in a bag, in turn. Every action belongs to the status whose stamp is nearest to its own."""
    names = {
        topic: _name(bag, topic, namespace) for topic in (topics.POLICY_STATUS, topics.ACTION, topics.SHADOW_ACTION)
    }
    runs: list[ServedRun] = []
    reported: list[tuple[int, ServedRun, int]] = []
    last: Any = None
    for message in bag.messages([names[topics.POLICY_STATUS]]):
        status = bag.decode(message)
        frame_ns = _nanoseconds(status.frame)
        if status.state == status.RUNNING and frame_ns:  # 0: it waits for its first frame
            if last is None or status.step < last.step or status.seed != last.seed:
                _check_policy(bag, status, policy_hash)
                runs.append(ServedRun(int(status.seed), frame_ns, status.step > 0))
            if frame_ns not in runs[-1].surprise:
                runs[-1].surprise[frame_ns] = float(status.surprise)
                reported.append((stamp_of(status), runs[-1], frame_ns))
            last = status
        elif status.state != status.RUNNING:
            last = None
    _place_actions(bag, [names[topics.ACTION], names[topics.SHADOW_ACTION]], reported)
    return runs


def _place_actions(bag: Bag, names: Sequence[str], reported: Sequence[tuple[int, ServedRun, int]]) -> None:
    """``reported``: stamp of a status, its run and its frame."""
    stamps = np.array([stamp for stamp, _, _ in reported], np.int64)
    for message in bag.messages(names):
        action = bag.decode(message)
        if action.source != topics.POLICY_SOURCE or not len(stamps):
            continue
        apart = np.abs(stamps - stamp_of(action))
        nearest = int(np.argmin(apart))
        if apart[nearest] <= _STEP_NS // 2:
            _, run, frame_ns = reported[nearest]
            run.actions.setdefault(frame_ns, action_of(action))


def action_of(message: Any) -> npt.NDArray[np.float64]:
    """(7,) of a decoded DeltaAction, the gripper open or closed."""
    values = np.zeros(ACTION_DIM)
    values[:3], values[3:6] = message.translation, message.rotation
    values[GRIPPER_INDEX] = quantise_gripper(float(message.gripper))
    return values


def _check_policy(bag: Bag, status: Any, policy_hash: str) -> None:
    if status.policy_hash != policy_hash:
        raise UserError(
            f"{bag.path} holds a run of policy {str(status.policy_hash)[:HASH_DIGITS]} ({status.skill}), but --policy "
            f"is {policy_hash[:HASH_DIGITS]}; name the one that was served"
        )


def _name(bag: Bag, topic: topics.Topic, namespace: str) -> str:
    """The topic's name in the bag; as in the graph's own namespace if the bag does not have it."""
    if namespace:
        return full_name(topic.name, namespace)
    found = [name for name in bag.topics if name.endswith(f"/{topic.name}")]
    if len(found) > 1:
        raise UserError(f"{bag.path} has several topics {topic.name}: {', '.join(found)}; choose with --namespace NAME")
    return found[0] if found else full_name(topic.name, topics.NAMESPACE)


def _nanoseconds(stamp: Any) -> int:
    return int(stamp.sec) * 10**9 + int(stamp.nanosec)
