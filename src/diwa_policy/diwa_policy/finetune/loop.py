"""The iterations of fine-tuning, and beside them metrics, trust checks and checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import torch

from diwa_conventions.errors import UserError
from diwa_policy.config import FineTuningConfig
from diwa_policy.dream import DreamDiffusionMDP, Outcome
from diwa_policy.finetune.checkpoint import restore_state, save_state
from diwa_policy.finetune.draws import Purpose, reseed
from diwa_policy.finetune.signals import CheckpointSignals
from diwa_policy.finetune.starts import Starts
from diwa_policy.finetune.trust import TrustCheck
from diwa_policy.policy import Policy
from diwa_policy.ppo import PPO, Rollout, Update, roll_out
from diwa_worldmodel.training.checkpoint import NotWrittenError, Origin
from diwa_worldmodel.training.health import DivergedError
from diwa_worldmodel.training.loop import Report
from diwa_worldmodel.training.metrics import MetricsLog
from diwa_worldmodel.training.run_folder import CHECKPOINTS

End: TypeAlias = Literal["finished", "stopped"]
SHOWN = ("dreamed_success", "reward", "entropy_excess", "ms_per_iteration")
"""Values for people who watch."""


class Observer(Protocol):
    """Whoever shows the run to people."""

    def report(self, report: Report) -> None: ...

    def say(self, line: str) -> None: ...

    def warn(self, line: str) -> None: ...


def iterations(config: FineTuningConfig, executed_actions: int) -> int:
    """How many it takes to dream ``imagined_steps``; each dreams :func:`steps_each`."""
    return math.ceil(config.imagined_steps / steps_each(config, executed_actions))


def steps_each(config: FineTuningConfig, executed_actions: int) -> int:
    """Environment steps that an iteration dreams."""
    return config.dreams * config.decisions * executed_actions


def checkpoint_folder(run: Path, iteration: int) -> Path:
    """Where a checked policy of a run lies."""
    return run / CHECKPOINTS / f"iteration_{iteration:04d}"


@dataclass(frozen=True)
class Surroundings:
    """What the iterations leave their traces in, and who watches."""

    folder: Path
    origin: Origin
    checkpoint_minutes: float
    save_policy: Callable[[Policy, CheckpointSignals, Path], None]
    observer: Observer
    stop: Callable[[], bool]


class FineTuningLoop:
    """Iterates up to ``total`` and leaves a checkpoint at the end, however that comes."""

    def __init__(self, ppo: PPO, mdp: DreamDiffusionMDP, starts: Starts, check: TrustCheck, around: Surroundings):
        self.ppo, self.policy, self.config = ppo, ppo.policy, ppo.config
        self._mdp, self._starts, self._check, self._around = mdp, starts, check, around
        self.executed = self.policy.config.executed_actions
        self.total = iterations(self.config, self.executed)
        self.signals = restore_state(around.folder / CHECKPOINTS, around.origin, ppo, around.observer.warn)
        """Of the policies checked so far."""
        self._values: dict[str, float] = {}
        self._saved_iteration: int | None = ppo.iteration if self.signals else None
        self._first_iteration = ppo.iteration
        self._began_s = self._saved_s = time.monotonic()

    def run(self) -> End:
        """Why it ended. DivergedError or UserError, in a line, with the last checkpoint kept."""
        done = self.ppo.iteration if self.signals else -1
        self._log = MetricsLog(self._around.folder, done, self._around.observer.warn)
        if self.ppo.iteration:
            self._around.observer.say(f"going on from iteration {self.ppo.iteration} of {self.total}")
        try:
            if not self.signals:
                self._look()
            while self.ppo.iteration < self.total and not self._around.stop():
                self._iterate()
            self._save(last=True)
        finally:
            self._log.close()
        return "finished" if self.ppo.iteration == self.total else "stopped"

    def _iterate(self) -> None:
        """Dream, learn, and what is due after it."""
        begin_s = time.monotonic()
        number = self.ppo.iteration + 1
        generator = reseed(self.ppo.generator, self.config.seed, Purpose.TRAINING, number)
        config, starts = self.config, self._starts.draw(self.config.dreams, self.config.first_frame_share, generator)
        try:
            rollout = roll_out(self.policy, self._decide, starts, config.decisions, config, generator)
        except UserError as error:
            raise DivergedError(f"iteration {number}: {error}; {self._kept()}") from None
        values = self._numbers(rollout, self.ppo.update(rollout))
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise DivergedError(f"iteration {number}: {', '.join(bad)} not finite; {self._kept()}; {_ADVICE}")
        self._write({**values, "ms_per_iteration": 1e3 * (time.monotonic() - begin_s)})
        if number % config.trust_every == 0 or number == self.total:
            self._look()
        self._report()
        if time.monotonic() - self._saved_s >= 60.0 * self._around.checkpoint_minutes:
            self._save()

    def _decide(self, latents: torch.Tensor, chunks: torch.Tensor) -> Outcome:
        return self._mdp.decide(latents, chunks, self.executed)

    def _numbers(self, rollout: Rollout, update: Update) -> dict[str, float]:
        """Of an iteration, as it was dreamed and learned."""
        success = ((rollout.probability > self._mdp.threshold).any(dim=-1) & rollout.valid).any(dim=0)
        return {
            "imagined_steps": float(self._imagined),
            "reward": float(rollout.reward[rollout.valid].mean()),
            "training_success": float(success.float().mean()),
            "training_entropy": float(rollout.prior_entropy[rollout.valid].mean()),
            "reward_scale": self.ppo.scale.std,
            **asdict(update),
        }

    @property
    def _imagined(self) -> int:
        return self.ppo.iteration * steps_each(self.config, self.executed)

    def _look(self) -> None:
        """Check what the policy dreams, and keep it to choose from."""
        iteration = self.ppo.iteration
        try:
            signals = self._check.see(self.ppo.averaged, iteration, self._imagined)
        except UserError as error:
            raise DivergedError(f"after iteration {iteration}: {error}; {self._kept()}") from None
        try:
            self._around.save_policy(self.ppo.averaged, signals, checkpoint_folder(self._around.folder, iteration))
        except OSError as error:
            raise UserError(
                f"the policy of iteration {iteration} could not be written to {self._around.folder} "
                f"({error.strerror}); {self._kept()}: make room and give the same command again"
            ) from None
        self.signals.append(signals)
        self._write({name: value for name, value in asdict(signals).items() if name != "iteration"})

    def _write(self, values: dict[str, float]) -> None:
        self._values |= values
        self._log.write(self.ppo.iteration, values)

    def _report(self) -> None:
        done, left = self.ppo.iteration - self._first_iteration, self.total - self.ppo.iteration
        eta_s = left * (time.monotonic() - self._began_s) / done
        self._around.observer.report(Report(self.ppo.iteration, self.total, eta_s, dict(self._values)))

    def _save(self, last: bool = False) -> None:
        """A checkpoint of this iteration. A disk that is full costs a warning, at the end a UserError."""
        self._saved_s = time.monotonic()
        if self.ppo.iteration == self._saved_iteration:
            return
        try:
            save_state(self._around.folder / CHECKPOINTS, self._around.origin, self.ppo, self.signals)
            self._saved_iteration = self.ppo.iteration
        except NotWrittenError as error:
            line = (
                f"the checkpoint of iteration {self.ppo.iteration} could not be written to {self._around.folder} "
                f"({error}); {self._kept()}"
            )
            if last:
                raise UserError(f"{line}; make room and give the same command again") from None
            self._around.observer.warn(f"{line}; fine-tuning goes on and tries again")

    def _kept(self) -> str:
        if self._saved_iteration is None:
            return "there is no checkpoint"
        return f"the checkpoint of iteration {self._saved_iteration} is kept"


_ADVICE = "fine-tune into another folder with a smaller fine_tuning.actor_learning_rate or critic_learning_rate"
