"""How every node's ``main`` runs: one line for a user's mistake, a clean end on Ctrl-C and SIGTERM.

Imports ROS; only nodes use it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException

try:  # the public name differs from release to release
    from rclpy._rclpy_pybind11 import RCLError
except ImportError:  # pragma: no cover
    RCLError = RuntimeError

if TYPE_CHECKING:
    from rclpy.node import Node

NodeType = TypeVar("NodeType", bound="Node")


def run_node(make_node: Callable[[], NodeType], begin: Callable[[NodeType], bool] = lambda _: True) -> int:
    """Make the node, ``begin`` it, spin until it is told to end. The exit code: 0, 1 (could not begin), 2 (parameters).

    ``make_node`` and ``begin`` raise ValueError or OSError for what the user can mend; a callback ends the node by
    raising SystemExit.
    """
    rclpy.init()
    node: NodeType | None = None
    try:
        node = make_node()
        if not begin(node):
            return 1
        rclpy.spin(node)
    except (ParameterException, ValueError, OSError) as error:
        print(f"{node.get_name() if node else 'node'}: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except SystemExit as exit_:
        return int(exit_.code or 0)
    except RCLError:
        # Ctrl-C closes the context while a callback is publishing; anything else is a real fault.
        if rclpy.ok():
            raise
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    return 0
