"""From frames to embeddings: what the numbers mean, which shapes come out, and that the fast form is the plain one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diwa_worldmodel.encoders import (
    FrameEncoder,
    ImageEncoder,
    about_zero,
    conv_sides,
    from_patches,
    to_patches,
    to_pixels,
    to_unit_range,
)

ALL_SHADES = torch.arange(256, dtype=torch.uint8)


def random_images(count: int, side: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(side)
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=generator)


def test_black_is_minus_one_and_white_is_one() -> None:
    assert to_unit_range(ALL_SHADES)[[0, -1]].tolist() == [-1.0, 1.0]


def test_every_shade_comes_back_from_the_unit_range() -> None:
    assert torch.equal(to_pixels(to_unit_range(ALL_SHADES)), ALL_SHADES)


def test_pixels_outside_the_unit_range_are_clipped() -> None:
    assert to_pixels(torch.tensor([-7.0, -1.001, 1.001, 7.0])).tolist() == [0, 0, 255, 255]


def test_shades_about_zero_are_exact_in_bfloat16() -> None:
    assert torch.equal(about_zero(ALL_SHADES, torch.bfloat16).float(), ALL_SHADES.float() - 127.5)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.sampled_from([1, 2, 3, 4, 8]), st.integers(1, 5), st.booleans())
def test_patches_go_back_to_the_images_they_came_from(count: int, patch_px: int, across: int, as_bytes: bool) -> None:
    images = random_images(count, patch_px * across)
    images = images if as_bytes else images.float()
    assert torch.equal(from_patches(to_patches(images, patch_px), patch_px), images)


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_a_patch_holds_the_pixels_of_its_square_row_by_row(kind: torch.dtype) -> None:
    images = random_images(1, 8).to(kind)
    patch = to_patches(images, 4)[0, :, 1, 0]  # lower left
    assert torch.equal(patch, images[0, 4:, :4].flatten())


def test_patches_of_a_part_of_a_batch_are_those_of_the_whole() -> None:
    images = random_images(6, 8)
    assert torch.equal(to_patches(images[1::2], 4), to_patches(images, 4)[1::2])


def test_dreamer_v2_halves_64_pixels_down_to_two() -> None:
    assert conv_sides(64, 1) == [64, 31, 14, 6, 2]


@pytest.mark.parametrize("size", [16, 32, 64, 96, 128])
@pytest.mark.parametrize("patch_px", [1, 4])
def test_fast_encoder_is_the_plain_one_to_1e_5(size: int, patch_px: int) -> None:
    torch.manual_seed(0)
    encoder = ImageEncoder(size, 4, patch_px)
    images = random_images(3, size)
    found = []
    for fast in (True, False):
        encoder.fast = fast
        encoder.zero_grad()
        features = encoder(images)
        features.square().sum().backward()
        gradients = [parameter.grad for parameter in encoder.parameters()]
        found.append([features.detach(), *(gradient for gradient in gradients if gradient is not None)])
    assert found[0][0].shape == (3, encoder.features)
    assert len(found[0]) == 1 + len(list(encoder.parameters()))
    for one, other in zip(*found, strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()


def test_fast_encoder_is_the_plain_one_to_2_percent_in_bf16() -> None:
    torch.manual_seed(0)
    encoder = ImageEncoder(64, 8)
    images = random_images(3, 64)
    found = []
    for fast in (True, False):
        encoder.fast = fast
        with torch.autocast("cpu", torch.bfloat16):
            found.append(encoder(images).float())
    assert 0 < (found[0] - found[1]).norm() < 0.02 * found[1].norm()


def frame_encoder(cameras: tuple[str, ...]) -> FrameEncoder:
    torch.manual_seed(0)
    return FrameEncoder(cameras, image_size_px=16, depth=4, patch_px=1, numbers=10, embedding=12)


@pytest.mark.parametrize("cameras", [("static",), ("static", "gripper"), ("left", "right", "gripper")])
def test_one_to_three_cameras_become_one_embedding(cameras: tuple[str, ...]) -> None:
    images = {name: random_images(5, 16) for name in cameras}
    assert frame_encoder(cameras)(images, torch.zeros(5, 10)).shape == (5, 12)


@pytest.mark.parametrize("changed", ["static", "gripper", "numbers"])
def test_each_camera_and_the_numbers_reach_the_embedding(changed: str) -> None:
    encoder = frame_encoder(("static", "gripper"))
    images = {name: random_images(1, 16) for name in ("static", "gripper")}
    numbers = torch.zeros(1, 10)
    before = encoder(images, numbers)
    if changed == "numbers":
        numbers = torch.ones(1, 10)
    else:
        images[changed] = 255 - images[changed]
    assert not torch.allclose(encoder(images, numbers), before)


def test_cameras_are_told_apart() -> None:
    encoder = frame_encoder(("static", "gripper"))
    one, other = random_images(2, 16).split(1)
    numbers = torch.zeros(1, 10)
    swapped = encoder({"static": other, "gripper": one}, numbers)
    assert not torch.allclose(encoder({"static": one, "gripper": other}, numbers), swapped)
