"""Launch files import the standard library and ROS alone.

`ros2 launch` runs under the system's Python, which does not see the environment that nodes run in.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[2]
LAUNCH_FILES = sorted((SOURCES / "diwa_bringup" / "launch").glob("*.launch.py"))
ROS = {"launch", "launch_ros", "ament_index_python", "rclpy", "yaml"}
"""What an apt install of ROS 2 brings for launch files."""

BARE = """
import sys, types
from importlib.util import module_from_spec, spec_from_file_location

allowed, launch_file = set(sys.argv[1].split(",")), sys.argv[2]


class Refuse:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in allowed or top in sys.stdlib_module_names or top.startswith("diwa_"):
            return None
        raise ImportError("a launch file imports " + name)


class Anything(types.ModuleType):
    def __getattr__(self, name):
        return type(name, (), {"__init__": lambda self, *words, **more: None})


sys.meta_path.insert(0, Refuse())
for name in ("launch", "launch.actions", "launch.substitutions", "launch_ros", "launch_ros.actions",
             "launch_ros.parameter_descriptions"):
    sys.modules[name] = Anything(name)
spec = spec_from_file_location("launch_file", launch_file)
module = module_from_spec(spec)
spec.loader.exec_module(module)
module.generate_launch_description()
from diwa_bringup.graphs import GRAPHS
graph = GRAPHS[launch_file.rpartition("/")[2].removesuffix(".launch.py")]
given = {argument.name: argument.default_text for argument in graph.arguments}
try:
    nodes = graph.nodes(graph.resolve(given))
except ValueError as error:  # an argument that has no default
    print("needs", error)
else:
    print(*sorted(node.executable for node in nodes))
"""


def bare(launch_file: Path, allowed: set[str] = ROS) -> "subprocess.CompletedProcess[str]":
    """Run a launch file in an interpreter that has the workspace's sources and nothing else."""
    sources = os.pathsep.join(str(folder) for folder in SOURCES.iterdir() if folder.is_dir())
    environment = {"PYTHONPATH": sources, "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-S", "-c", BARE, ",".join(sorted(allowed)), str(launch_file)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_there_are_launch_files():
    assert len(LAUNCH_FILES) >= 5


@pytest.mark.parametrize("launch_file", LAUNCH_FILES, ids=lambda file: file.name)
def test_a_launch_file_needs_nothing_but_the_standard_library_and_ros(launch_file: Path):
    result = bare(launch_file)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip(), "it starts nodes, or says which argument it needs"


def test_an_import_of_anything_else_is_noticed(tmp_path: Path):
    file = tmp_path / "record.launch.py"
    file.write_text("import diwa_conventions.actions\ngenerate_launch_description = None\n")
    result = bare(file)
    assert result.returncode != 0 and "a launch file imports numpy" in result.stderr
    assert "diwa_conventions/actions.py" in result.stderr, "the chain is named"
