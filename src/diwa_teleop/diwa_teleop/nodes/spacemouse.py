"""A SpaceMouse as an operator: its cap moves a virtual hand."""

from __future__ import annotations

import sys
from dataclasses import fields
from typing import Any

from diwa_conventions.node_main import run_node, start_lifecycle
from diwa_conventions.parameters import declare
from diwa_teleop.nodes.device_operator import DeviceOperatorNode
from diwa_teleop.operators.spacemouse import RANGES, SpaceMouseConfig, SpaceMouseOperator

_ABOUT = {
    "device": "model, by pyspacemouse's name: SpaceMouseCompact; empty: the first that is found",
    "flipped": "axes that go the other way: x, y, z, roll, pitch, yaw",
    "clutch_button": "name of the dead man's button; cap: the hand moves whenever the cap is pushed",
    "gripper_button": "name of the button that closes and opens the gripper",
    "arm_button": "name of the button that arms; empty: none",
    "disarm_button": "name of the button that disarms; empty: none",
    "success_button": "name of the button that marks success; empty: none",
    "failure_button": "name of the button that marks failure; empty: none",
    "dead_zone": "share of the cap's way that counts as released",
    "speed_m_s": "speed of the hand with the cap at its end [m/s]",
    "turn_rad_s": "speed of its turns [rad/s]",
    "stale_s": "a cap that is pushed and does not report for so long counts as released [s]",
}


class SpaceMouseNode(DeviceOperatorNode):
    """Publishes the hand that the cap moves. Topics and parameters: README of diwa_teleop."""

    def __init__(self) -> None:
        super().__init__("spacemouse", "SpaceMouse")
        settings: dict[str, Any] = {}
        for field in fields(SpaceMouseConfig):
            # An empty list has no type: flipped says "no axis" by an empty word.
            default = [""] if field.name == "flipped" else field.default
            settings[field.name] = declare(self, field.name, default, _ABOUT[field.name], RANGES.get(field.name))
        settings["flipped"] = tuple(axis for axis in settings["flipped"] if axis)
        self.operator = SpaceMouseOperator(SpaceMouseConfig(**settings))


def main() -> int:
    return run_node(SpaceMouseNode, begin=start_lifecycle, close=SpaceMouseNode.close)


if __name__ == "__main__":
    sys.exit(main())
