"""How long OpenMP threads spin while they wait for each other.

PyTorch's wheels bring libgomp, which reads its settings from the environment once, when it is loaded. This package's
``__init__`` calls :func:`limit_spinning`: every process that imports this package before torch gets the limit, and so
do the processes that it starts.
"""

from __future__ import annotations

import os
import sys

SPIN_COUNT = "GOMP_SPINCOUNT"
LIMIT = 1_000
"""Turns of the waiting loop before a thread sleeps; some 30 us. docs/results/world_model.md has the measurements."""
LIBGOMP_DEFAULT = 300_000
"""About 10 ms: longer than the kernel lets a thread run, so a thread spins while the one it waits for has no core."""

_USER_SETTINGS = (SPIN_COUNT, "OMP_WAIT_POLICY")


def limit_spinning() -> None:
    """Set ``GOMP_SPINCOUNT`` for this process and those it starts, unless the user has set how threads wait.

    Does nothing once torch is imported: libgomp would not see it.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in _USER_SETTINGS):
        os.environ[SPIN_COUNT] = str(LIMIT)
