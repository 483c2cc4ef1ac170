"""Asks all nodes of a namespace for their parameters, without waiting for any of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import yaml
from rcl_interfaces.srv import GetParameters, ListParameters
from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python

LOOK_S = 2.0
"""How long nodes are looked for: those of a graph start together, and are found one after the other."""
ANSWER_S = 5.0
"""Nodes that have not answered by then are named as silent."""


class ParameterSnapshot:
    """``done(answers, silent)`` is called when all nodes found have answered, or :data:`ANSWER_S` are over.

    ``answers`` are YAML texts by node; the asking node's own parameters are among them.
    """

    def __init__(self, node: Node, done: Callable[[Mapping[str, str], list[str]], None]) -> None:
        self._node = node
        self._done = done
        self._began_s = time.monotonic()
        self._own = node.get_fully_qualified_name()
        self._answers = {self._own: _as_yaml({name: node.get_parameter(name).value for name in node._parameters})}
        self._questions: dict[str, _Question] = {}
        self._timer = node.create_timer(0.2, self._check)

    def close(self) -> None:
        """Hand over what has come; further answers are ignored."""
        if self._timer is None:
            return
        self._node.destroy_timer(self._timer)
        self._timer = None
        for question in self._questions.values():
            question.close()
        self._done(self._answers, self._silent())

    def _silent(self) -> list[str]:
        return sorted(name for name in self._questions if name not in self._answers)

    def _check(self) -> None:
        for name in _nodes_beside(self._node):
            if name != self._own and name not in self._questions:
                self._questions[name] = _Question(self._node, name, self._answers)
        for name in self._silent():
            self._questions[name].ask()
        past_s = time.monotonic() - self._began_s
        if past_s > ANSWER_S or (past_s > LOOK_S and not self._silent()):
            self.close()


class _Question:
    """To one node: which parameters it has, then their values; its answer goes to ``answers``."""

    def __init__(self, node: Node, name: str, answers: dict[str, str]) -> None:
        self._node, self._name, self._answers = node, name, answers
        self._lister = node.create_client(ListParameters, f"{name}/list_parameters")
        self._getter = node.create_client(GetParameters, f"{name}/get_parameters")
        self._asked = False

    def ask(self) -> None:
        """Once, as soon as its services are there: what is sent before is lost."""
        if self._asked or not (self._lister.service_is_ready() and self._getter.service_is_ready()):
            return
        self._asked = True
        self._lister.call_async(ListParameters.Request()).add_done_callback(self._on_names)

    def _on_names(self, future: Any) -> None:
        names = sorted(future.result().result.names)
        values = self._getter.call_async(GetParameters.Request(names=names))
        values.add_done_callback(lambda done: self._on_values(names, done))

    def _on_values(self, names: list[str], future: Any) -> None:
        values = map(parameter_value_to_python, future.result().values)
        self._answers[self._name] = _as_yaml(dict(zip(names, values, strict=False)))

    def close(self) -> None:
        self._node.destroy_client(self._lister)
        self._node.destroy_client(self._getter)


def _nodes_beside(node: Node) -> list[str]:
    """Full names of all nodes in the node's namespace and below."""
    space = node.get_namespace().rstrip("/")
    return sorted(
        {
            f"{namespace.rstrip('/')}/{name}"
            for name, namespace in node.get_node_names_and_namespaces()
            if f"{namespace.rstrip('/')}/".startswith(f"{space}/") and not name.startswith("_")
        }
    )


def _as_yaml(parameters: Mapping[str, object]) -> str:
    return str(yaml.safe_dump({name: _plain(value) for name, value in parameters.items()}, sort_keys=True))


def _plain(value: Any) -> object:
    """Arrays become lists, which YAML knows."""
    return value if value is None or isinstance(value, (bool, int, float, str)) else list(value)
