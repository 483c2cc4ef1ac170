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
    from diwa_worldmodel.artefact import LoadedWorldModel


@pytest.fixture(scope="session")
def world_model(tmp_path_factory: pytest.TempPathFactory) -> LoadedWorldModel:
    """A small one with random weights; see policy_samples.py."""
    from policy_samples import small_world_model

    return small_world_model(tmp_path_factory.mktemp("world_model") / "world_model")


@pytest.fixture(scope="session")
def demonstrations_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of attempts at two skills; see policy_samples.py."""
    from policy_samples import small_demonstrations

    return small_demonstrations(tmp_path_factory.mktemp("demonstrations") / "demonstrations").path
