"""What all recordings of one data set have in common, and the rules by which they were cut into frames and episodes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from diwa_conventions.actions import ActionScale
from diwa_conventions.errors import UserError, unknown
from diwa_conventions.images import Fit, SquareImages

_RANGES = {
    "skew_limit_s": (0.0, 0.2),
    "state_limit_s": (0.0, 0.2),
    "step_tolerance_s": (0.0, 0.066),
    "max_speed_m_s": (0.01, 100.0),
    "max_turn_rad_s": (0.01, 1000.0),
}


@dataclass(frozen=True)
class DataSetConfig:
    """The same for every recording of a data set; importing with another one is refused."""

    image_size_px: int = 64
    """Width and height of both cameras' frames, 8 to 512 (method.md 19)."""
    fit: Fit = "crop"
    """How images that are not square are made so."""
    scale: ActionScale = field(default_factory=ActionScale)
    """What an action component of 1.0 means (method.md 23)."""
    skew_limit_s: float = 0.02
    """How far the gripper camera's stamp may be from the static camera's [s], 0 to 0.2."""
    state_limit_s: float = 0.05
    """How far the stamps of pose, joints and scene may be from the static camera's [s], 0 to 0.2."""
    step_tolerance_s: float = 0.04
    """How far a step may be from 1/7.5 s, so that one lost 30 Hz frame ends no episode [s], 0 to 0.066."""
    max_speed_m_s: float = 3.0
    """Poses that differ by more than this speed allows were not reached by moving: the episode ends."""
    max_turn_rad_s: float = 15.0
    """The same for rotations."""

    def __post_init__(self) -> None:
        SquareImages(1, self.fit)
        size = self.image_size_px
        if isinstance(size, bool) or not isinstance(size, int) or not 8 <= size <= 512:
            raise UserError(f"image_size_px is {size!r}; expected a whole number from 8 to 512")
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if not (number and low <= value <= high):
                raise UserError(f"{name} is {value!r}; expected a number from {low:g} to {high:g}")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> DataSetConfig:
        """Inverse of :meth:`to_json`; UserError for an unknown key or a value out of range."""
        _refuse_unknown(values, cls, "data set option")
        known = dict(values)
        if "scale" in known:
            scale = known["scale"]
            if not isinstance(scale, Mapping):
                raise UserError(f"scale is {scale!r}; expected translation_m and rotation_rad")
            _refuse_unknown(scale, ActionScale, "action scale")
            known["scale"] = ActionScale(**scale)
        return cls(**known)

    def differences(self, other: DataSetConfig) -> list[str]:
        """What differs, e.g. ``["image_size_px 64, not 96"]``: this one's value first."""
        return [
            f"{item.name} {getattr(self, item.name)}, not {getattr(other, item.name)}"
            for item in fields(self)
            if getattr(self, item.name) != getattr(other, item.name)
        ]


def _refuse_unknown(values: Mapping[str, Any], kind: type[DataSetConfig] | type[ActionScale], what: str) -> None:
    names = [item.name for item in fields(kind)]
    for name in values:
        if name not in names:
            raise unknown(what, name, names)
