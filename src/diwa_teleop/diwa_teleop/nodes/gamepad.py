"""A gamepad as an operator: ``joy_node``'s messages move a virtual hand."""

from __future__ import annotations

import sys

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Joy

from diwa_conventions.errors import UserError
from diwa_conventions.node_main import run_node
from diwa_conventions.parameters import declare
from diwa_teleop.nodes.operator_publisher import OperatorPublisher
from diwa_teleop.operators.gamepad import GamepadConfig, GamepadOperator

_ABOUT: dict[str, tuple[str, tuple[float, float] | None]] = {
    "axes": ("numbers of the axes for x, y, z, roll, pitch, yaw; -1: unused", None),
    "flipped": ("numbers of the axes that point the other way", None),
    "trigger_axis": ("number of the trigger's axis", (0, 63)),
    "trigger_released": ("what it says when released", (-1.0, 1.0)),
    "trigger_pulled": ("what it says when pulled", (-1.0, 1.0)),
    "clutch_button": ("number of the dead man's button", (0, 63)),
    "arm_button": ("number of the button that arms; -1: none", (-1, 63)),
    "disarm_button": ("number of the button that disarms; -1: none", (-1, 63)),
    "success_button": ("number of the button that marks success; -1: none", (-1, 63)),
    "failure_button": ("number of the button that marks failure; -1: none", (-1, 63)),
    "dead_zone": ("share of a stick's way that counts as released", (0.0, 0.9)),
    "speed_m_s": ("speed of the hand at a stick's end [m/s]", (0.001, 0.6)),
    "turn_rad_s": ("speed of its turns [rad/s]", (0.001, 1.5)),
    "stale_s": ("a gamepad silent for longer is gone [s]", (0.05, 2.0)),
}


class GamepadNode(Node):
    """Publishes the hand that the sticks move. Topics and parameters: README of diwa_teleop."""

    def __init__(self) -> None:
        super().__init__("gamepad")
        default = GamepadConfig()
        values = {}
        for name, (about, bounds) in _ABOUT.items():
            value = getattr(default, name)
            # An empty list has no type: flipped says "no axis" by its number for that.
            value = list(value) or [-1] if isinstance(value, tuple) else value
            values[name] = declare(self, name, value, about, bounds)
        values |= {name: tuple(values[name]) for name in ("axes", "flipped")}
        self._operator = GamepadOperator(GamepadConfig(**values))
        qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)  # receives reliable publishers, too
        self.create_subscription(Joy, "joy", self._on_joy, qos)
        OperatorPublisher(self, self._operator)

    def _on_joy(self, message: Joy) -> None:
        try:
            self._operator.observe(message.axes, message.buttons)
        except UserError as error:
            self.get_logger().warning(str(error), throttle_duration_sec=5.0)


def main() -> int:
    return run_node(GamepadNode)


if __name__ == "__main__":
    sys.exit(main())
