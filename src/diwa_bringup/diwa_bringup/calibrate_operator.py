"""``diwa calibrate operator``: from the VIVE's world to the arm's base frame, by touching points known in both."""

from __future__ import annotations

import datetime
import json
import math
import os
import select
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diwa_conventions.actions import FloatArray
from diwa_conventions.bags.definitions import full_name
from diwa_conventions.errors import UserError
from diwa_conventions.topics import BASE_FRAME, CURRENT_POSE, NAMESPACE
from diwa_teleop.operators.calibration import OperatorCalibration, RigidTransform, check_fit, check_points, fit_rigid
from diwa_teleop.operators.calibration_file import CALIBRATION_FILE
from diwa_teleop.operators.openvr_runtime import OpenVrRuntime
from diwa_teleop.operators.touching import Toucher
from diwa_teleop.operators.vive import ViveConfig, ViveOperator

Point = tuple[float, float, float]
_TIMEOUT_S = 30.0
_WORLD = RigidTransform(np.eye(3), np.zeros(3))


@dataclass(frozen=True)
class CalibrateOperator:
    """Measure where the VIVE's world is, seen from the arm: touch three points with the controller.

    Hold the same spot of the controller, pointing the same way, at each point, keep still, and pull the trigger or
    press Enter.
    """

    points: tuple[Point, ...] = ((0.35, -0.25, 0.0), (0.35, 0.25, 0.0), (0.60, 0.0, 0.0))
    """x y z of each point in panda_link0 [m], three or more that span a large triangle; default: on the table."""
    from_robot: int = 0
    """Take so many points from the arm's own current_pose instead: guide its tool by hand, and touch the tool's tip."""
    serial: str = ""
    """Serial number of the controller; default: the only one that is on."""
    tip: Point = (0.0, 0.0, 0.0)
    """Where the touching spot is in the controller's own frame [m]; 0 0 0 where it always points the same way."""
    up: Point = (0.0, 0.0, 1.0)
    """Where up is in panda_link0, for an arm that is not mounted upright."""
    max_residual_m: float = 0.02
    """More than this left at any point refuses the calibration, 0.001 to 0.1."""
    out: Path = Path(CALIBRATION_FILE)
    """File to write; an older one is replaced."""
    namespace: str = NAMESPACE
    """Of the arm, with --from-robot."""

    def run(self) -> int:
        """Ask, fit, check, save."""
        self._check()
        operator = ViveOperator(OpenVrRuntime(), ViveConfig(serial=self.serial, frozen_s=0.0), _WORLD)
        operator.start()
        try:
            world, base = self._touch(Toucher(operator, _say, _entered, self.tip))
            stations = operator.stations()
        finally:
            operator.close()
        fit = fit_rigid(world, base)
        check_fit(fit, self.max_residual_m, self.up)
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        calibration = OperatorCalibration(fit.transform, operator.serial, now, world, base, stations)
        calibration.save(self.out)
        lines = [f"point {i + 1}: {1e3 * left:.1f} mm are left" for i, left in enumerate(fit.residuals_m)]
        print("\n".join(lines))
        print(f"{self.out}: {calibration.describe()}; up is {self._tilt(fit.transform):.1f} degrees off")
        print("next: move the controller forward and left, and see in diwa top or a viewer that the hand does, too")
        return 0

    def _check(self) -> None:
        """What can be refused before anybody gets up."""
        if not 0.001 <= self.max_residual_m <= 0.1:
            raise UserError(f"--max-residual-m is {self.max_residual_m!r}; expected a number from 0.001 to 0.1")
        if self.from_robot not in (0, *range(3, 21)):
            raise UserError(f"--from-robot is {self.from_robot}; expected 0, or 3 to 20 points")
        if not np.isfinite(self.tip).all():
            raise UserError(f"--tip is {self.tip}; expected three finite numbers [m]")
        _WORLD.tilt_rad(self.up)
        if not self.from_robot:
            check_points(self.points)
        if self.out.is_dir() or not os.access(_existing_parent(self.out), os.W_OK):
            raise UserError(f"{self.out} cannot be written; choose another --out")

    def _touch(self, toucher: Toucher) -> tuple[FloatArray, FloatArray]:
        """The points in the world and in the base frame."""
        world, base = [], []
        count = self.from_robot or len(self.points)
        for number in range(count):
            where = "the tip of the arm's tool, somewhere else than before"
            if not self.from_robot:
                where = f"({', '.join(f'{value:.3f}' for value in self.points[number])}) m in {BASE_FRAME}"
            world.append(toucher.touch(f"point {number + 1} of {count}: touch {where}; keep still; trigger or Enter"))
            base.append(tool_position(self.namespace) if self.from_robot else np.array(self.points[number]))
            _say(f"point {number + 1} of {count}: measured")
        return np.array(world), np.array(base)

    def _tilt(self, transform: RigidTransform) -> float:
        return math.degrees(transform.tilt_rad(self.up))


def tool_position(namespace: str) -> FloatArray:
    """Where the arm says that its tool is (3,) [m]; UserError if it says nothing."""
    topic = full_name(CURRENT_POSE.name, namespace)
    command = [sys.executable, "-m", "diwa_bringup.nodes.pose_listener", topic]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise UserError(f"ROS 2 did not start within {_TIMEOUT_S:g} s; see: diwa doctor") from None
    if done.returncode == 3:
        domain = os.environ.get("ROS_DOMAIN_ID") or "0"
        raise UserError(
            f"nothing comes on {topic}: is the arm's driver running, in this ROS domain ({domain}) and --namespace?"
        )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"{topic} could not be read: {reason}")
    return np.array(json.loads(done.stdout), dtype=np.float64)


def _existing_parent(path: Path) -> Path:
    parent = path.expanduser().resolve().parent
    while not parent.exists():
        parent = parent.parent
    return parent


def _say(text: str) -> None:
    print(text, flush=True)


def _entered() -> bool:
    """Whether Enter was pressed since the last call; never, where there is no terminal and nothing is piped in."""
    entered = False
    while select.select([sys.stdin], [], [], 0.0)[0]:
        if not os.read(sys.stdin.fileno(), 1024):
            return entered  # its end: nobody types any more
        entered = True
    return entered
