"""One gradient step: rates, decay, clipping, precision, carried state; and going on from saved tensors."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook
from world_model_samples import small_batch, small_config

from diwa_worldmodel.config import TrainingConfig, WorldModelConfig
from diwa_worldmodel.training.trainer import Trainer, learning_rate, make_fabric, make_optimiser, with_precision
from diwa_worldmodel.world_model import WorldModel


def trainer_of(config: WorldModelConfig) -> Trainer:
    torch.manual_seed(config.training.seed)
    fabric = make_fabric(config.training.precision, "cpu")
    return Trainer(fabric, WorldModel(config.model), config.training)


def plain(values: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in values.items()}


def test_one_batch_is_learned_by_heart():
    config = small_config({"steps": 300, "learning_rate": 5e-3}, embedding=32, hidden=32, deterministic=32)
    trainer = trainer_of(config)
    batch = small_batch(config)
    losses = [plain(trainer.train_step(batch))["loss"] for _ in range(300)]
    assert losses[-1] < 0.15 * losses[0]


def test_rate_rises_holds_and_falls_to_a_tenth():
    config = TrainingConfig(steps=100, learning_rate=1.0, warmup_steps=10, decay_steps=20)
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert rates[10:80] == [1.0] * 70
    assert rates[80] == pytest.approx(1.0) and rates[99] == pytest.approx(0.1 + 0.9 / 20)
    assert all(later < earlier for earlier, later in zip(rates[80:], rates[81:], strict=False))
    assert learning_rate(config, 100) == pytest.approx(0.1)


def test_rate_is_constant_without_warmup_and_decay():
    config = TrainingConfig(steps=10, learning_rate=3e-4, warmup_steps=0, decay_steps=0)
    assert {learning_rate(config, step) for step in range(10)} == {3e-4}


def test_matrices_and_kernels_decay_but_neither_biases_nor_norms():
    world_model = WorldModel(small_config().model)
    decayed, spared = make_optimiser(world_model, TrainingConfig()).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.05, 0.0)
    shapes = {id(parameter): parameter.ndim for parameter in world_model.parameters()}
    assert {shapes.pop(id(parameter)) for parameter in decayed["params"]} == {2, 4}
    assert {shapes.pop(id(parameter)) for parameter in spared["params"]} == {1}
    assert shapes == {}


def test_whole_gradient_is_clipped_and_its_norm_before_that_is_told():
    config = small_config({"gradient_clip": 0.5})
    trainer = trainer_of(config)
    norms = []

    def look(optimiser: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        gradients = [parameter.grad for group in optimiser.param_groups for parameter in group["params"]]
        norms.append(torch.linalg.vector_norm(torch.cat([one.flatten() for one in gradients])).item())

    hook = register_optimizer_step_pre_hook(look)
    told = plain(trainer.train_step(small_batch(config)))["gradient_norm"]
    hook.remove()
    assert told > 10.0
    assert norms == pytest.approx([0.5], rel=1e-4)


def test_state_goes_on_from_batch_to_batch_without_gradient():
    config = small_config()
    second = small_batch(config, seed=1, reset=False)
    fresh, carried = trainer_of(config), trainer_of(config)
    carried.train_step(small_batch(config, seed=0))
    carried.world_model.load_state_dict(fresh.world_model.state_dict())
    assert not carried.state.deterministic.requires_grad and carried.state.deterministic.abs().sum() > 0
    assert plain(carried.train_step(second))["loss"] != plain(fresh.train_step(second))["loss"]


def test_state_that_was_carried_is_of_no_matter_where_a_stream_begins_anew():
    config = small_config()
    second = small_batch(config, seed=1, reset=True)
    fresh, carried = trainer_of(config), trainer_of(config)
    carried.train_step(small_batch(config, seed=0))
    carried.world_model.load_state_dict(fresh.world_model.state_dict())
    assert plain(carried.train_step(second))["loss"] == plain(fresh.train_step(second))["loss"]


def test_bf16_works_in_the_layers_and_leaves_inputs_and_weights_whole():
    config = small_config({"precision": "bf16"})
    trainer = trainer_of(config)
    batch = small_batch(config)
    seen: dict[str, Tensor] = {}

    def inputs(module: torch.nn.Module, args: tuple) -> None:
        seen.update(proprio=args[0]["proprio"], uniforms=args[0]["uniforms"], state=args[1].deterministic)

    trainer.world_model.register_forward_pre_hook(inputs)
    trainer.world_model.encoder.fuse.register_forward_hook(lambda module, args, output: seen.update(layer=output))
    trainer.train_step(batch)
    assert seen["layer"].dtype == torch.bfloat16
    assert torch.equal(seen["proprio"], batch["proprio"]) and torch.equal(seen["uniforms"], batch["uniforms"])
    assert seen["state"].dtype == torch.float32
    assert {parameter.dtype for parameter in trainer.world_model.parameters()} == {torch.float32}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("model", [{}, {"decoder": "pixel_shuffle", "decoder_grid": 4}], ids=["transposed", "shuffled"])
def test_restored_trainer_goes_on_bit_for_bit(precision, model):
    config = small_config({"precision": precision, "steps": 6, "warmup_steps": 2, "decay_steps": 2}, **model)
    batches = [small_batch(config, seed, reset=seed == 0) for seed in range(6)]
    whole = trainer_of(config)
    expected = [plain(whole.train_step(batch)) for batch in batches]
    first = trainer_of(config)
    for batch in batches[:3]:
        first.train_step(batch)
    second = trainer_of(small_config({**vars(config.training), "seed": 1}, **model))
    second.restore(3, first.tensors())
    assert [plain(second.train_step(batch)) for batch in batches[3:]] == expected[3:]
    assert second.tensors().keys() == whole.tensors().keys()
    assert all(torch.equal(second.tensors()[name], tensor) for name, tensor in whole.tensors().items())


def test_validation_changes_nothing():
    config = small_config()
    trainer = trainer_of(config)
    trainer.train_step(small_batch(config))
    before = {name: tensor.clone() for name, tensor in trainer.tensors().items()}
    held_out = [small_batch(config, seed) for seed in (5, 6)]
    first, second = plain(trainer.validate(held_out)), plain(trainer.validate(held_out))
    assert first == second and trainer.world_model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in trainer.tensors().items())
    single = plain(trainer.validate(held_out[:1])), plain(trainer.validate(held_out[1:]))
    assert first["loss"] == pytest.approx((single[0]["loss"] + single[1]["loss"]) / 2)


@pytest.mark.parametrize(
    ("capable", "expected"), [({}, "fp32"), ({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16")]
)
def test_precision_is_bf16_where_the_cpu_computes_with_it(monkeypatch, capable, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capable)
    assert with_precision(small_config({"precision": "auto"}), "cpu").training.precision == expected
    assert with_precision(small_config({"precision": "fp32"}), "cpu").training.precision == "fp32"
