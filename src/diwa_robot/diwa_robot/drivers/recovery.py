"""The order of steps that brings a Franka arm back under its ROS 2 controller. No ROS, and no clock of its own.

The order follows from what the upstream sources do:

- **multipanda_ros2** (8b6a92c, ``franka_hardware/src/robot.cpp`` and ``franka_error_recovery_service_server.cpp``): a
  stop in a motion leaves controllers and hardware component active. The error recovery starts the control loop again by
  itself, in the mode that the active controller asked for, with the target that this controller still has. A controller
  that is activated before the recovery drives the arm with the last torques from before the stop. While the user stop
  is pressed, libfranka rejects commands with a CommandException, which nothing catches there: the process ends.
- **franka_ros2** before 3.3 (Jazzy) and 2.4 (Humble): a stop in a motion is an exception that ends the bring-up.
- **franka_ros2** from 3.3 and 2.4 (``franka_hardware/doc/index.rst``, "Error Recovery"): the hardware component becomes
  unconfigured. Jazzy's controller manager deactivates all controllers that use it, the broadcasters too: silence.
  Humble's (ros2_control 0941f73, ``ControllerManager::read``) leaves them active, on values that no longer change.
- **crisp_controllers** (8093548 and 2b33ab7, ``src/cartesian_controller.cpp``): activation takes the measured pose as
  target, but a target that came while the controller was inactive replaces it in the first update afterwards.
- The posture that both controllers hold in the null space is taken at activation only.

So: deactivate, recover, activate hardware and broadcasters, wait until the measured pose is the newest target and the
arm stands, activate the controller.
"""

from __future__ import annotations

from enum import Enum

from diwa_robot.drivers.crisp import CrispArm
from diwa_robot.drivers.dialects import (
    MODE_GUIDING,
    MODE_IDLE,
    MODE_MOVE,
    MODE_OTHER,
    MODE_RECOVERING,
    MODE_REFLEX,
    MODE_USER_STOPPED,
    MODES,
    Dialect,
)

ANSWER_S = 10.0
"""The longest that one step may take."""
LIMIT_S = 25.0
"""The longest that a recovery may take; ``diwa guard recover`` waits for 30 s."""
MANAGER_S = 5.0
"""How long the controller manager may be silent."""
SETTLE_S = 0.3
"""How long the measured pose has been the controller's newest target, and the arm has stood, before activation."""

STANDING = {
    MODE_USER_STOPPED: "the user stop is pressed: release it, then recover again",
    MODE_GUIDING: "the robot is being guided by hand: let go of it, then recover again",
    MODE_OTHER: "the robot is busy with something else: unlock its joints and activate FCI in Desk, then recover again",
}
"""Modes in which nothing may be asked of the robot, and what a person does about them."""


class Step(Enum):
    """What is asked of the robot, one at a time."""

    DEACTIVATE = "deactivate the controller"
    RECOVER = "recover the robot from its error"
    HARDWARE = "activate the hardware component"
    BROADCASTERS = "activate the broadcasters"
    ACTIVATE = "activate the controller"


class Recovery:
    """One recovery, from a person's request to its outcome.

    Call :meth:`tick` regularly; carry out the step that it returns and report it to :meth:`answered`.
    """

    def __init__(self, arm: CrispArm, dialect: Dialect, recovery: str, asks: bool, now: float) -> None:
        """``recovery``: name of the robot's own recovery; ``asks``: whether this driver may ask for it."""
        self.outcome: str | None = None
        """None: under way; "": the arm is under its controller again; else why it is not."""
        self._arm, self._dialect, self._name, self._asks = arm, dialect, recovery, asks
        self._begun_s = self._answered_s = now
        self._asked_s: float | None = None
        self._recovered = self._broadcasters_asked = False
        self._step = Step.RECOVER

    def tick(self, now: float) -> Step | None:
        """The step to carry out now, or None: nothing to do yet, or never again (``outcome``)."""
        if self.outcome is not None:
            return None
        if self._asked_s is not None:
            if now - self._asked_s > ANSWER_S:
                self.outcome = f"nothing came back within {ANSWER_S:g} s of the request to {self._step.value}"
            return None
        step, waits_for = self._next(now)
        if self.outcome is None and step is None and now - self._begun_s > LIMIT_S:
            self.outcome = waits_for
        if self.outcome is not None or step is None:
            return None
        self._step, self._asked_s = step, now
        return step

    def answered(self, trouble: str, now: float) -> None:
        """The step is done; ``trouble`` says why it failed, "" if it did not."""
        if self.outcome is not None or self._asked_s is None:
            return
        self._asked_s, self._answered_s = None, now
        self._recovered = self._recovered or self._step is Step.RECOVER
        if trouble:
            self.outcome = f"failed to {self._step.value}: {trouble}"

    def _next(self, now: float) -> tuple[Step | None, str]:
        """The next step, or what is waited for. May end the recovery."""
        arm = self._arm
        if self._well():
            self.outcome = ""
        elif arm.mode in STANDING:
            self.outcome = STANDING[arm.mode]
        elif not self._asks:
            self.outcome = f"this driver may not recover the robot (recovery:=false); by hand: {self.by_hand()}"
        elif arm.controller_state is None or arm.listed_s < self._answered_s:
            if now - self._answered_s < MANAGER_S:
                return None, ""
            self.outcome = (
                "the robot's controller manager does not answer. An error ends the bring-up of franka_ros2 before 3.3 "
                "(Jazzy) and 2.4 (Humble): start it again, then recover again; or set controller_manager"
            )
        elif arm.controller_state not in ("active", "inactive"):
            self.outcome = (
                f"{arm.controller} is {arm.controller_state or 'not loaded'}: start the robot's bring-up again"
            )
        else:
            return self._ask(now) if self._recovered else self._before_recovery(now), self._waits_for()
        return None, ""

    def _before_recovery(self, now: float) -> Step | None:
        """The controller is inactive before the robot may move: multipanda_ros2 restarts control by itself."""
        arm = self._arm
        if arm.controller_state == "active":
            return Step.DEACTIVATE
        if arm.mode == MODE_RECOVERING:
            return None
        if self._dialect.recovery_is_action and arm.mode in (MODE_IDLE, MODE_MOVE) and not arm.hardware_down:
            self._recovered = True  # franka_ros2 keeps no error of its own
            return self._ask(now)
        return Step.RECOVER

    def _ask(self, now: float) -> Step | None:
        arm = self._arm
        if arm.mode in (MODE_REFLEX, MODE_RECOVERING):
            return None
        if arm.hardware_down:
            return Step.HARDWARE
        if arm.broadcasters_down and not self._broadcasters_asked:
            self._broadcasters_asked = True
            return Step.BROADCASTERS
        settled = min(arm.aimed_for_s(now), now - self._answered_s)
        if arm.controller_state == "inactive" and settled >= SETTLE_S:
            return Step.ACTIVATE
        return None

    def _waits_for(self) -> str:
        arm = self._arm
        if arm.mode is not None and arm.mode != MODE_MOVE:
            return f"the robot is still {MODES.get(arm.mode, f'in mode {arm.mode}')}"
        if arm.controller_state == "inactive":
            return f"{arm.controller} was not activated: the measured pose is missing, or the arm does not stand still"
        return f"{arm.controller} is active, but the robot does not say that it is"

    def _well(self) -> bool:
        """Whether the controller holds the arm already, as far as anybody says."""
        arm = self._arm
        known = arm.controller_state is not None and arm.listed_s >= self._answered_s
        holds = arm.mode in (None, MODE_MOVE) and arm.controller_state in (None, "active") and not arm.hardware_down
        return holds and (known or not self._asks)

    def by_hand(self) -> str:
        """The same steps as commands, for a person."""
        switch, controller = "ros2 control switch_controllers", self._arm.controller
        recover = f"ros2 service call {self._name} franka_msgs/srv/ErrorRecovery"
        hardware = ""
        if self._dialect.recovery_is_action:
            recover = f"ros2 action send_goal {self._name} franka_msgs/action/ErrorRecovery '{{}}'"
            hardware = (
                "ros2 control set_hardware_component_state FrankaHardwareInterface active; "
                f"{switch} --activate with the broadcasters alone; "
            )
        return f"{switch} --deactivate {controller}; {recover}; {hardware}{switch} --activate {controller}"
