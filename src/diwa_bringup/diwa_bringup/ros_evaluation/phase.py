"""How far an attempt at a trial is."""

from __future__ import annotations

from enum import Enum, auto


class Phase(Enum):
    """Of an attempt."""

    NODES = auto()
    RECOVER = auto()
    LOAD = auto()
    RESET = auto()
    PLACE = auto()
    """A person resets the scene."""
    SETTLE = auto()
    START = auto()
    RUN = auto()
    END = auto()
    """The run was cancelled; its result is to come."""
    JUDGE = auto()
    """A person says whether it was a success."""
    OVER = auto()
