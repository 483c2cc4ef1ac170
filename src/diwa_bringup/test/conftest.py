"""Every test process has a ROS domain that nobody else uses, on this machine only; set before anything starts ROS."""

import os

from diwa_bringup.domain import free_domain
from diwa_conventions.discovery import stay_on_this_machine

stay_on_this_machine()
os.environ["ROS_DOMAIN_ID"] = str(free_domain())
