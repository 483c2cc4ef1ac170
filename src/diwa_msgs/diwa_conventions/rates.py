"""Rates of recordings and of training. Standard library only: launch files import it."""

RECORD_RATE_HZ = 30.0
"""Rate of cameras, teleoperation and recordings (paper S.3.2)."""

TRAIN_RATE_HZ = 7.5
"""Rate of data sets, world model and policy steps: every fourth recorded frame."""

FRAMES_PER_STEP = 4
"""Recorded frames in one step, ``RECORD_RATE_HZ / TRAIN_RATE_HZ``."""
