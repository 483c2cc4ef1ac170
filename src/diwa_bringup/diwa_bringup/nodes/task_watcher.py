"""Watches an attempt at a task until it is done or its time is up, counts images, and writes a report.

It only listens to topics, so it does not matter how the other nodes were started.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

from diwa_msgs.msg import SceneState
from rclpy.node import Node
from sensor_msgs.msg import Image

from diwa_bringup.attempt import Attempt
from diwa_conventions import topics
from diwa_conventions.errors import UserError
from diwa_conventions.node_main import run_node
from diwa_conventions.qos import profile
from diwa_conventions.tasks import EPISODE_FRAMES, checked_task

LINGER_S = 1.0
"""From success to the end, so that a film shows it."""


class TaskWatcher(Node):
    """A thin shell around :class:`Attempt`: messages in, report out."""

    def __init__(self) -> None:
        super().__init__("task_watcher")
        self._report = _open_report(str(self.declare_parameter("report", "").value))
        task = checked_task(str(self.declare_parameter("task", "").value))
        frames = int(self.declare_parameter("frames", EPISODE_FRAMES).value)
        startup_s = float(self.declare_parameter("startup_s", 60.0).value)
        self.attempt = Attempt(task, frames, startup_s, time.monotonic())
        self.create_subscription(SceneState, topics.SCENE_STATE.name, self._on_scene, profile(topics.SCENE_STATE))
        for topic in (topics.STATIC_IMAGE, topics.GRIPPER_IMAGE):
            self.create_subscription(Image, topic.name, self._counter(topic.name), profile(topic), raw=True)

    def _on_scene(self, message: SceneState) -> None:
        self.attempt.scene(message.task, message.success, message.episode, time.monotonic())

    def _counter(self, name: str) -> Callable[[bytes], None]:
        def count(message: bytes) -> None:
            self.attempt.image(name, time.monotonic())

        return count

    def close(self) -> int:
        """Write how it went; the exit code."""
        with self._report:
            self._report.write(self.attempt.report_json())
        return 0

    def finished(self) -> bool:
        """Whether the attempt is over, and after a success the linger too."""
        return self.attempt.over(time.monotonic(), LINGER_S)


def _open_report(path: str) -> TextIO:
    """Opened at once, so that a path that cannot be written is an error before the attempt and not after it."""
    if not path:
        raise UserError("parameter report is empty; expected the JSON file to write")
    return open(path, "w", encoding="utf-8")


def main() -> int:
    """Watch, then write the report; exit code 0 unless a parameter is bad."""
    return run_node(TaskWatcher, finished=TaskWatcher.finished, close=TaskWatcher.close)


if __name__ == "__main__":
    sys.exit(main())
