"""Every number of the world model and its training, with source and range; ``presets/`` says where they differ.

config = load_config("tiny", over=from_words(["training.steps=100"]))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Literal, TypeAlias

import yaml

from diwa_conventions.errors import UserError
from diwa_worldmodel.decoders import DecoderKind
from diwa_worldmodel.encoders import KERNEL
from diwa_worldmodel.settings import from_mapping, merged, setting

Preset: TypeAlias = Literal["paper", "tiny"]


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the world model and weights of its loss (paper S.2.1, Table S.2)."""

    cameras: tuple[str, ...] = ("static", "gripper")
    """One encoder and one decoder each, 1 to 3."""
    image_size_px: int = setting(64, 16, 512)
    """Width and height of all cameras' frames (parameters.yaml)."""
    action_chunk: int = setting(1, 1, 16)
    """Frames that the model goes on by in a step, and actions that it takes for it at once (method.md 6)."""
    scene_state: int = setting(0, 0, 256)
    """Width of the scene state that the hybrid variant takes and decodes; 0: vision only (Fig. 2, method.md 17)."""
    deterministic: int = setting(1024, 8, 8192)
    """Size of h (Table S.2)."""
    discrete: int = setting(32, 1, 256)
    """Groups in z (Table S.2)."""
    classes: int = setting(32, 2, 256)
    """Classes in each group (Table S.2)."""
    hidden: int = setting(1024, 8, 8192)
    """Width of the layers around the GRU; the paper does not say."""
    embedding: int = setting(1024, 8, 8192)
    """Width of a frame's embedding, behind the linear layer that fuses cameras and proprioception."""
    encoder_depth: int = setting(48, 4, 256)
    """Channels of the first convolution (DreamerV2)."""
    encoder_patch_px: int = setting(1, 1, 8)
    """Squares of so many pixels become channels before the first convolution; 1: none."""
    decoder: DecoderKind = "transposed"
    """DreamerV2's transposed convolutions, or PixelShuffle."""
    decoder_depth: int = setting(48, 4, 256)
    """Channels before the last layer."""
    decoder_patch_px: int = setting(2, 1, 8)
    """With pixel_shuffle: the last layer writes squares of so many pixels."""
    decoder_grid: int = setting(4, 1, 64)
    """With pixel_shuffle: side of the first map; image_size_px / decoder_patch_px / decoder_grid is a power of two."""
    decoder_hidden: int = setting(0, 0, 8192)
    """With pixel_shuffle: width of a normalised layer before the first map; 0: none."""
    kl_scale: float = setting(0.3, 0.0, 100.0)
    """beta; 0.3 in simulation, 1.0 with a real robot (Table S.2)."""
    kl_balance: float = setting(0.8, 0.0, 1.0)
    """delta: the prior's share of the KL's gradient (Table S.2, method.md 3)."""
    proprioception_scale: float = setting(0.0, 0.0, 1e4)
    """Weight of the decoded proprioception's squared error, in its own standard deviations; 0: not decoded, as in the
    paper. Latents that it can be decoded from tell where the arm is (docs/results/world_model.md)."""
    scene_state_scale: float = setting(10.0, 0.0, 1e4)
    """Weight of the scene state's squared error, in its own standard deviations."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.cameras) <= 3 or len(set(self.cameras)) != len(self.cameras):
            raise UserError(f"model.cameras is {list(self.cameras)}; expected one to three different names")
        if not all(name.isidentifier() for name in self.cameras):
            raise UserError(f"model.cameras is {list(self.cameras)}; expected names of letters, digits and underscores")
        patches, rest = divmod(self.image_size_px, self.encoder_patch_px)
        if rest or patches < KERNEL:
            raise UserError(
                f"model.image_size_px is {self.image_size_px}; expected model.encoder_patch_px "
                f"{self.encoder_patch_px} x at least {KERNEL}"
            )
        if self.decoder == "pixel_shuffle":
            doublings, rest = divmod(self.image_size_px, self.decoder_patch_px * self.decoder_grid)
            if rest or doublings.bit_count() != 1:
                raise UserError(
                    f"model.image_size_px is {self.image_size_px}; expected model.decoder_patch_px "
                    f"{self.decoder_patch_px} x model.decoder_grid {self.decoder_grid} x a power of two"
                )

    @property
    def latent(self) -> int:
        """Width of s = [h, z] (paper: 2048)."""
        return self.deterministic + self.discrete * self.classes


@dataclass(frozen=True)
class TrainingConfig:
    """How the world model is trained (Table S.2)."""

    steps: int = setting(100_000, 1)
    """Gradient steps; the paper does not say."""
    batch: int = setting(50, 1, 4096)
    """B: sequences in a batch, over all processes (Table S.2)."""
    length: int = setting(50, 2, 1000)
    """L: steps in a sequence (Table S.2)."""
    sampling: Literal["streams", "windows"] = "streams"
    """Streams that carry their state from batch to batch, or windows from anywhere with a zero state (method.md 20)."""
    reset_probability: float = setting(0.01, 0.0, 1.0)
    """zeta: at every step the state is zeroed with it (Table S.2)."""
    learning_rate: float = setting(3e-4, 0.0, 1.0)
    """Of AdamW (Table S.2)."""
    warmup_steps: int = setting(0, 0)
    """Over so many steps the learning rate rises from zero."""
    decay_steps: int = setting(0, 0)
    """Over the last so many steps it falls linearly, to a tenth."""
    adam_eps: float = setting(1e-5, 0.0, 1.0)
    """Table S.2."""
    weight_decay: float = setting(0.05, 0.0, 10.0)
    """Decoupled (AdamW); of weights, not of biases and norms (Table S.2)."""
    gradient_clip: float = setting(100.0, 0.0, 1e9)
    """Largest norm of the whole gradient (Table S.2)."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16: autocast; weights, losses and norms stay fp32. auto: bf16 on a GPU and on CPUs that compute with it, else
    fp32; the run keeps what it chose."""
    validation_share: float = setting(0.05, 0.0, 0.5)
    """Of the frames, in whole episodes, that are held out."""
    seed: int = setting(0, 0, 2**31 - 1)
    """Of weights, batches and draws. The same seed gives the same losses on the same CPU."""


@dataclass(frozen=True)
class WorldModelConfig:
    """What ``diwa train`` resolves from preset, file and words."""

    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


def load_config(preset: Preset, over: Mapping[str, Any] | None = None) -> WorldModelConfig:
    """A preset with what ``over`` says instead. UserError naming the key for an unknown one or a bad value."""
    text = files("diwa_worldmodel").joinpath(f"presets/{preset}.yaml").read_text(encoding="utf-8")
    return from_mapping(WorldModelConfig, merged(yaml.safe_load(text) or {}, over or {}))
