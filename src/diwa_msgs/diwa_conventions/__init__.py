"""What every package agrees on: actions, tasks, topics. Plain Python, no ROS."""
