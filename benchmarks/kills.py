"""The policy node is killed in the middle of a run: when is the arm held, and does anything hold the guard up?

python benchmarks/kills.py --kills 40
python benchmarks/kills.py --kills 40 --shared-memory        # the guard as Fast DDS would have it, for comparison
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
import tyro
from diwa_msgs.action import RunSkill
from diwa_msgs.msg import GuardState, PolicyStatus
from machine import machine, markdown_table
from rclpy.action import ActionClient

from diwa_conventions import topics
from diwa_conventions.discovery import stay_on_this_machine
from diwa_conventions.qos import profile

sys.path.append(str(Path(__file__).parents[1] / "src" / "diwa_policy" / "test"))
from policy_samples import saved_policy, small_world_model

_TASK = "open-drawer"
_WATCHED_S = 3.5
"""After each kill: a lock that was left behind costs 2 s."""
_RESTS_M = 1e-3
_HELD = (GuardState.DISARMED, GuardState.HOLDING, GuardState.FAULT)
_ANSWER_S, _TIMEOUT_S = 3.0, 60.0
_STATES = {getattr(GuardState, name): name for name in ("DISARMED", "ARMED", "HOLDING", "FAULT")}


@dataclass(frozen=True)
class Benchmark:
    """Playroom, command guard and an untrained policy, all started anew for each kill."""

    kills: int = 40
    shared_memory: bool = False
    """The guard uses Fast DDS's default transports, shared memory among them."""
    domain: int = 93
    """ROS_DOMAIN_ID of the measurement."""


@dataclass(frozen=True)
class Outcome:
    rest_s: float
    """From the kill to the first report of the guard with the target where it stays."""
    held_s: float
    """From the kill to the first report that the guard holds."""
    silence_s: float
    """Longest interval of the guard's reports."""
    state: str
    reason: str


class Room:
    """What is started, and what is heard of it."""

    def __init__(self, folder: Path, shared_memory: bool) -> None:
        model = small_world_model(folder / "world_model")
        policy = saved_policy(folder / "policy", model.hash, skill=_TASK)
        self._models = [f"policy:={policy.folder}", f"world_model:={model.folder}", "inference:=torch"]
        self._guard_environment = {"FASTDDS_BUILTIN_TRANSPORTS": "DEFAULT"} if shared_memory else {}
        self._node = rclpy.create_node("bench", namespace=topics.NAMESPACE)
        self._skill = ActionClient(self._node, RunSkill, topics.RUN_SKILL_ACTION)
        self._guard: list[tuple[float, GuardState]] = []
        self._status: PolicyStatus | None = None
        keep = lambda message: self._guard.append((time.monotonic(), message))  # noqa: E731
        self._node.create_subscription(GuardState, topics.GUARD_STATE.name, keep, profile(topics.GUARD_STATE))
        self._node.create_subscription(
            PolicyStatus, topics.POLICY_STATUS.name, self._on_status, profile(topics.POLICY_STATUS)
        )

    def kill_once(self) -> Outcome:
        """Start all, begin a run, kill the policy after two steps, listen."""
        self._guard.clear()
        self._status = None
        rest = [
            _start("diwa_sim.nodes.playroom", "image_size:=64"),
            _start("diwa_robot.nodes.command_guard", environment=self._guard_environment),
        ]
        policy = _start("diwa_policy.nodes.policy", *self._models)
        try:
            self._begin_run()
            self._guard.clear()
            policy.kill()
            killed_s = time.monotonic()
            self._spin(lambda: time.monotonic() > killed_s + _WATCHED_S, "the end")
            return _outcome(killed_s, self._guard)
        finally:
            for process in (policy, *rest):
                process.send_signal(signal.SIGTERM)
            for process in (policy, *rest):
                process.wait()

    def _begin_run(self) -> None:
        goal = RunSkill.Goal(skill=_TASK, time_limit_s=60.0, seed=1)

        def running() -> bool:
            return self._status is not None and self._status.state == PolicyStatus.RUNNING and self._status.step >= 2

        def begun() -> bool:
            """One try; the cameras, say, may not have been heard yet."""
            sent, sent_s = self._skill.send_goal_async(goal), time.monotonic()
            # The node killed before is discovered for a while: what was sent to it is not answered.
            self._spin(lambda: sent.done() or time.monotonic() > sent_s + _ANSWER_S, "the goal's answer")
            if not sent.done():
                return False
            ended = sent.result().get_result_async()
            self._spin(lambda: ended.done() or running(), "steps")
            return not ended.done()

        self._spin(self._skill.server_is_ready, "the policy node")
        self._spin(begun, "a run")

    def _spin(self, condition: Callable[[], Any], what: str) -> None:
        deadline_s = time.monotonic() + _TIMEOUT_S
        while not condition():
            if time.monotonic() > deadline_s:
                raise SystemExit(f"{what} did not come within {_TIMEOUT_S:g} s; is something else running?")
            rclpy.spin_once(self._node, timeout_sec=0.02)

    def _on_status(self, message: PolicyStatus) -> None:
        self._status = message


def _start(module: str, *parameters: str, environment: dict[str, str] | None = None) -> subprocess.Popen[Any]:
    words = [sys.executable, "-m", module, "--ros-args", "--log-level", "error", "-r", f"__ns:=/{topics.NAMESPACE}"]
    words += [word for parameter in parameters for word in ("-p", parameter)]
    return subprocess.Popen(words, env={**os.environ, **(environment or {})})


def _outcome(killed_s: float, reports: list[tuple[float, GuardState]]) -> Outcome:
    times = [killed_s, *(at_s for at_s, _ in reports)]
    rest_m = _position(reports[-1][1])
    moving = [i for i, (_, report) in enumerate(reports) if np.abs(_position(report) - rest_m).max() > _RESTS_M]
    rest_s = reports[moving[-1] + 1][0] - killed_s if moving else 0.0
    held = [at_s - killed_s for at_s, report in reports if report.state in _HELD]
    last = reports[-1][1]
    silence_s = max(after - before for before, after in zip(times, times[1:], strict=False))
    return Outcome(rest_s, held[0] if held else float("inf"), silence_s, _STATES[last.state], last.reason)


def _position(report: GuardState) -> np.ndarray:
    point = report.target.position
    return np.array([point.x, point.y, point.z])


def main(benchmark: Benchmark) -> None:
    os.environ["ROS_DOMAIN_ID"] = str(benchmark.domain)
    stay_on_this_machine()
    rclpy.init()
    with tempfile.TemporaryDirectory() as folder:
        room = Room(Path(folder), benchmark.shared_memory)
        outcomes = []
        for number in range(benchmark.kills):
            outcomes.append(room.kill_once())
            print(f"{number + 1}/{benchmark.kills} {outcomes[-1]}", flush=True)
    rclpy.shutdown()
    measured = {
        "kill to the target's rest, to 1 mm": [one.rest_s for one in outcomes],
        "kill to the guard's HOLDING": [one.held_s for one in outcomes],
        "longest silence of the guard": [one.silence_s for one in outcomes],
    }
    memory = "in shared memory" if benchmark.shared_memory else "by UDP alone"
    print(f"\n{machine()}; {benchmark.kills} kills; the guard speaks {memory}\n")
    rows = [
        [name, f"{np.median(values):.3f} s", f"{max(values):.3f} s", str(sum(value > 0.5 for value in values))]
        for name, values in measured.items()
    ]
    print(markdown_table(["", "median", "most", "above 0.5 s"], rows))
    print()
    ends = Counter((one.state, one.reason) for one in outcomes)
    print(markdown_table(["state", "reason", "times"], [[*end, str(times)] for end, times in ends.most_common()]))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
