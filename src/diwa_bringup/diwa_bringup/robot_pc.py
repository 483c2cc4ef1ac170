"""What ``diwa doctor`` looks at on the machines beside a real robot: kernel, limits, devices, clock, network.

None of it is needed for the playroom, so nothing here makes ``diwa doctor`` fail.
"""

from __future__ import annotations

import fcntl
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from diwa_bringup.finding import Finding, State
from diwa_bringup.two_machines import addresses, carries

RTPRIO = 99
"""What the arm's client libraries ask the kernel for."""
MEMLOCK_BYTES = 100 * 2**20
CLOCK_S = 0.01
"""The command guard calls a state 0.1 s old stale; a clock has to be much better than that."""

VENDORS = {
    "8086": "RealSense",
    "045e": "Azure Kinect",
    "2bc5": "Orbbec",
    "28de": "VIVE (Valve)",
    "0bb4": "VIVE (HTC)",
    "256f": "SpaceMouse",
}
"""USB vendor ids of the devices that are read without root, by docker/host/70-diwa.rules."""

_REALTIME = Path("/sys/kernel/realtime")
_RULES = tuple(Path(folder, "udev/rules.d") for folder in ("/etc", "/run", "/usr/lib", "/lib"))
_SHARED_MEMORY = Path("/dev/shm")
_SEGMENT = re.compile(r"fastdds_[0-9a-f]{16}_el")
_ACCESS = re.compile(r'idVendor\}=="([0-9a-fA-F]{4})".*\b(?:MODE|GROUP|TAG)\b')
_PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")


def check_realtime_kernel() -> Finding:
    """PREEMPT_RT, as the 1 kHz loop of the arm wants it; other arms are simulated."""
    patched = (_REALTIME.exists() and _REALTIME.read_text().strip() == "1") or "PREEMPT_RT" in os.uname().version
    return _optional(
        "real-time kernel",
        "ok" if patched else "no device",
        f"{os.uname().release}, {'PREEMPT_RT' if patched else 'not PREEMPT_RT'}",
        "on the control PC: sudo apt-get install linux-image-rt-amd64 (Debian) or sudo pro enable realtime-kernel "
        "(Ubuntu), and reboot; without it the arm stops with communication_constraints_violation",
    )


def check_realtime_limits() -> Finding:
    """May this user's processes have real-time priority and memory that is never swapped out?"""
    priority = resource.getrlimit(resource.RLIMIT_RTPRIO)[1]
    locked = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    enough = _at_least(priority, RTPRIO) and _at_least(locked, MEMLOCK_BYTES)
    memory = "unlimited" if locked == resource.RLIM_INFINITY else f"{locked / 2**20:.0f} MiB"
    return _optional(
        "real-time limits",
        "ok" if enough else "no device",
        f"rtprio {'unlimited' if priority == resource.RLIM_INFINITY else priority}, memlock {memory}",
        "on the control PC: sudo docker/host/install.sh, and log in again",
    )


def _at_least(limit: int, wanted: int) -> bool:
    return limit == resource.RLIM_INFINITY or limit >= wanted


def check_udev() -> Finding:
    """udev rules that let this user read cameras and controllers; whose are missing."""
    allowed = {vendor.lower() for vendor in _ACCESS.findall("\n".join(_rules()))}
    missing = [name for vendor, name in VENDORS.items() if vendor not in allowed]
    there = [name for vendor, name in VENDORS.items() if vendor in allowed]
    return _optional(
        "USB rules",
        "no device" if missing else "ok",
        f"none for {', '.join(missing)}" if missing else f"for {', '.join(there)}",
        "sudo docker/host/install.sh, and plug the devices in again (in a container: on the host)",
    )


def _rules() -> Iterable[str]:
    for folder in _RULES:
        for path in sorted(folder.glob("*.rules")) if folder.is_dir() else ():
            try:
                yield path.read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue


def check_vendor_packages(workspaces: Iterable[Path]) -> Finding:
    """The client libraries of requirements/hardware.txt at their pinned versions."""
    name, mend = "vendor packages", "make setup EXTRA=hardware"
    lists = [folder / "requirements" / "hardware.txt" for folder in workspaces]
    found = next((path for path in lists if path.is_file()), None)
    if found is None:
        return _optional(name, "broken", "requirements/hardware.txt is not found", "run it in the workspace")
    pins = _pins(found.read_text(encoding="utf-8"))
    installed = {package: _version(package) for package in pins}
    absent = ", ".join(package for package, have in installed.items() if not have)
    other = [
        f"{package} {have}, expected {pins[package]}"
        for package, have in installed.items()
        if have and have != pins[package]
    ]
    wrong = [*other, f"not there: {absent}"] if absent else other
    if wrong:
        return _optional(name, "no library", "; ".join(wrong), mend)
    return _optional(name, "ok", f"all {len(pins)} of requirements/hardware.txt", mend)


def _pins(text: str) -> dict[str, str]:
    """Package -> version of the lines for this Python: ``name==version ; python_version >= "3.11"``."""
    lines = re.findall(r'^([A-Za-z0-9_.-]+)==([^\s;]+)(?:\s*;\s*python_version >= "3\.(\d+)")?', text, re.MULTILINE)
    return {package: pin for package, pin, minor in lines if sys.version_info[1] >= int(minor or 0)}


def _version(package: str) -> str:
    """The installed version, "" if there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def check_shared_memory() -> Finding:
    """Segments of Fast DDS whose process ended without taking them along; enough of them fill /dev/shm."""
    locks = sorted(path for path in _SHARED_MEMORY.glob("fastdds_*_el") if _SEGMENT.fullmatch(path.name))
    left = [path for path in locks if not _is_held(path)]
    size = sum(_size(path.with_name(path.name.removesuffix("_el"))) for path in left)
    text = f"{len(left)} of {len(locks)} segments left behind by processes that were killed, {size / 2**20:.0f} MiB"
    return _optional(
        "Fast DDS memory",
        "broken" if left else "ok",
        text if left else f"{len(locks)} segments in use, none left behind",
        f"end all ROS 2 nodes, then: rm -f {_SHARED_MEMORY}/fastdds_* {_SHARED_MEMORY}/sem.fastdds_*",
    )


def _is_held(lock: Path) -> bool:
    """Fast DDS holds a lock on this file as long as the segment's process lives."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:  # taken away meanwhile, by whoever held it
        return True
    except OSError:
        return True
    return False


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def check_clock() -> Finding:
    """Is the clock kept right? The command guard refuses what is old by its stamp."""
    name = "clock"
    mend = "sudo apt-get install chrony on both machines: docs/two_machines.md"
    if shutil.which("chronyc"):
        return _chrony(name, _said("chronyc", "-n", "tracking"), mend)
    if shutil.which("timedatectl"):
        synchronised = _said("timedatectl", "show", "--property=NTPSynchronized", "--value").strip()
        if synchronised in ("yes", "no"):
            good = synchronised == "yes"
            text = f"{'' if good else 'not '}synchronised, says systemd"
            return _optional(name, "ok" if good else "broken", text, mend)
    return _optional(name, "no library", "neither chrony nor systemd-timesyncd keeps it right here", mend)


def _chrony(name: str, tracking: str, mend: str) -> Finding:
    offset = re.search(r"^System time\s*:\s*([0-9.]+) seconds (fast|slow)", tracking, re.MULTILINE)
    leap = re.search(r"^Leap status\s*:\s*(.+)$", tracking, re.MULTILINE)
    if offset is None or leap is None:
        return _optional(name, "broken", "chronyc does not answer", "sudo systemctl start chrony")
    away_s, status = float(offset[1]), leap[1].strip()
    good = status == "Normal" and away_s <= CLOCK_S
    return _optional(name, "ok" if good else "broken", f"chrony: {1e3 * away_s:.3f} ms {offset[2]}, {status}", mend)


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5.0).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def check_network() -> Finding:
    """On which interfaces ROS 2 speaks; on several, the robot's cable may be one of them."""
    name, mend = "network of ROS 2", 'eval "$(diwa network INTERFACE)" with that of the other PC: docs/two_machines.md'
    known = addresses()
    profile = next((os.environ[name] for name in _PROFILE_VARIABLES if os.environ.get(name)), "")
    if profile:
        return _profiled(name, Path(profile), known, mend)
    if os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE") == "LOCALHOST" or os.environ.get("ROS_LOCALHOST_ONLY") == "1":
        return _optional(name, "ok", "this machine alone", mend)
    listed = ", ".join(f"{interface} ({address})" for interface, address in known.items())
    state: State = "broken" if len(known) > 1 else "ok"
    return _optional(name, state, f"all interfaces: {listed or 'the loopback alone'}", mend)


def _profiled(name: str, profile: Path, known: Mapping[str, str], mend: str) -> Finding:
    if not profile.is_file():
        return _optional(name, "broken", f"{profile} is not there", mend)
    allowed = set(re.findall(r"<address>\s*([0-9.]+)\s*</address>", profile.read_text(encoding="utf-8")))
    mine = [interface for interface, address in known.items() if address in allowed]
    if not mine:
        return _optional(name, "broken", f"{profile} names no address of this machine", mend)
    silent = ", ".join(interface for interface in mine if not carries(interface))
    if silent:
        again = "plug the cable in, and start the nodes again: those started without never hear the other machine"
        return _optional(name, "broken", f"{silent} carries nothing", again)
    return _optional(name, "ok", f"{', '.join(f'{interface} ({known[interface]})' for interface in mine)} alone", mend)


def _optional(feature: str, state: State, detail: str, mend: str) -> Finding:
    return Finding(feature, state, detail, mend, required=False)
