"""How fast `diwa simulate play` writes bags, and how large they are.

python benchmarks/simulate.py --frames 40000
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro
from machine import machine, markdown_table

from diwa_conventions.rates import TRAIN_RATE_HZ
from diwa_sim.bulk import Job, Outcome, play_jobs, write
from diwa_sim.workers import simulate_all


@dataclass(frozen=True)
class Benchmark:
    """Bulk play with both cameras at 200x200, images at 7.5 Hz, everything else at 30 Hz, lz4."""

    frames: int = 40_000
    """7.5 Hz frames for all workers together; one core alone writes a tenth of that."""
    workers: int = 2
    seed: int = 0
    folder: Path | None = None
    """Where the bags go for the time of the measurement; default: the system's folder for temporary files."""


def row(name: str, outcome: Outcome, seconds: float) -> list[str]:
    rate = outcome.frames / seconds
    return [
        name,
        f"{outcome.frames}",
        f"{seconds:.1f}",
        f"{rate:.0f}",
        f"{rate / TRAIN_RATE_HZ:.0f}x",
        f"{outcome.bytes / 1e6:.0f}",
        f"{outcome.bytes / outcome.frames / 1e3:.1f}",
    ]


def on_one_core(benchmark: Benchmark, folder: Path) -> tuple[Outcome, float]:
    """Written by this process, pinned to one core: Mesa's software renderer would use every one."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    job = Job("play", seed=benchmark.seed, frames=max(2, benchmark.frames // 10), episodes=1)
    start = time.perf_counter()
    outcome = write(job, folder, lambda more: None)
    seconds = time.perf_counter() - start
    os.sched_setaffinity(0, cores)
    return outcome, seconds


def with_workers(benchmark: Benchmark, folder: Path) -> tuple[Outcome, float]:
    jobs = play_jobs(Job("play", seed=benchmark.seed), benchmark.frames)
    start = time.perf_counter()
    outcome = simulate_all(jobs, folder, benchmark.workers)
    return outcome, time.perf_counter() - start


def main(benchmark: Benchmark) -> None:
    here = machine()
    folder = Path(tempfile.mkdtemp(prefix="simulate_", dir=benchmark.folder))
    try:
        rows = [row("one core", *on_one_core(benchmark, folder / "one"))]
        rows.append(row(f"{benchmark.workers} workers", *with_workers(benchmark, folder / "all")))
    finally:
        shutil.rmtree(folder)
    print(f"{here}, seed {benchmark.seed}\n")
    print(markdown_table(["", "frames", "s", "frames/s", "real time", "MB", "kB per frame"], rows))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
