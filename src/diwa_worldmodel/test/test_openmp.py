"""Threads of PyTorch spin for a short time only: what libgomp itself says it has read, in processes of their own."""

import os
import subprocess
import sys

import pytest

from diwa_worldmodel.openmp import LIBGOMP_DEFAULT, LIMIT


def spin_count(imports: str, **settings: str) -> int:
    """What libgomp shows once these modules are imported in a process with these settings alone."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    environment = {**inherited, "OMP_DISPLAY_ENV": "verbose", **settings}
    command = [sys.executable, "-c", f"import {imports}"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=True).stderr
    (line,) = [line for line in shown.splitlines() if "GOMP_SPINCOUNT" in line]
    return int(line.split("'")[1])


@pytest.mark.parametrize(
    ("imports", "settings", "expected"),
    [
        ("diwa_worldmodel, torch", {}, LIMIT),
        ("diwa_worldmodel, torch", {"GOMP_SPINCOUNT": "1234"}, 1234),
        ("diwa_worldmodel, torch", {"OMP_WAIT_POLICY": "passive"}, 0),
        ("torch", {}, LIBGOMP_DEFAULT),
    ],
)
def test_libgomp_reads_the_limit_unless_the_user_has_set_how_threads_wait(imports, settings, expected):
    assert spin_count(imports, **settings) == expected


def test_with_torch_imported_before_the_environment_claims_nothing():
    code = "import os, torch, diwa_worldmodel; print(os.environ.get('GOMP_SPINCOUNT'))"
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout == "None\n"
