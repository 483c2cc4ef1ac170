"""How long is waited for what, how often a trial is tried, and which ends of a run count."""

from __future__ import annotations

ATTEMPTS = 5
"""After so many that were broken off a trial is given up; if the guard's fault ended the last one, it is a failure.
Where a person resets the scene, the person decides."""
GIVEN_UP = 3
"""So many trials given up in a row end it all, and so does one whose policy never ran."""
STARTUP_S, LOST_S = 120.0, 60.0
"""Nodes may take so long to be there: at first (they load models), and after they were lost."""
ANSWER_S, LOAD_S = 15.0, 120.0
"""Answers take at most so long; loading a policy exports and checks it."""
SETTLE_S, FRESH_FRAMES = 15.0, 3
"""From a reset to frames of the new episode of each camera: at most, and how many."""
LATE_FACTOR = 2.0
"""A trial may take so many times its time in the playroom: a busy machine simulates slowly."""
PAUSE_S = 1.0
"""Before the second attempt, twice that before the third: what kept the machine busy may be over by then."""
AGAIN_S, REMIND_S = 2.0, 10.0
"""A guard that does not recover is asked again, and a person is told again what is waited for."""
GUARD_FAULT = "fault of the command guard"
THE_POLICYS_DOING = ("success", "time limit", "surprised", "not finite")
"""Words in the reasons that the policy node gives for the end of a run that counts. All others are of nodes and
machines: a guard that holds, frames that were lost, clocks that do not agree."""

SILENT_S = 4.0
"""Who has said nothing for so long is gone; the policy node speaks once a second between runs."""

READY_STEPS = 8
"""Surprise counts from this step of a run on, as it does offline (FilterLimits.warmup_steps)."""
