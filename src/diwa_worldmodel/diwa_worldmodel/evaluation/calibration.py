"""Does the model know when it is wrong? Prior entropy and one-step KL held against true errors, without an ensemble."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression
from scipy.stats import rankdata

from diwa_worldmodel.evaluation.intervals import Estimate, estimate, plain

FloatArray: TypeAlias = "npt.NDArray[np.float64]"
BINS = 10
KNOTS = 40
_SETTLED = 1.25
"""The KL has settled where it stays below this multiple of its later level."""


@dataclass(frozen=True)
class Settling:
    """The one-step KL [nat] after a start from the zero state."""

    kl: Estimate
    """(W,) by the number of frames seen before."""
    level: float
    """Median of the means over the later half."""
    warmup_steps: int
    """Frames after which the mean stays near that level."""

    def to_json(self) -> dict[str, Any]:
        return {"kl": self.kl.to_json(), "level": self.level, "warmup_steps": self.warmup_steps}


def settling(kl: npt.NDArray[Any], stretches: npt.NDArray[Any], seed: int = 0) -> Settling:
    """From KL (N, W) of windows that start from the zero state."""
    over_time = estimate(kl, stretches, seed)
    later = over_time.mean[len(over_time.mean) // 2 :]
    level = float(np.median(later))
    above = np.flatnonzero(over_time.mean[: len(over_time.mean) // 2] > _SETTLED * level)
    return Settling(over_time, level, int(above[-1]) + 1 if len(above) else 0)


@dataclass(frozen=True)
class Map:
    """A rising, piecewise linear map from a signal to the error to be expected; constant outside the knots."""

    signal: FloatArray
    error: FloatArray

    def __call__(self, signal: npt.NDArray[Any]) -> FloatArray:
        return np.asarray(np.interp(signal, self.signal, self.error))


def fit_map(signal: npt.NDArray[Any], error: npt.NDArray[Any]) -> Map:
    """Isotonic regression (pooling of adjacent violators) through the means of at most KNOTS equally full bins."""
    order = np.argsort(signal, kind="stable")
    bins = [part for part in np.array_split(order, min(KNOTS, len(order))) if len(part)]
    signals = np.array([signal[part].mean(dtype=np.float64) for part in bins])
    errors = np.array([error[part].mean(dtype=np.float64) for part in bins])
    counts = np.array([len(part) for part in bins], dtype=np.float64)
    return Map(signals, np.asarray(isotonic_regression(errors, weights=counts).x, dtype=np.float64))


@dataclass(frozen=True)
class Reliability:
    """How far a signal can be trusted to foretell an error."""

    signal: str
    error: str
    unit: str
    map: Map
    """Fitted on one half of the stretches; what follows was measured on the other."""
    expected: FloatArray
    """(BINS,) mean of the map's answers in equally full bins of the signal."""
    true: Estimate
    """(BINS,) errors."""
    rank_correlation: float
    """Spearman's, over all pairs; NaN if signal or error is constant."""
    at_equal_horizon: float
    """The same within each step after the start, averaged: errors and entropies both grow with the horizon."""

    def to_json(self) -> dict[str, Any]:
        return {
            "signal": self.signal,
            "error": self.error,
            "unit": self.unit,
            "map": {"signal": plain(self.map.signal), "error": plain(self.map.error)},
            "reliability": {"expected": plain(self.expected), "true": self.true.to_json()},
            "rank_correlation": _or_none(self.rank_correlation),
            "rank_correlation_at_equal_horizon": _or_none(self.at_equal_horizon),
        }


def _or_none(value: float) -> float | None:
    return round(value, 4) if np.isfinite(value) else None


def reliability(
    names: tuple[str, str],
    unit: str,
    signal: npt.NDArray[Any],
    error: npt.NDArray[Any],
    stretches: npt.NDArray[Any],
    seed: int = 0,
) -> Reliability | None:
    """Of signal and error (N, T) of N windows; None for windows of one stretch, which leaves nothing to check with."""
    numbered = np.unique(stretches, return_inverse=True)[1]
    # Neighbouring stretches take turns, so that neither half is one episode.
    fits = numbered % 2 == 0
    if fits.all():
        return None
    fitted = fit_map(signal[fits].ravel(), error[fits].ravel())
    flat_signal, flat_error = signal[~fits].ravel(), error[~fits].ravel()
    cluster = np.repeat(stretches[~fits], signal.shape[1])
    order = np.argsort(flat_signal, kind="stable")
    binned = np.full((len(order), BINS), np.nan)
    for number, part in enumerate(np.array_split(order, BINS)):
        binned[part, number] = flat_error[part]
    true = estimate(binned, cluster, seed)
    parts = np.array_split(order, BINS)
    expected = np.array([fitted(flat_signal[part]).mean() if len(part) else np.nan for part in parts])
    within = [rank_correlation(one, other) for one, other in zip(signal.T, error.T, strict=True)]
    known = [value for value in within if np.isfinite(value)]
    return Reliability(
        *names, unit, fitted, expected, true,
        rank_correlation(signal, error), float(np.mean(known)) if known else float("nan"),
    )  # fmt: skip


def rank_correlation(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> float:
    """Spearman's; NaN where one of both is constant."""
    ranks = [rankdata(one, axis=None) for one in (first, second)]
    deviations = [one - one.mean() for one in ranks]
    spread = float(np.sqrt(np.square(deviations[0]).sum() * np.square(deviations[1]).sum()))
    return float((deviations[0] * deviations[1]).sum()) / spread if spread > 0 else float("nan")


def reliabilities(
    signals: Mapping[str, npt.NDArray[Any]],
    errors: Mapping[str, tuple[str, npt.NDArray[Any]]],
    pairs: tuple[tuple[str, str], ...],
    stretches: npt.NDArray[Any],
    seed: int = 0,
) -> tuple[Reliability, ...]:
    """Of each pair (signal, error) that is known; ``errors`` are (unit, values)."""
    found = [
        reliability((signal, error), errors[error][0], signals[signal], errors[error][1], stretches, seed)
        for signal, error in pairs
        if signal in signals and error in errors
    ]
    return tuple(one for one in found if one is not None)
