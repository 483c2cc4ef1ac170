"""What starts training, dreams, evaluation and serving limits how long OpenMP threads spin before it loads torch."""

import os
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from importlib.metadata import entry_points

from diwa_bringup.main import VERBS, Verb
from diwa_worldmodel.openmp import LIMIT, SPIN_COUNT

FIRST_IMPORT_OF_TORCH = """
import importlib, os, sys
import numpy, rclpy  # shared by the processes that follow

class Look:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(module, os.environ.get("GOMP_SPINCOUNT"), flush=True)
            os._exit(0)

sys.meta_path.insert(0, Look())
for module in sys.argv[1:]:
    if os.fork() == 0:
        importlib.import_module(module)
        import torch
    os.wait()
"""
"""For each module named, in a process of its own: what libgomp would read at the first import of torch."""


def stages(verbs: Mapping[str, Verb] = VERBS) -> set[str]:
    """Modules of the stages of ``diwa``."""
    found: set[str] = set()
    for verb in verbs.values():
        for given in verb.run.args if isinstance(verb.run, partial) else ():
            if isinstance(given, Mapping):
                found |= stages(given)
            elif isinstance(given, str):
                found.add(given.partition(":")[0])
    return found


def nodes() -> set[str]:
    """Modules that ``ros2 run`` starts."""
    return {script.module for script in entry_points(group="console_scripts")}


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}


def test_torch_meets_the_limit_in_every_stage_and_node_that_learns_or_decides():
    modules = sorted(name for name in stages() | nodes() if name.startswith(("diwa_worldmodel.", "diwa_policy.")))
    assert {"diwa_worldmodel.training.train", "diwa_policy.finetune.stage", "diwa_policy.nodes.policy"} <= set(modules)
    command = [sys.executable, "-c", FIRST_IMPORT_OF_TORCH, *modules]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment(), check=True)
    assert done.stdout.splitlines() == [f"{module} {LIMIT}" for module in modules]


def test_libgomp_of_diwa_train_says_that_it_has_read_the_limit(tmp_path):
    command = ["diwa", "train", str(tmp_path / "none"), "--out", str(tmp_path / "out")]
    shown = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**environment(), "OMP_DISPLAY_ENV": "verbose"}
    )
    assert f"{SPIN_COUNT} = '{LIMIT}'" in shown.stderr and "there is no data set" in shown.stderr
