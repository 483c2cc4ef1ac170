"""What docker/ names exists: paths, targets, verbs, arguments, lists, versions and packages.

There is no container engine where this runs; what of the images was built is told in docs/docker.md.
"""

import fnmatch
import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from diwa_bringup.graphs import GRAPHS
from diwa_bringup.main import VERBS
from diwa_bringup.robot_pc import MEMLOCK_BYTES, RTPRIO, VENDORS

WORKSPACE = Path(__file__).parents[3]
DOCKER = WORKSPACE / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
COMPOSE_FILES = sorted(DOCKER.glob("compose.*.yaml"))
SCRIPTS = sorted(DOCKER.rglob("*.sh"))
IN_IMAGE = "/diwa"
"""Where every image has the workspace."""


def name(path: Path) -> str:
    return path.name


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """``("RUN", "make setup ...")`` and so on; comments and continued lines are taken care of."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word.upper(), rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def of_kind(dockerfile: Path, kind: str) -> list[str]:
    return [rest for word, rest in instructions(dockerfile) if word == kind]


def copied(dockerfile: Path) -> list[str]:
    """What COPY takes from the workspace."""
    words = [rest.split() for rest in of_kind(dockerfile, "COPY")]
    return [source for *sources, _ in words for source in sources]


def services(compose: Path) -> dict[str, dict]:
    """Of a compose file, merged and with the defaults of its variables."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", compose.read_text())
    found = yaml.safe_load(text)["services"]
    assert found
    return found


def all_services() -> list[tuple[Path, str, dict]]:
    return [(path, key, service) for path in COMPOSE_FILES for key, service in services(path).items()]


def ignored(dockerfile: Path) -> list[str]:
    return Path(f"{dockerfile}.dockerignore").read_text().split()


# Dockerfiles


def test_there_is_an_image_for_each_machine():
    assert {path.name.removesuffix(".Dockerfile") for path in DOCKERFILES} == {"wheels", "system", "panda", "fr3"}
    stages = [rest.split(" AS ")[1] for rest in of_kind(DOCKER / "wheels.Dockerfile", "FROM")]
    assert stages == ["system", "gpu", "cpu"], "what is built without --target comes last"


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=name)
def test_what_is_copied_exists_and_is_not_hidden(dockerfile: Path):
    sources = copied(dockerfile)
    assert "." in sources and all((WORKSPACE / source).exists() for source in sources)
    needed = ["Makefile", "env.sh", "colcon.meta", "requirements/python.txt", "scripts/setup.sh", "src/diwa_msgs"]
    for path in [*needed, *(source for source in sources if source != ".")]:
        hidden = [rule for rule in ignored(dockerfile) if fnmatch.fnmatch(path, rule) or path.startswith(f"{rule}/")]
        assert not hidden, f"{path} is hidden by {hidden}"


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=name)
def test_what_is_made_or_fetched_here_stays_out_of_the_images(dockerfile: Path):
    assert {".git", ".venv", "build", "install", "log", "runs", "docker/lab", "docker/lab.env"} <= set(
        ignored(dockerfile)
    )


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=name)
def test_targets_and_extras_of_make_exist(dockerfile: Path):
    targets = set(re.findall(r"^([a-z]+):", (WORKSPACE / "Makefile").read_text(), re.MULTILINE))
    used = re.findall(r"\bmake (\w+)(?: EXTRA=(\"[^\"]+\"|\w+))?", " ".join(of_kind(dockerfile, "RUN")))
    used += [(words[1], "") for words in map(json.loads, of_kind(dockerfile, "CMD")) if words[0] == "make"]
    assert used and {target for target, _ in used} <= targets
    for extra in " ".join(extras for _, extras in used).replace('"', "").split():
        assert (WORKSPACE / "requirements" / f"{extra}.txt").is_file(), extra


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=name)
def test_system_packages_come_from_the_list_that_the_doctor_reads(dockerfile: Path):
    lists = {line.partition(":")[0] for line in (WORKSPACE / "requirements" / "apt.txt").read_text().splitlines()}
    (features,) = re.findall(r"\^\\\(([^)]*)\\\): //p' requirements/apt.txt", " ".join(of_kind(dockerfile, "RUN")))
    assert set(features.split("\\|")) <= lists


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=name)
def test_python_of_the_list_is_that_of_the_image(dockerfile: Path):
    """Debian 12 has 3.11, which the list names; the others name their own."""
    runs, base = " ".join(of_kind(dockerfile, "RUN")), of_kind(dockerfile, "FROM")[0]
    assert base.startswith("debian:12-slim") != ("s/python3\\.11/python3/g" in runs)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=name)
def test_every_base_and_download_has_a_version(dockerfile: Path):
    stages = {rest.split(" AS ")[1] for rest in of_kind(dockerfile, "FROM") if " AS " in rest}
    for rest in of_kind(dockerfile, "FROM"):
        base = rest.split()[0]
        assert base in stages or (":" in base and not base.endswith(":latest")), base
    clones = re.findall(r"git clone ([^&]*)", " ".join(of_kind(dockerfile, "RUN")))
    assert all("--branch" in clone for clone in clones)


@pytest.mark.parametrize("robot", ["panda", "fr3"])
def test_external_packages_are_pinned_and_built_by_name(robot: str):
    pinned = yaml.safe_load((DOCKER / "franka" / f"{robot}.repos").read_text())["repositories"]
    assert "crisp_controllers" in pinned
    for repository in pinned.values():
        assert re.fullmatch(r"v?\d+\.\d+\.\d+|[0-9a-f]{40}", str(repository["version"])), repository
    runs = " ".join(of_kind(DOCKER / f"{robot}.Dockerfile", "RUN"))
    (built,) = re.findall(rf"\./build\.sh {robot}\.repos ([^&]*)", runs)
    assert "crisp_controllers" in built.split() and "franka_bringup" in built.split()


def test_the_pandas_libfranka_is_the_last_that_speaks_to_it():
    assert "ARG LIBFRANKA=0.9.2" in (DOCKER / "panda.Dockerfile").read_text()


@pytest.mark.parametrize("path", [*DOCKERFILES, *SCRIPTS], ids=name)
def test_dockerfiles_and_scripts_pass_their_linter(path: Path):
    tool = "hadolint" if path.suffix == ".Dockerfile" else "shellcheck"
    linter = WORKSPACE / ".venv" / "bin" / tool
    if not linter.exists():
        pytest.skip(f"{tool} is not installed")
    said = subprocess.run([linter, "--no-color" if tool == "hadolint" else "--color=never", path], capture_output=True)
    assert said.returncode == 0, said.stdout.decode()


@pytest.mark.parametrize("script", SCRIPTS, ids=name)
def test_scripts_can_be_run_and_read(script: Path):
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)


# Compose files


@pytest.mark.parametrize("compose", COMPOSE_FILES, ids=name)
def test_compose_files_keep_to_the_specification(compose: Path):
    specification = pytest.importorskip("compose_spec", reason="compose-spec is not installed")
    whole = {"services": services(compose)}
    assert len(specification.PyCompose.from_json(json.dumps(whole))) == len(whole["services"])


def test_images_of_compose_files_have_a_dockerfile_and_a_stage():
    built = {service["image"] for _, _, service in all_services() if "build" in service}
    for path, key, service in all_services():
        assert service["image"] in built, f"{path.name}: nothing builds {key}'s {service['image']}"
        if "build" in service:
            dockerfile = DOCKER / service["build"]["context"] / service["build"]["dockerfile"]
            assert dockerfile.is_file()
            stages = [rest.partition(" AS ")[2] for rest in of_kind(dockerfile, "FROM")]
            assert service["build"].get("target", stages[-1]) in stages


def example() -> dict[str, str]:
    lines = (DOCKER / "lab.env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


def commands() -> list[tuple[str, list[str]]]:
    """Those of services that run ``diwa``, with the example's settings filled in."""
    found = []
    for path, key, service in all_services():
        text = re.sub(r"\$\$(\w+)", lambda match: example()[match[1]], service["command"])
        words = shlex.split(text)
        if words[:2] == ["bash", "-c"]:
            words = shlex.split(words[2].removeprefix("exec "))
        if words[0] == "diwa":
            found.append((f"{path.name}: {key}", words))
    return found


@pytest.mark.parametrize(("where", "words"), commands(), ids=[where for where, _ in commands()])
def test_commands_are_verbs_and_arguments_that_exist(where: str, words: list[str]):
    assert words[1] in VERBS
    if words[1] == "up":
        assert GRAPHS[words[2]].specs(words[3:]), f"{where} starts nothing"


def test_the_halves_of_a_deployment_share_out_arm_guard_cameras_and_policy():
    started = {where: [spec.name for spec in GRAPHS[w[2]].specs(w[3:])] for where, w in commands() if w[1] == "up"}
    assert started["compose.control.yaml: fci"] == ["fci_driver", "command_guard"]
    for robot in ("panda", "fr3"):
        assert started[f"compose.control.yaml: {robot}-guard"] == ["crisp_driver", "command_guard"]
    cameras = ["static_camera_driver", "gripper_camera_driver"]
    assert started["compose.policy.yaml: deploy"] == [*cameras, "policy"]
    assert set(cameras) < set(started["compose.policy.yaml: record"])
    assert not set(started["compose.policy.yaml: record"]) & {"command_guard", "fci_driver", "crisp_driver"}


def test_mounts_are_of_files_that_exist_or_of_the_lab():
    for _, key, service in all_services():
        for mount in service.get("volumes", []):
            source, target = mount.split(":")[:2]
            if source.startswith("..") or target.startswith(IN_IMAGE):
                assert (DOCKER / source).exists(), f"{key}: {source}"


def test_files_of_the_image_that_commands_name_exist():
    text = " ".join(service["command"] for _, _, service in all_services())
    for path in re.findall(rf"{IN_IMAGE}/(\S+?)(?='|\s|$)", text):
        assert (WORKSPACE / path).exists(), path


def test_the_control_pc_is_real_time_and_on_the_hosts_network():
    for path, key, service in all_services():
        assert service["network_mode"] == service["ipc"] == "host", key
        assert "/etc/machine-id:/etc/machine-id:ro" in service["volumes"], key
        if path.name == "compose.control.yaml" and ("controllers" in key or key == "fci"):
            assert service["cap_add"] == ["SYS_NICE", "IPC_LOCK"] and service["ulimits"]["rtprio"] == RTPRIO
            assert service["ulimits"]["memlock"]["hard"] >= MEMLOCK_BYTES


def test_one_profile_starts_one_driver_of_the_arm():
    assert all(service["profiles"] for _, _, service in all_services())
    control = services(DOCKER / "compose.control.yaml").values()
    for robot in ("fci", "panda", "fr3"):
        mine = [service for service in control if service["profiles"] == [robot]]
        assert sum("machine:=control" in service["command"] for service in mine) == 1


def test_the_example_of_settings_names_what_entry_and_compose_files_read():
    entry = (DOCKER / "entrypoint.sh").read_text()
    read = set(re.findall(r"\$\{?(DIWA_[A-Z]+)", entry))
    read |= {name for _, _, service in all_services() for name in re.findall(r"\$\$(\w+)", service["command"])}
    assert set(example()) == read | {"ROS_DOMAIN_ID"}


# The machine itself


def test_udev_rules_name_every_vendor_that_the_doctor_looks_for():
    rules = (DOCKER / "host" / "70-diwa.rules").read_text()
    lines = [line for line in rules.splitlines() if line and not line.startswith("#")]
    assert {vendor for vendor in VENDORS if f'idVendor}}=="{vendor}"' in rules} == set(VENDORS)
    assert all('TAG+="uaccess"' in line and 'MODE="0660"' in line for line in lines)


def test_install_puts_all_of_it_where_the_system_looks(tmp_path: Path):
    subprocess.run([DOCKER / "host" / "install.sh"], env={**os.environ, "DIWA_HOST_ROOT": str(tmp_path)}, check=True)
    there = {path.name: path for path in tmp_path.rglob("*") if path.is_file()}
    assert there["70-diwa.rules"].parent == tmp_path / "etc/udev/rules.d"
    assert there["99-diwa-realtime.conf"].parent == tmp_path / "etc/security/limits.d"
    assert there["60-diwa-network.conf"].parent == tmp_path / "etc/sysctl.d"
    assert f"rtprio {RTPRIO}" in there["99-diwa-realtime.conf"].read_text()
    assert set(there) == {path.name for path in (DOCKER / "host").iterdir() if path.suffix != ".sh"}


def test_the_entry_prepares_the_network_only_when_it_is_named(tmp_path: Path):
    """The entry's own lines, with a workspace in which ``diwa`` shows how it was called."""
    (tmp_path / "env.sh").write_text('diwa() { echo "echo called with: $*"; }\n')
    entry = (DOCKER / "entrypoint.sh").read_text().replace(IN_IMAGE, str(tmp_path))
    script = tmp_path / "entry.sh"
    script.write_text(entry)

    def said(**settings: str) -> str:
        environment = {**os.environ, "DIWA_INTERFACE": "", "DIWA_PEER": "", **settings}
        return subprocess.run(
            ["bash", script, "true"], env=environment, stdout=subprocess.PIPE, text=True, check=True
        ).stdout

    assert said() == ""
    assert said(DIWA_INTERFACE="enp5s0") == "called with: network enp5s0\n"
    both = said(DIWA_INTERFACE="enp5s0", DIWA_PEER="192.0.2.2")
    assert both == "called with: network enp5s0 --peer 192.0.2.2\n"
