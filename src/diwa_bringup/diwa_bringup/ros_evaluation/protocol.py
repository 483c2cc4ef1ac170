"""The trials of a plan, one after the other, as a state machine that messages, answers and the time drive.

Each attempt: wait until the nodes are there and the guard is quiet, load the trial's policy, reset the scene (or have a
person do it), wait for fresh frames of the new episode, send the goal, follow the run, end it at the oracle's success
or at the time limit, judge it. Whatever breaks an attempt off leads back to the beginning of the same trial.

    protocol = TrialProtocol(plan, time.monotonic())
    protocol.on_scene(...)  protocol.on_guard(...)  protocol.answered(ticket, ...)      # as it arrives
    for request in protocol.turn(now_s): ...                                            # often: what is to be done now
"""

from __future__ import annotations

import math
from collections import Counter

from diwa_bringup.ros_evaluation.bounds import (
    AGAIN_S,
    ANSWER_S,
    ATTEMPTS,
    FRESH_FRAMES,
    GIVEN_UP,
    GUARD_FAULT,
    LATE_FACTOR,
    LOAD_S,
    LOST_S,
    PAUSE_S,
    REMIND_S,
    SETTLE_S,
    SILENT_S,
    STARTUP_S,
    THE_POLICYS_DOING,
)
from diwa_bringup.ros_evaluation.phase import Phase
from diwa_bringup.ros_evaluation.plan import Outcome, Plan, PlannedTrial
from diwa_bringup.ros_evaluation.run_record import RunRecord
from diwa_bringup.ros_evaluation.seen import (
    Accepted,
    Answer,
    Ask,
    Cancel,
    Goal,
    GuardSeen,
    Load,
    PolicyMode,
    PolicySeen,
    Recover,
    Reply,
    Request,
    Reset,
    Result,
    Say,
    SceneSeen,
)  # fmt: skip
from diwa_bringup.ros_evaluation.surroundings import Surroundings
from diwa_conventions.rates import RECORD_RATE_HZ

_CAMERAS = ("static", "gripper")


class TrialProtocol:
    """See above. ``over`` once there is nothing more to do; ``why`` then says why it ended early, or is empty."""

    def __init__(self, plan: Plan, now_s: float) -> None:
        self.plan = plan
        self.around = Surroundings(plan.scene)
        self.phase = Phase.NODES
        self.why = ""
        self.outcomes: list[Outcome] = []
        """Of attempts, as they end; whoever writes them clears the list."""
        self._todo = list(plan.trials)
        self._attempt = 1
        """At the first trial of the list."""
        self._ran = False
        """The policy has moved the arm in one of its attempts."""
        self._given_up = 0
        """Trials in a row."""
        self._requests: list[Request] = []
        self._ticket = 0
        self._now_s = self._since_s = self._asked_s = now_s
        self._limit_s, self._pause_s = STARTUP_S, 0.0
        self._no_recovery = "it does not answer"
        self._fresh: Counter[str] = Counter()
        self._episode = -1
        self._episode_ns: int | None = None
        self._run = RunRecord()
        self._verdict: tuple[bool, str] | None = None
        """Success and reason, where the run is ended from here."""
        self._broken_off = ""
        self._reward_is_loaded = False

    @property
    def over(self) -> bool:
        return self.phase is Phase.OVER

    @property
    def _trial(self) -> PlannedTrial:
        return self._todo[0]

    @property
    def _playroom(self) -> bool:
        return self.plan.scene == "playroom"

    def waits_for_answer(self, ticket: int) -> bool:
        """Whether the answer to that request still matters; a run that nobody waits for has to be cancelled."""
        return ticket == self._ticket and not self.over

    # What is seen

    def on_scene(self, seen: SceneSeen, now_s: float) -> None:
        self.around.hear(seen, now_s)
        if self.phase is Phase.SETTLE and seen.episode == self._episode and self._episode_ns is None:
            self._episode_ns = seen.stamp_ns
        if self.phase is Phase.RUN and self._playroom:
            if seen.episode == self._episode:
                self._run.scene(seen)
            else:
                self._break_run("somebody else reset the playroom")

    def on_camera(self, camera: str, stamp_ns: int) -> None:
        """A camera has delivered an image of this moment."""
        begun = not self._playroom or (self._episode_ns is not None and stamp_ns >= self._episode_ns)
        if self.phase is Phase.SETTLE and begun:
            self._fresh[camera] += 1

    def on_guard(self, seen: GuardSeen, now_s: float) -> None:
        self.around.hear(seen, now_s)
        if self.phase is Phase.RUN and self.around.guard_fault is not None:
            self._break_run(f"{GUARD_FAULT}: {seen.reason}")

    def on_policy(self, seen: PolicySeen, now_s: float) -> None:
        self.around.hear(seen, now_s)
        if self.phase is Phase.RUN:
            self._run.policy(seen)

    def on_action(self, stamp_ns: int) -> None:
        """The policy has asked for an action."""
        if self.phase is Phase.RUN:
            self._run.action(stamp_ns)

    def on_line(self, line: str | None) -> None:
        """What a person has typed; None when the terminal is closed."""
        word = "q" if line is None else line.strip().lower()
        if self.phase is Phase.PLACE and word == "q":
            self._end("ended by the person at the terminal")
        elif self.phase is Phase.PLACE:
            self._settle()
        elif self.phase is Phase.RUN and not self._playroom:
            self._cancel(False, "stopped by the person at the terminal")
        elif self.phase is Phase.JUDGE:
            self._judge(word)

    def answered(self, ticket: int, reply: Reply) -> None:
        """An answer to the request of that ticket; late ones count for nothing."""
        if not self.waits_for_answer(ticket):
            return
        if isinstance(reply, Answer):
            self._service_answered(reply)
        elif isinstance(reply, Accepted) and self.phase is Phase.START:
            self._started(reply)
        elif isinstance(reply, Result) and self.phase in (Phase.RUN, Phase.END):
            self._run_ended(reply)

    # What is done

    def turn(self, now_s: float) -> list[Request]:
        """What is to be done now; call it often."""
        self._now_s = now_s
        if self.phase is Phase.NODES:
            self._look_for_nodes()
        elif self.phase is Phase.RECOVER:
            self._watch_recovery()
        elif self.phase is Phase.SETTLE:
            self._look_for_frames()
        elif self.phase is Phase.RUN:
            self._watch_run()
        elif self._late:
            self._no_answer()
        requests, self._requests = self._requests, []
        return requests

    def interrupt(self) -> None:
        """Somebody ends it all: a run that nobody has judged yet is told, though it does not count."""
        if self.phase in (Phase.RUN, Phase.END, Phase.JUDGE):
            self._tell(False, False, "interrupted")
            self._end("")

    def _enter(self, phase: Phase, limit_s: float = math.inf) -> None:
        self.phase, self._limit_s, self._pause_s = phase, limit_s, 0.0
        self._since_s = self._asked_s = self._now_s

    @property
    def _late(self) -> bool:
        return self._now_s - self._since_s > self._limit_s

    def _again(self, after_s: float) -> bool:
        """True once every ``after_s`` of a phase."""
        again = self._now_s - self._asked_s > after_s
        self._asked_s = self._now_s if again else self._asked_s
        return again

    def _next_ticket(self) -> int:
        self._ticket += 1
        return self._ticket

    def _end(self, why: str) -> None:
        self.why = why
        self._enter(Phase.OVER)

    def _look_for_nodes(self) -> None:
        """Go on as soon as all are there and the guard can be armed."""
        waits_for, policy = self.around.waits_for(self._now_s), self.around.policy
        if not self._todo:
            self._end("")
        elif waits_for and self._late and self._playroom:
            self._end(f"waited {self._limit_s:g} s for {waits_for}")
        elif waits_for and not self._playroom and self._again(REMIND_S):
            self._requests.append(Say(f"waiting for {waits_for}; Ctrl-C ends"))
        elif not waits_for and policy is not None and self._now_s - self._since_s >= self._pause_s:
            if policy.dry_run:
                self._end("the policy node runs with dry_run:=true, where nothing moves the arm; start it without")
            elif self.around.guard_fault is None:
                self._load(policy)
            else:
                self._recover(self.around.guard_fault)

    def _recover(self, fault: str) -> None:
        if self._playroom:
            self._requests.append(Recover(self._next_ticket()))
            self._enter(Phase.RECOVER, LOST_S)
        else:
            mend = "mend that, then: diwa guard recover"
            self._requests.append(Say(f"the command guard has stopped: {fault}; {mend}. Waiting ..."))
            self._enter(Phase.RECOVER)

    def _watch_recovery(self) -> None:
        if self.around.guard_fault is None:
            self._enter(Phase.NODES, LOST_S)
        elif self._late:
            self._end(f"the command guard has stopped: {self.around.guard_fault}; recovery: {self._no_recovery}")
        elif self._playroom and self._again(AGAIN_S):
            self._requests.append(Recover(self._next_ticket()))

    def _load(self, policy: PolicySeen) -> None:
        """The trial's policy, unless it is loaded; of the rest only what is not loaded yet."""
        wanted = self.plan.policies[self._trial.policy]
        foreign = policy.mode is PolicyMode.EMPTY or policy.world_model_hash != self.plan.world_model_hash
        reward = self.plan.reward if foreign or not self._reward_is_loaded else ""
        if not foreign and policy.policy_hash == wanted.hash and not reward:
            self._reset()
            return
        world_model = self.plan.world_model if foreign else ""
        self._requests.append(Load(self._next_ticket(), wanted.path, world_model, reward))
        self._enter(Phase.LOAD, LOAD_S)

    def _reset(self) -> None:
        trial = self._trial
        self._episode, self._episode_ns = -1, None
        if self._playroom:
            self._requests.append(Reset(self._next_ticket(), self.plan.task, trial.seed))
            self._enter(Phase.RESET, ANSWER_S)
        else:
            words = f"reset the scene for {self.plan.words(trial)} (start {trial.number + 1}), then Enter; q ends"
            self._requests.append(Ask(words))
            self._enter(Phase.PLACE)

    def _service_answered(self, answer: Answer) -> None:
        if self.phase is Phase.RECOVER:
            self._no_recovery = answer.message  # whether it has recovered is for its state to say
        elif self.phase is Phase.LOAD and answer.success:
            self._reward_is_loaded = True
            self._reset()
        elif self.phase is Phase.LOAD:
            name = self.plan.policies[self._trial.policy].name
            self._end(f"the policy node does not load {name}: {answer.message}")
        elif self.phase is Phase.RESET and answer.success:
            self._episode = answer.episode
            self._settle()
        elif self.phase is Phase.RESET:
            self._end(f"the playroom does not reset: {answer.message}")

    def _settle(self) -> None:
        self._fresh.clear()
        self._enter(Phase.SETTLE, SETTLE_S)

    def _look_for_frames(self) -> None:
        """Nothing of the time before the reset may reach the policy."""
        lacking = [camera for camera in _CAMERAS if self._fresh[camera] < FRESH_FRAMES]
        if not lacking:
            # In the playroom its own time counts, and that of a busy machine is slow.
            limit_s = self.plan.time_limit_s * (LATE_FACTOR if self._playroom else 1.0)
            self._verdict, self._broken_off = None, ""
            self._requests.append(Goal(self._next_ticket(), self.plan.task, limit_s, self._trial.seed))
            self._enter(Phase.START, ANSWER_S)
        elif self._late:
            self._broke(f"no fresh frames of the {' and the '.join(lacking)} camera within {SETTLE_S:g} s of the reset")

    def _started(self, reply: Accepted) -> None:
        if reply.accepted:
            self._enter(Phase.RUN, ANSWER_S)
            if not self._playroom:
                self._requests.append(Say("the policy moves the arm; Enter stops it"))
            return
        policy = self.around.policy
        says = f" and says: {policy.reason}" if policy and policy.reason else ""
        self._broke(f"the policy node refused the goal{says}")

    def _watch_run(self) -> None:
        """The oracle's success and the time limit end a trial in the playroom, as they do offline."""
        run = self._run
        if silent := self.around.silent(self._now_s, self._since_s):
            self._break_run(f"silent for more than {SILENT_S:g} s: {', '.join(silent)}")
        elif not run.begun and self._late:
            self._break_run(f"the policy node took the goal, but did not run within {ANSWER_S:g} s")
        elif self._playroom and run.success:
            self._cancel(True, "success")
        elif self._playroom and run.scene_frames >= self.plan.time_limit_s * RECORD_RATE_HZ:
            self._cancel(False, "time limit")

    def _break_run(self, why: str) -> None:
        self._broken_off = why
        self._cancel(False, why)

    def _cancel(self, success: bool, reason: str) -> None:
        self._verdict = success, reason
        self._requests.append(Cancel(self._ticket))
        self._enter(Phase.END, ANSWER_S)

    def _no_answer(self) -> None:
        if self.phase is Phase.END and self._verdict and self._playroom and not self._broken_off:
            self._count(*self._verdict)  # what was seen, was seen
        elif self.phase is Phase.END:
            self._broke(f"{self._broken_off or 'the run was cancelled'}; no result came within {ANSWER_S:g} s")
        else:
            who = "the playroom" if self.phase is Phase.RESET else "the policy node"
            self._broke(f"no answer of {who} within {self._limit_s:g} s")

    # How it ended

    def _run_ended(self, result: Result) -> None:
        run = self._run
        run.result(result.steps, result.probability)
        success, reason = self._verdict or (run.success, "success" if run.success else result.reason)
        fault = not any(word in result.reason for word in THE_POLICYS_DOING)
        if self._verdict is None and result.steps == 0:
            self._broke(result.reason)
        elif not self._playroom:
            self._verdict = False, reason
            self._requests.append(Ask(f"{self.plan.words(self._trial)} ended ({reason}); success? y, n, a: repeat it"))
            self._enter(Phase.JUDGE)
        elif self._broken_off or (self._verdict is None and not success and fault):
            self._broke(self._broken_off or result.reason)
        else:
            self._count(success, reason)

    def _judge(self, word: str) -> None:
        assert self._verdict is not None
        if word in ("y", "yes", "n", "no"):
            self._count(word.startswith("y"), self._verdict[1])
        elif word in ("a", "q"):
            self._broke("broken off by the person at the terminal")
            if word == "q":
                self._end("ended by the person at the terminal")
        else:
            self._requests.append(Ask("y: success, n: failure, a: it does not count and is repeated, q: end"))

    def _count(self, success: bool, reason: str) -> None:
        self._tell(True, success, reason)
        self._given_up = 0
        self._next_trial()

    def _next_trial(self) -> None:
        self._todo.pop(0)
        self._attempt, self._ran = 1, False
        self._enter(Phase.NODES, LOST_S)

    def _broke(self, why: str) -> None:
        """This attempt counts for nothing, and the trial is had again; not for ever where no person decides."""
        last = self._playroom and self._attempt == ATTEMPTS
        self._ran = self._ran or self._run.steps > 0
        if last and self._run.steps > 0 and self._broken_off.startswith(GUARD_FAULT):
            self._count(False, why)
            return
        self._tell(False, False, why)
        if not last:
            self._attempt += 1
            self._enter(Phase.NODES, LOST_S)
            self._pause_s = PAUSE_S * (self._attempt - 1) if self._playroom else 0.0
            return
        self._given_up += 1
        if self._ran and self._given_up < GIVEN_UP:
            self._next_trial()
        else:
            words = f"{self.plan.words(self._trial)} could not be had in {ATTEMPTS} attempts"
            self._end(f"{words} (is the machine busy with other things?): {why}")

    def _tell(self, counted: bool, success: bool, reason: str) -> None:
        outcome = self._run.outcome(self.plan, self._trial, self._attempt, counted, success, reason)
        self.outcomes.append(outcome)
        self._requests.append(Say(self.plan.told(self._trial, outcome)))
        self._ticket += 1  # whatever is still answered is of this attempt
        self._run = RunRecord()
