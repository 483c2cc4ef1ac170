"""Control PC and policy PC: settings of the network between them, and a cable that is pulled in the middle of a run."""

import json
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from two_machines_lab import LINK, ROBOT_CABLE, Machine, Watch, cut, mend, two_machines, why_not

from diwa_bringup.machines import on_machine
from diwa_bringup.robot_graphs import DEPLOY, RECORD
from diwa_bringup.two_machines import (
    Network,
    address_of,
    addresses,
    dds_profile,
    environment,
)
from diwa_conventions import topics
from diwa_conventions.bags.definitions import full_name
from diwa_conventions.discovery import without_memory
from diwa_conventions.errors import UserError
from diwa_worldmodel.artefact import LoadedWorldModel, load_world_model, save_world_model

sys.path.append(str(Path(__file__).parents[2] / "diwa_policy" / "test"))
from policy_samples import saved_policy, small_world_model

TASK = "open-drawer"
CUT_S = 2.0
STANDS_S = 0.5
"""Within which the guard has braked and the arm has come to its target, on a busy machine too."""
IMAGE_SIZE = 64
PATIENT = ["state_timeout_s:=1.0", "max_state_age_s:=2.0", "camera_timeout_s:=5.0", "max_tick_gap_s:=2.0"]
"""A machine that is busy with other things must not end a run before the cable is pulled."""


# Settings


def allowed_addresses(profile: str) -> list[set[str]]:
    """Of each transport that reaches beyond the machine."""
    space = "{http://www.eprosima.com}"
    transports = ElementTree.fromstring(profile).iter(f"{space}transport_descriptor")
    outside = [one for one in transports if one.findtext(f"{space}type") != "SHM"]
    return [{str(address.text) for address in one.iter(f"{space}address")} for one in outside]


def test_the_profile_lets_no_transport_out_of_the_interface():
    allowed = allowed_addresses(dds_profile("192.0.2.7"))
    assert allowed and all(one == {"192.0.2.7", "127.0.0.1"} for one in allowed)


def transports(profile: str) -> set[str]:
    space = "{http://www.eprosima.com}"
    root = ElementTree.fromstring(profile)
    kinds = {
        one.findtext(f"{space}transport_id"): one.findtext(f"{space}type")
        for one in root.iter(f"{space}transport_descriptor")
    }
    return {str(kinds[one.text]) for one in root.iter(f"{space}transport_id") if one.text in kinds}


def test_the_twin_of_the_profile_has_no_shared_memory_and_is_else_the_same():
    profile, twin = dds_profile("192.0.2.7"), dds_profile("192.0.2.7", memory=False)
    assert transports(profile) == {"SHM", "UDPv4"} and transports(twin) == {"UDPv4"}
    assert allowed_addresses(profile) == allowed_addresses(twin)
    assert set(twin.splitlines()) < set(profile.splitlines())


def test_each_release_gets_the_variables_that_it_knows(tmp_path: Path):
    path, peers = tmp_path / "dds.xml", ["192.0.2.2"]
    newest, jazzy, humble = (environment(path, peers, name) for name in ("kilted", "jazzy", "humble"))
    assert newest["FASTDDS_DEFAULT_PROFILES_FILE"] == jazzy["FASTRTPS_DEFAULT_PROFILES_FILE"] == str(path)
    assert newest["ROS_STATIC_PEERS"] == "192.0.2.2" and newest["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "SUBNET"
    assert "ROS_STATIC_PEERS" not in humble and "192.0.2.2" in dds_profile("192.0.2.1", peers, distribution="humble")
    assert "192.0.2.2" not in dds_profile("192.0.2.1", peers, distribution="kilted")


def test_what_is_no_address_and_no_interface_is_refused_with_what_there_is():
    with pytest.raises(UserError, match=r"--peer is 'policy-pc'; expected the other machine's IPv4 address"):
        dds_profile("192.0.2.1", ["policy-pc"])
    with pytest.raises(UserError, match="unknown network interface with an IPv4 address: 'enp99s0'"):
        address_of("enp99s0")


def test_the_verb_prints_lines_for_the_shell(tmp_path: Path, capsys, monkeypatch):
    if not addresses():
        pytest.skip("this machine has no network interface but the loopback")
    monkeypatch.setenv("ROS_DISTRO", "kilted")
    name, address = next(iter(addresses().items()))
    assert Network(name, out=tmp_path).run() == 0
    script = capsys.readouterr().out + 'echo "$ROS_AUTOMATIC_DISCOVERY_RANGE $FASTDDS_DEFAULT_PROFILES_FILE"'
    said = subprocess.run(["bash", "-euc", script], stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    assert said[0] == "SUBNET"
    for file in (Path(said[1]), without_memory(Path(said[1]))):
        assert f"<address>{address}</address>" in file.read_text()


# Which node runs where


def test_arm_and_guard_run_on_the_control_pc_and_the_rest_on_the_other():
    deployed = DEPLOY.specs(["policy:=p", "world_model:=w", "bag:=b"])
    assert [spec.name for spec in on_machine(deployed, "control")] == ["playroom", "command_guard"]
    assert [spec.name for spec in on_machine(deployed, "policy")] == ["policy", "recorder"]


def test_two_machines_together_run_what_one_does():
    recorded = RECORD.specs([])
    halves = [spec.name for name in ("control", "policy") for spec in on_machine(recorded, name)]
    assert sorted(halves) == sorted(spec.name for spec in on_machine(recorded, "both"))
    with pytest.raises(UserError, match="unknown machine: 'robot'"):
        on_machine(recorded, "robot")


# The cable


@pytest.fixture(scope="module")
def machines():
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with two_machines() as pair:
        yield pair


def patient_world_model(folder: Path) -> LoadedWorldModel:
    """Untrained, and content with images that a busy machine delivers apart from each other."""
    made = small_world_model(folder)
    data_set = replace(made.metadata.data_set, skew_limit_s=0.2, state_limit_s=0.2, step_tolerance_s=0.066)
    save_world_model(folder, made.model, made.config, replace(made.metadata, data_set=data_set))
    return load_world_model(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("models")
    world_model = patient_world_model(folder / "world_model")
    policy = saved_policy(folder / "policy", world_model.hash, skill=TASK)
    return [f"policy:={policy.folder}", f"world_model:={world_model.folder}", "stale_s:=1.0", "inference:=torch"]


class Room:
    """Arm, cameras and command guard on the control PC, the policy on the other."""

    def __init__(self, control: Machine, policy: Machine, models: list[str]) -> None:
        self.control, self.policy = control, policy
        control.start("diwa_sim.nodes.playroom", f"image_size:={IMAGE_SIZE}")
        control.start("diwa_robot.nodes.command_guard", *PATIENT)
        policy.start("diwa_policy.nodes.policy", *models)
        self.at_arm, self.at_policy = Watch(control, "guard"), Watch(policy, "policy", "images")
        self.at_arm.until(lambda said: said["guard"] == "DISARMED" and said["arm"], "the guard and the arm")
        self.at_policy.until(lambda said: said.get("policy") == "READY", "the policy")

    def ask_for_skill(self) -> "subprocess.Popen[str]":
        goal = json.dumps({"skill": TASK, "time_limit_s": 15.0, "seed": 1})
        words = ["-m", "diwa_bringup.nodes.skill_caller", full_name(topics.RUN_SKILL_ACTION, topics.NAMESPACE), goal]
        return self.policy.python(*words, stdout=subprocess.PIPE, text=True)

    def begin(self) -> "subprocess.Popen[str]":
        """A run under way, two steps old; an untrained policy moves the arm about. A busy machine may end one early."""
        for _ in range(5):
            asked_s, caller = time.monotonic(), self.ask_for_skill()
            said = self.at_policy.until(
                lambda one, caller=caller: self.under_way(one) or caller.poll() is not None, "a run", asked_s
            )
            if self.under_way(said):
                return caller
        raise AssertionError(f"no run gets under way: {said}")

    @staticmethod
    def under_way(said: dict) -> bool:
        return said.get("policy") == "RUNNING" and said["step"] >= 2


def test_a_machine_without_a_cable_is_told_to_plug_it_in(machines: tuple[Machine, Machine], tmp_path: Path):
    """Fast DDS looks once for interfaces: a node that is started without a cable would stay deaf."""
    control, policy = machines
    cut(policy)
    control.wait_for_carrier(False)
    with pytest.raises(subprocess.CalledProcessError):
        control.use_network(tmp_path)
    mend(policy)
    control.wait_for_carrier(True)
    control.use_network(tmp_path)


@pytest.fixture(scope="module")
def room(machines: tuple[Machine, Machine], models: list[str]) -> Room:
    return Room(*machines, models)


def moved_m(said: list[dict], key: str) -> float:
    """How far the farthest two of these positions are apart, along an axis."""
    return float(np.ptp([one[key] for one in said], axis=0).max())


def test_a_cable_that_is_pulled_for_two_seconds_holds_the_arm_until_it_is_armed_again(room: Room):
    caller = room.begin()
    moving = room.at_arm.until(lambda said: said["source"] == "policy", "the guard's obedience")
    received, _ = room.policy.carried()

    cut_s = time.monotonic()
    cut(room.policy)
    held = room.at_arm.until(lambda said: said["guard"] == "HOLDING", "the hold", cut_s)
    assert "policy" in held["reason"] and "silent" in held["reason"]
    room.at_arm.until(lambda said: True, "the end of the cut", cut_s + CUT_S)
    stood = room.at_arm.since(held["t"] + STANDS_S, "guard")
    assert len(stood) > 10 and {said["guard"] for said in stood} == {"HOLDING"}
    assert moved_m(stood, "target") < 1e-6 and moved_m(stood, "arm") < 1e-3

    result = json.loads(caller.communicate(timeout=60)[0])
    assert result["success"] is False
    assert result["reason"] == "the command guard is silent" or result["reason"].startswith("no frame for")
    assert not room.at_policy.since(cut_s + STANDS_S, "image_age_s"), "images found another way"

    mended_s = time.monotonic()
    mend(room.policy)
    room.at_policy.until(lambda said: "image_age_s" in said, "images again", mended_s)
    room.at_arm.until(lambda said: said["guard"] == "DISARMED", "what the policy asked for in the cut", mended_s)
    room.policy.wait_for_carrier(True)
    asked_s = time.monotonic()
    again = room.begin()
    obeyed = room.at_arm.until(
        lambda said: said["guard"] == "ARMED" and moved_m([said, stood[-1]], "target") > 1e-3, "motion", asked_s
    )
    waited = [said for said in room.at_arm.since(mended_s, "guard") if said["t"] < asked_s]
    assert moved_m([stood[-1], *waited], "target") < 1e-6, "late actions moved the arm"
    assert obeyed["source"] == moving["source"] == "policy"
    again.terminate()
    assert json.loads(again.communicate(timeout=60)[0])["reason"] == "cancelled"
    assert room.policy.carried()[0] - received > 20 * IMAGE_SIZE**2 * 3, "images did not come over the link"


def test_the_robots_cable_carries_none_of_it(room: Room):
    room.at_policy.until(lambda said: "image_age_s" in said, "images")
    over_link, over_robots = (sum(room.control.carried(interface)) for interface in (LINK, ROBOT_CABLE))
    assert over_link > 1_000_000
    assert over_robots < 5_000, "DDS announces itself where the arm's 1 kHz loop lives"
