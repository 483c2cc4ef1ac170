"""``diwa finetune``: a policy that improves in dreams. The same command again goes on where it was stopped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from diwa_conventions.errors import UserError
from diwa_policy.config import Config, Preset, load_config
from diwa_worldmodel.settings import from_file_and_words

if TYPE_CHECKING:
    from diwa_policy.finetune.run import Outcome


@dataclass(frozen=True)
class FineTune:
    """Fine-tune a policy inside the world model, without one step of the robot, and judge what came of it.

    RUN holds checkpoints, metrics, signals of trust and at the end two policies: policy/ is the one to use if it was
    promoted, last/ that of the last iteration. The same command again goes on from the last checkpoint, with the same
    result as if it had never been interrupted.
    """

    world_model: Annotated[Path, tyro.conf.Positional]
    """World model folder, made by diwa train."""
    demonstrations: Annotated[Path, tyro.conf.Positional]
    """Data set with attempts at the policy's task; failed ones tell how far to trust the dreams."""
    policy: Path
    """Made by diwa pretrain."""
    reward: Path
    """Made by diwa reward."""
    out: Path
    """Folder of this run, new or to go on with."""
    preset: Preset = "paper"
    """paper: Table S.5; tiny: for two CPU cores. What the policy was pre-trained with stays."""
    config: Path | None = None
    """YAML file that says what differs from the preset."""
    set: tuple[str, ...] = ()
    """What differs from both, e.g. fine_tuning.bc_coefficient=0.1."""
    checkpoint_minutes: float = 5.0
    """How often a checkpoint is written; 0: after every iteration."""
    device: Literal["cpu", "cuda"] = "cpu"
    """What dreams and learns; tiny policies are quicker on a CPU."""
    threads: int = 0
    """Of the CPU; 0: PyTorch's choice."""

    def over(self) -> dict[str, Any]:
        """What file and words say beside the preset."""
        return from_file_and_words(self.config, self.set)

    def resolved(self) -> Config:
        """Preset, then file, then words."""
        return load_config(self.preset, self.over())

    def run(self) -> int:
        """0, promoted or refused; 130 or 143 when stopped by a signal. UserError for what the user can mend."""
        from diwa_policy.finetune.loop import SHOWN
        from diwa_policy.finetune.run import fine_tune
        from diwa_worldmodel.training.stopping import stopping_on_signals
        from diwa_worldmodel.training.terminal import Terminal

        self.check()
        with Terminal(SHOWN) as terminal:
            with stopping_on_signals() as caught:
                outcome = fine_tune(self, terminal, lambda: bool(caught))
        print(summary(self, outcome))
        return 128 + caught[0] if outcome.judgement is None else 0

    def check(self) -> None:
        """UserError for a number out of range."""
        if not 0.0 <= self.checkpoint_minutes < float("inf"):
            raise UserError(f"--checkpoint-minutes is {self.checkpoint_minutes}; expected a number of at least 0")
        if not 0 <= self.threads <= 1024:
            raise UserError(f"--threads is {self.threads}; expected a number from 0 to 1024")


def summary(options: FineTune, outcome: Outcome) -> str:
    """What came of it, and the command that comes next."""
    from diwa_policy.finetune.report import PAGE, to_text

    if outcome.judgement is None:
        where = f"stopped at iteration {outcome.iteration} of {outcome.total}"
        return f"{options.out}: {where}, which is saved; the same command goes on"
    assert outcome.trust is not None
    return "\n".join([
        to_text(outcome.trust, outcome.judgement),
        "",
        f"report: {options.out / PAGE}",
        f"next: diwa evaluate policy {outcome.policy} --world-model {options.world_model} --env playroom --task "
        f"{outcome.trust.skill}",
        outcome.judgement.line(outcome.policy),
    ])  # fmt: skip
