"""Which drivers stand at the end of a graph, and what does not go together."""

import pytest

from diwa_bringup.arm_and_cameras import CAMERAS, ROBOT_ARGUMENTS, ROBOTS
from diwa_bringup.graph import NodeSpec
from diwa_bringup.robot_graphs import DEPLOY, RECORD, SIM
from diwa_conventions.errors import UserError

REAL = "robot:=fci", "robot_ip:=172.16.0.2", "operator:=gamepad"


def nodes(*words: str) -> dict[str, NodeSpec]:
    return {spec.name: spec for spec in RECORD.specs(words)}


def refusal(*words: str) -> str:
    with pytest.raises(UserError) as error:
        RECORD.specs(words)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_panda_by_its_own_protocol_takes_the_playrooms_place():
    specs = nodes(*REAL, "robot_type:=panda")
    assert "playroom" not in specs
    driver = specs["fci_driver"]
    assert (driver.package, driver.parameters["robot_ip"]) == ("diwa_robot", "172.16.0.2")
    assert driver.parameters["robot_type"] == "panda"


@pytest.mark.parametrize("specs", [SIM.specs(["robot:=fci"]), RECORD.specs(["robot:=fci", "robot_ip:=sim"])])
def test_playroom_as_a_panda_is_reached_at_the_address_that_it_offers(specs: list[NodeSpec]):
    named = {spec.name: spec for spec in specs}
    assert named["playroom"].parameters["fci"] == named["fci_driver"].parameters["robot_ip"] != ""
    assert named["fci_driver"].parameters["robot_type"] == "panda"


def test_playroom_by_topics_opens_no_port():
    assert "fci" not in nodes()["playroom"].parameters


def test_controllers_without_the_robots_interface_package():
    words = ("robot_state:=false", "recovery:=false", "gripper:=crisp")
    driver = nodes("robot:=crisp", "operator:=none", *words)["crisp_driver"]
    chosen = {name: driver.parameters[name] for name in ("robot_state", "recovery", "gripper")}
    assert chosen == {"robot_state": False, "recovery": False, "gripper": "crisp"}


def test_controllers_are_spoken_to_in_their_dialect():
    driver = nodes("robot:=crisp", "operator:=none", "dialect:=multipanda", "robot_namespace:=panda1")["crisp_driver"]
    assert driver.parameters["dialect"] == "multipanda" and driver.parameters["robot_namespace"] == "panda1"


@pytest.mark.parametrize(
    ("kind", "source", "executable", "parameter"),
    [
        ("realsense", "0123", "realsense", {"serial": "0123"}),
        ("azure_kinect", "", "azure_kinect", {}),
        ("webcam", "/dev/video2", "webcam", {"device": "/dev/video2"}),
        ("topics", "/camera/color/image_raw", "camera", {"input": "/camera/color/image_raw"}),
        ("realsense", "play.db3", "realsense", {"file": "play.db3"}),
        ("azure_kinect", "play.mkv", "azure_kinect", {"file": "play.mkv"}),
    ],
)
def test_each_camera_has_a_driver_of_its_own(kind: str, source: str, executable: str, parameter: dict):
    words = ["gripper_camera:=" + kind, *(["gripper_camera_source:=" + source] if source else [])]
    driver = nodes(*REAL, *words)["gripper_camera_driver"]
    assert (driver.package, driver.executable) == ("diwa_teleop", executable)
    assert driver.parameters == {"use_sim_time": False, "camera": "gripper_camera"} | parameter


def test_cameras_of_others_need_no_driver():
    assert not [name for name in nodes(*REAL, "static_camera:=none") if "camera" in name]


@pytest.mark.parametrize("operator", ["vive", "spacemouse"])
def test_operators_with_a_device_have_a_node(operator: str):
    assert nodes(f"operator:={operator}")[operator].package == "diwa_teleop"


def test_calibration_of_the_vive_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert nodes("operator:=vive")["vive"].parameters["calibration"] == str(tmp_path / "operator_calibration.yaml")
    assert nodes("operator:=vive", "operator_calibration:=none")["vive"].parameters["calibration"] == "none"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["robot:=fci"], "robot:=fci needs robot_ip:=ADDRESS of the robot; robot_ip:=sim is the playroom's arm"),
        (["robot_ip:=1.2.3.4"], "robot_ip:=1.2.3.4 goes with robot:=fci, and robot is sim"),
        ([*REAL[:2]], "operator:=scripted sees the playroom's true state and needs robot:=sim"),
        (["static_camera:=webcam"], "static_camera:=webcam goes with a real arm; the playroom has cameras of its own"),
        (
            [*REAL, "static_camera_source:=7"],
            "static_camera_source is '7', but static_camera is auto; choose its driver",
        ),
        (
            [*REAL, "gripper_camera:=topics"],
            "gripper_camera:=topics needs gripper_camera_source: the driver's image topic",
        ),
        (["robot:=fcI"], "unknown value of argument 'robot': 'fcI'"),
    ],
)
def test_what_does_not_go_together_is_one_line(words: list[str], said: str):
    assert said in refusal(*words)


def test_each_machine_starts_its_own_half():
    cameras = ("static_camera:=webcam", "gripper_camera:=realsense")
    assert sorted(nodes(*REAL, *cameras, "machine:=control")) == ["command_guard", "fci_driver"]
    others = sorted(nodes("robot:=none", "operator:=vive", *cameras, "machine:=policy"))
    assert others == ["gripper_camera_driver", "recorder", "static_camera_driver", "teleop", "vive"]


def test_one_camera_cannot_have_both_roles():
    cameras = [f"{name}_camera{end}" for name in ("static", "gripper") for end in (":=realsense", "_source:=77")]
    assert "both cameras are '77'; expected two different ones" in refusal(*REAL, *cameras)


def test_deploying_has_the_same_arms_and_cameras():
    shared = {argument.name for argument in ROBOT_ARGUMENTS}
    assert shared <= {argument.name for argument in DEPLOY.arguments}
    assert shared <= {argument.name for argument in RECORD.arguments}
    assert (ROBOTS[0], CAMERAS[0]) == ("sim", "auto")
