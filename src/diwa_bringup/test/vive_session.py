"""A VIVE-driven recording in the playroom: real nodes as processes, the unmodified openvr client, a virtual controller.

The test and ``benchmarks/vive_recording.py`` record with it and measure what came of it from the bag alone.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diwa_msgs.msg import GuardState, RecorderState
from scipy.spatial.transform import Rotation

from diwa_conventions import topics
from diwa_conventions.actions import FloatArray, Pose
from diwa_conventions.bags.definitions import full_name
from diwa_conventions.bags.reader import Bag
from diwa_conventions.qos import message_type, profile
from diwa_teleop.operators.calibration import UNCALIBRATED, OperatorCalibration, RigidTransform

sys.path.append(str(Path(__file__).parents[2] / "diwa_teleop" / "test"))

from virtual_runtime.virtual_vive import OUT_OF_RANGE, VirtualVive, build, why_not

__all__ = ["Following", "Measures", "Session", "why_not"]
CONTROLLER = 1
PATIENCE_S = 120.0
RATE_HZ = 90.0
"""Of the virtual tracking."""
LOST_S = 3.0
"""How long tracking is lost in the middle; the hand goes on, with the clutch held."""
WAIT_S = 0.5
"""How long the clutch is still held after tracking is back."""
STEP_S = 0.3
SETTLED_S = 0.3
"""After the released clutch the guard has braked to a stop."""
TO_BASE = RigidTransform(
    Rotation.from_euler("z", 0.7).as_matrix() @ UNCALIBRATED.rotation,  # the world stands askew
    np.array([0.8, -0.5, -0.9]),
)
_TABLE = np.array([[0.35, -0.25, 0.0], [0.35, 0.25, 0.0], [0.60, 0.0, 0.0]])


def hand_at(seconds: float) -> Pose:
    """The scripted path in the base frame, with the speeds of play: up to about 0.4 m/s and 0.5 rad/s.

    So small that the arm stays in its box also where hand and arm have lost each other by a whole swing.
    """
    grown = min(1.0, seconds / 1.0) ** 2
    phase = 2.0 * np.pi * seconds
    shift = grown * np.array([0.05 * np.sin(0.41 * phase), 0.10 * np.sin(0.5 * phase), 0.05 * np.sin(0.53 * phase)])
    turn = grown * np.array([0.0, 0.1 * np.sin(0.4 * phase), 0.3 * np.sin(0.25 * phase)])
    return Pose(np.array([0.5, 0.1, 0.4]) + shift, Rotation.from_rotvec(turn).as_matrix())


class Session:
    """The recording: start it, go through its phases, end it."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self.seconds = folder, seconds
        self.vive = VirtualVive(build(folder / "runtime"), folder / "config")
        self.vive.add(CONTROLLER, "LHR-VIRTUAL")
        self.bag = folder / "bag"
        self.moments_ns: dict[str, int] = {}
        self.hand_meanwhile_m = 0.0
        self._playing, self._path_s, self._shown_s = False, 0.0, time.monotonic()
        self._buttons: tuple[str, ...] = ()
        self._trigger = 0.0
        self._guard, self._recorder = GuardState(), RecorderState()
        self._poses = 0

    def record(self) -> Measures:
        """Start all nodes, play, lose tracking in the middle, play on; what the bag says."""
        base = TO_BASE
        calibration = OperatorCalibration(base, "LHR-VIRTUAL", "now", _in_world(_TABLE), _TABLE)
        calibration.save(self.folder / "operator.yaml")
        with self._nodes() as graph, self._observer() as spin:
            self._until(lambda: bool(self._poses) and self._guard.state == GuardState.DISARMED, spin, "all nodes")
            self._until(lambda: self._guard.state == GuardState.ARMED, spin, "arming", self._press_now_and_then)
            self._press()
            self._until(lambda: self._recorder.state == RecorderState.RECORDING, spin, "recording")
            self._play(spin)
            assert graph.wait(timeout=PATIENCE_S) == 0, (self.folder / "graph.log").read_text()
        measures = measure(self.bag, self.moments_ns)
        measures.hand_meanwhile_m = self.hand_meanwhile_m
        return measures

    def _play(self, spin: Callable[[], None]) -> None:
        share = (self.seconds - LOST_S - WAIT_S - 1.0) / 2.0
        self._playing = True
        self._mark("pressed", "grip")
        self._for(share, spin)
        lost_s = self._path_s
        self.moments_ns["lost"] = time.time_ns()
        self.vive.track(CONTROLLER, OUT_OF_RANGE)
        self._for(LOST_S, spin)
        self.vive.track(CONTROLLER)
        self._for(WAIT_S, spin)
        self.moments_ns["released"] = time.time_ns()
        self._press()
        self._for(0.3, spin)
        way = np.array([hand_at(seconds).position for seconds in np.linspace(lost_s, self._path_s, 200)])
        self.hand_meanwhile_m = float(np.linalg.norm(np.diff(way, axis=0), axis=1).sum())
        self._mark("pressed again", "grip")
        self._for(share, spin)
        self._mark("over")

    def _mark(self, name: str, *buttons: str) -> None:
        self._press(*buttons)
        self.moments_ns[name] = time.time_ns()

    def _press(self, *buttons: str) -> None:
        self._buttons = buttons
        self._show()

    def _press_now_and_then(self) -> None:
        """The arm button; arming is refused until arm and cameras have delivered."""
        self._press(*(["touchpad"] if time.monotonic() % 1.0 < 0.5 else []))

    def _show(self) -> None:
        """The controller as it is now: pose, buttons, a trigger that is pulled for a second now and then.

        Where this process was held up the hand waits: no tracking system leaps for that.
        """
        now_s = time.monotonic()
        self._path_s += min(now_s - self._shown_s, 2.0 / RATE_HZ) if self._playing else 0.0
        self._shown_s, seconds = now_s, self._path_s
        pulled = "grip" in self._buttons and seconds % 4.0 > 1.0 and seconds % 4.0 < 2.5
        self.vive.press(CONTROLLER, self._buttons, 1.0 if pulled else 0.0, (0.0, 1.0))
        hand = hand_at(seconds)
        position = _in_world(hand.position.reshape(1, 3))[0]
        self.vive.move(CONTROLLER, Pose(position, TO_BASE.rotation.T @ hand.rotation))

    def _for(self, seconds: float, spin: Callable[[], None]) -> None:
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            self._show()
            spin()

    def _until(
        self,
        condition: Callable[[], bool],
        spin: Callable[[], None],
        what: str,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"{what}: not within {PATIENCE_S:g} s\n{self.logs()}"
            meanwhile()
            self._show()
            spin()

    def logs(self) -> str:
        """What the nodes have said."""
        return "\n".join((self.folder / name).read_text() for name in ("graph.log", "vive.log"))

    @contextmanager
    def _nodes(self):  # type: ignore[no-untyped-def]
        """The graph without an operator, and the vive node."""
        words = ["diwa", "up", "record", "operator:=none", "image_size:=64", f"bag:={self.bag}"]
        words.append(f"duration_s:={self.seconds:g}")
        vive = [sys.executable, "-m", "diwa_teleop.nodes.vive", "--ros-args", "-r", "__ns:=/diwa"]
        vive += ["-p", f"calibration:={self.folder / 'operator.yaml'}"]
        environment = dict(self.vive.process_environment())
        with open(self.folder / "graph.log", "w") as log, open(self.folder / "vive.log", "w") as vive_log:
            operator = subprocess.Popen(vive, stdout=vive_log, stderr=vive_log, env=environment)
            graph = subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            try:
                yield graph
            finally:
                for process in (graph, operator):
                    process.terminate()
                for process in (graph, operator):
                    process.wait(timeout=PATIENCE_S)

    @contextmanager
    def _observer(self):  # type: ignore[no-untyped-def]
        rclpy.init()
        node = rclpy.create_node("observer", namespace=topics.NAMESPACE)
        callbacks: dict[topics.Topic, Callable[[Any], None]] = {
            topics.GUARD_STATE: lambda message: setattr(self, "_guard", message),
            topics.RECORDER_STATE: lambda message: setattr(self, "_recorder", message),
            topics.OPERATOR_POSE: lambda message: setattr(self, "_poses", self._poses + 1),
        }
        for topic, callback in callbacks.items():
            node.create_subscription(message_type(topic), topic.name, callback, profile(topic))
        try:
            yield lambda: rclpy.spin_once(node, timeout_sec=1.0 / RATE_HZ)
        finally:
            node.destroy_node()
            rclpy.shutdown()


def _in_world(base: FloatArray) -> FloatArray:
    return (base - TO_BASE.translation) @ TO_BASE.rotation


# What came of it


@dataclass(frozen=True)
class Track:
    """A path: when (N,) [s] and where (N, 3) [m] or (N, 3, 3)."""

    s: FloatArray
    position: FloatArray
    rotation: FloatArray

    def between(self, low_s: float, high_s: float) -> Track:
        part = (self.s >= low_s) & (self.s < high_s)
        return Track(self.s[part], self.position[part], self.rotation[part])

    def at(self, seconds: FloatArray) -> FloatArray:
        """Positions (N, 3) between the samples."""
        return np.stack([np.interp(seconds, self.s, self.position[:, axis]) for axis in range(3)], axis=1)

    def travelled_m(self) -> float:
        return float(np.linalg.norm(np.diff(self.position, axis=0), axis=1).sum())

    def away_m(self, since_s: float) -> float:
        """How far from where it was at that moment it ever is afterwards."""
        return float(np.linalg.norm(self.position - self.at(np.array([since_s])), axis=1)[self.s >= since_s].max())


@dataclass(frozen=True)
class Following:
    """How well the arm followed the hand while the clutch was held."""

    lag_s: float
    correlation: float
    """The worst of x, y and z, at this lag."""
    rms_m: float
    largest_m: float
    """Distance between arm and hand, at this lag, without their constant offset. A grip that begins anew, where a busy
    machine held up a node, changes that offset."""
    hand_step_m: float
    """How far the hand went in 0.3 s, median."""
    step_error_m: float
    """By how much what the arm did in 0.3 s differs from that, median: a single hold-up does not show in it."""


@dataclass
class Measures:
    """Figures of one recording."""

    counts: dict[str, int] = field(default_factory=dict)
    moving_actions: int = 0
    gripper_commands: int = 0
    hand_m: float = 0.0
    arm_m: float = 0.0
    holds: int = 0
    limited: int = 0
    """Actions of which the guard executed a part only."""
    before: Following | None = None
    after: Following | None = None
    target_before: Following | None = None
    """The target instead of the arm, which runs after it."""
    clutch_released_s: float = np.nan
    """From the loss of tracking to the joystick that says so."""
    last_motion_s: float = np.nan
    """From the loss to the last action that moves."""
    target_stood_s: float = np.nan
    """From the loss until the target stands."""
    target_on_m: float = 0.0
    """How far the target went on after the loss."""
    arm_on_m: float = 0.0
    """How far the arm did, which runs after the target."""
    crept_m: float = 0.0
    """How far the target still moved from SETTLED_S after the released clutch on, until it was pressed again."""
    hand_meanwhile_m: float = 0.0
    """The way of the real hand from the loss to the clutch that was pressed again."""


def measure(path: Path, moments_ns: dict[str, int]) -> Measures:
    """All figures from the bag, and from when the script did what."""
    bag = Bag(path)
    seen: dict[str, list[tuple[float, Any]]] = {}
    wanted = (
        topics.OPERATOR_POSE,
        topics.OPERATOR_JOY,
        topics.ACTION,
        topics.TARGET_POSE,
        topics.CURRENT_POSE,
        topics.GUARD_STATE,
    )
    names = {full_name(topic.name, topics.NAMESPACE): topic.name for topic in wanted}
    for raw in bag.messages(names):
        seen.setdefault(names[raw.topic], []).append((raw.log_ns * 1e-9, bag.decode(raw)))
    moments = {name: moment * 1e-9 for name, moment in moments_ns.items()}
    hand, arm, target = (
        _track(seen[topic.name]) for topic in (topics.OPERATOR_POSE, topics.CURRENT_POSE, topics.TARGET_POSE)
    )
    actions = seen[topics.ACTION.name]
    states = [state.state for _, state in seen[topics.GUARD_STATE.name]]
    measures = Measures(
        counts={names[name]: topic.messages for name, topic in bag.topics.items() if name in names},
        moving_actions=sum(_moves(action) for _, action in actions),
        gripper_commands=int(np.count_nonzero(np.diff([action.gripper for _, action in actions]))),
        hand_m=hand.travelled_m(),
        arm_m=arm.travelled_m(),
        holds=int(np.count_nonzero(np.diff(np.array(states) == GuardState.HOLDING) & (np.array(states[1:]) == 2))),
        limited=seen[topics.GUARD_STATE.name][-1][1].limited,
        before=following(hand, arm, moments["pressed"], moments["lost"]),
        after=following(hand, arm, moments["pressed again"], moments["over"]),
        target_before=following(hand, target, moments["pressed"], moments["lost"]),
    )
    _measure_loss(measures, seen, arm, target, moments)
    return measures


def _measure_loss(
    measures: Measures, seen: dict[str, list[tuple[float, Any]]], arm: Track, target: Track, moments: dict[str, float]
) -> None:
    lost_s, until_s = moments["lost"], moments["pressed again"]
    released = [s for s, joy in seen[topics.OPERATOR_JOY.name] if s >= lost_s and not joy.buttons[0]]
    measures.clutch_released_s = released[0] - lost_s
    moving = [s for s, action in seen[topics.ACTION.name] if lost_s <= s < until_s and _moves(action)]
    measures.last_motion_s = max(moving, default=lost_s) - lost_s
    blind = target.between(lost_s, until_s)
    away_m = np.linalg.norm(blind.position - blind.position[-1], axis=1)
    stands = np.flatnonzero(away_m > 1e-4)
    stood_s = float(blind.s[stands[-1] + 1]) if len(stands) else lost_s
    measures.target_stood_s = stood_s - lost_s
    measures.crept_m = blind.away_m(released[0] + SETTLED_S)
    measures.target_on_m = blind.away_m(lost_s)
    measures.arm_on_m = arm.between(lost_s, until_s).away_m(lost_s)


def following(hand: Track, arm: Track, low_s: float, high_s: float) -> Following:
    """Over a stretch with the clutch held, without its first and last 0.3 s."""
    arm = arm.between(low_s + 0.3, high_s - 0.3)
    best: Following | None = None
    for lag_s in np.arange(0.0, 0.4, 0.005):
        difference = arm.position - hand.at(arm.s - lag_s)
        distance = np.linalg.norm(difference - difference.mean(axis=0), axis=1)
        rms_m = float(np.sqrt(np.mean(distance**2)))
        if best is None or rms_m < best.rms_m:
            hands = hand.at(arm.s - lag_s)
            correlations = [np.corrcoef(arm.position[:, axis], hands[:, axis])[0, 1] for axis in range(3)]
            best = Following(
                float(lag_s), float(min(correlations)), rms_m, float(distance.max()), *_steps(hand, arm, lag_s)
            )
    assert best is not None
    return best


def _steps(hand: Track, arm: Track, lag_s: float) -> tuple[float, float]:
    later = arm.s[arm.s > arm.s[0] + STEP_S]
    arms = arm.at(later) - arm.at(later - STEP_S)
    hands = hand.at(later - lag_s) - hand.at(later - lag_s - STEP_S)
    median = [np.median(np.linalg.norm(values, axis=1)) for values in (hands, arms - hands)]
    return float(median[0]), float(median[1])


def _moves(action: Any) -> bool:
    return bool(np.abs(action.translation).max() > 1e-3 or np.abs(action.rotation).max() > 1e-3)


def _track(messages: list[tuple[float, Any]]) -> Track:
    points = [message.pose.position for _, message in messages]
    turns = [message.pose.orientation for _, message in messages]
    quaternions = np.array([[turn.x, turn.y, turn.z, turn.w] for turn in turns])
    positions = np.array([[point.x, point.y, point.z] for point in points])
    return Track(np.array([s for s, _ in messages]), positions, Rotation.from_quat(quaternions).as_matrix())
