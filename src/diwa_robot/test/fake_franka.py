"""The fake controllers with what franka_msgs, control_msgs and controller_manager_msgs add: the robot's state, error
recovery, the hand's actions, the controller manager. Needs those packages, or their stand-ins (test/interfaces)."""

import sys

import numpy as np
from control_msgs.action import GripperCommand
from controller_manager_msgs.msg import ControllerState
from controller_manager_msgs.srv import ListControllers
from fake_controllers import FakeControllers, run
from franka_msgs import action, msg, srv
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.qos import qos_profile_system_default
from rclpy.task import Future
from sensor_msgs.msg import JointState

from diwa_robot.drivers.dialects import MODE_MOVE, MODE_REFLEX
from diwa_robot.nodes.crisp_robot import NEWEST

STUCK_S = 0.5
"""After which a hand that cannot move gives up."""


class FakeFranka(FakeControllers):
    """Answers as franka_ros2's or multipanda_ros2's nodes do."""

    def open_gripper(self) -> None:
        node, named = self.dialect.gripper, self.named
        self.told_gripper: list[str] = []
        self.motion: tuple[object, Future, float] | None = None
        self.hand_out = self.create_publisher(JointState, named(f"{node}/joint_states"), NEWEST)
        for name, kind, width_of in (
            ("move", action.Move, lambda goal: goal.width),
            ("grasp", action.Grasp, lambda goal: goal.width),
            ("gripper_action", GripperCommand, lambda goal: 2.0 * goal.command.position),
        ):
            self._serve(name, kind, named(f"{node}/{name}"), width_of)
        self._open_robot()

    def _open_robot(self) -> None:
        self.mode, self.reflex, self.stubborn, self.controller = MODE_MOVE, False, False, "active"
        self.recoveries = 0
        self.state_kind = getattr(msg, self.dialect.state_type)
        self.state_out = self.create_publisher(
            self.state_kind, self.named(self.dialect.state_topic), qos_profile_system_default
        )
        if self.dialect.recovery_is_action:
            self.recovery = ActionServer(
                self, action.ErrorRecovery, self.named(self.dialect.recovery), execute_callback=self.recover_by_action
            )
        else:
            self.create_service(srv.ErrorRecovery, self.named(self.dialect.recovery), self.recover_by_service)
        self.create_service(ListControllers, self.named("controller_manager/list_controllers"), self.list_controllers)

    def _serve(self, name: str, kind, full_name: str, width_of) -> None:
        async def execute(handle):
            goal, ended = handle.request, Future()
            self.told_gripper.append(f"{name} {width_of(goal):.2f}")
            self.wanted_m, self.motion = width_of(goal), (handle, ended, self.get_clock().now().nanoseconds * 1e-9)
            outcome = await ended
            self.told_gripper.append(outcome)
            {"done": handle.succeed, "stuck": handle.abort, "cancelled": handle.canceled}[outcome]()
            result = kind.Result()
            if name == "gripper_action":
                result.reached_goal = outcome == "done"
            else:
                result.success, result.error = outcome == "done", "" if outcome == "done" else "the hand did not move"
            return result

        server = ActionServer(
            self,
            kind,
            full_name,
            execute_callback=execute,
            goal_callback=lambda goal: GoalResponse.ACCEPT,
            cancel_callback=lambda handle: CancelResponse.ACCEPT,
        )
        self.__dict__.setdefault("servers", []).append(server)

    def step(self) -> None:
        super().step()
        if self.motion is None:
            return
        handle, ended, begun_s = self.motion
        outcome = ""
        if handle.is_cancel_requested:
            outcome, self.wanted_m = "cancelled", self.width_m
        elif abs(self.wanted_m - self.width_m) < 1e-6:
            outcome = "done"
        elif self.blocked and self.get_clock().now().nanoseconds * 1e-9 - begun_s > STUCK_S:
            outcome = "stuck"
        if outcome:
            self.motion = None
            ended.set_result(outcome)

    def publish(self) -> None:
        super().publish()
        stamp = self.get_clock().now().to_msg()
        state = self.state_kind(robot_mode=self.mode)
        state.header.stamp = stamp
        state.current_errors.cartesian_reflex = self.reflex
        if self.dialect.state_type == "FrankaState":
            transform = np.eye(4)
            transform[:3, :3] = self.pose.rotation
            transform[:3, 3] = self.pose.position + self.random.normal(0.0, 1e-6, 3)
            state.o_t_ee = transform.ravel(order="F")
        self.state_out.publish(state)
        names = [f"{self.prefix}_finger_joint{i}" for i in (1, 2)]
        hand = JointState(name=names, position=[0.5 * self.width_m] * 2)
        hand.header.stamp = stamp
        self.hand_out.publish(hand)

    def publish_adapter(self, stamp) -> None:
        """There is none beside Franka's own hand."""

    def recover_by_action(self, handle) -> action.ErrorRecovery.Result:
        self._recover()
        (handle.abort if self.stubborn else handle.succeed)()
        return action.ErrorRecovery.Result()

    def recover_by_service(self, request, response):
        if not self.reflex:
            response.success, response.error = False, "No errors"
            return response
        self._recover()
        response.success, response.error = not self.stubborn, "joints locked" if self.stubborn else ""
        return response

    def _recover(self) -> None:
        self.recoveries += 1
        if not self.stubborn:
            self.reflex, self.mode = False, MODE_MOVE

    def list_controllers(self, request, response):
        if self.controller:
            response.controller = [ControllerState(name=self.get_name(), state=self.controller)]
        return response

    def do_well(self) -> None:
        super().do_well()
        self.mode, self.reflex, self.stubborn, self.controller = MODE_MOVE, False, False, "active"

    def do_reflex(self) -> None:
        self.reflex, self.mode, self.follows = True, MODE_REFLEX, False

    def do_stubborn(self) -> None:
        self.stubborn = True

    def do_mode(self, number: str) -> None:
        self.mode = int(number)

    def do_controller(self, state: str = "") -> None:
        self.controller = state

    def told(self) -> dict:
        return super().told() | {"recoveries": self.recoveries}


if __name__ == "__main__":
    sys.exit(run(FakeFranka))
