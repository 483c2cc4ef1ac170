"""The fast forms of convolutions are the same sums as PyTorch's own layers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from diwa_worldmodel.convolutions import (
    conv_on_small_map,
    conv_transpose_of_one_pixel,
    conv_transpose_phases,
    depth_to_space,
)

TOLERANCE = 1e-5
"""Of the norm of a float32 result; measured 1e-6."""


def random_maps(*shape: int) -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))
    return values.to(memory_format=torch.channels_last)


def results(function: Callable[..., Tensor], *arrays: Tensor) -> list[Tensor]:
    """The result and the gradient by each array, of a sum with weights that are all different."""
    given_arrays = [array.clone(memory_format=torch.preserve_format).requires_grad_() for array in arrays]
    result = function(*given_arrays)
    weights = torch.linspace(-1.0, 2.0, result.numel()).view(result.shape)
    (weights * result).sum().backward()
    return [result.detach(), *(array.grad for array in given_arrays if array.grad is not None)]


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert (one - other).norm() <= TOLERANCE * other.norm()


def placed(phases: Tensor, maps: Tensor, kernel: int) -> Tensor:
    return depth_to_space(phases, 2 * (maps.shape[-1] - 1) + kernel)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 7), st.integers(1, 5), st.integers(1, 4), st.sampled_from([2, 3, 4, 5, 6]),
)  # fmt: skip
def test_transposed_convolution_by_phases_is_the_plain_one(
    count: int, side: int, inputs: int, outputs: int, kernel: int
) -> None:
    arrays = random_maps(count, inputs, side, side), random_maps(inputs, outputs, kernel, kernel), torch.ones(outputs)
    found = results(lambda x, w, b: placed(conv_transpose_phases(x, w, b), x, kernel), *arrays)
    assert_same(found, results(lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2), *arrays))


def test_weight_gradient_is_the_same_when_taken_in_blocks_of_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = random_maps(7, 3, 4, 4), random_maps(3, 2, 6, 6), torch.ones(2)
    whole = results(conv_transpose_phases, *arrays)
    monkeypatch.setattr("diwa_worldmodel.convolutions._BLOCK_ELEMENTS", 1)
    assert_same(results(conv_transpose_phases, *arrays), whole)


@pytest.mark.parametrize("kernel", [5, 6])
def test_transposed_convolution_of_one_pixel_is_the_plain_one(kernel: int) -> None:
    arrays = random_maps(4, 6, 1, 1), random_maps(6, 3, kernel, kernel), torch.arange(3.0)
    found = results(conv_transpose_of_one_pixel, *arrays)
    assert_same(found, results(lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2), *arrays))


@pytest.mark.parametrize("side", [4, 5, 6, 7, 8])
def test_convolution_on_a_small_map_is_the_plain_one(side: int) -> None:
    arrays = random_maps(3, 5, side, side), random_maps(2, 5, 4, 4), torch.arange(2.0)
    found = results(lambda x, w, b: conv_on_small_map(x, w, b, 2), *arrays)
    assert_same(found, results(lambda x, w, b: F.conv2d(x, w, b, stride=2), *arrays))


@pytest.mark.parametrize("side", [5, 6])
def test_depth_to_space_is_pixel_shuffle_with_the_phases_before_the_channels(side: int) -> None:
    maps = random_maps(2, 4 * 3, 3, 3)
    as_pytorch_orders = maps.unflatten(1, (4, 3)).transpose(1, 2).flatten(1, 2)
    plain = F.pixel_shuffle(as_pytorch_orders, 2)[:, :, :side, :side]
    assert torch.equal(depth_to_space(maps, side), plain)


@pytest.mark.parametrize("side", [5, 6])
def test_depth_to_space_has_the_gradient_of_a_permutation(side: int) -> None:
    maps = random_maps(2, 4, 3, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: depth_to_space(x, side), [maps])
