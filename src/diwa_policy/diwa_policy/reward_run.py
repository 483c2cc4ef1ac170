"""A reward classifier from options to artefact: world model, demonstrations, split, training, measures, report."""

from __future__ import annotations

import time

from diwa_conventions.errors import UserError
from diwa_policy.artefacts import REWARD, RewardMetadata, save_reward
from diwa_policy.demonstrations import load_demonstrations, split_attempts
from diwa_policy.finetune.loop import Observer
from diwa_policy.reward_measures import measure
from diwa_policy.reward_report import RewardReport, write_report
from diwa_policy.reward_stage import Reward
from diwa_policy.reward_training import check_labels, train_classifier
from diwa_worldmodel.artefact import check_place, load_world_model
from diwa_worldmodel.dataset.quality import counted
from diwa_worldmodel.training.loop import Report
from diwa_worldmodel.training.metrics import MetricsLog


class RewardRun:
    """From options to classifier and report."""

    def __init__(self, options: Reward, observer: Observer) -> None:
        """Reads and checks all it needs; encodes what is not encoded yet."""
        self._options, self._observer = options, observer
        self._whole = options.resolved()
        self._config = self._whole.reward
        check_place(options.out, REWARD)
        self._world_model = load_world_model(options.world_model)
        self._demonstrations = load_demonstrations(self._world_model, options.demonstrations, options.task, quiet=False)
        self._learned, self._held_out = split_attempts(
            self._demonstrations.attempts, self._config.held_out_share, self._config.seed
        )
        self._check()
        self._losses: list[float] = []
        """Mean of each epoch."""

    def _check(self) -> None:
        options, config = self._options, self._config
        where = f"at {options.task!r} in {options.demonstrations}"
        if not any(attempt.success for attempt in self._held_out):
            raise UserError(
                f"only {counted(len(self._demonstrations.successes), 'attempt')} {where} succeeded, of which "
                f"reward.held_out_share {config.held_out_share:g} leaves none to measure with: demonstrate more"
            )
        for part, name in ((self._learned, "learned from"), (self._held_out, "held out")):
            check_labels(part, config, f"{where} that are {name}")

    def run(self) -> RewardReport:
        """Train, measure, write the artefact and the report beside it."""
        options, rssm = self._options, self._world_model.model.rssm
        began_s = time.monotonic()

        def report(epoch: int, loss: float) -> None:
            self._losses.append(loss)
            left_s = (self._config.epochs / epoch - 1.0) * (time.monotonic() - began_s)
            self._observer.report(Report(epoch, self._config.epochs, left_s, {"loss": loss}))

        trained = train_classifier(self._learned, self._config, rssm, report)
        seconds = time.monotonic() - began_s
        classifier, measures = measure(trained, self._held_out, self._config, rssm)
        metadata = RewardMetadata(
            options.task, self._world_model.hash, self._demonstrations.data_set_hash, options.preset,
            self._demonstrations.attempts[0].latents.shape[1], (len(self._learned), len(self._held_out)),
            measures.scalars(),
        )  # fmt: skip
        save_reward(options.out, classifier, metadata, self._whole)
        self._write_metrics()
        made = RewardReport(
            options.task, str(options.world_model), str(options.demonstrations), options.command(),
            len(self._learned), len(self._held_out), round(seconds, 1), measures,
        )  # fmt: skip
        write_report(made, options.out)
        return made

    def _write_metrics(self) -> None:
        log = MetricsLog(self._options.out, 0, self._observer.warn)
        for number, loss in enumerate(self._losses, start=1):
            log.write(number, {"loss": loss})
        log.close()
