"""Every test process has a ROS domain of its own, on this machine only, and one thread; set before ROS and PyTorch."""

import os

from diwa_conventions.discovery import stay_on_this_machine

stay_on_this_machine()
os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 100)
# At the sizes of tests several threads only wait for each other, and others than these give other roundings.
os.environ["OMP_NUM_THREADS"] = "1"
