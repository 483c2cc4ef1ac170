"""Pre-training, reward and fine-tuning as nodes: progress on their topic, signals, bad parameters."""

from __future__ import annotations

import math
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import rclpy
from diwa_msgs.msg import StageProgress
from policy_samples import SKILL, saved_policy, saved_reward, small_yaml
from rclpy.executors import SingleThreadedExecutor

import diwa_policy
from diwa_conventions import topics
from diwa_conventions.node_main import run_node
from diwa_conventions.qos import message_type, profile
from diwa_policy.artefacts import load_policy, load_reward
from diwa_policy.finetune.run import fine_tune
from diwa_policy.finetune.stage import FineTune
from diwa_policy.nodes import finetune, pretrain, reward
from diwa_policy.nodes.stage_node import End, Parameters, StageNode, finished
from diwa_worldmodel.artefact import LoadedWorldModel
from diwa_worldmodel.dataset.store import open_data_set
from diwa_worldmodel.encoding import encode_data_set
from diwa_worldmodel.training.loop import Report

TIMEOUT_S = 120.0
MAINS = {"pretrain": pretrain.main, "reward": reward.main, "finetune": finetune.main}
Given = dict[str, Any]
Condition = Callable[[StageProgress], bool]


class Listener:
    """Keeps what comes on the progress topic, in a thread and a ROS context of its own."""

    def __init__(self) -> None:
        self._context = rclpy.Context()
        rclpy.init(args=[], context=self._context)
        self._node = rclpy.create_node("listener", namespace="/diwa", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._news = threading.Condition()
        self._waiting: tuple[Condition, Callable[[], None]] | None = None
        self.seen: list[StageProgress] = []
        topic = topics.TRAINING_PROGRESS
        self._node.create_subscription(message_type(topic), topic.name, self._on_message, profile(topic))
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._spin)

    def _on_message(self, message: StageProgress) -> None:
        with self._news:
            self.seen.append(message)
            self._news.notify_all()
        if self._waiting and self._waiting[0](message):
            self._waiting[1]()
            self._waiting = None

    def _spin(self) -> None:
        while not self._over.is_set():
            self._executor.spin_once(timeout_sec=0.05)

    def when(self, condition: Condition, do: Callable[[], None]) -> None:
        """Once, when the condition holds for a message."""
        self._waiting = condition, do

    def first(self, condition: Condition, what: str) -> StageProgress:
        """The first message for which the condition holds."""

        def found() -> StageProgress | None:
            return next((message for message in self.seen if condition(message)), None)

        with self._news:
            assert self._news.wait_for(lambda: found() is not None, TIMEOUT_S), f"{what} did not come: {self.seen[-2:]}"
        message = found()
        assert message is not None
        return message

    def last(self) -> StageProgress:
        return self.first(lambda message: message.state != StageProgress.RUNNING, "the end")

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._over.set()
        self._thread.join()
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)


@pytest.fixture(autouse=True)
def own_signal_handlers() -> Iterator[None]:
    """Those of nodes that run in this process do not outlive the test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener() as listening:
        yield listening


@pytest.fixture
def given(tmp_path: Path, world_model: LoadedWorldModel, demonstrations_path: Path) -> dict[str, Given]:
    """Parameters of each node: tiny, and with demonstrations that are encoded already."""
    encode_data_set(world_model, open_data_set(demonstrations_path))
    saved_policy(tmp_path / "base", world_model.hash)
    saved_reward(tmp_path / "paid", world_model.hash)
    common = {"world_model": world_model.folder, "demonstrations": demonstrations_path, "out": tmp_path / "out"}
    common |= {"preset": "tiny", "config": small_yaml(tmp_path)}
    made = {"policy": tmp_path / "base", "reward": tmp_path / "paid", "threads": 1}
    return {"pretrain": common | {"task": SKILL}, "reward": common | {"task": SKILL}, "finetune": common | made}


def words(given: Given) -> list[str]:
    parameters = [word for name, value in given.items() for word in ("-p", f"{name}:={value}")]
    return ["--ros-args", "-r", "__ns:=/diwa", *parameters]


@contextmanager
def started(name: str, given: Given) -> Iterator[subprocess.Popen[str]]:
    """The node as a process, which does not outlive the block."""
    command = [sys.executable, "-m", f"diwa_policy.nodes.{name}", *words(given)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert "Traceback" not in output, output
    return process.returncode, output


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs a node in this process, as its ``main`` does; it begins when it is listened to. Its exit code."""
    begin = StageNode.begin

    def begin_when_heard(node: StageNode) -> bool:
        deadline_s = time.monotonic() + TIMEOUT_S
        while node.count_subscribers(topics.TRAINING_PROGRESS.name) == 0:
            assert time.monotonic() < deadline_s, "nobody listens"
            node.get_clock().sleep_for(rclpy.duration.Duration(seconds=0.01))
        return begin(node)

    def run(main: Callable[[], int], given: Given) -> int:
        monkeypatch.setattr(StageNode, "begin", begin_when_heard)
        monkeypatch.setattr(sys, "argv", ["stage", *words(given)])
        return main()

    return run


# To the end


def test_pretraining_ends_with_a_policy(listener, here, given):
    code = here(pretrain.main, given["pretrain"] | {"settings": "[pretraining.epochs=3]"})
    last = listener.last()
    assert (code, last.state, last.stage) == (0, StageProgress.FINISHED, "pre-training")
    assert last.done == last.total > 0 and "loss" in last.names
    assert f"next: diwa reward {given['pretrain']['world_model']}" in last.message
    assert load_policy(given["pretrain"]["out"]).metadata.skill == SKILL


def test_reward_ends_with_a_classifier_and_strict_with_its_verdict(listener, here, given):
    # One epoch at a rate of nearly nothing: it cannot tell success from anything.
    untaught = {"settings": "[reward.epochs=1, reward.learning_rate=1e-9]", "strict": "true"}
    code = here(reward.main, given["reward"] | untaught)
    last = listener.last()
    assert (code, last.state, last.stage) == (1, StageProgress.FINISHED, "reward")
    assert (last.done, last.total, list(last.names)) == (1, 1, ["loss"])
    assert "next: diwa finetune" in last.message
    assert load_reward(given["reward"]["out"]).metadata.skill == SKILL


def test_finetuning_ends_with_a_judged_policy(listener, here, given):
    code = here(finetune.main, given["finetune"])
    last = listener.last()
    assert (code, last.state, last.stage) == (0, StageProgress.FINISHED, "fine-tuning")
    assert last.done == last.total == 2 and "dreamed_success" in last.names
    assert load_policy(given["finetune"]["out"] / "policy").metadata.origin == "dreams"


# Told to stop


def test_ctrl_c_in_pretraining_leaves_nothing(listener, here, given):
    listener.when(lambda message: "loss" in message.names, lambda: signal.raise_signal(signal.SIGINT))
    code = here(pretrain.main, given["pretrain"] | {"settings": "[pretraining.epochs=10000000]"})
    last = listener.last()
    running = listener.first(lambda message: "loss" in message.names, "an epoch")
    assert (running.state, running.message) == (StageProgress.RUNNING, "training")
    assert 0 < running.done < running.total and running.eta_s > 0
    assert (code, last.state) == (0, StageProgress.STOPPED)
    assert "no policy was saved; the same command begins anew" in last.message
    assert not given["pretrain"]["out"].exists()


def test_sigterm_in_finetuning_leaves_a_checkpoint_from_which_the_command_goes_on(listener, given):
    options = given["finetune"] | {"settings": "[fine_tuning.imagined_steps=100000000, fine_tuning.trust_every=1000]"}
    with started("finetune", options) as process:
        listener.first(lambda message: message.done > 0, "an iteration")
        process.send_signal(signal.SIGTERM)
        last = listener.last()
        code, output = ended(process)
    assert (code, last.state) == (0, StageProgress.STOPPED), output
    assert "which is saved; the same command goes on" in last.message
    same = FineTune(
        *(options[name] for name in ("world_model", "demonstrations", "policy", "reward", "out")),
        preset="tiny", config=options["config"], set=tuple(options["settings"].strip("[]").split(", ")),
    )  # fmt: skip
    assert fine_tune(same, Silent(), lambda: True).iteration == last.done > 0


class Silent:
    """Watches a stage and says nothing."""

    def report(self, report: Report) -> None: ...

    def say(self, line: str) -> None: ...

    def warn(self, line: str) -> None: ...


class Told(StageNode):
    """A stage that is sent two signals; by its patience it hears of the first."""

    stage = "test"

    def __init__(self) -> None:
        self.heard: list[bool] = []
        super().__init__("told")

    def read(self, given: Parameters) -> None:
        self.patience = given.value("patience", 0, "see StageNode")

    def work(self, stop: Callable[[], bool]) -> End:
        for number in (signal.SIGTERM, signal.SIGINT):
            self.heard.append(stop())
            signal.raise_signal(number)
        return finished("not reached: the second signal interrupts")

    def left(self) -> str:
        return f"heard {self.heard}"


@pytest.mark.parametrize(("patience", "heard"), [(0, "heard [False]"), (1, "heard [False, True]")])
def test_signal_beyond_the_stages_patience_interrupts_it_wherever_it_is(listener, here, patience, heard):
    code = here(lambda: run_node(Told, Told.begin, lambda node: True, Told.close), {"patience": patience})
    last = listener.last()
    assert (code, last.state, last.message) == (0, StageProgress.STOPPED, heard)
    assert math.isnan(last.eta_s) and last.total == 0


# Bad input


def test_failure_is_told_on_the_topic_and_by_the_exit_code(listener, here, given):
    code = here(pretrain.main, given["pretrain"] | {"task": "push-lfet"})
    last = listener.last()
    assert (code, last.state) == (2, StageProgress.FAILED)
    assert "did you mean 'push-left'" in last.message and "\n" not in last.message


@pytest.mark.parametrize(
    ("stage", "wrong", "message"),
    [
        ("pretrain", {"preset": "huge"}, "unknown value of parameter 'preset': 'huge'"),
        ("pretrain", {"task": "''"}, "parameter task is missing; expected a name, e.g. -p task:=NAME"),
        ("reward", {"world_model": "''"}, "parameter world_model is missing; expected a folder"),
        ("reward", {"strikt": "true"}, "unknown parameter 'strikt'"),
        ("finetune", {"device": "tpu"}, "unknown value of parameter 'device': 'tpu'"),
        ("finetune", {"threads": "-1"}, "--threads is -1; expected a number from 0 to 1024"),
    ],
)
def test_wrong_parameter_is_one_line_and_exit_code_2(given, monkeypatch, capsys, stage, wrong, message):
    monkeypatch.setattr(sys, "argv", ["stage", *words(given[stage] | wrong)])
    assert MAINS[stage]() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not given[stage]["out"].exists()


def test_nothing_outside_of_nodes_imports_ros():
    package = Path(diwa_policy.__file__).parent
    core = [path for path in package.rglob("*.py") if "nodes" not in path.relative_to(package).parts]
    assert len(core) > 30
    assert [path for path in core if re.search(r"^\s*(from|import) (rclpy|diwa_msgs)", path.read_text(), re.M)] == []
