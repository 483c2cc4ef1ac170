"""What the recorder costs and loses: two 200x200 cameras, one of 1280x720 and three topics at 120 Hz.

python benchmarks/recorder.py --seconds 60
"""

from __future__ import annotations

import array
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import rclpy
import tyro
from geometry_msgs.msg import PoseStamped
from machine import machine, markdown_table
from sensor_msgs.msg import Image, JointState

from diwa_conventions import topics
from diwa_conventions.bags.reader import Bag
from diwa_conventions.qos import profile
from diwa_conventions.topics import Topic

SCENE_IMAGE = Topic("scene_camera/image_raw", "sensor_msgs/msg/Image", True, 5, 30.0, "1280x720")
SENDERS = ("large camera", "small cameras and states")


@dataclass(frozen=True)
class Benchmark:
    """The recorder node as it is, fed by two other processes."""

    seconds: float = 60.0
    encoding: Literal["rgb8", "bgra8"] = "rgb8"
    """Of the 1280x720 camera: 83 or 111 MB/s."""
    transport: Literal["default", "large_data"] = "default"
    """Of Fast DDS: what it chooses by itself, or FASTDDS_BUILTIN_TRANSPORTS=LARGE_DATA."""
    compression: Literal["none", "lz4", "zstd"] = "none"
    folder: Path | None = None
    """Where the bag is written (and removed); by default the system's place for temporary files."""
    domain: int = 93
    """ROS_DOMAIN_ID of the measurement."""
    sender: str = ""
    """Used by the benchmark itself: be this sender."""


def image(width: int, height: int, encoding: str) -> Image:
    channels = len(encoding.rstrip("8"))
    data = array.array("B", os.urandom(width * height * channels))
    return Image(width=width, height=height, encoding=encoding, step=width * channels, data=data)


def messages_of(benchmark: Benchmark) -> list[tuple[Topic, Any]]:
    """What a sender sends."""
    if benchmark.sender == SENDERS[0]:
        return [(SCENE_IMAGE, image(1280, 720, benchmark.encoding))]
    joints = JointState(name=[*topics.ARM_JOINTS, *topics.FINGER_JOINTS], position=[0.0] * 9)
    return [
        (topics.STATIC_IMAGE, image(200, 200, "rgb8")),
        (topics.GRIPPER_IMAGE, image(200, 200, "rgb8")),
        (topics.CURRENT_POSE, PoseStamped()),
        (topics.TARGET_POSE, PoseStamped()),
        (topics.JOINT_STATES, joints),
    ]


def send(benchmark: Benchmark) -> None:
    """Send at the topics' rates for as long as is asked; print how many, topic by topic.

    After a hold-up it goes on at the rate, as a camera does, instead of sending in a burst what it could not send.
    """
    rclpy.init()
    node = rclpy.create_node("sender", namespace=topics.NAMESPACE)
    pairs = messages_of(benchmark)
    outs = [node.create_publisher(type(message), topic.name, profile(topic)) for topic, message in pairs]
    while not all(out.get_subscription_count() for out in outs):
        rclpy.spin_once(node, timeout_sec=0.05)
    time.sleep(1.0)  # both sides have found each other
    sent, due_s, start = [0] * len(pairs), [0.0] * len(pairs), time.monotonic()
    while (now := time.monotonic() - start) < benchmark.seconds:
        for number, (topic, message) in enumerate(pairs):
            if now >= due_s[number]:
                due_s[number] = max(due_s[number], now - 0.5 / topic.rate_hz) + 1.0 / topic.rate_hz
                message.header.stamp = node.get_clock().now().to_msg()
                outs[number].publish(message)
                sent[number] += 1
        time.sleep(0.001)
    time.sleep(2.0)  # what the middleware still has
    print(
        json.dumps({f"/{topics.NAMESPACE}/{topic.name}": count for (topic, _), count in zip(pairs, sent, strict=True)})
    )
    rclpy.shutdown()


def cost(pid: int) -> tuple[float, float]:
    """Processor seconds so far and peak memory [MB]."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), int(status["VmHWM"].split()[0]) / 1000


def start_recorder(benchmark: Benchmark, bag: Path) -> subprocess.Popen[bytes]:
    values = {
        "bag": bag,
        "autostart": "true",
        "required_topics": "['']",
        "extra_topics": f"[{SCENE_IMAGE.name}]",
        "compression": benchmark.compression,
    }
    command = [sys.executable, "-m", "diwa_teleop.nodes.recorder", "--ros-args", "-r", f"__ns:=/{topics.NAMESPACE}"]
    return subprocess.Popen([*command, *(word for item in values.items() for word in ("-p", "{}:={}".format(*item)))])


def measure(benchmark: Benchmark, bag: Path) -> tuple[dict[str, int], float, float]:
    """Messages sent by topic; the recorder's processor share and peak memory [MB]."""
    recorder = start_recorder(benchmark, bag)
    words = [f"--{name}={getattr(benchmark, name)}" for name in ("seconds", "encoding")]
    senders = [
        subprocess.Popen([sys.executable, __file__, *words, "--sender", sender], stdout=subprocess.PIPE)
        for sender in SENDERS
    ]
    sent: dict[str, int] = {}
    try:
        for sender in senders:
            sent |= json.loads(sender.communicate(timeout=benchmark.seconds + 60)[0])
        seconds, memory_mb = cost(recorder.pid)
    finally:
        recorder.send_signal(signal.SIGINT)
        recorder.wait(timeout=60)
        for sender in senders:
            sender.kill()
    return sent, seconds / benchmark.seconds, memory_mb


def main(benchmark: Benchmark) -> None:
    if benchmark.sender:
        return send(benchmark)
    os.environ |= {"ROS_DOMAIN_ID": str(benchmark.domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    if benchmark.transport == "large_data":
        os.environ["FASTDDS_BUILTIN_TRANSPORTS"] = "LARGE_DATA"
    place = Path(tempfile.mkdtemp(dir=benchmark.folder))
    try:
        sent, share, memory_mb = measure(benchmark, place / "bag")
        bag = Bag(place / "bag")
    finally:
        size_mb = sum(file.stat().st_size for file in place.rglob("*.mcap")) / 1e6
        shutil.rmtree(place)
    print(
        f"{machine()}, {benchmark.seconds:g} s, transport {benchmark.transport}, compression {benchmark.compression}; "
        f"{size_mb / benchmark.seconds:.0f} MB/s; the recorder used {share:.2f} cores and {memory_mb:.0f} MB at most\n"
    )
    rows = []
    for name, count in sent.items():
        kept = bag.topics[name].messages if name in bag.topics else 0
        rows.append([name, str(count), str(kept), str(count - kept)])
    print(markdown_table(["topic", "sent", "recorded", "lost"], rows))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
