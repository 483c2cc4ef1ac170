"""Asks all nodes of a namespace for their parameters, without waiting for any of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import yaml
from rcl_interfaces.srv import GetParameters, ListParameters
from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python

ANSWER_S = 5.0
"""Nodes that have not answered by then are named as silent."""


class ParameterSnapshot:
    """Ask once; ``done(answers, silent)`` is called when all have answered or :data:`ANSWER_S` are over.

    ``answers`` are YAML texts by node; the asking node's own parameters are among them.
    """

    def __init__(self, node: Node, done: Callable[[Mapping[str, str], list[str]], None]) -> None:
        self._node = node
        self._done = done
        self._began_s = time.monotonic()
        self._clients: list[Any] = []
        own = node.get_fully_qualified_name()
        self._answers = {own: _as_yaml({name: node.get_parameter(name).value for name in node._parameters})}
        self._silent = [name for name in _nodes_beside(node) if name != own]
        for name in self._silent:
            self._ask(name)
        self._timer = node.create_timer(0.2, self._check)

    def close(self) -> None:
        """Hand over what has come; further answers are ignored."""
        if self._timer is None:
            return
        self._node.destroy_timer(self._timer)
        self._timer = None
        for client in self._clients:
            self._node.destroy_client(client)
        self._clients.clear()
        self._done(self._answers, self._silent)

    def _ask(self, name: str) -> None:
        lister = self._node.create_client(ListParameters, f"{name}/list_parameters")
        getter = self._node.create_client(GetParameters, f"{name}/get_parameters")
        self._clients += [lister, getter]

        def on_names(future: Any) -> None:
            names = sorted(future.result().result.names)
            getter.call_async(GetParameters.Request(names=names)).add_done_callback(lambda f: on_values(names, f))

        def on_values(names: list[str], future: Any) -> None:
            values = map(parameter_value_to_python, future.result().values)
            self._answers[name] = _as_yaml(dict(zip(names, values, strict=False)))
            self._silent.remove(name)

        lister.call_async(ListParameters.Request()).add_done_callback(on_names)

    def _check(self) -> None:
        if not self._silent or time.monotonic() - self._began_s > ANSWER_S:
            self.close()


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
