"""From latents back to images: DreamerV2's transposed convolutions, or PixelShuffle, which is cheaper."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diwa_worldmodel.convolutions import (
    conv_transpose_of_one_pixel,
    conv_transpose_phases,
    depth_to_space,
)

DecoderKind: TypeAlias = Literal["transposed", "pixel_shuffle"]


def transposed_kernels(image_size_px: int) -> tuple[int, list[int]]:
    """Width of the first map and the kernels that lead from it to the image by strides of 2.

    Backwards from the image: 6 onto an even width, 5 onto an odd one. 64 gives DreamerV2's 1 and 5, 5, 6, 6.
    """
    side, kernels = image_size_px, []
    while side >= 5:
        kernel = 6 if side % 2 == 0 else 5
        side = (side - kernel) // 2 + 1
        kernels.append(kernel)
    return side, kernels[::-1]


class TransposedDecoder(nn.Module):
    """A linear layer, then transposed convolutions of stride 2 whose channels halve."""

    def __init__(self, image_size_px: int, depth: int, latents: int) -> None:
        super().__init__()
        self.side, kernels = transposed_kernels(image_size_px)
        self.fast, self._even = True, image_size_px % 2 == 0
        channels = [depth * 2 ** len(kernels), *(depth * 2**i for i in reversed(range(len(kernels) - 1))), 3]
        self.linear = nn.Linear(latents, channels[0] * self.side**2)
        self.layers = nn.Sequential()
        for kernel, inputs, outputs in zip(kernels, channels, channels[1:], strict=False):
            self.layers.append(nn.ConvTranspose2d(inputs, outputs, kernel, stride=2))
            self.layers.append(nn.ELU(inplace=True))
        self.layers.pop(-1)

    @property
    def patch_px(self) -> int:
        """Of the patches that :meth:`forward` returns."""
        return 2 if self._by_phases and self._even else 1

    @property
    def _by_phases(self) -> bool:
        return self.fast and self.linear.weight.device.type == "cpu"

    def forward(self, latents: Tensor) -> Tensor:
        """(N, latents) to images as patches, (N, 3 p p, S / p, S / p), about [-1, 1]."""
        maps = _map(self.linear(latents), self.side)
        images: Tensor = self._fast(maps) if self._by_phases else self.layers(maps)
        return images

    def _fast(self, maps: Tensor) -> Tensor:
        layers = [layer for layer in self.layers if isinstance(layer, nn.ConvTranspose2d)]
        for layer in layers:
            assert layer.bias is not None
            last = layer is layers[-1]
            if maps.shape[-1] == 1:
                maps = F.elu(conv_transpose_of_one_pixel(maps, layer.weight, layer.bias))
                continue
            side = 2 * (maps.shape[-1] - 1) + layer.kernel_size[0]
            maps = conv_transpose_phases(maps, layer.weight, layer.bias)
            if last and self._even:
                return maps
            maps = depth_to_space(maps if last else F.elu_(maps), side)
        return maps


class PixelShuffleDecoder(nn.Module):
    """A ``grid`` x ``grid`` map from one or two linear layers, 3x3 convolutions with PixelShuffle(2), at last patches.

    Patches stay patches (see :func:`~diwa_worldmodel.encoders.to_patches`): the loss does not mind, pictures are rare.
    """

    def __init__(
        self, image_size_px: int, depth: int, latents: int, patch_px: int = 2, grid: int = 4, hidden: int = 0
    ) -> None:
        super().__init__()
        self.side, self.patch_px = grid, patch_px
        doublings = (image_size_px // (patch_px * grid)).bit_length() - 1
        channels = [depth * 2**i for i in reversed(range(doublings + 1))]
        self.linear = nn.Sequential()
        if hidden:
            self.linear.extend([nn.Linear(latents, hidden), nn.LayerNorm(hidden), nn.ELU(inplace=True)])
        self.linear.extend([nn.Linear(hidden or latents, channels[0] * grid**2), nn.ELU(inplace=True)])
        self.layers = nn.Sequential()
        for inputs, outputs in zip(channels, channels[1:], strict=False):
            self.layers.extend([nn.Conv2d(inputs, 4 * outputs, 3, padding=1), nn.ELU(inplace=True), DepthToSpace()])
        self.layers.append(nn.Conv2d(channels[-1], 3 * patch_px**2, 3, padding=1))

    def forward(self, latents: Tensor) -> Tensor:
        """(N, latents) to images as patches, (N, 3 p p, S / p, S / p), about [-1, 1]."""
        patches: Tensor = self.layers(_map(self.linear(latents), self.side))
        return patches


ImageDecoder: TypeAlias = TransposedDecoder | PixelShuffleDecoder


class DepthToSpace(nn.Module):
    """:class:`torch.nn.PixelShuffle` by 2 for maps that are channels last in memory: whole pixels are moved."""

    def forward(self, maps: Tensor) -> Tensor:
        """(N, 4 C, S, S) to (N, C, 2 S, 2 S)."""
        return depth_to_space(maps, 2 * maps.shape[-1])


def _map(flat: Tensor, side: int) -> Tensor:
    """(N, side * side * C) to (N, C, side, side), channels last in memory."""
    return torch.unflatten(flat, 1, (side, side, -1)).permute(0, 3, 1, 2)
