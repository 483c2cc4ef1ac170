"""Every test process has a ROS domain of its own, on this machine only; set before anything starts ROS."""

import os

from hypothesis import HealthCheck, settings

from diwa_conventions.discovery import claim_domain, stay_on_this_machine

stay_on_this_machine()
os.environ["ROS_DOMAIN_ID"] = str(claim_domain())
# On a busy machine an example of a property may take any time.
settings.register_profile("any time", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any time")
