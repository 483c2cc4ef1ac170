"""``diwa guard``: look at the command guard, arm it, disarm it, clear a fault."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diwa_bringup.service import call, report
from diwa_conventions.bags.definitions import full_name
from diwa_conventions.errors import UserError
from diwa_conventions.topics import (
    ARM_SERVICE,
    DISARM_SERVICE,
    GUARD_STATE,
    NAMESPACE,
    RECOVER_ARM_SERVICE,
    RECOVER_SERVICE,
    TELEOP_SOURCE,
)
from diwa_robot.arm_side import FAULT_STAYS, NOT_READY

STATES = ("DISARMED", "ARMED", "HOLDING", "FAULT")
"""By the numbers of diwa_msgs/GuardState."""

_FAULT = STATES.index("FAULT")
_TIMEOUT_S = 30.0
_HEARD_S = 3.0
"""Until a driver's report has reached the guard."""
_GUARD = "command guard"


@dataclass(frozen=True)
class GuardStatus:
    """Say in one line what the guard does and why. Exit code 1 if a fault is latched."""

    namespace: str = NAMESPACE
    """Of the guard."""

    def run(self) -> int:
        """Listen to one report."""
        state = listen(self.namespace)
        print(describe(state))
        return 1 if state["state"] == _FAULT else 0


@dataclass(frozen=True)
class GuardArm:
    """Let one source move the arm. Refused after a fault, and while another source is armed."""

    source: str = TELEOP_SOURCE
    """Whose actions are executed: teleop or policy."""
    namespace: str = NAMESPACE
    """Of the guard."""

    def run(self) -> int:
        return report(call(ARM_SERVICE, "Arm", {"source": self.source}, self.namespace, _GUARD))


@dataclass(frozen=True)
class GuardDisarm:
    """Hold the arm where it is and obey nobody."""

    reason: str = "asked to by diwa guard disarm"
    """For the log and the bag."""
    namespace: str = NAMESPACE
    """Of the guard."""

    def run(self) -> int:
        return report(call(DISARM_SERVICE, "Disarm", {"reason": self.reason}, self.namespace, _GUARD))


@dataclass(frozen=True)
class GuardRecover:
    """Clear a latched fault whose cause is gone, and a real arm's reflex. Arming is a second step."""

    namespace: str = NAMESPACE
    """Of the guard."""

    def run(self) -> int:
        answer = call(RECOVER_SERVICE, "Recover", {}, self.namespace, _GUARD)
        if answer["success"] or NOT_READY not in answer["message"]:
            return report(answer)
        arm = call(RECOVER_ARM_SERVICE, "Recover", {}, self.namespace, "arm's driver")
        if not arm["success"]:
            return report(arm)
        print(arm["message"])
        if not answer["message"].startswith(FAULT_STAYS):
            return 0  # the arm's trouble came while nobody was armed: the guard has no fault of its own
        return report(self._again())

    def _again(self) -> dict[str, Any]:
        """The guard's answer once it has heard that the arm is ready."""
        deadline = time.monotonic() + _HEARD_S
        while True:
            answer = call(RECOVER_SERVICE, "Recover", {}, self.namespace, _GUARD)
            if answer["success"] or NOT_READY not in answer["message"] or time.monotonic() > deadline:
                return answer


def listen(namespace: str) -> dict[str, Any]:
    """The guard's newest report, field by field; UserError if none comes."""
    topic = full_name(GUARD_STATE.name, namespace)
    command = [sys.executable, "-m", "diwa_bringup.nodes.guard_listener", topic]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise UserError(f"ROS 2 did not start within {_TIMEOUT_S:g} s; see: diwa doctor") from None
    if done.returncode == 3:
        domain = os.environ.get("ROS_DOMAIN_ID") or "0"
        raise UserError(
            f"nothing comes on {topic}: is the {_GUARD} running, in this ROS domain ({domain}) and this --namespace?"
        )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"{topic} could not be read: {reason}")
    return dict(json.loads(done.stdout))


def describe(state: Mapping[str, Any]) -> str:
    """One line for a person."""
    name = STATES[state["state"]]
    source = f" ({state['armed_source']})" if state["armed_source"] else ""
    numbers = (
        f"{state['tracking_error_m'] * 1e3:.1f} mm and {state['tracking_error_rad']:.3f} rad from the target, "
        f"{state['refused']} actions refused, {state['limited']} limited"
    )
    return f"{name}{source}: {state['reason']}; {numbers}"
