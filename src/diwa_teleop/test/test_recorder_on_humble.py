"""The recorder under an rclpy that behaves as Humble's where the two differ (rclpy 3.3, branch humble)."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from test_recorder_node import ACTION, DEADLINE_S, POSE, World, sequences

from diwa_conventions.bags.reader import Bag

HUMBLE = """
import os, sys
os.environ["ROS_DISTRO"] = "humble"
from rclpy.executors import Executor
from rclpy.subscription import Subscription
from rclpy.task import Future

del Subscription.CallbackType  # Iron brought it

def take(self, sub):
    # subscription.cpp: two times; executors.py: the message alone goes on, to a callback of one argument
    with sub.handle:
        taken = sub.handle.take_message(sub.msg_type, sub.raw)
    async def execute():
        if taken:
            sub.callback(taken[0])
    return execute

def set_callback(self, value):
    self._callback = value

Executor._take_subscription = take
Subscription.callback = property(lambda self: self._callback, set_callback)
from diwa_teleop.nodes.recorder import main
sys.exit(main())
"""


@pytest.fixture
def world():
    made = World()
    yield made
    made.close()


def test_a_recording_on_humble_is_whole_and_says_that_losses_are_not_counted(world: World, tmp_path: Path):
    words = [f"bag:={tmp_path / 'play'}", "autostart:=true", "required_topics:=[action]", "duration_s:=2.0"]
    parameters = [word for parameter in words for word in ("-p", parameter)]
    command = [sys.executable, "-c", HUMBLE, "--ros-args", "-r", "__ns:=/diwa", *parameters]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0 and "Traceback" not in said, said
    assert "does not number messages" in said and "not all losses can be counted" in said
    bag = Bag(tmp_path / "play")
    numbers = sequences(bag)
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert bag.topics[ACTION].messages == len(numbers) and bag.topics[POSE].messages
    assert "does not number messages" in bag.custom["losses"]
    information = yaml.safe_load((tmp_path / "play" / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert information["version"] == 5
