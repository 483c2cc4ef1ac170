"""Trains a reward classifier and says on a topic how far it is. Topic and parameters: README of diwa_policy.

    ros2 run diwa_policy reward --ros-args -p world_model:=WM -p demonstrations:=DEMOS -p task:=TASK -p out:=REWARD

A thin shell around ``diwa reward``. The classifier is saved when all is done: Ctrl-C leaves nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from diwa_conventions.node_main import run_node
from diwa_policy.nodes.stage_node import End, Parameters, StageNode, finished
from diwa_policy.reward_run import RewardRun
from diwa_policy.reward_stage import Reward


class RewardNode(StageNode):
    """``diwa reward`` as a node."""

    stage = "reward"

    def __init__(self) -> None:
        super().__init__("reward")

    def read(self, given: Parameters) -> None:
        self._options = Reward(
            given.folder("world_model", "made by diwa train"),
            given.folder("demonstrations", "data set with attempts at the task; failed ones help most"),
            task=given.word("task", "as the marks call it, e.g. open-drawer"),
            out=given.folder("out", "folder for the classifier; one that is there already is replaced"),
            preset=given.preset(),
            config=given.config(),
            set=given.settings(),
            strict=given.value("strict", False, "end with exit code 1 if any verdict is bad"),
        )

    def work(self, stop: Callable[[], bool]) -> End:
        report = RewardRun(self._options, self).run()
        return finished(self._options.summary(report), self._options.exit_code(report))

    def left(self) -> str:
        return self._options.stopped


def main() -> int:
    return run_node(RewardNode, RewardNode.begin, lambda node: True, lambda node: node.close())


if __name__ == "__main__":
    sys.exit(main())
