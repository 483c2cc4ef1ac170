"""Trials through the real nodes: playroom, command guard, policy node and trial runner as processes.

The policies are untrained and the trials short; what is tried is the way from a reset to an outcome on the disk.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import rclpy
from diwa_msgs.msg import GuardState, SceneState
from rclpy.node import Node

from diwa_bringup.nodes.trial_runner import Terminal
from diwa_bringup.ros_evaluation.plan import Plan, PlannedPolicy, planned_trials, read_outcomes
from diwa_conventions import topics
from diwa_conventions.messages import pose_from_message
from diwa_conventions.qos import profile
from diwa_policy.artefacts import LoadedPolicy
from diwa_policy.evaluation.shared_starts import Starts
from diwa_sim.environment import PlayroomEnv
from diwa_worldmodel.artefact import LoadedWorldModel, load_world_model, save_world_model

sys.path.append(str(Path(__file__).parents[2] / "diwa_policy" / "test"))
from policy_samples import saved_policy, small_policy, small_world_model

TASK = "move-slider-left"
DEADLINE_S = 240.0
PATIENT = {
    "command_guard": ["state_timeout_s:=1.0", "max_state_age_s:=2.0", "action_timeout_s:=2.0", "max_tick_gap_s:=2.0"],
    "policy": ["stale_s:=5.0"],
}
"""A machine that is busy with other things breaks no trial off here."""


def start(package: str, name: str, *parameters: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", f"{package}.nodes.{name}", "--ros-args", "-r", f"__ns:=/{topics.NAMESPACE}"]
    return subprocess.Popen(command + [word for parameter in parameters for word in ("-p", parameter)])


class Listener:
    """What the playroom and the guard say, for the test."""

    def __init__(self) -> None:
        self.node = Node("listener", namespace=topics.NAMESPACE)
        self.begun: dict[int, SceneState] = {}
        """First state of each episode of the task."""
        self.guard: GuardState | None = None
        scene, guard = topics.SCENE_STATE, topics.GUARD_STATE
        self.node.create_subscription(SceneState, scene.name, self._on_scene, profile(scene))
        self.node.create_subscription(GuardState, guard.name, self._on_guard, profile(guard))

    def _on_scene(self, message: SceneState) -> None:
        if message.task:
            self.begun.setdefault(message.episode, message)

    def _on_guard(self, message: GuardState) -> None:
        self.guard = message

    def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline_s = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline_s, f"{what} did not happen within {DEADLINE_S:g} s"
            rclpy.spin_once(self.node, timeout_sec=0.05)


@pytest.fixture(scope="module")
def world_model(tmp_path_factory: pytest.TempPathFactory) -> LoadedWorldModel:
    """Untrained, and content with images that a busy machine delivers apart from each other."""
    folder = tmp_path_factory.mktemp("models") / "world_model"
    made = small_world_model(folder)
    patient = replace(made.metadata.data_set, skew_limit_s=0.2, state_limit_s=0.2, step_tolerance_s=0.066)
    save_world_model(folder, made.model, made.config, replace(made.metadata, data_set=patient))
    return load_world_model(folder)


@pytest.fixture(scope="module")
def policies(world_model: LoadedWorldModel) -> list[LoadedPolicy]:
    folder = world_model.folder.parent
    return [saved_policy(folder / f"policy{n}", world_model.hash, small_policy(seed=n), skill=TASK) for n in range(2)]


@pytest.fixture(scope="module")
def listener(world_model: LoadedWorldModel, policies: list[LoadedPolicy]) -> Iterator[Listener]:
    """Beside the running nodes; the policy node has the first policy."""
    models = [f"policy:={policies[0].folder}", f"world_model:={world_model.folder}", "stop_on_success:=false"]
    processes = [
        start("diwa_sim", "playroom", "image_size:=32"),
        start("diwa_robot", "command_guard", *PATIENT["command_guard"]),
        start("diwa_policy", "policy", *models, *PATIENT["policy"]),
    ]
    rclpy.init()
    listener = Listener()
    yield listener
    listener.node.destroy_node()
    rclpy.shutdown()
    for process in processes:
        process.send_signal(signal.SIGINT)
    for process in processes:
        try:
            process.wait(timeout=10.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def plan(
    folder: Path, world_model: LoadedWorldModel, policies: list[LoadedPolicy], trials: int, time_limit_s: float
) -> Plan:
    starts = Starts(1, trials)
    return Plan(
        task=TASK,
        scene="playroom",
        policies=tuple(PlannedPolicy(one.folder.name, str(one.folder), one.hash) for one in policies),
        world_model=str(world_model.folder),
        world_model_hash=world_model.hash,
        trials=planned_trials(starts.seeds(), 1, len(policies)),
        outcomes=str(folder / "trials.jsonl"),
        time_limit_s=time_limit_s,
    )


def runner(plan: Plan, folder: Path) -> subprocess.Popen[bytes]:
    (folder / "plan.json").write_text(plan.to_json())
    return start("diwa_bringup", "trial_runner", f"plan:={folder / 'plan.json'}")


def test_trials_of_two_policies_begin_where_the_offline_evaluation_begins(
    listener: Listener, world_model: LoadedWorldModel, policies: list[LoadedPolicy], tmp_path: Path
):
    had = plan(tmp_path, world_model, policies, trials=1, time_limit_s=1.5)
    process = runner(had, tmp_path)
    listener.until(lambda: process.poll() is not None, "the runner's end")
    outcomes = read_outcomes(Path(had.outcomes))
    assert process.returncode == 0 and outcomes.why == ""
    counted = [one for one in outcomes.attempts if one.counted]
    assert [(one.name, one.seed) for one in counted] == [("policy0", 0), ("policy1", 0)]
    for one in counted:
        assert not one.success and one.reason == "time limit"
        assert one.frames == pytest.approx(1.5 * 7.5, abs=2)
        assert 0 < len(one.decision_ms) <= len(one.stamp_to_action_ms) <= one.frames + 2
        assert min(one.stamp_to_action_ms) > 0.0 and one.claimed is None
    environment = PlayroomEnv(task=TASK, images=False, camera_size_px=32, image_size_px=32)
    environment.reset(seed=0)
    start = environment.scene_state()
    environment.close()
    assert listener.begun
    for seen in listener.begun.values():
        joints = (seen.slider_m, seen.drawer_m, seen.switch_m, seen.led)
        assert joints == pytest.approx((start.slider_m, start.drawer_m, start.switch_m, start.led), abs=2e-3)
        assert pose_from_message(seen.cube).distance_m(start.cube) < 2e-3


def test_ctrl_c_in_a_run_keeps_what_is_done_and_lets_go_of_the_arm(
    listener: Listener, world_model: LoadedWorldModel, policies: list[LoadedPolicy], tmp_path: Path
):
    had = plan(tmp_path, world_model, policies[:1], trials=50, time_limit_s=1.0)
    process = runner(had, tmp_path)
    outcomes = Path(had.outcomes)
    listener.until(lambda: bool(read_outcomes(outcomes).attempts), "the first trial's outcome")
    listener.until(
        lambda: listener.guard is not None and listener.guard.armed_source == topics.POLICY_SOURCE, "the next run"
    )
    process.send_signal(signal.SIGINT)
    listener.until(lambda: process.poll() is not None, "the runner's end")
    listener.until(lambda: listener.guard is not None and not listener.guard.armed_source, "letting go")
    assert process.returncode == 0
    found = read_outcomes(outcomes)
    assert found.why is None and 1 <= len(found.attempts) < 50
    assert all(json.loads(line)["kind"] == "attempt" for line in outcomes.read_text().splitlines())


def test_lines_of_the_terminal_are_there_when_they_are_whole():
    reading, writing = os.pipe()
    terminal = Terminal(reading)
    assert terminal.lines() == []
    os.write(writing, b"y\nper")
    assert terminal.lines() == ["y"]
    os.write(writing, b"haps\n\n")
    assert terminal.lines() == ["perhaps", ""]
    os.close(writing)
    assert terminal.lines() == [None]
    os.close(reading)


def test_without_a_plan_the_runner_ends_with_one_line():
    command = [sys.executable, "-m", "diwa_bringup.nodes.trial_runner"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("trial_runner: parameter plan is empty")
