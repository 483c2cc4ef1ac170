"""``diwa pipeline``: from play and demonstrations to an improved policy, and a page about it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diwa_bringup.pipeline.config import FILE, PipelineConfig, load
from diwa_worldmodel.config import Preset


@dataclass(frozen=True)
class Pipeline:
    """Run all stages: recordings, data sets, world model, policy, fine-tuning, evaluation, report.

    Without data of your own the playroom is simulated. The same command again goes on where it was stopped, and does
    nothing for a stage whose inputs have not changed. OUT/pipeline.yaml holds the whole config.
    """

    out: Path
    """Run folder, new or to go on with."""
    config: Path | None = None
    """YAML file; by default what OUT was begun with."""
    task: str | None = None
    """Skill to learn, as the annotations call it."""
    seed: int | None = None
    """Of everything."""
    preset: Preset | None = None
    """paper: the paper's sizes; tiny: for two CPU cores."""
    play: tuple[Path, ...] = ()
    """Your own play: bags, folders of bags, CALVIN or LeRobot folders, or one data set."""
    demonstrations: tuple[Path, ...] = ()
    """Your own annotated demonstrations; by default the play's annotations."""
    set: tuple[str, ...] = ()
    """What differs from all that, e.g. play.frames=5000 world_model=[training.steps=500] skip=[inspect_play]."""
    change: bool = False
    """Take this config in a run folder that was begun with another, and make anew what depends on it."""
    dry_run: bool = False
    """Only say what would be done and what it would cost."""

    def run(self) -> int:
        """0; 1 if a stage failed; 130 or 143 when stopped by a signal. UserError for what the user can mend."""
        from diwa_bringup.pipeline.run import PipelineRun

        return PipelineRun(self.resolved(), self.out, self.again()).start(self.change, self.dry_run)

    def resolved(self) -> PipelineConfig:
        """File, then options, then words."""
        begun = self.out / FILE
        over: dict[str, Any] = {
            name: value for name in ("task", "seed", "preset") if (value := getattr(self, name)) is not None
        }
        for name in ("play", "demonstrations"):
            if paths := getattr(self, name):
                over[name] = own_data(paths)
        return load(self.config or (begun if begun.exists() else None), self.set, over)

    def again(self) -> str:
        """What goes on with this run: its folder knows the config."""
        return shlex.join(["diwa", "pipeline", "--out", str(self.out)])


def own_data(paths: tuple[Path, ...]) -> dict[str, Any]:
    """One data set as it is; all else is imported."""
    from diwa_worldmodel.dataset.importing import is_data_set

    if len(paths) == 1 and is_data_set(paths[0]):
        return {"data": str(paths[0]), "sources": []}
    return {"sources": [str(path) for path in paths], "data": ""}
