"""An FR3 in software that has the robot's limits and reflexes: franka-sim, until standard input closes.

Runs in a venv of its own (scripts/test_reflexes.sh): python franka_sim_server.py ADDRESS MODEL
MODEL: the FR3 of franky-sim, fr3.xml with a folder meshes beside it. franka-sim would download another one.
"""

import os
import sys
import tempfile
import threading
from pathlib import Path


def with_meshes(model: Path) -> Path:
    """A copy of the model that says where its meshes are."""
    found = model.read_text().replace('meshdir="assets"', f'meshdir="{model.parent / "meshes"}"')
    copy = Path(tempfile.mkdtemp()) / model.name
    copy.write_text(found)
    return copy


def main(address: str, model: str) -> None:
    os.environ["FR3_MJCF"] = str(with_meshes(Path(model)))
    from franka_sim import FrankaSimServer

    server = FrankaSimServer(
        host=address, enforce_comm_constraints=True, enforce_motion_limits=True, gripper_object_width=0.04
    )
    threading.Thread(target=server.start, daemon=True).start()
    print("ready", address, flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
