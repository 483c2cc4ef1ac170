"""Every test process has a ROS domain of its own, on this machine only; set before anything starts ROS."""

import os

os.environ["ROS_DOMAIN_ID"] = str(os.getpid() % 100 + 1)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
