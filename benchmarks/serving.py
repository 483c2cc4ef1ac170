"""How fast a policy is served: image stamp to action over DDS beside the simulator, and one decision alone.

python benchmarks/serving.py --policy runs/open/finetuned/policy --world-model runs/model/world_model
python benchmarks/serving.py --policy ... --world-model ... --minutes 30         # soak: latency and memory by minute
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
import torch
import tyro
from diwa_msgs.action import RunSkill
from diwa_msgs.msg import PolicyStatus
from diwa_msgs.srv import Recover, ResetPlayroom
from machine import machine, markdown_table
from playroom_node import processor_seconds
from rclpy.action import ActionClient
from rclpy.task import Future

from diwa_conventions import topics
from diwa_conventions.qos import message_type, profile
from diwa_conventions.rates import TRAIN_RATE_HZ
from diwa_policy.artefacts import load_policy
from diwa_policy.config import load_config
from diwa_policy.policy import Policy, draw_noise
from diwa_policy.serving.inference import inference
from diwa_worldmodel.config import load_config as load_world_model_config
from diwa_worldmodel.latent_filter import THREADS, FilterFrame, LatentFilter
from diwa_worldmodel.world_model import WorldModel

_NODES = ("diwa_sim.nodes.playroom", "diwa_robot.nodes.command_guard", "diwa_policy.nodes.policy")
_SETTLE_S = 0.5
_EPISODE_S = 12.0


@dataclass(frozen=True)
class Benchmark:
    """Playroom, command guard and policy in real time; skills run one after the other, each from a new start."""

    policy: Path
    world_model: Path
    minutes: float = 1.0
    decisions: int = 500
    """Of the measurement of a decision alone; 0: none."""
    domain: int = 93
    """ROS_DOMAIN_ID of the measurement."""


@dataclass
class Seen:
    """What was measured in a minute."""

    latency_ms: list[float] = field(default_factory=list)
    decision_ms: list[float] = field(default_factory=list)
    interval_ms: list[float] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)


class Client:
    """Sends goals one after the other and listens."""

    def __init__(self, skill: str) -> None:
        self.node = rclpy.create_node("benchmark", namespace=topics.NAMESPACE)
        self.skill, self.seen, self.last_s = skill, Seen(), math.nan
        self.client = ActionClient(self.node, RunSkill, topics.RUN_SKILL_ACTION)
        self.reset = self.node.create_client(ResetPlayroom, topics.RESET_SERVICE)
        self.recover = self.node.create_client(Recover, topics.RECOVER_SERVICE)
        for topic, callback in ((topics.POLICY_STATUS, self._on_status), (topics.ACTION, self._on_action)):
            self.node.create_subscription(message_type(topic), topic.name, callback, profile(topic))

    def _on_status(self, message: PolicyStatus) -> None:
        if message.state != PolicyStatus.RUNNING or not math.isfinite(message.latency_s):
            return
        self.seen.latency_ms.append(1e3 * message.latency_s)
        if message.step % 4 == 0:
            self.seen.decision_ms.append(1e3 * message.decision_s)

    def _on_action(self, message: Any) -> None:
        stamp_s = message.header.stamp.sec + 1e-9 * message.header.stamp.nanosec
        if message.sequence > 1:
            self.seen.interval_ms.append(1e3 * (stamp_s - self.last_s))
        self.last_s = stamp_s

    def run(self, seconds: float) -> Seen:
        """Skills for so long; a goal lasts up to 12 s, an episode of the paper."""
        self.seen, end_s = Seen(), time.monotonic() + seconds
        while time.monotonic() < end_s:
            self._reset(len(self.seen.ends))
            goal = RunSkill.Goal(skill=self.skill, time_limit_s=min(_EPISODE_S, seconds), seed=len(self.seen.ends))
            handle = self._wait(self.client.send_goal_async(goal))
            result = self._wait(handle.get_result_async()).result
            if not result.steps:
                raise SystemExit(f"a run of no steps: {result.reason}")
            self.seen.ends.append(result.reason)
        return self.seen

    def _reset(self, seed: int) -> None:
        """A new start, also after a fault; who arms in the same moment sees the arm jump."""
        self._wait(self.recover.call_async(Recover.Request()))
        self._wait(self.reset.call_async(ResetPlayroom.Request(task=self.skill, seed=seed)))
        rclpy.spin_until_future_complete(self.node, Future(), timeout_sec=_SETTLE_S)

    def _wait(self, future: Any) -> Any:
        rclpy.spin_until_future_complete(self.node, future)
        return future.result()


def command(module: str, benchmark: Benchmark) -> list[str]:
    words = [sys.executable, "-m", module, "--ros-args", "-r", f"__ns:=/{topics.NAMESPACE}"]
    if module == _NODES[-1]:
        settings = {
            "policy": benchmark.policy, "world_model": benchmark.world_model, "stop_on_success": "false",
            "surprise_factor": "0.0",
        }  # fmt: skip
        words += [word for name, value in settings.items() for word in ("-p", f"{name}:={value}")]
    return words


def memory_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def loop(benchmark: Benchmark) -> None:
    """From image stamp to action, minute by minute."""
    os.environ |= {"ROS_DOMAIN_ID": str(benchmark.domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    rclpy.init()
    rows, whole = [], Seen()
    with ExitStack() as stack:
        processes = [stack.enter_context(subprocess.Popen(command(module, benchmark))) for module in _NODES]
        for process in processes:
            stack.callback(process.terminate)
        client = Client(load_policy(benchmark.policy).metadata.skill)
        if not client.client.wait_for_server(120.0):
            raise SystemExit("the policy node does not come up")
        client.run(5.0)
        for minute in range(math.ceil(benchmark.minutes)):
            used, begun_s = [processor_seconds(p.pid) for p in processes], time.monotonic()
            seen = client.run(60.0)
            lasted_s = time.monotonic() - begun_s
            cores = [(processor_seconds(p.pid) - u) / lasted_s for p, u in zip(processes, used, strict=True)]
            rows.append([str(minute), *figures(seen), f"{sum(cores):.2f}", f"{memory_mib(processes[-1].pid):.0f}"])
            whole.latency_ms += seen.latency_ms
            whole.decision_ms += seen.decision_ms
            whole.interval_ms += seen.interval_ms
            whole.ends += seen.ends
    rclpy.shutdown()
    head = ["minute", "latency p50 [ms]", "p99 [ms]", "filter and decision p99 [ms]", "jitter p99 [ms]", "cores", "MiB"]
    shown = rows if len(rows) <= 6 else [*rows[: -1 : math.ceil(len(rows) / 6)], rows[-1]]
    print(markdown_table(head, [*shown, ["all", *figures(whole), "", ""]]))
    odd = sorted({reason for reason in whole.ends if not reason.startswith("time limit")})
    print(f"\n{len(whole.latency_ms)} actions in {len(whole.ends)} runs; ended otherwise than by time: {odd or 'none'}")


def figures(seen: Seen) -> list[str]:
    jitter = np.abs(np.array(seen.interval_ms) - 1e3 / TRAIN_RATE_HZ)
    numbers = [
        *np.percentile(seen.latency_ms, [50, 99]),
        np.percentile(seen.decision_ms, 99),
        np.percentile(jitter, 99),
    ]
    return [f"{number:.1f}" for number in numbers]


def alone(decisions: int) -> None:
    """A frame through the filter, and a decision, at both sizes."""
    torch.set_num_threads(THREADS)
    rows = []
    for preset in ("tiny", "paper"):
        model = WorldModel(load_world_model_config(preset).model)
        policy = Policy(load_config(preset).policy, model.config.latent, 10).eval()
        for backend in ("onnx", "torch"):
            decide = inference(policy, backend).decide
            noise = draw_noise((1, policy.steps + 1, policy.chunk), torch.Generator().manual_seed(0))
            latent = torch.randn(1, policy.latent)
            rows.append([preset, f"decision, {backend}", *timed(partial(decide, latent, noise), decisions)])
        rows.append([preset, "frame through the filter, torch", *timed(filtering(model), decisions)])
    print(markdown_table(["preset", "one thread", "p50 [ms]", "p99 [ms]"], rows))


def filtering(model: WorldModel) -> Any:
    config, latent_filter, number = model.config, LatentFilter(model), [0]
    images = {name: np.zeros((1, config.image_size_px, config.image_size_px, 3), np.uint8) for name in config.cameras}

    def update() -> None:
        number[0] += 1
        stamp = np.array([number[0] * round(1e9 / TRAIN_RATE_HZ)])
        latent_filter.update(FilterFrame(images, np.zeros((1, 10), np.float32), stamp), np.zeros((1, 7), np.float32))

    return update


def timed(work: Any, times: int) -> list[str]:
    taken = []
    for _ in range(times + 10):
        begun_s = time.perf_counter()
        work()
        taken.append(1e3 * (time.perf_counter() - begun_s))
    return [f"{number:.2f}" for number in np.percentile(taken[10:], [50, 99])]


def main(benchmark: Benchmark) -> None:
    print(f"{machine()}\n")
    if benchmark.decisions:
        alone(benchmark.decisions)
        print()
    loop(benchmark)


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
