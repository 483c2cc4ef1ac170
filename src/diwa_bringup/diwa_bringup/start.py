"""From node specs to running processes."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from diwa_bringup.graph import NodeSpec
from diwa_bringup.learning_python import LEARNING_PACKAGES, check_learning_python
from diwa_bringup.process_manager import Command, ProcessManager
from diwa_conventions.errors import UserError


def start(specs: Sequence[NodeSpec]) -> int:
    """Run the nodes until they end or are told to; the exit code of :meth:`ProcessManager.run`."""
    with tempfile.TemporaryDirectory(prefix="diwa_parameters_") as folder:
        commands = [node_command(spec, Path(folder)) for spec in specs]
        for line in idle_patterns(specs):
            print(f"diwa: warning: {line}", file=sys.stderr, flush=True)
        return ProcessManager(commands).run()


def node_command(spec: NodeSpec, folder: Path) -> Command:
    """The command line of one node, its parameters written to a file in ``folder``."""
    words = [str(executable(spec)), "--ros-args", "-r", f"__node:={spec.name}", "-r", f"__ns:={spec.namespace}"]
    for old, new in spec.remappings:
        words += ["-r", f"{old}:={new}"]
    if spec.parameters:
        path = folder / f"{spec.full_name.strip('/').replace('/', '.')}.yaml"
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in spec.parameters.items()}
        path.write_text(yaml.safe_dump({spec.full_name: {"ros__parameters": values}}), encoding="utf-8")
        words += ["--params-file", str(path)]
    for file in spec.parameter_files:
        _check_readable(file)
        words += ["--params-file", file]
    return Command(spec.name, tuple(words), spec.on_exit)


def _check_readable(file: str) -> None:
    """UserError for a parameter file that rclpy would refuse with a traceback."""
    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"parameter file {file} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not all("ros__parameters" in str(part) for part in content.values()):
        raise UserError(f"parameter file {file} is not one; expected NODE: {{ros__parameters: {{NAME: VALUE}}}}")


def idle_patterns(specs: Sequence[NodeSpec]) -> list[str]:
    """A line for each entry of the parameter files that is of no node here: it would be ignored without a word."""
    names = [spec.full_name for spec in specs]
    lines = []
    for file in sorted({file for spec in specs for file in spec.parameter_files}):
        for pattern in _node_patterns(yaml.safe_load(Path(file).read_text(encoding="utf-8"))):
            if not any(_matches(pattern, name) for name in names):
                lines.append(
                    f"parameter file {file} sets parameters of {pattern}, which is none of the nodes started here: "
                    f"{', '.join(names)}"
                )
    return lines


def _node_patterns(content: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Names of nodes, with wildcards, that the file holds parameters of; namespaces may be nested."""
    for key, value in content.items():
        if key == "ros__parameters":
            yield prefix
        elif isinstance(value, dict):
            yield from _node_patterns(value, f"{prefix}/{str(key).strip('/')}")


def _matches(pattern: str, name: str) -> bool:
    """Whether rcl gives the node these parameters: ``**`` stands for any number of words, ``*`` for one."""
    words = re.escape(pattern).replace(r"/\*\*", "(/[^/]+)*").replace(r"\*", "[^/]+")
    return re.fullmatch(words, name) is not None


def executable(spec: NodeSpec) -> Path:
    """``<prefix>/lib/<package>/<executable>`` by the ament index; UserError if it cannot run here."""
    if spec.package in LEARNING_PACKAGES:
        check_learning_python(f"node '{spec.name}'")
    from ament_index_python.packages import PackageNotFoundError, get_package_prefix

    try:
        path = Path(get_package_prefix(spec.package), "lib", spec.package, spec.executable)
    except PackageNotFoundError:
        mend = "make setup && source env.sh"
        if not spec.package.startswith("diwa_"):
            mend = f"sudo apt-get install ros-{os.environ.get('ROS_DISTRO', 'kilted')}-{spec.package.replace('_', '-')}"
        raise UserError(
            f"node '{spec.name}' needs package '{spec.package}', which is not built or not sourced; run: {mend}"
        ) from None
    if not os.access(path, os.X_OK):
        raise UserError(f"node '{spec.name}' needs {path}, which is not built; run: make setup")
    return path
