"""Trains a world model and says on a topic how far it is. Topic and parameters: README of diwa_worldmodel.

    ros2 run diwa_worldmodel train --ros-args -p data_set:=play -p out:=runs/first -p preset:=tiny

A thin shell around ``diwa train``: training runs in a thread, and Ctrl-C ends it with a checkpoint.
"""

from __future__ import annotations

import math
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, cast, get_args

from diwa_msgs.msg import StageProgress
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.node import Node

from diwa_conventions import topics
from diwa_conventions.errors import UserError
from diwa_conventions.node_main import run_node
from diwa_conventions.qos import message_type, profile
from diwa_worldmodel.config import Preset
from diwa_worldmodel.settings import from_mapping
from diwa_worldmodel.training.loop import Report
from diwa_worldmodel.training.train import Speed, Train, summary
from diwa_worldmodel.training.training_run import train

STAGE = "world model"
_LAST_WORD_S = 5.0
"""How long subscribers have to take the last message."""


class TrainingNode(Node):  # type: ignore[misc]  # ROS has no types
    """Starts the training in a thread, publishes once a second."""

    def __init__(self) -> None:
        super().__init__("train")
        self._options = self._read_options()
        self._options.check()
        self._out = self.create_publisher(
            message_type(topics.TRAINING_PROGRESS), topics.TRAINING_PROGRESS.name, profile(topics.TRAINING_PROGRESS)
        )
        self._stop = threading.Event()
        self._newest: Report | None = None
        self._state, self._message, self._code = StageProgress.RUNNING, "preparing", 0
        self._thread = threading.Thread(target=self._train, name="training")
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0 / topics.TRAINING_PROGRESS.rate_hz, self._publish, clock=steady)

    def _read_options(self) -> Train:
        """From the parameters, which are those of ``diwa train`` by other punctuation."""

        def given(name: str, default: Any, about: str) -> Any:
            return self.declare_parameter(name, default, ParameterDescriptor(description=about)).value

        data_set = given("data_set", "", "folder made by diwa import")
        out = given("out", "", "folder of this training run, new or to go on with")
        for name, folder in (("data_set", data_set), ("out", out)):
            if not folder:
                raise UserError(f"parameter {name} is missing; expected a folder, e.g. -p {name}:=FOLDER")
        preset = given("preset", "paper", "paper or tiny")
        if preset not in get_args(Preset):
            raise UserError(f"parameter preset is {preset!r}; expected one of {', '.join(get_args(Preset))}")
        config = given("config", "", "YAML file that says what differs from the preset; empty: none")
        # rclpy cannot tell the type of an empty list: an empty word stands for none.
        words = given("settings", [""], "what differs from preset and file, e.g. [training.steps=500]")
        speed = {
            "threads": given("threads", 0, "of the CPU; 0: PyTorch's choice"),
            "place": given("place", "auto", "where images are kept: auto, memory, disk, device"),
            "accelerator": given("accelerator", "auto", "auto, cpu or cuda"),
        }
        return Train(
            Path(data_set).expanduser(),
            out=Path(out).expanduser(),
            preset=cast(Preset, preset),
            config=Path(config).expanduser() if config else None,
            set=tuple(word for word in words if word),
            minutes=given("minutes", 0.0, "stop after so many; 0: train all steps"),
            checkpoint_minutes=given("checkpoint_minutes", 5.0, "how often a checkpoint is written"),
            speed=from_mapping(Speed, speed),
        )

    def begin(self) -> bool:
        self._thread.start()
        return True

    @property
    def over(self) -> bool:
        """Whether the training has ended, in whatever way."""
        return not self._thread.is_alive()

    def close(self) -> int:
        """Stop the training, which saves what it has; the exit code."""
        if self._thread.ident is None:
            return 0
        self._stop.set()
        self._thread.join()
        self._publish()
        self._out.wait_for_all_acked(Duration(seconds=_LAST_WORD_S))
        return self._code

    def _train(self) -> None:
        try:
            outcome = train(self._options, self, self._stop.is_set)
            assert outcome is not None, "this is the only process"
            stopped = outcome.end == "stopped"
            self._state = StageProgress.STOPPED if stopped else StageProgress.FINISHED
            self.say(summary(self._options, outcome))
        except (UserError, OSError) as error:
            self._fail(2, str(error))
        except Exception as error:
            traceback.print_exc()
            self._fail(1, f"{type(error).__name__}: {error}")

    def _fail(self, code: int, line: str) -> None:
        self._state, self._message, self._code = StageProgress.FAILED, line, code
        self.get_logger().error(line)

    def _publish(self) -> None:
        message = StageProgress(state=self._state, stage=STAGE, message=self._message, eta_s=math.nan)
        message.header.stamp = self.get_clock().now().to_msg()
        report = self._newest
        if report:
            message.done, message.total, message.eta_s = report.step, report.total, report.eta_s
            message.names, message.values = list(report.values), list(report.values.values())
        self._out.publish(message)

    # What the training tells, from its thread

    def reading(self, done: int, total: int) -> None:
        self._message = f"reading frames: {done} of {total}"

    def report(self, report: Report) -> None:
        if self._newest is None:
            self._message = "training"
        self._newest = report

    def say(self, line: str) -> None:
        self._message = line
        self.get_logger().info(line)

    def warn(self, line: str) -> None:
        self._message = line
        self.get_logger().warning(line)


def main() -> int:
    return run_node(
        TrainingNode, TrainingNode.begin, lambda node: node.over, lambda node: node.close()
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
