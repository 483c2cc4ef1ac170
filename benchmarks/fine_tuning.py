"""What fine-tuning in dreams gains in the playroom: the whole way for each task and seed, and a table of it.

python benchmarks/fine_tuning.py --out runs/fine_tuning                      # four tasks, three seeds: hours
python benchmarks/fine_tuning.py --out runs/fine_tuning --world-model play   # a world model that saw play alone

Every stage is a `diwa` command, printed before it runs. What is there already is not made again.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import tyro
from machine import machine, markdown_table

HABITS = {
    "open-drawer": (0.0, 0.03, 0.02),
    "close-drawer": (-0.06, 0.0, 0.0),
    "turn-on-lightbulb": (0.0, 0.04, 0.02),
    "move-slider-left": (0.025, 0.0, 0.04),
}
"""How far beside the demonstrators aim [m]: what makes policies that imitate them succeed about half the time. Errors
that differ from one demonstration to the next average out in imitation. They were chosen by the success of the
pre-trained policies of seed 0."""
PLAY_FRAMES, ATTEMPTS, SKILL, NEAR_MISSES = 40_000, 320, 0.2, 0.7
SCHEDULES = {"mixed": (3000, 800), "play": (1900, 500), "weak": (300, 100)}
"""Steps of the world model, and over how many of the last its learning rate falls."""


Kind: TypeAlias = Literal["mixed", "play", "weak"]


@dataclass(frozen=True)
class Benchmark:
    """Base and fine-tuned success of each task and seed."""

    out: Path = Path("runs/fine_tuning")
    tasks: tuple[str, ...] = tuple(HABITS)
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of world model, policy, classifier and fine-tuning; all recordings are the same for all."""
    episodes: int = 200
    world_model: Kind = "mixed"
    """mixed: learned from play and 320 attempts at each task, most of them near misses; play: from play alone; weak:
    from play alone, and not for long."""


def diwa(made: Path, *words: object) -> None:
    """Run a command unless what it makes is there."""
    if made.exists():
        return
    command = ["diwa", *map(str, words)]
    print("+", shlex.join(command), flush=True)
    begin_s = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(
            f"{shlex.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    print(f"  {time.monotonic() - begin_s:.0f} s", flush=True)


def demonstrations(out: Path, task: str) -> Path:
    """Data set of fifty successful demonstrations of a task, and of those that failed meanwhile."""
    bags, data = out / f"bags/demos_{task}", out / f"data/{task}"
    habit = [str(part) for part in HABITS[task]]
    diwa(
        data, "simulate", "demos", "--task", task, "--successes", 50, "--skill", SKILL, "--aim-offset-m", *habit,
        "--seed", 100, "--out", bags,
    )  # fmt: skip
    diwa(data, "import", bags, "--out", data)
    return data


def world_model(benchmark: Benchmark, seed: int) -> Path:
    """Trained on play, or on play and attempts at every task."""
    out, kind = benchmark.out, benchmark.world_model
    data, run = out / ("data/mixed" if kind == "mixed" else "data/play"), out / f"model_{kind}_{seed}"
    if not data.exists():
        sources = [out / "bags/play"]
        diwa(sources[0], "simulate", "play", "--frames", PLAY_FRAMES, "--seed", 0, "--out", sources[0])
        for task in HABITS if kind == "mixed" else ():
            bags = out / f"bags/attempts_{task}"
            diwa(
                bags, "simulate", "demos", "--task", task, "--episodes", ATTEMPTS, "--skill", SKILL, "--near-misses",
                NEAR_MISSES, "--seed", 900, "--out", bags,
            )  # fmt: skip
            sources.append(bags)
        diwa(data, "import", *sources, "--out", data)
    steps, decay = SCHEDULES[kind]
    words = [f"training.seed={seed}", f"training.steps={steps}", f"training.decay_steps={decay}"]
    diwa(run / "world_model", "train", data, "--preset", "tiny", "--out", run, "--set", *words)
    return run / "world_model"


class Way(NamedTuple):
    """What there is of a task and seed before anything is fine-tuned."""

    world_model: Path
    demonstrations: Path
    run: Path
    base: Path
    reward: Path


def prepare(benchmark: Benchmark, task: str, seed: int) -> Way:
    """World model, demonstrations, pre-trained policy and classifier."""
    model, data = world_model(benchmark, seed), demonstrations(benchmark.out, task)
    run = benchmark.out / f"{benchmark.world_model}_{task}_{seed}"
    base, reward = run / "base", run / "reward"
    common = [model, data, "--task", task, "--preset", "tiny"]
    diwa(base, "pretrain", *common, "--out", base, "--set", f"pretraining.seed={seed}")
    diwa(reward, "reward", *common, "--out", reward, "--set", f"reward.seed={seed}")
    return Way(model, data, run, base, reward)


def fine_tune(way: Way, out: Path, *settings: str) -> Path:
    """A run of diwa finetune."""
    diwa(
        out / "policy", "finetune", way.world_model, way.demonstrations, "--policy", way.base, "--reward", way.reward,
        "--preset", "tiny", "--out", out, "--set", *settings,
    )  # fmt: skip
    return out


def evaluate(way: Way, out: Path, episodes: int, *policies: Path) -> list[dict[str, Any]]:
    """Of each policy what evaluation.json says; the starts are the same wherever ``episodes`` are."""
    diwa(
        out / "evaluation.json", "evaluate", "policy", *policies, "--world-model", way.world_model, "--env",
        "playroom", "--episodes", episodes, "--seeds", 1, "--films", 0, "--out", out,
    )  # fmt: skip
    found: list[dict[str, Any]] = json.loads((out / "evaluation.json").read_text())["policies"]
    return found


def whole_way(benchmark: Benchmark, task: str, seed: int) -> tuple[Way, list[dict[str, Any]]]:
    """And the evaluation of base, chosen and last policy."""
    way = prepare(benchmark, task, seed)
    tuned = fine_tune(way, way.run / "finetuned", f"fine_tuning.seed={seed}")
    policies = way.base, tuned / "policy", tuned / "last"
    return way, evaluate(way, way.run / "evaluation", benchmark.episodes, *policies)


def cells(benchmark: Benchmark, task: str, seed: int) -> tuple[list[str], list[float]]:
    """A row of the table, and the three success rates."""
    _, (base, chosen, last) = whole_way(benchmark, task, seed)
    shown = [
        f"{100 * one['success']['value']:.1f} [{100 * one['success']['low']:.0f}, {100 * one['success']['high']:.0f}]"
        for one in (base, chosen, last)
    ]
    verdict = "promoted" if chosen["promoted"] else "refused"
    rates = [one["success"]["value"] for one in (base, chosen, last)]
    return [task, str(seed), *shown, f"{chosen['iteration']}", verdict], rates


def table(benchmark: Benchmark) -> Iterator[str]:
    rows, gains = list[list[str]](), list[tuple[float, float]]()
    for seed in benchmark.seeds:
        for task in benchmark.tasks:
            row, (base, chosen, last) = cells(benchmark, task, seed)
            rows.append(row)
            gains.append((chosen - base, last - base))
    yield machine() + f", {benchmark.episodes} episodes each; success in % [95% Wilson interval]"
    yield ""
    head = ["task", "seed", "base", "chosen offline", "last", "iteration chosen", "verdict"]
    yield markdown_table(head, sorted(rows))
    yield ""
    for name, own in zip(("chosen offline", "last"), zip(*gains, strict=True), strict=True):
        points = [100 * gain for gain in own]
        yield f"{name}: {sum(points) / len(points):+.1f} points on average, worst {min(points):+.1f}"


if __name__ == "__main__":
    for line in table(tyro.cli(Benchmark)):
        print(line)
