"""A DPPO run from options to policy: artefacts, their lineage, iterations, what it took.

RUN/run.json RUN/config.yaml RUN/metrics.jsonl RUN/tensorboard/     as of every run, see training/run_folder.py
RUN/checkpoints/step_000030/           to go on from
RUN/checkpoints/iteration_0030/        the policy of an iteration that was evaluated
RUN/dppo.json                          all evaluations, and what it took to reach the success asked for
RUN/policy/                            the policy evaluated last
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from diwa_policy.artefacts import POLICY, LoadedPolicy, check_lineage, check_pretrained, load_policy, save_policy
from diwa_policy.config import Config
from diwa_policy.evaluation.evaluate_policy import EvaluatePolicy, command
from diwa_policy.evaluation.shared_starts import plain_rate
from diwa_policy.evaluation.trial_pool import TrialPool
from diwa_policy.finetune.loop import Observer, checkpoint_folder
from diwa_policy.online.config import DppoConfig
from diwa_policy.online.dppo import Dppo
from diwa_policy.online.training import End, Evaluation, OnlineTraining, Surroundings
from diwa_policy.policy import Policy
from diwa_policy.ppo import PPO
from diwa_worldmodel.artefact import check_place, load_world_model
from diwa_worldmodel.settings import to_mapping
from diwa_worldmodel.training.checkpoint import Origin
from diwa_worldmodel.training.run_folder import RunKind, check_run, training_in

FORMAT, VERSION = "diwa-dppo", 1
NUMBERS, LAST = "dppo.json", "policy"
DPPO = RunKind("diwa-dppo-run", "DPPO run", LAST)


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    end: End
    environment_steps: int
    """It has learned from."""
    evaluations: tuple[Evaluation, ...]
    matched: Evaluation | None
    """The first that reached the success asked for."""

    def summary(self, options: Dppo) -> str:
        """What it took, and the command that comes next."""
        lines = [f"{options.out}: {self._progress()}"] if self.evaluations else []
        if self.matched:
            lines.append(
                f"{100 * options.until_success:g}% took {self.matched.environment_steps} environment steps: the first "
                "evaluation that reached it, which luck makes early rather than late"
            )
        elif options.until_success and self.end == "finished":
            lines.append(f"{100 * options.until_success:g}% was not reached")
        if self.end == "stopped":
            lines.append(
                f"{options.out}: stopped after {self.environment_steps} environment steps; the same command goes on "
                "behind the last iteration"
            )
        else:
            policies = options.policy, options.out / LAST
            following = EvaluatePolicy(policies, options.world_model, environment=options.environment)
            lines.append(f"next: {command('diwa evaluate policy', following, options.environment)}")
        return "\n".join(lines)

    def _progress(self) -> str:
        """From the first evaluation to the last, which may lie some environment steps back."""
        first, last = self.evaluations[0], self.evaluations[-1]
        rate, count = last.success, len(self.evaluations)
        before = f"{100 * first.success.value:.1f}% -> " if count > 1 else ""
        whose = f"those of the {count} evaluations" if count > 1 else "the evaluation's own"
        return (
            f"{before}{100 * rate.value:.1f}% success (95%: {100 * rate.low:.1f} to {100 * rate.high:.1f}) after "
            f"{last.environment_steps} environment steps; {whose} are not counted"
        )

    def to_json(self, until_success: float) -> str:
        evaluations = [{**asdict(one), "success": plain_rate(one.success)} for one in self.evaluations]
        content: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "end": self.end,
            "environment_steps": self.environment_steps,
            "until_success": until_success or None,
            "steps_to_match": self.matched.environment_steps if self.matched else None,
            "evaluations": evaluations,
        }
        return json.dumps(content, indent=1, allow_nan=False) + "\n"


def dppo(options: Dppo, observer: Observer, stop: Callable[[], bool]) -> Outcome:
    """Iterate to the end or until ``stop()`` says so. UserError for what the user can mend."""
    config = options.resolved()
    base = load_policy(options.policy)
    check_pretrained(base)
    world_model = load_world_model(options.world_model)
    check_lineage(world_model, base)
    world = options.environment.world(world_model, base.metadata.skill)
    origin = _origin(config, base, options)
    check_run(options.out, origin, DPPO)
    with training_in(options.out, origin, DPPO), TrialPool(world, options.environment.workers) as pool:
        check_place(options.out / LAST, POLICY)
        policy = copy.deepcopy(base.policy)
        policy.begin_fine_tuning(config.fine_tuning.fine_tuned_steps)
        ppo = PPO(policy, config.fine_tuning, torch.Generator())
        save = _saver(options, base, config)
        around = Surroundings(options.out, origin, save, observer, stop)
        training = OnlineTraining(ppo, pool, config, options.until_success, around)
        end = training.run()
        outcome = Outcome(end, training.environment_steps, tuple(training.evaluations), training.matched)
        _finish(options, outcome, save)
    return outcome


def _origin(config: DppoConfig, base: LoadedPolicy, options: Dppo) -> Origin:
    """What a run must have in common with its checkpoints."""
    made_from = {"world_model": base.metadata.world_model_hash, "policy": base.hash}
    environment = {"name": options.environment.env, "settings": " ".join(options.environment.env_set)}
    content = {**to_mapping(config), "made_from": made_from, "environment": environment}
    return Origin(base.metadata.data_set_hash, content)


def _saver(options: Dppo, base: LoadedPolicy, config: DppoConfig) -> Callable[[Policy, Evaluation, Path], None]:
    whole = Config(policy=base.policy.config, fine_tuning=config.fine_tuning)

    def save(policy: Policy, evaluation: Evaluation, folder: Path) -> None:
        metadata = replace(
            base.metadata, preset=options.preset, base_hash=base.hash, origin="environment",
            iteration=evaluation.iteration, environment_steps=evaluation.environment_steps,
        )  # fmt: skip
        save_policy(folder, policy, metadata, whole)

    return save


def _finish(options: Dppo, outcome: Outcome, save: Callable[[Policy, Evaluation, Path], None]) -> None:
    """The numbers, and the policy evaluated last."""
    new = options.out / f".{NUMBERS}"
    new.write_text(outcome.to_json(options.until_success), encoding="utf-8")
    os.replace(new, options.out / NUMBERS)
    if outcome.end != "stopped":
        last = outcome.evaluations[-1]
        save(load_policy(checkpoint_folder(options.out, last.iteration)).policy, last, options.out / LAST)
