"""How every node's ``main`` runs: one line for a user's mistake, a clean end on Ctrl-C and SIGTERM.

Imports ROS; only nodes use it.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions

from diwa_conventions.discovery import share_no_memory
from diwa_conventions.errors import UserError, unknown

if TYPE_CHECKING:
    from rclpy.node import Node

NodeType = TypeVar("NodeType", bound="Node")


def run_node(
    make_node: Callable[[], NodeType],
    begin: Callable[[NodeType], bool] = lambda node: True,
    finished: Callable[[NodeType], bool] = lambda node: False,
    close: Callable[[NodeType], int] = lambda node: 0,
    moves_arm: bool = False,
) -> int:
    """Make the node, ``begin`` it, work off its events until it is ``finished`` or told to stop, ``close`` it.

    One that ``moves_arm`` stands between an action and the arm: no process that dies may hold it up.

    Returns the exit code: what ``close`` says after an orderly end, 1 if the node could not begin, 2 after a bad
    parameter, a UserError or an OSError, which it prints.
    """
    if moves_arm:
        share_no_memory()
    # rclpy's own handlers close the context, or raise, wherever the node happens to be; these stop between callbacks.
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    stop = _stop_on_signals()
    node: NodeType | None = None
    code = 2
    try:
        node = make_node()
        _check_parameters(node)
        code = 0 if begin(node) else 1
        if code == 0:
            _spin(node, lambda spun: stop() or finished(spun))
    except (ParameterException, UserError, OSError) as error:
        print(f"{node.get_name() if node else _program()}: {error}", file=sys.stderr)
        code = 2
    finally:
        if node is not None:
            closed = close(node)
            code = code or closed
            node.destroy_node()
        rclpy.shutdown()
    return code


def start_lifecycle(node: LifecycleNode) -> bool:
    """Configure and activate a node whose parameter ``autostart`` says so; False if it cannot. For ``begin``."""
    if not node.get_parameter("autostart").value:
        return True
    return all(
        transition() == TransitionCallbackReturn.SUCCESS
        for transition in (node.trigger_configure, node.trigger_activate)
    )


def _check_parameters(node: Node) -> None:
    """UserError for a parameter that was given, in a file say, and that the node does not have: rclpy ignores it."""
    known = sorted(node._parameters)
    for name in node._parameter_overrides:
        if name not in node._parameters and not name.startswith("qos_overrides."):
            raise unknown("parameter", name, known)


def _stop_on_signals() -> Callable[[], bool]:
    """From now on SIGINT and SIGTERM only make the returned question true."""
    told: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        told.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    return lambda: bool(told)


def _spin(node: NodeType, over: Callable[[NodeType], bool]) -> None:
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while not over(node):
        executor.spin_once(timeout_sec=0.1)
    executor.shutdown()


def _program() -> str:
    return sys.argv[0].rsplit("/", 1)[-1].removesuffix(".py")
