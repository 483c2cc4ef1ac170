"""``ros2 launch diwa_bringup record.launch.py [name:=value ...]``: record play into a bag; ``-s`` lists arguments."""

from diwa_bringup.ros_launch import graph_description
from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    return graph_description("record")
