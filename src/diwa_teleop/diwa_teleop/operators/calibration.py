"""From a tracker's world to the arm's base frame: a rigid transform measured by touching points known in both.

Kabsch's fit (the rotation that minimises the squared distances), refused where it would mean nothing: points on one
line, mirrored points, points that fit badly, a world that would hang upside down.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml
from scipy.spatial.transform import Rotation

from diwa_conventions.actions import FloatArray, Pose
from diwa_conventions.errors import UserError
from diwa_conventions.topics import BASE_FRAME

FORMAT = "diwa operator calibration 1"
MIN_SPREAD_M = 0.03
"""How far points have to be from one line, root mean square: a triangle with sides of 0.1 m has 0.04 m."""
MAX_TILT_RAD = math.radians(10.0)
"""Between the world's up and the arm's: more means that points were confused."""
WORLD_UP: FloatArray = np.array([0.0, 1.0, 0.0])
"""OpenVR's world has y up."""
_MEND = "measure it again: diwa calibrate operator"


@dataclass(frozen=True)
class RigidTransform:
    """``base = rotation @ world + translation``."""

    rotation: FloatArray
    """(3, 3), a proper rotation."""
    translation: FloatArray
    """(3,) [m]."""

    def of(self, pose: Pose) -> Pose:
        """The world's pose in the base frame."""
        return Pose(self.rotation @ pose.position + self.translation, self.rotation @ pose.rotation)

    def of_points(self, points: FloatArray) -> FloatArray:
        """The world's points (N, 3) [m] in the base frame."""
        return points @ self.rotation.T + self.translation

    def tilt_rad(self, up: npt.ArrayLike) -> float:
        """Angle between the world's up and the direction ``up`` (3,) of the base frame."""
        other = np.asarray(up, dtype=np.float64)
        length = float(np.linalg.norm(other))
        if not (other.shape == (3,) and math.isfinite(length) and length > 0.0):
            raise UserError(f"up is {other.tolist()}; expected a direction of three numbers, such as 0 0 1")
        return float(np.arccos(np.clip(self.rotation @ WORLD_UP @ other / length, -1.0, 1.0)))


UNCALIBRATED = RigidTransform(np.array([[0.0, 0.0, -1.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), np.zeros(3))
"""Only the convention of axes: OpenVR's forward (-z), left (-x) and up (y) become x, y and z."""


@dataclass(frozen=True)
class Fit:
    """A transform and how well it maps the points it was made from."""

    transform: RigidTransform
    residuals_m: FloatArray
    """(N,) distance that is left at each point [m]."""

    @property
    def rms_m(self) -> float:
        return float(np.sqrt(np.mean(self.residuals_m**2)))


def fit_rigid(world: npt.ArrayLike, base: npt.ArrayLike) -> Fit:
    """The proper rigid transform that maps points (N, 3) of the world onto those of the base frame, N >= 3.

    UserError for points that are on one line, or that only a mirror could map.
    """
    source, target = _checked_points(world, "touched"), _checked_points(base, "given")
    if source.shape != target.shape:
        raise UserError(f"{len(source)} points were touched, but {len(target)} are given")
    centred, aim = source - source.mean(axis=0), target - target.mean(axis=0)
    left, _, right = np.linalg.svd(aim.T @ centred)
    mirrors = float(np.linalg.det(left @ right)) < 0.0
    proper = _fit(source, target, left @ np.diag([1.0, 1.0, -1.0 if mirrors else 1.0]) @ right)
    if mirrors and _spreads(source)[2] > MIN_SPREAD_M:
        reflected = _fit(source, target, left @ right)
        if reflected.rms_m < 0.5 * proper.rms_m:
            raise UserError(
                f"the touched points are the mirror image of the given ones ({1e3 * proper.rms_m:.0f} mm off without "
                "a mirror); touch them in the order given"
            )
    return proper


def _fit(source: FloatArray, target: FloatArray, rotation: FloatArray) -> Fit:
    transform = RigidTransform(rotation, target.mean(axis=0) - rotation @ source.mean(axis=0))
    return Fit(transform, np.linalg.norm(transform.of_points(source) - target, axis=1))


def check_fit(fit: Fit, limit_m: float, up: npt.ArrayLike) -> None:
    """UserError for a fit that leaves more than ``limit_m``, or that tilts the world's up away from the arm's."""
    worst = int(np.argmax(fit.residuals_m))
    if fit.residuals_m[worst] > limit_m:
        raise UserError(
            f"the points do not fit: {1e3 * fit.residuals_m[worst]:.1f} mm are left at point {worst + 1}, at most "
            f"{1e3 * limit_m:g} mm are allowed; check their coordinates and order, and touch them again"
        )
    tilt = fit.transform.tilt_rad(up)
    if tilt > MAX_TILT_RAD:
        raise UserError(
            f"the tracker's up would be {math.degrees(tilt):.0f} degrees off the arm's; touch the points in the order "
            "given (an arm that is not mounted upright: say with --up where up is)"
        )


def check_points(points: npt.ArrayLike) -> FloatArray:
    """Points (N, 3) that a fit can be made from; UserError for too few, or for points on one line."""
    return _checked_points(points, "given")


def _checked_points(points: npt.ArrayLike, which: str) -> FloatArray:
    array = np.array(points, dtype=np.float64)
    if array.ndim != 2 or array.shape[1:] != (3,) or len(array) < 3 or not np.isfinite(array).all():
        raise UserError(f"the {which} points are {array.tolist()}; expected three or more of three finite numbers [m]")
    spread = _spreads(array)[1]
    if spread < MIN_SPREAD_M:
        raise UserError(
            f"the {which} points are on one line, but for {1e3 * spread:.1f} mm; choose three that span a triangle "
            "with sides of 0.2 m or more"
        )
    return array


def _spreads(points: FloatArray) -> FloatArray:
    """(3,) root mean square extent along the principal axes, the largest first [m]."""
    return np.linalg.svd(points - points.mean(axis=0), compute_uv=False, full_matrices=False) / math.sqrt(len(points))


@dataclass(frozen=True)
class OperatorCalibration:
    """The measured transform, and what was measured when."""

    transform: RigidTransform
    device: str
    """Serial number of the controller that touched the points."""
    measured: str
    """When, ISO 8601."""
    world_m: FloatArray
    """(N, 3), where the points are in the tracker's world."""
    base_m: FloatArray
    """(N, 3), the same in the base frame."""
    base_stations_m: Mapping[str, FloatArray] = field(default_factory=dict)
    """Where the base stations were in the tracker's world, by serial number: to notice one that was moved."""

    def residuals_m(self) -> FloatArray:
        return np.linalg.norm(self.transform.of_points(self.world_m) - self.base_m, axis=1)

    def describe(self) -> str:
        """One line for a person."""
        worst = 1e3 * float(self.residuals_m().max())
        return f"measured {self.measured} with {self.device} at {len(self.world_m)} points, {worst:.1f} mm at the worst"

    def save(self, path: Path) -> None:
        residuals = self.residuals_m()
        points = [
            {"base_m": _listed(base), "world_m": _listed(world), "residual_m": round(float(residual), 6)}
            for base, world, residual in zip(self.base_m, self.world_m, residuals, strict=True)
        ]
        content = {
            "format": FORMAT,
            "frame": BASE_FRAME,
            "measured": self.measured,
            "device": self.device,
            "residual_m": round(float(residuals.max()), 6),
            "rotation": [[float(value) for value in row] for row in self.transform.rotation],
            "translation_m": [float(value) for value in self.transform.translation],
            "points": points,
            "base_stations_m": {name: _listed(place) for name, place in self.base_stations_m.items()},
        }
        head = "# From the tracker's world to the arm's base frame: base = rotation @ world + translation.\n"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(head + yaml.safe_dump(content, sort_keys=False, default_flow_style=None), encoding="utf-8")


def load_calibration(path: Path) -> OperatorCalibration:
    """UserError, with what to do, for a file that is missing or is none."""
    if not path.is_file():
        raise UserError(f"there is no operator calibration {path}; {_MEND} --out {path}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"expected 'format: {FORMAT}'")
        calibration = _from_content(content)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise UserError(f"{path} is no operator calibration: {reason}; {_MEND} --out {path}") from None
    return calibration


def _from_content(content: Mapping[str, Any]) -> OperatorCalibration:
    if content["frame"] != BASE_FRAME:
        raise ValueError(f"frame is {content['frame']!r}, expected {BASE_FRAME!r}")
    rotation = _array(content["rotation"], (3, 3), "rotation")
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-4 or np.linalg.det(rotation) < 0.0:
        raise ValueError("rotation is not one")
    exact = np.asarray(Rotation.from_matrix(rotation).as_matrix(), dtype=np.float64)
    points: Sequence[Mapping[str, Any]] = content["points"]
    return OperatorCalibration(
        RigidTransform(exact, _array(content["translation_m"], (3,), "translation_m")),
        str(content["device"]),
        str(content["measured"]),
        np.array([_array(point["world_m"], (3,), "world_m") for point in points]).reshape(-1, 3),
        np.array([_array(point["base_m"], (3,), "base_m") for point in points]).reshape(-1, 3),
        {str(name): _array(place, (3,), name) for name, place in content["base_stations_m"].items()},
    )


def _array(value: Any, shape: tuple[int, ...], name: str) -> FloatArray:
    array = np.array(value, dtype=np.float64)
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"{name} is {value}, expected {' x '.join(map(str, shape))} finite numbers")
    return array


def _listed(values: npt.ArrayLike) -> list[float]:
    return [round(float(value), 6) for value in np.asarray(values)]
