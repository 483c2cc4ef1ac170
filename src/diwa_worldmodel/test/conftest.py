"""Every test process has a ROS domain of its own, on this machine only, and one thread; set before ROS and PyTorch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from diwa_conventions.discovery import claim_domain, stay_on_this_machine

stay_on_this_machine()
os.environ["ROS_DOMAIN_ID"] = str(claim_domain())
# On a busy machine an example of a property may take any time.
settings.register_profile("any time", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any time")
# At the sizes of tests several threads only wait for each other, and others than these give other roundings.
os.environ["OMP_NUM_THREADS"] = "1"

if TYPE_CHECKING:
    from diwa_worldmodel.training.train import Train


@pytest.fixture
def options(data_set, tmp_path) -> Train:
    """Of a short training on the module's own ``data_set``."""
    from training_run_samples import small_run

    return small_run(data_set.path, tmp_path / "run")


@pytest.fixture(scope="module")
def uninterrupted(data_set, tmp_path_factory) -> Path:
    """Folder of a run of all steps in this process."""
    from training_run_samples import run, small_run

    whole = small_run(data_set.path, tmp_path_factory.mktemp("uninterrupted") / "run")
    run(whole)
    return whole.out
