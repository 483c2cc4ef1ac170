"""The fake controllers with what franka_msgs, control_msgs and controller_manager_msgs add: the robot's state, error
recovery, the hand's actions, the controller manager. Needs those packages, or their stand-ins (test/interfaces).

What the services do is in ``franka_world.py``, version by version. A bring-up that has ended offers none of them.
"""

import sys

import numpy as np
from control_msgs.action import GripperCommand
from controller_manager_msgs.msg import ControllerState, HardwareComponentState, HardwareInterface
from controller_manager_msgs.srv import (
    ListControllers,
    ListHardwareComponents,
    SetHardwareComponentState,
    SwitchController,
)
from fake_controllers import FakeControllers, run
from franka_msgs import action, msg, srv
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.qos import qos_profile_system_default
from rclpy.task import Future
from sensor_msgs.msg import JointState

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
        self.stubborn, self.listed = False, None
        self.recoveries = 0
        self.state_kind = getattr(msg, self.dialect.state_type)
        self.state_out = self.create_publisher(
            self.state_kind, self.named(self.dialect.state_topic), qos_profile_system_default
        )
        self.offered: list = []
        self._offer()

    def _offer(self) -> None:
        """The services and actions of the bring-up."""
        manager = lambda name: self.named(f"controller_manager/{name}")  # noqa: E731
        self.offered = [
            self.create_service(ListControllers, manager("list_controllers"), self.list_controllers),
            self.create_service(ListHardwareComponents, manager("list_hardware_components"), self.list_hardware),
            self.create_service(SwitchController, manager("switch_controller"), self.switch_controller),
            self.create_service(
                SetHardwareComponentState, manager("set_hardware_component_state"), self.set_hardware_state
            ),
        ]
        name = self.named(self.dialect.recovery)
        if self.dialect.recovery_is_action:
            self.offered.append(ActionServer(self, action.ErrorRecovery, name, execute_callback=self.recover_by_action))
        else:
            self.offered.append(self.create_service(srv.ErrorRecovery, name, self.recover_by_service))

    def _withdraw(self) -> None:
        for one in self.offered:
            one.destroy() if isinstance(one, ActionServer) else self.destroy_service(one)
        self.offered = []

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
        if self.world.running != bool(self.offered):
            self._offer() if self.world.running else self._withdraw()
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

    def publish_arm(self, stamp) -> None:
        super().publish_arm(stamp)
        shown = self.world.shown
        state = self.state_kind(robot_mode=shown.mode, time=shown.clock_s)
        state.header.stamp = stamp
        state.current_errors.cartesian_reflex = self.world.reflex
        if self.dialect.state_type == "FrankaState":
            pose, transform = self.measured(), np.eye(4)
            transform[:3, :3], transform[:3, 3] = pose.rotation, pose.position
            state.o_t_ee = transform.ravel(order="F")
        self.state_out.publish(state)

    def publish_hand(self, stamp) -> None:
        """Its node is a process of its own."""
        names = [f"{self.prefix}_finger_joint{i}" for i in (1, 2)]
        hand = JointState(name=names, position=[0.5 * self.width_m] * 2)
        hand.header.stamp = stamp
        self.hand_out.publish(hand)

    def recover_by_action(self, handle) -> action.ErrorRecovery.Result:
        (handle.abort if self._recover() else handle.succeed)()
        return action.ErrorRecovery.Result()

    def recover_by_service(self, request, response):
        response.error = self._recover()
        response.success = not response.error
        return response

    def _recover(self) -> str:
        self.recoveries += 1
        return "joints locked" if self.stubborn else self.world.recover()

    def list_controllers(self, request, response):
        state = self.world.controller if self.listed is None else self.listed
        if state:
            needs = [f"{self.prefix}_joint1/effort"]
            response.controller = [
                ControllerState(name=self.get_name(), state=state, required_command_interfaces=needs),
                ControllerState(name="pose_broadcaster", state="active" if self.world.broadcasting else "inactive"),
            ]
        return response

    def list_hardware(self, request, response):
        interface = HardwareInterface(name=f"{self.prefix}_joint1/effort")
        component = HardwareComponentState(name="FrankaHardwareInterface", command_interfaces=[interface])
        component.state.label = self.world.hardware
        response.component = [component]
        return response

    def switch_controller(self, request, response):
        done = [self.world.deactivate() for name in request.deactivate_controllers if name == self.get_name()]
        for name in request.activate_controllers:
            activate = self.world.activate if name == self.get_name() else self.world.activate_broadcasters
            done.append(activate())
        response.ok = all(done)
        return response

    def set_hardware_state(self, request, response):
        response.ok = request.target_state.label == "active" and self.world.activate_hardware()
        response.state.label = self.world.hardware
        return response

    def do_well(self) -> None:
        super().do_well()
        self.stubborn, self.listed = False, None

    def do_reflex(self) -> None:
        self.world.collide()

    def do_press(self) -> None:
        self.world.press()

    def do_release(self) -> None:
        self.world.release()

    def do_guide(self, *way_m: str) -> None:
        self.world.guide([float(value) for value in way_m])

    def do_restart(self) -> None:
        self.world.restart()

    def do_deactivate(self) -> None:
        self.world.deactivate()

    def do_activate(self) -> None:
        self.world.activate()

    def do_recover(self) -> None:
        """By a person, in a terminal."""
        self._recover()

    def do_stubborn(self) -> None:
        self.stubborn = True

    def do_controller(self, state: str = "") -> None:
        """What the controller manager says of it, whatever is true."""
        self.listed = state

    def told(self) -> dict:
        return super().told() | {"recoveries": self.recoveries}


if __name__ == "__main__":
    sys.exit(run(FakeFranka))
