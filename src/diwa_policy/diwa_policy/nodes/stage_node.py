"""What the nodes of pre-training, reward and fine-tuning share: parameters in, progress on a topic, an end in order.

The stage runs in the main thread, since only there a signal can end it wherever it is; ROS is served by another one.
"""

from __future__ import annotations

import math
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, cast, get_args

from diwa_msgs.msg import StageProgress
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from diwa_conventions import topics
from diwa_conventions.errors import UserError, unknown
from diwa_conventions.parameters import declare
from diwa_conventions.qos import message_type, profile
from diwa_policy.config import Preset
from diwa_worldmodel.training.loop import Report

_LAST_WORD_S = 5.0
"""How long subscribers have to take the last message."""


@dataclass(frozen=True)
class End:
    """What became of a stage."""

    state: int
    """Of diwa_msgs/StageProgress."""
    message: str
    code: int = 0
    """The node's exit code."""


def finished(message: str, code: int = 0) -> End:
    return End(StageProgress.FINISHED, message, code)


def stopped(message: str) -> End:
    return End(StageProgress.STOPPED, message)


class Parameters:
    """Declares a node's parameters, which are the options of its command by other punctuation."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def value(self, name: str, default: Any, about: str) -> Any:
        return declare(self._node, name, default, about)

    def word(self, name: str, about: str) -> str:
        """UserError if it is missing."""
        return self._needed(name, str(self.value(name, "", about)), "NAME")

    def folder(self, name: str, about: str) -> Path:
        """UserError if it is missing."""
        return Path(self._needed(name, str(self.value(name, "", about)), "FOLDER")).expanduser()

    def _needed(self, name: str, value: str, form: str) -> str:
        if not value:
            raise UserError(f"parameter {name} is missing; expected a {form.lower()}, e.g. -p {name}:={form}")
        return value

    def choice(self, name: str, choices: Sequence[str], about: str) -> str:
        """The first one is the default."""
        value = str(self.value(name, choices[0], about))
        if value not in choices:
            raise unknown(f"value of parameter '{name}':", value, choices)
        return value

    def preset(self) -> Preset:
        return cast(Preset, self.choice("preset", get_args(Preset), "paper or tiny"))

    def config(self) -> Path | None:
        name = str(self.value("config", "", "YAML file that says what differs from the preset; empty: none"))
        return Path(name).expanduser() if name else None

    def settings(self) -> tuple[str, ...]:
        # rclpy cannot tell the type of an empty list: an empty word stands for none.
        words = self.value("settings", [""], "what differs from preset and file, e.g. [fine_tuning.bc_coefficient=0.1]")
        return tuple(word for word in words if word)


class Signals:
    """SIGINT and SIGTERM from now on: those that came are counted, and those too many for the work interrupt it."""

    def __init__(self) -> None:
        self._count = 0
        self._patience: int | None = None
        self._before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}

    def told(self) -> bool:
        """Whether any came."""
        return self._count > 0

    @contextmanager
    def interrupting(self, patience: int) -> Iterator[None]:
        """KeyboardInterrupt as soon as more than ``patience`` have come."""
        self._patience = patience
        try:
            self._interrupt()
            yield
        finally:
            self._patience = None

    def restore(self) -> None:
        """As it was before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        self._interrupt()

    def _interrupt(self) -> None:
        if self._patience is not None and self._count > self._patience:
            self._patience = None
            raise KeyboardInterrupt


class StageNode(Node):  # type: ignore[misc]  # ROS has no types
    """Works in ``begin`` and publishes once a second. A stage says what it reads, what it does, what a stop leaves."""

    stage: str
    """As it is called on the topic."""
    patience = 0
    """Signals that ``work`` hears of by ``stop()`` and answers itself, before the next one interrupts it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._signals = Signals()
        try:
            self.read(Parameters(self))
        except BaseException:
            self._signals.restore()
            raise
        topic = topics.TRAINING_PROGRESS
        self._out = self.create_publisher(message_type(topic), topic.name, profile(topic))
        self._newest: Report | None = None
        self._end = End(StageProgress.RUNNING, "preparing")
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0 / topic.rate_hz, self._publish, clock=steady)

    def read(self, given: Parameters) -> None:
        """Options from the parameters. UserError for a bad one."""
        raise NotImplementedError

    def work(self, stop: Callable[[], bool]) -> End:
        """The stage. UserError or OSError for what the user can mend."""
        raise NotImplementedError

    def left(self) -> str:
        """What an interruption leaves."""
        raise NotImplementedError

    def begin(self) -> bool:
        """Do it all."""
        over = threading.Event()
        thread = threading.Thread(target=self._serve, args=(over,), name="ros")
        thread.start()
        try:
            self._end = self._attempt()
        finally:
            over.set()
            thread.join()
        if self._end.state == StageProgress.FAILED:
            self.get_logger().error(self._end.message)
        else:
            self.get_logger().info(self._end.message)
        return True

    def close(self) -> int:
        """Say how it ended; the exit code."""
        self._publish()
        self._out.wait_for_all_acked(Duration(seconds=_LAST_WORD_S))
        self._signals.restore()
        return self._end.code

    def _attempt(self) -> End:
        try:
            with self._signals.interrupting(self.patience):
                return self.work(self._signals.told)
        except KeyboardInterrupt:
            return stopped(self.left())
        except (UserError, OSError) as error:
            return End(StageProgress.FAILED, str(error), 2)
        except Exception as error:
            traceback.print_exc()
            return End(StageProgress.FAILED, f"{type(error).__name__}: {error}", 1)

    def _serve(self, over: threading.Event) -> None:
        executor = SingleThreadedExecutor()
        executor.add_node(self)
        while not over.is_set():
            executor.spin_once(timeout_sec=0.1)
        executor.shutdown()

    def _publish(self) -> None:
        end, report = self._end, self._newest
        message = StageProgress(state=end.state, stage=self.stage, message=end.message, eta_s=math.nan)
        message.header.stamp = self.get_clock().now().to_msg()
        if report:
            message.done, message.total, message.eta_s = report.step, report.total, report.eta_s
            message.names, message.values = list(report.values), list(report.values.values())
        self._out.publish(message)

    # What the stage tells

    def report(self, report: Report) -> None:
        if self._newest is None:
            self._end = End(StageProgress.RUNNING, "training")
        # A copy: the stage goes on with its own while the other thread reads this one.
        self._newest = Report(report.step, report.total, report.eta_s, dict(report.values))

    def say(self, line: str) -> None:
        self._end = End(StageProgress.RUNNING, line)
        self.get_logger().info(line)

    def warn(self, line: str) -> None:
        self._end = End(StageProgress.RUNNING, line)
        self.get_logger().warning(line)
