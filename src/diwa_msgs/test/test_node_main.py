"""How a node begins and ends, with real processes."""

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import sys
import rclpy
from diwa_conventions.errors import UserError
from diwa_conventions.node_main import run_node
from rclpy.node import Node

class Example(Node):
    def __init__(self):
        super().__init__("example")
        self.ticks = 0
        self.create_timer(0.01, self.tick)
        {init}

    def tick(self):
        self.ticks += 1
        if self.ticks == 3:
            print("ticking", flush=True)
        {tick}

def close(node):
    print("closed", flush=True)
    return {close}

sys.exit(run_node(Example, close=close, {options}))
"""


def start(
    init: str = "pass", tick: str = "pass", close: int = 0, options: str = "", words: tuple[str, ...] = ()
) -> subprocess.Popen:
    program = PROGRAM.format(init=init, tick=tick, close=close, options=options)
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", program, *words], stdout=pipe, stderr=pipe, text=True)


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=30.0)
    return process.returncode, output, errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order(number: signal.Signals) -> None:
    process = start()
    assert process.stdout is not None
    assert process.stdout.readline() == "ticking\n"
    process.send_signal(number)
    process.send_signal(number)  # a terminal and a launcher may both send one
    assert finish(process) == (0, "closed\n", "")


def test_it_ends_by_itself_when_finished() -> None:
    assert finish(start(options="finished=lambda node: node.ticks > 5")) == (0, "ticking\nclosed\n", "")


def test_what_close_says_is_the_exit_code() -> None:
    assert finish(start(close=3, options="finished=lambda node: node.ticks > 5"))[0] == 3


def test_a_node_that_cannot_begin_ends_with_1_and_is_closed() -> None:
    assert finish(start(options="begin=lambda node: False")) == (1, "closed\n", "")


@pytest.mark.parametrize("mistake", ["raise UserError('no such thing')", "raise OSError('no such thing')"])
def test_a_mistake_of_the_user_is_one_line_wherever_it_is_found(mistake: str) -> None:
    code, _, errors = finish(start(init=mistake))
    assert code == 2
    assert errors.endswith("no such thing\n")
    assert "Traceback" not in errors
    assert finish(start(tick=mistake)) == (2, "closed\n", "example: no such thing\n")


def test_a_fault_of_ours_keeps_its_traceback() -> None:
    code, _, errors = finish(start(tick="raise ValueError('a bug')"))
    assert code == 1
    assert "Traceback" in errors
    assert errors.endswith("ValueError: a bug\n")


def test_a_parameter_that_it_does_not_have_ends_it_with_one_line() -> None:
    declare = "self.declare_parameter('max_speed', 1.0)"
    code, _, errors = finish(start(init=declare, words=("--ros-args", "-p", "max_sped:=0.1")))
    assert code == 2
    assert errors.startswith("example: unknown parameter 'max_sped'; did you mean 'max_speed'? known: ")
    assert errors.count("\n") == 1


def test_parameters_that_it_has_and_those_of_ros_are_taken() -> None:
    words = ("--ros-args", "-p", "max_speed:=0.1", "-p", "use_sim_time:=false")
    words += ("-p", "qos_overrides./clock.subscription.depth:=3")
    options = "finished=lambda node: node.ticks > 5"
    init = "self.declare_parameter('max_speed', 1.0)"
    assert finish(start(init=init, options=options, words=words)) == (0, "ticking\nclosed\n", "")
