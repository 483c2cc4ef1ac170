"""The error of decoded images: what it is in numbers, and that the fast form and its gradient are the plain ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diwa_worldmodel.encoders import to_patches, to_unit_range
from diwa_worldmodel.reconstruction import fast_image_error, half_squared_error, image_error


def images(count: int = 5) -> Tensor:
    return torch.randint(0, 256, (count, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def decoded(patch_px: int, count: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    patches = torch.randn(count, 3 * patch_px**2, 16 // patch_px, 16 // patch_px, generator=generator)
    return patches.to(memory_format=torch.channels_last)


def test_error_is_half_the_squares_summed_over_an_image_and_averaged_over_images() -> None:
    predicted, target = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.zeros(2, 2)
    assert half_squared_error(predicted, target).item() == pytest.approx((0.5 * (1 + 4) + 0.0) / 2)


@pytest.mark.parametrize("error", [image_error, fast_image_error])
def test_a_perfect_image_has_no_error(error: type) -> None:
    perfect = to_patches(to_unit_range(images()), 4).contiguous(memory_format=torch.channels_last)
    assert error(perfect, images(), 4).item() == pytest.approx(0.0, abs=1e-8)


@pytest.mark.parametrize("patch_px", [1, 2, 4])
@pytest.mark.parametrize(("kind", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 4e-3)])
def test_fast_error_and_gradient_are_the_plain_ones(patch_px: int, kind: torch.dtype, tolerance: float) -> None:
    found = []
    for error in (image_error, fast_image_error):
        patches = decoded(patch_px).to(kind).requires_grad_()
        value = 0.7 * error(patches, images(), patch_px)
        value.backward()
        assert patches.grad is not None
        found.append((value.item(), patches.grad.float()))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    assert (found[1][1] - found[0][1]).norm() <= tolerance * found[0][1].norm()


def test_fast_error_is_the_same_in_blocks_of_one_image(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fast_image_error(decoded(2), images(), 2)
    monkeypatch.setattr("diwa_worldmodel.reconstruction._BLOCK_ELEMENTS", 1)
    assert fast_image_error(decoded(2), images(), 2).item() == pytest.approx(whole.item(), rel=1e-6)


def test_fast_error_leaves_the_decoded_images_as_they_were() -> None:
    patches = decoded(2)
    fast_image_error(patches, images(), 2)
    assert torch.equal(patches, decoded(2))
