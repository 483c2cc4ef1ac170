"""No process that dies may hold up what stands between an action and the arm: its nodes share no memory with others."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import rclpy
from guard_lab import TIMEOUT_S, end

NODES = {
    "command_guard": (),
    "fci_driver": (),
    "crisp_driver": ("-p", "robot_state:=false", "-p", "recovery:=false", "-p", "gripper:=none"),
}
"""With what each needs to start where no robot's packages are."""

FIRST_PORT, PORTS_PER_DOMAIN = 7400, 250
"""Of RTPS: a domain's first port is that of multicast."""


@pytest.fixture(scope="module")
def observer():
    """A node as others are, with Fast DDS's own transports."""
    rclpy.init()
    node = rclpy.create_node("observer", namespace="/diwa")
    yield node
    node.destroy_node()
    rclpy.shutdown()


def queues_in_memory(process: int | str) -> list[str]:
    lines = Path(f"/proc/{process}/maps").read_text().splitlines()
    return [line for line in lines if "/dev/shm/fastdds" in line]


def udp_ports(process: int) -> set[int]:
    """On which it listens."""
    own = {os.readlink(link) for link in Path(f"/proc/{process}/fd").iterdir()}
    sockets = [line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:]]
    return {int(words[1].partition(":")[2], 16) for words in sockets if f"socket:[{words[9]}]" in own}


def test_other_processes_have_such_queues(observer):
    assert queues_in_memory("self")


@pytest.mark.parametrize("name", NODES)
def test_node_is_found_by_others_and_shares_no_memory(observer, name):
    if name == "fci_driver":
        pytest.importorskip("franka", reason="franka-rs is not installed: make setup EXTRA=hardware")
    words = [sys.executable, "-m", f"diwa_robot.nodes.{name}", "--ros-args", "-r", "__ns:=/diwa"]
    process = subprocess.Popen(
        [*words, *NODES[name], "-p", "autostart:=false"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        deadline_s = time.monotonic() + TIMEOUT_S
        while name not in observer.get_node_names():
            assert process.poll() is None and time.monotonic() < deadline_s, f"{name} is not found"
            rclpy.spin_once(observer, timeout_sec=0.05)
        assert queues_in_memory(process.pid) == []
        # Told to stay on this machine it does, though not by the means of the middleware: no multicast reaches it.
        ports = udp_ports(process.pid)
        assert ports and FIRST_PORT + PORTS_PER_DOMAIN * int(os.environ["ROS_DOMAIN_ID"]) not in ports
    finally:
        end(process)
