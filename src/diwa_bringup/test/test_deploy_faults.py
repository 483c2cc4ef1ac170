"""A deployment whose processes die: the arm is held, the states say why, and a restart recovers."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rclpy
from diwa_msgs.action import RunSkill
from diwa_msgs.msg import GuardState, PolicyStatus
from geometry_msgs.msg import PoseStamped
from rclpy.action import ActionClient

from diwa_conventions import topics
from diwa_conventions.qos import profile

sys.path.append(str(Path(__file__).parents[2] / "diwa_policy" / "test"))
from policy_samples import saved_policy, small_world_model

TASK = "open-drawer"
TIMEOUT_S, ANSWER_S = 120.0, 3.0
PATIENT = ["state_timeout_s:=1.0", "max_state_age_s:=2.0", "camera_timeout_s:=5.0", "max_tick_gap_s:=2.0"]
"""A machine that is busy with other things must not end a run before the test does."""


def start(package: str, name: str, *parameters: str) -> subprocess.Popen:
    command = [sys.executable, "-m", f"{package}.nodes.{name}", "--ros-args", "-r", f"__ns:=/{topics.NAMESPACE}"]
    return subprocess.Popen(command + [word for parameter in parameters for word in ("-p", parameter)])


def end(process: subprocess.Popen, how: int = signal.SIGTERM) -> None:
    process.send_signal(how)
    try:
        process.wait(timeout=10.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Watch:
    """What guard and policy say, and where the target is."""

    def __init__(self) -> None:
        self.node = rclpy.create_node("watch", namespace=topics.NAMESPACE)
        self.guard: GuardState | None = None
        self.status: PolicyStatus | None = None
        self.targets: list[np.ndarray] = []
        for topic, kind, callback in (
            (topics.GUARD_STATE, GuardState, self._on_guard),
            (topics.POLICY_STATUS, PolicyStatus, self._on_status),
            (topics.TARGET_POSE, PoseStamped, self._on_target),
        ):
            self.node.create_subscription(kind, topic.name, callback, profile(topic))
        self.skill = ActionClient(self.node, RunSkill, topics.RUN_SKILL_ACTION)

    def _on_guard(self, message: GuardState) -> None:
        self.guard = message

    def _on_status(self, message: PolicyStatus) -> None:
        self.status = message

    def _on_target(self, message: PoseStamped) -> None:
        point = message.pose.position
        self.targets.append(np.array([point.x, point.y, point.z]))

    def until(self, condition, what: str):
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            value = condition()
            if value:
                return value
            rclpy.spin_once(self.node, timeout_sec=0.05)
        pytest.fail(f"{what} did not happen; guard: {self.guard}; policy: {self.status}")

    def begin(self):
        """A run under way, two steps old: an untrained policy moves the arm about."""
        self.until(self.skill.server_is_ready, "the policy node")
        goal = RunSkill.Goal(skill=TASK, time_limit_s=60.0, seed=1)

        def accepted():
            self.status = None  # of a run before
            sent, asked_s = self.skill.send_goal_async(goal), time.monotonic()
            # A node that was killed is discovered for a while: what was sent to it is not answered.
            self.until(lambda: sent.done() or time.monotonic() - asked_s > ANSWER_S, "the goal's answer")
            if not sent.done():
                return None
            handle = sent.result()
            result = handle.get_result_async()
            running = lambda: self.status and self.status.state == PolicyStatus.RUNNING and self.status.step >= 2  # noqa: E731
            self.until(lambda: result.done() or running(), "steps")
            return None if result.done() else result

        return self.until(accepted, "a run")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    world_model = small_world_model(folder / "world_model")
    policy = saved_policy(folder / "policy", world_model.hash, skill=TASK)
    return [f"policy:={policy.folder}", f"world_model:={world_model.folder}", "stale_s:=2.0", "inference:=torch"]


@pytest.fixture(scope="module")
def watch():
    rclpy.init()
    watch = Watch()
    yield watch
    watch.skill.destroy()
    watch.node.destroy_node()
    rclpy.shutdown()


@pytest.fixture(scope="module")
def processes():
    """Playroom and guard, by name."""
    found = {
        "playroom": start("diwa_sim", "playroom", "image_size:=32"),
        "guard": start("diwa_robot", "command_guard", *PATIENT),
    }
    yield found
    for process in found.values():
        end(process)


@pytest.fixture
def arm(watch, processes):
    """With both running."""
    return watch


def test_a_policy_that_is_killed_leaves_a_held_arm_and_a_restarted_one_goes_on(arm, models):
    policy = start("diwa_policy", "policy", *models)
    try:
        arm.begin()
        end(policy, signal.SIGKILL)
        arm.until(lambda: arm.guard and arm.guard.state == GuardState.HOLDING, "the hold")
        assert "policy" in arm.guard.reason and "silent" in arm.guard.reason
        arm.targets.clear()
        arm.until(lambda: len(arm.targets) > 1 and np.array_equal(*arm.targets[-2:]), "the end of the braking")
        arm.targets.clear()
        arm.until(lambda: len(arm.targets) > 60, "targets of half a second")
        np.testing.assert_allclose(arm.targets, np.tile(arm.targets[0], (len(arm.targets), 1)), atol=1e-6)
        policy = start("diwa_policy", "policy", *models)
        arm.begin()
        assert arm.guard.armed_source == topics.POLICY_SOURCE
    finally:
        end(policy)
    arm.until(lambda: arm.guard and arm.guard.state == GuardState.DISARMED, "disarming at the policy's orderly end")


def test_a_guard_that_is_killed_ends_the_run_and_says_so(arm, processes, models):
    policy = start("diwa_policy", "policy", *models)
    try:
        result = arm.begin()
        end(processes["guard"], signal.SIGKILL)
        ended = arm.until(lambda: result.done() and result.result(), "the end of the run").result
        assert (ended.success, ended.reason) == (False, "the command guard is silent")
        assert arm.until(lambda: arm.status and arm.status.state == PolicyStatus.STOPPED, "the status")
    finally:
        end(policy)
