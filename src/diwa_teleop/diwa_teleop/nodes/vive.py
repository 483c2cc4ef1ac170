"""A VIVE controller as an operator: SteamVR's client in, the hand in the arm's base frame out."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from diwa_conventions.errors import UserError
from diwa_conventions.node_main import run_node, start_lifecycle
from diwa_conventions.parameters import declare
from diwa_teleop.nodes.device_operator import DeviceOperatorNode
from diwa_teleop.operators.calibration import UNCALIBRATED, OperatorCalibration, load_calibration
from diwa_teleop.operators.calibration_file import CALIBRATION_FILE, NO_CALIBRATION
from diwa_teleop.operators.openvr_runtime import OpenVrRuntime
from diwa_teleop.operators.vive import RANGES, ViveConfig, ViveOperator

_ABOUT = {
    "serial": "serial number of the controller, as SteamVR shows it; empty: by role, or the only one that is on",
    "role": "left or right, as SteamVR has given them; empty: the only one that is on",
    "clutch_button": "button that lets the hand move the arm while it is held",
    "arm_button": "button that arms; empty: none",
    "disarm_button": "button that disarms; empty: none",
    "success_button": "button that marks success; empty: none",
    "failure_button": "button that marks failure; empty: none",
    "max_hand_speed_m_s": "faster than a hand: tracking was lost [m/s]",
    "max_hand_turn_rad_s": "the same for turning [rad/s]",
    "battery_low": "share of the battery below which it warns",
    "frozen_s": "a pose that has not changed in the last digit for so long is an old one [s]; 0: not looked at",
    "station_moved_m": "a base station so far from where it was calibrated has been moved [m]",
}


class ViveNode(DeviceOperatorNode):
    """Publishes the hand that holds the controller. Topics and parameters: README of diwa_teleop."""

    def __init__(self) -> None:
        super().__init__("vive", "VIVE controller")
        settings: dict[str, Any] = {}
        for field in fields(ViveConfig):
            settings[field.name] = declare(self, field.name, field.default, _ABOUT[field.name], RANGES.get(field.name))
        about = "what this node is to SteamVR: background uses one that runs, other starts it where it does not"
        application = declare(self, "application", "background", about)
        about = f"file of diwa calibrate operator; {NO_CALIBRATION}: only up is up"
        path = declare(self, "calibration", CALIBRATION_FILE, about)
        config = ViveConfig(**settings)
        calibration = calibration_of(path)
        if calibration is None:
            self.get_logger().warning("not calibrated: forward is where SteamVR's world has it, not the arm")
        else:
            self.get_logger().info(f"calibration {path}: {calibration.describe()}")
        self.operator = ViveOperator(
            OpenVrRuntime(application),
            config,
            calibration.transform if calibration else UNCALIBRATED,
            dict(calibration.base_stations_m) if calibration else {},
        )


def calibration_of(path: str) -> OperatorCalibration | None:
    """What the file says; None where it was said that there is none."""
    if not path:
        raise UserError(
            f"parameter calibration is empty; expected a file of diwa calibrate operator, or '{NO_CALIBRATION}'"
        )
    return None if path == NO_CALIBRATION else load_calibration(Path(path).expanduser())


def main() -> int:
    return run_node(ViveNode, begin=start_lifecycle, close=ViveNode.close)


if __name__ == "__main__":
    sys.exit(main())
