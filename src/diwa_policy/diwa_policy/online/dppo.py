"""``diwa dppo``: the baseline that fine-tunes in the environment itself, to count the steps that dreams save."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from diwa_conventions.errors import UserError
from diwa_policy.config import Preset
from diwa_policy.evaluation.environments import EnvironmentOptions
from diwa_worldmodel.settings import from_file_and_words

if TYPE_CHECKING:
    from diwa_policy.online.config import DppoConfig


@dataclass(frozen=True)
class Dppo:
    """Fine-tune a policy by PPO with the environment in the place of dreams (DPPO, Ren et al. 2024).

    Policy, PPO and observations (latents of the world model's filter) are those of diwa finetune; a success pays 1 and
    ends the episode. It tells how many environment steps it took to reach a given success rate, not counting those of
    its own evaluations, which have held-out starts. The same command again goes on behind the last iteration.
    """

    world_model: Annotated[Path, tyro.conf.Positional]
    """Folder of the world model that the policy was made with."""
    policy: Path
    """Folder of the policy to begin with, made by diwa pretrain."""
    out: Path
    """Folder of this run, new or to go on with."""
    until_success: float = 0.0
    """Stop at the first evaluation with this success rate, e.g. 0.8; 0: use all of online.environment_steps."""
    preset: Preset = "paper"
    """PPO's settings; paper: Table S.5; tiny: for two CPU cores; both without behaviour cloning."""
    config: Path | None = None
    """YAML file that says what differs from the preset."""
    set: tuple[str, ...] = ()
    """Settings that differ from preset and file, e.g. online.episodes=32 fine_tuning.actor_learning_rate=1e-4."""
    environment: Annotated[EnvironmentOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=EnvironmentOptions)

    def resolved(self) -> DppoConfig:
        """Preset, then file, then words."""
        from diwa_policy.online.config import load_dppo_config

        return load_dppo_config(self.preset, from_file_and_words(self.config, self.set))

    def run(self) -> int:
        """0; 130 or 143 when stopped by SIGINT or SIGTERM. UserError or OSError for what the user can mend."""
        from diwa_policy.online.run import dppo
        from diwa_policy.online.training import SHOWN
        from diwa_worldmodel.training.stopping import stopping_on_signals
        from diwa_worldmodel.training.terminal import Terminal

        if not 0.0 <= self.until_success <= 1.0:
            raise UserError(f"--until-success is {self.until_success}; expected a share from 0 to 1")
        with Terminal(SHOWN) as terminal, stopping_on_signals() as caught:
            outcome = dppo(self, terminal, lambda: bool(caught))
        print(outcome.summary(self))
        return 128 + caught[0] if outcome.end == "stopped" else 0
