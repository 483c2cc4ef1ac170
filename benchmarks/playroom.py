"""How fast the playroom runs on one core: 7.5 Hz steps per second, with and without cameras.

python benchmarks/playroom.py --seconds 5
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import numpy as np
import tyro
from machine import machine, markdown_table

from diwa_conventions.rates import TRAIN_RATE_HZ
from diwa_sim.environment import PlayroomConfig, PlayroomEnv


@dataclass(frozen=True)
class Benchmark:
    """Speed of the playroom, one core."""

    seconds: float = 5.0
    """Per case."""
    seed: int = 0


CASES = {
    "physics and inverse kinematics only": PlayroomConfig(images=False, max_episode_steps=10**9),
    "both cameras at 64x64": PlayroomConfig(camera_size_px=64, image_size_px=64, max_episode_steps=10**9),
    "both cameras at 200x200, shrunk to 64x64": PlayroomConfig(max_episode_steps=10**9),
    "both cameras at 200x200": PlayroomConfig(image_size_px=200, max_episode_steps=10**9),
}


def steps_per_second(config: PlayroomConfig, seconds: float, seed: int) -> float:
    """Random motion, so that the arm also meets the furniture."""
    env = PlayroomEnv(config)
    env.reset(seed=seed)
    actions = np.clip(np.random.default_rng(seed).normal(0.0, 0.3, (100, 7)), -1.0, 1.0)
    for action in actions[:5]:
        env.step(action)
    steps, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        env.step(actions[steps % len(actions)])
        steps += 1
    env.close()
    return steps / elapsed


def main(benchmark: Benchmark) -> None:
    here = machine()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # Mesa's software renderer would use every core
    rows = []
    for name, config in CASES.items():
        rate = steps_per_second(config, benchmark.seconds, benchmark.seed)
        rows.append([name, f"{rate:.0f}", f"{rate / TRAIN_RATE_HZ:.0f}x"])
    print(f"{here} (pinned to one core), seed {benchmark.seed}, {benchmark.seconds:g} s per case\n")
    print(markdown_table(["case", "7.5 Hz steps/s", "real time"], rows))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
