"""Names and limits of the playroom's tasks (Table I of the paper, and lift-cube for play)."""

from __future__ import annotations

from diwa_conventions.errors import unknown

PAPER_TASKS = (
    "open-drawer",
    "close-drawer",
    "move-slider-left",
    "move-slider-right",
    "turn-on-lightbulb",
    "turn-off-lightbulb",
    "turn-on-LED",
    "turn-off-LED",
)
"""The eight tasks that the paper fine-tunes."""

TASKS = (*PAPER_TASKS, "lift-cube")

EPISODE_FRAMES = 360
"""Limit of an episode in 30 Hz frames (CALVIN's evaluation protocol)."""


def checked_task(name: str) -> str:
    """The task's name, or UserError that lists the known ones."""
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return name
