"""``ros2 launch diwa_bringup replay.launch.py [name:=value ...]``: a bag on its topics; ``-s`` lists the arguments."""

from diwa_bringup.ros_launch import graph_description
from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    return graph_description("replay")
