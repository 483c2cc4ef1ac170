"""From a frame to an embedding: an image encoder for each camera, one for numbers, fused by a linear layer (S.2.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diwa_worldmodel.convolutions import compute_dtype, conv_on_small_map

KERNEL = 4
_STRIDE = 2
_SMALL_SIDE = 3
"""Maps up to this wide are cheaper as one matrix product."""


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 pixels to [-1, 1] (method.md 19)."""
    return images.to(torch.float32) / 127.5 - 1.0


def about_zero(images: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 pixels x to x - 127.5, which is exact in bfloat16 too; divided by 127.5 it is :func:`to_unit_range`."""
    return images.to(dtype).sub_(127.5)


def to_patches(images: Tensor, patch_px: int) -> Tensor:
    """Images (N, S, S, 3) of any type to (N, 3 p p, S / p, S / p), channels last in memory.

    What :class:`torch.nn.PixelUnshuffle` does, but on bytes and without leaving that memory format.
    """
    if patch_px > 1:
        count, side = images.shape[0], images.shape[1] // patch_px
        stripes = images.reshape(count, side, patch_px, side, patch_px * 3)
        if images.dtype == torch.uint8 and patch_px % 4 == 0:
            stripes = stripes.contiguous().view(torch.int32)  # copied in fewer pieces
        images = stripes.transpose(2, 3).flatten(3).view(images.dtype)
    return images.permute(0, 3, 1, 2)


def from_patches(patches: Tensor, patch_px: int) -> Tensor:
    """Inverse of :func:`to_patches`: (N, 3 p p, S / p, S / p) to (N, S, S, 3)."""
    count, _, side, _ = patches.shape
    squares = patches.permute(0, 2, 3, 1).reshape(count, side, side, patch_px, patch_px, 3).transpose(2, 3)
    return squares.reshape(count, side * patch_px, side * patch_px, 3)


def to_pixels(images: Tensor) -> Tensor:
    """Inverse of :func:`to_unit_range`, clipped and rounded to uint8."""
    return ((images.float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)


def conv_sides(image_size_px: int, patch_px: int) -> list[int]:
    """Width of the image and after each convolution; 64, 31, 14, 6, 2 for DreamerV2's encoder."""
    sides = [image_size_px // patch_px]
    while sides[-1] >= KERNEL:
        sides.append((sides[-1] - KERNEL) // _STRIDE + 1)
    return sides


class ImageEncoder(nn.Module):
    """DreamerV2's encoder: 4x4 convolutions of stride 2 whose channels double, until less than 4x4 is left.

    ``patch_px`` above 1 turns squares of that many pixels into channels first, which leaves fewer convolutions.
    """

    def __init__(self, image_size_px: int, depth: int, patch_px: int = 1) -> None:
        super().__init__()
        sides = conv_sides(image_size_px, patch_px)
        channels = [3 * patch_px**2, *(depth * 2**i for i in range(len(sides) - 1))]
        self.patch_px, self.fast = patch_px, True
        self.layers = nn.Sequential()
        for inputs, outputs in zip(channels, channels[1:], strict=False):
            self.layers.append(nn.Conv2d(inputs, outputs, KERNEL, _STRIDE))
            self.layers.append(nn.ELU(inplace=True))
        self.features = channels[-1] * sides[-1] ** 2

    def forward(self, images: Tensor) -> Tensor:
        """(N, S, S, 3) uint8 to (N, features)."""
        patches = to_patches(images, self.patch_px)
        encoded: Tensor
        if self.fast and images.device.type == "cpu":
            encoded = self._fast(patches)
        else:
            encoded = self.layers(to_unit_range(patches))
        return encoded.permute(0, 2, 3, 1).flatten(1)

    def _fast(self, patches: Tensor) -> Tensor:
        """The same layers; the scale of the pixels is moved into the first weights."""
        first, *others = (layer for layer in self.layers if isinstance(layer, nn.Conv2d))
        pixels = about_zero(patches, compute_dtype(first.weight))
        maps = F.elu_(F.conv2d(pixels, first.weight / 127.5, first.bias, _STRIDE))
        for layer in others:
            assert layer.bias is not None
            if conv_sides(maps.shape[-1], 1)[1] > _SMALL_SIDE:
                maps = F.elu_(layer(maps))
            else:
                maps = F.elu(conv_on_small_map(maps, layer.weight, layer.bias, _STRIDE))
        return maps


class FrameEncoder(nn.Module):
    """All cameras and numbers of a frame into one embedding (method.md 17)."""

    def __init__(
        self, cameras: Sequence[str], image_size_px: int, depth: int, patch_px: int, numbers: int, embedding: int
    ) -> None:
        super().__init__()
        encoders = {name: ImageEncoder(image_size_px, depth, patch_px) for name in cameras}
        self.cameras = nn.ModuleDict(encoders)
        self.numbers = nn.Sequential(nn.Linear(numbers, embedding // 4), nn.ELU())
        features = sum(encoder.features for encoder in encoders.values())
        self.fuse = nn.Linear(features + embedding // 4, embedding)

    def forward(self, images: Mapping[str, Tensor], numbers: Tensor) -> Tensor:
        """Images (N, S, S, 3) uint8 of each camera and normalised numbers (N, D) to embeddings (N, E)."""
        seen = [encoder(images[name]) for name, encoder in self.cameras.items()]
        fused: Tensor = self.fuse(torch.cat([*seen, self.numbers(numbers)], dim=-1))
        return fused
