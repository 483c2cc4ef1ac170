"""Linear probes: ridge regression from latents to what a lab measures, so that their worth is in mm and degrees.

Fitted on closed-loop latents of training episodes; read closed loop and open loop on held-out ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diwa_worldmodel.dataset.sampler import FrameSource
from diwa_worldmodel.evaluation.intervals import Estimate, estimate, plain
from diwa_worldmodel.evaluation.quantities import Quantity
from diwa_worldmodel.evaluation.windows import Window, batches, observe, on_device, read_windows
from diwa_worldmodel.world_model import WorldModel, WorldModelBatch

FloatArray: TypeAlias = "npt.NDArray[np.float64]"
PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0)
LEAST_SPREAD = 0.02
"""What varies by less of its variance in training than that cannot tell a good reading from a bad one."""
SEEN_FRAMES = 2
"""Latents of fewer frames than that since the zero state are not fitted to."""


class RidgeSums:
    """What ridge regression needs to know of any number of rows: X'X, X'Y and Y'Y, with a constant as first feature."""

    def __init__(self, features: int, targets: int) -> None:
        self.gram = torch.zeros(features + 1, features + 1, dtype=torch.float64)
        self.cross = torch.zeros(features + 1, targets, dtype=torch.float64)
        self.squares = torch.zeros(targets, dtype=torch.float64)

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Rows (n, F) and (n, T)."""
        rows, targets = with_constant(features), targets.double()
        self.gram += rows.T @ rows
        self.cross += rows.T @ targets
        self.squares += targets.square().sum(dim=0)

    def plus(self, other: RidgeSums) -> RidgeSums:
        both = RidgeSums(len(self.gram) - 1, self.cross.shape[1])
        both.gram, both.cross = self.gram + other.gram, self.cross + other.cross
        both.squares = self.squares + other.squares
        return both

    def solve(self, penalty: float) -> Tensor:
        """Weights (F + 1, T) that minimise |X w - y|^2 + penalty |w|^2; the constant's is free."""
        ridge = torch.full((len(self.gram),), penalty, dtype=torch.float64)
        ridge[0] = 1e-9
        weights: Tensor = torch.linalg.solve(self.gram + torch.diag(ridge), self.cross)
        return weights

    def squared_error(self, weights: Tensor) -> Tensor:
        """Sum over the rows (T,) for weights that may have been fitted elsewhere."""
        fitted = (weights * (self.gram @ weights)).sum(dim=0)
        return self.squares - 2.0 * (weights * self.cross).sum(dim=0) + fitted

    @property
    def rows(self) -> int:
        return int(self.gram[0, 0])

    @property
    def mean(self) -> Tensor:
        """Of the targets (T,)."""
        return self.cross[0] / self.rows

    @property
    def variance(self) -> Tensor:
        """Of the targets (T,)."""
        return self.squares / self.rows - self.mean.square()


def with_constant(features: Tensor) -> Tensor:
    """Features (..., F) in double precision behind a one: (..., F + 1)."""
    return torch.cat([torch.ones_like(features[..., :1]), features], dim=-1).double()


def fit_ridge(fit: RidgeSums, choose: RidgeSums) -> tuple[Tensor, list[float]]:
    """Weights (F + 1, T) on all rows, and each target's penalty: fitted on ``fit`` it is the best on ``choose``."""
    errors = torch.stack([choose.squared_error(fit.solve(penalty)) for penalty in PENALTIES])
    best = errors.argmin(dim=0)
    together = fit.plus(choose)
    weights = torch.zeros_like(together.cross)
    for number in sorted(set(best.tolist())):
        weights[:, best == number] = together.solve(PENALTIES[number])[:, best == number]
    return weights, [PENALTIES[number] for number in best.tolist()]


def balance_classes(weights: Tensor, sums: RidgeSums, target: int) -> None:
    """Move a two-valued target's readings so that 0.5 lies midway between the means of both classes.

    Otherwise the rarer class is hardly ever read: least squares pulls all readings towards the commoner one.
    """
    ones, rows = sums.cross[0, target], sums.rows
    if 0 < ones < rows:
        mean_one = sums.cross[:, target] / ones
        mean_zero = (sums.gram[:, 0] - sums.cross[:, target]) / (rows - ones)
        weights[0, target] += 0.5 - ((mean_one + mean_zero) / 2 @ weights[:, target])


@dataclass(frozen=True)
class Probe:
    """Reads quantities from latents."""

    quantities: tuple[Quantity, ...]
    weights: Tensor
    """(s + 1, T), targets of all quantities beside each other, in double precision."""
    mean: FloatArray
    """Targets' means over the training frames (T,): what is guessed without looking."""
    variance: FloatArray
    """Of the targets over the training frames (T,)."""
    frames: int
    """That it was fitted on."""
    penalties: tuple[float, ...]

    def read(self, latents: Tensor) -> FloatArray:
        """Targets (..., T) from latents (..., s)."""
        return np.asarray((with_constant(latents.cpu()) @ self.weights).numpy())

    def columns(self, quantity: Quantity) -> slice:
        """Of its targets."""
        at = sum(map(_width, self.quantities[: self.quantities.index(quantity)]))
        return slice(at, at + _width(quantity))


def _width(quantity: Quantity) -> int:
    return int(quantity.targets(np.zeros(max(quantity.columns) + 1)).shape[-1])


def frame_numbers(batch: WorldModelBatch) -> FloatArray:
    """Proprioception and, where known, scene state of all frames (B, T, D)."""
    parts = [batch["proprio"]] + ([] if batch["scene_state"] is None else [batch["scene_state"]])
    return np.asarray(torch.cat([part.cpu() for part in parts], dim=-1).double().numpy())


def all_targets(quantities: Sequence[Quantity], numbers: FloatArray) -> FloatArray:
    """(..., T) from the numbers of frames (..., D)."""
    return np.concatenate([one.targets(numbers) for one in quantities], axis=-1)


@torch.inference_mode()
def fit_probe(
    model: WorldModel,
    source: FrameSource,
    windows: Sequence[Window],
    quantities: tuple[Quantity, ...],
    seed: int,
    device: torch.device,
) -> Probe:
    """From closed-loop latents; every fifth window chooses the penalty. The memory is that of one batch and of X'X."""
    width = sum(map(_width, quantities))
    fit, choose = (RidgeSums(model.config.latent, width) for _ in range(2))
    for numbers in batches(windows):
        batch = on_device(read_windows(source, [windows[i] for i in numbers], seed, model.config.discrete), device)
        latents = observe(model, batch, batch["uniforms"]).latent.cpu()
        targets = torch.from_numpy(all_targets(quantities, frame_numbers(batch)))
        chooses = torch.tensor([number % 5 == 4 for number in numbers])
        for sums, rows in ((fit, ~chooses), (choose, chooses)):
            sums.add(latents[rows, SEEN_FRAMES:].flatten(0, 1), targets[rows, SEEN_FRAMES:].flatten(0, 1))
    weights, penalties = fit_ridge(fit, choose) if choose.rows else (fit.solve(1.0), [1.0] * width)
    together = fit.plus(choose)
    mean, variance = together.mean.numpy(), together.variance.numpy()
    probe = Probe(quantities, weights, mean, variance, together.rows, tuple(penalties))
    for quantity in quantities:
        if quantity.kind == "two-valued":
            balance_classes(weights, together, probe.columns(quantity).start)
    return probe


@dataclass(frozen=True)
class Readings:
    """Of N windows of C + H frames, by the way they were read: targets (N, H, T)."""

    truth: FloatArray
    closed: FloatArray
    open: FloatArray
    held: FloatArray
    """The truth at the last context frame, (N, 1, T): knowing when the dream began, guessing that nothing changes."""


@dataclass(frozen=True)
class ProbeResult:
    """How well one quantity can be read, by horizon (H,)."""

    quantity: Quantity
    errors: dict[str, Estimate]
    """Mean error by WAYS."""
    r2: dict[str, FloatArray]
    """1 - squared error / that of always guessing the training mean; of what is not two-valued, NaN where it hardly
    varies."""
    balanced_accuracy: dict[str, FloatArray]
    """Mean share read rightly of both values; of what is two-valued, NaN where only one occurs."""
    moved: dict[str, FloatArray]
    """``count`` of the windows in which it has changed since the context, and mean errors in them by WAYS."""

    def to_json(self) -> dict[str, Any]:
        quality = {"balanced_accuracy": self.balanced_accuracy} if self.balanced_accuracy else {"r2": self.r2}
        shown = {name: {way: plain(values) for way, values in part.items()} for name, part in quality.items()}
        return {
            "kind": self.quantity.kind,
            "unit": self.quantity.unit,
            "error": {way: one.to_json() for way, one in self.errors.items()},
            **shown,
            "moved": {
                "by_more_than": self.quantity.moved, **{way: plain(values) for way, values in self.moved.items()}
            },
        }  # fmt: skip


WAYS = ("open_loop", "closed_loop", "value_held", "training_mean")


def judge_probe(probe: Probe, readings: Readings, stretches: npt.NDArray[Any], seed: int) -> tuple[ProbeResult, ...]:
    """One result for each quantity."""
    return tuple(_result(one, probe, readings, stretches, seed) for one in probe.quantities)


def _result(
    quantity: Quantity, probe: Probe, readings: Readings, stretches: npt.NDArray[Any], seed: int
) -> ProbeResult:
    columns = probe.columns(quantity)
    truth, mean = readings.truth[..., columns], probe.mean[columns]
    shown = (readings.open, readings.closed, readings.held, probe.mean)
    read = {way: np.broadcast_to(one[..., columns], truth.shape) for way, one in zip(WAYS, shown, strict=True)}
    errors = {way: quantity.error(values, truth) for way, values in read.items()}
    moved = errors["value_held"] > quantity.moved
    r2: dict[str, FloatArray] = {}
    balanced: dict[str, FloatArray] = {}
    with np.errstate(invalid="ignore", divide="ignore"):
        if quantity.kind == "two-valued":
            balanced = {way: _balanced_accuracy(values, truth) for way, values in errors.items()}
        else:
            spread = np.square(truth - mean).sum(axis=(0, 2))
            spread[spread < LEAST_SPREAD * len(truth) * probe.variance[columns].sum()] = np.nan
            r2 = {way: 1.0 - np.square(values - truth).sum(axis=(0, 2)) / spread for way, values in read.items()}
        after = {way: (values * moved).sum(axis=0) / moved.sum(axis=0) for way, values in errors.items()}
    estimates = {way: estimate(values, stretches, seed) for way, values in errors.items()}
    return ProbeResult(quantity, estimates, r2, balanced, {"count": moved.sum(axis=0).astype(np.float64), **after})


def _balanced_accuracy(wrong: FloatArray, truth: FloatArray) -> FloatArray:
    """(H,) from what was read wrongly (N, H) and the truth (N, H, 1)."""
    ones = truth[..., 0] > 0.5
    shares = [((1.0 - wrong) * of).sum(axis=0) / of.sum(axis=0) for of in (ones, ~ones)]
    accuracy: FloatArray = (shares[0] + shares[1]) / 2
    return accuracy
