"""``diwa up sim`` as a person starts it, against the built workspace."""

import os
import queue
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor

from diwa_conventions import topics
from diwa_conventions.qos import message_type, profile

DEADLINE_S = 120.0
IMAGES = 60


class Diwa:
    """A running ``diwa`` with its output so far."""

    def __init__(self, *words: str) -> None:
        self.process = subprocess.Popen(
            ["diwa", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self.seen: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def wait_for(self, pattern: str | None) -> str:
        """The first line that matches, seen already or still to come; for None all lines, when the output ends."""
        if pattern is not None:
            for line in self.seen:
                if re.search(pattern, line):
                    return line
        deadline_s = time.monotonic() + DEADLINE_S
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline_s - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {pattern!r} in: {''.join(self.seen)}") from None
            if line is None:
                assert pattern is None, "".join(self.seen)
                return "".join(self.seen)
            self.seen.append(line)
            if pattern is not None and re.search(pattern, line):
                return line

    def node_process(self, name: str) -> int:
        """The process id that the process manager printed for a node."""
        return int(re.search(rf"started {name} \(process (\d+)\)", "".join(self.seen))[1])  # type: ignore[index]

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=DEADLINE_S)


@pytest.fixture(scope="module")
def sim() -> Iterator[Diwa]:
    """One for all tests of this file; the last of them ends it."""
    running = Diwa("up", "sim")
    yield running
    running.end()


def count_images(limit: int) -> dict[str, list[tuple[int, int, str]]]:
    """Size and encoding of the first ``limit`` images of each camera."""
    rclpy.init()
    node = rclpy.create_node("image_counter", namespace=topics.NAMESPACE)
    seen: dict[str, list[tuple[int, int, str]]] = {}
    for topic in (topics.STATIC_IMAGE, topics.GRIPPER_IMAGE):
        images = seen.setdefault(topic.name, [])

        def keep(message, images=images):
            images.append((message.height, message.width, message.encoding))

        node.create_subscription(message_type(topic), topic.name, keep, profile(topic))
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    deadline_s = time.monotonic() + DEADLINE_S
    while min(map(len, seen.values())) < limit and time.monotonic() < deadline_s:
        executor.spin_once(timeout_sec=0.1)
    executor.shutdown()
    rclpy.shutdown()
    return seen


def test_up_sim_publishes_both_cameras(sim: Diwa):
    seen = count_images(IMAGES)
    assert {name: len(images) >= IMAGES for name, images in seen.items()} == {
        "static_camera/image_raw": True,
        "gripper_camera/image_raw": True,
    }
    assert set(seen["static_camera/image_raw"]) == set(seen["gripper_camera/image_raw"]) == {(200, 200, "rgb8")}


def test_a_second_sim_in_the_same_namespace_is_refused(sim: Diwa):
    sim.wait_for("simulating")
    second = subprocess.run(["diwa", "up", "sim"], capture_output=True, text=True, timeout=DEADLINE_S)
    assert second.returncode == 2 and second.stdout == ""
    (line,) = second.stderr.splitlines()
    assert f"/diwa/playroom runs already in ROS domain {os.environ['ROS_DOMAIN_ID']}" in line


def test_another_namespace_is_warned_of_foreign_nodes_and_reports_a_crash(sim: Diwa):
    sim.wait_for("simulating")
    other = Diwa("up", "sim", "namespace:=other")
    try:
        other.wait_for("warning: ROS domain .* has 1 foreign node: /diwa/playroom")
        other.wait_for("simulating")
        os.kill(other.node_process("playroom"), signal.SIGSEGV)
        printed = other.wait_for(None)
        assert "playroom crashed: killed by SIGSEGV; its last lines:" in printed
        assert "simulating" in printed.partition("its last lines:")[2]
        assert other.process.wait() == 1
    finally:
        other.end()
    assert sim.process.poll() is None


def test_ctrl_c_ends_sim_without_killing_a_node(sim: Diwa):
    sim.wait_for("simulating")
    sim.process.send_signal(signal.SIGINT)
    printed = sim.wait_for(None)
    assert sim.process.wait() == 0
    assert "SIGINT: stopping all" in printed and "Traceback" not in printed and "did not end within" not in printed
