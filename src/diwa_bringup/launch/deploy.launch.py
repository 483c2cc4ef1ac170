"""``ros2 launch diwa_bringup deploy.launch.py [name:=value ...]``: a policy on an arm; ``-s`` lists the arguments."""

from diwa_bringup.ros_launch import graph_description
from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    return graph_description("deploy")
