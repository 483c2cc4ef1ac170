"""``python -m diwa_sim.fci``: a Panda's interface on an address of this machine; orders on standard input."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import dataclass
from typing import Literal

import tyro

from diwa_conventions.errors import UserError
from diwa_sim.fci.arms import Arm, KinematicArm
from diwa_sim.fci.server import FciServer, say_ready
from diwa_sim.scene import Look


@dataclass(frozen=True)
class Options:
    """A Panda's FCI (protocol 5) and its hand's (protocol 3) in software, until standard input closes."""

    address: str = "127.0.0.1"
    """Address of this machine."""
    port: int = 1337
    """The arm's; the hand has the next one. The known clients take no other than 1337 and 1338."""
    arm: Literal["kinematic", "playroom"] = "playroom"
    """kinematic: does exactly what it is told, nothing in its way. playroom: physics and contact."""
    look: Look = "clear"
    """Of the playroom."""
    patience_s: float = 0.25
    """How long the robot's clock waits for a late command [s]; 0 as a real robot."""
    mirror: int | None = None
    """Descriptor of shared memory that takes the playroom's state."""


def _arm(options: Options) -> Arm:
    if options.arm == "kinematic":
        return KinematicArm()
    from diwa_sim.fci.playroom_arm import PlayroomArm  # MuJoCo takes a while

    return PlayroomArm(options.look, mirror_descriptor=options.mirror)


def main() -> int:
    options = tyro.cli(Options, prog="python -m diwa_sim.fci")
    if not sys.stdin.isatty():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started this ends it by closing standard input
    try:
        server = FciServer(_arm(options), options.address, options.patience_s, options.port)
        say_ready(options.address)
        server.run()
    except UserError as error:
        print(json.dumps({"ok": False, "error": str(error)}), flush=True)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
