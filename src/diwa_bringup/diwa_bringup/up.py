"""``diwa up GRAPH [name:=value ...]``: start a graph on this machine."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from tyro.conf import Positional

from diwa_bringup.domain import check_domain, current_domain, nodes_in_domain
from diwa_bringup.graph import Graph
from diwa_bringup.start import start


@dataclass(frozen=True)
class Up:
    """What follows the graph's name on the command line."""

    arguments: Positional[tuple[str, ...]] = ()
    """The graph's arguments as name:=value; listed above."""


def up(graph: Graph, words: tuple[str, ...]) -> int:
    """Start the graph's nodes and wait for their end; the exit code."""
    specs = graph.specs(words)
    domain = current_domain()
    warning = check_domain(specs, nodes_in_domain(domain, [spec.full_name for spec in specs]), domain)
    if warning is not None:
        print(f"diwa: warning: {warning}", file=sys.stderr, flush=True)
    return start(specs)


def describe(graph: Graph) -> str:
    """The graph's arguments, a line each, for ``--help``."""
    rows = [(f"{a.name}:={a.default_text}", f"{a.about}; {a.expected}") for a in graph.arguments]
    width = max(len(left) for left, _ in rows)
    lines = [f"  {left.ljust(width)}  {about}" for left, about in rows]
    return "\n".join([f"{graph.about}.", "", "arguments and their defaults:", *lines])
