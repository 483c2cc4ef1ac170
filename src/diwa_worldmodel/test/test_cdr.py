"""The quick readers of messages agree with rosbags' full ones."""

import struct
from dataclasses import replace

import numpy as np
import pytest
from bag_factory import START_NS, Item, image_of, items, serialise
from hypothesis import given
from hypothesis import strategies as st

from diwa_conventions import topics
from diwa_conventions.bags.definitions import typestore
from diwa_worldmodel.dataset import cdr


def test_stamp_and_numbers_are_those_that_were_written():
    for item in items(0.1):
        data = serialise(item)
        stamp, offset = cdr.header(data)
        assert stamp == item.stamp_ns
        if item.topic in (topics.CURRENT_POSE, topics.TARGET_POSE):
            np.testing.assert_array_equal(
                cdr.pose(data, offset), [*item.values["position"], *item.values["quaternion"]]
            )
        if item.topic is topics.GRIPPER_COMMAND:
            assert cdr.gripper_command(data, offset) == (item.values["command"],)


@given(st.text(max_size=12), st.lists(st.text(max_size=9), max_size=5), st.floats(-1e9, 1e9))
def test_offsets_are_right_for_names_of_any_length(frame, names, value):
    types, store = typestore().types, typestore()
    stamp = types["builtin_interfaces/msg/Time"](sec=-3, nanosec=17)
    header = types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame)
    kind = "sensor_msgs/msg/JointState"
    none = np.zeros(0)
    names = [name for name in names if "finger" not in name] + ["a_finger", "b_finger"]
    positions = np.append(np.arange(len(names) - 2.0), [value, 0.5])
    data = bytes(
        store.serialize_cdr(
            types[kind](header=header, name=names, position=positions, velocity=none, effort=none), kind
        )
    )
    at, offset = cdr.header(data)
    assert at == -3_000_000_000 + 17
    assert cdr.FingerWidth()(data, offset) == (value + 0.5,)
    kind = "diwa_msgs/msg/GripperCommand"
    data = bytes(store.serialize_cdr(types[kind](header=header, command=value), kind))
    assert cdr.gripper_command(data, cdr.header(data)[1]) == (value,)


def test_finger_joints_are_found_again_when_the_names_change():
    width = cdr.FingerWidth()
    arm_only = Item(topics.JOINT_STATES, START_NS, START_NS, {"width_m": 0.04, "names": topics.ARM_JOINTS})
    both = replace(arm_only, values={"width_m": 0.06})
    fingers = replace(arm_only, values={"width_m": 0.02, "names": topics.FINGER_JOINTS})
    found = []
    for item in (arm_only, both, both, fingers, both):
        data = serialise(item)
        found.append(width(data, cdr.header(data)[1]))
    assert found == [(), (0.06,), (0.06,), (0.02,), (0.06,)]


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "png"])
def test_images_are_those_that_were_written(encoding):
    image = np.random.default_rng(0).integers(0, 255, (6, 9, 3), dtype=np.uint8)
    data = serialise(Item(topics.STATIC_IMAGE, START_NS, START_NS, {"image": image}), encoding)
    _, offset = cdr.header(data)
    fields = (cdr.compressed_fields if encoding == "png" else cdr.image_fields)(data, offset)
    np.testing.assert_array_equal(cdr.rgb(data, fields), image)


@given(st.data())
def test_cut_off_and_random_bytes_raise_nothing_but_the_two_errors(data):
    item = Item(topics.STATIC_IMAGE, START_NS, START_NS, {"image": image_of(3)})
    whole = serialise(item)
    cut = data.draw(st.one_of(st.binary(max_size=60), st.integers(0, len(whole)).map(lambda n: whole[:n])))
    for read in (cdr.image_fields, cdr.compressed_fields, cdr.pose, cdr.FingerWidth(), cdr.gripper_command):
        try:
            read(cut, cdr.header(cut)[1])
        except (struct.error, ValueError):
            pass


def test_an_image_of_unknown_encoding_is_refused_with_the_known_ones():
    item = Item(topics.STATIC_IMAGE, START_NS, START_NS, {"image": image_of(3)})
    data = serialise(item, "nv24")
    fields = cdr.image_fields(data, cdr.header(data)[1])
    with pytest.raises(ValueError, match="unknown image encoding .nv24.*known: rgb8, bgr8"):
        cdr.check_image(fields)
