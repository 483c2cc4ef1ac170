"""A policy on ROS 2: images and state in, actions for the command guard out. Topics, services, parameters: README.

A thin shell: frames are put together by ``serving.frames``, decided on and watched by ``serving.skill_run``.
"""

from __future__ import annotations

import gc
import math
import sys
import time
import traceback
from collections import deque
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diwa_msgs.action import RunSkill
from diwa_msgs.msg import DeltaAction, GuardState, PolicyStatus
from diwa_msgs.srv import Arm, Disarm, LoadPolicy
from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.task import Future

from diwa_conventions import topics
from diwa_conventions.actions import GRIPPER_INDEX
from diwa_conventions.errors import UserError
from diwa_conventions.health import Health
from diwa_conventions.node_main import run_node, start_lifecycle
from diwa_conventions.parameters import declare
from diwa_conventions.qos import message_type, profile
from diwa_conventions.rates import TRAIN_RATE_HZ
from diwa_policy.artefacts import load_policy
from diwa_policy.nodes.policy_inputs import PolicyInputs
from diwa_policy.nodes.policy_run import LATE_S, Running, why_over
from diwa_policy.nodes.policy_status import tell_seen, tell_served
from diwa_policy.serving.frames import Frame, FrameAssembler, FrameFault
from diwa_policy.serving.inference import Inference
from diwa_policy.serving.served import Served, load_served, rehearse
from diwa_policy.serving.skill_run import End, RunLimits, SkillRun
from diwa_worldmodel.dataset.config import DataSetConfig
from diwa_worldmodel.latent_filter import THREADS, LatentFilter

SUPERVISION_S = 0.02
OLD_S = 0.5
"""A frame's stamp may be so far from this node's clock."""
_LARGEST_SEED = 2**31 - 1
_QUEUED_S = 0.5
_HEARD_S = 2.5
_REMEMBERED = 64


class PolicyNode(LifecycleNode):  # type: ignore[misc]  # ROS has no types
    """Runs one skill at a time. In a dry run its actions go where nothing obeys them."""

    def __init__(self) -> None:
        super().__init__("policy")
        torch.set_num_threads(THREADS)
        self._declare_parameters()
        self._served: Served | None = None
        self._inferences: dict[str, Inference] = {}
        self._running: Running | None = None
        self._letting_go: Future | None = None
        self._state, self._reason = PolicyStatus.EMPTY, "no policy is loaded"
        self._guard: GuardState | None = None
        self._guard_s = -math.inf
        self._told: deque[tuple[int, int]] = deque(maxlen=_REMEMBERED)
        """Stamps of own statuses."""
        self._another_s = -math.inf
        """When another policy node was heard last."""
        self._active = False
        self._resources = ExitStack()

    def _declare_parameters(self) -> None:
        declare(self, "policy", "", "folder of the policy; empty: none until load_policy is called")
        declare(self, "world_model", "", "folder of its world model")
        declare(self, "reward", "", "folder of its reward classifier; empty: none, runs end at the time limit")
        declare(self, "dry_run", False, "publish on shadow_action what it would do; the arm is not armed")
        declare(self, "stop_on_success", True, "the classifier's success ends a run")
        declare(self, "surprise_factor", 1.5, "times the world model's bound at which surprise ends a run", (0.0, 1e3))
        declare(self, "check_views", True, "no run begins where the cameras show something else than the model knows")
        declare(self, "executed_actions", 0, "of a chunk before the next decision; 0: as trained", (0, 64))
        declare(self, "stale_s", 0.3, "a run ends when no frame was complete for so long [s]", (0.05, 5.0))
        declare(self, "inference", "auto", "auto, onnx or torch")
        declare(self, "device", "auto", "auto, cpu or cuda")
        declare(self, "autostart", True, "configure and activate without a lifecycle manager")

    def _get(self, name: str) -> Any:
        return self.get_parameter(name).value

    # Life cycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self._configure()
        except UserError as error:
            self.get_logger().error(str(error))
            return TransitionCallbackReturn.FAILURE
        except Exception:  # rclpy would swallow it
            self.get_logger().error(f"cannot configure, by a fault of this software:\n{traceback.format_exc()}")
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._active = True
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._end_run("the policy node was deactivated")
        self._active = False
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> int:
        """End a run, give back topics and services. The exit code."""
        self._end_run("the policy node was ended")
        self._active = False
        self._resources.close()
        return 0

    def _configure(self) -> None:
        choices = {"inference": ("auto", "onnx", "torch"), "device": ("auto", "cpu", "cuda")}
        for name, known in choices.items():
            if self._get(name) not in known:
                raise UserError(f"parameter {name} is {self._get(name)!r}; expected one of {', '.join(known)}")
        if self._get("policy"):
            self._load(self._get("policy"), self._get("world_model"), self._get("reward"))
        self._open_topics()

    def _open_topics(self) -> None:
        out = topics.SHADOW_ACTION if self._get("dry_run") else topics.ACTION
        self._action_out = self._publisher(out)
        self._status_out = self._publisher(topics.POLICY_STATUS)
        self._health = Health(self, "policy")
        self._inputs = PolicyInputs(self._assembler())
        for topic, callback in self._inputs.callbacks.items():
            self._subscribe(topic, callback)
        self._subscribe(topics.GUARD_STATE, self._on_guard)
        self._subscribe(topics.POLICY_STATUS, self._on_status)
        self._arm = self._kept(self.create_client(Arm, topics.ARM_SERVICE), self.destroy_client)
        self._disarm = self._kept(self.create_client(Disarm, topics.DISARM_SERVICE), self.destroy_client)
        self._kept(self.create_service(LoadPolicy, topics.LOAD_POLICY_SERVICE, self._on_load), self.destroy_service)
        server = ActionServer(
            self, RunSkill, topics.RUN_SKILL_ACTION, self._run_skill, cancel_callback=lambda goal: CancelResponse.ACCEPT
        )
        self._resources.callback(server.destroy)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        for period_s, on_time in ((SUPERVISION_S, self._supervise), (1.0, self._report)):
            self._kept(self.create_timer(period_s, on_time, clock=steady), self.destroy_timer)

    def _assembler(self) -> FrameAssembler:
        config = self._served.world_model.metadata.data_set if self._served else DataSetConfig()
        return FrameAssembler(config, needs_command=not self._get("dry_run"))

    def _publisher(self, topic: topics.Topic) -> Any:
        publisher = self.create_lifecycle_publisher(message_type(topic), topic.name, profile(topic))
        return self._kept(publisher, self.destroy_publisher)

    def _subscribe(self, topic: topics.Topic, callback: Any) -> None:
        def take(message: Any) -> None:
            callback(message)
            self._advance()

        # This node is held up while it decides or loads; of a state every message counts, not the newest alone.
        patient = replace(topic, depth=max(topic.depth, round(_QUEUED_S * topic.rate_hz)))
        subscription = self.create_subscription(message_type(topic), topic.name, take, profile(patient))
        self._kept(subscription, self.destroy_subscription)

    def _kept(self, made: Any, destroy: Any) -> Any:
        self._resources.callback(destroy, made)
        return made

    # Policies

    def _load(self, policy: str, world_model: str, reward: str) -> None:
        """UserError, and nothing changed, for what is missing or does not belong together."""
        if not world_model:
            raise UserError(f"no world model is named for {policy}; set parameter world_model")
        device = self._get("device")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        elif device == "cuda" and not torch.cuda.is_available():
            raise UserError("parameter device is 'cuda', but PyTorch sees no GPU here; use auto or cpu")
        begun_s = time.monotonic()
        served = load_served(
            _folder(policy), _folder(world_model), _folder(reward) if reward else None, self._get("inference"), device,
            self._inferences,
        )  # fmt: skip
        rehearse(served)
        self._served = served
        self._state, self._reason = PolicyStatus.READY, f"ready for {served.skill}"
        took_s = time.monotonic() - begun_s
        self.get_logger().info(f"{policy}: {served.skill}; {served.inference.note}; loaded in {took_s:.1f} s")
        for line in served.warnings:
            self.get_logger().warning(line)
        # What is loaded stays: the collector need not look at it in the middle of a run.
        gc.collect()
        gc.freeze()

    def _on_load(self, request: LoadPolicy.Request, response: LoadPolicy.Response) -> LoadPolicy.Response:
        try:
            if self._running:
                raise UserError("a skill is running; cancel it first")
            world_model, reward = request.world_model, request.reward
            if self._served:
                world_model = world_model or str(self._served.world_model.folder)
            self._load(request.path, world_model, reward or self._same_skill_reward(request.path))
        except (UserError, OSError) as error:
            response.success, response.message = False, str(error)
            return response
        assert self._served is not None
        self._inputs.assembler = self._assembler()
        response.success, response.skill = True, self._served.skill
        response.message = "; ".join([f"{request.path} is loaded", *self._served.warnings])
        return response

    def _same_skill_reward(self, policy: str) -> str:
        """The classifier that is loaded, if it is of the skill of the policy in the folder."""
        reward = self._served.reward if self._served else None
        if reward is None or load_policy(_folder(policy)).metadata.skill != reward.metadata.skill:
            return ""
        return str(reward.folder)

    # A run

    async def _run_skill(self, goal: ServerGoalHandle) -> RunSkill.Result:
        """The action's life: arm, run, disarm."""
        refusal = self._refusal(goal.request)
        if refusal:
            self.get_logger().warning(f"{goal.request.skill} does not run: {refusal}")
            goal.abort()
            return RunSkill.Result(success=False, reason=refusal, success_probability=math.nan)
        seed = int(goal.request.seed)
        if seed < 0:
            seed = int(np.random.default_rng().integers(_LARGEST_SEED))
        now_s = time.monotonic()
        running = self._running = Running(goal, seed, now_s, Future(), framed_s=now_s)
        self._state, self._reason = PolicyStatus.RUNNING, f"runs {goal.request.skill}"
        if self._get("dry_run"):
            self._begin()
        else:
            self._ask_to_arm(running)
        await running.over
        result = running.result
        if goal.is_cancel_requested:
            goal.canceled()
        elif result.success:
            goal.succeed()
        else:
            goal.abort()
        return result

    def _refusal(self, request: RunSkill.Goal) -> str:
        """Why this goal cannot be pursued, or ""."""
        if not self._active:
            return "the policy node is not active"
        if self._running:
            return f"{self._running.goal.request.skill} is running; cancel it first"
        if self._served is None:
            return f"no policy is loaded; call {topics.LOAD_POLICY_SERVICE}"
        if request.skill != self._served.skill:
            return f"the loaded policy is for {self._served.skill!r}, not {request.skill!r}; load another policy"
        if not (math.isfinite(request.time_limit_s) and request.time_limit_s > 0.0):
            return f"time_limit_s is {request.time_limit_s:g}; expected a number above 0"
        if self._another:
            return f"another policy node publishes {self._status_out.topic_name}; stop one of them"
        if not self._get("dry_run") and not self._arm.service_is_ready():
            return f"nobody serves {self._arm.srv_name}: is the command guard running?"
        return ""

    def _ask_to_arm(self, running: Running) -> None:
        """As soon as the request that ended the last run is answered: if it came later, it would end this one."""
        now_s = time.monotonic()
        on_its_way = self._letting_go is not None and not self._letting_go.done()
        if on_its_way and now_s - running.begun_s < LATE_S:
            return
        self._letting_go = None
        running.asked, running.begun_s = True, now_s
        future = self._arm.call_async(Arm.Request(source=topics.POLICY_SOURCE))
        future.add_done_callback(lambda done: self._on_armed(running, done))

    def _on_armed(self, running: Running, done: Future) -> None:
        answer = done.result()
        if running is not self._running:
            if answer is not None and answer.success:  # too late: the run is over
                self._let_go("the run was over before the guard answered")
            return
        if answer is None or not answer.success:
            self._end_run(f"the command guard does not arm: {answer.message if answer else 'no answer'}")
            return
        running.armed = True
        self._begin()

    def _begin(self) -> None:
        running, served = self._running, self._served
        assert running is not None and served is not None
        limits = RunLimits(
            stop_on_success=self._get("stop_on_success"),
            surprise_factor=self._get("surprise_factor"),
            check_views=self._get("check_views"),
            executed_actions=self._get("executed_actions"),
        )
        try:
            latent_filter = LatentFilter(served.world_model.model)
            running.run = SkillRun(served, latent_filter, limits, running.seed, running.goal.request.time_limit_s)
        except UserError as error:
            self._end_run(str(error))
            return
        running.framed_s = time.monotonic()
        self._inputs.assembler.begin()
        self.get_logger().info(f"runs {served.skill}, seed {running.seed}{self._dry_words}")

    @property
    def _dry_words(self) -> str:
        return " (dry run: nothing moves)" if self._get("dry_run") else ""

    def _advance(self) -> None:
        """After each message: is a frame complete?"""
        running = self._running
        if running is None or running.run is None:
            return
        try:
            frame = self._inputs.assembler.frame(time.monotonic())
            if frame is not None:
                self._see(running, running.run, frame)
        except FrameFault as fault:
            self._end_run(str(fault))
        except Exception as error:
            self.get_logger().error(f"a fault of this software:\n{traceback.format_exc()}")
            self._end_run(f"a fault of this software: {type(error).__name__}: {error}")

    def _see(self, running: Running, run: SkillRun, frame: Frame) -> None:
        begun_s = time.perf_counter()
        seen = run.see(frame)
        running.frame, running.framed_s, running.seen = frame, time.monotonic(), seen
        age_s = self.get_clock().now().nanoseconds * 1e-9 - frame.stamp_ns * 1e-9
        if abs(age_s) > OLD_S:
            self._end_run(
                f"the static camera's image is {age_s:.2f} s old by its stamp; do the machines' clocks agree?"
            )
            return
        if seen.decided:
            running.decision_s = time.perf_counter() - begun_s
        if seen.action is not None:
            running.sent += 1
            self._action_out.publish(self._action_message(seen.action, running.sent))
            running.latency_s = self.get_clock().now().nanoseconds * 1e-9 - frame.stamp_ns * 1e-9
        feedback = RunSkill.Feedback(step=seen.step, success_probability=seen.probability)
        running.goal.publish_feedback(feedback)
        self._publish_status()
        if seen.end is not None:
            self._end_run(seen.reason, success=seen.end is End.SUCCESS)

    def _action_message(self, action: Any, sequence: int) -> DeltaAction:
        message = DeltaAction(source=topics.POLICY_SOURCE, sequence=sequence, duration_s=1.0 / TRAIN_RATE_HZ)
        message.header.stamp, message.header.frame_id = self.get_clock().now().to_msg(), topics.BASE_FRAME
        message.translation, message.rotation = action[:3], action[3:GRIPPER_INDEX]
        message.gripper = float(action[GRIPPER_INDEX])
        return message

    def _end_run(self, reason: str, success: bool = False) -> None:
        running = self._running
        if running is None:
            return
        self._running = None
        run = running.run
        running.result = RunSkill.Result(
            success=success,
            reason=reason,
            steps=max(run.step, 0) if run else 0,
            success_probability=run.best_probability if run else math.nan,
            seed=running.seed,
        )
        if running.armed:
            self._let_go(f"policy: {reason}")
        self._state = PolicyStatus.READY if success else PolicyStatus.STOPPED
        self._reason = reason
        self._publish_status(running)
        running.over.set_result(None)
        said = f"{running.goal.request.skill} ended after {running.result.steps} steps: {reason}{self._dry_words}"
        if success:  # each severity needs a line of its own: rclpy remembers it by the place of the call
            self.get_logger().info(said)
        else:
            self.get_logger().warning(said)

    def _let_go(self, reason: str) -> None:
        """Disarm, unless a person has armed another source meanwhile."""
        armed = self._guard.armed_source if self._guard else ""
        if armed in ("", topics.POLICY_SOURCE):
            self._letting_go = self._disarm.call_async(Disarm.Request(reason=reason))

    # What stops a run beside its frames

    def _on_guard(self, message: GuardState) -> None:
        self._guard, self._guard_s = message, time.monotonic()
        if self._running and (reason := self._running.heard(message, self._guard_s)):
            self._end_run(reason)

    def _supervise(self) -> None:
        running = self._running
        if running is None:
            return
        if running.run is None and not running.asked:
            self._ask_to_arm(running)
        self._advance()
        reason = why_over(running, self._inputs, self._guard, self._guard_s, self._get("stale_s"), time.monotonic())
        if reason and self._running is running:
            self._end_run(reason)

    # What it says

    def _publish_status(self, ended: Running | None = None) -> None:
        running = self._running or ended
        message = PolicyStatus(state=self._state, reason=self._reason, dry_run=self._get("dry_run"))
        message.header.stamp = self.get_clock().now().to_msg()
        tell_served(message, self._served, self._get("surprise_factor"))
        if running:
            message.seed, message.latency_s, message.decision_s = running.seed, running.latency_s, running.decision_s
            tell_seen(message, running.seen, running.frame)
        self._told.append((message.header.stamp.sec, message.header.stamp.nanosec))
        self._status_out.publish(message)

    def _on_status(self, message: PolicyStatus) -> None:
        """Heard, not discovered: a node that was killed stays discovered for 20 s."""
        if (message.header.stamp.sec, message.header.stamp.nanosec) not in self._told:
            self._another_s = time.monotonic()

    @property
    def _another(self) -> bool:
        return time.monotonic() - self._another_s < _HEARD_S

    def _report(self) -> None:
        if not self._active:
            return
        if self._running is None:
            self._publish_status()
        text = f"another policy node publishes {self._status_out.topic_name}" if self._another else self._reason
        fine = self._state in (PolicyStatus.READY, PolicyStatus.RUNNING) and not self._another
        values = {
            "skill": self._served.skill if self._served else "",
            "inference": self._served.inference.note if self._served else "",
            "refused_messages": self._inputs.refused,
            "complaint": self._inputs.complaint,
            "warnings": "; ".join(self._served.warnings) if self._served else "",
        }
        self._health.report(fine, text, values)


def _folder(path: str) -> Path:
    return Path(path).expanduser()


def main() -> int:
    return run_node(PolicyNode, begin=start_lifecycle, close=PolicyNode.close)


if __name__ == "__main__":
    sys.exit(main())
