"""How many environment steps online DPPO needs for what dreams gave without one.

python benchmarks/online_steps.py --out runs/fine_tuning --task move-slider-left

Goes on from what benchmarks/fine_tuning.py left in the same folder, or makes it. Each seed's DPPO begins with the same
pre-trained policy as its dreams and ends at the first evaluation that reaches the true success of the policy that was
chosen offline; its own evaluations do not count as steps.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from fine_tuning import Benchmark, diwa, whole_way
from machine import machine, markdown_table


@dataclass(frozen=True)
class Online:
    """DPPO of each seed."""

    out: Path = Path("runs/fine_tuning")
    task: str = "move-slider-left"
    seeds: tuple[int, ...] = (0, 1, 2)
    episodes: int = 200
    """Of an evaluation."""
    evaluate_every: int = 5_000
    """Environment steps."""
    environment_steps: int = 100_000
    """A run that has not reached it by then ends."""


def of_seed(online: Online, seed: int) -> list[str]:
    """A row of the table."""
    way, (base, chosen, _) = whole_way(Benchmark(online.out, episodes=online.episodes), online.task, seed)
    wanted, run = chosen["success"]["value"], way.run / "online"
    diwa(
        run / "dppo.json", "dppo", way.world_model, "--policy", way.base, "--out", run, "--until-success", wanted,
        "--preset", "tiny", "--set", f"fine_tuning.seed={seed}", f"online.environment_steps={online.environment_steps}",
        f"online.evaluation_episodes={online.episodes}", f"online.evaluate_every={online.evaluate_every}",
    )  # fmt: skip
    found: dict[str, Any] = json.loads((run / "dppo.json").read_text())
    last = found["evaluations"][-1]
    matched = found["steps_to_match"]
    return [
        str(seed),
        f"{100 * base['success']['value']:.1f}",
        f"{100 * wanted:.1f}",
        f"{100 * last['success']['value']:.1f}",
        f"{matched:,}" if matched else f"not in {found['environment_steps']:,}",
    ]


def main(online: Online) -> None:
    found = [of_seed(online, seed) for seed in online.seeds]
    print(f"{machine()}, {online.task}, {online.episodes} episodes an evaluation\n")
    head = ["seed", "base %", "dreams, chosen %", "DPPO's last evaluation %", "environment steps to match"]
    print(markdown_table(head, found))


if __name__ == "__main__":
    main(tyro.cli(Online))
