"""The training node as a process: progress on its topic, Ctrl-C, bad parameters."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import rclpy
import yaml
from diwa_msgs.msg import StageProgress
from training_run_samples import checkpoint_step
from world_model_samples import small_config, small_data_set

from diwa_conventions import topics
from diwa_conventions.errors import UserError
from diwa_conventions.qos import message_type, profile
from diwa_worldmodel.artefact import load_world_model
from diwa_worldmodel.nodes.train import TrainingNode
from diwa_worldmodel.settings import to_mapping

TIMEOUT_S = 60.0


@contextmanager
def started(*parameters: str) -> Iterator[subprocess.Popen[str]]:
    """The node as a process, which does not outlive the block."""
    command = [sys.executable, "-m", "diwa_worldmodel.nodes.train", "--ros-args", "-r", "__ns:=/diwa"]
    for parameter in parameters:
        command += ["-p", parameter]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


class Listener:
    """Keeps what comes on the progress topic."""

    def __init__(self, *parameters: str) -> None:
        words = [word for parameter in parameters for word in ("-p", parameter)]
        rclpy.init(args=["--ros-args", "-r", "__ns:=/diwa", *words])
        self.node = rclpy.create_node("listener", use_global_arguments=False, namespace="/diwa")
        self.seen: list[StageProgress] = []
        topic = topics.TRAINING_PROGRESS
        self.node.create_subscription(message_type(topic), topic.name, self.seen.append, profile(topic))

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Spin until the condition holds."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while not condition():
            assert time.monotonic() < deadline_s, (
                f"{what} did not come within {TIMEOUT_S:.0f} s; seen: {self.seen[-2:]}"
            )
            rclpy.spin_once(self.node, timeout_sec=0.1)

    def ended(self) -> bool:
        return bool(self.seen) and self.seen[-1].state != StageProgress.RUNNING

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *failure: object) -> None:
        self.node.destroy_node()
        rclpy.shutdown()


@pytest.fixture
def parameters(tmp_path) -> list[str]:
    small_data_set(tmp_path / "play")
    config = tmp_path / "small.yaml"
    config.write_text(yaml.safe_dump(to_mapping(small_config({"steps": 1_000_000}))))
    named = {"data_set": tmp_path / "play", "out": tmp_path / "run", "config": config, "accelerator": "cpu"}
    return [f"{name}:={value}" for name, value in named.items()] + ["threads:=1"]


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert "Traceback" not in output, output
    return process.returncode, output


def test_progress_is_told_and_ctrl_c_leaves_a_checkpoint(parameters, tmp_path):
    with started(*parameters) as process, Listener() as listener:
        listener.until(lambda: bool(listener.seen) and "ms_per_step" in listener.seen[-1].names, "timed steps")
        running = listener.seen[-1]
        process.send_signal(signal.SIGINT)
        listener.until(listener.ended, "the end")
        stopped = listener.seen[-1]
        code, output = ended(process)
    assert (running.state, running.stage, running.total) == (StageProgress.RUNNING, "world model", 1_000_000)
    values = dict(zip(running.names, running.values, strict=True))
    assert values["loss"] > 0 and values["ms_per_step"] > 0 and running.eta_s > 0
    assert (code, stopped.state) == (0, StageProgress.STOPPED), output
    assert "the same command goes on" in stopped.message
    assert checkpoint_step(tmp_path / "run") == stopped.done >= running.done


def run_here(*parameters: str) -> tuple[int, StageProgress]:
    """Exit code and last message of a node in this process, which starts when it is listened to."""
    with Listener(*parameters) as listener:
        node = TrainingNode()
        listener.until(lambda: node.count_subscribers(topics.TRAINING_PROGRESS.name) > 0, "the listener")
        assert node.begin()
        listener.until(lambda: node.over, "the end of the training")
        code = node.close()
        listener.until(listener.ended, "the last message")
        node.destroy_node()
        return code, listener.seen[-1]


def test_finished_training_ends_the_node(parameters, tmp_path):
    code, last = run_here(*parameters, "settings:=[training.steps=5, model.kl_scale=1.0]")
    assert (code, last.state, last.done, last.total) == (0, StageProgress.FINISHED, 5, 5)
    loaded = load_world_model(tmp_path / "run" / "world_model")
    assert loaded.config.model.kl_scale == 1.0 and loaded.hash[:12] in last.message


def test_failure_is_told_on_the_topic_and_by_the_exit_code(parameters):
    code, last = run_here(*parameters, "settings:=[training.steps=0]")
    assert (code, last.state) == (2, StageProgress.FAILED)
    assert "training.steps is 0" in last.message and math.isnan(last.eta_s)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("preset:=huge", "parameter preset is 'huge'; expected one of paper, tiny"),
        ("place:=moon", "place is 'moon'; expected one of auto, memory, disk, device"),
        ("minutes:=-1.0", "--minutes is -1.0; expected a number of at least 0"),
        ("data_set:=''", "parameter data_set is missing; expected a folder"),
    ],
)
def test_wrong_parameter_is_named(parameters, wrong, message):
    with Listener(*parameters, wrong), pytest.raises(UserError, match=message):
        TrainingNode()


def test_unknown_parameter_is_one_line_and_exit_code_2(parameters):
    with started(*parameters, "stepz:=3") as process:
        code, output = ended(process)
    assert (code, output) == (2, output.splitlines()[0] + "\n")
    assert "unknown parameter 'stepz'" in output


def test_core_of_training_imports_no_ros():
    code = "import sys, diwa_worldmodel.training.training_run; sys.exit('rclpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
