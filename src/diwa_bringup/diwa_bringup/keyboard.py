"""``diwa keyboard``: the keyboard operator in this terminal, as ``ros2 run diwa_teleop keyboard`` elsewhere."""

from __future__ import annotations

import os
from dataclasses import dataclass

from diwa_bringup.graph import NodeSpec
from diwa_bringup.start import executable
from diwa_conventions.topics import NAMESPACE


@dataclass(frozen=True)
class Keyboard:
    """Move the arm with the keys of this terminal; the keys are shown."""

    namespace: str = NAMESPACE
    """Of the nodes to talk to."""

    def run(self) -> int:
        """Become the node; it needs the terminal for itself."""
        spec = NodeSpec("diwa_teleop", "keyboard", "keyboard", "/" + self.namespace.strip("/"))
        path = str(executable(spec))
        os.execv(path, [path, "--ros-args", "-r", f"__ns:={spec.namespace}"])
