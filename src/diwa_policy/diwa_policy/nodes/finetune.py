"""Fine-tunes a policy in dreams and says on a topic how far it is. Topic and parameters: README of diwa_policy.

    ros2 run diwa_policy finetune --ros-args -p world_model:=WM -p demonstrations:=DEMOS -p policy:=POLICY \\
        -p reward:=REWARD -p out:=RUN

A thin shell around ``diwa finetune``: Ctrl-C ends it with a checkpoint, a second one at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from diwa_conventions.node_main import run_node
from diwa_policy.finetune.run import fine_tune
from diwa_policy.finetune.stage import FineTune, summary
from diwa_policy.nodes.stage_node import End, Parameters, StageNode, finished, stopped


class FineTuningNode(StageNode):
    """``diwa finetune`` as a node."""

    stage = "fine-tuning"
    patience = 1

    def __init__(self) -> None:
        super().__init__("finetune")

    def read(self, given: Parameters) -> None:
        self._options = FineTune(
            given.folder("world_model", "made by diwa train"),
            given.folder("demonstrations", "data set with attempts at the policy's task"),
            given.folder("policy", "made by diwa pretrain"),
            given.folder("reward", "made by diwa reward"),
            given.folder("out", "folder of this run, new or to go on with"),
            preset=given.preset(),
            config=given.config(),
            set=given.settings(),
            checkpoint_minutes=given.value("checkpoint_minutes", 5.0, "how often a checkpoint is written"),
            device=given.choice("device", ("cpu", "cuda"), "what dreams and learns"),  # type: ignore[arg-type]
            threads=given.value("threads", 0, "of the CPU; 0: PyTorch's choice"),
        )
        self._options.check()

    def work(self, stop: Callable[[], bool]) -> End:
        outcome = fine_tune(self._options, self, stop)
        return (finished if outcome.judgement else stopped)(summary(self._options, outcome))

    def left(self) -> str:
        return f"{self._options.out}: stopped; the same command goes on from the last checkpoint, if there is one"


def main() -> int:
    return run_node(FineTuningNode, FineTuningNode.begin, lambda node: True, lambda node: node.close())


if __name__ == "__main__":
    sys.exit(main())
