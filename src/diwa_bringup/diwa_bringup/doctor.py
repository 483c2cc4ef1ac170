"""``diwa doctor``: what this machine has and what is missing, feature by feature, with the line that mends it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from diwa_bringup.finding import Finding, State
from diwa_bringup.robot_pc import (
    check_clock,
    check_network,
    check_realtime_kernel,
    check_realtime_limits,
    check_shared_memory,
    check_udev,
    check_vendor_packages,
)

PROBE_TIMEOUT_S = 30.0
CHECK_TIMEOUT_S = 75.0
"""Of a whole check; rendering may probe twice."""

DISK_GIB = 3.0
MEMORY_GIB = 4.0
CORES = 2

_SETUP = "make setup && source env.sh"
_GPU = "an NVIDIA GPU that nvidia-smi lists, then: pip install --force-reinstall torch==2.13.0"
_HARDWARE = "make setup EXTRA=hardware"
_REALSENSE = f"sudo apt-get install libusb-1.0-0 && {_HARDWARE}"


@dataclass(frozen=True)
class Probe:
    """The answer of a probe's process."""

    state: State
    text: str


def run_probe(name: str, environment: Mapping[str, str] | None = None) -> Probe:
    """Run one probe of :mod:`diwa_bringup.probes`; never raises, never takes longer than ``PROBE_TIMEOUT_S``."""
    command = [sys.executable, "-m", "diwa_bringup.probes", name]
    try:
        answer = subprocess.run(
            command,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return Probe("broken", f"no answer within {PROBE_TIMEOUT_S:g} s")
    except OSError as error:
        return Probe("broken", str(error))
    if answer.returncode < 0:
        return Probe("broken", f"its library crashed ({signal.Signals(-answer.returncode).name})")
    try:
        fields = json.loads(answer.stdout.strip().splitlines()[-1])
        return Probe(fields["state"], fields["text"])
    except (ValueError, KeyError, IndexError):
        return Probe("broken", (answer.stderr.strip().splitlines() or ["no answer"])[-1])


def check_ros() -> Finding:
    probe = run_probe("ros")
    return Finding("ROS 2", probe.state, probe.text, _SETUP)


def check_messages() -> Finding:
    probe = run_probe("messages")
    return Finding("messages", probe.state, probe.text, _SETUP)


def check_build() -> Finding:
    """What ``make setup`` needs from the system."""
    tools = [tool for tool in ("make", "cc", "c++", "git") if shutil.which(tool) is None]
    headers = Path(sysconfig.get_paths()["include"], "Python.h")
    missing = tools + [str(headers)] * (not headers.exists())
    if missing:
        return Finding("build tools", "no library", f"not there: {', '.join(missing)}", apt_line("build"))
    return Finding("build tools", "ok", "make, C and C++ compilers, git, Python headers")


def check_rendering() -> Finding:
    """The back end of ``MUJOCO_GL`` if that is set, else EGL, else OSMesa."""
    chosen = os.environ.get("MUJOCO_GL")
    failures = []
    for backend in (chosen,) if chosen else ("egl", "osmesa"):
        probe = run_probe("rendering", {"MUJOCO_GL": backend})
        if probe.state == "ok":
            return Finding("rendering", "ok", probe.text)
        if probe.state == "no library":
            return Finding("rendering", probe.state, probe.text, _SETUP)
        failures.append(f"{backend}: {probe.text}")
    return Finding("rendering", "broken", "; ".join(failures), apt_line("rendering"))


def check_video() -> Finding:
    probe = run_probe("video")
    return Finding("video", probe.state, probe.text, _SETUP)


def check_data_sets() -> Finding:
    probe = run_probe("data_sets")
    return Finding("bags and data sets", probe.state, probe.text, _SETUP)


def check_gpu() -> Finding:
    probe = run_probe("gpu")
    return Finding("GPU", probe.state, probe.text, _SETUP if probe.state == "no library" else _GPU, required=False)


def check_window() -> Finding:
    """A display for ``diwa sim --view``; a film needs none."""
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if display:
        return Finding("window", "ok", f"display {display}", required=False)
    return Finding(
        "window",
        "no device",
        "no display",
        f"a desktop session and {apt_line('window')}, or diwa sim --film FILE",
        required=False,
    )


def check_realsense() -> Finding:
    return _optional("RealSense", "realsense", _REALSENSE, "connect the camera by USB 3")


def check_kinect() -> Finding:
    return _optional("Azure Kinect", "kinect", _HARDWARE, "connect the camera by USB 3 and power")


def check_vive() -> Finding:
    return _optional("OpenVR (VIVE)", "vive", _HARDWARE, "start SteamVR, switch a controller on")


def check_franka() -> Finding:
    return _optional("Franka client", "franka", _HARDWARE, _HARDWARE)


def check_disk() -> Finding:
    free_gib = shutil.disk_usage(Path.cwd()).free / 2**30
    return Finding(
        "disk", "ok" if free_gib >= DISK_GIB else "no device", f"{free_gib:.0f} GiB free here", f"free {DISK_GIB:g} GiB"
    )


def check_cores() -> Finding:
    cores = len(os.sched_getaffinity(0))
    return Finding(
        "cores", "ok" if cores >= CORES else "no device", str(cores), f"{CORES} cores for real time", required=False
    )


def check_memory() -> Finding:
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Finding(
        "memory",
        "ok" if memory_gib >= MEMORY_GIB else "no device",
        f"{memory_gib:.0f} GiB",
        f"{MEMORY_GIB:g} GiB",
        required=False,
    )


def _optional(feature: str, probe_name: str, library: str, device: str) -> Finding:
    """A device: ``library`` mends a missing library, ``device`` a missing device."""
    probe = run_probe(probe_name)
    return Finding(feature, probe.state, probe.text, device if probe.state == "no device" else library, required=False)


def apt_line(feature: str) -> str:
    """The apt command for a feature of the workspace's ``requirements/apt.txt``, or where to look."""
    for folder in _workspaces():
        path = folder / "requirements" / "apt.txt"
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                name, _, packages = line.partition(":")
                if name == feature:
                    ours = f"python{sys.version_info.major}.{sys.version_info.minor}"
                    return f"sudo apt-get install {packages.strip().replace('python3.11', ours)}"
    return f"the packages of line '{feature}' in requirements/apt.txt"


def _workspaces() -> list[Path]:
    """Folders that may be the workspace: above colcon's install folder, and above here."""
    prefixes = [Path(prefix) for prefix in os.environ.get("COLCON_PREFIX_PATH", "").split(os.pathsep) if prefix]
    return [prefix.parent for prefix in prefixes] + [Path.cwd(), *Path.cwd().parents]


Check = Callable[[], Finding]

CHECKS: Mapping[str, Check] = {
    "ROS 2": check_ros,
    "messages": check_messages,
    "build tools": check_build,
    "rendering": check_rendering,
    "video": check_video,
    "bags and data sets": check_data_sets,
    "disk": check_disk,
    "cores": check_cores,
    "memory": check_memory,
    "GPU": check_gpu,
    "window": check_window,
    "RealSense": check_realsense,
    "Azure Kinect": check_kinect,
    "OpenVR (VIVE)": check_vive,
    "Franka client": check_franka,
    "vendor packages": lambda: check_vendor_packages(_workspaces()),
    "USB rules": check_udev,
    "real-time kernel": check_realtime_kernel,
    "real-time limits": check_realtime_limits,
    "clock": check_clock,
    "network of ROS 2": check_network,
    "Fast DDS memory": check_shared_memory,
}


def examine(checks: Mapping[str, Check], timeout_s: float = CHECK_TIMEOUT_S) -> list[Finding]:
    """All findings, in order. The checks run side by side; one that raises or hangs is a finding like any other."""
    findings: dict[str, Finding] = {}

    def run(feature: str, check: Check) -> None:
        try:
            findings[feature] = check()
        except Exception as error:
            findings[feature] = Finding(feature, "broken", f"the check failed: {error!r}", "report this")

    threads = [threading.Thread(target=run, args=item, daemon=True) for item in checks.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout_s)
    late = "the check did not end"
    return [findings.get(feature, Finding(feature, "broken", late, "report this")) for feature in checks]


def print_findings(findings: Sequence[Finding]) -> None:
    """A table, and below it the lines that mend, whole, so that they can be copied."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    table = Table("feature", "state", "found", box=SIMPLE_HEAD)
    colours = {"ok": "green", "MISSING": "bold red"}
    for finding in findings:
        colour = colours.get(finding.verdict, "yellow")
        table.add_row(finding.feature, f"[{colour}]{finding.verdict}[/]", finding.detail.replace("[", r"\["))
    console.print(table)
    for finding in findings:
        if finding.state != "ok":
            print(f"{'needed' if finding.required else 'optional'}: {finding.feature}: {finding.mend}")


@dataclass(frozen=True)
class Doctor:
    """Say what this machine has and what is missing; exit code 1 when something required is missing."""

    def run(self) -> int:
        findings = examine(CHECKS)
        print_findings(findings)
        return int(any(finding.state != "ok" and finding.required for finding in findings))
