"""All graphs, by their names: what ``diwa up`` and the launch files start."""

from __future__ import annotations

from collections.abc import Mapping

from diwa_bringup.graph import Graph
from diwa_bringup.replay_graph import REPLAY
from diwa_bringup.robot_graphs import DEPLOY, RECORD, SIM
from diwa_bringup.train_graph import TRAIN

GRAPHS: Mapping[str, Graph] = {graph.name: graph for graph in (SIM, RECORD, DEPLOY, REPLAY, TRAIN)}
