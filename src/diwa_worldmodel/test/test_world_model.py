"""The world model as a whole: losses, variants, what carries over between batches, and that it learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from world_model_samples import small_batch, small_config

from diwa_conventions.actions import ACTION_DIM, GRIPPER_INDEX
from diwa_worldmodel.config import WorldModelConfig
from diwa_worldmodel.rssm import State
from diwa_worldmodel.world_model import Losses, Normaliser, WorldModel, WorldModelBatch, quantise_gripper


def world_model(config: WorldModelConfig) -> WorldModel:
    torch.manual_seed(0)
    return WorldModel(config.model)


def start(model: WorldModel, batch: WorldModelBatch) -> State:
    return model.rssm.initial(len(batch["reset"]))


def learn_from(config: WorldModelConfig) -> tuple[WorldModel, Losses]:
    """A model, and its losses on a batch; gradients are in the model."""
    model, batch = world_model(config), small_batch(config)
    losses, _ = model(batch, start(model, batch))
    losses.total.backward()
    return model, losses


def steps_of(batch: WorldModelBatch, steps: slice) -> WorldModelBatch:
    def cut(values: Any) -> Any:
        if isinstance(values, dict):
            return {name: one[:, steps] for name, one in values.items()}
        return None if values is None else values[:, steps]

    return {name: cut(values) for name, values in batch.items()}  # type: ignore[return-value]


# Losses --------------------------------------------------------------------------------------------------------------


def test_loss_is_the_images_errors_and_the_scaled_kl() -> None:
    config = small_config(kl_scale=0.3)
    _, losses = learn_from(config)
    images = losses.reconstruction["static"] + losses.reconstruction["gripper"]
    assert losses.total.item() == pytest.approx((images + 0.3 * losses.kl).item(), rel=1e-6)
    assert losses.kl > 0


def test_losses_are_logged_by_name() -> None:
    _, losses = learn_from(small_config())
    parts = {"reconstruction_static", "reconstruction_gripper"}
    assert set(losses.scalars()) == {"loss", "kl", "posterior_entropy", "prior_entropy", *parts}
    assert all(value.ndim == 0 for value in losses.scalars().values())


def test_every_weight_gets_a_gradient() -> None:
    model, _ = learn_from(small_config(scene_state=3))
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("decoder", ["transposed", "pixel_shuffle"])
def test_fast_paths_have_the_losses_and_gradients_of_the_plain_ones_to_1e_5(decoder: str) -> None:
    config = small_config(decoder=decoder, scene_state=3)
    model, batch = world_model(config), small_batch(config)
    batch["reset"][1, 4] = True
    found = []
    for fast in (True, False):
        model.use_fast_paths(fast)
        model.zero_grad()
        losses, last = model(batch, start(model, batch))
        losses.total.backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        found.append([*losses.scalars().values(), *last, *gradients])
    for one, other in zip(*found, strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()


def test_bf16_has_the_loss_of_fp32_to_a_hundredth() -> None:
    config = small_config()
    model, batch = world_model(config), small_batch(config)
    exact, _ = model(batch, start(model, batch))
    with torch.autocast("cpu", torch.bfloat16):
        rough, _ = model(batch, start(model, batch))
    assert rough.total.dtype == torch.float32
    assert rough.total.item() != exact.total.item()
    assert rough.total.item() == pytest.approx(exact.total.item(), rel=1e-2)


def test_one_batch_is_learned_by_heart() -> None:
    config = small_config()
    model, batch = world_model(config), small_batch(config)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    errors = []
    for _ in range(100):
        losses, _ = model(batch, start(model, batch))
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
        errors.append(sum(error.item() for error in losses.reconstruction.values()))
    assert errors[-1] < 0.2 * errors[0]


# Over batches --------------------------------------------------------------------------------------------------------


def test_a_batch_of_two_lengths_is_two_batches_with_the_state_carried() -> None:
    config = small_config()
    model, batch = world_model(config), small_batch(config)
    whole, end = model(batch, start(model, batch))
    first, carried = model(steps_of(batch, slice(0, 4)), start(model, batch))
    second, other_end = model(steps_of(batch, slice(4, 8)), carried)
    assert whole.total.item() == pytest.approx((first.total + second.total).item() / 2, rel=1e-5)
    assert torch.allclose(end.latent, other_end.latent, atol=1e-5)


def test_no_gradient_flows_into_the_batch_before() -> None:
    config = small_config()
    model, batch = world_model(config), small_batch(config)
    _, carried = model(batch, start(model, batch))
    assert not carried.deterministic.requires_grad
    assert not carried.stochastic.requires_grad


def test_the_carried_state_changes_what_is_seen_next() -> None:
    config = small_config()
    model, batch = world_model(config), small_batch(config, reset=False)
    _, carried = model(batch, start(model, batch))
    with_state, _ = model(batch, carried)
    without, _ = model(batch, start(model, batch))
    assert with_state.kl.item() != without.kl.item()


def test_a_reset_at_the_first_frame_forgets_the_carried_state() -> None:
    config = small_config()
    model, batch = world_model(config), small_batch(config, reset=True)
    _, carried = model(batch, start(model, batch))
    with_state, _ = model(batch, carried)
    without, _ = model(batch, start(model, batch))
    assert with_state.total.item() == without.total.item()


# Variants ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variant",
    [
        {"cameras": ["static"]},
        {"cameras": ["static", "gripper", "side"]},
        {"image_size_px": 32},
        {"image_size_px": 64},
        {"image_size_px": 96},
        {"image_size_px": 128},
        {"image_size_px": 32, "decoder": "pixel_shuffle", "decoder_patch_px": 4, "encoder_patch_px": 4},
        {"action_chunk": 4},
        {"scene_state": 3},
    ],
    ids=str,
)
def test_variants_learn_and_decode_every_camera(variant: dict[str, Any]) -> None:
    config = small_config(training={"batch": 2, "length": 3}, **variant)
    model, losses = learn_from(config)
    assert torch.isfinite(losses.total)
    size = config.model.image_size_px
    images = model.decode(torch.zeros(2, 5, config.model.latent))
    assert set(images) == set(config.model.cameras)
    assert all(image.shape == (2, 5, size, size, 3) and image.dtype == torch.uint8 for image in images.values())


def test_an_action_chunk_is_one_wide_action() -> None:
    assert world_model(small_config(action_chunk=4)).rssm.input_action.in_features == 4 * ACTION_DIM


def encoded(model: WorldModel, batch: WorldModelBatch) -> Tensor:
    return model.encode(batch)


def test_hybrid_model_takes_the_scene_state() -> None:
    config = small_config(scene_state=3)
    model, batch, other = world_model(config), small_batch(config), small_batch(config)
    assert other["scene_state"] is not None
    other["scene_state"] = other["scene_state"] + 1.0
    assert not torch.allclose(encoded(model, batch), encoded(model, other))


def test_vision_model_does_not_look_at_the_scene_state() -> None:
    config = small_config()
    model, batch = world_model(config), small_batch(config)
    before = encoded(model, batch)
    batch["scene_state"] = torch.ones(4, 8, 3)
    assert torch.equal(encoded(model, batch), before)


def test_hybrid_loss_has_the_scene_state_in_its_standard_deviations_with_its_weight() -> None:
    found = []
    for scale in (0.0, 10.0):
        config = small_config(scene_state=3, scene_state_scale=scale)
        model, batch = world_model(config), small_batch(config)
        model.scene_state.fit(torch.zeros(3), torch.full((3,), 0.5))
        found.append(model(batch, start(model, batch))[0])
    without, weighted = found
    assert weighted.reconstruction["scene_state"] > 0
    difference = weighted.total - without.total
    assert difference.item() == pytest.approx(10.0 * weighted.reconstruction["scene_state"].item(), rel=1e-4)


@pytest.mark.parametrize(("raw", "quantised"), [(0.3, 1.0), (1.0, 1.0), (0.0, 1.0), (-1e-6, -1.0), (-1.0, -1.0)])
def test_gripper_is_open_from_zero_on_else_closed(raw: float, quantised: float) -> None:
    actions = torch.full((2, 2 * ACTION_DIM), 0.4)
    actions[:, [GRIPPER_INDEX, ACTION_DIM + GRIPPER_INDEX]] = raw
    found = quantise_gripper(actions).unflatten(-1, (2, ACTION_DIM))
    assert (found[..., GRIPPER_INDEX] == quantised).all()
    assert (found[..., :GRIPPER_INDEX] == actions[0, 0]).all()


def test_a_gripper_a_little_open_is_as_good_as_open() -> None:
    config = small_config()
    model, batch = world_model(config), small_batch(config)
    exact = model.observe(batch, start(model, batch))
    batch["previous_action"][..., GRIPPER_INDEX] *= 0.3
    for one, other in zip(exact, model.observe(batch, start(model, batch)), strict=True):
        assert torch.equal(one, other)


# Normalisation -------------------------------------------------------------------------------------------------------


def test_normaliser_gives_zero_mean_and_unit_deviation() -> None:
    numbers = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([2.0, 0.1, 5.0]) + 7.0
    normaliser = Normaliser(3)
    normaliser.fit(numbers.mean(0), numbers.std(0))
    assert torch.allclose(normaliser(numbers).mean(0), torch.zeros(3), atol=1e-4)
    assert torch.allclose(normaliser(numbers).std(0), torch.ones(3), atol=1e-4)


def test_what_hardly_ever_changes_is_not_blown_up() -> None:
    normaliser = Normaliser(1)
    normaliser.fit(torch.zeros(1), torch.zeros(1))
    assert normaliser(torch.tensor([0.001])).item() == pytest.approx(1.0)


def test_normalisation_is_stored_with_the_weights() -> None:
    model = world_model(small_config(scene_state=3))
    assert {"proprio.mean", "proprio.std", "scene_state.mean", "scene_state.std"} <= set(model.state_dict())
