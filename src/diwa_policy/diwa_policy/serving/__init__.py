"""A policy on a robot: frames from topics, decisions, and when to stop. No ROS; the node is in ``nodes``."""
