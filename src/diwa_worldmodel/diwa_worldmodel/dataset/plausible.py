"""Numbers that cannot be right: other units, other meanings. Where a wrong reading would be silent, it is refused.

Each check says the range that was found, what it looks like and the option that reads it. The ranges of a Franka arm
and its hand stand here alone (Franka's data sheets and FCI documentation).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from diwa_conventions.actions import GRIPPER_CLOSE, GRIPPER_OPEN
from diwa_conventions.errors import UserError

FloatArray: TypeAlias = npt.NDArray[np.float64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

HAND_WIDTH_M = 0.08
"""Opening of the Franka hand."""
WIDTH_TOLERANCE_M = 0.02
"""Encoders and stops of real hands give, and simulated fingers that squeeze go 15 mm beyond closed."""
REACH_M = 0.855
"""From the base to the wrist's centre; with hand, longer fingers and a base off the origin up to FARTHEST_M."""
FARTHEST_M = 2.0
LARGEST_ANGLE_RAD = 4.0 * np.pi
"""Angles that are unwound go beyond one turn, hardly beyond two."""

_SHARE = 0.05
"""Part of the commands that has to lie at both ends, so that they are two-sided."""
_FEWEST = 8
_APART_M = 0.01
_LARGE, _SMALL = 8.0, 1 / 300
"""Commanded over measured way: noise makes the measured one longer, hardly ever shorter."""
_MOVED_M, _TURNED_RAD = 0.1, 0.5


@dataclass(frozen=True)
class GripperOptions:
    """What numbers a gripper's commands are."""

    threshold: float = 0.0
    """Commands at or above it open the gripper, those below close it."""
    inverted: bool = False
    """Commands at or above the threshold close it instead."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.threshold):
            raise UserError(f"gripper_threshold is {self.threshold!r}; expected a number")

    def to_json(self) -> dict[str, str]:
        """Those that are not the default."""
        options = {} if self.threshold == 0.0 else {"gripper_threshold": f"{self.threshold:g}"}
        return {**options, "gripper_inverted": "True"} if self.inverted else options

    def signs(self, commands: FloatArray) -> FloatArray:
        """(N,) +1 opens, -1 closes; NaN where the command (N,) is not finite."""
        return np.where(np.isfinite(commands), gripper_signs(commands, self.threshold, self.inverted), np.nan)


def gripper_signs(commands: FloatArray, threshold: float = 0.0, inverted: bool = False) -> FloatArray:
    """(N,) +1 opens, -1 closes: commands (N,) at or above the threshold open, or close if ``inverted``."""
    return np.where((commands >= threshold) != inverted, GRIPPER_OPEN, GRIPPER_CLOSE).astype(np.float64)


def check_gripper_commands(
    commands: FloatArray, threshold: float, where: str, prefix: str = "--", widths_m: FloatArray | None = None
) -> None:
    """UserError for commands (N,) that go to and fro on one side of the threshold: all would mean the same.

    ``widths_m`` (F,) is the measured hand at 7.5 Hz. A hand that moves against what all commands would mean shows that
    they mean something else, however seldom they change. ``prefix`` stands before the options' names.
    """
    finite = commands[np.isfinite(commands)]
    if not len(finite):
        return
    low, high = float(finite.min()), float(finite.max())
    span, largest = high - low, max(abs(low), abs(high))
    if span < 1e-6 or low < threshold <= high:
        return
    all_open = low >= threshold
    ends = [float(np.mean(np.abs(finite - end) <= 0.1 * span)) for end in (low, high)]
    near_zero = min(abs(low), abs(high)) <= 0.1 * largest
    to_and_fro = min(ends) >= _SHARE and (threshold != 0.0 or near_zero)
    disobeyed = span > 0.1 * largest and widths_m is not None and _moves_against(widths_m, opens=all_open)
    if not (to_and_fro or disobeyed):
        return
    middle = (low + high) / 2
    raise UserError(
        f"{where}: gripper commands go from {low:g} to {high:g}, so that all of them would "
        f"{'open' if all_open else 'close'} the gripper (threshold {threshold:g}); they look like "
        f"{_looks_like_command(high)}: say {prefix}gripper-threshold {middle:g}, and {prefix}gripper-inverted if the "
        "larger ones close it"
    )


def _moves_against(widths_m: FloatArray, opens: bool) -> bool:
    """Whether a hand (F,) closes though it is always told to open, or opens though it is always told to close.

    The first second does not count: a command from before the recording may still be carried out.
    """
    finite = widths_m[np.isfinite(widths_m)][_FEWEST:]
    if not len(finite):
        return False
    heights = finite if opens else -finite
    return bool((np.maximum.accumulate(heights) - heights).max() > _APART_M)


def _looks_like_command(high: float) -> str:
    if abs(high - 1.0) < 0.05:
        return "a fraction from 0 to 1"
    if 0.0 < high <= HAND_WIDTH_M + WIDTH_TOLERANCE_M:
        return "a width in metres"
    return "a width in millimetres" if 30.0 <= high <= 90.0 else "another scale"


def check_gripper_sense(signs: FloatArray, widths_m: FloatArray, where: str, prefix: str = "--") -> None:
    """UserError where the hand is wider while it is told to close (N,) than while it is told to open.

    Fingers that hold something, lag or hardly move raise no alarm.
    """
    finite = np.isfinite(widths_m)
    opened, closed = widths_m[finite & (signs > 0)], widths_m[finite & (signs < 0)]
    if min(len(opened), len(closed)) < _FEWEST:
        return
    wide, narrow = float(np.median(closed)), float(np.median(opened))
    changes = np.flatnonzero(np.diff(signs)) + 1
    after = np.minimum(changes + _FEWEST, len(signs) - 1)
    moved = (widths_m[after] - widths_m[changes - 1]) * signs[changes]
    moved = moved[np.abs(moved) > _APART_M / 2]
    if wide > narrow + _APART_M and len(moved) and np.mean(moved < 0) > 0.5:
        raise UserError(
            f"{where}: the gripper is {1000 * wide:.0f} mm wide while it is told to close and {1000 * narrow:.0f} mm "
            f"while it is told to open; the commands look inverted: say {prefix}gripper-inverted"
        )


def check_widths(widths: FloatArray, where: str, prefix: str = "--") -> list[str]:
    """UserError for widths (N,) [m] that no Franka hand has; remarks on those that it might have by mistake."""
    finite = widths[np.isfinite(widths)]
    if not len(finite):
        return []
    low, high = float(finite.min()), float(finite.max())
    if low < -WIDTH_TOLERANCE_M or high > HAND_WIDTH_M + WIDTH_TOLERANCE_M:
        found = (
            f"{where}: gripper widths go from {low:g} to {high:g} m; a Franka hand opens from 0 to {HAND_WIDTH_M:g} m"
        )
        if low < -WIDTH_TOLERANCE_M:
            raise UserError(f"{found}; they look like angles, or widths from another zero: convert them first")
        raise UserError(
            f"{found}; they look like {_looks_like_width(high)}: say {prefix}width-scale {_width_scale(high)} if that "
            "makes them metres"
        )
    if 0.96 * HAND_WIDTH_M / 2 <= high <= 1.02 * HAND_WIDTH_M / 2 and low < HAND_WIDTH_M / 8:
        return [
            f"{where}: gripper widths go up to {high:.4f} m, half of a Franka hand's; if they are those of one finger "
            f"of two, say {prefix}width-scale 2"
        ]
    return []


def _looks_like_width(high: float) -> str:
    if high <= 1.1:
        return "a fraction from 0 to 1 or an angle in rad"
    return "millimetres" if high <= 1000 * (HAND_WIDTH_M + WIDTH_TOLERANCE_M) else "counts of a motor or of a byte"


def _width_scale(high: float) -> str:
    return "0.001" if 1.1 < high <= 1000 * (HAND_WIDTH_M + WIDTH_TOLERANCE_M) else f"{HAND_WIDTH_M / high:.3g}"


def check_positions(positions: FloatArray, where: str, prefix: str = "--") -> None:
    """UserError for positions (N, 3) [m] farther away than an arm reaches."""
    finite = positions[np.isfinite(positions).all(axis=1)]
    farthest = float(np.linalg.norm(finite, axis=1).max()) if len(finite) else 0.0
    if farthest <= FARTHEST_M:
        return
    scale, unit = (0.001, "millimetres") if farthest > 100 * FARTHEST_M else (0.01, "centimetres")
    raise UserError(
        f"{where}: the tool is up to {farthest:g} m from the origin; a Franka arm reaches {REACH_M:g} m; that looks "
        f"like {unit}: say {prefix}position-scale {scale:g}"
    )


def check_angles(angles: FloatArray, where: str, option: str) -> None:
    """UserError for angles (N, ...) [rad] that look like degrees."""
    finite = angles[np.isfinite(angles)]
    largest = float(np.abs(finite).max()) if len(finite) else 0.0
    if largest > LARGEST_ANGLE_RAD:
        raise UserError(f"{where}: angles up to {largest:g} rad; that looks like degrees: say {option}")


def check_quaternions(quaternions: FloatArray, where: str, option: str) -> None:
    """UserError for quaternions (N, 4), read with the scalar last, that make sense with the scalar first.

    The length cannot tell; but a tool over a table points down, in most frames.
    """
    lengths = np.linalg.norm(quaternions, axis=1)
    usual = quaternions[np.isfinite(lengths) & (np.abs(lengths - 1.0) < 0.05)]
    if len(usual) < _FEWEST:
        return
    last, first = (float(_up(values).mean()) for values in (usual, np.roll(usual, -1, axis=1)))
    if last > -0.5 and first < -0.9:
        raise UserError(
            f"{where}: the tool points down in hardly any frame, and in nearly all if the quaternions' scalar comes "
            f"first (w x y z): say {option}"
        )


def _up(quaternions: FloatArray) -> FloatArray:
    """(N,) height of the tool's z axis, -1: it points down."""
    return np.asarray(Rotation.from_quat(quaternions).as_matrix()[:, 2, 2])


def check_steps(commanded: FloatArray, measured: FloatArray, what: str, where: str, option: str) -> None:
    """UserError where the commanded steps (N, 3) are many times as large, or as small, as the measured ones (N, 3).

    ``what`` is ``m`` or ``rad``.
    """
    asked, done = (float(np.linalg.norm(steps, axis=1).sum()) for steps in (commanded, measured))
    if min(asked, done) <= 0.0 or done < (_MOVED_M if what == "m" else _TURNED_RAD):
        return
    ratio = asked / done
    if _SMALL <= ratio <= _LARGE:
        return
    raise UserError(
        f"{where}: the actions add up to {asked:.3g} {what} and the tool moved {done:.3g} {what}, {ratio:.3g} times; "
        f"they look like {_looks_like_step(ratio, what)}: say {option} {1 / ratio:.2g} times what it was"
    )


def _looks_like_step(ratio: float, what: str) -> str:
    if what == "m" and ratio > 300:
        return "millimetres"
    if what == "rad" and 30 < ratio < 120:
        return "degrees"
    return "numbers of another scale"
