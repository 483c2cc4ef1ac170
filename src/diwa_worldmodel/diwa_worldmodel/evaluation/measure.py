"""Measures a world model on a data set: everything that the report says, as numbers and a few pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from diwa_conventions.errors import UserError
from diwa_conventions.rates import TRAIN_RATE_HZ
from diwa_worldmodel.dataset.records import Episode
from diwa_worldmodel.evaluation.calibration import Reliability, Settling, reliabilities, settling
from diwa_worldmodel.evaluation.films import Footage, Pick, footage, pick
from diwa_worldmodel.evaluation.horizons import CameraErrors, camera_errors
from diwa_worldmodel.evaluation.open_loop import (
    AREAS,
    OPEN_LOOP,
    PREDICTORS,
    WHOLE,
    Collected,
    dreams,
    picture_errors,
    training_pictures,
)
from diwa_worldmodel.evaluation.play import Play
from diwa_worldmodel.evaluation.probes import (
    SEEN_FRAMES,
    Probe,
    ProbeResult,
    Readings,
    all_targets,
    fit_probe,
    frame_numbers,
    judge_probe,
)
from diwa_worldmodel.evaluation.surprise import (
    FAULT_STEPS,
    SOUND_STEPS,
    Surprise,
    bound_surprise,
    faulty_kl,
    sound_kl,
)
from diwa_worldmodel.evaluation.windows import Window, choose_windows
from diwa_worldmodel.world_model import WorldModel

Progress: TypeAlias = Callable[[str], None]
PROBE_WINDOW = 50
PICTURE_WINDOW = 10
PICTURE_FRAMES = 600
SOUND_WINDOW = 128
PAIRS = (
    ("one_step_kl", "one_step_image_mse"),
    ("prior_entropy", "one_step_image_mse"),
    ("dreamed_entropy", "open_loop_image_mse"),
    ("dreamed_entropy", "open_loop_position_mm"),
)


@dataclass(frozen=True)
class Settings:
    """How much is measured."""

    context: int = 2
    horizon: int = 80
    starts: int = 64
    probe_frames: int = 8000
    sound_frames: int = 10_000
    seed: int = 0

    @property
    def window(self) -> int:
        return self.context + self.horizon


@dataclass(frozen=True)
class Dreamed:
    """What was measured in N windows of W = C + H frames; numbers only, no pictures and no latents."""

    errors: dict[str, npt.NDArray[np.float32]]
    """Of each camera, mean squared errors of pixels in [0, 1]: (N, P, A, H) by PREDICTORS and AREAS."""
    one_step_error: npt.NDArray[np.float32]
    """(N, W) of the picture that the prior shows one step ahead, mean over the cameras."""
    kl: npt.NDArray[np.float32]
    """(N, W) [nat]."""
    prior_entropy: npt.NDArray[np.float32]
    """(N, W) [nat], closed loop."""
    dreamed_entropy: npt.NDArray[np.float32]
    """(N, H) [nat]."""
    readings: Readings

    @property
    def own_error(self) -> npt.NDArray[np.float32]:
        """(N, H) of the open loop's whole pictures, mean over the cameras."""
        predictor, area = PREDICTORS.index(OPEN_LOOP), AREAS.index(WHOLE)
        return np.asarray(np.mean([errors[:, predictor, area] for errors in self.errors.values()], axis=0))


@dataclass(frozen=True)
class Measurements:
    """Of one world model."""

    windows: tuple[Window, ...]
    cameras: tuple[CameraErrors, ...]
    probe: Probe
    probes: tuple[ProbeResult, ...]
    settling: Settling
    dreamed_entropy: npt.NDArray[np.float64]
    """(H,) mean [nat]."""
    sound_entropy: float
    """Mean of the prior's entropy [nat] in the closed loop, after the warm-up."""
    reliabilities: tuple[Reliability, ...]
    surprise: Surprise
    picks: tuple[tuple[Pick, Footage], ...]

    @property
    def stretches(self) -> int:
        """Of play that hardly overlap: what the intervals are made of."""
        return len({window.stretch for window in self.windows})


def measure_world_model(
    model: WorldModel, play: Play, settings: Settings, device: torch.device, progress: Progress = lambda part: None
) -> Measurements:
    """All of it, the same for the same seed and machine. UserError if no held-out episode is long enough."""
    _check_lengths(play, settings)
    windows = choose_windows(play.held_out.episodes, settings.window, settings.starts)
    progress("fitting probes")
    probe = fit_probe(model, play.training, _probe_windows(play, settings), play.quantities, settings.seed, device)
    progress("dreaming")
    dreamed = _dream(model, play, windows, probe, settings, device)
    stretches = np.array([window.stretch for window in windows])
    settled = settling(dreamed.kl, stretches, settings.seed)
    progress("looking for surprise")
    surprise = _surprise(model, play, settings, settled.warmup_steps, device)
    progress("picking films")
    picks = pick(dreamed.own_error.mean(axis=1))
    shown = [
        footage(model, play.held_out, windows[one.number], settings.context, settings.seed, device) for one in picks
    ]
    return Measurements(
        windows=tuple(windows),
        cameras=tuple(camera_errors(name, one, stretches, settings.seed) for name, one in dreamed.errors.items()),
        probe=probe,
        probes=judge_probe(probe, dreamed.readings, stretches, settings.seed),
        settling=settled,
        dreamed_entropy=dreamed.dreamed_entropy.mean(axis=0, dtype=np.float64),
        sound_entropy=float(dreamed.prior_entropy[:, settled.warmup_steps :].mean()),
        reliabilities=_reliabilities(dreamed, probe, stretches, settled.warmup_steps, settings.seed),
        surprise=surprise,
        picks=tuple(zip(picks, shown, strict=True)),
    )


def _check_lengths(play: Play, settings: Settings) -> None:
    longest, learned = (max(one.length for one in source.episodes) for source in (play.held_out, play.training))
    if longest < settings.window:
        shorter = longest - settings.context
        hint = f"choose --horizon {shorter} or less, or " if shorter > 0 else ""
        raise UserError(
            f"a dream of {settings.horizon} steps after {settings.context} frames needs {settings.window} frames in a "
            f"row; the longest episode to measure on has {longest}: {hint}hold out longer episodes"
        )
    if learned <= SEEN_FRAMES:
        raise UserError(f"the longest episode to fit probes to has {learned} frames; expected more than {SEEN_FRAMES}")


def _probe_windows(play: Play, settings: Settings) -> list[Window]:
    length = min(PROBE_WINDOW, max(episode.length for episode in play.training.episodes))
    return choose_windows(play.training.episodes, length, max(settings.probe_frames // length, 1))


def _dream(
    model: WorldModel,
    play: Play,
    windows: Sequence[Window],
    probe: Probe,
    settings: Settings,
    device: torch.device,
) -> Dreamed:
    """Dreams of all windows, batch by batch: only numbers are kept."""
    context, cameras = settings.context, model.config.cameras
    length = min(PICTURE_WINDOW, max(episode.length for episode in play.training.episodes))
    spread = choose_windows(play.training.episodes, length, PICTURE_FRAMES // length)
    pictures = training_pictures(play.training, cameras, spread)
    found = Collected(len(windows))
    for numbers, batch, dreamt in dreams(model, play.held_out, windows, context, settings.seed, device):
        errors, one_step = picture_errors(model, batch["images"], dreamt, pictures)
        found.add(numbers, **{f"errors {name}": one for name, one in errors.items()}, one_step_error=one_step)
        found.add(numbers, kl=dreamt.kl, prior=dreamt.prior_entropy, dreamed=dreamt.dreamed_entropy)
        truth = all_targets(play.quantities, frame_numbers(batch))
        found.add(numbers, truth=truth[:, context:], held=truth[:, context - 1 : context])
        found.add(numbers, closed=probe.read(dreamt.closed[:, context:]), open=probe.read(dreamt.open))
    return Dreamed(
        errors={name: found[f"errors {name}"] for name in cameras},
        one_step_error=found["one_step_error"],
        kl=found["kl"],
        prior_entropy=found["prior"],
        dreamed_entropy=found["dreamed"],
        readings=Readings(found["truth"], found["closed"], found["open"], found["held"]),
    )


def _surprise(model: WorldModel, play: Play, settings: Settings, warmup_steps: int, device: torch.device) -> Surprise:
    longest = max(episode.length for episode in play.held_out.episodes)
    length = min(SOUND_WINDOW, longest)
    sound = choose_windows(
        play.held_out.episodes, length, _fitting(play.held_out.episodes, length, settings.sound_frames)
    )
    kl = sound_kl(model, play.held_out, sound, min(warmup_steps, length // 2), device)
    faulty: dict[str, npt.NDArray[np.float64]] = {}
    if longest >= SOUND_STEPS + FAULT_STEPS:
        tried = choose_windows(play.held_out.episodes, SOUND_STEPS + FAULT_STEPS, settings.starts)
        faulty = faulty_kl(model, play.held_out, tried, device)
    return bound_surprise(kl, faulty, warmup_steps, model.config.action_chunk / TRAIN_RATE_HZ)


def _fitting(episodes: Sequence[Episode], length: int, frames: int) -> int:
    """How many windows go into the episodes, none twice, or into so many frames."""
    return max(min(sum(episode.length // length for episode in episodes), frames // length), 1)


def _reliabilities(
    dreamed: Dreamed,
    probe: Probe,
    stretches: npt.NDArray[np.int64],
    warmup_steps: int,
    seed: int,
) -> tuple[Reliability, ...]:
    position = probe.quantities[0]
    columns = probe.columns(position)
    readings = dreamed.readings
    off = position.error(readings.open[..., columns], readings.truth[..., columns])
    later = slice(warmup_steps, None)
    signals = {
        "one_step_kl": dreamed.kl[:, later],
        "prior_entropy": dreamed.prior_entropy[:, later],
        "dreamed_entropy": dreamed.dreamed_entropy,
    }
    errors: dict[str, tuple[str, npt.NDArray[Any]]] = {
        "one_step_image_mse": ("", dreamed.one_step_error[:, later]),
        "open_loop_image_mse": ("", dreamed.own_error),
        "open_loop_position_mm": ("mm", off),
    }
    return reliabilities(signals, errors, PAIRS, stretches, seed)
