"""What a probe reads from a latent: names, units, how far off a reading is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = "npt.NDArray[np.float64]"
Kind: TypeAlias = Literal["position", "rotation", "angle", "two-valued", "number"]


@dataclass(frozen=True)
class Quantity:
    """One physical quantity among the numbers of a frame (proprioception, then scene state)."""

    name: str
    kind: Kind
    columns: tuple[int, ...]
    """Among proprioception (10) and scene state (D), one after the other."""
    unit: str
    """Of its errors; "" for shares."""
    moved: float
    """A change by more, in that unit, counts as a change."""
    scale: float = 1.0
    """From the data's unit to ``unit``."""
    levels: tuple[float, float] = (0.0, 1.0)
    """Of what has two values."""

    def targets(self, numbers: FloatArray) -> FloatArray:
        """What a linear probe is fitted to, (..., c), from the numbers of frames (..., D)."""
        values: FloatArray = numbers[..., list(self.columns)]
        if self.kind == "angle":  # it wraps; sine and cosine do not
            return np.concatenate([np.sin(values), np.cos(values)], axis=-1)
        if self.kind == "two-valued":
            return (values > sum(self.levels) / 2).astype(np.float64)
        return values

    def error(self, predicted: FloatArray, truth: FloatArray) -> FloatArray:
        """How far off (...), in ``unit``, targets (..., c) are; of what has two values whether they are wrong."""
        if self.kind == "two-valued":
            return np.asarray(((predicted > 0.5) != (truth > 0.5))[..., 0], dtype=np.float64)
        if self.kind == "rotation":
            return np.degrees(_angle_between(rotations(predicted), rotations(truth)))
        if self.kind == "angle":
            angles = [np.arctan2(one[..., 0], one[..., 1]) for one in (predicted, truth)]
            return np.degrees(np.abs((angles[0] - angles[1] + np.pi) % (2 * np.pi) - np.pi))
        distance: FloatArray = np.linalg.norm(predicted - truth, axis=-1) * self.scale
        return distance


_PROPRIO = (
    Quantity("position", "position", (0, 1, 2), "mm", 10.0, 1000.0),
    Quantity("rotation", "rotation", (3, 4, 5, 6, 7, 8), "deg", 10.0),
    Quantity("gripper_width", "number", (9,), "mm", 10.0, 1000.0),
)
PROPRIO_NUMBERS = 10


def quantities(names: Sequence[str], scene_state: npt.NDArray[Any] | None) -> tuple[Quantity, ...]:
    """Those of the proprioception, and of the scene state (N, D) with these names if it is known.

    What never changes is left out. Names tell units: ``_m`` and ``_rad``; other quantities keep their own.
    """
    if scene_state is None:
        return _PROPRIO
    found = [_scene_quantity(name, PROPRIO_NUMBERS + i, scene_state[:, i]) for i, name in enumerate(names)]
    return (*_PROPRIO, *(one for one in found if one is not None))


def _scene_quantity(name: str, column: int, values: npt.NDArray[Any]) -> Quantity | None:
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-6:
        return None
    if np.all((values == low) | (values == high)):
        return Quantity(name, "two-valued", (column,), "", 0.5, levels=(low, high))
    if name.endswith("_rad"):
        return Quantity(name, "angle", (column,), "deg", 10.0)
    if name.endswith("_m"):
        return Quantity(name, "number", (column,), "mm", 10.0, 1000.0)
    return Quantity(name, "number", (column,), "of its own unit", 0.1 * (high - low))


def rotations(six: FloatArray) -> FloatArray:
    """Matrices (..., 3, 3) of the nearest-first-column 6D form (..., 6): Gram-Schmidt (Zhou et al. 2019)."""
    first = _unit(six[..., :3])
    second = _unit(six[..., 3:] - (first * six[..., 3:]).sum(axis=-1, keepdims=True) * first)
    return np.stack([first, second, np.cross(first, second)], axis=-1)


def _unit(vectors: FloatArray) -> FloatArray:
    unit: FloatArray = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)
    return unit


def _angle_between(first: FloatArray, second: FloatArray) -> FloatArray:
    trace = (first * second).sum(axis=(-2, -1))
    angle: FloatArray = np.arccos(np.clip((trace - 1.0) / 2.0, -1.0, 1.0))
    return angle
