"""The node graph as data: which nodes a stage consists of, and the arguments it is started with.

A graph is a :class:`Graph`: declared arguments and one plain function from their values to node specs. The launch
files (:mod:`diwa_bringup.ros_launch`) and ``diwa up`` (:mod:`diwa_bringup.process_manager`) start the same specs. A new
graph is such a function, an entry in ``graphs.GRAPHS`` and a launch file of three lines.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from diwa_conventions.errors import UserError, unknown

Value: TypeAlias = str | int | float | bool
Parameter: TypeAlias = Value | tuple[str, ...]
Kind = Literal["text", "path", "integer", "number", "boolean", "ROS name"]
OnExit = Literal["shutdown", "ignore"]

_ROS_NAME = re.compile(r"/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*")


@dataclass(frozen=True)
class Argument:
    """One ``name:=value`` that a graph understands."""

    name: str
    default: Value
    about: str
    kind: Kind = "text"
    choices: tuple[str, ...] | None = None
    suffix: str = ""
    """How a path must end."""
    minimum: float = -math.inf
    maximum: float = math.inf

    def parse(self, text: str) -> Value:
        """The typed value of ``text``; UserError that names the argument, the text and what is allowed."""
        if self.choices is not None and text not in self.choices:
            raise unknown(f"value of argument '{self.name}':", text, self.choices)
        try:
            value = _PARSERS[self.kind](text)
        except ValueError:
            raise self._refusal(text) from None
        if isinstance(value, (int, float)) and not self.minimum <= value <= self.maximum:
            raise self._refusal(text)
        if text and not text.endswith(self.suffix):
            raise self._refusal(text)
        return value

    def _refusal(self, text: str) -> UserError:
        return UserError(f"argument '{self.name}' is {text!r}; expected {self.expected}")

    @property
    def expected(self) -> str:
        """What a value may be, in words: ``a number from 0 to 1``."""
        if self.choices is not None:
            return "one of " + ", ".join(choice or "''" for choice in self.choices)
        if self.kind == "boolean":
            return "true or false"
        words = {"integer": "a whole number", "number": "a number", "ROS name": "a name of letters, digits, _ and /"}
        text = words.get(self.kind, f"a {self.kind}") + (f" that ends in {self.suffix}" if self.suffix else "")
        text += f" from {self.minimum:.12g}" if math.isfinite(self.minimum) else ""
        return text + (f" to {self.maximum:.12g}" if math.isfinite(self.maximum) else "")

    @property
    def default_text(self) -> str:
        """The default as it would be typed after ``:=``."""
        return str(self.default).lower() if isinstance(self.default, bool) else str(self.default)


@dataclass(frozen=True)
class NodeSpec:
    """One node to start: ``package``'s executable, its name and namespace (absolute), parameters and remappings."""

    package: str
    executable: str
    name: str
    namespace: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    remappings: tuple[tuple[str, str], ...] = ()
    on_exit: OnExit = "shutdown"
    """What follows its end with code 0: everything stops, or nothing happens. A crash always stops all."""
    parameter_files: tuple[str, ...] = ()
    """YAML files of ROS parameters, stronger than ``parameters``."""

    @property
    def full_name(self) -> str:
        return f"{self.namespace.rstrip('/')}/{self.name}"


@dataclass(frozen=True)
class Graph:
    """A stage's nodes as a function of its arguments."""

    name: str
    about: str
    arguments: tuple[Argument, ...]
    nodes: Callable[[Mapping[str, Value]], list[NodeSpec]]
    """From resolved arguments to specs; UserError when two arguments do not go together."""

    def resolve(self, given: Mapping[str, str]) -> dict[str, Value]:
        """Typed values of all arguments: the given texts, and defaults for the others."""
        known = {argument.name: argument for argument in self.arguments}
        for name in given:
            if name not in known:
                raise unknown(f"argument of '{self.name}':", name, known)
        return {name: known[name].parse(given.get(name, known[name].default_text)) for name in known}

    def specs(self, words: Iterable[str]) -> list[NodeSpec]:
        """The nodes to start for the words ``name:=value`` of a command line."""
        return self.nodes(self.resolve(split_words(words)))


def split_words(words: Iterable[str]) -> dict[str, str]:
    """``["seed:=3"]`` -> ``{"seed": "3"}``; UserError for a malformed or repeated word."""
    given: dict[str, str] = {}
    for word in words:
        name, separator, value = word.partition(":=")
        if not separator or not name:
            raise UserError(f"malformed argument {word!r}; expected name:=value, for example seed:=3")
        if name in given:
            raise UserError(f"argument '{name}' is given twice: {given[name]!r} and {value!r}")
        given[name] = value
    return given


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _ros_name(text: str) -> str:
    if not _ROS_NAME.fullmatch(text):
        raise ValueError(text)
    return text


def _path(text: str) -> str:
    """Absolute, since the node may run in another folder; empty stays empty. Shells do not expand ``film:=~/a.mp4``."""
    return os.path.abspath(os.path.expanduser(text)) if text else ""


_PARSERS: Mapping[Kind, Callable[[str], Value]] = {
    "text": str,
    "path": _path,
    "integer": int,
    "number": _number,
    "boolean": _boolean,
    "ROS name": _ros_name,
}


@dataclass(frozen=True)
class Nodes:
    """Makes the specs of one graph: what they have in common is said once."""

    arguments: Mapping[str, Value]

    def spec(
        self,
        package: str,
        executable: str,
        parameters: Mapping[str, Parameter],
        on_exit: OnExit = "shutdown",
        name: str = "",
    ) -> NodeSpec:
        """A node; ``name``: where it is not the executable's."""
        namespace = "/" + str(self.arguments["namespace"]).strip("/")
        files = (str(self.arguments["parameters"]),) if self.arguments["parameters"] else ()
        return NodeSpec(
            package, executable, name or executable, namespace, parameters, on_exit=on_exit, parameter_files=files
        )

    def follower(
        self, package: str, executable: str, parameters: Mapping[str, Parameter] | None = None, name: str = ""
    ) -> NodeSpec:
        """A node that uses the playroom's clock if there is one."""
        with_clock = {"use_sim_time": self.arguments["clock"], **(parameters or {})}
        return self.spec(package, executable, with_clock, name=name)
