"""A plan of trials, and stand-ins for playroom, command guard and policy node that a protocol is tried against."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from diwa_bringup.ros_evaluation.plan import Outcome, Plan, PlannedPolicy, Scene, planned_trials
from diwa_bringup.ros_evaluation.protocol import TrialProtocol
from diwa_bringup.ros_evaluation.seen import (
    Accepted,
    Answer,
    Ask,
    Cancel,
    Goal,
    GuardMode,
    GuardSeen,
    Load,
    PolicyMode,
    PolicySeen,
    Recover,
    Request,
    Reset,
    Result,
    Say,
    SceneSeen,
)
from diwa_policy.evaluation.shared_starts import Starts

TASK = "open-drawer"
FRAME_NS = 33_333_333
FRAME_S = FRAME_NS * 1e-9
WORLD_MODEL_HASH = "ab" * 32
SUCCESS_FRAMES = 60
"""Of a run that succeeds."""


def plan(scene: Scene = "playroom", trials: int = 2, policies: int = 2, sets: int = 1, **parts: object) -> Plan:
    named = tuple(PlannedPolicy(f"policy{n}", f"/policies/{n}", f"{n}" * 64) for n in range(policies))
    whole = Plan(
        task=TASK,
        scene=scene,
        policies=named,
        world_model="/world_model",
        world_model_hash=WORLD_MODEL_HASH,
        trials=planned_trials(Starts(sets, trials).seeds(), sets, policies),
        outcomes="/outcomes.jsonl",
    )
    return replace(whole, **parts)  # type: ignore[arg-type]


def outcome(policy: int = 0, number: int = 0, success: bool = True, **parts: object) -> Outcome:
    whole = Outcome(
        policy=policy,
        name=f"policy{policy}",
        number=number,
        set=0,
        seed=number,
        attempt=1,
        counted=True,
        success=success,
        judge="oracle",
        reason="success" if success else "time limit",
        frames=17 if success else 90,
        seconds=2.3,
        claimed=success,
        probability=0.9 if success else 0.1,
        threshold=0.5,
        surprise=3.0,
        stamp_to_action_ms=(10.0, 12.0),
        decision_ms=(4.0,),
        interval_ms=(133.0,),
    )
    return replace(whole, **parts)  # type: ignore[arg-type]


@dataclass
class Lab:
    """Time goes on by :meth:`frame`; each goal is met by the next of ``runs``.

    A run is "success", "nothing" (no success ever), "refused", "not begun: REASON", "stopped: REASON" (by the policy
    node, after ten steps), "guard fault", "vanishes" (the policy node is gone) or "deaf" (it runs on after a cancel).
    """

    protocol: TrialProtocol
    runs: list[str] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    now_s: float = 0.0
    stamp_ns: int = 10**18
    episode: int = 3
    success: bool = False
    scene_every: int = 1
    """A slow machine: a frame of the playroom in so many of ours, though stamps go on by one frame."""
    cameras: bool = True
    here: bool = True
    """The policy node."""
    dry_run: bool = False
    guard: GuardSeen = field(default_factory=lambda: GuardSeen(GuardMode.DISARMED, "", "started"))
    recovers: bool = True
    refuses: dict[str, str] = field(default_factory=dict)
    """Service -> why it says no."""
    loaded: str = ""
    world_model: str = ""
    goal: Goal | None = None
    run: str = ""
    frames: int = 0
    """Of the run."""
    count: int = 0

    def frame(self, count: int = 1) -> None:
        """A thirtieth of a second."""
        for _ in range(count):
            self.count += 1
            self.now_s += FRAME_S
            if self.count % self.scene_every == 0:
                self._advance()
            if self.here:
                self._tell_policy()
            self.protocol.on_guard(self.guard, self.now_s)
            self.protocol.around.missing = [] if self.here else ["action run_skill"]
            for request in self.protocol.turn(self.now_s):
                self.requests.append(request)
                self._answer(request)
            self.outcomes += self.protocol.outcomes
            self.protocol.outcomes.clear()

    def until_over(self, limit_s: float = 600.0) -> None:
        self.until(lambda: self.protocol.over, limit_s)

    def until(self, condition, limit_s: float = 120.0) -> None:  # type: ignore[no-untyped-def]
        end_s = self.now_s + limit_s
        while not condition():
            assert self.now_s < end_s, (self.protocol.phase, self.requests[-3:])
            self.frame()

    def asked(self, kind: type) -> list:  # type: ignore[type-arg]
        """Requests of that kind so far."""
        return [request for request in self.requests if isinstance(request, kind)]

    @property
    def said(self) -> str:
        return "\n".join(request.text for request in self.requests if isinstance(request, (Ask, Say)))

    # What the nodes do

    def _advance(self) -> None:
        self.stamp_ns += FRAME_NS
        self.frames += 1
        if self.goal is not None:
            self._go_on()
        for camera in ("static", "gripper") if self.cameras else ():
            self.protocol.on_camera(camera, self.stamp_ns)
        self.protocol.on_scene(SceneSeen(self.stamp_ns, self.episode, self.success), self.now_s)

    def _go_on(self) -> None:
        """The run: its end, if it is time for it."""
        if self.run == "success" and self.frames >= SUCCESS_FRAMES:
            self.success = True
        if self.frames < 40:
            return
        if self.run.startswith("stopped: "):
            self._finish(self.run.removeprefix("stopped: "))
        elif self.run == "guard fault":
            self.guard = GuardSeen(GuardMode.FAULT, "", "the arm does not follow")
        elif self.run == "vanishes":
            self.here, self.goal = False, None
            self.guard = GuardSeen(GuardMode.DISARMED, "", "disarmed: on hold for more than 5 s")

    def _finish(self, reason: str, steps: int | None = None) -> None:
        assert self.goal is not None
        ticket, self.goal = self.goal.ticket, None
        if self.guard.armed:
            self.guard = GuardSeen(GuardMode.DISARMED, "", reason)
        steps = self.frames // 4 if steps is None else steps
        self.protocol.answered(ticket, Result(reason == "success", reason, steps, math.nan if steps == 0 else 0.3))

    def _tell_policy(self) -> None:
        runs = self.goal is not None and self.run not in ("refused",)
        if self.count % (4 if runs else 30):
            return
        mode = PolicyMode.RUNNING if runs else PolicyMode.READY if self.loaded else PolicyMode.EMPTY
        step = self.frames // 4
        seen = PolicySeen(
            mode=mode,
            reason="busy",
            policy_hash=self.loaded,
            world_model_hash=self.world_model,
            dry_run=self.dry_run,
            frame_ns=self.stamp_ns,
            step=step,
            probability=min(step / 20, 1.0) if runs else math.nan,
            threshold=0.5,
            surprise=2.0,
            latency_s=0.012,
            decision_s=0.003 + 0.001 * (step // 4),
        )
        self.protocol.on_policy(seen, self.now_s)
        if runs:
            self.protocol.on_action(self.stamp_ns + 12_000_000)

    def _answer(self, request: Request) -> None:
        if isinstance(request, Load) and self.here:
            refusal = self.refuses.get("load")
            if not refusal:
                self.loaded = next(one.hash for one in self.protocol.plan.policies if one.path == request.path)
                self.world_model = WORLD_MODEL_HASH if request.world_model else self.world_model
            self.protocol.answered(request.ticket, Answer(not refusal, refusal or "loaded"))
        elif isinstance(request, Reset):
            refusal = self.refuses.get("reset")
            self.episode, self.success = self.episode + 1, False
            self.protocol.answered(request.ticket, Answer(not refusal, refusal or "reset", self.episode))
        elif isinstance(request, Recover):
            if self.recovers:
                self.guard = GuardSeen(GuardMode.DISARMED, "", "recovered")
            self.protocol.answered(request.ticket, Answer(self.recovers, "recovered" if self.recovers else "it stays"))
        elif isinstance(request, Goal) and self.here:
            self._begin(request)
        elif isinstance(request, Cancel) and self.goal is not None and self.run != "deaf":
            self._finish("cancelled")

    def _begin(self, request: Goal) -> None:
        self.run = self.runs.pop(0) if self.runs else "success"
        if self.run == "refused":
            self.protocol.answered(request.ticket, Accepted(False))
            return
        self.goal, self.frames = request, 0
        self.protocol.answered(request.ticket, Accepted(True))
        if self.run.startswith("not begun: "):
            self._finish(self.run.removeprefix("not begun: "), steps=0)
        else:
            self.guard = GuardSeen(GuardMode.ARMED, "policy", "policy is armed")


def lab(given: Plan | None = None, *runs: str, **parts: object) -> Lab:
    return Lab(TrialProtocol(given or plan(), 0.0), list(runs), **parts)  # type: ignore[arg-type]
