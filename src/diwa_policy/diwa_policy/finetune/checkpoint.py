"""What a fine-tuning run goes on from: PPO's state and the signals so far, in the checkpoints of every run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diwa_conventions.errors import UserError
from diwa_policy.finetune.signals import CheckpointSignals
from diwa_policy.ppo import PPO
from diwa_worldmodel.training.checkpoint import Checkpoint, Origin, load_newest, save_checkpoint

_PPO, _SIGNALS = "ppo/", "signals"
_COUNTS = {item.name for item in fields(CheckpointSignals) if item.type == "int"}


def save_state(folder: Path, origin: Origin, ppo: PPO, signals: list[CheckpointSignals]) -> None:
    """A checkpoint of this iteration; NotWrittenError where that fails."""
    tensors: dict[str, Tensor] = {f"{_PPO}{name}": tensor for name, tensor in ppo.tensors().items()}
    tensors[_SIGNALS] = torch.tensor([astuple(one) for one in signals], dtype=torch.float64)
    save_checkpoint(folder, Checkpoint(ppo.iteration, origin, tensors))


def restore_state(folder: Path, origin: Origin, ppo: PPO, warn: Callable[[str], None]) -> list[CheckpointSignals]:
    """Bring PPO to where the newest checkpoint left it; the signals until there, or none where there is no checkpoint.

    UserError for a checkpoint of another run.
    """
    checkpoint = load_newest(folder, warn)
    if checkpoint is None:
        return []
    differences = checkpoint.origin.differences(origin)
    if differences:
        raise UserError(
            f"the checkpoints in {folder} are of another run ({'; '.join(differences)}); choose a new folder with --out"
        )
    own = {name.removeprefix(_PPO): part for name, part in checkpoint.tensors.items() if name.startswith(_PPO)}
    ppo.restore(checkpoint.step, own)
    return [_signals(row) for row in checkpoint.tensors[_SIGNALS].tolist()]


def _signals(row: list[float]) -> CheckpointSignals:
    names = [item.name for item in fields(CheckpointSignals)]
    values: dict[str, Any] = {
        name: int(value) if name in _COUNTS else value for name, value in zip(names, row, strict=True)
    }
    return CheckpointSignals(**values)
