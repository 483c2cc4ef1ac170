"""The playroom's state in memory that two processes share: one steps it, the other draws it."""

from __future__ import annotations

import mmap
import os

import numpy as np

from diwa_conventions.actions import FloatArray
from diwa_sim.playroom import PhysicalState

_HEAD = 1 + 3
_TRIES = 1000


class Mirror:
    """A state that one process writes and others read whole; the counter is odd while it is being written."""

    def __init__(self, descriptor: int, nq: int, nv: int) -> None:
        size = 8 * (_HEAD + nq + nv)
        os.ftruncate(descriptor, size)
        self._memory = mmap.mmap(descriptor, size)
        self._values: FloatArray = np.frombuffer(self._memory, np.float64)
        self._nq = nq

    def write(self, state: PhysicalState) -> None:
        values, nq = self._values, self._nq
        count = values[0]
        values[0] = count + 1.0
        values[1:_HEAD] = state.lights
        values[_HEAD : _HEAD + nq] = state.qpos
        values[_HEAD + nq :] = state.qvel
        values[0] = count + 2.0

    def read(self) -> PhysicalState | None:
        """The newest state, or None if there is none yet."""
        for _ in range(_TRIES):
            before = self._values[0]
            values = self._values.copy()
            if before == values[0] == self._values[0] and before % 2.0 == 0.0:
                break
        else:
            return None
        if before == 0.0:
            return None
        pressed, led, bulb = (bool(value) for value in values[1:_HEAD])
        return PhysicalState(
            values[_HEAD : _HEAD + self._nq].copy(), values[_HEAD + self._nq :].copy(), (pressed, led, bulb)
        )
