"""The arm's measured pose as the command guard sees it: newest, checked, and believed only if it can be true."""

from __future__ import annotations

import numpy as np

from diwa_conventions.actions import FloatArray, Pose
from diwa_conventions.topics import BASE_FRAME
from diwa_robot.limits import JUMP_MARGIN_M, JUMP_MARGIN_RAD, GuardConfig

_QUATERNION_TOLERANCE = 1e-3
_LONGEST_STEP_S = 0.1
"""Stamps farther apart than this do not excuse a jump; only time that has passed here does."""


class StateFault(Exception):
    """A measured pose that cannot be true; the message says why, for a person."""


class MeasuredState:
    """The newest measured pose, and when it came."""

    def __init__(self, config: GuardConfig) -> None:
        self._config = config
        self.pose: Pose | None = None
        """The newest one; None before the first and after one that holds no pose."""
        self.taken = 0.0
        """When it came, by the guard's clock [s]."""
        self.fault = ""
        """What is wrong with the newest message, "" if nothing is."""
        self.old = ""
        """Why the newest message says nothing about now, "" if it does."""
        self._stamp_s = 0.0

    def take(
        self,
        position: FloatArray,
        quaternion_xyzw: FloatArray,
        frame_id: str,
        stamp_s: float,
        now: float,
        age_s: float = 0.0,
    ) -> None:
        """Take a message. StateFault if it holds no pose, or one that cannot follow the last one.

        One with the last one's stamp is the last one again, and says nothing about now; neither does one that is
        ``age_s`` old by its stamp, beyond the limit, or so far from the future.
        """
        self.fault = _what_is_wrong(position, quaternion_xyzw, frame_id, stamp_s)
        if self.fault:
            self.pose = None
            raise StateFault(self.fault)
        self.old = ""
        if not abs(age_s) <= self._config.max_state_age_s:
            self.old = (
                f"current_pose is {age_s:.3f} s old by its stamp; expected at most {self._config.max_state_age_s:g} s "
                "either way; do the machines' clocks agree?"
            )
            return
        pose = Pose.from_quaternion(position, quaternion_xyzw)
        before, passed_s, stamp_step_s = self.pose, now - self.taken, stamp_s - self._stamp_s
        if before is not None and stamp_step_s == 0.0:
            return
        self.pose, self.taken, self._stamp_s = pose, now, stamp_s
        if before is None:
            return
        if stamp_step_s < 0.0:
            raise StateFault(f"the stamps of current_pose went back by {-stamp_step_s:.3f} s; was the arm restarted?")
        self._check_jump(before, pose, max(passed_s, min(stamp_step_s, _LONGEST_STEP_S)))

    def _check_jump(self, before: Pose, now: Pose, time_s: float) -> None:
        distance_m, angle_rad = now.distance_m(before), now.angle_rad(before)
        if distance_m > self._config.max_state_speed_m_s * time_s + JUMP_MARGIN_M:
            raise StateFault(f"the measured pose jumped by {distance_m:.3f} m within {time_s:.3f} s")
        if angle_rad > self._config.max_state_speed_rad_s * time_s + JUMP_MARGIN_RAD:
            raise StateFault(f"the measured pose jumped by {angle_rad:.2f} rad within {time_s:.3f} s")


def _what_is_wrong(position: FloatArray, quaternion_xyzw: FloatArray, frame_id: str, stamp_s: float) -> str:
    if not stamp_s > 0.0:
        return "current_pose carries no stamp"
    if frame_id != BASE_FRAME:
        return f"current_pose is in frame {frame_id!r}; expected {BASE_FRAME!r}"
    if not (np.isfinite(position).all() and np.isfinite(quaternion_xyzw).all()):
        return "current_pose holds a value that is not finite"
    norm = float(np.linalg.norm(quaternion_xyzw))
    if abs(norm - 1.0) > _QUATERNION_TOLERANCE:
        return f"current_pose has a quaternion of length {norm:.4f}; expected 1"
    return ""
