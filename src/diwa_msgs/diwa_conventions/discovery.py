"""Keeps ROS 2 on this machine, for tests and demonstrations that must not meet a robot on the network."""

from __future__ import annotations

import os


def stay_on_this_machine() -> None:
    """Set the variables for processes started from now on, whatever the shell says."""
    if os.environ.get("ROS_DISTRO") == "humble":  # it does not know the other one, and newer releases warn of this one
        os.environ["ROS_LOCALHOST_ONLY"] = "1"
    else:
        os.environ.pop("ROS_LOCALHOST_ONLY", None)
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
