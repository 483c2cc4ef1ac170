"""How well the FCI server keeps its millisecond, and what that costs: at rest, and under franka-rs' two backends.

python benchmarks/fci_server.py --seconds 20
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import franka
import numpy as np
import tyro
from machine import machine, markdown_table

from diwa_sim.fci.process import FciProcess
from diwa_sim.playroom import Playroom
from diwa_sim.tasks import draw_start

ADDRESS = "127.0.9.1"


@dataclass(frozen=True)
class Options:
    seconds: float = 20.0
    """of each case"""
    patience_s: float = 0.25
    """how long the robot waits for a late command; 0 as a real robot"""


def move(robot: franka.Robot, backend: str, seconds: float) -> float:
    """To and fro 8 cm at 7.5 Hz targets; the mean distance between measured tool and target [m]."""
    errors = []
    with robot.cartesian_targets(backend=backend, max_velocity=0.5, max_acceleration=2.0, max_jerk=100.0) as arm:
        home, begin = arm.target()[:3], time.monotonic()
        while (t := time.monotonic() - begin) < seconds and arm.running:
            arm.move_to(home + [0.0, 0.04 * np.sin(2.0 * t), 0.0])
            time.sleep(1.0 / 7.5)
            errors.append(np.linalg.norm(arm.state().O_T_EE[:3, 3] - arm.target()[:3]))
    return float(np.mean(errors))


def row(case: str, before: dict[str, Any], after: dict[str, Any], seconds: float, error_m: float) -> list[str]:
    cpu = (after["cpu_s"] - before["cpu_s"]) / seconds
    commands, lost = after["commands"] - before["commands"], after["lost"] - before["lost"]
    figures = [f"{after[name]:.2f}" for name in ("late_p50_ms", "late_p99_ms", "late_max_ms")]
    rest = [str(commands), str(after["waited"]), str(lost), f"{100.0 * cpu:.0f}%"]
    return [case, f"{after['rate_hz']:.0f}", *figures, *rest, f"{1e3 * error_m:.1f}" if error_m else ""]


def main() -> None:
    options = tyro.cli(Options)
    room = Playroom()
    room.reset(draw_start(np.random.default_rng(0), ""))
    rows = []
    with FciProcess(ADDRESS, room, patience_s=options.patience_s) as server:
        server.put(room)
        robot = franka.Robot(ADDRESS, realtime="ignore")
        robot.set_collision_behavior_simple([80.0] * 7, [80.0] * 7, [80.0] * 6, [80.0] * 6)
        for case in ("at rest", "robot", "impedance"):
            before, begin, error = server.order("status"), time.monotonic(), 0.0
            server.order("pace")
            if case == "at rest":
                time.sleep(options.seconds)
            else:
                error = move(robot, case, options.seconds)
            rows.append(row(case, before, server.order("status"), time.monotonic() - begin, error))
    print(machine())
    names = ["case", "Hz", "late p50 [ms]", "p99", "max", "commands", "after their ms", "lost", "CPU", "error [mm]"]
    print(markdown_table(names, rows))


if __name__ == "__main__":
    main()
