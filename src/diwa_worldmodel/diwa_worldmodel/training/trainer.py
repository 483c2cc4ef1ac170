"""A gradient step, from batch to new weights, on one device or several.

    trainer = Trainer(fabric, WorldModel(config.model), config.training)
    for batch in batches:
        values = trainer.train_step(batch)

The state (h, z) of the streams goes on from batch to batch, without gradient (method.md 20).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from torch import Tensor
from torch.optim import AdamW

from diwa_worldmodel.config import TrainingConfig, WorldModelConfig
from diwa_worldmodel.rssm import State
from diwa_worldmodel.world_model import Losses, WorldModel, WorldModelBatch

FINAL_LEARNING_RATE = 0.1
"""Of the largest, at the end of the decay."""

_WEIGHTS, _MOMENTS, _CARRIED = "weights/", "moments/", "carried/"
_OF_ADAM = ("step", "exp_avg", "exp_avg_sq")


class Bf16Autocast(MixedPrecision):
    """bf16 in the layers, but not at the door: in 8 bits uniforms would reach 1 and positions be off by millimetres."""

    def __init__(self, device: str) -> None:
        super().__init__("bf16-mixed", device)

    def convert_input(self, data: Any) -> Any:
        return data


class Trainer:
    """Model, optimiser and carried state of this process's rows of the batch."""

    def __init__(self, fabric: Fabric, world_model: WorldModel, config: TrainingConfig) -> None:
        self.fabric, self.config, self.world_model = fabric, config, world_model
        self.step = 0
        """Gradient steps that were made."""
        self.model, self._optimiser = fabric.setup(world_model, make_optimiser(world_model, config))
        self.state = world_model.rssm.initial(config.batch // fabric.world_size, fabric.device)

    def train_step(self, batch: WorldModelBatch) -> dict[str, Tensor]:
        """One gradient step; its losses and gradient norm (before clipping), scalars on the device."""
        # A compiled scan may write over what the last step left.
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate(self.config, self.step)
        losses: Losses
        losses, self.state = self.model(batch, self.state)
        self.fabric.backward(losses.total)
        # Fabric unscales gradients first where the precision has a scale (method.md 21).
        norm = self.fabric.clip_gradients(
            self.model, self._optimiser, max_norm=self.config.gradient_clip, error_if_nonfinite=False
        )
        assert norm is not None
        self._optimiser.step()
        self._optimiser.zero_grad()
        self.step += 1
        return {**_detached(losses.scalars()), "gradient_norm": norm}

    @torch.no_grad()
    def validate(self, batches: Iterable[WorldModelBatch]) -> dict[str, Tensor]:
        """Mean losses over batches that each begin with a zero state, scalars on the device."""
        self.model.eval()
        found: list[dict[str, Tensor]] = []
        for batch in batches:
            start = self.world_model.rssm.initial(len(batch["reset"]), self.fabric.device)
            losses, _ = self.model(batch, start)
            found.append(losses.scalars())
        self.model.train()
        return {name: torch.stack([losses[name] for losses in found]).mean() for name in found[0]}

    def tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint holds, on the CPU, after at least one step.

        Every process must call it: each has a part of the streams.
        """
        gathered = State(*(self._of_all_processes(part) for part in self.state))
        content = {f"{_WEIGHTS}{name}": tensor for name, tensor in self.world_model.state_dict().items()}
        for name, parameter in self.world_model.named_parameters():
            moments = self._optimiser.state[parameter]
            content |= {f"{_MOMENTS}{kind}/{name}": moments[kind] for kind in _OF_ADAM}
        content |= {f"{_CARRIED}{name}": tensor for name, tensor in gathered._asdict().items()}
        return {name: tensor.detach().cpu().contiguous() for name, tensor in content.items()}

    @property
    def _rows(self) -> slice:
        """This process's, of the whole batch."""
        count, rank = len(self.state.deterministic), self.fabric.global_rank
        return slice(rank * count, (rank + 1) * count)

    def _of_all_processes(self, rows: Tensor) -> Tensor:
        """(B / processes, D) of each process to (B, D)."""
        whole = rows.new_zeros(self.config.batch, rows.shape[-1])
        whole[self._rows] = rows
        gathered = self.fabric.all_reduce(whole, reduce_op="sum")
        assert isinstance(gathered, Tensor)
        return gathered

    def restore(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`tensors` returned after ``step`` steps."""
        self.step = step
        self.world_model.load_state_dict(_under(tensors, _WEIGHTS))
        for name, parameter in self.world_model.named_parameters():
            self._optimiser.state[parameter] = {
                kind: _like(parameter, tensors[f"{_MOMENTS}{kind}/{name}"]) for kind in _OF_ADAM
            }
        carried = _under(tensors, _CARRIED)
        self.state = State(*(carried[name][self._rows].to(self.fabric.device) for name in State._fields))


def with_precision(config: WorldModelConfig, accelerator: str) -> WorldModelConfig:
    """The config with the precision that "auto" means on this machine.

    A CPU without bf16 instructions multiplies matrices in bf16 some hundred times slower than in fp32.
    """
    if config.training.precision != "auto":
        return config
    on_gpu = accelerator != "cpu" and torch.cuda.is_available()
    capable = torch.cpu.get_capabilities()
    fast = on_gpu or any(capable.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
    return replace(config, training=replace(config.training, precision="bf16" if fast else "fp32"))


def make_fabric(precision: str, accelerator: str = "auto", devices: int = 1, nodes: int = 1) -> Fabric:
    """Fabric for ``precision`` "fp32" or "bf16"; the world model takes part in every loss, so DDP need not search."""
    fabric = Fabric(accelerator=accelerator, devices=devices, num_nodes=nodes)
    if precision == "bf16":
        plugin = Bf16Autocast(fabric.device.type)
        fabric = Fabric(accelerator=accelerator, devices=devices, num_nodes=nodes, plugins=[plugin])
    return fabric


def make_optimiser(world_model: WorldModel, config: TrainingConfig) -> AdamW:
    """AdamW that decays matrices and kernels, but neither biases nor norms (Table S.2)."""
    parameters = list(world_model.parameters())
    groups = [
        {"params": [one for one in parameters if one.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [one for one in parameters if one.ndim < 2], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=config.learning_rate, eps=config.adam_eps, fused=True)


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Of the step after ``step`` steps: rises over the first ``warmup_steps``, falls to a tenth over the last ones."""
    share = 1.0
    if step < config.warmup_steps:
        share = (step + 1) / config.warmup_steps
    left = config.steps - step
    if left < config.decay_steps:
        decayed = FINAL_LEARNING_RATE + (1.0 - FINAL_LEARNING_RATE) * left / config.decay_steps
        share = min(share, decayed)
    return share * config.learning_rate


def _detached(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in values.items()}


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _like(parameter: Tensor, saved: Tensor) -> Tensor:
    """``saved`` in the memory format of the parameter: fused AdamW goes through both as they lie in memory."""
    if saved.ndim == 0:
        return saved.clone().to(parameter.device)
    return torch.empty_like(parameter, requires_grad=False).copy_(saved)
