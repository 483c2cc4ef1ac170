"""A command guard with a clock, an arm and cameras in the hands of a test, and a check of every output."""

import math

import numpy as np
from scipy.spatial.transform import Rotation

from diwa_conventions.actions import Pose
from diwa_conventions.topics import BASE_FRAME
from diwa_robot.command_guard import Action, CommandGuard, Output, State
from diwa_robot.limits import LONGEST_STEP_TICKS, GuardConfig, tilt_rad
from diwa_robot.so3 import rotation_vector

HOME_M = np.array([0.46, 0.0, 0.33])
DOWN = np.diag([1.0, -1.0, -1.0])
TICK_S = 1.0 / 120.0
NO_CAMERAS = GuardConfig(required_cameras=())


class Rig:
    """Time goes on with :meth:`tick`; the arm stands exactly where it is told unless a test says otherwise."""

    def __init__(self, config: GuardConfig = NO_CAMERAS, start: Pose | None = None) -> None:
        self.guard = CommandGuard(config)
        self.now = 100.0
        self.arm = start or Pose(HOME_M.copy(), DOWN)
        self.follows = True
        self.states = True
        self.cameras = True
        self.driver: str | None = None
        """What the arm's driver reports: None: there is none; "": ready; else what is the matter."""
        self.sequence = 0
        self.armings = 0
        self.outputs: list[tuple[float, Output]] = []
        self._speeds: tuple[np.ndarray, np.ndarray] | None = None
        self._before: Pose | None = None
        self.deliver()

    def deliver(self) -> None:
        """What arm, its driver and cameras publish."""
        if self.driver is not None:
            self.guard.arm_state(not self.driver, self.driver, self.now)
        if self.states:
            self.state(self.arm)
        if self.cameras:
            for name in ("static", "gripper"):
                self.guard.camera(name, self.now)

    def state(self, pose: Pose, frame: str = BASE_FRAME, stamp_s: float | None = None) -> None:
        self.guard.pose(pose.position, pose.quaternion(), frame, self.now if stamp_s is None else stamp_s, self.now)

    def arming(self, source: str = "teleop"):
        was_active = self.guard.active
        answer = self.guard.arm(source, self.now)
        if answer.success and not was_active:
            self.armings += 1
            self._before, self._speeds = self.guard.target, (np.zeros(3), np.zeros(3))
        return answer

    def armed(self, source: str = "teleop") -> "Rig":
        answer = self.arming(source)
        assert answer.success, answer.message
        return self

    def act(self, translation=(0.0, 0.0, 0.0), rotation=(0.0, 0.0, 0.0), gripper=1.0, duration_s=1.0 / 30.0, **fields):
        """Send an action that is in order but for ``fields``; why it was refused, or ""."""
        self.sequence = fields.pop("sequence", self.sequence + 1)
        components = np.array([*translation, *rotation, gripper], dtype=np.float64)
        values = {"source": "teleop", "age_s": 0.001, "frame_id": BASE_FRAME} | fields
        action = Action(sequence=self.sequence, duration_s=duration_s, components=components, **values)
        return self.guard.action(action, self.now)

    def tick(self, count: int = 1, dt: float = TICK_S) -> Output | None:
        """Let time go on and check every output; the last one."""
        output = None
        for _ in range(count):
            self.now += dt
            self.deliver()
            output = self.guard.tick(self.now)
            self._check(output, dt)
            if output is not None and self.follows:
                self.arm = output.target
        return output

    def stream(self, translation, seconds: float, rate_hz: float = 30.0, **fields) -> None:
        """Actions at a rate, with ticks between them; ``translation`` (3,) or a function of the time [s]."""
        ticks = round(1.0 / (rate_hz * TICK_S))
        for index in range(round(seconds * rate_hz)):
            wanted = translation(index / rate_hz) if callable(translation) else translation
            assert self.act(wanted, duration_s=1.0 / rate_hz, **fields) == ""
            self.tick(ticks)

    def positions(self) -> np.ndarray:
        """(N, 3) [m] of all outputs."""
        return np.array([output.target.position for _, output in self.outputs])

    def _check(self, output: Output | None, dt: float) -> None:
        """What holds for every output, whatever came in before it."""
        assert (output is not None) == self.guard.active
        if output is None:
            return
        self.outputs.append((self.now, output))
        config, target, before = self.guard.config, output.target, self._before
        if dt > LONGEST_STEP_TICKS / config.rate_hz:  # it stood still, and goes on from rest by one tick
            dt, self._speeds = 1.0 / config.rate_hz, (np.zeros(3), np.zeros(3))
        assert np.isfinite(target.position).all() and np.isfinite(target.rotation).all()
        np.testing.assert_allclose(target.rotation @ target.rotation.T, np.eye(3), atol=1e-9)
        assert (target.position >= config.low).all() and (target.position <= config.high).all()
        assert tilt_rad(target.rotation) <= config.max_tilt_rad + 1e-4
        velocity = (target.position - before.position) / dt
        turning = rotation_vector(target.rotation @ before.rotation.T) / dt
        assert np.linalg.norm(velocity) <= config.max_speed_m_s + 1e-6
        assert np.abs(velocity).max() <= 0.6 + 1e-6
        assert np.linalg.norm(turning) <= config.max_speed_rad_s + 1e-6
        old_velocity, old_turning = self._speeds
        assert np.linalg.norm(velocity - old_velocity) <= config.max_acceleration_m_s2 * dt + 1e-5
        assert np.linalg.norm(turning - old_turning) <= config.max_acceleration_rad_s2 * dt + 1e-5
        self._check_lead(target, velocity, turning, dt)
        if output.executed is not None:
            assert np.abs(output.executed.components).max() <= 1.0
        self._before, self._speeds = target, (velocity, turning)

    def _check_lead(self, target: Pose, velocity, turning, dt: float) -> None:
        """The point of rest leads the arm by no more than is allowed, or by no more than that of braking at once."""
        config, measured = self.guard.config, self.guard.measured.pose
        now = stop(target, velocity, turning, config)
        last = stop(self._before, *self._speeds, config)
        slack_m = 0.5 * config.max_acceleration_m_s2 * dt**2 + 1e-6
        slack_rad = 0.5 * config.max_acceleration_rad_s2 * dt**2 + 1e-5
        assert now.distance_m(measured) <= max(config.max_lead_m, last.distance_m(measured)) + slack_m
        assert now.angle_rad(measured) <= max(config.max_lead_rad, last.angle_rad(measured)) + slack_rad


def stop(pose: Pose, velocity, turning, config: GuardConfig) -> Pose:
    """Where braking at the limit ends."""

    def way(rate, limit: float) -> np.ndarray:
        return rate * np.linalg.norm(rate) / (2.0 * limit) if limit > 0.0 else np.zeros(3)

    turn = Rotation.from_rotvec(way(turning, config.max_acceleration_rad_s2)).as_matrix()
    return Pose(pose.position + way(velocity, config.max_acceleration_m_s2), turn @ pose.rotation)


def tilted(angle_rad: float, azimuth_rad: float = 0.0) -> np.ndarray:
    """The hand tilted from straight down."""
    axis = [math.cos(azimuth_rad), math.sin(azimuth_rad), 0.0]
    return Rotation.from_rotvec(angle_rad * np.array(axis)).as_matrix() @ DOWN


__all__ = ["DOWN", "HOME_M", "NO_CAMERAS", "TICK_S", "Rig", "State", "stop", "tilted"]
