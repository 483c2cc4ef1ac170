"""What happens while the scripted operator plays: events per 1,000 steps of 7.5 Hz, and how many attempts fail.

python benchmarks/play.py --steps 5000
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import islice

import numpy as np
import tyro
from machine import machine, markdown_table

from diwa_sim.environment import PlayroomEnv
from diwa_sim.operator import Step, play
from diwa_sim.tasks import DRAWER_TRAVEL_M, SLIDER_TRAVEL_M


@dataclass(frozen=True)
class Benchmark:
    """Statistics of scripted play."""

    steps: int = 5000
    """Per seed."""
    seeds: tuple[int, ...] = (0, 1, 2)


def events(steps: list[Step]) -> dict[str, float]:
    """Changes per 1,000 steps."""
    scene = np.array([step.observation["scene_state"] for step in steps])
    states = {
        "drawer crosses its middle": scene[:, 1] > 0.5 * DRAWER_TRAVEL_M,
        "slider crosses its middle": scene[:, 0] > 0.5 * SLIDER_TRAVEL_M,
        "lightbulb switches": scene[:, 4] > 0.5,
        "LED toggles": scene[:, 5] > 0.5,
        "cube is lifted or put down": scene[:, 8] > 0.05,
    }
    return {name: 1000.0 * float(np.mean(state[1:] != state[:-1])) for name, state in states.items()}


def failed_attempts(steps: list[Step]) -> tuple[int, int]:
    """Attempts at a task that ended without success, and all of them."""
    outcomes: list[bool] = []
    current = None
    for step in steps:
        if step.attempt != current:
            current = step.attempt
            if step.task:
                outcomes.append(False)
        if step.task:
            outcomes[-1] |= step.success
    return outcomes.count(False), len(outcomes)


def main(benchmark: Benchmark) -> None:
    env = PlayroomEnv(images=False)
    runs = [list(islice(play(env, seed), benchmark.steps)) for seed in benchmark.seeds]
    rates = [events(steps) for steps in runs]
    rows = [[name, *(f"{rate[name]:.1f}" for rate in rates)] for name in rates[0]]
    failed, attempts = Counter(), Counter()
    for seed, steps in zip(benchmark.seeds, runs, strict=True):
        failed[seed], attempts[seed] = failed_attempts(steps)
    rows.append(["attempts without success", *(f"{failed[seed]} of {attempts[seed]}" for seed in benchmark.seeds)])
    print(f"{machine()}, {benchmark.steps} steps per seed; events per 1,000 steps\n")
    print(markdown_table(["event", *(f"seed {seed}" for seed in benchmark.seeds)], rows))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
