"""An evaluation of policies from the same starts, to be shown: JSON, CSV and a table; differences are to the first."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import stdev

from rich import box
from rich.table import Table
from rich.text import Text

from diwa_policy.artefacts import PolicyMetadata
from diwa_policy.evaluation.shared_starts import INTERVALS, Evaluated, Starts, Tried, rate_words
from diwa_worldmodel.dataset.report import percent, printable

FORMAT, VERSION = "diwa-policy-evaluation", 1


@dataclass(frozen=True, kw_only=True)
class Comparison(Evaluated):
    """All that is told of policies that were compared; the first one is the base of differences."""

    tried: tuple[Tried, ...]

    @property
    def done(self) -> int:
        """Episodes of all policies."""
        return sum(len(one.episodes) for one in self.tried)

    def to_json(self) -> str:
        content = {
            **self.head(FORMAT, VERSION),
            "policies": [one.to_json(self.tried[0], self.starts) for one in self.tried],
        }
        return json.dumps(content, indent=1, allow_nan=False) + "\n"

    def table(self) -> Table:
        """For the terminal."""
        title = f"{self.task} in the {self.environment}: {self.starts.sets} x {self.starts.episodes} episodes"
        table = Table(
            title=title, caption=INTERVALS, box=box.SIMPLE_HEAD, title_style="bold", title_justify="left",
            caption_justify="left",
        )  # fmt: skip
        table.add_column("policy", overflow="fold")
        for name in ("success %", "95%", "sets", "to the first", "95%", "frames", "surprise (nat)"):
            table.add_column(name, justify="right", no_wrap=True)
        judged = any(one.believed(success) is not None for one in self.tried for success in (True, False))
        if judged:
            table.add_column("true, false alarms", justify="right")
        for one in self.tried:
            alarms = [" ".join(_share(one.believed(success)) for success in (True, False))] if judged else []
            table.add_row(Text(printable(one.name)), *self._row(one), *alarms)
        return table

    def _row(self, one: Tried) -> list[str]:
        by_set, frames, surprise = one.by_set(self.starts), one.frames_to_success, one.surprise
        spread = f"± {100 * stdev(by_set):.1f}" if len(by_set) > 1 else ""
        difference = rate_words(one.against(self.tried[0]), "+") if one is not self.tried[0] else ["", ""]
        others = ["-" if frames is None else f"{frames:g}", "-" if surprise is None else f"{surprise:.2f}"]
        return [*rate_words(one.success), spread, *difference, *others]

    def notes(self) -> list[str]:
        """What must be said beside the numbers."""
        lines = [f"{one.name}: {word}" for one in self.tried if (word := warning(one.loaded.metadata))]
        return lines + self.interruption(self.tried)


def warning(metadata: PolicyMetadata) -> str:
    """What the offline signals have against a policy; empty for one that they promoted or that never dreamed."""
    if metadata.promoted is False:
        return f"not promoted by fine-tuning's own signals: {'; '.join(metadata.reasons) or 'no reason given'}"
    judged = metadata.promoted or metadata.origin != "dreams"
    return "" if judged else "fine-tuned in dreams, and never judged by offline signals"


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _share(value: float | None) -> str:
    return "-" if value is None else percent(value, 0)


def to_csv(tried: Sequence[Tried], starts: Starts) -> str:
    """A line for each episode."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["policy", "set", "seed", "success", "frames", "surprise", "probability"])
    for one in tried:
        for number, episode in sorted(one.episodes.items()):
            own = starts.set_of(number)
            numbers = [_short(episode.surprise), _short(episode.probability)]
            lines.writerow([one.name, own, episode.seed, int(episode.success), episode.frames, *numbers])
    return text.getvalue()
