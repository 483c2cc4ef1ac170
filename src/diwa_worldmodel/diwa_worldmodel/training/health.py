"""Early warnings of a training run: numbers that are none, a latent that says nothing, gradients that jump."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from statistics import fmean, median

from diwa_conventions.errors import UserError

COLLAPSED_KL = 0.1
"""[nat] of the whole latent. Below, posterior and prior are as good as one: no frame tells z anything."""
COLLAPSE_STEPS = 300
"""The KL is that small in the mean of so many steps; a model that learns is past its first, blind steps by then."""
STILL_FALLING = 0.99
"""Reconstruction counts as falling if the second half of those steps has less than this share of the first's."""
SPIKE = 10.0
"""Times the median gradient norm of the last steps."""
SPIKE_STEPS = 100


class DivergedError(UserError):
    """A loss or gradient is not a number any more; what is in memory is worth nothing."""


class Health:
    """Sees the numbers of every step."""

    def __init__(self) -> None:
        self.gradient_spikes = 0
        """Since training began or went on."""
        self._norms: deque[float] = deque(maxlen=SPIKE_STEPS)
        self._kl: deque[float] = deque(maxlen=COLLAPSE_STEPS)
        self._reconstruction: deque[float] = deque(maxlen=COLLAPSE_STEPS)
        self._warned = False

    def see(self, step: int, values: Mapping[str, float]) -> str | None:
        """A warning, once, or None. DivergedError naming the step and the parts that are not finite.

        What passes can be saved: AdamW makes finite weights of finite ones and a finite gradient.
        """
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise DivergedError(f"step {step}: {', '.join(bad)} not finite")
        self._count_spikes(values["gradient_norm"])
        self._kl.append(values["kl"])
        self._reconstruction.append(sum(value for name, value in values.items() if name.startswith("reconstruction_")))
        if self._warned or not self._collapsed():
            return None
        self._warned = True
        return (
            f"step {step}: the KL was {fmean(self._kl):.3g} nat over the last {COLLAPSE_STEPS} steps and the "
            "reconstruction does not fall: the latent holds next to nothing of the frames (KL collapse), unless they "
            "hardly differ; try a smaller model.kl_scale"
        )

    def _count_spikes(self, norm: float) -> None:
        if len(self._norms) == SPIKE_STEPS and norm > SPIKE * median(self._norms):
            self.gradient_spikes += 1
        self._norms.append(norm)

    def _collapsed(self) -> bool:
        if len(self._kl) < COLLAPSE_STEPS or fmean(self._kl) >= COLLAPSED_KL:
            return False
        losses = list(self._reconstruction)
        half = COLLAPSE_STEPS // 2
        return fmean(losses[half:]) > STILL_FALLING * fmean(losses[:half])
