"""How often the scripted operator does each task, by CALVIN's oracles.

python benchmarks/demonstrator.py --episodes 100 --skills 1.0 0.5 0.0
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import numpy as np
import tyro
from machine import machine, markdown_table
from scipy.stats import binomtest

from diwa_conventions.rates import TRAIN_RATE_HZ
from diwa_conventions.tasks import TASKS
from diwa_sim.environment import PlayroomEnv
from diwa_sim.operator import demonstrate


@dataclass(frozen=True)
class Benchmark:
    """Success of the scripted operator per task and skill."""

    episodes: int = 100
    """Per task and skill, seeds 0 to episodes - 1."""
    skills: tuple[float, ...] = (1.0, 0.5, 0.0)
    """1 clean to 0 sloppy."""
    workers: int = 2


def attempt(task: str, skill: float, seed: int) -> tuple[bool, int]:
    """Success and length in 7.5 Hz steps."""
    steps = list(demonstrate(_environment(), task, skill, seed))
    return steps[-1].success, len(steps)


_made: list[PlayroomEnv] = []


def _environment() -> PlayroomEnv:
    """One per worker process."""
    if not _made:
        _made.append(PlayroomEnv(images=False))
    return _made[0]


def row(outcomes: list[tuple[bool, int]]) -> str:
    successes, n = sum(done for done, _ in outcomes), len(outcomes)
    interval = binomtest(successes, n).proportion_ci(method="wilson")
    seconds = np.mean([length for _, length in outcomes]) / TRAIN_RATE_HZ
    return f"{successes}/{n} [{100 * interval.low:.1f}, {100 * interval.high:.1f}], {seconds:.1f} s"


def main(benchmark: Benchmark) -> None:
    rows = []
    with ProcessPoolExecutor(benchmark.workers, mp_context=get_context("spawn")) as pool:
        for task in TASKS:
            cells = [task]
            for skill in benchmark.skills:
                outcomes = pool.map(partial(attempt, task, skill), range(benchmark.episodes), chunksize=5)
                cells.append(row(list(outcomes)))
            rows.append(cells)
    print(f"{machine()}, seeds 0-{benchmark.episodes - 1}; successes [95% Wilson interval in %], mean length\n")
    print(markdown_table(["task", *(f"skill {skill:g}" for skill in benchmark.skills)], rows))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
