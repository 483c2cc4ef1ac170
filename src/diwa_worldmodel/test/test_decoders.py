"""From latents to images: shapes, and that the fast form is the plain one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from diwa_worldmodel.decoders import PixelShuffleDecoder, TransposedDecoder, transposed_kernels
from diwa_worldmodel.encoders import from_patches

LATENTS = 20
SIZES = [16, 32, 64, 96, 128]


def latents(count: int = 3) -> Tensor:
    return torch.randn(count, LATENTS, generator=torch.Generator().manual_seed(0))


def transposed(size: int) -> TransposedDecoder:
    torch.manual_seed(0)
    return TransposedDecoder(size, 4, LATENTS).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def images_and_gradients(decoder: TransposedDecoder, fast: bool) -> list[Tensor]:
    """Of weights and latents."""
    decoder.fast = fast
    decoder.zero_grad()
    given = latents().requires_grad_()
    images = from_patches(decoder(given), decoder.patch_px)
    target = torch.linspace(-1.0, 1.0, images[0].numel()).view(images[0].shape)
    (images - target).square().sum().backward()
    gradients = [given.grad, *(parameter.grad for parameter in decoder.parameters())]
    return [images.detach(), *(gradient for gradient in gradients if gradient is not None)]


def test_64_pixels_have_the_kernels_of_dreamer_v2() -> None:
    assert transposed_kernels(64) == (1, [5, 5, 6, 6])


@pytest.mark.parametrize("size", [*SIZES, 45])
def test_kernels_lead_from_the_first_map_to_the_image(size: int) -> None:
    side, kernels = transposed_kernels(size)
    for kernel in kernels:
        side = 2 * (side - 1) + kernel
    assert side == size


@pytest.mark.parametrize("size", [*SIZES, 45])
def test_fast_transposed_decoder_is_the_plain_one_to_1e_4(size: int) -> None:
    decoder = transposed(size)
    fast, plain = images_and_gradients(decoder, True), images_and_gradients(decoder, False)
    assert fast[0].shape == (3, size, size, 3)
    assert len(fast) == 2 + len(list(decoder.parameters()))
    for one, other in zip(fast, plain, strict=True):
        assert (one - other).norm() <= 1e-4 * other.norm()  # sums of up to 50,000 numbers; measured 1e-5


def test_fast_transposed_decoder_is_the_plain_one_to_2_percent_in_bf16() -> None:
    decoder = transposed(64)
    with torch.autocast("cpu", torch.bfloat16):
        fast, plain = images_and_gradients(decoder, True), images_and_gradients(decoder, False)
    for one, other in zip(fast, plain, strict=True):
        assert (one.float() - other.float()).norm() <= 0.02 * other.float().norm()


@pytest.mark.parametrize(
    ("size", "patch_px", "grid"), [(16, 1, 4), (16, 2, 8), (32, 2, 4), (64, 4, 8), (64, 8, 8), (96, 3, 4), (128, 4, 4)]
)
def test_pixel_shuffle_decoder_writes_patches_of_the_whole_image(size: int, patch_px: int, grid: int) -> None:
    decoder = PixelShuffleDecoder(size, 4, LATENTS, patch_px, grid)
    patches = decoder(latents())
    assert patches.shape == (3, 3 * patch_px**2, size // patch_px, size // patch_px)
    assert from_patches(patches, patch_px).shape == (3, size, size, 3)


@pytest.mark.parametrize("decoder", [transposed(32), PixelShuffleDecoder(32, 4, LATENTS)])
def test_every_latent_has_its_own_image(decoder: nn.Module) -> None:
    together = decoder(latents(4))
    alone = torch.cat([decoder(latent) for latent in latents(4).split(1)])
    assert torch.allclose(together, alone, atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-3)
