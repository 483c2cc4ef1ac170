"""From a graph to a ``launch`` description, for machines with a ROS 2 install. The only module that imports launch."""

from __future__ import annotations

import sys
from typing import Any

from launch.actions import DeclareLaunchArgument, OpaqueFunction, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from diwa_bringup.graph import Argument, Graph, NodeSpec, Parameter, split_words
from diwa_bringup.graphs import GRAPHS
from diwa_conventions.errors import UserError
from launch import LaunchContext, LaunchDescription


def graph_description(name: str) -> LaunchDescription:
    """What ``generate_launch_description`` of ``<name>.launch.py`` returns."""
    graph = GRAPHS[name]
    return LaunchDescription([*map(_declare, graph.arguments), OpaqueFunction(function=_nodes, args=[graph])])


def _declare(argument: Argument) -> DeclareLaunchArgument:
    choices = None if argument.choices is None else list(argument.choices)
    return DeclareLaunchArgument(
        argument.name, default_value=argument.default_text, description=argument.about, choices=choices
    )


def _nodes(context: LaunchContext, graph: Graph) -> list[Node]:
    refuse_unknown_arguments(context, graph)
    given = {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in graph.arguments}
    return [_node(spec) for spec in graph.nodes(graph.resolve(given))]


def refuse_unknown_arguments(context: LaunchContext, graph: Graph) -> None:
    """UserError for a ``name:=value`` of the command line that the graph does not know; launch would ignore it.

    Only when ``ros2 launch`` was given this very file: a launch file that includes ours may have arguments of its own.
    """
    if any(word.endswith(f"{graph.name}.launch.py") for word in sys.argv):
        own = {argument.name for argument in graph.arguments} | {"launch-prefix", "launch-prefix-filter"}
        graph.resolve({name: text for name, text in split_words(context.argv).items() if name not in own})


def _parameter(value: Parameter) -> Any:
    return list(value) if isinstance(value, tuple) else ParameterValue(value, value_type=type(value))


def _node(spec: NodeSpec) -> Node:
    def after_exit(event: Any, context: LaunchContext) -> list[Shutdown] | None:
        """Same policy as the process manager's: a crash stops everything, and so does the end of most nodes."""
        if context.is_shutdown:
            return None
        if event.returncode != 0:
            raise UserError(f"{spec.full_name} crashed with exit code {event.returncode}: everything stops")
        return [Shutdown(reason=f"{spec.full_name} ended")] if spec.on_exit == "shutdown" else None

    # With its type named, a text that looks like a number stays a text.
    parameters = {name: _parameter(value) for name, value in spec.parameters.items()}
    return Node(
        package=spec.package,
        executable=spec.executable,
        name=spec.name,
        namespace=spec.namespace,
        parameters=[parameters, *spec.parameter_files],
        remappings=list(spec.remappings),
        output="screen",
        additional_env={"PYTHONUNBUFFERED": "1"},
        on_exit=after_exit,
    )
