"""What the playroom costs as a ROS 2 node: image rates, latency and processor time.

python benchmarks/playroom_node.py --seconds 20
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rclpy
import tyro
from machine import machine, markdown_table

from diwa_conventions import topics
from diwa_conventions.qos import message_type, profile

WATCHED = (topics.STATIC_IMAGE, topics.GRIPPER_IMAGE, topics.CURRENT_POSE, topics.JOINT_STATES)


@dataclass(frozen=True)
class Benchmark:
    """The playroom node with both cameras at 200x200 in real time, one subscriber."""

    seconds: float = 20.0
    domain: int = 91
    """ROS_DOMAIN_ID of the measurement."""


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(process: subprocess.Popen[bytes], seconds: float) -> tuple[dict[str, list[float]], float]:
    """Latencies [s] per topic from stamp to callback, and the node's processor share over the time."""
    node = rclpy.create_node("benchmark", namespace=topics.NAMESPACE)
    latencies: dict[str, list[float]] = defaultdict(list)

    def keep(topic: topics.Topic, message) -> None:  # type: ignore[no-untyped-def]
        stamp = message.header.stamp
        latencies[topic.name].append(time.time() - stamp.sec - 1e-9 * stamp.nanosec)

    for topic in WATCHED:
        callback = lambda message, topic=topic: keep(topic, message)  # noqa: E731
        node.create_subscription(message_type(topic), topic.name, callback, profile(topic))
    while not all(latencies[topic.name] for topic in WATCHED):
        rclpy.spin_once(node, timeout_sec=0.1)
        if process.poll() is not None:
            raise SystemExit("the playroom node has ended; what it said stands above")
    latencies.clear()
    used, start = processor_seconds(process.pid), time.monotonic()
    while (elapsed := time.monotonic() - start) < seconds:
        rclpy.spin_once(node, timeout_sec=0.01)
    share = (processor_seconds(process.pid) - used) / elapsed
    node.destroy_node()
    return latencies, share


def main(benchmark: Benchmark) -> None:
    os.environ |= {"ROS_DOMAIN_ID": str(benchmark.domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    command = [sys.executable, "-m", "diwa_sim.nodes.playroom", "--ros-args", "-r", f"__ns:=/{topics.NAMESPACE}"]
    rclpy.init()
    with subprocess.Popen(command) as process:
        try:
            latencies, share = measure(process, benchmark.seconds)
        finally:
            process.terminate()
    rclpy.shutdown()
    rows = []
    for topic in WATCHED:
        p50, p99 = np.percentile(np.array(latencies[topic.name]) * 1e3, [50, 99])
        rows.append([topic.name, f"{len(latencies[topic.name]) / benchmark.seconds:.2f}", f"{p50:.1f}", f"{p99:.1f}"])
    print(f"{machine()}, {benchmark.seconds:g} s; the node used {share:.2f} cores\n")
    print(markdown_table(["topic", "Hz", "stamp to callback p50 [ms]", "p99 [ms]"], rows))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
