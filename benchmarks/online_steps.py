"""How many environment steps online DPPO needs for what dreams gave without one.

python benchmarks/online_steps.py --out runs/fine_tuning --task move-slider-left

Goes on from what benchmarks/fine_tuning.py left in the same folder, or makes it. Each seed's DPPO begins with the same
pre-trained policy as its dreams. The steps to match are those before the first evaluation that reaches the true success
of the policy that was chosen offline, which luck makes early rather than late; evaluations do not count as steps.
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
    evaluate_every: int = 10_000
    """Environment steps."""
    environment_steps: int = 100_000


def of_seed(online: Online, seed: int) -> dict[str, Any]:
    """Success of base and chosen policy, and after so many environment steps."""
    way, (base, chosen, _) = whole_way(Benchmark(online.out, episodes=online.episodes), online.task, seed)
    run = way.run / "online"
    diwa(
        run / "dppo.json", "dppo", way.world_model, "--policy", way.base, "--out", run, "--preset", "tiny", "--set",
        f"fine_tuning.seed={seed}", f"online.environment_steps={online.environment_steps}",
        f"online.evaluation_episodes={online.episodes}", f"online.evaluate_every={online.evaluate_every}",
    )  # fmt: skip
    found = json.loads((run / "dppo.json").read_text())["evaluations"]
    steps = {one["environment_steps"]: one["success"]["value"] for one in found}
    return {"base": base["success"]["value"], "dreams": chosen["success"]["value"], "steps": steps}


def main(online: Online) -> None:
    found = {seed: of_seed(online, seed) for seed in online.seeds}
    print(f"{machine()}, {online.task}, {online.episodes} episodes an evaluation; success in %\n")
    rows = []
    for seed, one in found.items():
        matched = next((steps for steps, success in one["steps"].items() if success >= one["dreams"]), None)
        last = list(one["steps"].items())[-1]
        shown = f"{matched:,}" if matched is not None else f"not in {last[0]:,}"
        rows.append(
            [str(seed), *(f"{100 * one[name]:.1f}" for name in ("base", "dreams")), f"{100 * last[1]:.1f}", shown]
        )
    print(markdown_table(["seed", "base", "chosen from dreams", "DPPO's last", "environment steps to match"], rows))
    for seed, one in found.items():
        print(f"seed {seed}: " + ", ".join(f"{100 * value:.0f} ({steps:,})" for steps, value in one["steps"].items()))


if __name__ == "__main__":
    main(tyro.cli(Online))
