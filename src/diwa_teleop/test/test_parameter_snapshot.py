"""Parameters of the nodes beside the recorder, also of those that come late or do not answer."""

import time

import pytest
import rclpy
import yaml
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from diwa_teleop.nodes import parameter_snapshot
from diwa_teleop.nodes.parameter_snapshot import ParameterSnapshot

DEADLINE_S = 60.0


class Room:
    """Nodes of one process, worked off together."""

    def __init__(self) -> None:
        self.executor = SingleThreadedExecutor()
        self.nodes: list[Node] = []

    def node(self, name: str, **options) -> Node:
        self.nodes.append(rclpy.create_node(name, namespace="/snapshot", **options))
        self.executor.add_node(self.nodes[-1])
        return self.nodes[-1]

    def until(self, condition) -> None:
        deadline_s = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline_s, "too late"
            self.executor.spin_once(timeout_sec=0.05)


@pytest.fixture
def room():
    rclpy.init()
    made = Room()
    yield made
    made.executor.shutdown()
    for node in made.nodes:
        node.destroy_node()
    rclpy.shutdown()


@pytest.fixture
def snapshot(room):
    """Begins one; what it hands over goes into a list."""

    def begin() -> list:
        done: list = []
        asker = room.node("asker")
        asker.declare_parameter("own", 1)
        ParameterSnapshot(asker, lambda answers, silent: done.append((dict(answers), silent)))
        return done

    return begin


def test_node_that_is_there_and_one_that_comes_late_are_asked(room, snapshot):
    room.node("early").declare_parameter("rows", [1.0, 2.0])
    done = snapshot()
    room.until(lambda: "early" in room.nodes[-1].get_node_names())
    room.node("late").declare_parameter("seed", 3)
    room.until(lambda: done)
    ((answers, silent),) = done
    assert silent == [] and sorted(answers) == ["/snapshot/asker", "/snapshot/early", "/snapshot/late"]
    assert yaml.safe_load(answers["/snapshot/early"])["rows"] == [1.0, 2.0]
    assert yaml.safe_load(answers["/snapshot/late"])["seed"] == 3
    assert yaml.safe_load(answers["/snapshot/asker"])["own"] == 1


def test_node_that_does_not_answer_is_named(room, snapshot, monkeypatch):
    monkeypatch.setattr(parameter_snapshot, "ANSWER_S", 1.0)
    monkeypatch.setattr(parameter_snapshot, "LOOK_S", 0.5)
    room.node("dumb", start_parameter_services=False)
    done = snapshot()
    room.until(lambda: done)
    assert done[0][1] == ["/snapshot/dumb"]
