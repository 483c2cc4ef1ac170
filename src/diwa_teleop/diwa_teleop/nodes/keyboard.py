"""The keyboard as an operator: keys of this terminal move a virtual hand."""

from __future__ import annotations

import sys

from rclpy.node import Node

from diwa_conventions.errors import UserError
from diwa_conventions.node_main import run_node
from diwa_conventions.parameters import declare
from diwa_teleop.nodes.operator_publisher import OperatorPublisher
from diwa_teleop.operators.keyboard import HELP, KeyboardConfig, KeyboardOperator, Keys
from diwa_teleop.operators.operator import OperatorSample
from diwa_teleop.operators.terminal import Terminal


class KeyboardNode(Node):
    """Publishes the hand that the keys move, and says what they switched. Parameters: README of diwa_teleop."""

    def __init__(self, keys: Keys) -> None:
        super().__init__("keyboard")
        config = KeyboardConfig(
            speed_m_s=declare(self, "speed_m_s", 0.1, "speed of the hand [m/s]", (0.001, 0.6)),
            turn_rad_s=declare(self, "turn_rad_s", 0.5, "speed of its turns [rad/s]", (0.001, 1.5)),
            hold_s=declare(self, "hold_s", 0.1, "how long a key counts as held [s]", (0.02, 1.0)),
        )
        self._operator = KeyboardOperator(keys, config)
        self._shown = ""
        OperatorPublisher(self, self)
        print(HELP, flush=True)

    def read(self, dt_s: float) -> OperatorSample | None:
        """As the operator; what changed is shown."""
        sample = self._operator.read(dt_s)
        if self._operator.help_wanted:
            self._operator.help_wanted = False
            print(HELP, flush=True)
        clutch = "engaged" if self._operator.clutch else "released"
        gripper = "closed" if self._operator.gripper_closed else "open"
        state = f"clutch {clutch}, gripper {gripper}"
        if state != self._shown:
            self._shown = state
            print(state, flush=True)
        return sample

    def finished(self) -> bool:
        """The terminal is gone."""
        return self._operator.closed


def main() -> int:
    try:
        with Terminal(sys.stdin) as terminal:
            return run_node(lambda: KeyboardNode(terminal), finished=KeyboardNode.finished)
    except UserError as error:
        print(f"keyboard: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
