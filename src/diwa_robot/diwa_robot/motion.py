"""How the commanded pose follows the accepted actions: within speed, acceleration, box, cone and lead.

An action moves the *goal*. The *reference* runs evenly to the goal and is there when the action's duration is over. The
*target*, which is what the arm is told, follows the reference like a car follows another: as fast as the limits allow,
but only so fast that it can still stop on the reference. So it never overshoots, smooths steps of any rate, stops
exactly on the goal when the actions end, and at constant speed v lags by v^2 / 2a.

The *stop* is where the target would come to rest if it braked from now on. Every bound is a bound on the stop: what
keeps the stop inside keeps the target inside, and braking, which is always possible, does not move the stop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from diwa_conventions.actions import FloatArray, Pose, integrate
from diwa_conventions.rates import TRAIN_RATE_HZ
from diwa_robot.limits import ROUNDING, SCALE, GuardConfig, into_cone, turn_stays_in_cone
from diwa_robot.so3 import length, orthonormal, rotation_matrix, rotation_vector

_STILL = np.zeros(3)
_ARRIVED = 1e-12
"""Gaps [m or rad] below it count as closed."""


@dataclass(frozen=True)
class Limits:
    """Of translation or rotation, in m or rad: speed, speed along one axis (per s), acceleration (per s^2), lead."""

    speed: float
    axis_speed: float
    acceleration: float
    lead: float

    @property
    def frozen(self) -> bool:
        """Whether nothing may move at all."""
        return self.speed == 0.0 or self.acceleration == 0.0

    def pursue(self, gap: FloatArray, velocity: FloatArray, dt: float) -> FloatArray:
        """The velocity (3,) for the next ``dt`` that closes the gap (3,) and can still stop at its end."""
        distance = length(gap)
        wanted = _STILL
        if distance > _ARRIVED:
            # The largest v with v dt + v^2 / 2a <= distance: braking after this step ends before the gap does.
            room = 2.0 * distance / self.acceleration
            speed = min(self.speed, self.acceleration * room / (math.sqrt(dt * dt + room) + dt))
            fastest_axis = speed / distance * max(abs(float(axis)) for axis in gap)
            wanted = gap * (speed / distance * min(1.0, self.axis_speed / fastest_axis))
        change = wanted - velocity
        size = length(change)
        if size > self.acceleration * dt:
            change = change * (self.acceleration * dt / size)
        return velocity + change

    def brake(self, velocity: FloatArray, dt: float) -> FloatArray:
        """The velocity (3,) after braking for ``dt``."""
        speed = length(velocity)
        return velocity * max(0.0, 1.0 - self.acceleration * dt / speed) if speed > 0.0 else velocity

    def way_to_stop(self, velocity: FloatArray) -> FloatArray:
        """How far (3,) the target still goes when it brakes from now on."""
        return velocity * (length(velocity) / (2.0 * self.acceleration)) if not self.frozen else _STILL


class Follower:
    """Goal, reference and target of one half of the motion: positions (3,) or rotations (3, 3).

    The subclasses say what adding and subtracting a vector (3,) [m or rad, base axes] means, and what is allowed.
    """

    def __init__(self, limits: Limits, start: FloatArray) -> None:
        self.limits = limits
        self.target = self.goal = self.reference = start
        self.velocity = _STILL

    def plus(self, point: FloatArray, way: FloatArray) -> FloatArray:
        raise NotImplementedError

    def minus(self, end: FloatArray, start: FloatArray) -> FloatArray:
        raise NotImplementedError

    def inside(self, point: FloatArray) -> FloatArray:
        """The nearest allowed point."""
        raise NotImplementedError

    def stays_inside(self, way: FloatArray) -> bool:
        """Whether the target is allowed everywhere on this way."""
        raise NotImplementedError

    def move_goal(self, goal: FloatArray, time_s: float) -> bool:
        """Take a new goal; False if it had to be drawn nearer: into the bounds, or to where ``time_s`` can lead."""
        reach = 0.0 if self.limits.frozen else self.limits.speed * time_s
        offset = self.minus(goal, self.target)
        distance = length(offset)
        near = goal if distance <= reach + ROUNDING else self.plus(self.target, offset * (reach / distance))
        self.goal = self.inside(near)
        return math.dist(self.goal.ravel(), goal.ravel()) <= ROUNDING

    def stop(self) -> FloatArray:
        return self.plus(self.target, self.limits.way_to_stop(self.velocity))

    def halt(self) -> None:
        self.goal = self.reference = self.stop()

    def advance(self, dt: float, part: float, measured: FloatArray) -> bool:
        """Move on for ``dt``, the reference by ``part`` of what is left of its way.

        False if a bound stood in the way and a part of the motion was dropped.
        """
        self.reference = self.plus(self.reference, part * self.minus(self.goal, self.reference))
        if self.limits.frozen:
            return True
        stop, limits = self.stop(), self.limits
        velocity = limits.pursue(self.minus(self.reference, self.target), self.velocity, dt)
        way = velocity * dt + limits.way_to_stop(velocity)
        fits = self.stays_inside(way)
        leads = self._leads_too_far(self.plus(self.target, way), stop, measured)
        if leads:
            self._drop_until(stop)
        if leads or not fits:
            velocity = limits.brake(self.velocity, dt)
        blocked = not (fits or leads) and length(velocity) == 0.0
        if blocked:
            self.goal = self.reference = self.target
        self.velocity = velocity
        self.target = self.plus(self.target, velocity * dt)
        return not (leads or blocked)

    def _leads_too_far(self, end: FloatArray, stop: FloatArray, measured: FloatArray) -> bool:
        """Whether rest at ``end`` would lead the arm by more than is allowed, and by more than rest at the stop."""
        lead = length(self.minus(end, measured))
        return lead > self.limits.lead + ROUNDING and lead > length(self.minus(stop, measured)) + ROUNDING

    def _drop_until(self, stop: FloatArray) -> None:
        """The reference waits at the stop; what lies before the goal beyond the reference is kept."""
        self.goal = self.inside(self.plus(stop, self.minus(self.goal, self.reference)))
        self.reference = stop


class Translation(Follower):
    """Of positions (3,) in the box."""

    def __init__(self, config: GuardConfig, start: FloatArray) -> None:
        limits = Limits(config.max_speed_m_s, SCALE.speed_m_s, config.max_acceleration_m_s2, config.max_lead_m)
        super().__init__(limits, start)
        self._low, self._high = config.low, config.high

    def plus(self, point: FloatArray, way: FloatArray) -> FloatArray:
        return self.inside(point + way)

    def minus(self, end: FloatArray, start: FloatArray) -> FloatArray:
        return end - start

    def inside(self, point: FloatArray) -> FloatArray:
        return np.minimum(np.maximum(point, self._low), self._high)

    def stays_inside(self, way: FloatArray) -> bool:
        end = self.target + way
        return math.dist(end, self.inside(end)) <= ROUNDING


class Rotation(Follower):
    """Of rotation matrices (3, 3) in the cone."""

    def __init__(self, config: GuardConfig, start: FloatArray) -> None:
        limits = Limits(config.max_speed_rad_s, SCALE.speed_rad_s, config.max_acceleration_rad_s2, config.max_lead_rad)
        super().__init__(limits, start)
        self._config = config

    def plus(self, point: FloatArray, way: FloatArray) -> FloatArray:
        return orthonormal(rotation_matrix(way) @ point)

    def minus(self, end: FloatArray, start: FloatArray) -> FloatArray:
        return rotation_vector(end @ start.T)

    def inside(self, point: FloatArray) -> FloatArray:
        return orthonormal(into_cone(point, self._config.goal_tilt_rad))

    def stays_inside(self, way: FloatArray) -> bool:
        return turn_stays_in_cone(self.target, way, self._config.max_tilt_rad)


class TargetMotion:
    """Goal and target as poses, from one tick to the next."""

    def __init__(self, config: GuardConfig, start: Pose) -> None:
        self._max_lag_s = config.max_lag_s
        self._translation = Translation(config, start.position)
        self._rotation = Rotation(config, start.rotation)
        self._deadline = 0.0

    @property
    def target(self) -> Pose:
        """The commanded pose, now."""
        return Pose(self._translation.target, self._rotation.target)

    @property
    def goal(self) -> Pose:
        """Where the target will be once all accepted actions have been executed."""
        return Pose(self._translation.goal, self._rotation.goal)

    def add(self, action: FloatArray, duration_s: float, now: float) -> bool:
        """Move the goal by an action (7,) in [-1, 1]; False if a bound dropped a part of it."""
        asked = integrate(self.goal, action, SCALE, fraction=duration_s * TRAIN_RATE_HZ)
        time_s = duration_s + self._max_lag_s
        straight = self._translation.move_goal(asked.position, time_s)
        turned = self._rotation.move_goal(asked.rotation, time_s)
        self._deadline = now + duration_s
        return straight and turned

    def stood_still(self) -> None:
        """Nothing was published for a while: go on from rest."""
        self._translation.velocity = self._rotation.velocity = _STILL

    def halt(self) -> None:
        """Drop what is left of the accepted actions and brake to a stop."""
        self._translation.halt()
        self._rotation.halt()

    def advance(self, before: float, now: float, measured: Pose) -> bool:
        """Move the target over the time from ``before`` to ``now``; False if a bound dropped a part of the motion.

        ``measured`` is where the arm is.
        """
        dt, time_left = now - before, self._deadline - before
        part = min(1.0, dt / time_left) if time_left > 0.0 else 1.0
        straight = self._translation.advance(dt, part, measured.position)
        turned = self._rotation.advance(dt, part, measured.rotation)
        return straight and turned
