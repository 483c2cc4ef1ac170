"""Random numbers: each purpose and iteration has its own, so that going on needs no generator's state."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch


class Purpose(IntEnum):
    """What is drawn for."""

    TRAINING = 0
    """Starts, noise, classes and minibatches of an iteration."""
    CHECK = 1
    """Dreams that a policy is judged by, the same for every policy of a run."""
    OTHER_CHECK = 2
    """The same once more, from other starts."""
    REPLAY = 3
    """Dreams along recorded actions."""
    DISTANCE = 4
    """Noise that two policies are compared by."""


def reseed(generator: torch.Generator, seed: int, purpose: Purpose, number: int = 0) -> torch.Generator:
    """The generator at the beginning of the numbers for this purpose."""
    state = np.random.SeedSequence((seed, int(purpose), number)).generate_state(1)
    return generator.manual_seed(int(state[0]))
