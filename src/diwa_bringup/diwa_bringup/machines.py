"""Which of a graph's nodes run on the control PC, and which on the policy PC."""

from __future__ import annotations

from collections.abc import Iterable

from diwa_bringup.graph import NodeSpec
from diwa_conventions.errors import unknown

CONTROL, POLICY, BOTH = "control", "policy", "both"
MACHINES = (BOTH, CONTROL, POLICY)


def on_machine(specs: Iterable[NodeSpec], machine: str) -> list[NodeSpec]:
    """Those of a graph's nodes that run on this machine; ``both``: all of them.

    On the control PC: the arm and the command guard, so that the guard still stands before the arm when the link is
    cut. Cameras, operator, policy and recorder run on the other one: the arm's 1 kHz loop tolerates no image work.
    """
    if machine not in MACHINES:
        raise unknown("machine:", machine, MACHINES)
    return [spec for spec in specs if machine in (BOTH, machine_of(spec))]


def machine_of(spec: NodeSpec) -> str:
    """``control`` or ``policy``. The playroom is arm and cameras in one, and counts as the arm."""
    controls = spec.package == "diwa_robot" or (spec.package, spec.executable) == ("diwa_sim", "playroom")
    return CONTROL if controls else POLICY
