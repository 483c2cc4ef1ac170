"""The message layouts of FCI protocol 5: sizes, places and what is no message."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diwa_sim.fci.messages import (
    ERRORS,
    GRIPPER_HEADER,
    GRIPPER_STATE,
    REQUESTS,
    ROBOT_COMMAND,
    ROBOT_HEADER,
    ROBOT_STATE,
    Command,
    MoveStatus,
    ProtocolError,
    answer,
    parse,
    split_request,
)


def test_states_and_commands_have_the_published_sizes():
    assert (ROBOT_STATE.itemsize, ROBOT_COMMAND.itemsize, GRIPPER_STATE.itemsize) == (2373, 370, 23)
    assert (ROBOT_HEADER.itemsize, GRIPPER_HEADER.itemsize) == (12, 10)


@pytest.mark.parametrize(
    ("command", "size"),
    [
        (Command.CONNECT, 4),
        (Command.MOVE, 8 + 6 * 8),
        (Command.SET_COLLISION_BEHAVIOR, (4 * 7 + 4 * 6) * 8),
        (Command.SET_LOAD, 13 * 8),
        (Command.SET_GUIDING_MODE, 7),
        (Command.LOAD_MODEL_LIBRARY, 2),
    ],
)
def test_requests_have_the_published_sizes(command, size):
    assert REQUESTS[command].itemsize == size


@pytest.mark.parametrize(
    ("field", "offset"),
    [("O_T_EE", 8), ("m_ee", 776), ("elbow", 984), ("q", 1184), ("errors", 2282), ("robot_mode", 2364)],
)
def test_a_field_of_the_state_is_where_the_client_reads_it(field, offset):
    assert ROBOT_STATE.fields[field][1] == offset


def test_error_flags_have_unique_names_in_the_published_order():
    assert len(ERRORS) == len(set(ERRORS)) == 41
    assert (ERRORS[7], ERRORS[25], ERRORS[32]) == (
        "cartesian_reflex",
        "communication_constraints_violation",
        "controller_torque_discontinuity",
    )


def request(command: Command, command_id: int, payload: bytes) -> bytes:
    return np.array((command, command_id, 12 + len(payload)), ROBOT_HEADER).tobytes() + payload


REQUEST = st.tuples(st.sampled_from(Command), st.integers(0, 2**32 - 1), st.binary(max_size=80))


@given(st.lists(REQUEST, max_size=5), st.integers(1, 30))
@settings(deadline=None)
def test_requests_are_found_however_the_bytes_arrive(sent, chunk):
    stream, buffer, found = b"".join(request(*each) for each in sent), bytearray(), []
    for begin in range(0, len(stream), chunk):
        buffer += stream[begin : begin + chunk]
        while (one := split_request(buffer, ROBOT_HEADER)) is not None:
            found.append(one)
    assert found == sent and not buffer


@given(st.binary(max_size=60))
@settings(deadline=None)
def test_nonsense_is_refused_or_waits_for_more(data):
    buffer = bytearray(data)
    try:
        found = split_request(buffer, ROBOT_HEADER)
    except ProtocolError:
        return
    assert found is None or len(found[2]) + 12 <= len(data)


def test_a_payload_of_another_length_is_refused():
    with pytest.raises(ProtocolError, match="a payload of 55 bytes; expected 56"):
        parse(bytes(55), REQUESTS[Command.MOVE])


def test_an_answer_repeats_command_and_number_and_counts_its_own_bytes():
    sent = answer(ROBOT_HEADER, Command.MOVE, 9, MoveStatus.PREEMPTED)
    assert tuple(np.frombuffer(sent[:12], ROBOT_HEADER)[0]) == (Command.MOVE, 9, 13) and sent[12:] == b"\x02"
    assert len(answer(GRIPPER_HEADER, 3, 9, 2)) == 12
