"""The world model: encoders, RSSM, decoders, and the loss that trains them together (paper S.2.1, Eq. 10).

model = WorldModel(config.model)
losses, last = model(batch, model.rssm.initial(B))      # batch: see WorldModelBatch
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypedDict, cast

import torch
from torch import Tensor, nn

from diwa_conventions.actions import ACTION_DIM, GRIPPER_CLOSE, GRIPPER_INDEX, GRIPPER_OPEN
from diwa_worldmodel.config import ModelConfig
from diwa_worldmodel.convolutions import compute_dtype
from diwa_worldmodel.decoders import ImageDecoder, PixelShuffleDecoder, TransposedDecoder
from diwa_worldmodel.encoders import FrameEncoder, from_patches, to_pixels
from diwa_worldmodel.reconstruction import fast_image_error, half_squared_error, image_error
from diwa_worldmodel.rssm import RSSM, State, Trajectory, balanced_kl, entropy

PROPRIO_DIM = 10
"""Position [m], 6D rotation, gripper width [m] (method.md 17, 18)."""


class Observations(TypedDict):
    """Frames (B, T, ...) or (B, ...) as a data set has them."""

    images: Mapping[str, Tensor]
    """Of each camera (..., S, S, 3) uint8."""
    proprio: Tensor
    """(..., 10) float32, not normalised."""
    scene_state: Tensor | None
    """(..., N) float32, not normalised; only the hybrid variant reads it."""


class WorldModelBatch(Observations):
    """What a training step learns from."""

    previous_action: Tensor
    """(B, T, A) the action that led to each frame, gripper last in every group of seven."""
    reset: Tensor
    """(B, T) bool: the state before this frame is taken as zero."""
    uniforms: Tensor
    """(B, T, G) in [0, 1): what z is drawn with."""


class Losses(NamedTuple):
    """Scalars, means over batch and time. ``total`` is minimised."""

    total: Tensor
    reconstruction: dict[str, Tensor]
    """-log p of each camera's image, and of ``proprioception`` and ``scene_state`` where they are decoded, up to a
    constant: half the summed squared error."""
    kl: Tensor
    """KL(q || p) [nat], without scale."""
    posterior_entropy: Tensor
    """[nat]"""
    prior_entropy: Tensor
    """[nat]"""

    def scalars(self) -> dict[str, Tensor]:
        """By the names under which they are logged."""
        parts = {f"reconstruction_{name}": value for name, value in self.reconstruction.items()}
        named = {"loss": self.total, "kl": self.kl, **parts}
        return {**named, "posterior_entropy": self.posterior_entropy, "prior_entropy": self.prior_entropy}


class Normaliser(nn.Module):
    """Numbers less their mean in units of their standard deviation; both are stored with the weights."""

    mean: Tensor
    std: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    def fit(self, mean: Tensor, std: Tensor) -> None:
        """Take over mean and standard deviation; what hardly ever changes is not blown up."""
        self.mean.copy_(mean)
        self.std.copy_(std.clamp(min=1e-3))

    def forward(self, numbers: Tensor) -> Tensor:
        return (numbers - self.mean) / self.std


class WorldModel(nn.Module):
    """Sizes: B sequences of T steps, actions A = 7 x ``action_chunk``, embedding E, latent s (method.md 17-21)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config, self.fast = config, True
        self.action = ACTION_DIM * config.action_chunk
        self.proprio = Normaliser(PROPRIO_DIM)
        self.scene_state = Normaliser(config.scene_state)
        self.encoder = FrameEncoder(
            config.cameras, config.image_size_px, config.encoder_depth, config.encoder_patch_px,
            PROPRIO_DIM + config.scene_state, config.embedding,
        )  # fmt: skip
        self.rssm = RSSM(
            self.action, config.embedding, config.deterministic, config.discrete, config.classes, config.hidden
        )
        self.decoders = nn.ModuleDict({name: self._decoder() for name in config.cameras})
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.proprioception_scale:
            self.proprioception_decoder = self._numbers_decoder(PROPRIO_DIM)
        if config.scene_state:
            self.scene_state_decoder = self._numbers_decoder(config.scene_state)

    def use_fast_paths(self, enabled: bool) -> None:
        """Choose between the forms made for speed, the default, and the plain ones: the same weights and numbers."""
        for part in self.modules():  # this one too
            if hasattr(part, "fast"):
                part.fast = enabled  # type: ignore[assignment]

    def compile_scan(self) -> None:
        """Compile the scan's steps on their first call; on a GPU they become CUDA graphs."""
        on_gpu = next(self.parameters()).device.type == "cuda"
        self.rssm.scan_steps = self.rssm.scan_steps.compiled("reduce-overhead" if on_gpu else "default")

    def _decoder(self) -> ImageDecoder:
        config = self.config
        if config.decoder == "transposed":
            return TransposedDecoder(config.image_size_px, config.decoder_depth, config.latent)
        return PixelShuffleDecoder(
            config.image_size_px, config.decoder_depth, config.latent, config.decoder_patch_px, config.decoder_grid,
            config.decoder_hidden,
        )  # fmt: skip

    def _image_decoders(self) -> list[tuple[str, ImageDecoder]]:
        return cast("list[tuple[str, ImageDecoder]]", list(self.decoders.items()))

    def _numbers_decoder(self, width: int) -> nn.Module:
        hidden = self.config.hidden
        return nn.Sequential(nn.Linear(self.config.latent, hidden), nn.ELU(), nn.Linear(hidden, width))

    def encode(self, observations: Observations) -> Tensor:
        """Frames (..., S, S, 3) uint8 and numbers (..., D) to embeddings (..., E)."""
        numbers = self.proprio(observations["proprio"])
        if self.config.scene_state:
            assert observations["scene_state"] is not None, "the hybrid variant needs the scene state"
            numbers = torch.cat([numbers, self.scene_state(observations["scene_state"])], dim=-1)
        leading = numbers.shape[:-1]
        images = {name: images.flatten(0, -4) for name, images in observations["images"].items()}
        return torch.unflatten(self.encoder(images, numbers.flatten(0, -2)), 0, leading)

    def decode(self, latents: Tensor) -> dict[str, Tensor]:
        """Latents (..., s) to each camera's image (..., S, S, 3) uint8."""
        flat = latents.flatten(0, -2)
        images = {name: from_patches(decoder(flat), decoder.patch_px) for name, decoder in self._image_decoders()}
        return {name: torch.unflatten(to_pixels(image), 0, latents.shape[:-1]) for name, image in images.items()}

    def observe(self, batch: WorldModelBatch, state: State) -> Trajectory:
        """Posterior and prior over a batch (B, T) that goes on from ``state``."""
        actions = quantise_gripper(batch["previous_action"])
        return self.rssm.observe(self.encode(batch), actions, batch["reset"], state, batch["uniforms"])

    def forward(self, batch: WorldModelBatch, state: State) -> tuple[Losses, State]:
        """Losses of a batch that goes on from ``state``, and the state at its end (Eq. 10)."""
        trajectory = self.observe(batch, state)
        reconstruction = self.reconstruction(trajectory.latent, batch)
        posterior, prior = trajectory.posterior, trajectory.prior
        kl = balanced_kl(posterior, prior, self.config.kl_balance).mean()
        weights = {
            "proprioception": self.config.proprioception_scale,
            "scene_state": self.config.scene_state_scale,
        }
        fit = sum((weights.get(name, 1.0) * loss for name, loss in reconstruction.items()), start=torch.zeros_like(kl))
        with torch.no_grad():
            entropies = entropy(posterior).mean(), entropy(prior).mean()
        # The balance changes the KL's gradient only, not its value.
        losses = Losses(fit + self.config.kl_scale * kl, reconstruction, kl.detach(), *entropies)
        return losses, trajectory.last.detach()

    def reconstruction(self, latents: Tensor, batch: WorldModelBatch) -> dict[str, Tensor]:
        """Errors of what is decoded from latents (B, T, s): each camera's image, and of ``scene_state``."""
        losses = {}
        flat = latents.flatten(0, 1)
        flat = flat.to(compute_dtype(flat))
        error = fast_image_error if self.fast and flat.device.type == "cpu" else image_error
        for name, decoder in self._image_decoders():
            losses[name] = error(decoder(flat), batch["images"][name].flatten(0, 1), decoder.patch_px)
        if self.config.proprioception_scale:
            target = self.proprio(batch["proprio"])
            losses["proprioception"] = half_squared_error(self.proprioception_decoder(flat), target.flatten(0, 1))
        if self.config.scene_state:
            assert batch["scene_state"] is not None
            target = self.scene_state(batch["scene_state"])
            losses["scene_state"] = half_squared_error(self.scene_state_decoder(flat), target.flatten(0, 1))
        return losses


def quantise_gripper(actions: Tensor) -> Tensor:
    """Actions (..., 7 n) whose gripper components are exactly open or closed (method.md 5)."""
    grouped = torch.unflatten(actions, -1, (-1, ACTION_DIM))
    gripper = grouped[..., GRIPPER_INDEX:]
    quantised = torch.where(gripper >= 0.0, GRIPPER_OPEN, GRIPPER_CLOSE).to(actions.dtype)
    return torch.cat([grouped[..., :GRIPPER_INDEX], quantised], dim=-1).flatten(-2)
