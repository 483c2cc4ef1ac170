"""Names, layouts and units of the three dialects, and the controller parameter files that go with them."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from diwa_conventions.actions import Pose
from diwa_conventions.errors import UserError
from diwa_conventions.topics import STATE_RATE_HZ
from diwa_robot.drivers.crisp import CrispLimits
from diwa_robot.drivers.dialects import BASE_FRAMES, DIALECTS, dialect, in_namespace
from diwa_robot.drivers.reported_state import (
    arm_joint_order,
    finger_positions,
    finite,
    pose_array,
    pose_from_column_major,
    true_fields,
)
from diwa_robot.so3 import rotation_matrix

CONFIG = Path(__file__).parents[1] / "config"
FILES = {name: CONFIG / f"{name}.yaml" for name in DIALECTS}


def test_unknown_dialect_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="unknown dialect 'fr3'; known: franka_ros2, multipanda, multipanda_cartesian"):
        dialect("fr3")


@pytest.mark.parametrize(
    ("namespace", "name", "full"),
    [
        ("", "target_pose", "/target_pose"),
        ("/left/", "a/b", "/left/a/b"),
        ("left", "/absolute/name", "/absolute/name"),
    ],
)
def test_names_are_in_the_robots_namespace_unless_absolute(namespace, name, full):
    assert in_namespace(namespace, name) == full


def test_array_is_position_then_rotation_row_by_row():
    turn = rotation_matrix(np.array([0.0, 0.0, 0.5]))
    values = pose_array(Pose(np.array([0.4, 0.1, 0.3]), turn))
    assert values[:3] == [0.4, 0.1, 0.3]
    assert np.array_equal(np.reshape(values[3:], (3, 3)), turn)


@given(x=st.sampled_from([0.0, -0.0, 0.4]), tilt=st.sampled_from([0.0, np.pi / 2]))
def test_array_never_holds_the_zeros_that_the_controller_takes_for_nothing(x, tilt):
    rotation = rotation_matrix(np.array([tilt, 0.0, 0.0])).round(12)
    values = pose_array(Pose(np.array([x, 0.0, 0.3]), rotation))
    assert values[0] != 0.0 and values[11] != 0.0
    assert np.allclose(values, [x, 0.0, 0.3, *rotation.ravel()], atol=1e-9)


def test_pose_in_the_robots_state_is_column_by_column():
    turn = rotation_matrix(np.array([0.3, -0.2, 0.5]))
    transform = np.eye(4)
    transform[:3, :3], transform[:3, 3] = turn, [0.4, 0.1, 0.3]
    pose = pose_from_column_major(transform.ravel(order="F"))
    assert np.allclose(pose.position, [0.4, 0.1, 0.3])
    assert np.allclose(pose.rotation, turn)


@pytest.mark.parametrize("matrix", [[0.0] * 16, [np.nan] * 16, [1.0] * 12])
def test_state_without_a_pose_is_refused(matrix):
    with pytest.raises(UserError, match="o_t_ee holds no"):
        pose_from_column_major(matrix)


def test_joints_are_found_in_whatever_order():
    names = ["fr3_finger_joint1", *(f"fr3_joint{i}" for i in (7, 6, 5, 4, 3, 2, 1))]
    assert arm_joint_order(names, "fr3") == [7, 6, 5, 4, 3, 2, 1]


def test_wrong_prefix_names_the_right_one():
    names = [f"fr3_joint{i}" for i in range(1, 8)]
    with pytest.raises(UserError, match="has no panda_joint1; its joints: fr3_joint1, .*; set joint_prefix:=fr3"):
        arm_joint_order(names, "panda")


def test_missing_joint_is_named():
    with pytest.raises(UserError, match="has no panda_joint7; its joints: panda_joint1"):
        arm_joint_order([f"panda_joint{i}" for i in range(1, 7)], "panda")


def test_fingers_are_in_metres_and_have_to_be_there():
    assert finger_positions(["fr3_finger_joint1", "fr3_finger_joint2"], [0.01, 0.02], "fr3") == (0.01, 0.02)
    with pytest.raises(UserError, match="has no panda_finger_joint1 and 2; its joints: fr3_finger_joint1"):
        finger_positions(["fr3_finger_joint1"], [0.01], "panda")
    with pytest.raises(UserError, match="not finite"):
        finger_positions(["fr3_finger_joint1", "fr3_finger_joint2"], [0.01, np.nan], "fr3")


def test_empty_field_of_a_joint_state_is_zeros_and_a_short_one_is_wrong():
    assert finite([], 3).tolist() == [0.0, 0.0, 0.0]
    with pytest.raises(UserError, match="holds 2 values for 3 joints"):
        finite([1.0, 2.0], 3)


def test_errors_are_named_by_their_fields():
    errors = SimpleNamespace(joint_reflex=False, cartesian_reflex=True)
    errors.get_fields_and_field_types = lambda: {"joint_reflex": "boolean", "cartesian_reflex": "boolean"}
    assert true_fields(errors) == ["cartesian_reflex"]


# Parameter files of the controllers


def parameters(name: str, node: str) -> dict:
    return yaml.safe_load(FILES[name].read_text())["/**"][node]["ros__parameters"]


@pytest.mark.parametrize("name", DIALECTS)
def test_parameter_file_has_the_controller_that_the_driver_asks_for(name):
    spoken = DIALECTS[name]
    manager = parameters(name, "controller_manager")
    kinds = {
        "franka_ros2": "crisp_controllers/CartesianController",
        "multipanda": "crisp_controllers/CartesianController",
    }
    wanted = kinds.get(name, "franka_controllers/CartesianImpedanceController")
    assert manager[spoken.controller]["type"] == wanted
    assert manager["update_rate"] == 1000


@pytest.mark.parametrize("name", ["franka_ros2", "multipanda"])
def test_crisps_parameters_agree_with_the_driver(name):
    spoken, limits = DIALECTS[name], CrispLimits()
    controller, poses = parameters(name, spoken.controller), parameters(name, "pose_broadcaster")
    joints = [f"{spoken.joint_prefix}_joint{i}" for i in range(1, 8)]
    assert controller["joints"] == poses["joints"] == joints
    assert controller["end_effector_frame"] == poses["end_effector_frame"] == f"{spoken.joint_prefix}_hand_tcp"
    assert controller["base_frame"] == poses["base_frame"]
    assert poses["base_frame"] in BASE_FRAMES
    assert controller["limit_error"] is controller["limit_torques"] is True
    assert controller["task"]["error_clip"] == {
        **dict.fromkeys(("x", "y", "z"), limits.max_lead_m),
        **dict.fromkeys(("rx", "ry", "rz"), limits.max_lead_rad),
    }
    assert poses["publish_frequency"] >= STATE_RATE_HZ
    assert controller["use_gravity_compensation"] is False  # the robot does that itself


@pytest.mark.parametrize("name", ["franka_ros2", "multipanda"])
def test_force_of_a_hold_is_small_and_that_of_the_clip_bounded(name):
    task, limits = parameters(name, DIALECTS[name].controller)["task"], CrispLimits()
    for axis in "xyz":
        assert task[f"k_pos_{axis}"] * limits.hold_lead_m <= 10.0
        assert task[f"k_pos_{axis}"] * limits.max_lead_m <= 50.0
