"""ROS 2 nodes of this package; the only modules here that import rclpy."""
