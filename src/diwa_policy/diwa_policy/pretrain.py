"""``diwa pretrain``: a policy from demonstrations of one task, by behaviour cloning on a world model's latents."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from diwa_policy.config import Config, Preset, load_config
from diwa_worldmodel.settings import from_file_and_words


@dataclass(frozen=True)
class Pretrain:
    """Imitate the successful demonstrations of one task; fine-tuning improves on that.

    OUT holds the policy and its metrics. It is written when all is done: after an interruption there is nothing to go
    on from. Frames that the world model has not encoded yet are encoded first, and kept.
    """

    world_model: Annotated[Path, tyro.conf.Positional]
    """World model folder, made by diwa train."""
    demonstrations: Annotated[Path, tyro.conf.Positional]
    """Data set with attempts at the task, marked while they were recorded."""
    task: str
    """As the marks call it, e.g. open-drawer."""
    out: Path
    """Folder for the policy; one that is there already is replaced."""
    preset: Preset = "paper"
    """paper: Table S.3; tiny: for two CPU cores."""
    config: Path | None = None
    """YAML file that says what differs from the preset."""
    set: tuple[str, ...] = ()
    """What differs from both, e.g. policy.kind=gaussian pretraining.epochs=1000."""

    def resolved(self) -> Config:
        """Preset, then file, then words."""
        return load_config(self.preset, from_file_and_words(self.config, self.set))

    @property
    def stopped(self) -> str:
        """What an interruption leaves."""
        return f"{self.out}: stopped, no policy was saved; the same command begins anew"

    def run(self) -> int:
        """0; 130 when stopped by Ctrl-C. UserError or OSError for what the user can mend."""
        from diwa_policy.pretraining_run import SHOWN, PretrainingRun
        from diwa_worldmodel.training.terminal import Terminal

        try:
            with Terminal(SHOWN) as terminal:
                print(PretrainingRun(self, terminal).run())
        except KeyboardInterrupt:
            print(self.stopped, file=sys.stderr)
            return 130
        return 0
