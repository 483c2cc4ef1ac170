"""What the link between control PC and policy PC carries, and how long a pulled cable is felt.

One machine plays both: each has its own network, shared memory and machine id.

python benchmarks/two_machines.py                       # needs root: each machine has a network of its own
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from machine import machine, markdown_table

from diwa_conventions import topics
from diwa_conventions.bags.definitions import full_name

_TESTS = Path(__file__).resolve().parents[1] / "src"
sys.path += [str(_TESTS / "diwa_bringup" / "test"), str(_TESTS / "diwa_policy" / "test")]
from policy_samples import saved_policy, small_world_model  # noqa: E402
from two_machines_lab import Machine, Watch, cut, mend, two_machines, why_not  # noqa: E402

SKILL = "open-drawer"
CUT_S = 2.0


@dataclass(frozen=True)
class Benchmark:
    """Playroom and command guard on one machine, the policy on the other; the cable is pulled for two seconds."""

    cuts: int = 5
    quiet_s: float = 10.0
    """So long the image stream is measured before."""
    domain: int = 91
    """ROS_DOMAIN_ID of the measurement."""


class Room:
    """The nodes on their machines, and what is heard there."""

    def __init__(self, control: Machine, policy: Machine, folder: Path) -> None:
        world_model = small_world_model(folder / "world_model")
        artefact = saved_policy(folder / "policy", world_model.hash, skill=SKILL)
        self.policy = policy
        control.start("diwa_sim.nodes.playroom")
        control.start("diwa_robot.nodes.command_guard")
        policy.start("diwa_policy.nodes.policy", f"policy:={artefact.folder}", f"world_model:={world_model.folder}")
        self.at_arm, self.at_policy = Watch(control, "guard"), Watch(policy, "policy", "images")
        self.at_arm.until(lambda said: said["guard"] == "DISARMED" and said["arm"], "the guard and the arm")
        self.at_policy.until(lambda said: said.get("policy") == "READY", "the policy")

    def begin(self) -> subprocess.Popen[str]:
        """A run under way."""
        goal = json.dumps({"skill": SKILL, "time_limit_s": 15.0, "seed": 1})
        action = full_name(topics.RUN_SKILL_ACTION, topics.NAMESPACE)
        while True:
            asked_s = time.monotonic()
            words = ("-m", "diwa_bringup.nodes.skill_caller", action, goal)
            caller = self.policy.python(*words, stdout=subprocess.PIPE, text=True)
            said = self.at_policy.until(
                lambda one, caller=caller: _runs(one) or caller.poll() is not None, "a run", asked_s
            )
            if _runs(said):
                return caller

    def cut_once(self) -> dict[str, float]:
        """Seconds from the cut or from the mended cable to what follows; the arm's way after the cut [m]."""
        caller = self.begin()
        cut_s = time.monotonic()
        cut(self.policy)
        held = self.at_arm.until(lambda said: said["guard"] == "HOLDING", "the hold", cut_s)
        ended = self.at_policy.until(lambda said: said.get("policy") == "STOPPED", "the run's end", cut_s)
        self.at_arm.until(lambda said: True, "the end of the cut", cut_s + CUT_S)
        way = self.at_arm.since(cut_s, "guard")
        caller.communicate()
        mended_s = time.monotonic()
        mend(self.policy)
        image = self.at_policy.until(lambda said: "image_age_s" in said, "images", mended_s)
        self.at_arm.until(lambda said: said["guard"] == "DISARMED", "the late disarming", mended_s)
        disarmed_s = time.monotonic()
        self.policy.wait_for_carrier(True)
        again = self.begin()
        armed = self.at_arm.until(lambda said: said["guard"] == "ARMED", "arming", disarmed_s)
        images = self.at_policy.since(mended_s, "image_age_s")
        again.terminate()
        again.communicate()
        targets, stood = np.array([one["target"] for one in way]), _last_motion(way)
        return {
            "cut to HOLDING [s]": held["t"] - cut_s,
            "cut to the target's rest [s]": stood - cut_s,
            "way of the target after the cut [mm]": 1e3 * float(np.abs(targets[-1] - targets[0]).max()),
            "cut to the end of the run [s]": ended["t"] - cut_s,
            "cable back to first image [s]": image["t"] - mended_s,
            "age of the oldest image then [s]": max(one["image_age_s"] for one in images),
            "cable back to the late disarming [s]": disarmed_s - mended_s,
            "cable back to armed again [s]": armed["t"] - mended_s,
        }


def _runs(said: dict[str, Any]) -> bool:
    return said.get("policy") == "RUNNING" and bool(said["step"] >= 2)


def _last_motion(said: list[dict[str, Any]]) -> float:
    """When the target moved last."""
    moved = [
        b["t"]
        for a, b in zip(said, said[1:], strict=False)
        if np.abs(np.subtract(a["target"], b["target"])).max() > 1e-7
    ]
    return moved[-1] if moved else said[0]["t"]


def stream(room: Room, seconds: float) -> list[list[str]]:
    """The image stream of both cameras over the link."""
    begun_s, before = time.monotonic(), room.policy.carried()[0]
    room.at_policy.until(lambda said: True, "images", begun_s + seconds)
    lasted_s, carried = time.monotonic() - begun_s, room.policy.carried()[0] - before
    ages_ms = [1e3 * one["image_age_s"] for one in room.at_policy.since(begun_s, "image_age_s")]
    return [
        ["images of the static camera", f"{len(ages_ms) / lasted_s:.2f} Hz"],
        ["image stamp to arrival, p50, p99, worst", ", ".join(f"{_at(ages_ms, q):.1f}" for q in (50, 99, 100)) + " ms"],
        ["over the link, all topics", f"{carried / lasted_s / 1e6:.2f} MB/s"],
    ]


def _at(values: list[float], percent: float) -> float:
    return float(np.percentile(values, percent))


def _spread(values: list[float]) -> str:
    return f"{_at(values, 50):.3f} ({min(values):.3f} to {max(values):.3f})"


def main(benchmark: Benchmark) -> None:
    reason = why_not()
    if reason:
        raise SystemExit(reason)
    os.environ["ROS_DOMAIN_ID"] = str(benchmark.domain)
    with two_machines() as (control, policy), tempfile.TemporaryDirectory() as folder:
        room = Room(control, policy, Path(folder))
        rows = stream(room, benchmark.quiet_s)
        measured = [room.cut_once() for _ in range(benchmark.cuts)]
    print(f"\n{machine()}; {benchmark.cuts} cuts of {CUT_S:g} s\n")
    print(markdown_table(["stream", "measured"], rows))
    print()
    names: Callable[[str], list[float]] = lambda name: [one[name] for one in measured]  # noqa: E731
    print(markdown_table(["cut", "median (least to most)"], [[name, _spread(names(name))] for name in measured[0]]))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
