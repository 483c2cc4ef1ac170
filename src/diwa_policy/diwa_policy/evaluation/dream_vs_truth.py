"""What a fine-tuning run dreamed of each of its checkpoints, beside what is true of it: table, JSON and plot."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diwa_policy.evaluation.shared_starts import INTERVALS, Evaluated, Tried, plain_rate, rate_words
from diwa_policy.finetune.selection import Judgement
from diwa_policy.finetune.signals import CheckpointSignals
from diwa_worldmodel.dataset.report import percent

FORMAT, VERSION = "diwa-dream-vs-truth", 1
HINDSIGHT = "the best is known in hindsight alone: being the highest of several flatters it, and with it the regret"
_HEAD = ("iteration", "dreamed %", "true %", "95%", "dream - truth", "return", "entropy excess", "distance", "")
_GREY = "#808890"


class Checkpoint(NamedTuple):
    """A policy that the run left to choose from."""

    signals: CheckpointSignals
    """Without the true environment."""
    tried: Tried
    """In it."""

    @property
    def optimism(self) -> float:
        """Dreamed success less true one."""
        return self.signals.success - self.tried.success.value


@dataclass(frozen=True, kw_only=True)
class DreamVsTruth(Evaluated):
    """All checkpoints of a run, the first of which is the pre-trained policy; each has been tried."""

    run: str
    judgement: Judgement
    """From the signals alone."""
    checkpoints: tuple[Checkpoint, ...]

    def named(self) -> Mapping[str, Checkpoint]:
        """Which the run chose and ended with, and which is in truth the best (of equals the earliest)."""
        chosen = next(one for one in self.checkpoints if one.signals.iteration == self.judgement.iteration)
        best = max(self.checkpoints, key=lambda one: (one.tried.success.value, -one.signals.iteration))
        return {"chosen": chosen, "last": self.checkpoints[-1], "best": best}

    def to_json(self) -> str:
        content = {
            **self.head(FORMAT, VERSION),
            "run": self.run,
            "promoted": self.judgement.promoted,
            "reasons": list(self.judgement.reasons),
            **{name: self._compared(one) for name, one in self.named().items()},
            "checkpoints": [self._both(one) for one in self.checkpoints],
        }
        return json.dumps(content, indent=1, allow_nan=False) + "\n"

    def _compared(self, one: Checkpoint) -> dict[str, Any]:
        base, best = self.checkpoints[0], self.named()["best"]
        return {
            "iteration": one.signals.iteration,
            "success": plain_rate(one.tried.success),
            "gain": None if one is base else plain_rate(one.tried.against(base.tried)),
            "regret": None if one is best else plain_rate(best.tried.against(one.tried)),
        }

    def _both(self, one: Checkpoint) -> dict[str, Any]:
        signals = {name: value if np.isfinite(value) else None for name, value in asdict(one.signals).items()}
        truth = one.tried.to_json(self.checkpoints[0].tried, self.starts)
        return {"signals": signals, "optimism": one.optimism, "truth": truth}

    def to_text(self) -> str:
        """A line for each checkpoint, then what was won and what the choice cost."""
        lines = [
            f"{self.run}: {self.task}, dreams and {self.starts.sets} x {self.starts.episodes} episodes in the "
            f"{self.environment}",
            "",
            *_aligned([_HEAD, *map(self._row, self.checkpoints)]),
            "",
            *(self._sentence(name, one) for name, one in self.named().items() if name != "best"),
            f"{INTERVALS}; {HINDSIGHT}",
            *self.interruption([one.tried for one in self.checkpoints]),
        ]
        return "\n".join(lines) + "\n"

    def _row(self, one: Checkpoint) -> tuple[str, ...]:
        signals = one.signals
        return (
            str(signals.iteration),
            f"{100 * signals.success:.1f}",
            *rate_words(one.tried.success),
            f"{100 * one.optimism:+.1f}",
            f"{signals.dreamed_return:.2f}",
            f"{signals.entropy_excess:+.2f}",
            percent(max(signals.translation_distance, signals.rotation_distance), 0),
            ", ".join(name for name, named in self.named().items() if named is one),
        )

    def _sentence(self, name: str, one: Checkpoint) -> str:
        judged = ""
        if name == "chosen":
            judged = ", promoted" if self.judgement.promoted else ", not promoted"
        base, best = self.checkpoints[0], self.named()["best"]
        won, lost = "is the pre-trained policy itself", "is the best itself"
        if one is not base:
            gain, interval = rate_words(one.tried.against(base.tried), "+")
            won = f"{gain} ({interval}) points on the pre-trained policy"
        if one is not best:
            regret, interval = rate_words(best.tried.against(one.tried), "+")
            lost = f"the best, iteration {best.signals.iteration}, is {regret} ({interval}) from it"
        true = percent(one.tried.success.value)
        return f"{name} (iteration {one.signals.iteration}{judged}): {true} in truth, {won}; {lost}"

    def plot_png(self) -> bytes:
        """Success, dreamed and true, over iterations; below, what else was known without the truth."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7.5, 6.4), dpi=120, layout="constrained")
        FigureCanvasAgg(figure)
        success, entropy, distance = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1, 1))
        iterations = [one.signals.iteration for one in self.checkpoints]
        _draw_success(success, iterations, self.checkpoints)
        for name, one in self.named().items():
            style = {"chosen": "-", "last": ":", "best": "--"}[name]
            label = f"{name}: iteration {one.signals.iteration}"
            success.axvline(one.signals.iteration, color=_GREY, linestyle=style, linewidth=1.2, label=label)
        success.set_title(f"{self.task}, {Path(self.run).name}", parse_math=False)
        success.legend(fontsize=8, loc="best")
        _draw_signal(entropy, iterations, [one.signals.entropy_excess for one in self.checkpoints])
        entropy.set_ylabel("entropy\nexcess [nat]")
        moved = [max(one.signals.translation_distance, one.signals.rotation_distance) for one in self.checkpoints]
        _draw_signal(distance, iterations, moved)
        distance.set_ylabel("distance\nfrom first")
        distance.set_xlabel("iteration")
        buffer = io.BytesIO()
        figure.savefig(buffer, metadata={"Software": None})
        return buffer.getvalue()


def _draw_success(axes: Any, iterations: list[int], checkpoints: tuple[Checkpoint, ...]) -> None:
    true = np.array([one.tried.success for one in checkpoints])
    axes.fill_between(iterations, true[:, 1], true[:, 2], color="#3b82d6", alpha=0.2, linewidth=0)
    axes.plot(iterations, true[:, 0], color="#3b82d6", marker="o", markersize=3, label="true (95%)")
    dreamed = [one.signals.success for one in checkpoints]
    axes.plot(iterations, dreamed, color="#e07b39", marker="o", markersize=3, label="dreamed")
    axes.set_ylim(0.0, 1.0)
    axes.set_ylabel("success")
    axes.grid(alpha=0.3)


def _draw_signal(axes: Any, iterations: list[int], values: list[float]) -> None:
    axes.plot(iterations, values, color="#9a5bb5", marker="o", markersize=3)
    axes.grid(alpha=0.3)


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Columns to the right, the last one to the left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join([*(word.rjust(width) for word, width in zip(row[:-1], widths, strict=False)), row[-1]]).rstrip()
        for row in rows
    ]
