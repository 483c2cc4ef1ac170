"""A recording driven by a VIVE controller, in the playroom: what was recorded, how the arm followed, how it stopped.

python benchmarks/vive_recording.py --seconds 60

Real nodes as processes and the unmodified openvr client; the controller is virtual (virtual_runtime in the tests of
diwa_teleop) and needs a C compiler. In the middle tracking is lost for a second, and the hand goes on with the clutch
held.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro
from machine import machine, markdown_table

from diwa_conventions.discovery import stay_on_this_machine

sys.path.append(str(Path(__file__).parents[1] / "src" / "diwa_bringup" / "test"))

from vive_session import Following, Measures, Session, why_not


@dataclass(frozen=True)
class Benchmark:
    """One recording."""

    seconds: float = 60.0
    domain: int = 91
    """ROS_DOMAIN_ID of the measurement."""
    logs: bool = False
    """Show what the nodes said."""


def rows(measures: Measures) -> list[list[str]]:
    found = [[f"messages of {name}", str(count)] for name, count in sorted(measures.counts.items())]
    found += [
        ["actions that move", str(measures.moving_actions)],
        ["gripper opened or closed", str(measures.gripper_commands)],
        ["way of the hand, of the arm", f"{measures.hand_m:.2f} m, {measures.arm_m:.2f} m"],
        ["times that the guard held; actions that it limited", f"{measures.holds}; {measures.limited}"],
    ]
    for name, following in (
        ("target behind hand, before the loss", measures.target_before),
        ("arm behind hand, before the loss", measures.before),
        ("arm behind hand, after it", measures.after),
    ):
        if following is not None:
            found.append([name, _described(following)])
    return found + [
        ["tracking lost -> clutch released in the bag", f"{1e3 * measures.clutch_released_s:.0f} ms"],
        ["tracking lost -> last action that moves", f"{1e3 * measures.last_motion_s:.0f} ms"],
        ["tracking lost -> target stands", f"{1e3 * measures.target_stood_s:.0f} ms"],
        [
            "target, arm went on after the loss",
            f"{1e3 * measures.target_on_m:.0f} mm, {1e3 * measures.arm_on_m:.0f} mm",
        ],
        ["target moved after that, until the clutch was pressed anew", f"{1e3 * measures.crept_m:.2f} mm"],
        ["way of the hand meanwhile", f"{1e3 * measures.hand_meanwhile_m:.0f} mm"],
    ]


def _described(following: Following) -> str:
    left = f"{1e3 * following.rms_m:.1f} mm rms, {1e3 * following.largest_m:.1f} mm at most"
    steps = f"of {1e3 * following.hand_step_m:.0f} mm in 0.3 s {1e3 * following.step_error_m:.1f} mm differ (medians)"
    return f"{1e3 * following.lag_s:.0f} ms; then {left}; correlation {following.correlation:.4f}; {steps}"


def main(benchmark: Benchmark) -> None:
    if why_not():
        sys.exit(why_not())
    stay_on_this_machine()
    os.environ["ROS_DOMAIN_ID"] = str(benchmark.domain)
    with tempfile.TemporaryDirectory() as folder:
        session = Session(Path(folder), benchmark.seconds)
        measures = session.record()
        if benchmark.logs:
            print(session.logs(), file=sys.stderr)
    print(f"{machine()}; {benchmark.seconds:g} s\n")
    print(markdown_table(["what", "measured"], rows(measures)))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
