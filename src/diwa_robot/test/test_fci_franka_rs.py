"""The arm through franka-rs, without ROS: settings, both controllers, and what is refused, on a Panda in software."""

import os
import socket
import time

import numpy as np
import pytest
from fci_lab import Robot, panda

from diwa_conventions.actions import Pose
from diwa_robot.drivers import franka_rs
from diwa_robot.drivers.arm import FciNotActive, NoContact, Reflex, WrongSetting, WrongVersion
from diwa_robot.drivers.fci_settings import FciSettings
from diwa_robot.drivers.franka_rs import FrankaRsArm

pytest.importorskip("franka", reason="the driver's library, franka-rs, is not installed: make setup EXTRA=hardware")
pytest.importorskip("diwa_sim.fci", reason="the Panda's interface in software is a part of diwa_sim")

ADDRESS = "127.0.8.14"
TIMEOUT_S = 30.0


@pytest.fixture(scope="module")
def robot():
    robot = panda(ADDRESS)
    yield robot
    robot.end()


@pytest.fixture
def arm(robot):
    """Makes an arm with the settings that a test wants."""
    made = []

    def make(**settings) -> FrankaRsArm:
        made.append(FrankaRsArm(FciSettings(robot_ip=ADDRESS, ignore_realtime=True, **settings)))
        return made[-1]

    yield make
    for one in made:
        one.close()


def moves(arm: FrankaRsArm, way_m) -> float:
    """Leads the arm along a way and waits; how far it then is from its end."""
    start = arm.read().pose
    arm.begin()
    for part in np.linspace(0.0, 1.0, 60):
        arm.command(Pose(start.position + part * np.array(way_m), start.rotation))
        time.sleep(1.0 / 120.0)  # the pace of targets, not a wait for something
    end = Pose(start.position + np.array(way_m), start.rotation)
    deadline = time.monotonic() + TIMEOUT_S
    while (left_m := arm.read().pose.distance_m(end)) > 0.003 and time.monotonic() < deadline:
        pass
    arm.end()
    return left_m


@pytest.mark.parametrize("controller", ["impedance", "robot"])
def test_both_controllers_reach_the_command_and_end_at_rest(arm, controller):
    one = arm(controller=controller)
    one.connect()
    assert moves(one, (0.03, 0.02, -0.02)) <= 0.003
    assert not one.following
    assert np.abs(one.read().speeds_rad_s).max() < 0.02


def test_robot_of_another_type_is_refused_by_name(arm):
    with pytest.raises(WrongVersion, match="is a panda .FCI version 5, Panda system 4.2.; robot_type is fr3"):
        arm(robot_type="fr3").connect()


def test_second_client_is_told_that_another_program_holds_the_robot(arm):
    arm().connect()
    with pytest.raises(NoContact, match="does another program hold the robot"):
        arm().connect()


def test_load_reaches_the_robot(arm):
    pytest.importorskip("panda_py", reason="libfranka for the Panda, panda-python, is not installed")
    one = arm(load_mass_kg=0.3, load_centre_m=(0.0, 0.0, 0.05))
    one.connect()
    assert one._robot.read_once().m_load == pytest.approx(0.3)


def test_load_that_the_robot_forgets_is_an_error(arm, monkeypatch):
    monkeypatch.setattr(franka_rs, "set_load", lambda settings, version: None)
    with pytest.raises(WrongSetting, match="load_mass_kg is 0.5"):
        arm(load_mass_kg=0.5).connect()


def test_address_where_nobody_answers_names_it_and_desk(arm):
    nobody = FrankaRsArm(FciSettings(robot_ip="127.0.8.99", ignore_realtime=True))
    with pytest.raises(FciNotActive, match=r"127\.0\.8\.99 refuses the connection: activate FCI in Desk"):
        nobody.connect()
    nameless = FrankaRsArm(FciSettings(robot_ip="no.such.robot.invalid", ignore_realtime=True))
    with pytest.raises(NoContact, match=r"no contact with the robot at no\.such\.robot\.invalid.*check robot_ip"):
        nameless.connect()


def test_address_that_takes_the_connection_and_says_nothing_is_given_up(arm):
    with socket.create_server(("127.0.8.15", 1337)):
        silent = FrankaRsArm(FciSettings(robot_ip="127.0.8.15", ignore_realtime=True, connect_timeout_s=1.0))
        with pytest.raises(NoContact, match="has said nothing for 1 s; does another program hold the robot"):
            silent.connect()


def test_reflex_carries_its_names(arm, robot: Robot):
    one = arm()
    one.connect()
    one.begin()
    robot.order("reflex joint_reflex")
    deadline = time.monotonic() + TIMEOUT_S
    with pytest.raises(Reflex) as caught:
        while time.monotonic() < deadline:
            one.read()
    assert caught.value.names == ("joint_reflex",)
    one.recover()


def test_arm_presses_with_no_more_than_stiffness_times_leash(arm, robot: Robot):
    """40 N by default: it stands against a hand that pushes with 30 N, and gives way to one with 55 N."""
    one = arm()
    one.connect()
    start = one.read().pose
    settings = FciSettings()
    leash_m, held_m = settings.leash_m, 30.0 / settings.stiffness[1]

    def pushed(force_n: float, enough) -> float:
        """How far away it is once that is enough, or after some seconds."""
        robot.order(f"push 0 {force_n} 0")
        deadline = time.monotonic() + 5.0
        while time.monotonic() < deadline:
            one.command(start)
            if enough(away_m := one.read().pose.distance_m(start)):
                break
            time.sleep(1.0 / 120.0)  # the pace of targets
        return away_m

    try:
        one.begin()
        assert 0.7 * held_m < pushed(30.0, lambda away_m: False) < 1.2 * held_m
        assert pushed(55.0, lambda away_m: away_m > 1.5 * leash_m) > 1.5 * leash_m
        assert one.read().mode == "move"
    finally:
        robot.order("push 0 0 0")
    assert pushed(0.0, lambda away_m: away_m < 0.002) < 0.002
    one.end()


def test_no_motion_begins_without_the_thresholds_of_the_settings(arm, robot: Robot):
    """A robot that is stopped when the driver finds it takes no settings."""
    wanted = [55.0, 55.0, 55.0, 35.0, 35.0, 35.0]
    one = arm(force_thresholds=tuple(wanted))
    robot.order("user_stop on")
    try:
        one.connect()
        assert robot.order("status")["force_thresholds"] != wanted
    finally:
        robot.order("user_stop off")
    one.begin()
    assert robot.order("status")["force_thresholds"] == wanted
    one.end()


def test_connecting_leaves_this_thread_its_priority(arm):
    """The library gives the thread that connects the highest real-time priority."""
    before = os.sched_getscheduler(0)
    arm().connect()
    assert os.sched_getscheduler(0) == before


def test_kernel_without_real_time_is_a_warning(robot, monkeypatch):
    monkeypatch.setattr(franka_rs, "realtime_kernel", lambda: False)
    one = FrankaRsArm(FciSettings(robot_ip=ADDRESS))
    one.connect()
    assert any(text.startswith("this kernel is not a real-time kernel") for text in one.warnings())
    one.close()
