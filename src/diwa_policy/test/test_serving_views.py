"""What the cameras show, beside what the world model knows of them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diwa_policy.serving.views import likeness, unlike

SIZE = 8
LATENT = torch.zeros(1, 4)


class Model:
    """Decodes two given views."""

    def __init__(self, static, gripper) -> None:
        self.views = {"static": torch.from_numpy(static)[None], "gripper": torch.from_numpy(gripper)[None]}

    def decode(self, latents):
        return self.views


def picture(seed: int):
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def distance(a, b) -> float:
    return float(((a.astype(float) - b.astype(float)) ** 2).sum())


@given(st.integers(0, 2**31), st.integers(0, 100))
def test_likeness_says_which_images_are_nearer_to_which_views(seed: int, noise: int):
    static, gripper, other = picture(seed), picture(seed + 1), picture(seed + 2)
    seen = ((100 - noise) * static.astype(int) + noise * other) // 100
    seen = seen.astype(np.uint8)
    found = likeness(Model(static, gripper), LATENT, {"static": seen, "gripper": gripper})
    straight = distance(static, seen) + distance(gripper, gripper)
    crossed = distance(static, gripper) + distance(gripper, seen)
    assert found is not None and np.sign(found) == np.sign(crossed - straight)


def test_perfect_views_are_alike_and_swapped_ones_opposite():
    static, gripper = picture(0), picture(1)
    model = Model(static, gripper)
    assert likeness(model, LATENT, {"static": static, "gripper": gripper}) == pytest.approx(1.0)
    assert likeness(model, LATENT, {"static": gripper, "gripper": static}) == pytest.approx(-1.0)
    assert unlike(model, LATENT, {"static": static, "gripper": gripper}) == ""
    assert "swapped" in unlike(model, LATENT, {"static": gripper, "gripper": static})


def test_another_scene_is_said_with_its_number_and_what_to_do():
    model = Model(picture(0), picture(1))
    reason = unlike(model, LATENT, {"static": picture(2), "gripper": picture(3)})
    assert "do not show what the world model knows" in reason and "diwa calibrate cameras" in reason


def test_nothing_is_said_where_the_model_does_not_know_its_cameras_apart():
    grey = np.full((SIZE, SIZE, 3), 128, np.uint8)
    assert likeness(Model(grey, grey), LATENT, {"static": picture(0), "gripper": picture(1)}) is None
    assert likeness(Model(picture(0), picture(1)), LATENT, {"static": grey, "gripper": grey}) is None
    assert likeness(Model(picture(0), picture(1)), LATENT, {"static": grey}) is None
