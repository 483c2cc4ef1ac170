"""How evenly a driver's loop runs, and how many commands are lost on the way to the robot. No ROS."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from diwa_conventions.actions import Pose
from diwa_robot.drivers.arm import Reading
from diwa_robot.drivers.target_stream import TargetStream

WINDOW = 1200
"""Steps that the figures are of: ten seconds at 120 Hz."""
WARM_UP_S = 0.2
"""A new motion begins with a success rate of 0, whatever happens."""


@dataclass(frozen=True)
class TimingReport:
    rate_hz: float
    """Of the driver's loop."""
    late_p99_ms: float
    late_worst_ms: float
    """Lateness of its steps."""
    robot_share: float
    """How far the robot's clock has gone, over how far this machine's has; 1 if no state was lost for good."""
    lost_commands: float
    """Since the start, by the robot's success rate."""
    success_rate: float
    """The least, since the last report, while a motion ran."""


class LoopTiming:
    """Statistics over the steps of one loop."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._gaps_s: deque[float] = deque(maxlen=WINDOW)
        self._stepped_s: float | None = None
        self._first: tuple[float, float] | None = None
        self._last: tuple[float, float] | None = None
        self._moving_since_s: float | None = None
        self._worst_rate = 1.0
        self.lost_commands = 0.0

    def step(self, now: float) -> None:
        """The loop has come round."""
        if self._stepped_s is not None:
            self._gaps_s.append(now - self._stepped_s)
        self._stepped_s = now

    def reading(self, reading: Reading, now: float) -> None:
        """The robot has said something new."""
        before, self._last = self._last, (now, reading.time_s)
        if before is None or reading.time_s < before[1]:
            self._first = self._last
            before = self._last
        if reading.mode != "move":
            self._moving_since_s = None
            return
        if self._moving_since_s is None:
            self._moving_since_s = reading.time_s
        if reading.time_s - self._moving_since_s < WARM_UP_S:
            return
        # The rate is that of the last 100 cycles: every lost one lowers it by 1/100 for 100 cycles.
        self.lost_commands += (1.0 - reading.success_rate) * 1e3 * (reading.time_s - before[1])
        self._worst_rate = min(self._worst_rate, reading.success_rate)

    def report(self) -> TimingReport:
        """The figures; the least success rate starts anew."""
        gaps_s = np.array(self._gaps_s) if self._gaps_s else np.array([self._period_s])
        late_ms = 1e3 * np.maximum(gaps_s - self._period_s, 0.0)
        share = 1.0
        if self._first and self._last and self._last[0] > self._first[0]:
            share = (self._last[1] - self._first[1]) / (self._last[0] - self._first[0])
        worst, self._worst_rate = self._worst_rate, 1.0
        return TimingReport(
            rate_hz=1.0 / float(gaps_s.mean()),
            late_p99_ms=float(np.percentile(late_ms, 99)),
            late_worst_ms=float(late_ms.max()),
            robot_share=share,
            lost_commands=self.lost_commands,
            success_rate=worst,
        )


class Tracking:
    """How far the arm is from its command while it follows targets."""

    def __init__(self) -> None:
        self._errors_m: deque[float] = deque(maxlen=WINDOW)

    def add(self, stream: TargetStream, measured: Pose, now: float) -> None:
        """The arm was measured."""
        if stream.live(now) and (command := stream.command) is not None:
            self._errors_m.append(command.distance_m(measured))

    def report(self) -> tuple[float, float, float]:
        """Mean, 95th percentile and maximum [m]; 0 before the first motion."""
        if not self._errors_m:
            return 0.0, 0.0, 0.0
        errors_m = np.array(self._errors_m)
        return float(errors_m.mean()), float(np.percentile(errors_m, 95)), float(errors_m.max())
