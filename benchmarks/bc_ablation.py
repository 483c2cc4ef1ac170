"""Fig. S.6 in figures of our own: what alpha_BC does to dreamed and to true success, in a good and a weak world model.

python benchmarks/bc_ablation.py --out runs/fine_tuning --figure docs/results/bc_ablation.png

Goes on from what benchmarks/fine_tuning.py left in the same folder, or makes it. True success is that of the last
policy of a run: what is served where nobody looks at the signals.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import tyro
from fine_tuning import Benchmark, Kind, evaluate, fine_tune, whole_way
from machine import machine, markdown_table

from diwa_policy.config import FineTuningConfig
from diwa_policy.evaluation.wilson import wilson

ALPHAS = (0.0, 0.025, 0.05, 0.1, 0.5)
MODELS: dict[Kind, str] = {"mixed": "good", "weak": "weak"}
"""What the kinds of world model are called in the table."""


@dataclass(frozen=True)
class Ablation:
    """Three seeds of each value and world model."""

    out: Path = Path("runs/fine_tuning")
    task: str = "move-slider-left"
    seeds: tuple[int, ...] = (0, 1, 2)
    episodes: int = 200
    figure: Path | None = None
    """PNG file to write."""


class Tuned(NamedTuple):
    """The last policy of a run."""

    dreamed: float
    success: float
    successes: int
    promoted: bool
    """What the run chose, from its signals alone."""


class Seed(NamedTuple):
    """All runs of a world model's seed."""

    base_dreamed: float
    base_success: float
    base_successes: int
    tuned: dict[float, Tuned]


def of_seed(ablation: Ablation, kind: Kind, seed: int) -> Seed:
    """Run what is not there yet. The preset's own alpha_BC is the run of benchmarks/fine_tuning.py."""
    benchmark = Benchmark(ablation.out, episodes=ablation.episodes, world_model=kind)
    way, (base, _, last) = whole_way(benchmark, ablation.task, seed)
    usual = FineTuningConfig().bc_coefficient
    runs = {alpha: way.run / "finetuned" if alpha == usual else way.run / f"alpha_{alpha}" for alpha in ALPHAS}
    for alpha, run in runs.items():
        fine_tune(way, run, f"fine_tuning.seed={seed}", f"fine_tuning.bc_coefficient={alpha}")
    rest = [run / "last" for alpha, run in runs.items() if alpha != usual]
    found = iter(evaluate(way, way.run / "evaluation_alphas", ablation.episodes, *rest))
    truths = {alpha: last if alpha == usual else next(found) for alpha in ALPHAS}
    tuned = {alpha: _tuned(run, truths[alpha]) for alpha, run in runs.items()}
    return Seed(_dreamed(_trust(runs[usual])["checkpoints"][0]), *_true(base), tuned)


def _trust(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "trust.json").read_text())
    return found


def _dreamed(checkpoint: dict[str, Any]) -> float:
    return 0.5 * float(checkpoint["dreamed_success"] + checkpoint["other_success"])


def _true(policy: dict[str, Any]) -> tuple[float, int]:
    return policy["success"]["value"], policy["successes"]


def _tuned(run: Path, truth: dict[str, Any]) -> Tuned:
    trust = _trust(run)
    return Tuned(_dreamed(trust["checkpoints"][-1]), *_true(truth), promoted=trust["verdict"]["promoted"])


def rows(kind: Kind, seeds: Sequence[Seed], episodes: int) -> list[list[str]]:
    """One for the pre-trained policies and one for each value."""
    lines = [[one.base_dreamed for one in seeds], [one.base_success for one in seeds]]
    pooled = [sum(one.base_successes for one in seeds)]
    names, verdicts = ["pre-trained"], [""]
    for alpha in ALPHAS:
        tuned = [one.tuned[alpha] for one in seeds]
        lines += [[one.dreamed for one in tuned], [one.success for one in tuned]]
        pooled.append(sum(one.successes for one in tuned))
        names.append(f"{alpha:g}")
        verdicts.append(f"{sum(one.promoted for one in tuned)} of {len(tuned)}")
    found = []
    for number, (name, successes, verdict) in enumerate(zip(names, pooled, verdicts, strict=True)):
        dreamed, true = lines[2 * number : 2 * number + 2]
        rate = wilson(successes, episodes * len(seeds))
        interval = f"{100 * rate.value:.1f} [{100 * rate.low:.0f}, {100 * rate.high:.0f}]"
        each = " ".join(f"{100 * value:.0f}" for value in true)
        found.append([MODELS[kind], name, f"{100 * fmean(dreamed):.1f}", interval, each, verdict])
    return found


def draw(path: Path, ablation: Ablation, found: dict[Kind, list[Seed]]) -> None:
    """Bars of the means over seeds, dots of the seeds, a line where the pre-trained policies are."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (kind, seeds) in zip(figure.subplots(1, len(found), sharey=True), found.items(), strict=True):
        for offset, colour, name in ((-0.2, "#e07b39", "dreamed"), (0.2, "#3b82d6", "true")):
            for place, alpha in enumerate(ALPHAS):
                tuned = [one.tuned[alpha] for one in seeds]
                values = [100 * (one.dreamed if name == "dreamed" else one.success) for one in tuned]
                label = name if place == 0 else None
                axes.bar(place + offset, fmean(values), width=0.36, color=colour, alpha=0.75, label=label)
                axes.plot([place + offset] * len(values), values, "o", color="#30363d", markersize=3)
        base = 100 * fmean(one.base_success for one in seeds)
        axes.axhline(base, color="#808890", linestyle="--", linewidth=1.2, label="pre-trained, true")
        axes.set_xticks(range(len(ALPHAS)), [f"{alpha:g}" for alpha in ALPHAS])
        axes.set_xlabel("alpha_BC")
        axes.set_ylim(0, 104)
        axes.grid(axis="y", alpha=0.3)
        axes.set_title(f"{ablation.task}, {MODELS[kind]} world model", fontsize=10)
    figure.axes[0].set_ylabel("success [%]")
    handles, labels = figure.axes[-1].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="outside lower center", ncols=len(labels))
    figure.savefig(path, metadata={"Software": None})


def main(ablation: Ablation) -> None:
    found = {kind: [of_seed(ablation, kind, seed) for seed in ablation.seeds] for kind in MODELS}
    print(f"{machine()}, {ablation.task}, {len(ablation.seeds)} seeds x {ablation.episodes} episodes\n")
    head = ["world model", "alpha_BC", "dreamed %", "true % [95%]", "of each seed", "promoted"]
    lines = [row for kind, seeds in found.items() for row in rows(kind, seeds, ablation.episodes)]
    print(markdown_table(head, lines))
    if ablation.figure:
        draw(ablation.figure, ablation, found)


if __name__ == "__main__":
    main(tyro.cli(Ablation))
