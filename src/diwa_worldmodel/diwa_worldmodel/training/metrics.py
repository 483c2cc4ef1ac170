"""Numbers of a training run as they come: ``metrics.jsonl``, one JSON object a line, and TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

JSON_LINES = "metrics.jsonl"
TENSORBOARD = "tensorboard"


class MetricsLog:
    """Goes on after ``step``: what a run that was killed wrote of later steps is dropped.

    A disk that is full costs lines and gives one warning; it does not end the training.
    """

    def __init__(self, folder: Path, step: int, warn: Callable[[str], None]) -> None:
        self._path = folder / JSON_LINES
        self._warn: Callable[[str], None] | None = warn
        self._board: SummaryWriter | None = None
        try:
            keep_until(self._path, step)
            self._board = _open_board(folder / TENSORBOARD, step)
        except OSError as error:
            self._complain(error)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """``{"step": 120, "loss": 5.1, ...}``"""
        try:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
            if self._board:
                for name, value in values.items():
                    self._board.add_scalar(name, value, step)
        except OSError as error:
            self._complain(error)

    def close(self) -> None:
        try:
            if self._board:
                self._board.close()
        except OSError as error:
            self._complain(error)

    def _complain(self, error: OSError) -> None:
        if self._warn:
            self._warn(f"{self._path.parent}: metrics cannot be written ({error.strerror}); training goes on")
        self._warn = None


def keep_until(path: Path, step: int) -> None:
    """Drop the lines of later steps and those that were torn."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if _is_until(line, step)]
    new = path.with_name(f".{path.name}")
    new.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    new.replace(path)


def _is_until(line: str, step: int) -> bool:
    try:
        return bool(json.loads(line)["step"] <= step)
    except (ValueError, KeyError, TypeError):
        return False


def read_metrics(path: Path) -> list[dict[str, float]]:
    """All lines of a ``metrics.jsonl``."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _open_board(folder: Path, step: int) -> SummaryWriter:
    from torch.utils.tensorboard import SummaryWriter  # slow to import

    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)
