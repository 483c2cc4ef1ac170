"""Pre-training from options to artefact: world model, demonstrations, split, policy, metrics."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from diwa_conventions.actions import ACTION_DIM
from diwa_conventions.errors import UserError
from diwa_policy.artefacts import POLICY, PolicyMetadata, save_policy
from diwa_policy.demonstrations import Attempt, imitation_pairs, load_demonstrations, split_attempts
from diwa_policy.finetune.loop import Observer
from diwa_policy.policy import Policy
from diwa_policy.pretrain import Pretrain
from diwa_policy.pretraining import DRAWS, Epoch, difference, imitation_error, imitation_loss, pretrain
from diwa_worldmodel.artefact import check_place, load_world_model
from diwa_worldmodel.training.loop import Report
from diwa_worldmodel.training.metrics import MetricsLog

SHOWN = ("loss", "held_out_loss", "held_out_action_error")
"""Of the metrics, in the terminal."""
_LOOKS = 20
"""So often the held-out demonstrations are looked at."""


class Pairs(NamedTuple):
    """Frames and the chunks that followed them; see :func:`~diwa_policy.demonstrations.imitation_pairs`."""

    attempts: int
    """That they come from."""
    latents: Tensor
    """(M, s)"""
    chunks: Tensor
    """(M, C)"""


class PretrainingRun:
    """From options to policy."""

    def __init__(self, options: Pretrain, observer: Observer) -> None:
        """Reads and checks all it needs; encodes what is not encoded yet."""
        self._options, self._observer = options, observer
        self._config = options.resolved()
        check_place(options.out, POLICY)
        self._world_model = load_world_model(options.world_model)
        self._demonstrations = load_demonstrations(self._world_model, options.demonstrations, options.task, quiet=False)
        training = self._config.pretraining
        learned, held_out = split_attempts(self._demonstrations.successes, training.held_out_share, training.seed)
        pairs = self._pairs(learned)
        if pairs is None:
            raise UserError(
                f"no demonstration of {options.task!r} in {options.demonstrations} is longer than "
                f"policy.warmup_steps {self._config.policy.warmup_steps}: set fewer, or demonstrate longer"
            )
        self._learned, self._held_out = pairs, self._pairs(held_out)
        self._metrics: list[tuple[int, dict[str, float]]] = []
        """Gradient step and values, of each epoch."""
        self._newest: dict[str, float] = {}
        self._began_s = time.monotonic()

    def _pairs(self, attempts: Sequence[Attempt]) -> Pairs | None:
        """None if there are none."""
        config = self._config.policy
        if not attempts:
            return None
        latents, chunks = imitation_pairs(attempts, config.planned_actions, config.warmup_steps)
        return Pairs(len(attempts), latents, chunks) if len(latents) else None

    def run(self) -> str:
        """What to tell the user about the policy, once it is saved."""
        options, learned = self._options, self._learned
        self._observer.say(self._describe())
        policy = pretrain(
            self._config.policy, self._config.pretraining, learned.latents, learned.chunks, self._after_epoch
        )
        metadata = PolicyMetadata(
            options.task, self._world_model.hash, self._demonstrations.data_set_hash, options.preset, learned.attempts
        )
        own_hash = save_policy(options.out, policy, metadata, self._config)
        self._write_metrics()
        return self._summary(own_hash)

    def _describe(self) -> str:
        held_out = self._held_out.attempts if self._held_out else 0
        return (
            f"{self._learned.attempts} demonstrations of {self._options.task!r}, {len(self._learned.latents)} frames; "
            f"{held_out} more held out; {len(self._demonstrations.failures)} failed attempts are not imitated"
        )

    def _after_epoch(self, epoch: Epoch) -> None:
        epochs = self._config.pretraining.epochs
        values = {"epoch": epoch.number, "loss": epoch.loss, "learning_rate": epoch.learning_rate}
        if epoch.number % max(epochs // _LOOKS, 1) == 0 or epoch.number == epochs:
            values |= self._look(epoch.policy)
        self._metrics.append((epoch.step, values))
        self._newest |= values
        left = epochs / epoch.number - 1.0
        eta_s = left * (time.monotonic() - self._began_s)
        self._observer.report(Report(epoch.step, round(epoch.step * (1.0 + left)), eta_s, self._newest))

    def _look(self, policy: Policy) -> dict[str, float]:
        """At the held-out demonstrations, each time with the same draws."""
        if self._held_out is None:
            return {}
        _, latents, chunks = self._held_out
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            loss = imitation_loss(policy, latents.repeat(DRAWS, 1), chunks.repeat(DRAWS, 1), generator)
        error = imitation_error(policy, latents, chunks, generator)
        return {
            "held_out_loss": float(loss),
            "held_out_action_error": error.motion,
            "held_out_gripper_error": error.gripper,
        }

    def _write_metrics(self) -> None:
        log = MetricsLog(self._options.out, 0, self._observer.warn)
        for step, values in self._metrics:
            log.write(step, values)
        log.close()

    def _summary(self, own_hash: str) -> str:
        options, (step, last) = self._options, self._metrics[-1]
        lines = [f"{options.out}: policy for {options.task!r} after {step} steps, hash {own_hash[:12]}"]
        if self._held_out:
            _, latents, chunks = self._held_out
            mean = torch.unflatten(self._learned.chunks.mean(dim=0), -1, (-1, ACTION_DIM))
            constant = difference(mean.expand(1, len(latents), -1, -1), chunks)
            lines.append(
                f"on {self._held_out.attempts} held-out demonstrations: loss {last['held_out_loss']:.3g} (learned: "
                f"{last['loss']:.3g}), action error {last['held_out_action_error']:.3f} (always the mean action: "
                f"{constant.motion:.3f}), wrong gripper command {last['held_out_gripper_error']:.1%}"
            )
        reward = options.out.with_name(f"{options.out.name}_reward")
        words = f"{options.world_model} {options.demonstrations} --task {options.task} --out {reward}"
        preset = "" if options.preset == "paper" else f" --preset {options.preset}"
        return "\n".join([*lines, f"next: diwa reward {words}{preset}"])
