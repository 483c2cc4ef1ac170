"""A RealSense .db3 and an Azure Kinect MKV through the camera nodes into a bag: what comes, how often, at what cost.

python benchmarks/camera_playback.py --seconds 60

Both recordings are written first, by the vendors' own libraries; every image shows its number.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rclpy
import tyro
from diagnostic_msgs.msg import DiagnosticArray
from machine import machine, markdown_table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src" / "diwa_teleop" / "test"))
import camera_samples as samples

from diwa_conventions import topics
from diwa_conventions.bags.reader import Bag

CAMERAS = {
    "realsense": ("gripper_camera", "play.db3", "640x480 rgb8"),
    "azure_kinect": ("static_camera", "play.mkv", "1280x720 JPEG"),
}
_NUMBERS = 256
"""Images are numbered modulo this."""


@dataclass(frozen=True)
class Benchmark:
    """Both camera nodes and the recorder as they are."""

    seconds: float = 10.0
    """Length of both recordings."""
    domain: int = 94
    """ROS_DOMAIN_ID of the measurement."""


def start(node: str, *parameters: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", f"diwa_teleop.nodes.{node}", "--ros-args", "-r", f"__ns:=/{topics.NAMESPACE}"]
    return subprocess.Popen([*command, *(word for parameter in parameters for word in ("-p", parameter))])


def processor_s(process: subprocess.Popen[bytes]) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def play(folder: Path, longest_s: float) -> tuple[dict[str, int], dict[str, float]]:
    """Images published and processor seconds by node; returns when both recordings are over."""
    recorder = start("recorder", f"bag:={folder / 'bag'}", "autostart:=true", "required_topics:=['']")
    nodes = {name: start(name, f"file:={folder / file}") for name, (_, file, _) in CAMERAS.items()}
    reports: dict[str, tuple[str, dict[str, str]]] = {}

    def on_diagnostics(message: DiagnosticArray) -> None:
        for status in message.status:
            values = {item.key: item.value for item in status.values}
            reports[status.name.rsplit("/", 1)[1]] = (status.message, values)

    rclpy.init()
    node = rclpy.create_node("watch")
    node.create_subscription(DiagnosticArray, "/diagnostics", on_diagnostics, 50)
    deadline = time.monotonic() + longest_s
    while not all(reports.get(name, ("",))[0].endswith("is over") for name in nodes):
        if time.monotonic() > deadline:
            raise SystemExit(f"the recordings did not end: {reports}")
        rclpy.spin_once(node, timeout_sec=0.1)
    rclpy.shutdown()
    cost = {name: processor_s(process) for name, process in nodes.items()}
    for process in (*nodes.values(), recorder):
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
    return {name: int(reports[name][1]["published"]) for name in nodes}, cost


def row(bag: Bag, name: str, count: int, published: int, cpu_s: float, seconds: float) -> list[str]:
    """What the bag holds of one camera."""
    camera, _, source = CAMERAS[name]
    images = [bag.decode(message) for message in bag.messages([f"/{topics.NAMESPACE}/{camera}/image_raw"])]
    numbers = [samples.number_of(np.reshape(image.data, (200, 200, 3))) for image in images]
    steps = np.diff(numbers) % _NUMBERS
    stamps = np.array([image.header.stamp.sec * 10**9 + image.header.stamp.nanosec for image in images])
    periods_ms = np.diff(stamps) * 1e-6 / np.maximum(steps, 1)
    rate_hz = (len(stamps) - 1) / ((stamps[-1] - stamps[0]) * 1e-9)
    return [
        f"{name}, {source}",
        str(count),
        str(published),
        str(len(images)),
        str(int((steps - 1).sum())),
        "yes" if (steps > 0).all() else "NO",
        f"{rate_hz:.2f}",
        f"{periods_ms.mean():.2f} +- {periods_ms.std():.2f}",
        f"{100 * cpu_s / seconds:.0f} %",
    ]


def main(benchmark: Benchmark) -> None:
    os.environ["ROS_DOMAIN_ID"] = str(benchmark.domain)
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    count = round(benchmark.seconds * samples.RATE_HZ)
    with tempfile.TemporaryDirectory() as folder:
        samples.write_db3(Path(folder) / "play.db3", count)
        samples.write_mkv(Path(folder) / "play.mkv", count)
        published, cost = play(Path(folder), 3 * benchmark.seconds + 120)
        bag = Bag(Path(folder) / "bag")
        head = ["camera node", "recorded", "published", "in the bag", "missing", "in order", "rate [Hz]"]
        rows = [row(bag, name, count, published[name], cost[name], benchmark.seconds) for name in CAMERAS]
        print(markdown_table([*head, "period [ms]", "CPU of one core"], rows))
    print(machine())


if __name__ == "__main__":
    main(tyro.cli(Benchmark, description=__doc__))
