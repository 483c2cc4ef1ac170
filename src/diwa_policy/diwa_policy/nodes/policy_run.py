"""A skill under way in the policy node, and what ends it beside its frames."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from diwa_msgs.action import RunSkill
from diwa_msgs.msg import GuardState
from rclpy.action.server import ServerGoalHandle
from rclpy.task import Future

from diwa_conventions import topics
from diwa_policy.nodes.policy_inputs import PolicyInputs
from diwa_policy.serving.frames import Frame
from diwa_policy.serving.skill_run import Seen, SkillRun

FIRST_FRAME_S = 2.0
"""How long a run waits for its first frame."""
ANSWER_S = 3.0
"""Within which the guard has to answer."""
LATE_S = 3.0
"""So long may the request that ended the last run be on its way, over a cable that was out, say."""
GUARD_SILENT_S = 0.5
HOLD_S = 1.0
"""So long may the guard hold before the run is over."""


@dataclass
class Running:
    """A skill under way."""

    goal: ServerGoalHandle
    seed: int
    begun_s: float
    over: Future
    asked: bool = False
    """The guard has been asked to arm."""
    armed: bool = False
    run: SkillRun | None = None
    """None: the guard has not answered yet."""
    seen: Seen | None = None
    frame: Frame | None = None
    framed_s: float = 0.0
    """When the newest frame was complete, or the run began to wait for one."""
    obeyed: bool = False
    """The guard has reported that it obeys this policy."""
    held_since_s: float | None = None
    sent: int = 0
    latency_s: float = math.nan
    decision_s: float = math.nan
    result: RunSkill.Result = field(default_factory=RunSkill.Result)

    def heard(self, guard: GuardState, now_s: float) -> str:
        """What the guard's state means for the run: why it is over, or ""."""
        if not self.armed:
            return ""
        mine = guard.armed_source == topics.POLICY_SOURCE
        if not mine:
            return f"the command guard does not obey any longer: {guard.reason}" if self.obeyed else ""
        self.obeyed = True
        if guard.state != GuardState.HOLDING:
            self.held_since_s = None
        elif self.held_since_s is None:
            self.held_since_s = now_s
        return ""


def why_over(
    running: Running, inputs: PolicyInputs, guard: GuardState | None, guard_s: float, stale_s: float, now_s: float
) -> str:
    """Why time alone has ended the run, or ""; ``guard`` was heard last at ``guard_s``."""
    if running.goal.is_cancel_requested:
        return "cancelled"
    if running.run is None:
        late = now_s - running.begun_s > ANSWER_S
        return f"the command guard has not answered within {ANSWER_S:g} s" if late else ""
    if running.armed and now_s - max(guard_s, running.begun_s) > GUARD_SILENT_S:
        return "the command guard is silent"
    if running.held_since_s is not None and now_s - running.held_since_s > HOLD_S:
        return f"the command guard holds: {guard.reason if guard else ''}"
    limit_s = FIRST_FRAME_S if running.frame is None else stale_s
    if now_s - running.framed_s > limit_s:
        return f"no frame for {now_s - running.framed_s:.2f} s: {what_is_late(inputs, stale_s, now_s)}"
    return ""


def what_is_late(inputs: PolicyInputs, stale_s: float, now_s: float) -> str:
    """Which topics keep the next frame from being complete."""
    assembler = inputs.assembler
    ages = {"static camera": now_s - assembler.static_arrived_s}
    ages |= {name: now_s - stream.arrived_s for name, stream in assembler.streams.items()}
    late = [
        f"{name} never came" if math.isinf(age) else f"{name} is silent for {age:.2f} s"
        for name, age in ages.items()
        if age > stale_s / 2.0
    ]
    if inputs.complaint:
        late.append(f"{inputs.refused} messages refused, {inputs.complaint}")
    return "; ".join(late) or "no static image is one step after the last frame"
