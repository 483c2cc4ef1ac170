"""A fine-tuning run from options to policies: artefacts, their lineage, iterations, judgement, report.

RUN/run.json RUN/config.yaml RUN/metrics.jsonl RUN/tensorboard/     as of every run, see training/run_folder.py
RUN/checkpoints/step_000030/           to go on from
RUN/checkpoints/iteration_0030/        the policy of an iteration whose dreams were checked
RUN/trust.json RUN/report.html         the signals and what was made of them
RUN/dream.mp4                          a dream of the policy that was chosen
RUN/policy/ RUN/last/                  the policy that was chosen, promoted or not; that of the last iteration
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from diwa_conventions.errors import UserError
from diwa_policy.artefacts import (
    POLICY,
    LoadedPolicy,
    LoadedReward,
    PolicyMetadata,
    as_trained,
    check_lineage,
    check_pretrained,
    load_policy,
    load_reward,
    save_policy,
)
from diwa_policy.config import Config, PretrainingConfig, RewardConfig
from diwa_policy.demonstrations import Attempt, Demonstrations, load_demonstrations, split_attempts
from diwa_policy.dream import DreamDiffusionMDP
from diwa_policy.finetune.draws import Purpose, reseed
from diwa_policy.finetune.dream_film import DREAM_FILM, write_dream_film
from diwa_policy.finetune.loop import FineTuningLoop, Observer, Surroundings, checkpoint_folder
from diwa_policy.finetune.report import write_page
from diwa_policy.finetune.selection import Judgement, judge
from diwa_policy.finetune.signals import TRUST, CheckpointSignals, Trust, write_trust
from diwa_policy.finetune.stage import FineTune
from diwa_policy.finetune.starts import find_starts
from diwa_policy.finetune.trust import LearnedFrom, TrustCheck
from diwa_policy.policy import Policy
from diwa_policy.ppo import PPO
from diwa_worldmodel.artefact import LoadedWorldModel, check_place, load_world_model
from diwa_worldmodel.dataset.records import HASH_DIGITS
from diwa_worldmodel.memory import keep_freed_memory
from diwa_worldmodel.settings import to_mapping
from diwa_worldmodel.training.checkpoint import Origin
from diwa_worldmodel.training.run_folder import RunKind, training_in

CHOSEN, LAST = "policy", "last"
FINE_TUNING = RunKind("diwa-fine-tuning-run", "fine-tuning run", CHOSEN)
_KINDS = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Inputs:
    """All that a run is made from, checked."""

    world_model: LoadedWorldModel
    base: LoadedPolicy
    reward: LoadedReward
    demonstrations: Demonstrations
    config: Config
    """As the parts were trained with, and fine-tuning as it was asked for."""

    @property
    def origin(self) -> Origin:
        """What a run must have in common with its checkpoints."""
        hashes = {"world_model": self.world_model.hash, "policy": self.base.hash, "reward": self.reward.hash}
        made_from = {name: own[:HASH_DIGITS] for name, own in hashes.items()}
        config = {"fine_tuning": to_mapping(self.config.fine_tuning), "made_from": made_from}
        return Origin(self.demonstrations.data_set_hash, config)

    def split(self) -> tuple[list[Attempt], list[Attempt]]:
        """Attempts that training begins at, and those that checks do: what the classifier was held out, if these are
        the attempts that it learned from. Too few to hold any out are all in both.
        """
        own = self.config.reward
        learned, held_out = split_attempts(self.demonstrations.attempts, own.held_out_share, own.seed)
        return learned, held_out or learned

    @property
    def learned_from(self) -> LearnedFrom:
        data_set = self.demonstrations.data_set_hash
        return LearnedFrom(
            data_set in self.world_model.metadata.data_set_hashes, data_set == self.reward.metadata.data_set_hash
        )


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    iteration: int
    total: int
    policy: Path
    """Folder of the policy that was chosen."""
    trust: Trust | None = None
    """None if the run was stopped before its end, as the judgement."""
    judgement: Judgement | None = None


def fine_tune(options: FineTune, observer: Observer, stop: Callable[[], bool]) -> Outcome:
    """Iterate to the end or until ``stop()`` says so, then choose and judge. UserError for what the user can mend."""
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.device == "cpu":
        keep_freed_memory()
    inputs = load_inputs(options)
    made_with = inputs.base.metadata.preset
    if made_with != options.preset:
        observer.warn(
            f"{options.policy} was pre-trained with --preset {made_with}, and is fine-tuned with {options.preset}"
        )
    with training_in(options.out, inputs.origin, FINE_TUNING):
        return _Run(options, inputs, observer, stop).run()


def load_inputs(options: FineTune) -> Inputs:
    """Load and check everything, the cheap parts first. UserError for what does not belong together."""
    config = options.resolved()
    base, reward = load_policy(options.policy), load_reward(options.reward)
    _check_policy(base, options.over())
    device = _device(options.device)
    world_model = load_world_model(options.world_model, device)
    check_lineage(world_model, base, reward)
    demonstrations = load_demonstrations(world_model, options.demonstrations, base.metadata.skill, quiet=False)
    whole = replace(
        config,
        policy=base.policy.config,
        pretraining=as_trained(PretrainingConfig, "pretraining", base),
        reward=as_trained(RewardConfig, "reward", reward),
    )
    return Inputs(world_model, base, reward, demonstrations, whole)


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device is cuda, but there is no GPU that PyTorch can use; leave it out")
    return torch.device(name)


def _check_policy(base: LoadedPolicy, over: dict[str, Any]) -> None:
    """Pre-trained only, and of the shape that was asked for, if any was."""
    check_pretrained(base)
    made = to_mapping(base.policy.config)
    for name, wanted in over.get("policy", {}).items():
        if made[name] != wanted:
            raise UserError(
                f"policy.{name} is {wanted!r}, but {base.folder} was made with {made[name]!r}: leave it out, or make "
                f"another policy with: {POLICY.command} --set policy.{name}={wanted}"
            )


class _Run:
    """What is needed between the checks at the beginning and the outcome."""

    def __init__(self, options: FineTune, inputs: Inputs, observer: Observer, stop: Callable[[], bool]) -> None:
        self.options, self.inputs, self.folder = options, inputs, options.out
        device = _device(options.device)
        config, demonstrations = inputs.config.fine_tuning, inputs.demonstrations
        classifier = inputs.reward.classifier.to(device)
        learned, held_out = inputs.split()
        warmup = inputs.base.policy.config.warmup_steps
        self.check_starts = find_starts(held_out, warmup)
        self.check = TrustCheck(
            inputs.world_model.model, classifier, demonstrations, self.check_starts, inputs.base.policy, config, device,
            inputs.learned_from,
        )  # fmt: skip
        policy = copy.deepcopy(inputs.base.policy).to(device)
        policy.begin_fine_tuning(config.fine_tuned_steps)
        generator = torch.Generator(device)
        kind = _KINDS[config.precision]
        mdp = DreamDiffusionMDP(inputs.world_model.model, classifier, self.check.rules, generator, kind)
        starts = find_starts(learned, warmup).to(device)
        around = Surroundings(
            self.folder, inputs.origin, options.checkpoint_minutes, self._save_checked, observer, stop
        )
        self.loop = FineTuningLoop(PPO(policy, config, generator), mdp, starts, self.check, around)

    def run(self) -> Outcome:
        for name in (CHOSEN, LAST):
            check_place(self.folder / name, POLICY)
        end = self.loop.run()
        chosen = self.folder / CHOSEN
        if end == "stopped":
            return Outcome(self.loop.ppo.iteration, self.loop.total, chosen)
        trust = self.trust
        judgement = judge(trust)
        self._finish(trust, judgement)
        return Outcome(self.loop.ppo.iteration, self.loop.total, chosen, trust, judgement)

    @property
    def trust(self) -> Trust:
        config = self.inputs.config.fine_tuning
        return Trust(
            self.inputs.demonstrations.skill, config.bc_coefficient, len(self.check_starts.first), config.trust_dreams,
            self.check.replay, dict(self.inputs.reward.metadata.measures), tuple(self.loop.signals),
        )  # fmt: skip

    def _finish(self, trust: Trust, judgement: Judgement) -> None:
        """The two policies, the signals with the verdict, the page."""
        for name, iteration in ((LAST, self.loop.ppo.iteration), (CHOSEN, judgement.iteration)):
            signals = trust.at(iteration)
            loaded = load_policy(checkpoint_folder(self.folder, iteration))
            metadata = self._metadata(signals)
            if name == CHOSEN:
                metadata = replace(metadata, promoted=judgement.promoted, reasons=judgement.reasons)
            save_policy(self.folder / name, loaded.policy, metadata, self.inputs.config)
            if name == CHOSEN:
                self._film_dream(loaded.policy)
        write_trust(self.folder / TRUST, trust, judgement.to_json())
        write_page(self.folder, trust, judgement)

    def _film_dream(self, policy: Policy) -> None:
        config, device = self.inputs.config.fine_tuning, _device(self.options.device)
        generator = reseed(torch.Generator(device), config.seed, Purpose.CHECK)
        classifier = self.inputs.reward.classifier.to(device)
        mdp = DreamDiffusionMDP(self.inputs.world_model.model, classifier, self.check.rules, generator)
        starts, model = self.check_starts.first.to(device), self.inputs.world_model.model
        write_dream_film(self.folder / DREAM_FILM, model, policy.to(device), mdp, starts, config.decisions)

    def _save_checked(self, policy: Policy, signals: CheckpointSignals, folder: Path) -> None:
        save_policy(folder, policy, self._metadata(signals), self.inputs.config)
        # The signals until here, for whoever looks before the end.
        trust = self.trust
        write_trust(self.folder / TRUST, replace(trust, checkpoints=(*trust.checkpoints, signals)))

    def _metadata(self, signals: CheckpointSignals) -> PolicyMetadata:
        base, reward = self.inputs.base, self.inputs.reward
        return replace(
            base.metadata, preset=self.options.preset, base_hash=base.hash, reward_hash=reward.hash, origin="dreams",
            iteration=signals.iteration, imagined_steps=signals.imagined_steps,
        )  # fmt: skip
