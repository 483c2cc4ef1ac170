"""The launch files with the real ``launch`` and ``launch_ros``, where there are any."""

import asyncio
import os
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

pytest.importorskip("launch_ros", reason="launch_ros is not installed: the wheels lack it, a ROS 2 install has it")

from ament_index_python.packages import get_package_share_directory
from launch.actions import IncludeLaunchDescription, RegisterEventHandler, Shutdown
from launch.event_handlers import OnProcessIO, OnProcessStart
from launch.launch_description_sources import PythonLaunchDescriptionSource

from diwa_bringup.graph import Graph
from diwa_bringup.graphs import GRAPHS
from launch import LaunchDescription, LaunchService


def launch_file(graph: Graph) -> Path:
    return Path(get_package_share_directory("diwa_bringup"), "launch", f"{graph.name}.launch.py")


def description(graph: Graph) -> LaunchDescription:
    spec = spec_from_file_location("launch_file", launch_file(graph))
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.generate_launch_description()


def launched(monkeypatch: pytest.MonkeyPatch, *words: str, actions: tuple = ()) -> int:  # type: ignore[type-arg]
    """Launch sim as ``ros2 launch`` does; its exit code."""
    path = str(launch_file(GRAPHS["sim"]))
    monkeypatch.setattr(sys, "argv", ["ros2", "launch", path, *words])
    asyncio.set_event_loop(asyncio.new_event_loop())
    service = LaunchService(argv=list(words), noninteractive=True)
    arguments = [tuple(word.split(":=", 1)) for word in words]
    include = IncludeLaunchDescription(PythonLaunchDescriptionSource(path), launch_arguments=arguments)
    service.include_launch_description(LaunchDescription([*actions, include]))
    return service.run()


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=lambda graph: graph.name)
def test_launch_file_declares_the_graphs_arguments(graph: Graph):
    declared = {argument.name: argument for argument in description(graph).get_launch_arguments()}
    assert list(declared) == [argument.name for argument in graph.arguments]
    for argument in graph.arguments:
        assert argument.about in declared[argument.name].description
        assert "".join(part.text for part in declared[argument.name].default_value) == argument.default_text


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("lok:=hard", "did you mean 'look'?"),
        ("look:=hrd", "hrd"),
        ("seed:=x", "argument 'seed' is 'x'"),
        ("operator:=demonstration", "needs a task"),
    ],
)
def test_mistake_is_one_line_and_starts_nothing(monkeypatch, caplog, word: str, part: str):
    started: list[object] = []
    watch = RegisterEventHandler(OnProcessStart(on_start=lambda event, context: started.append(event)))
    assert launched(monkeypatch, word, actions=(watch,)) == 1
    errors = [record for record in caplog.records if record.name == "launch" and record.levelname == "ERROR"]
    (line,) = [record.getMessage() for record in errors]
    assert part in line and "\n" not in line
    assert started == []


def test_arguments_of_a_launch_file_that_includes_ours_are_its_own_business(monkeypatch):
    from diwa_bringup.ros_launch import refuse_unknown_arguments
    from launch import LaunchContext

    monkeypatch.setattr(sys, "argv", ["ros2", "launch", "lab_bringup", "all.launch.py", "lab:=1"])
    refuse_unknown_arguments(LaunchContext(argv=["lab:=1"]), GRAPHS["sim"])


def test_sim_starts_in_its_namespace_with_its_parameters(monkeypatch):
    printed: list[str] = []

    def stop_when_simulating(event):  # type: ignore[no-untyped-def]
        printed.append(event.text.decode())
        return Shutdown(reason="seen enough") if "simulating" in printed[-1] else None

    watch = RegisterEventHandler(OnProcessIO(on_stdout=stop_when_simulating, on_stderr=stop_when_simulating))
    words = ("namespace:=lab", "task:=turn-on-LED", "image_size:=64")
    assert launched(monkeypatch, *words, actions=(watch,)) == 0
    text = "".join(printed)
    assert "lab.playroom" in text and "64x64" in text and "turn-on-LED" in text
    assert os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
