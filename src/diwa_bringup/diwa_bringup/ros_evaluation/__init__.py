"""``diwa evaluate policy --env ros``: trials through the real nodes. No ROS here: see nodes/trial_runner."""
