"""How far decoded images and numbers are from the recorded ones: -log N(target; decoded, 1) (Eq. 10)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from diwa_worldmodel.encoders import about_zero, to_patches, to_unit_range

_BLOCK_ELEMENTS = 2**18
"""That are compared at a time: so few stay in the cache."""


def half_squared_error(predicted: Tensor, target: Tensor) -> Tensor:
    """-log N(target; predicted, 1) of (N, ...) without its constant: summed over all but N, averaged over that."""
    return 0.5 * F.mse_loss(predicted.float(), target) * target[0].numel()


def image_error(patches: Tensor, images: Tensor, patch_px: int) -> Tensor:
    """:func:`half_squared_error` of decoded patches (N, 3 p p, S / p, S / p) and recorded images (N, S, S, 3) uint8."""
    return half_squared_error(patches, to_unit_range(to_patches(images, patch_px)))


def fast_image_error(patches: Tensor, images: Tensor, patch_px: int) -> Tensor:
    """:func:`image_error` and its gradient in one pass over the memory; patches are channels last."""
    error: Tensor = _ImageError.apply(patches, images, patch_px)  # type: ignore[no-untyped-call]
    return error


class _ImageError(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, patches: Tensor, images: Tensor, patch_px: int) -> Tensor:
        gradient = torch.empty_like(patches)
        errors = []
        frames = max(1, _BLOCK_ELEMENTS // patches[0].numel())
        blocks = (torch.split(whole, frames) for whole in (patches, images, gradient))
        for predicted, recorded, rounded in zip(*blocks, strict=True):
            target = about_zero(to_patches(recorded, patch_px), torch.float32)
            difference = predicted.to(torch.float32, copy=True).sub_(target, alpha=1 / 127.5)
            errors.append(torch.linalg.vector_norm(difference.permute(0, 2, 3, 1).flatten(1), dim=1).square())
            rounded.copy_(difference)
        ctx.save_for_backward(gradient)
        return torch.cat(errors).mean() / 2

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * (gradients[0] / len(gradient)), None, None
