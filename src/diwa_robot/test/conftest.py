"""Every test process has a ROS domain of its own, on this machine only; set before anything starts ROS."""

import os

from diwa_conventions.discovery import claim_domain, stay_on_this_machine

stay_on_this_machine()
os.environ["ROS_DOMAIN_ID"] = str(claim_domain())
