"""``diwa train``: a world model from a data set. The same command again goes on where it was stopped or killed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from diwa_conventions.errors import UserError
from diwa_worldmodel.config import Preset, WorldModelConfig, load_config
from diwa_worldmodel.settings import from_file_and_words

if TYPE_CHECKING:
    from diwa_worldmodel.training.training_run import Outcome


@dataclass(frozen=True)
class Speed:
    """What changes how fast training is and, to rounding, nothing else."""

    threads: int = 0
    """Of the CPU, per process; 0: PyTorch's choice."""
    place: Literal["auto", "memory", "disk", "device"] = "auto"
    """Where the images are kept; auto: on a GPU if they fit, else in memory if they fit, else on disk."""
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU if there is one."""
    devices: int = 1
    """GPUs, or processes on a CPU, of this machine; torchrun says it by itself."""
    compile: bool = False
    """Compile the RSSM's scan, on a GPU into CUDA graphs; the first steps take up to a minute."""


@dataclass(frozen=True)
class Train:
    """Train a world model on a data set.

    OUT holds checkpoints, metrics and, at the end, the world model. The same command again goes on from the last
    checkpoint, with the same losses as if it had never been interrupted.
    """

    data_set: Annotated[Path, tyro.conf.Positional]
    """Made by diwa import."""
    out: Path
    """Folder of this training run, new or to go on with."""
    preset: Preset = "paper"
    """paper: Table S.2; tiny: for two CPU cores."""
    config: Path | None = None
    """YAML file that says what differs from the preset."""
    set: tuple[str, ...] = ()
    """What differs from both, e.g. model.kl_scale=1.0 training.steps=500."""
    minutes: float = 0.0
    """Stop after so many, with a world model as good as it is by then; 0: train all steps."""
    checkpoint_minutes: float = 5.0
    """How often a checkpoint is written; 0: after every step."""
    log_steps: int = 10
    """How often metrics are written [steps]."""
    validation_steps: int = 250
    """How often the held-out episodes are looked at [steps]."""
    speed: Annotated[Speed, tyro.conf.OmitArgPrefixes] = field(default_factory=Speed)

    def check(self) -> None:
        """UserError for a number out of range."""
        for name, low in (("minutes", 0.0), ("checkpoint_minutes", 0.0), ("log_steps", 1), ("validation_steps", 1)):
            if not low <= getattr(self, name) < float("inf"):
                raise UserError(
                    f"--{name.replace('_', '-')} is {getattr(self, name)}; expected a number of at least {low:g}"
                )
        for name, low in (("threads", 0), ("devices", 1)):
            if not low <= getattr(self.speed, name) <= 1024:
                raise UserError(f"--{name} is {getattr(self.speed, name)}; expected a number from {low} to 1024")

    def resolved(self) -> WorldModelConfig:
        """Preset, then file, then words."""
        return load_config(self.preset, from_file_and_words(self.config, self.set))

    def run(self) -> int:
        """0; 130 or 143 when stopped by SIGINT or SIGTERM. UserError or OSError for what the user can mend."""
        from diwa_worldmodel.training.stopping import stopping_on_signals
        from diwa_worldmodel.training.terminal import Terminal
        from diwa_worldmodel.training.training_run import train

        with stopping_on_signals() as caught, Terminal() as terminal:
            outcome = train(self, terminal, lambda: bool(caught))
        if outcome is None:  # one of several processes, and not the one that speaks
            return 0
        print(summary(self, outcome))
        return 128 + caught[0] if outcome.end == "stopped" else 0


def summary(options: Train, outcome: Outcome) -> str:
    """What came of it, and the command that comes next."""
    if outcome.world_model is None:
        where = f"stopped at step {outcome.step} of {outcome.steps}"
        return f"{options.out}: {where}, which is saved; the same command goes on"
    lines = [
        f"{outcome.world_model}: world model after {outcome.step} steps, hash {outcome.hash[:12]}",
        f"next: diwa evaluate world-model {outcome.world_model} --data {options.data_set}",
    ]
    if outcome.end == "time over":
        lines.insert(1, f"its time was over at step {outcome.step} of {outcome.steps}; the same command goes on")
    return "\n".join(lines)
