"""The latent filter: frames and executed actions in, the policy's latents out (method.md 24).

    latent_filter = LatentFilter(load_world_model(folder).model)
    output = latent_filter.update(frame)                       # the first: no action led to it
    output = latent_filter.update(frame, executed_action)      # every 1/7.5 s
    if output.ready[0]: act(output.latent)

The same update encodes demonstrations, seeds dreams and serves, so that training and serving cannot differ. It goes
by stamps, not by calls: a row whose frames are not one step apart begins anew, as episodes of a data set do, and is not
``ready`` until it has seen enough frames again.

Equal bit for bit on one CPU: the same frames through a filter of one row, with the same number of threads. Rows in
parallel differ from a single one by rounding (1e-6 in h; BLAS sums in another order), which can turn a class of z that
is nearly as probable as the next; so do other numbers of threads, other CPUs, and GPUs. Encoding and serving therefore
use one row and :data:`THREADS` thread. Several wait for each other after every layer: with two on two busy cores, a
tiny model's frame took 90 ms instead of 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diwa_conventions.errors import UserError
from diwa_conventions.rates import TRAIN_RATE_HZ
from diwa_worldmodel.dataset.config import DataSetConfig
from diwa_worldmodel.dataset.timeline import RATE_TOLERANCE
from diwa_worldmodel.rssm import State, entropy, kl_divergence
from diwa_worldmodel.settings import setting
from diwa_worldmodel.world_model import PROPRIO_DIM, Observations, WorldModel, quantise_gripper

Values: TypeAlias = Tensor | npt.NDArray[Any]
Sampling: TypeAlias = Literal["mode", "sample"]
Event: TypeAlias = Literal["start", "step", "gap", "stale"]
"""What a frame was to its row: the first after a reset; one step after the last; not so, therefore a first one; not
newer than the last, therefore not used."""

THREADS = 1
"""For ``torch.set_num_threads`` in a process that serves or encodes."""


@dataclass(frozen=True)
class FilterLimits:
    """When a row begins anew, and when its latent is any good."""

    step_tolerance_s: float = setting(DataSetConfig.step_tolerance_s, 0.0, 0.066)
    """How far a step may be from 1/7.5 s, beyond the 5% by which a camera's rate may be off; as the importer's."""
    warmup_steps: int = setting(8, 0, 1000)
    """A latent is ready after so many steps through the posterior: at tiny size the surprise has come down to its usual
    value by then, from three times as much."""
    stale_after_s: float = setting(0.3, 0.01, 60.0)
    """A latent whose frame is older is stale: two frames were lost."""
    set_back_s: float = setting(1.0, 0.0, 3600.0)
    """A frame that is older than the last by more was not overtaken: its clock was set back, the row begins anew."""


class FilterFrame(NamedTuple):
    """What was seen at one moment by R rows: arrays or tensors as a data set has them."""

    images: Mapping[str, Values]
    """Of each camera (R, S, S, 3) uint8."""
    proprio: Values
    """(R, 10): position [m], 6D rotation, gripper width [m]."""
    stamp_ns: Values
    """(R,) int64: of the static camera."""
    scene_state: Values | None = None
    """(R, N); only for the hybrid variant."""


@dataclass(frozen=True)
class FilterOutput:
    """What the filter knows after an update; R rows, or T frames of one row."""

    latent: Tensor
    """s (R, D + G * C) float32."""
    surprise: Tensor
    """(R,) one-step KL(q || p) [nat]: how far the frame was from what the model expected. Large before ``ready``."""
    prior_entropy: Tensor
    """(R,) [nat]: how unsure the model was of the frame before it saw it."""
    steps: npt.NDArray[np.int64]
    """(R,) since the row began: 0 at its first frame."""
    ready: npt.NDArray[np.bool_]
    """(R,) enough steps for the latent to be used."""
    events: tuple[Event, ...]
    """(R,)"""


class LatentFilter:
    """R rows that each follow an arm; float32, without gradients. The model is put into evaluation mode.

    ``sampling``: z is the posterior's most probable class in each group, or drawn with numbers that follow from
    ``seed``, the row and the steps since it began. With an ``action_chunk`` of k, a step is k / 7.5 s and takes the k
    actions since the frame before, in the order of time.
    """

    def __init__(
        self,
        model: WorldModel,
        rows: int = 1,
        sampling: Sampling = "mode",
        seed: int = 0,
        limits: FilterLimits = FilterLimits(),
    ) -> None:
        self.model, self.rows, self.sampling, self.seed, self.limits = model.eval(), rows, sampling, seed, limits
        self.step_s = model.config.action_chunk / TRAIN_RATE_HZ
        self._device = next(model.parameters()).device
        self._state = model.rssm.initial(rows, self._device)
        self._last: FilterOutput | None = None
        self._begun = np.zeros(rows, np.bool_)
        self._stamp_ns = np.zeros(rows, np.int64)

    @property
    def state(self) -> State:
        """Where dreams can go on from."""
        return State(self._state.deterministic.clone(), self._state.stochastic.clone())

    def reset(self, rows: Sequence[int] | npt.NDArray[Any] | None = None) -> None:
        """Forget what rows (numbers or a mask; None: all) have seen: their next frame is a first one."""
        self._begun[slice(None) if rows is None else np.asarray(rows)] = False

    def age_s(self, now_ns: int) -> npt.NDArray[np.float64]:
        """(R,) how old the last frame is, on the clock of the stamps; infinite before the first."""
        return np.where(self._begun, (now_ns - self._stamp_ns) * 1e-9, np.inf)

    def stale(self, now_ns: int) -> npt.NDArray[np.bool_]:
        """(R,) the latent must not be acted on any more; also if it comes from the future (a clock has jumped)."""
        old: npt.NDArray[np.bool_] = np.abs(self.age_s(now_ns)) > self.limits.stale_after_s
        return old

    def update(self, frame: FilterFrame, executed_action: Values | None = None) -> FilterOutput:
        """The next frame of every row, and the action (R, 7 k) that was executed since the one before.

        Not what was asked for but what the guard reports, in [-1, 1] (clipped otherwise, as the importer does). It is
        not used, and may be None, where a row begins. A ``stale`` row keeps state and output. UserError for what is
        misshapen or not finite; the filter is then as it was before.
        """
        stamps = self._checked_stamps(frame.stamp_ns)
        events = self._events(stamps)
        observations = self._checked_frame(frame)
        begins, fresh = np.isin(events, ("start", "gap")), events != "stale"
        action = self._checked_action(executed_action, events == "step")
        if self._last is not None and not fresh.any():
            return replace(self._last, events=tuple(events.tolist()))
        steps = np.zeros(self.rows, np.int64) if self._last is None else np.where(begins, 0, self._last.steps + 1)
        state, surprise, prior_entropy = self._step(observations, action, torch.from_numpy(begins), steps)
        if not bool(torch.isfinite(state.deterministic).all() & torch.isfinite(surprise).all()):
            raise UserError("the world model's latent is not finite; its weights are broken, use another checkpoint")
        new = FilterOutput(
            state.latent,
            surprise.clone(),
            prior_entropy.clone(),
            steps,
            steps >= self.limits.warmup_steps,
            tuple(events.tolist()),
        )
        self._take(state, new, fresh)
        self._stamp_ns = np.where(fresh, stamps, self._stamp_ns)
        self._begun[:] = True
        assert self._last is not None
        return self._last

    def _events(self, stamps: npt.NDArray[np.int64]) -> npt.NDArray[np.str_]:
        """(R,) of Event."""
        passed_s = (stamps - self._stamp_ns) * 1e-9
        # A camera at 95% of its rate needs 1 / 0.95 of the time; a microsecond is for rounding.
        slow_s = self.step_s * (1.0 / (1.0 - RATE_TOLERANCE) - 1.0)
        tolerance_s = slow_s + self.model.config.action_chunk * self.limits.step_tolerance_s + 1e-6
        events = np.where(np.abs(passed_s - self.step_s) <= tolerance_s, "step", "gap")
        events = np.where((passed_s <= 0.0) & (passed_s >= -self.limits.set_back_s), "stale", events)
        return np.where(self._begun, events, "start")

    @torch.inference_mode()
    def _step(
        self, observations: Observations, action: Tensor, begins: Tensor, steps: npt.NDArray[np.int64]
    ) -> tuple[State, Tensor, Tensor]:
        """The new state, KL(q || p) and the prior's entropy, (R, ...) each."""
        rssm = self.model.rssm
        with torch.autocast(self._device.type, enabled=False):
            embedding = self.model.encode(observations)
            state, posterior = rssm.observe_step(
                self._state, quantise_gripper(action), embedding, begins.to(self._device), self._uniforms(steps)
            )
            prior = rssm.prior(state.deterministic)
            return state, kl_divergence(posterior, prior), entropy(prior)

    def _uniforms(self, steps: npt.NDArray[np.int64]) -> Tensor | None:
        """(R, G) in [0, 1)."""
        if self.sampling == "mode":
            return None
        groups = self.model.config.discrete
        drawn = [
            np.random.default_rng((self.seed, row, int(step))).random(groups, np.float32)
            for row, step in enumerate(steps)
        ]
        return torch.from_numpy(np.stack(drawn)).to(self._device)

    def _take(self, state: State, new: FilterOutput, fresh: npt.NDArray[np.bool_]) -> None:
        """The new state and output where rows are fresh."""
        old = self._last
        if old is None or fresh.all():
            self._state, self._last = state, new
            return
        keep = torch.from_numpy(~fresh).to(self._device)
        column = keep.unsqueeze(-1)
        self._state = State(
            *(torch.where(column, before, after) for before, after in zip(self._state, state, strict=True))
        )
        self._last = FilterOutput(
            torch.where(column, old.latent, new.latent),
            torch.where(keep, old.surprise, new.surprise),
            torch.where(keep, old.prior_entropy, new.prior_entropy),
            np.where(fresh, new.steps, old.steps),
            np.where(fresh, new.ready, old.ready),
            new.events,
        )

    def _checked_stamps(self, stamp_ns: Values) -> npt.NDArray[np.int64]:
        stamps = np.asarray(stamp_ns)
        if stamps.shape != (self.rows,) or stamps.dtype.kind not in "iu":
            raise UserError(
                f"stamp_ns is {stamps.dtype} of shape {stamps.shape}; expected whole nanoseconds, ({self.rows},)"
            )
        return stamps.astype(np.int64)

    def _checked_frame(self, frame: FilterFrame) -> Observations:
        config = self.model.config
        shape = (self.rows, config.image_size_px, config.image_size_px, 3)
        images = {}
        for name in config.cameras:
            if name not in frame.images:
                raise UserError(
                    f"the frame has images of {', '.join(frame.images) or 'no camera'}; the world model needs "
                    f"{', '.join(config.cameras)}"
                )
            image = _array(frame.images[name])
            if image.shape != shape or image.dtype != np.uint8:
                raise UserError(
                    f"the image of {name} is {image.dtype} of shape {image.shape}; expected uint8 of shape {shape}"
                )
            images[name] = torch.from_numpy(image).to(self._device)
        scene_state = None
        if config.scene_state:
            if frame.scene_state is None:
                raise UserError(
                    f"the frame has no scene state; the hybrid world model needs its {config.scene_state} numbers"
                )
            scene_state = self._numbers("scene_state", frame.scene_state, config.scene_state)
        proprio = self._numbers("proprio", frame.proprio, PROPRIO_DIM)
        return {"images": images, "proprio": proprio, "scene_state": scene_state}

    def _checked_action(self, action: Values | None, needed: npt.NDArray[np.bool_]) -> Tensor:
        """(R, 7 k) in [-1, 1], zero where it is not needed."""
        if action is None:
            if needed.any():
                raise UserError(
                    f"no executed action for row {int(np.flatnonzero(needed)[0])}; expected the one that led from its "
                    "last frame to this one (only the first after a reset has none)"
                )
            return torch.zeros(self.rows, self.model.action, device=self._device)
        return self._numbers("executed_action", action, self.model.action, needed).clamp(-1.0, 1.0)

    def _numbers(self, name: str, values: Values, width: int, needed: npt.NDArray[np.bool_] | None = None) -> Tensor:
        """(R, width) float32, zero where not ``needed``. UserError naming the first that is not finite."""
        array = _array(values)
        if array.shape != (self.rows, width):
            raise UserError(f"{name} has shape {array.shape}; expected ({self.rows}, {width})")
        if needed is not None:
            array = np.where(needed[:, None], array, 0.0)
        if not np.isfinite(array).all():
            row, column = np.argwhere(~np.isfinite(array))[0]
            raise UserError(f"{name}[{row}, {column}] is {array[row, column]}; expected a finite number")
        return torch.from_numpy(array.astype(np.float32)).to(self._device)


def encode_frames(
    latent_filter: LatentFilter, frames: Iterable[FilterFrame], actions: Iterable[Values]
) -> Iterator[FilterOutput]:
    """The output after each frame of an episode, by the update that also serves; the filter is reset first.

    ``actions[t]`` (R, 7 k) leads from frame t to t + 1, as in a data set; the last leads nowhere.
    """
    latent_filter.reset()
    executed: Values | None = None
    for frame, action in zip(frames, actions, strict=True):
        yield latent_filter.update(frame, executed)
        executed = action


def encode_episode(
    latent_filter: LatentFilter, frames: Iterable[FilterFrame], actions: Iterable[Values]
) -> FilterOutput:
    """As :func:`encode_frames`, of a filter of one row, put together: latents (T, s), surprise (T,) and so on."""
    if latent_filter.rows != 1:
        raise ValueError(f"the filter has {latent_filter.rows} rows; expected one")
    outputs = list(encode_frames(latent_filter, frames, actions))
    return FilterOutput(
        torch.cat([output.latent for output in outputs]),
        torch.cat([output.surprise for output in outputs]),
        torch.cat([output.prior_entropy for output in outputs]),
        np.concatenate([output.steps for output in outputs]),
        np.concatenate([output.ready for output in outputs]),
        tuple(event for output in outputs for event in output.events),
    )


def _array(values: Values) -> npt.NDArray[Any]:
    """A contiguous array that torch takes without complaint."""
    return np.require(values.cpu().numpy() if isinstance(values, Tensor) else values, requirements=["C", "W"])
