"""How the processes of ROS 2 on this machine find and reach each other: what the shell's variables leave open.

Set before rclpy starts.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path
from typing import TextIO

OLD_FAST_DDS = ("humble", "jazzy")
"""Releases of ROS 2 with Fast DDS 2; it knows the profile file by another name."""

_FAST_DDS = "rmw_fastrtps_cpp"
_DOMAINS = 100
_claimed: list[TextIO] = []
"""Locks, which end with the files."""
_PROFILES = Path(__file__).resolve().parent / "dds"


def stay_on_this_machine() -> None:
    """For tests and demonstrations that must not meet a robot on the network: processes started from now on stay here.

    Whatever the shell says.
    """
    if os.environ.get("ROS_DISTRO") == "humble":  # it does not know the other one, and newer releases warn of this one
        os.environ["ROS_LOCALHOST_ONLY"] = "1"
    else:
        os.environ.pop("ROS_LOCALHOST_ONLY", None)
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"


def claim_domain() -> int:
    """A ROS domain (1 to 100) that no other process on this machine has claimed; this one has it until it ends.

    For tests, of which several run at the same time. RuntimeError if all are claimed.
    """
    for offset in range(_DOMAINS):
        domain = 1 + (os.getpid() + offset) % _DOMAINS
        try:
            lock = open(Path(tempfile.gettempdir(), f"diwa_test_domain_{domain}"), "w")
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # claimed, or another user's
            continue
        _claimed.append(lock)
        return domain
    raise RuntimeError(f"all ROS domains from 1 to {_DOMAINS} are claimed by tests on this machine")


def share_no_memory() -> None:
    """For processes between an action and the arm: this one speaks UDP alone, also with its own machine.

    Fast DDS's queues in shared memory are locked by who reads them. A reader that is killed at that moment leaves the
    lock behind, and then every publisher to it stands still for 2 s. Datagrams have no lock.

    Transports or a profile that a lab has chosen are kept; the profile of ``diwa network`` has a twin without memory.
    """
    if os.environ.get("RMW_IMPLEMENTATION", _FAST_DDS) not in (_FAST_DDS, "rmw_fastrtps_dynamic_cpp"):
        return
    variable = profile_variable(os.environ.get("ROS_DISTRO", ""))
    chosen = os.environ.get(variable)
    if chosen:
        twin = without_memory(Path(chosen))
        if twin.exists():
            os.environ[variable] = str(twin)
    elif "FASTDDS_BUILTIN_TRANSPORTS" not in os.environ:
        # Asked to stay on this machine the middleware adds shared memory; so the profile keeps it here instead.
        here = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE") == "LOCALHOST" or _localhost_only()
        if here:
            os.environ.pop("ROS_LOCALHOST_ONLY", None)
            os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "SYSTEM_DEFAULT"
        os.environ[variable] = str(_PROFILES / ("udp_this_machine.xml" if here else "udp.xml"))


def profile_variable(distribution: str) -> str:
    """What names the profile file of Fast DDS to this release of ROS 2."""
    return "FASTRTPS_DEFAULT_PROFILES_FILE" if distribution in OLD_FAST_DDS else "FASTDDS_DEFAULT_PROFILES_FILE"


def without_memory(profile: Path) -> Path:
    """The twin of a profile of ``diwa network``: the same, without shared memory."""
    return profile.with_name(f"{profile.stem}_udp{profile.suffix}")


def _localhost_only() -> bool:
    return os.environ.get("ROS_LOCALHOST_ONLY", "0") not in ("", "0")
