"""The oldest Python that data sets and learning run on. Recording, guard, drivers and playroom also run on 3.10."""

from __future__ import annotations

import sys

from diwa_conventions.errors import UserError

LEARNING_PYTHON = (3, 11)
LEARNING_PACKAGES = ("diwa_worldmodel", "diwa_policy")


def check_learning_python(who: str) -> None:
    """UserError if this Python is too old for ``who``, a verb or node that learns or reads data sets."""
    if sys.version_info < LEARNING_PYTHON:
        raise UserError(
            f"{who} needs Python {LEARNING_PYTHON[0]}.{LEARNING_PYTHON[1]} or above, and this is Python "
            f"{sys.version_info[0]}.{sys.version_info[1]}: recording, guard and drivers work here, data sets and "
            "learning do not; make setup PYTHON=python3.11"
        )
