"""How close the checkpoint that is chosen offline comes to the best in truth and to the last, of all that a run left.

python benchmarks/selection.py --out runs/fine_tuning

Tries every checkpoint of the runs that benchmarks/fine_tuning.py left in the same folder, with `diwa evaluate
finetuning`. Being the highest of several flatters the best.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import tyro
from fine_tuning import HABITS, Benchmark, Kind, diwa, whole_way
from machine import machine, markdown_table


@dataclass(frozen=True)
class Selection:
    """A run of each task and seed."""

    out: Path = Path("runs/fine_tuning")
    tasks: tuple[str, ...] = tuple(HABITS)
    seeds: tuple[int, ...] = (0,)
    episodes: int = 100
    """Of each checkpoint."""
    world_model: Kind = "mixed"


def of_run(selection: Selection, task: str, seed: int) -> dict[str, Any]:
    """What dream_vs_truth.json says."""
    way, _ = whole_way(Benchmark(selection.out, world_model=selection.world_model), task, seed)
    run = way.run / "finetuned"
    numbers = run / "evaluation/dream_vs_truth.json"
    diwa(
        numbers, "evaluate", "finetuning", run, "--world-model", way.world_model, "--episodes", selection.episodes
    )  # fmt: skip
    found: dict[str, Any] = json.loads(numbers.read_text())
    return found


def row(task: str, seed: int, found: dict[str, Any]) -> list[str]:
    """The three policies, and what the choice cost."""
    shown = [f"{100 * found[name]['success']['value']:.0f} ({found[name]['iteration']})" for name in _NAMES]
    regret = found["chosen"]["regret"]
    interval = "is the best"
    if regret:
        interval = f"{100 * regret['value']:.0f} [{100 * regret['low']:.0f}, {100 * regret['high']:.0f}]"
    return [task, str(seed), *shown, interval]


_NAMES = ("chosen", "last", "best")


def main(selection: Selection) -> None:
    places = [(task, seed) for task in selection.tasks for seed in selection.seeds]
    found = [of_run(selection, task, seed) for task, seed in places]
    print(f"{machine()}, {selection.episodes} episodes a checkpoint\n")
    head = ["task", "seed", *(f"{name} % (iteration)" for name in _NAMES), "best - chosen [95%]"]
    print(markdown_table(head, [row(task, seed, one) for (task, seed), one in zip(places, found, strict=True)]))
    for name in _NAMES:
        print(f"{name}: {100 * fmean(one[name]['success']['value'] for one in found):.1f}% on average")


if __name__ == "__main__":
    main(tyro.cli(Selection))
