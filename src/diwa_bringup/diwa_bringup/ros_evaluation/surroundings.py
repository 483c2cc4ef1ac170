"""The other nodes as the trial runner knows them: what each said last, when, and what of it keeps a trial waiting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from diwa_bringup.ros_evaluation.bounds import SILENT_S
from diwa_bringup.ros_evaluation.plan import Scene
from diwa_bringup.ros_evaluation.seen import GuardMode, GuardSeen, PolicyMode, PolicySeen, SceneSeen

_WHO = {"policy": "the policy node", "guard": "the command guard", "scene": "the playroom"}


@dataclass
class Surroundings:
    """Kept up to date by whoever hears of them."""

    of: Scene
    scene: SceneSeen | None = None
    guard: GuardSeen | None = None
    policy: PolicySeen | None = None
    missing: Sequence[str] = ()
    """Services and actions that nobody offers now."""
    _heard_s: dict[str, float] = field(default_factory=dict)

    def hear(self, seen: SceneSeen | GuardSeen | PolicySeen, now_s: float) -> None:
        """Somebody has spoken."""
        if isinstance(seen, SceneSeen):
            self.scene, self._heard_s["scene"] = seen, now_s
        elif isinstance(seen, GuardSeen):
            self.guard, self._heard_s["guard"] = seen, now_s
        else:
            self.policy, self._heard_s["policy"] = seen, now_s

    def silent(self, now_s: float, since_s: float = -math.inf) -> list[str]:
        """Who has said nothing for too long, also counted from ``since_s``."""
        names = [name for name in _WHO if name != "scene" or self.of == "playroom"]
        quiet_s = {name: now_s - max(self._heard_s.get(name, -math.inf), since_s) for name in names}
        return [_WHO[name] for name in names if quiet_s[name] > SILENT_S]

    @property
    def guard_fault(self) -> str | None:
        """Why the guard has latched, if it has."""
        guard = self.guard
        return guard.reason if guard is not None and guard.mode is GuardMode.FAULT else None

    def waits_for(self, now_s: float) -> str:
        """What has to be there, or to end, before a trial can begin; a latched guard is not of it."""
        if self.missing:
            return f"{', '.join(self.missing)} (is it running, in this ROS domain and namespace?)"
        if silent := self.silent(now_s):
            return f"{' and '.join(silent)} to speak"
        if self.policy is not None and self.policy.mode is PolicyMode.RUNNING:
            return "the policy node to end a run that is none of the trials'"
        if self.guard is not None and self.guard.armed:
            return f"the command guard, which is armed for {self.guard.source} (diwa guard disarm)"
        return ""
