"""Every number of policies, reward classifier and fine-tuning, with source and range; ``presets/`` differ from them.

config = load_config("tiny", over=from_words(["fine_tuning.bc_coefficient=0.1"]))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Literal, TypeAlias

import yaml

from diwa_conventions.actions import ACTION_DIM
from diwa_conventions.errors import UserError
from diwa_worldmodel.settings import from_mapping, merged, setting

Preset: TypeAlias = Literal["paper", "tiny"]


def _check_widths(name: str, widths: tuple[int, ...], least: int = 0) -> None:
    """UserError unless there are ``least`` layers, none of them without a unit."""
    if len(widths) < least or not all(width >= 1 for width in widths):
        layers = " for at least one layer" if least else ""
        raise UserError(f"{name} is {list(widths)}; expected widths of at least 1{layers}")


@dataclass(frozen=True)
class PolicyConfig:
    """Shape of a policy (paper S.2.2, Table S.3; Gaussian: S.5.3)."""

    kind: Literal["diffusion", "gaussian"] = "diffusion"
    planned_actions: int = setting(4, 1, 64)
    """T_p: actions in a chunk (Table S.3)."""
    executed_actions: int = setting(4, 1, 64)
    """T_a: of these are executed before the next decision (Table S.3)."""
    denoising_steps: int = setting(20, 1, 1000)
    """K (Table S.3). A Gaussian policy has one step, whatever stands here."""
    mlp: tuple[int, ...] = (512, 512, 512)
    """Widths of the hidden layers (Table S.3)."""
    step_embedding: int = setting(32, 1, 1024)
    """Width of what the network is told about the denoising step; the paper does not say."""
    warmup_steps: int = setting(0, 0, 1000)
    """Steps that the latent filter has seen before a latent is acted on. Method.md 9 has several; here none, for
    demonstrations and served episodes alike begin at the skill's start with a filter that has seen nothing, and there
    are no frames before. Set it where recordings run for some frames before the attempt begins."""
    sampler: Literal["ddpm", "ddim"] = "ddpm"
    """How an acting diffusion policy draws a chunk: all K steps with their noise, or some of them without
    (DDIM, Song et al. 2021). Dreams that are learned from always go through all."""
    ddim_steps: int = setting(5, 1, 1000)
    """Of the K steps, with ``ddim``."""

    def __post_init__(self) -> None:
        if self.executed_actions > self.planned_actions:
            raise UserError(
                f"policy.executed_actions is {self.executed_actions}; expected at most policy.planned_actions "
                f"{self.planned_actions}"
            )
        if self.sampler == "ddim" and self.ddim_steps > self.denoising_steps:
            raise UserError(
                f"policy.ddim_steps is {self.ddim_steps}; expected at most policy.denoising_steps "
                f"{self.denoising_steps}"
            )
        _check_widths("policy.mlp", self.mlp, least=1)

    @property
    def chunk(self) -> int:
        """Numbers in a chunk: T_p x 7."""
        return self.planned_actions * ACTION_DIM

    @property
    def steps(self) -> int:
        """Steps of the chain from noise to chunk."""
        return self.denoising_steps if self.kind == "diffusion" else 1


@dataclass(frozen=True)
class PretrainingConfig:
    """Behaviour cloning (Table S.3)."""

    epochs: int = setting(5000, 1)
    batch: int = setting(256, 1)
    learning_rate: float = setting(1e-4, 0.0, 1.0)
    final_learning_rate: float = setting(1e-5, 0.0, 1.0)
    """Reached along a cosine."""
    weight_decay: float = setting(1e-6, 0.0, 10.0)
    ema_decay: float = setting(0.995, 0.0, 1.0)
    ema_start_epoch: int = setting(20, 0)
    ema_every: int = setting(10, 1)
    """Steps between two updates of the averaged weights."""
    held_out_share: float = setting(0.1, 0.0, 0.5)
    """Of the demonstrations: their loss is reported, they are not learned from."""
    seed: int = setting(0, 0, 2**31 - 1)


@dataclass(frozen=True)
class RewardConfig:
    """Reward classifier (S.2.3, Table S.4)."""

    embedding_mlp: tuple[int, ...] = (512, 512)
    """Widths; the last is the embedding's."""
    classification_mlp: tuple[int, ...] = (512, 512)
    epochs: int = setting(100, 1)
    batch: int = setting(32, 4)
    learning_rate: float = setting(1e-6, 0.0, 1.0)
    weight_decay: float = setting(0.0, 0.0, 10.0)
    temperature: float = setting(0.5, 1e-3, 100.0)
    """Of the supervised NT-Xent loss."""
    contrastive_coefficient: float = setting(1.0, 0.0, 100.0)
    """Weight of NT-Xent beside the cross-entropy."""
    positive_frames: int = setting(1, 1, 100)
    """Frames up to a success mark that count as success."""
    margin_frames: int = setting(2, 0, 100)
    """Frames before those that are neither: nobody can tell."""
    dreamed_steps: int = setting(0, 0, 64)
    """Longest roll through the prior that also gives latents, with the label of the true frame (learnability.md)."""
    held_out_share: float = setting(0.2, 0.05, 0.5)
    """Of the demonstrations: precision, recall, calibration and threshold are measured on them."""
    seed: int = setting(0, 0, 2**31 - 1)

    def __post_init__(self) -> None:
        _check_widths("reward.embedding_mlp", self.embedding_mlp, least=1)
        _check_widths("reward.classification_mlp", self.classification_mlp)


@dataclass(frozen=True)
class FineTuningConfig:
    """Dream Diffusion MDP and PPO (III-D, III-E, S.2.4, Table S.5; method.md 1, 2, 6-13)."""

    imagined_steps: int = setting(5_000_000, 1)
    """Environment steps dreamed in all (Table S.5)."""
    dreams: int = setting(50, 1)
    """N in parallel (method.md 10)."""
    decisions: int = setting(36, 1)
    """Longest dream, in decisions (method.md 10)."""
    fine_tuned_steps: int = setting(10, 1)
    """K': the last denoising steps, which alone change (Table S.5)."""
    critic_mlp: tuple[int, ...] = (256, 256, 256)
    actor_learning_rate: float = setting(1e-5, 0.0, 1.0)
    actor_average: float = setting(0.0, 0.0, 0.9999)
    """Checked and kept is a running average of the actor's weights: so much of it stays in an iteration. 0: the actor
    as it is, as in the paper (what an average is worth: docs/results/fine_tuning.md)."""
    critic_learning_rate: float = setting(1e-3, 0.0, 1.0)
    gradient_clip: float = setting(1.0, 0.0, 1e9)
    """Largest norm of the actor's gradient and of the critic's."""
    gamma: float = setting(0.999, 0.0, 1.0)
    """Of a decision (method.md 6)."""
    gamma_denoise: float = setting(0.99, 0.0, 1.0)
    """Of an advantage, per denoising step before the last (method.md 12)."""
    gae_lambda: float = setting(0.95, 0.0, 1.0)
    epochs: int = setting(10, 1)
    """Passes over an iteration's data (method.md 10)."""
    batch: int = setting(7500, 1)
    """Transitions of (decision x fine-tuned step) (method.md 11), at most: a pass is cut into equal parts. A rest of a
    few decisions would be a whole step of noise."""
    clip: float = setting(0.01, 0.0, 1.0)
    """Of the ratio, at the last denoising step (method.md 10)."""
    clip_first: float = setting(0.001, 0.0, 1.0)
    """At the first fine-tuned one; exponential between."""
    value_coefficient: float = setting(0.5, 0.0, 100.0)
    """Of the critic's loss (method.md 10). The critic has an Adam of its own, which takes the same step whatever the
    loss is multiplied by: this acts through ``gradient_clip`` alone, and at 0 the critic does not learn."""
    critic_warmup: int = setting(2, 0)
    """First iterations that train the critic alone (method.md 10)."""
    bc_coefficient: float = setting(0.05, 0.0, 100.0)
    """alpha_BC (Table S.5, Eq. 9; method.md 1)."""
    sampling_std: float = setting(0.1, 0.0, 1.0)
    """Smallest standard deviation of a denoising step while dreaming (method.md 10)."""
    log_prob_std: float = setting(0.1, 1e-3, 1.0)
    """Smallest of a likelihood (method.md 10)."""
    noise_clip: float = setting(3.0, 0.1, 100.0)
    """Noise is clipped at so many standard deviations (method.md 10)."""
    reward: Literal["probability", "threshold"] = "threshold"
    """1 at the first success, which ends the dream, or the classifier's probability of every frame (method.md 7). The
    default is what the playroom favours (docs/results/fine_tuning.md)."""
    uncertainty_penalty: float = setting(0.0, 0.0, 100.0)
    """Taken off the reward per nat of prior entropy above the recordings' usual value."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of world model and classifier in the dreams that are learned from. The policy stays fp32: bf16 has too few digits
    for ratios that are clipped at a percent."""
    first_frame_share: float = setting(0.7, 0.0, 1.0)
    """Of the dreams begin where a demonstration does, the others at some later frame (learnability.md)."""
    seed: int = setting(0, 0, 2**31 - 1)
    trust_every: int = setting(50, 1)
    """Iterations between two checks of what the policy dreams without exploring; each leaves a policy to choose."""
    trust_dreams: int = setting(256, 2)
    """Dreams of such a check, and as many with other random numbers."""
    replay_draws: int = setting(16, 1)
    """Dreams along each recorded attempt's own actions: what of it does the world model take for success?"""

    def __post_init__(self) -> None:
        _check_widths("fine_tuning.critic_mlp", self.critic_mlp)


@dataclass(frozen=True)
class Config:
    """What the stages resolve from preset, file and words."""

    policy: PolicyConfig = field(default_factory=PolicyConfig)
    pretraining: PretrainingConfig = field(default_factory=PretrainingConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    fine_tuning: FineTuningConfig = field(default_factory=FineTuningConfig)


def load_config(preset: Preset, over: Mapping[str, Any] | None = None) -> Config:
    """A preset with what ``over`` says instead. UserError naming the key for an unknown one or a bad value."""
    text = files("diwa_policy").joinpath(f"presets/{preset}.yaml").read_text(encoding="utf-8")
    return from_mapping(Config, merged(yaml.safe_load(text) or {}, over or {}))
