"""Pre-trains a policy and says on a topic how far it is. Topic and parameters: README of diwa_policy.

    ros2 run diwa_policy pretrain --ros-args -p world_model:=WM -p demonstrations:=DEMOS -p task:=TASK -p out:=POLICY

A thin shell around ``diwa pretrain``. The policy is saved when all is done: Ctrl-C leaves nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from diwa_conventions.node_main import run_node
from diwa_policy.nodes.stage_node import End, Parameters, StageNode, finished
from diwa_policy.pretrain import Pretrain
from diwa_policy.pretraining_run import PretrainingRun


class PretrainingNode(StageNode):
    """``diwa pretrain`` as a node."""

    stage = "pre-training"

    def __init__(self) -> None:
        super().__init__("pretrain")

    def read(self, given: Parameters) -> None:
        self._options = Pretrain(
            given.folder("world_model", "made by diwa train"),
            given.folder("demonstrations", "data set with attempts at the task, marked while they were recorded"),
            task=given.word("task", "as the marks call it, e.g. open-drawer"),
            out=given.folder("out", "folder for the policy; one that is there already is replaced"),
            preset=given.preset(),
            config=given.config(),
            set=given.settings(),
        )

    def work(self, stop: Callable[[], bool]) -> End:
        return finished(PretrainingRun(self._options, self).run())

    def left(self) -> str:
        return self._options.stopped


def main() -> int:
    return run_node(
        PretrainingNode, PretrainingNode.begin, lambda node: True, lambda node: node.close()
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
