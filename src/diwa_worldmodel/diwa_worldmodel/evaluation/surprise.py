"""The bound on the one-step KL above which a serving policy should stop, and what faults it catches.

All of it is filtered as in serving: posterior, most probable class of every group, no random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diwa_conventions.rates import TRAIN_RATE_HZ
from diwa_worldmodel.dataset.sampler import FrameSource
from diwa_worldmodel.evaluation.windows import Window, batches, observe, on_device, read_windows
from diwa_worldmodel.rssm import kl_divergence
from diwa_worldmodel.world_model import WorldModel, WorldModelBatch

QUANTILE = 0.999
MEAN_STEPS = 8
"""A second: the mean KL over so many steps has a bound as well, which tells faults much better."""
SOUND_STEPS = 16
"""Faults begin after so many steps."""
FAULT_STEPS = 16
"""Two seconds of single frames, within which a fault is to be noticed."""
NO_FAULT, SWAPPED = "none", "cameras swapped"

FloatArray: TypeAlias = "npt.NDArray[np.float64]"
Fault: TypeAlias = Callable[[WorldModelBatch], WorldModelBatch]


@dataclass(frozen=True)
class Detection:
    """How one fault shows."""

    fault: str
    detected: float
    """Share of the windows in which the bound is passed within FAULT_STEPS."""
    median_delay_s: float
    """From the fault's first frame, where it is detected; NaN if it never is."""
    windows: int

    def to_json(self) -> dict[str, Any]:
        delay = self.median_delay_s
        return {
            "detected": self.detected,
            "median_delay_s": delay if np.isfinite(delay) else None,
            "windows": self.windows,
        }


@dataclass(frozen=True)
class Bound:
    """On the KL [nat] of one step, or on its mean over several."""

    steps: int
    step_s: float
    """Of the world model: one or several frames."""
    bound: float
    """QUANTILE of it on sound held-out frames."""
    samples: int
    """That it is the quantile of; neighbouring means share frames."""
    false_alarm_share: float
    """Of sound steps: bound from one half of the windows, share above it in the other, both ways round."""
    quantiles: Mapping[str, float]
    """0.5, 0.9, 0.99, 0.999 and 1.0, the largest."""
    detections: tuple[Detection, ...]
    """The first is NO_FAULT: false alarms within FAULT_STEPS."""

    @property
    def false_alarm_steps_per_minute(self) -> float:
        return 60.0 / self.step_s * self.false_alarm_share

    @property
    def within_s(self) -> float:
        """How long faults had to be noticed."""
        return FAULT_STEPS * self.step_s

    def of(self, fault: str) -> Detection:
        """How it shows; KeyError if it was not tried."""
        return {one.fault: one for one in self.detections}[fault]

    def to_json(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "bound": self.bound,
            "samples": self.samples,
            "false_alarm_share": self.false_alarm_share,
            "false_alarm_steps_per_minute": self.false_alarm_steps_per_minute,
            "quantiles": dict(self.quantiles),
            "detections": {one.fault: {**one.to_json(), "within_s": self.within_s} for one in self.detections},
        }


@dataclass(frozen=True)
class Surprise:
    """Bounds for serving."""

    warmup_steps: int
    """Steps after a start from the zero state that were left out, and are to be left out when serving."""
    one_step: Bound
    mean: Bound
    """Over MEAN_STEPS steps."""

    def to_json(self) -> dict[str, Any]:
        return {
            "quantile": QUANTILE,
            "warmup_steps": self.warmup_steps,
            "sampling": "mode",
            "one_step": self.one_step.to_json(),
            "mean": self.mean.to_json(),
        }


@torch.inference_mode()
def filtered_kl(model: WorldModel, batch: WorldModelBatch) -> Tensor:
    """One-step KL (B, T) [nat] over a batch that starts from the zero state."""
    seen = observe(model, batch, None)
    return kl_divergence(seen.posterior, seen.prior)


def sound_kl(
    model: WorldModel, source: FrameSource, windows: Sequence[Window], warmup_steps: int, device: torch.device
) -> FloatArray:
    """(n, T) of windows as they are, without their first ``warmup_steps``."""
    rows = np.zeros((len(windows), windows[0].length - warmup_steps))
    for numbers in batches(windows):
        batch = read_windows(source, [windows[i] for i in numbers], 0, model.config.discrete)
        rows[numbers] = filtered_kl(model, on_device(batch, device)).cpu()[:, warmup_steps:]
    return rows


def faults(model: WorldModel, batch: WorldModelBatch) -> dict[str, Fault]:
    """Those that a model with these cameras can meet, by name."""
    cameras = list(model.config.cameras)
    found: dict[str, Fault] = {NO_FAULT: lambda sound: sound}
    if len(cameras) > 1:
        found[SWAPPED] = lambda sound: _swapped(sound, cameras)
    for name in cameras:
        found[f"{name} camera frozen"] = lambda sound, name=name: _frozen(sound, name)  # type: ignore[misc]
    if len(batch["reset"]) > 1:
        found["actions of another episode"] = _other_actions
    return found


def _swapped(sound: WorldModelBatch, cameras: Sequence[str]) -> WorldModelBatch:
    """Each camera shows the next one's pictures, from the first frame on."""
    others = [*cameras[1:], cameras[0]]
    images = {**sound["images"], **{a: sound["images"][b] for a, b in zip(cameras, others, strict=True)}}
    return {**sound, "images": images}


def _frozen(sound: WorldModelBatch, camera: str) -> WorldModelBatch:
    images = sound["images"][camera].clone()
    images[:, SOUND_STEPS:] = images[:, SOUND_STEPS - 1 : SOUND_STEPS]
    return {**sound, "images": {**sound["images"], camera: images}}


def _other_actions(sound: WorldModelBatch) -> WorldModelBatch:
    actions = sound["previous_action"].clone()
    actions[:, SOUND_STEPS:] = actions.roll(max(len(actions) // 2, 1), dims=0)[:, SOUND_STEPS:]
    return {**sound, "previous_action": actions}


def faulty_kl(
    model: WorldModel, source: FrameSource, windows: Sequence[Window], device: torch.device
) -> dict[str, FloatArray]:
    """(n, T) by fault, in windows of SOUND_STEPS + FAULT_STEPS; NO_FAULT comes first."""
    rows: dict[str, FloatArray] = {}
    for numbers in batches(windows):
        chosen = [windows[i] for i in numbers]
        batch = on_device(read_windows(source, chosen, 0, model.config.discrete), device)
        for name, fault in faults(model, batch).items():
            array = rows.setdefault(name, np.full((len(windows), windows[0].length), np.nan))
            array[numbers] = filtered_kl(model, fault(batch)).cpu()
    return rows


def bound_surprise(
    sound: FloatArray, faulty: Mapping[str, FloatArray], warmup_steps: int, step_s: float = 1.0 / TRAIN_RATE_HZ
) -> Surprise:
    """Bounds from KL (n, T) in sound operation, judged by :func:`faulty_kl`'s."""
    several = min(MEAN_STEPS, sound.shape[1])
    return Surprise(warmup_steps, _bound(sound, faulty, 1, step_s), _bound(sound, faulty, several, step_s))


def _bound(sound: FloatArray, faulty: Mapping[str, FloatArray], steps: int, step_s: float) -> Bound:
    means = running_mean(sound, steps)
    bound = float(np.quantile(means, QUANTILE))
    halves = (means[::2], means[1::2]) if len(means) > 1 else tuple(np.array_split(means[0], 2))
    crossed = [np.mean(other > np.quantile(one, QUANTILE)) for one, other in (halves, halves[::-1])]
    levels = {str(q): float(np.quantile(means, q)) for q in (0.5, 0.9, 0.99, QUANTILE)}
    return Bound(
        steps=steps,
        step_s=step_s,
        bound=bound,
        samples=means.size,
        false_alarm_share=float(np.mean(crossed)),
        quantiles={**levels, "1.0": float(means.max())},
        detections=tuple(_detection(name, running_mean(kl, steps), bound, step_s) for name, kl in faulty.items()),
    )


def running_mean(values: FloatArray, steps: int) -> FloatArray:
    """Means (n, T - steps + 1) over so many neighbours of values (n, T)."""
    return np.asarray(np.lib.stride_tricks.sliding_window_view(values, steps, axis=1).mean(axis=-1))


def _detection(fault: str, means: FloatArray, bound: float, step_s: float) -> Detection:
    known = means[np.isfinite(means).all(axis=1)][:, -FAULT_STEPS:]
    delays = [np.flatnonzero(row > bound)[:1] for row in known]
    found = np.concatenate([*delays, np.zeros(0)]) * step_s
    detected = len(found) / len(known) if len(known) else float("nan")
    return Detection(fault, detected, float(np.median(found)) if len(found) else float("nan"), len(known))
