import os
import stat
import sys
from pathlib import Path

import pytest
import yaml

from diwa_bringup import start as start_module
from diwa_bringup.graph import NodeSpec
from diwa_bringup.start import executable, idle_patterns, node_command, start
from diwa_conventions.errors import UserError

SHOW_PARAMETERS = f"""#!{sys.executable}
import pathlib, sys
path = pathlib.Path(sys.argv[sys.argv.index("--params-file") + 1])
pathlib.Path(__file__).with_name("seen").write_text(str(path) + "\\n" + path.read_text())
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands in for every node: copies what it is given."""
    path = tmp_path / "program"
    path.write_text(SHOW_PARAMETERS)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(start_module, "executable", lambda spec: path)
    return path


def test_command_line_has_name_namespace_remappings_and_parameters(program: Path, tmp_path: Path):
    parameters = {"rate": 30.0, "path": "007", "on": True, "size": 3}
    spec = NodeSpec("p", "e", "camera", "/diwa", parameters, (("image", "static/image"),), on_exit="ignore")
    command = node_command(spec, tmp_path)
    assert (command.name, command.on_exit) == ("camera", "ignore")
    *words, path = command.words
    expected = f"{program} --ros-args -r __node:=camera -r __ns:=/diwa -r image:=static/image --params-file"
    assert words == expected.split()
    written = yaml.safe_load(Path(path).read_text())["/diwa/camera"]["ros__parameters"]
    assert written == parameters
    assert {name: type(value) for name, value in written.items()} == {n: type(v) for n, v in parameters.items()}


def test_parameter_files_are_gone_after_the_run(program: Path):
    assert start([NodeSpec("p", "e", "camera", "/diwa", {"seed": 5})]) == 0
    path, *content = program.with_name("seen").read_text().splitlines()
    assert "seed: 5" in "\n".join(content)
    assert not os.path.exists(path) and not os.path.exists(os.path.dirname(path))


def test_package_that_is_not_built_is_one_line_with_the_command_that_mends_it():
    with pytest.raises(UserError, match=r"node 'n' needs package 'diwa_none', which is not built.*make setup"):
        executable(NodeSpec("diwa_none", "e", "n", "/diwa"))


def test_executable_that_is_not_built_is_one_line_with_its_path():
    with pytest.raises(UserError, match=r"'n' needs .*/lib/diwa_bringup/none, which is not built; run: make setup"):
        executable(NodeSpec("diwa_bringup", "none", "n", "/diwa"))


def test_built_executable_is_found():
    assert executable(NodeSpec("diwa_bringup", "film_recorder", "n", "/diwa")).name == "film_recorder"


def test_parameter_files_come_after_the_parameters_of_the_graph(program: Path, tmp_path: Path):
    lab = tmp_path / "lab.yaml"
    lab.write_text("/**: {ros__parameters: {rate: 100.0}}")
    spec = NodeSpec("p", "e", "camera", "/diwa", {"rate": 30.0}, parameter_files=(str(lab),))
    words = node_command(spec, tmp_path).words
    assert words[-2:] == ("--params-file", str(lab)) and words.count("--params-file") == 2


@pytest.mark.parametrize("content", [None, "a: [", "- a", "a: 3", ""])
def test_parameter_file_that_is_none_is_refused_by_name(program: Path, tmp_path: Path, content: str | None):
    lab = tmp_path / "lab.yaml"
    if content is not None:
        lab.write_text(content)
    with pytest.raises(UserError, match="parameter file .*lab.yaml") as error:
        node_command(NodeSpec("p", "e", "camera", "/diwa", parameter_files=(str(lab),)), tmp_path)
    assert "\n" not in str(error.value)


def test_foreign_package_is_asked_for_by_its_debian_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    with pytest.raises(UserError, match="sudo apt-get install ros-jazzy-joy-none"):
        executable(NodeSpec("joy_none", "joy_node", "joy_node", "/diwa"))


@pytest.mark.parametrize(
    "key", ["/**", "/**/camera", "/diwa/camera", "diwa/camera", "/*/camera", "/diwa/*", "diwa: {camera"]
)
def test_parameters_of_a_node_that_is_started_are_not_complained_about(tmp_path: Path, key: str):
    lab = tmp_path / "lab.yaml"
    lab.write_text(f"{key}: {{ros__parameters: {{rate: 100.0}}}}" + "}" * key.count("{"))
    assert idle_patterns([NodeSpec("p", "e", "camera", "/diwa", parameter_files=(str(lab),))]) == []


@pytest.mark.parametrize("key", ["camera", "/diwa/camra", "/*", "/**/cam", "/diwa/camera/*"])
def test_parameters_of_no_node_that_is_started_are_named(
    program: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], key: str
):
    lab = tmp_path / "lab.yaml"
    lab.write_text(f"{key}: {{ros__parameters: {{rate: 100.0}}}}")
    assert start([NodeSpec("p", "e", "camera", "/diwa", {"seed": 5}, parameter_files=(str(lab),))]) == 0
    assert f"sets parameters of /{key.strip('/')}, which is none of the nodes" in capfd.readouterr().err


@pytest.mark.parametrize("package", ["diwa_worldmodel", "diwa_policy"])
def test_on_python_3_10_a_node_that_learns_is_refused_before_it_starts(monkeypatch, package):
    monkeypatch.setattr(sys, "version_info", (3, 10, 12))
    with pytest.raises(UserError, match=r"node 'learner' needs Python 3.11 or above, and this is Python 3.10"):
        executable(NodeSpec(package, "e", "learner", "/diwa"))
