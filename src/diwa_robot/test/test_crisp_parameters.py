"""What the crisp driver refuses to start with, and where it looks for the robot."""

from pathlib import Path

import pytest
import rclpy
from rclpy.parameter import Parameter

from diwa_conventions.errors import UserError
from diwa_robot.drivers.dialects import DIALECTS
from diwa_robot.nodes import crisp_robot
from diwa_robot.nodes.crisp_parameters import declare_settings

README = Path(__file__).parents[1] / "README.md"
WITHOUT_FRANKA_MSGS = {"robot_state": False, "recovery": False, "gripper": "crisp"}


@pytest.fixture(scope="module", autouse=True)
def ros():
    rclpy.init(args=["--ros-args", "-r", "/robot/moved:=/elsewhere"])
    yield
    rclpy.shutdown()


@pytest.fixture
def settings():
    """Of a driver in /diwa with these parameters."""
    nodes = []

    def declared(**parameters):
        given = [Parameter(name, value=value) for name, value in (WITHOUT_FRANKA_MSGS | parameters).items()]
        nodes.append(rclpy.create_node("crisp_driver", namespace="/diwa", parameter_overrides=given))
        return declare_settings(nodes[-1])

    yield declared
    for node in nodes:
        node.destroy_node()


def test_names_are_the_dialects_in_the_robots_namespace(settings):
    found = settings(dialect="franka_ros2", robot_namespace="left")
    assert found.target_topic == "/left/target_pose"
    assert found.joint_topic == "/left/franka/joint_states"
    assert (found.joint_prefix, found.gripper_node) == ("fr3", "/left/gripper")


def test_given_name_wins_absolute_and_remapped_too(settings):
    found = settings(pose_topic="/other/pose", target_topic="moved", robot_namespace="robot", joint_prefix="arm")
    assert (found.pose_topic, found.target_topic, found.joint_prefix) == ("/other/pose", "/elsewhere", "arm")


def test_multipandas_own_controller_has_a_topic_in_no_namespace(settings):
    found = settings(dialect="multipanda_cartesian", robot_namespace="left", pose_topic="current_pose")
    assert found.target_topic == "/cartesian_impedance/pose_desired"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"robot_namespace": "diwa"}, "target_topic leads to /diwa/target_pose, which is this driver's own topic"),
        ({"pose_topic": "/diwa/current_pose"}, "pose_topic leads to /diwa/current_pose, which is this driver's own"),
        ({"joint_topic": "/diwa/joint_states"}, "joint_topic leads to"),
        ({"gripper_node": "/diwa"}, "gripper_node leads to"),
        ({"dialect": "multi_panda"}, "unknown dialect 'multi_panda'; did you mean 'multipanda'"),
        ({"gripper": "hand"}, "unknown gripper 'hand'; known: franka, gripper_command, crisp, none"),
        ({"dialect": "multipanda_cartesian"}, "takes the measured pose from robot_state, which robot_state:=false"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(settings, parameters, message):
    with pytest.raises(UserError, match=message):
        settings(**parameters)


@pytest.mark.parametrize(
    ("parameters", "feature"),
    [
        (
            {"robot_state": True},
            "robot_state:=true needs the interface package franka_msgs, which ROS 2 {} here does not",
        ),
        ({"recovery": True}, "recovery:=true needs the interface package franka_msgs"),
        ({"gripper": "franka"}, "gripper:=franka needs the interface package franka_msgs"),
        ({"gripper": "gripper_command"}, "gripper:=gripper_command needs the interface package control_msgs"),
    ],
)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_missing_interface_package_is_one_line_that_says_what_to_do(
    settings, monkeypatch, parameters, feature, dialect
):
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    monkeypatch.setattr(crisp_robot.importlib, "import_module", no_module)
    with pytest.raises(UserError) as refused:
        settings(dialect=dialect, pose_topic="current_pose", **parameters)
    message = str(refused.value)
    assert message.startswith(feature.format("jazzy"))
    assert "; source the workspace of " in message and ", or say " in message
    assert "\n" not in message


def test_interface_package_of_the_other_robot_is_named(settings, monkeypatch):
    """The two robots' packages have the same name, and not the same messages."""
    monkeypatch.setattr(crisp_robot.importlib, "import_module", lambda name: crisp_robot)
    with pytest.raises(
        UserError, match="needs franka_msgs/msg/FrankaState, and the franka_msgs found here .* it is anoth"
    ):
        settings(dialect="multipanda", robot_state=True)


def row(node, name: str) -> str:
    """Of the README's table."""
    default, about = node.get_parameter(name).value, node.describe_parameter(name)
    words = ", ".join(default) if isinstance(default, (list, tuple)) else str(default).lower()
    span = "".join(f"{one.from_value:g} to {one.to_value:g}" for one in about.floating_point_range)
    return f"| `{name}` | {words} | {span} | {about.description} |"


def test_every_parameter_stands_in_the_readme(monkeypatch):
    node = rclpy.create_node("crisp_driver", namespace="/diwa")
    monkeypatch.setattr(crisp_robot.importlib, "import_module", lambda name: Anything())
    declare_settings(node)
    monkeypatch.undo()
    lines = README.read_text().splitlines()
    rows = [row(node, name) for name in node._parameters if not name.startswith(("use_sim", "start_type"))]
    node.destroy_node()
    assert len(rows) > 15
    assert [line for line in rows if line not in lines] == []


class Anything:
    """A package that has every interface."""

    def __getattr__(self, name: str):
        return object


def no_module(name: str):
    raise ImportError(f"No module named {name!r}")
