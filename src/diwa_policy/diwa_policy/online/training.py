"""The iterations of DPPO: episodes, PPO's update, and every so many environment steps an evaluation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from diwa_conventions.errors import UserError
from diwa_policy.evaluation.trial_pool import Job, TrialPool
from diwa_policy.evaluation.trials import Trial, episode_seed
from diwa_policy.evaluation.wilson import Rate, wilson
from diwa_policy.finetune.draws import Purpose, reseed
from diwa_policy.finetune.loop import Observer, checkpoint_folder
from diwa_policy.online.collector import Collected, collect, training_seeds
from diwa_policy.online.config import DppoConfig
from diwa_policy.policy import Policy
from diwa_policy.ppo import PPO, Update
from diwa_worldmodel.training.checkpoint import Checkpoint, NotWrittenError, Origin, load_newest, save_checkpoint
from diwa_worldmodel.training.health import DivergedError
from diwa_worldmodel.training.loop import Report
from diwa_worldmodel.training.metrics import MetricsLog
from diwa_worldmodel.training.run_folder import CHECKPOINTS

End: TypeAlias = Literal["matched", "finished", "stopped"]
SHOWN = ("success", "training_success", "ratio_change", "ms_per_iteration")
"""Values for people who watch."""
HELD_OUT_SET = 1000
"""Of episodes: ``diwa evaluate`` has those before it."""
_PPO, _COUNTS, _EVALUATIONS = "ppo/", "counts", "evaluations"


@dataclass(frozen=True)
class Evaluation:
    """How good the policy of an iteration is, as it would be served."""

    iteration: int
    environment_steps: int
    """It has learned from; an evaluation's own are not among them."""
    successes: int
    episodes: int

    @property
    def success(self) -> Rate:
        return wilson(self.successes, self.episodes)


@dataclass(frozen=True)
class Surroundings:
    """What the iterations leave their traces in, and who watches."""

    folder: Path
    origin: Origin
    save_policy: Callable[[Policy, Evaluation, Path], None]
    observer: Observer
    stop: Callable[[], bool]


class OnlineTraining:
    """Iterates until enough of the environment was used or ``until_success`` is reached; goes on where it was."""

    def __init__(self, ppo: PPO, pool: TrialPool, config: DppoConfig, until_success: float, around: Surroundings):
        self.ppo, self.policy, self.config = ppo, ppo.policy, config
        self._pool, self._until_success, self._around = pool, until_success, around
        self.environment_steps = 0
        self.evaluations: list[Evaluation] = []
        self._values: dict[str, float] = {}
        self._checkpoints = around.folder / CHECKPOINTS
        self._restore()
        self._began_s, self._steps_before = time.monotonic(), self.environment_steps

    @property
    def matched(self) -> Evaluation | None:
        """The first that reached the success asked for."""
        reached = (one for one in self.evaluations if one.success.value >= self._until_success)
        return next(reached, None) if self._until_success else None

    def run(self) -> End:
        """Why it ended. UserError in a line, with the last iteration kept."""
        online = self.config.online
        self._log = MetricsLog(self._around.folder, self.ppo.iteration, self._around.observer.warn)
        try:
            while not self._around.stop():
                used_up = self.environment_steps >= online.environment_steps
                if used_up or self.environment_steps >= self._next_evaluation:
                    if not self._evaluate():
                        break
                if self.matched:
                    return "matched"
                if used_up:
                    return "finished"
                if not self._iterate():
                    break
        finally:
            self._log.close()
        return "stopped"

    @property
    def _next_evaluation(self) -> int:
        """[environment steps]"""
        if not self.evaluations:
            return 0
        return self.evaluations[-1].environment_steps + self.config.online.evaluate_every

    def _iterate(self) -> bool:
        """Collect, learn, save; false if it was stopped, with the iteration not begun."""
        begin_s = time.monotonic()
        config, number = self.config.fine_tuning, self.ppo.iteration + 1
        generator = reseed(self.ppo.generator, config.seed, Purpose.TRAINING, number)
        seeds = training_seeds(config.seed, number, self.config.online.episodes)
        collected = collect(self._pool, self.policy, seeds, config, generator, self._around.stop)
        if collected is None:
            return False
        values = self._numbers(collected, self.ppo.update(collected.rollout))
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise DivergedError(
                f"iteration {number}: {', '.join(bad)} not finite; iteration {number - 1} is kept; begin anew in "
                "another folder with a smaller fine_tuning.actor_learning_rate or critic_learning_rate"
            )
        self.environment_steps += collected.environment_steps
        self._save()
        self._tell({**values, "ms_per_iteration": 1e3 * (time.monotonic() - begin_s)})
        return True

    def _numbers(self, collected: Collected, update: Update) -> dict[str, float]:
        return {
            "environment_steps": float(self.environment_steps + collected.environment_steps),
            "training_success": collected.success,
            "reward_scale": self.ppo.scale.std,
            **asdict(update),
        }

    def _evaluate(self) -> bool:
        """On held-out starts, if this iteration was not; false if it was stopped."""
        if self.evaluations and self.evaluations[-1].iteration == self.ppo.iteration:
            return True
        episodes = self.config.online.evaluation_episodes
        jobs = [Job(0, Trial(episode_seed(HELD_OUT_SET, number))) for number in range(episodes)]
        outcomes = [one.success for _, one in self._pool.run([self.ppo.averaged], jobs, self._around.stop)]
        if len(outcomes) < episodes:
            return False
        evaluation = Evaluation(self.ppo.iteration, self.environment_steps, sum(outcomes), episodes)
        self._around.save_policy(
            self.ppo.averaged, evaluation, checkpoint_folder(self._around.folder, self.ppo.iteration)
        )
        self.evaluations.append(evaluation)
        self._save()
        rate = evaluation.success
        self._tell({"environment_steps": float(self.environment_steps), "success": rate.value})
        self._around.observer.say(
            f"{self.environment_steps} environment steps: {100 * rate.value:.1f}% success ({100 * rate.low:.1f} to "
            f"{100 * rate.high:.1f}) over {episodes} held-out episodes"
        )
        return True

    def _tell(self, values: dict[str, float]) -> None:
        self._log.write(self.ppo.iteration, values)
        self._values |= values
        total = self.config.online.environment_steps
        done = max(self.environment_steps - self._steps_before, 1)
        left = max(total - self.environment_steps, 0)
        eta_s = left * (time.monotonic() - self._began_s) / done
        self._around.observer.report(Report(min(self.environment_steps, total), total, eta_s, dict(self._values)))

    def _save(self) -> None:
        """All it takes to go on behind this iteration."""
        tensors: dict[str, Tensor] = {f"{_PPO}{name}": tensor for name, tensor in self.ppo.tensors().items()}
        tensors[_COUNTS] = torch.tensor([self.environment_steps])
        rows = [astuple(one) for one in self.evaluations]
        tensors[_EVALUATIONS] = torch.tensor(rows, dtype=torch.int64).reshape(len(rows), 4)
        try:
            save_checkpoint(self._checkpoints, Checkpoint(self.ppo.iteration, self._around.origin, tensors))
        except NotWrittenError as error:
            raise UserError(
                f"iteration {self.ppo.iteration} could not be written to {self._checkpoints} ({error}), the one before "
                "is kept; make room and give the same command again"
            ) from None

    def _restore(self) -> None:
        """Go on from the newest checkpoint, if there is one. UserError if it is of another run."""
        found = load_newest(self._checkpoints, self._around.observer.warn)
        if found is None:
            return
        differences = found.origin.differences(self._around.origin)
        if differences:
            raise UserError(
                f"the checkpoints in {self._around.folder} are of another run ({'; '.join(differences)}); choose a new "
                "folder with --out"
            )
        own = {name.removeprefix(_PPO): part for name, part in found.tensors.items() if name.startswith(_PPO)}
        self.ppo.restore(found.step, own)
        self.environment_steps = int(found.tensors[_COUNTS])
        self.evaluations = [Evaluation(*row) for row in found.tensors[_EVALUATIONS].tolist()]
        self._around.observer.say(f"going on behind {self.environment_steps} environment steps")
