"""The fci driver on an FR3 in software that has the robot's limits and reflexes (franka-sim).

``make test-reflexes`` builds the venv that the simulator needs for itself, and runs this; elsewhere it is skipped.
"""

import os
import signal
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import rclpy
from diwa_msgs.msg import ArmState
from fci_lab import PATIENT, QUIET, Lab, Robot, end, start

from diwa_conventions import topics
from diwa_conventions.actions import Pose

VENV = Path(__file__).parents[3] / ".venv-reflexes"
PYTHON = VENV / "bin" / "python"
if not PYTHON.exists():
    pytest.skip("franka-sim needs a venv of its own, which is not built: make test-reflexes", allow_module_level=True)
pytest.importorskip("franka", reason="the driver's library, franka-rs, is not installed: make setup EXTRA=hardware")
pytest.importorskip("franky_sim", reason="the model of the FR3 is its: make setup EXTRA=hardware")

ADDRESS = "127.0.8.31"
FINGERS_M = 0.04
"""What lies between the fingers."""


@pytest.fixture(scope="module", autouse=True)
def ros():
    rclpy.init()
    yield
    rclpy.shutdown()


@pytest.fixture(scope="module")
def robot():
    model = Path(find_spec("franky_sim").origin).parent / "assets" / "fr3.xml"
    server = Path(__file__).with_name("franka_sim_server.py")
    robot = Robot(ADDRESS, str(PYTHON), str(server), ADDRESS, str(model), PYTHONPATH="", LD_LIBRARY_PATH="")
    yield robot
    robot.end()


@pytest.fixture(scope="module")
def driver(robot):
    process = start(ADDRESS, *PATIENT, *QUIET)
    yield process
    output = end(process)
    assert process.returncode == 0
    assert "Traceback" not in output, output


@pytest.fixture(scope="module")
def running(driver):
    lab = Lab()
    lab.state_is(ArmState.READY)
    yield lab
    lab.node.destroy_node()


@pytest.fixture
def lab(running) -> Lab:
    running.recovered()
    return running


def test_follows_targets_although_the_robot_has_its_tool_elsewhere(lab):
    assert "the robot has its tool 107 mm from where its model has it" in lab.figures()["message"]
    lab.stand()
    wanted = lab.go((0.03, 0.03, 0.0), seconds=2.0)
    lab.arrives(wanted, 0.02)


def test_grasp_finds_what_lies_between_the_fingers(lab):
    lab.until(lambda: lab.grip(1.0) or lab.width_m() > 0.07, "opening")
    lab.until(lambda: lab.grip(-1.0) or abs(lab.width_m() - FINGERS_M) < 0.002, "grasping")
    assert "blocked" not in lab.figures()["message"]


def test_driver_that_is_held_up_is_a_communication_fault(lab, driver):
    """Its 1 kHz loop stands still for half a second: the robot misses its commands and stops."""
    lab.stand()
    os.kill(driver.pid, signal.SIGSTOP)
    lab.node.get_clock().sleep_for(rclpy.duration.Duration(seconds=0.5))
    os.kill(driver.pid, signal.SIGCONT)
    assert "communication_constraints_violation" in lab.state_is(ArmState.FAULT).reason
    answer = lab.recover()
    assert answer.success, answer.message


def test_target_out_of_reach_stretches_the_arm_and_no_more(lab):
    """Followed to where the arm can go; the spring's pull stays bounded, and the arm comes back."""
    start_pose = lab.stand()
    for _ in range(40):
        here = lab.pose()
        away = here.position + np.array([0.05, 0.0, 0.0])
        lab.target = Pose(away, start_pose.rotation)
        lab.next(topics.CURRENT_POSE, 12)
        if lab.seen[topics.ARM_STATE][-1].state != ArmState.READY or here.position[0] > 0.78:
            break
    state = lab.seen[topics.ARM_STATE][-1]
    assert state.state in (ArmState.READY, ArmState.FAULT)
    if state.state == ArmState.FAULT:
        assert "violation" in state.reason or "reflex" in state.reason
        lab.recovered()
    assert lab.pose().position[0] < 0.9
