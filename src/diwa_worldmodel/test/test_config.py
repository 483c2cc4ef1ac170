"""The presets have the paper's numbers, and a config that cannot work is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from diwa_conventions.errors import UserError
from diwa_worldmodel.config import ModelConfig, load_config
from diwa_worldmodel.settings import from_mapping, to_mapping
from diwa_worldmodel.world_model import WorldModel


def refusal(**model: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_config("paper", {"model": model})
    return str(caught.value)


def test_paper_preset_is_table_s2() -> None:
    config = load_config("paper")
    model, training = config.model, config.training
    assert (training.batch, training.length) == (50, 50)
    assert (model.deterministic, model.discrete, model.classes, model.latent) == (1024, 32, 32, 2048)
    assert (model.kl_scale, model.kl_balance) == (0.3, 0.8)
    assert training.reset_probability == 0.01
    assert (training.learning_rate, training.adam_eps, training.weight_decay) == (3e-4, 1e-5, 5e-2)
    assert training.gradient_clip == 100.0
    assert (model.image_size_px, model.cameras, model.scene_state) == (64, ("static", "gripper"), 0)


def test_paper_preset_has_31_million_parameters() -> None:
    model = WorldModel(load_config("paper").model)
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(31e6, rel=0.02)


def test_tiny_preset_differs_in_numbers_only() -> None:
    paper, tiny = load_config("paper"), load_config("tiny")
    assert tiny.model.cameras == paper.model.cameras
    assert (tiny.model.kl_scale, tiny.model.kl_balance) == (paper.model.kl_scale, paper.model.kl_balance)
    assert tiny.model.latent < paper.model.latent


@pytest.mark.parametrize("preset", ["paper", "tiny"])
def test_a_config_comes_back_from_its_table(preset: Any) -> None:
    config = load_config(preset)
    assert from_mapping(type(config), to_mapping(config)) == config


def test_what_is_said_goes_over_the_preset() -> None:
    config = load_config("tiny", {"model": {"kl_scale": 1.0}, "training": {"steps": 7}})
    assert (config.model.kl_scale, config.training.steps) == (1.0, 7)
    assert config.model.deterministic == load_config("tiny").model.deterministic


@pytest.mark.parametrize(
    ("model", "line"),
    [
        ({"kl_balance": 1.2}, "model.kl_balance is 1.2; expected a number from 0 to 1"),
        ({"image_size_px": 8}, "model.image_size_px is 8; expected a whole number from 16 to 512"),
        ({"cameras": []}, "model.cameras is []; expected one to three different names"),
        ({"cameras": list("abcd")}, "model.cameras is ['a', 'b', 'c', 'd']; expected one to three different names"),
        ({"cameras": ["a", "a"]}, "model.cameras is ['a', 'a']; expected one to three different names"),
        ({"cameras": ["a.b"]}, "model.cameras is ['a.b']; expected names of letters, digits and underscores"),
        (
            {"encoder_patch_px": 3},
            "model.image_size_px is 64; expected model.encoder_patch_px 3 x at least 4",
        ),
        (
            {"image_size_px": 16, "encoder_patch_px": 8},
            "model.image_size_px is 16; expected model.encoder_patch_px 8 x at least 4",
        ),
        ({"decoder": "diffusion"}, "model.decoder is 'diffusion'; expected one of transposed, pixel_shuffle"),
        (
            {"decoder": "pixel_shuffle", "image_size_px": 80},
            "model.image_size_px is 80; expected model.decoder_patch_px 2 x model.decoder_grid 4 x a power of two",
        ),
        (
            {"decoder": "pixel_shuffle", "image_size_px": 16, "decoder_patch_px": 8},
            "model.image_size_px is 16; expected model.decoder_patch_px 8 x model.decoder_grid 4 x a power of two",
        ),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_built_is_refused_by_key_and_value(model: dict[str, Any], line: str) -> None:
    assert refusal(**model) == line


def test_defaults_can_be_built_directly() -> None:
    assert ModelConfig() == load_config("paper").model
