"""Convolutions in the forms that are fast on CPUs: the same sums as PyTorch's own layers, from the same weights.

oneDNN's stride-1 convolutions reach the GEMM peak; its transposed convolutions and its weight gradients on small maps
do not (benchmarks/world_model.py). All maps (N, C, H, W) are channels last in memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_BLOCK_ELEMENTS = 2**22
"""Of windows that are copied at a time: a few megabytes stay in the cache."""


def compute_dtype(like: Tensor) -> torch.dtype:
    """What matrix products are computed in: autocast's type where it is on."""
    kind = like.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else like.dtype


def conv_on_small_map(maps: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """:func:`torch.nn.functional.conv2d` without padding, as one matrix product over the few windows of the map."""
    kernel = weight.shape[-1]
    side = (maps.shape[-1] - kernel) // stride + 1
    rows = maps.permute(0, 2, 3, 1)
    corners = [(stride * i, stride * j) for i in range(side) for j in range(side)]
    windows = torch.stack([rows[:, y : y + kernel, x : x + kernel].flatten(1) for y, x in corners], dim=1)
    results = F.linear(windows, weight.permute(0, 2, 3, 1).flatten(1), bias)
    return torch.unflatten(results, 1, (side, side)).permute(0, 3, 1, 2)


def conv_transpose_of_one_pixel(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """:func:`torch.nn.functional.conv_transpose2d` of maps (N, C, 1, 1): a linear layer to (N, C', k, k)."""
    kernel = weight.shape[-1]
    rows = F.linear(maps.flatten(1), weight.permute(2, 3, 1, 0).flatten(0, 2), bias.repeat(kernel**2))
    return torch.unflatten(rows, 1, (kernel, kernel, -1)).permute(0, 3, 1, 2)


def conv_transpose_phases(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """:func:`torch.nn.functional.conv_transpose2d` of stride 2, (N, C, S, S) to phases (N, 4 C', S', S').

    The result's pixels of even and odd row and column are four convolutions of stride 1. Computed as one, they stand
    side by side as channels (2, 2, C'): :func:`depth_to_space` puts them into place, where an odd kernel leaves a row
    and a column too many.
    """
    kind = compute_dtype(maps)
    if weight.shape[-1] % 2:
        weight = F.pad(weight, (0, 1, 0, 1))
    taps = torch.unflatten(torch.unflatten(weight, 3, (-1, 2)), 2, (-1, 2))  # (C, C', taps, phase, taps, phase)
    kernels = taps.permute(3, 5, 1, 0, 2, 4).flatten(0, 2).flip(2, 3)
    phases: Tensor = _FullConvolution.apply(  # type: ignore[no-untyped-call]
        maps.to(kind), kernels.to(kind), bias.repeat(4).to(kind)
    )
    return phases


def depth_to_space(maps: Tensor, side: int) -> Tensor:
    """(N, 4 C, S, S), channels ordered (2, 2, C), to (N, C, side, side); ``side`` is 2 S or one less.

    What :class:`torch.nn.PixelShuffle` does, but in an order that moves whole pixels, forwards and back.
    """
    space: Tensor = _DepthToSpace.apply(maps, side)  # type: ignore[no-untyped-call]
    return space


class _DepthToSpace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, side: int) -> Tensor:
        rows = maps.permute(0, 2, 3, 1)
        squares = torch.unflatten(rows, 3, (2, 2, -1)).transpose(2, 3)
        return squares.flatten(3, 4).flatten(1, 2)[:, :side, :side].permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        rows = gradients[0].permute(0, 2, 3, 1)
        missing = rows.shape[1] % 2
        whole = F.pad(rows, (0, 0, 0, missing, 0, missing))
        squares = torch.unflatten(torch.unflatten(whole, 2, (-1, 2)), 1, (-1, 2))
        return squares.transpose(2, 3).flatten(3).permute(0, 3, 1, 2), None


class _FullConvolution(torch.autograd.Function):
    """Convolution of stride 1 with as much padding as reaches all that the kernel touches: S' = S + k - 1."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, kernels: Tensor, bias: Tensor) -> Tensor:
        kernels = kernels.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(maps, kernels)
        return F.conv2d(maps, kernels, bias, padding=kernels.shape[-1] - 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        maps, kernels = ctx.saved_tensors
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        rows = gradient.permute(0, 2, 3, 1)
        kernels_gradient = _kernels_gradient(maps.permute(0, 2, 3, 1), rows, kernels.shape[-1])
        # A product, since sums over all but the last dimension are slow.
        bias_gradient = (rows.new_ones(1, rows[..., 0].numel()) @ rows.flatten(0, 2)).view(-1)
        back = kernels.flip(2, 3).transpose(0, 1).contiguous(memory_format=torch.channels_last)
        maps_gradient = F.conv2d(gradient, back) if ctx.needs_input_grad[0] else None
        return maps_gradient, kernels_gradient.to(kernels.dtype), bias_gradient


def _kernels_gradient(maps: Tensor, gradient: Tensor, taps: int) -> Tensor:
    """(O, C, k, k) from maps (N, S, S, C) and the gradient (N, S + k - 1, S + k - 1, O), some frames at a time."""
    count, height, width, channels = maps.shape
    columns = taps**2 * gradient.shape[3]
    total = torch.zeros(channels, columns, device=maps.device)
    frames = max(1, _BLOCK_ELEMENTS // (height * width * columns))
    for block, block_gradient in zip(torch.split(maps, frames), torch.split(gradient, frames), strict=True):
        windows = block_gradient.unfold(1, height, 1).unfold(2, width, 1)  # (n, taps, taps, O, S, S)
        total += block.reshape(-1, channels).t() @ windows.permute(0, 4, 5, 1, 2, 3).reshape(-1, columns)
    return total.view(channels, taps, taps, -1).permute(3, 0, 1, 2).flip(2, 3)
