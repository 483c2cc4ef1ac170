"""``ros2 launch diwa_bringup sim.launch.py [name:=value ...]``: the playroom; ``-s`` lists the arguments."""

from diwa_bringup.ros_launch import graph_description
from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    return graph_description("sim")
