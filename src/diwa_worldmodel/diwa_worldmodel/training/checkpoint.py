"""Checkpoints of a training run: all it takes to go on as if nothing had happened.

    checkpoints/step_000123/tensors.safetensors     weights, moments of the optimiser, carried state
    checkpoints/step_000123/checkpoint.json         format, version, step, origin, SHA-256 of the tensors

A checkpoint is complete or not there: it is written under a hidden name and renamed. The last two are kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from diwa_conventions.errors import UserError
from diwa_worldmodel.dataset.recording_writer import sync

FORMAT = "diwa-checkpoint"
VERSION = 1
KEPT = 2
"""The newest may prove unreadable: the one before is there for that."""

_PREFIX, _PARTIAL = "step_", ".partial_"
_TENSORS, _CONTENT = "tensors.safetensors", "checkpoint.json"


@dataclass(frozen=True)
class Origin:
    """What a run must have in common with its checkpoints."""

    data_set: str
    """Hash of the data set."""
    config: dict[str, Any]
    """Of model and training, as :func:`~diwa_worldmodel.settings.to_mapping` returns it."""

    def differences(self, other: Origin) -> list[str]:
        """What differs, e.g. ``["model.kl_scale 0.3, not 1.0"]``: this one's value first."""
        mine, others = _flat(self.config), _flat(other.config)
        names = [name for name in {**mine, **others} if mine.get(name) != others.get(name)]
        found = [f"{name} {mine.get(name)}, not {others.get(name)}" for name in names]
        if self.data_set != other.data_set:
            found.append(f"the data set {self.data_set[:12]}, not {other.data_set[:12]}")
        return found


@dataclass(frozen=True)
class Checkpoint:
    """State of a run after ``step`` gradient steps."""

    step: int
    origin: Origin
    tensors: Mapping[str, Tensor]
    """On the CPU, contiguous."""


class NotWrittenError(OSError):
    """A checkpoint could not be written (disk full, no permission); the ones before are as they were."""


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write it into ``folder`` and remove all but the newest two; NotWrittenError where that fails."""
    partial = folder / f"{_PARTIAL}{checkpoint.step:06d}"
    final = folder / f"{_PREFIX}{checkpoint.step:06d}"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _write(partial, checkpoint)
        # One of this step was skipped as unreadable, or holds the same.
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
        sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise NotWrittenError(_reason(error)) from error
    _prune(folder, checkpoint.step)


def load_newest(folder: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that is whole, with a warning for each that is not; None in a folder without any.

    UserError if there are some and none can be read, or if the newest has another version.
    """
    for partial in folder.glob(f"{_PARTIAL}*"):
        shutil.rmtree(partial, ignore_errors=True)
    found = list(reversed(_checkpoints(folder)))
    for path in found:
        try:
            return _load(path)
        except UserError:
            raise
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            warn(f"checkpoint {path} is damaged ({_reason(error)}); looking for the one before")
    if found:
        raise UserError(f"no checkpoint in {folder} can be read; remove the run's folder to train anew")
    return None


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    save_file(dict(checkpoint.tensors), folder / _TENSORS)
    content = {
        "format": FORMAT,
        "version": VERSION,
        "step": checkpoint.step,
        "origin": asdict(checkpoint.origin),
        "sha256": _sha256(folder / _TENSORS),
    }
    (folder / _CONTENT).write_text(json.dumps(content, indent=2), encoding="utf-8")
    for path in (folder / _TENSORS, folder / _CONTENT, folder):
        sync(path)


def _load(path: Path) -> Checkpoint:
    content = json.loads((path / _CONTENT).read_text(encoding="utf-8"))
    if content["format"] != FORMAT or content["version"] != VERSION:
        raise UserError(
            f"{path} has format {content['format']!r} version {content['version']!r}; this software reads {FORMAT!r} "
            f"version {VERSION}: go on with the software that wrote it, or train anew into another folder"
        )
    if _sha256(path / _TENSORS) != content["sha256"]:
        raise ValueError("its tensors are not those that were written")
    return Checkpoint(int(content["step"]), Origin(**content["origin"]), load_file(path / _TENSORS))


def _checkpoints(folder: Path) -> list[Path]:
    """Oldest first."""
    found = [path for path in folder.glob(f"{_PREFIX}*") if path.name.removeprefix(_PREFIX).isdecimal()]
    return sorted(found, key=_step_of)


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix(_PREFIX))


def _prune(folder: Path, step: int) -> None:
    """Leave the newest up to ``step``; what is beyond it was skipped as damaged when the run went on."""
    found = _checkpoints(folder)
    kept = [path for path in found if _step_of(path) <= step][-KEPT:]
    for path in found:
        if path not in kept:
            shutil.rmtree(path, ignore_errors=True)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    # "Error while serializing: I/O error: No space left on device (os error 28)"
    return str(error).split("I/O error: ")[-1].split(" (os error")[0] or type(error).__name__


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in table.items():
        flat.update(_flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value})
    return flat
