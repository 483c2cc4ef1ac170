"""Which transports a process that moves the arm uses, by what the shell says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from diwa_conventions.discovery import (
    claim_domain,
    profile_variable,
    share_no_memory,
    stay_on_this_machine,
    without_memory,
)

NAMES = (
    "RMW_IMPLEMENTATION",
    "ROS_LOCALHOST_ONLY",
    "ROS_AUTOMATIC_DISCOVERY_RANGE",
    "FASTDDS_BUILTIN_TRANSPORTS",
    "FASTDDS_DEFAULT_PROFILES_FILE",
    "FASTRTPS_DEFAULT_PROFILES_FILE",
)


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch):
    """A shell with these variables and none of the others; what it says after the call."""

    def run(**variables: str) -> dict[str, str]:
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("ROS_DISTRO", variables.pop("ROS_DISTRO", "kilted"))
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        share_no_memory()
        return {name: os.environ[name] for name in NAMES if name in os.environ}

    # What the call itself sets is undone too.
    for name in NAMES:
        monkeypatch.setenv(name, "")
    return run


def test_on_a_network_it_speaks_udp_there(shell):
    (said,) = shell().items()
    assert said[0] == "FASTDDS_DEFAULT_PROFILES_FILE" and Path(said[1]).name == "udp.xml" and Path(said[1]).is_file()


@pytest.mark.parametrize(
    "local", [{"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}, {"ROS_LOCALHOST_ONLY": "1", "ROS_DISTRO": "humble"}]
)
def test_what_stays_on_this_machine_stays_there_by_the_profile(shell, local):
    said = shell(**local)
    name = profile_variable(local.get("ROS_DISTRO", "kilted"))
    profile = Path(said.pop(name))
    assert profile.name == "udp_this_machine.xml" and profile.is_file()
    assert said == {"ROS_AUTOMATIC_DISCOVERY_RANGE": "SYSTEM_DEFAULT"}


def test_tests_stay_on_this_machine(shell):
    shell()
    stay_on_this_machine()
    os.environ.pop("FASTDDS_DEFAULT_PROFILES_FILE")
    share_no_memory()
    assert os.environ["FASTDDS_DEFAULT_PROFILES_FILE"].endswith("udp_this_machine.xml")


@pytest.mark.parametrize(
    "chosen",
    [
        {"FASTDDS_BUILTIN_TRANSPORTS": "LARGE_DATA"},
        {"FASTDDS_DEFAULT_PROFILES_FILE": "/of/the/lab.xml"},
        {"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp", "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"},
    ],
)
def test_what_a_lab_has_chosen_is_kept(shell, chosen):
    assert shell(**chosen) == chosen


@pytest.mark.parametrize("distribution", ["humble", "kilted"])
def test_a_profile_with_a_twin_gives_way_to_it(shell, tmp_path: Path, distribution):
    name, profile = profile_variable(distribution), tmp_path / "dds_enp5s0.xml"
    without_memory(profile).write_text("<dds/>")
    assert shell(ROS_DISTRO=distribution, **{name: str(profile)}) == {name: str(tmp_path / "dds_enp5s0_udp.xml")}


def test_a_domain_is_claimed_once_until_its_process_ends():
    code = "from diwa_conventions.discovery import claim_domain; print(claim_domain(), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        theirs = int(other.stdout.readline())
        ours = {claim_domain() for _ in range(10)}
        assert len(ours) == 10 and ours <= set(range(1, 101)) and theirs not in ours
