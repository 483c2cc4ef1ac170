"""What diwa doctor looks at beside a real robot: each thing as it should be, and not."""

import fcntl
import os
import resource
from pathlib import Path

import pytest

from diwa_bringup import robot_pc
from diwa_bringup.doctor import CHECKS, Doctor
from diwa_bringup.two_machines import dds_profile

WORKSPACE = Path(__file__).parents[3]
UNLIMITED = resource.RLIM_INFINITY


@pytest.mark.parametrize(("text", "state"), [("1\n", "ok"), ("0\n", "no device"), (None, "no device")])
def test_realtime_kernel_is_told_by_sys(monkeypatch, tmp_path: Path, text: str | None, state: str):
    monkeypatch.setattr(robot_pc, "_REALTIME", tmp_path / "realtime")
    monkeypatch.setattr(robot_pc.os, "uname", lambda: os.uname_result(("Linux", "pc", "6.1", "#1 SMP", "x86_64")))
    if text is not None:
        (tmp_path / "realtime").write_text(text)
    finding = robot_pc.check_realtime_kernel()
    assert finding.state == state and "communication_constraints_violation" in finding.mend


@pytest.mark.parametrize(
    ("priority", "memory", "state"),
    [(99, UNLIMITED, "ok"), (UNLIMITED, 2**30, "ok"), (0, UNLIMITED, "no device"), (99, 8 * 2**20, "no device")],
)
def test_realtime_limits_need_priority_and_memory(monkeypatch, priority: int, memory: int, state: str):
    limits = {resource.RLIMIT_RTPRIO: priority, resource.RLIMIT_MEMLOCK: memory}
    monkeypatch.setattr(robot_pc.resource, "getrlimit", lambda which: (limits[which], limits[which]))
    assert robot_pc.check_realtime_limits().state == state


def test_udev_rules_of_the_workspace_are_enough(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(robot_pc, "_RULES", (tmp_path / "absent", tmp_path))
    bare = robot_pc.check_udev()
    assert bare.state == "no device" and all(name in bare.detail for name in robot_pc.VENDORS.values())
    (tmp_path / "70-diwa.rules").write_text((WORKSPACE / "docker" / "host" / "70-diwa.rules").read_text())
    assert robot_pc.check_udev().state == "ok"


def test_a_rule_that_gives_no_access_does_not_count(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(robot_pc, "_RULES", (tmp_path,))
    (tmp_path / "60-other.rules").write_text('ATTRS{idVendor}=="8086", ENV{ID_MODEL}="something"\n')
    assert "RealSense" in robot_pc.check_udev().detail


def with_list(folder: Path, text: str) -> Path:
    (folder / "requirements").mkdir()
    (folder / "requirements" / "hardware.txt").write_text(text)
    return folder


def test_vendor_packages_are_held_to_their_pins(monkeypatch, tmp_path: Path):
    lines = ["# vendors", "openvr==2.12.1401", 'pyk4a-bundle==1.5.0 ; python_version >= "3.10"']
    folder = with_list(tmp_path, "\n".join([*lines, 'of-the-future==9.9 ; python_version >= "3.99"']))
    have = {"openvr": "2.12.1401", "pyk4a-bundle": "1.5.0"}
    monkeypatch.setattr(robot_pc, "_version", lambda package: have.get(package, ""))
    assert (
        robot_pc.check_vendor_packages([tmp_path / "elsewhere", folder]).detail == "all 2 of requirements/hardware.txt"
    )
    have["openvr"] = "1.0"
    assert robot_pc.check_vendor_packages([folder]).detail == "openvr 1.0, expected 2.12.1401"
    del have["openvr"]
    finding = robot_pc.check_vendor_packages([folder])
    assert finding.detail == "not there: openvr" and finding.mend == "make setup EXTRA=hardware"


def test_without_the_list_of_vendor_packages_it_says_so(tmp_path: Path):
    assert robot_pc.check_vendor_packages([tmp_path]).detail == "requirements/hardware.txt is not found"


def segment(folder: Path, number: int) -> Path:
    data = folder / f"fastdds_{number:016x}"
    data.write_bytes(bytes(2**20))
    lock = folder / f"{data.name}_el"
    lock.touch()
    return lock


def test_segments_of_killed_processes_are_counted(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(robot_pc, "_SHARED_MEMORY", tmp_path)
    (tmp_path / "fastdds_port7400_el").touch()
    with segment(tmp_path, 1).open() as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        assert robot_pc.check_shared_memory().detail == "1 segments in use, none left behind"
        segment(tmp_path, 2), segment(tmp_path, 3)
        finding = robot_pc.check_shared_memory()
    assert finding.state == "broken" and finding.detail.startswith("2 of 3 segments left behind")
    assert "2 MiB" in finding.detail and f"rm -f {tmp_path}/fastdds_*" in finding.mend


CHRONY = """Reference ID    : C0A80A01 (192.168.10.1)
System time     : {offset} seconds slow of NTP time
Leap status     : {leap}
"""


@pytest.mark.parametrize(
    ("offset", "leap", "state"),
    [("0.000041", "Normal", "ok"), ("0.250000", "Normal", "broken"), ("0.000000", "Not synchronised", "broken")],
)
def test_chrony_tells_how_far_the_clock_is_off(monkeypatch, offset: str, leap: str, state: str):
    monkeypatch.setattr(robot_pc.shutil, "which", lambda tool: f"/usr/bin/{tool}")
    monkeypatch.setattr(robot_pc, "_said", lambda *command: CHRONY.format(offset=offset, leap=leap))
    finding = robot_pc.check_clock()
    assert finding.state == state and f"{1e3 * float(offset):.3f} ms slow, {leap}" in finding.detail


@pytest.mark.parametrize(("answer", "state"), [("yes\n", "ok"), ("no\n", "broken"), ("", "no library")])
def test_systemd_tells_whether_the_clock_is_kept(monkeypatch, answer: str, state: str):
    monkeypatch.setattr(robot_pc.shutil, "which", lambda tool: None if tool == "chronyc" else f"/usr/bin/{tool}")
    monkeypatch.setattr(robot_pc, "_said", lambda *command: answer)
    finding = robot_pc.check_clock()
    assert finding.state == state and "chrony" in finding.mend


def test_a_program_that_is_absent_or_fails_says_nothing():
    assert robot_pc._said("no-such-program-anywhere") == "" == robot_pc._said("false")


@pytest.fixture
def two_interfaces(monkeypatch):
    """A control PC's, without any setting."""
    for name in (*robot_pc._PROFILE_VARIABLES, "ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_LOCALHOST_ONLY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(robot_pc, "addresses", lambda: {"enp5s0": "192.168.10.1", "enp6s0": "172.16.0.1"})
    monkeypatch.setattr(robot_pc, "carries", lambda interface: True)


def test_ros_on_the_robots_cable_too_is_warned_of(monkeypatch, two_interfaces):
    finding = robot_pc.check_network()
    assert finding.state == "broken" and "enp5s0 (192.168.10.1), enp6s0 (172.16.0.1)" in finding.detail
    assert "diwa network" in finding.mend
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    assert robot_pc.check_network().detail == "this machine alone"


@pytest.mark.parametrize(
    ("address", "state", "words"),
    [("192.168.10.1", "ok", "enp5s0 (192.168.10.1) alone"), ("192.168.99.9", "broken", "no address of this machine")],
)
def test_a_profile_is_held_to_the_addresses_of_this_machine(
    monkeypatch, tmp_path: Path, two_interfaces, address: str, state: str, words: str
):
    path = tmp_path / "dds.xml"
    monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", str(path))
    assert robot_pc.check_network().detail == f"{path} is not there"
    path.write_text(dds_profile(address))
    finding = robot_pc.check_network()
    assert finding.state == state and words in finding.detail


def test_an_interface_without_a_cable_is_told(monkeypatch, tmp_path: Path, two_interfaces):
    monkeypatch.setattr(robot_pc, "carries", lambda interface: False)
    path = tmp_path / "dds.xml"
    path.write_text(dds_profile("192.168.10.1"))
    monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", str(path))
    finding = robot_pc.check_network()
    assert (finding.state, finding.detail) == ("broken", "enp5s0 carries nothing") and "start the nodes" in finding.mend


def test_none_of_it_makes_the_doctor_fail(monkeypatch, capsys):
    names = ("USB rules", "real-time kernel", "real-time limits", "clock", "network of ROS 2", "Fast DDS memory")
    monkeypatch.setattr("diwa_bringup.doctor.CHECKS", {name: CHECKS[name] for name in (*names, "vendor packages")})
    assert Doctor().run() == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in names)
