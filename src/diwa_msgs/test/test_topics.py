"""The table of topics against ROS 2 and against the contract of the arm."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from diwa_conventions import topics
from diwa_conventions.topics import TOPICS, Topic

by_name = pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)


@by_name
def test_the_type_is_a_message_that_exists(topic: Topic) -> None:
    package, kind, name = topic.type.split("/")
    assert kind == "msg"
    assert hasattr(getattr(import_module(f"{package}.msg"), name), "get_fields_and_field_types")


@by_name
def test_the_name_is_relative_to_the_namespace_except_for_diagnostics(topic: Topic) -> None:
    assert re.fullmatch(r"[a-z][a-z_]*(/[a-z][a-z_]*)*", topic.name) or topic is topics.DIAGNOSTICS


@by_name
def test_rate_depth_and_description_are_there(topic: Topic) -> None:
    assert topic.rate_hz >= 0
    assert topic.depth >= 1
    assert topic.about


def test_no_name_appears_twice() -> None:
    assert len({topic.name for topic in TOPICS}) == len(TOPICS)


def test_every_topic_of_the_module_is_in_the_table() -> None:
    assert {topic for topic in vars(topics).values() if isinstance(topic, Topic)} == set(TOPICS)


def test_state_is_best_effort_as_crisp_publishes_it() -> None:
    assert not topics.CURRENT_POSE.reliable
    assert not topics.JOINT_STATES.reliable


@pytest.mark.parametrize("topic", [topics.TARGET_POSE, topics.GRIPPER_COMMAND], ids=lambda topic: topic.name)
def test_commands_are_reliable_and_only_the_newest_counts(topic: Topic) -> None:
    assert topic.reliable
    assert topic.depth == 1


@pytest.mark.parametrize("topic", [topics.STATIC_IMAGE, topics.GRIPPER_IMAGE], ids=lambda topic: topic.name)
def test_images_come_at_30_hz(topic: Topic) -> None:
    assert topic.type == "sensor_msgs/msg/Image"
    assert topic.rate_hz == 30.0


def test_a_panda_has_seven_joints_and_two_fingers() -> None:
    assert topics.ARM_JOINTS == tuple(f"panda_joint{i}" for i in (1, 2, 3, 4, 5, 6, 7))
    assert len(topics.FINGER_JOINTS) == 2


def test_the_reset_service_exists() -> None:
    assert topics.RESET_SERVICE == "reset"
    assert hasattr(import_module("diwa_msgs.srv"), "ResetPlayroom")


def test_the_architecture_page_shows_this_table() -> None:
    page = Path(__file__).parents[3] / "docs" / "architecture.md"
    assert topics.markdown_table() in page.read_text()
