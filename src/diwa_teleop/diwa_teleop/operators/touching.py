"""Points touched with a tracked controller: confirmed by its trigger or a key, measured while it is still."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from diwa_conventions.actions import FloatArray
from diwa_conventions.rates import RECORD_RATE_HZ
from diwa_teleop.operators.vive import HandSample

DT_S = 1.0 / RECORD_RATE_HZ
_SETTLE_S = 0.3
"""Pulling the trigger moves the hand."""
_MEASURE_S = 0.5
_STILL_M = 0.005
"""Farther from their mean no reading of a hand that is still may be."""
_PULLED, _RELEASED = 0.8, 0.4


class Controller(Protocol):
    """What is needed of :class:`diwa_teleop.operators.vive.ViveOperator`."""

    situation: str

    def read(self, dt_s: float) -> HandSample | None:
        """The controller now, in the tracker's world."""


class Toucher:
    """Asks for points, one after the other, and says where in the tracker's world they are."""

    def __init__(
        self,
        controller: Controller,
        say: Callable[[str], None],
        entered: Callable[[], bool],
        tip_m: npt.ArrayLike = (0.0, 0.0, 0.0),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """``entered`` tells whether a key has confirmed since the last call; ``tip_m`` is in the controller's frame."""
        self._controller = controller
        self._say = say
        self._entered = entered
        self._tip_m = np.array(tip_m, dtype=np.float64)
        self._sleep = sleep
        self._pulled = True
        self._said = ""

    def touch(self, request: str) -> FloatArray:
        """Position (3,) [m] of the next point; asks again until the controller was tracked and still."""
        self._say(request)
        while True:
            self._wait_for_confirmation()
            for _ in range(round(_SETTLE_S / DT_S)):
                self._read()
            readings = [self._read() for _ in range(round(_MEASURE_S / DT_S))]
            points = [self._tip(sample) for sample in readings if sample is not None and sample.tracked]
            if len(points) < len(readings):
                self._say(f"the controller was not tracked meanwhile ({self._controller.situation}); touch it again")
                continue
            moved_m = _largest_distance(points)
            if moved_m <= _STILL_M:
                return np.asarray(np.mean(points, axis=0), dtype=np.float64)
            self._say(f"the controller moved by {1e3 * moved_m:.0f} mm; hold it still and touch the point again")

    def _wait_for_confirmation(self) -> None:
        self._entered()  # a key of before does not count
        while True:
            sample = self._read()
            if sample is None or not sample.tracked:
                self._tell(self._controller.situation)
                continue
            self._tell("")
            pulled = sample.trigger > (_RELEASED if self._pulled else _PULLED)
            pressed, self._pulled = pulled and not self._pulled, pulled
            if pressed or self._entered():
                return

    def _tell(self, situation: str) -> None:
        """What it waits for, once."""
        if situation and situation != self._said:
            self._say(situation)
        self._said = situation

    def _read(self) -> HandSample | None:
        self._sleep(DT_S)
        return self._controller.read(DT_S)

    def _tip(self, sample: HandSample) -> FloatArray:
        return sample.pose.position + sample.pose.rotation @ self._tip_m


def _largest_distance(points: Sequence[FloatArray]) -> float:
    """From their mean [m]."""
    return float(np.linalg.norm(np.array(points) - np.mean(points, axis=0), axis=1).max())
