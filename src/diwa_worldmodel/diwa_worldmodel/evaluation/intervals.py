"""Means with 95% intervals by the bootstrap over stretches of play: overlapping windows count as what they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = "npt.NDArray[np.float64]"
RESAMPLES = 1000


@dataclass(frozen=True)
class Estimate:
    """Means (H,) and bounds of their 95% intervals; NaN where nothing was measured."""

    mean: FloatArray
    low: FloatArray
    high: FloatArray

    def to_json(self) -> dict[str, Any]:
        return {name: plain(getattr(self, name)) for name in ("mean", "low", "high")}


def estimate(values: npt.NDArray[Any], stretches: npt.NDArray[Any], seed: int = 0) -> Estimate:
    """Of values (N, ...) over the first axis; row n belongs to stretch ``stretches[n]``. NaN counts as not measured."""
    _, cluster = np.unique(stretches, return_inverse=True)
    clusters = int(cluster.max()) + 1
    flat = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
    known = np.isfinite(flat)
    sums, counts = np.zeros((2, clusters, flat.shape[1]))
    np.add.at(sums, cluster, np.where(known, flat, 0.0))
    np.add.at(counts, cluster, known)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(clusters, np.full(clusters, 1.0 / clusters), size=RESAMPLES).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums.sum(axis=0) / counts.sum(axis=0)
        resampled = (weights @ sums) / (weights @ counts)
    # One stretch alone says nothing about others.
    low, high = _percentiles(resampled if clusters > 1 else np.full_like(resampled, np.nan))
    shape = np.asarray(values).shape[1:]
    return Estimate(mean.reshape(shape), low.reshape(shape), high.reshape(shape))


def _percentiles(resampled: FloatArray) -> FloatArray:
    """2.5% and 97.5% of the resamples (R, H) in which anything was measured, (2, H)."""
    bounds = np.full((2, resampled.shape[1]), np.nan)
    some = np.isfinite(resampled).any(axis=0)
    bounds[:, some] = np.nanpercentile(resampled[:, some], (2.5, 97.5), axis=0)
    return bounds


def plain(values: npt.NDArray[Any]) -> list[Any]:
    """For JSON: six digits, None for NaN."""

    def rounded(value: Any) -> Any:
        if isinstance(value, list):
            return [rounded(one) for one in value]
        return float(f"{value:.6g}") if np.isfinite(value) else None

    content = rounded(np.asarray(values, dtype=np.float64).tolist())
    assert isinstance(content, list)
    return content
