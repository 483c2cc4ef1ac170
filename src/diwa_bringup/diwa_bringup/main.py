"""The ``diwa`` command: one verb per stage.

Each stage is a frozen dataclass, read from the command line by tyro, with ``run(self) -> int``. The verb itself is
looked up here and not by tyro, so that a stage's module (MuJoCo, torch) is imported only when it is asked for. A
mistake of the user's is one line on stderr and exit code 2; with ``DIWA_TRACEBACK=1`` it comes with its traceback.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from diwa_bringup.graph import GRAPHS, Graph
from diwa_conventions.errors import UserError, unknown

Run = Callable[[str, Sequence[str]], int]
"""From the words so far (``diwa up``) and those that follow to an exit code."""


@dataclass(frozen=True)
class Verb:
    """A word of the command line, its line in the help, and what it does."""

    about: str
    run: Run


def _run_stage(where: str, prog: str, words: Sequence[str]) -> int:
    """Read the dataclass ``module:Class`` from the words and run it."""
    module, _, name = where.partition(":")
    stage = _parse(getattr(importlib.import_module(module), name), prog, words)
    return int(stage.run())


def _run_graph(graph: Graph, prog: str, words: Sequence[str]) -> int:
    from diwa_bringup.up import Up, describe, up

    return up(graph, _parse(Up, prog, words, describe(graph)).arguments)


def _parse(stage: type[Any], prog: str, words: Sequence[str], description: str | None = None) -> Any:
    """An instance from the words; tyro's box of several lines about a mistake becomes a UserError of one."""
    import tyro

    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(stage, prog=prog, args=list(words), description=description)
    except SystemExit as end:
        if not end.code:
            raise
        box = re.sub(r"[\u2500-\u257f]+", " ", complaint.getvalue())
        lines = [" ".join(line.split()) for line in box.splitlines()[1:]]  # the first is the box's title
        raise UserError(", ".join(line for line in lines if line)) from None


def _run_verb(about: str, verbs: Mapping[str, Verb], prog: str, words: Sequence[str]) -> int:
    """Look the first word up and hand the others on; the list of verbs for none or ``--help``."""
    if not words or words[0] in ("-h", "--help"):
        print(_help(about, verbs, prog))
        return 0
    if words[0] not in verbs:
        raise unknown(f"word after '{prog}':", words[0], verbs)
    return verbs[words[0]].run(f"{prog} {words[0]}", words[1:])


def _help(about: str, verbs: Mapping[str, Verb], prog: str) -> str:
    width = max(map(len, verbs))
    lines = [f"  {name.ljust(width)}  {verb.about}" for name, verb in verbs.items()]
    return "\n".join(
        [f"usage: {prog} {{{','.join(verbs)}}} ...", "", about, "", *lines, "", f"{prog} VERB --help says more."]
    )


_GRAPH_VERBS = {graph.name: Verb(graph.about, partial(_run_graph, graph)) for graph in GRAPHS.values()}

VERBS: Mapping[str, Verb] = {
    "doctor": Verb(
        "say what this machine has and what is missing, feature by feature",
        partial(_run_stage, "diwa_bringup.doctor:Doctor"),
    ),
    "up": Verb(
        "start a graph of nodes on this machine",
        partial(_run_verb, "Start a graph of nodes; Ctrl-C stops it.", _GRAPH_VERBS),
    ),
    "sim": Verb("show the playroom or film it, without ROS", partial(_run_stage, "diwa_sim.show:SimShow")),
    "demo": Verb("run as much of the loop as is built, and film it", partial(_run_stage, "diwa_bringup.demo:Demo")),
}
"""The stages that are built; others join as they are."""


def main(words: Sequence[str] | None = None) -> int:
    """Run ``diwa`` with the words of the command line; the exit code."""
    about = "DiWA for robots: record play, learn a world model, fine-tune policies inside it, serve them."
    try:
        return _run_verb(about, VERBS, "diwa", sys.argv[1:] if words is None else words)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (UserError, OSError) as error:
        if os.environ.get("DIWA_TRACEBACK"):
            raise
        print("diwa:", " ".join(str(error).split()), file=sys.stderr)
        return 2
