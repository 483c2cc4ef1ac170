"""``diwa reward``: a classifier that pays dreams of one task, from demonstrations of it, with how good it is."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from diwa_policy.config import Config, Preset, load_config
from diwa_worldmodel.settings import from_file_and_words

if TYPE_CHECKING:
    from diwa_policy.reward_report import RewardReport


@dataclass(frozen=True)
class Reward:
    """Learn to see a task's success in the world model's latents; fine-tuning is paid by that.

    OUT holds the classifier, its metrics, reward.json and report.html: precision, recall, false positives and
    calibration on attempts that it has not learned from, seen and dreamed. It is written when all is done.
    """

    world_model: Annotated[Path, tyro.conf.Positional]
    """World model folder, made by diwa train."""
    demonstrations: Annotated[Path, tyro.conf.Positional]
    """Data set with attempts at the task, marked while they were recorded; failed ones help most."""
    task: str
    """As the marks call it, e.g. open-drawer."""
    out: Path
    """Folder for the classifier; one that is there already is replaced."""
    preset: Preset = "paper"
    """paper: Table S.4; tiny: for two CPU cores."""
    config: Path | None = None
    """YAML file that says what differs from the preset."""
    set: tuple[str, ...] = ()
    """What differs from both, e.g. reward.dreamed_steps=16 reward.epochs=20."""
    strict: bool = False
    """End with exit code 1 if any verdict is bad."""

    def resolved(self) -> Config:
        """Preset, then file, then words."""
        return load_config(self.preset, from_file_and_words(self.config, self.set))

    def run(self) -> int:
        """0; 1 with ``strict`` and a bad verdict; 130 when stopped by Ctrl-C. UserError for what the user can mend."""
        from diwa_policy.reward_run import RewardRun
        from diwa_worldmodel.training.terminal import Terminal

        try:
            with Terminal(("loss",)) as terminal:
                report = RewardRun(self, terminal).run()
        except KeyboardInterrupt:
            print(self.stopped, file=sys.stderr)
            return 130
        print(self.summary(report))
        return self.exit_code(report)

    def summary(self, report: RewardReport) -> str:
        """How good the classifier is, and the command that comes next."""
        from diwa_policy.reward_report import PAGE, to_text

        words = f"{self.world_model} {self.demonstrations} --policy POLICY --reward {self.out} --out RUN"
        preset = "" if self.preset == "paper" else f" --preset {self.preset}"
        return "\n".join([
            to_text(report), f"report: {self.out / PAGE}", f"next: diwa finetune {words}{preset}"
        ])  # fmt: skip

    def exit_code(self, report: RewardReport) -> int:
        """0; 1 with ``strict`` and a bad verdict."""
        return 1 if self.strict and report.overall.level == "bad" else 0

    @property
    def stopped(self) -> str:
        """What an interruption leaves."""
        return f"{self.out}: stopped, no classifier was saved; the same command begins anew"

    def command(self) -> str:
        """What the user could type again."""
        words = [f"diwa reward {self.world_model} {self.demonstrations} --task {self.task} --out {self.out}"]
        if self.preset != "paper":
            words += ["--preset", self.preset]
        if self.config:
            words += ["--config", str(self.config)]
        return " ".join([*words, *(["--set", *self.set] if self.set else [])])
