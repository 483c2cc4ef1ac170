"""Bags of demonstrations, one after the other, until there are enough of them, of successes or of frames."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from diwa_conventions.errors import UserError
from diwa_sim import bulk
from diwa_sim.bulk import BAG_DEMONSTRATIONS, Job, Outcome, Report
from diwa_sim.workers import progress_bar

Until = Literal["episodes", "frames", "successes"]

_HOPELESS_BAGS = 8
"""So many bags without any success: an operator of that skill never succeeds."""


def simulate_until(until: Until, wanted: int, job: Job, folder: Path) -> tuple[int, Outcome]:
    """Simulate bags (those that do not exist yet) until the outcome's ``until`` is ``wanted``.

    The number of bags, and what they hold together. UserError for bags of another simulation, and for a skill that
    never succeeds.
    """
    done, bags = bulk.NOTHING, 0
    with progress_bar(until, wanted) as bar:
        while (have := getattr(done, until)) < wanted:
            if until == "successes" and not have and bags == _HOPELESS_BAGS:
                raise UserError(
                    f"none of {done.episodes} demonstrations of {job.task} succeeded; raise --skill or give --episodes"
                )
            done += _one_bag(
                _limited(job, until, wanted - have, bags), folder, lambda more: bar.advance(getattr(more, until))
            )
            bar.show(getattr(done, until))
            bags += 1
    return bags, done


def _limited(job: Job, until: Until, missing: int, bag: int) -> Job:
    """The job of the next bag, when so many ``until`` are missing."""
    return replace(
        job,
        bag=bag,
        episodes=min(missing, BAG_DEMONSTRATIONS) if until == "episodes" else BAG_DEMONSTRATIONS,
        frames=missing if until == "frames" else 0,
        successes=missing if until == "successes" else 0,
    )


def _one_bag(job: Job, folder: Path, report: Report) -> Outcome:
    found = bulk.existing(job, folder)
    if found is not None:
        return found
    bulk.remove_unfinished(job, folder)
    return bulk.write(job, folder, report)
