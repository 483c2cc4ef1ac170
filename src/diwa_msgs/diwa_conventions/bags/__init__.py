"""Bags: MCAP files with rosbag2's ``metadata.yaml`` in one folder. The recorder and the playroom write them, ``diwa
import``, ``diwa replay`` and ``diwa bag`` read them; no ROS is needed for any of it."""
