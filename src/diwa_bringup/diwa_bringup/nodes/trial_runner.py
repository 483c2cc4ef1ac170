"""Has the trials of a plan through the policy node, and writes down what comes of each as it ends.

It only talks to topics, services and the action, so it does not matter how the other nodes were started.
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import rclpy
from diwa_msgs.action import RunSkill
from diwa_msgs.msg import DeltaAction, GuardState, PolicyStatus, SceneState
from diwa_msgs.srv import LoadPolicy, Recover, ResetPlayroom
from rclpy.action import ActionClient
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.task import Future

from diwa_bringup.ros_evaluation import seen
from diwa_bringup.ros_evaluation.plan import OutcomeFile, Plan
from diwa_bringup.ros_evaluation.protocol import TrialProtocol
from diwa_conventions import topics
from diwa_conventions.errors import UserError
from diwa_conventions.node_main import run_node
from diwa_conventions.qos import message_type, profile

TURN_S = 0.05
LEAVE_S = 1.0
"""From Ctrl-C in a run to the end: the policy node is told to stop, and given the time to let go of the arm."""

_INFOS = {"static": topics.STATIC_INFO, "gripper": topics.GRIPPER_INFO}
"""Camera -> the topic that shows that it delivers: published by the same call as the image, and a thousandth of it."""


class TrialRunner(Node):
    """A thin shell around :class:`TrialProtocol`: messages and answers in, requests out."""

    def __init__(self) -> None:
        super().__init__("trial_runner")
        path = str(self.declare_parameter("plan", "").value)
        if not path:
            raise UserError("parameter plan is empty; expected the file that diwa evaluate policy --env ros writes")
        self.plan = Plan.from_json(Path(path).read_text(encoding="utf-8"))
        self.protocol = TrialProtocol(self.plan, time.monotonic())
        self._outcomes = OutcomeFile(Path(self.plan.outcomes))
        self._goal: Any = None
        """The handle of the run under way."""
        self._listen()
        self._load = self.create_client(LoadPolicy, topics.LOAD_POLICY_SERVICE)
        self._run = ActionClient(self, RunSkill, topics.RUN_SKILL_ACTION)
        self._recover = self.create_client(Recover, topics.RECOVER_SERVICE)
        self._reset = self.create_client(ResetPlayroom, topics.RESET_SERVICE)
        self._terminal = Terminal(sys.stdin.fileno()) if self.plan.scene == "real" else None
        self.create_timer(TURN_S, self.turn, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _listen(self) -> None:
        callbacks: dict[topics.Topic, Callable[[Any], None]] = {
            topics.GUARD_STATE: self._on_guard,
            topics.POLICY_STATUS: self._on_policy,
            topics.ACTION: self._on_action,
            **{info: partial(self._on_camera, camera) for camera, info in _INFOS.items()},
        }
        if self.plan.scene == "playroom":
            callbacks[topics.SCENE_STATE] = self._on_scene
        for topic, callback in callbacks.items():
            self.create_subscription(message_type(topic), topic.name, callback, profile(topic))

    # What is seen

    def _on_scene(self, message: SceneState) -> None:
        scene = seen.SceneSeen(_ns(message.header.stamp), int(message.episode), bool(message.success))
        self.protocol.on_scene(scene, time.monotonic())

    def _on_camera(self, camera: str, message: Any) -> None:
        self.protocol.on_camera(camera, _ns(message.header.stamp))

    def _on_guard(self, message: GuardState) -> None:
        guard = seen.GuardSeen(seen.GuardMode(message.state), message.armed_source, message.reason)
        self.protocol.on_guard(guard, time.monotonic())

    def _on_policy(self, message: PolicyStatus) -> None:
        self.protocol.on_policy(policy_seen(message), time.monotonic())

    def _on_action(self, message: DeltaAction) -> None:
        if message.source == topics.POLICY_SOURCE:
            self.protocol.on_action(_ns(message.header.stamp))

    # What is done

    def turn(self) -> None:
        """Hand on what is to be done, write down what has ended."""
        protocol = self.protocol
        protocol.around.missing = self._missing()
        for line in self._terminal.lines() if self._terminal else []:
            protocol.on_line(line)
        for request in protocol.turn(time.monotonic()):
            self._do(request)
        self._write()

    def _write(self) -> None:
        for outcome in self.protocol.outcomes:
            self._outcomes.write(outcome)
        self.protocol.outcomes.clear()

    def _missing(self) -> list[str]:
        clients = [self._load, self._recover] + ([self._reset] if self.plan.scene == "playroom" else [])
        missing = [f"service {client.srv_name}" for client in clients if not client.service_is_ready()]
        return missing + ([] if self._run.server_is_ready() else [f"action {topics.RUN_SKILL_ACTION}"])

    def _do(self, request: seen.Request) -> None:
        if isinstance(request, seen.Load):
            self._call(self._load, LoadPolicy.Request, request, "path", "world_model", "reward")
        elif isinstance(request, seen.Reset):
            self._call(self._reset, ResetPlayroom.Request, request, "task", "seed")
        elif isinstance(request, seen.Recover):
            self._call(self._recover, Recover.Request, request)
        elif isinstance(request, seen.Goal):
            goal = RunSkill.Goal(skill=request.skill, time_limit_s=request.time_limit_s, seed=request.seed)
            self._run.send_goal_async(goal).add_done_callback(partial(self._on_goal, request.ticket))
        elif isinstance(request, seen.Cancel):
            if self._goal is not None:
                self._goal.cancel_goal_async()
        else:
            print(request.text, end=" " if isinstance(request, seen.Ask) else "\n", flush=True)

    def _call(self, client: Any, kind: Any, request: Any, *names: str) -> None:
        """The service's answer goes to the protocol; one that fails is no answer."""

        def answered(future: Future) -> None:
            if future.exception() is not None or future.result() is None:
                return
            answer = future.result()
            reply = seen.Answer(bool(answer.success), answer.message, int(getattr(answer, "episode", -1)))
            self.protocol.answered(request.ticket, reply)

        client.call_async(kind(**{name: getattr(request, name) for name in names})).add_done_callback(answered)

    def _on_goal(self, ticket: int, future: Future) -> None:
        if future.exception() is not None or future.result() is None:
            return
        handle = future.result()
        if handle.accepted and not self.protocol.waits_for_answer(ticket):
            handle.cancel_goal_async()  # it was given up; nobody watches over it
            return
        if handle.accepted:
            self._goal = handle
            handle.get_result_async().add_done_callback(partial(self._on_result, ticket, handle))
        self.protocol.answered(ticket, seen.Accepted(bool(handle.accepted)))

    def _on_result(self, ticket: int, handle: Any, future: Future) -> None:
        self._goal = None if self._goal is handle else self._goal
        if future.exception() is not None or future.result() is None:
            return
        result = future.result().result
        reply = seen.Result(bool(result.success), result.reason, int(result.steps), float(result.success_probability))
        self.protocol.answered(ticket, reply)

    def finished(self) -> bool:
        return self.protocol.over

    def close(self) -> int:
        """Let the policy node stop, if told to end in the middle of a run; the exit code."""
        goal = self._goal
        if goal is not None:
            goal.cancel_goal_async()
            deadline_s = time.monotonic() + LEAVE_S
            while self._goal is not None and time.monotonic() < deadline_s:
                rclpy.spin_once(self, timeout_sec=0.05)
        if self.protocol.over:
            self._write()
            self._outcomes.end(self.protocol.why)
        else:
            self.protocol.interrupt()
            self._write()
        self._outcomes.close()
        if self.protocol.why:
            print(f"the trials ended early: {self.protocol.why}", file=sys.stderr, flush=True)
        return 0


class Terminal:
    """Lines that a person has typed by now; nothing waits for them."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._begun = b""

    def lines(self) -> list[str | None]:
        """Those since the last call; None once the terminal is closed."""
        if not select.select([self._file], [], [], 0.0)[0]:
            return []
        chunk = os.read(self._file, 4096)
        if not chunk:
            return [None]
        *whole, self._begun = (self._begun + chunk).split(b"\n")
        return [line.decode("utf-8", "replace") for line in whole]


def policy_seen(message: PolicyStatus) -> seen.PolicySeen:
    """What matters of a policy node's report."""
    return seen.PolicySeen(
        mode=seen.PolicyMode(message.state),
        reason=message.reason,
        policy_hash=message.policy_hash,
        world_model_hash=message.world_model_hash,
        dry_run=bool(message.dry_run),
        frame_ns=_ns(message.frame),
        step=int(message.step),
        probability=float(message.success_probability),
        threshold=float(message.success_threshold),
        surprise=float(message.surprise),
        latency_s=float(message.latency_s),
        decision_s=float(message.decision_s),
    )


def _ns(stamp: Any) -> int:
    return int(stamp.sec) * 10**9 + int(stamp.nanosec)


def main() -> int:
    """Have the trials; exit code 0 unless the plan is bad: how they went stands in the file of outcomes."""
    return run_node(TrialRunner, finished=TrialRunner.finished, close=TrialRunner.close)


if __name__ == "__main__":
    sys.exit(main())
