"""Keyboard and gamepad as operators: what keys, sticks and buttons do to the hand."""

import math
import os
import pty
import termios

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diwa_conventions.actions import euler_to_matrix
from diwa_conventions.errors import UserError
from diwa_teleop.operators.gamepad import GamepadConfig, GamepadOperator
from diwa_teleop.operators.keyboard import KeyboardConfig, KeyboardOperator
from diwa_teleop.operators.terminal import Terminal, TerminalClosedError
from diwa_teleop.presses import Presses

DT_S = 1.0 / 30.0


class Typist:
    """Keys as a test types them."""

    def __init__(self) -> None:
        self.typed: list[str] = []
        self.gone = False

    def read_keys(self) -> list[str]:
        if self.gone:
            raise TerminalClosedError
        keys, self.typed = self.typed, []
        return keys


def keyboard() -> tuple[Typist, KeyboardOperator]:
    typist = Typist()
    return typist, KeyboardOperator(typist, KeyboardConfig(speed_m_s=0.1, turn_rad_s=0.5, hold_s=0.1))


def after(typist: Typist, operator: KeyboardOperator, keys: list[str], readings: int = 10):
    typist.typed = keys
    return [operator.read(DT_S) for _ in range(readings)][-1]


@pytest.mark.parametrize(
    ("key", "shift_m"),
    [
        ("w", (0.01, 0, 0)),
        ("s", (-0.01, 0, 0)),
        ("a", (0, 0.01, 0)),
        ("d", (0, -0.01, 0)),
        ("r", (0, 0, 0.01)),
        ("f", (0, 0, -0.01)),
        ("W", (0.01, 0, 0)),
        ("\x1b[A", (0.01, 0, 0)),
        ("\x1b[C", (0, -0.01, 0)),
        ("?", (0, 0, 0)),
    ],
)
def test_a_key_moves_the_hand_by_its_speed_for_as_long_as_it_counts_as_held(key, shift_m):
    sample = after(*keyboard(), [key])
    np.testing.assert_allclose(sample.pose.position, shift_m, atol=1e-12)
    np.testing.assert_allclose(sample.pose.rotation, np.eye(3), atol=1e-12)


@pytest.mark.parametrize(
    ("key", "angles"),
    [
        ("l", (0.05, 0, 0)),
        ("j", (-0.05, 0, 0)),
        ("k", (0, 0.05, 0)),
        ("i", (0, -0.05, 0)),
        ("q", (0, 0, 0.05)),
        ("e", (0, 0, -0.05)),
    ],
)
def test_a_key_turns_the_hand_about_an_axis_of_the_base(key, angles):
    sample = after(*keyboard(), [key])
    np.testing.assert_allclose(sample.pose.rotation, euler_to_matrix(np.array(angles)), atol=1e-12)
    np.testing.assert_allclose(sample.pose.position, 0.0, atol=1e-12)


def test_a_repeating_key_moves_the_hand_without_pause():
    typist, operator = keyboard()
    for _ in range(30):
        typist.typed = ["w"]
        sample = operator.read(DT_S)
    assert sample.pose.position[0] == pytest.approx(0.1)


def test_clutch_and_gripper_keys_switch_over_and_disarming_releases_the_clutch():
    typist, operator = keyboard()
    assert (after(typist, operator, []).clutch, after(typist, operator, []).trigger) == (False, 0.0)
    assert (after(typist, operator, ["c", " "]).clutch, after(typist, operator, []).trigger) == (True, 1.0)
    assert after(typist, operator, [" "]).trigger == 0.0
    assert not after(typist, operator, ["x"]).clutch


def test_every_press_is_an_edge_however_fast_keys_follow_each_other():
    typist, operator = keyboard()
    typist.typed = ["\n", "1", "1", "2", "x"]
    samples = [operator.read(DT_S) for _ in range(12)]
    presses = Presses()
    seen = [presses.new([s.clutch, s.arm, s.disarm, s.success, s.failure]) for s in samples]
    presses_before_the_first = [["arm"]] if samples[0].arm else []
    assert presses_before_the_first + [s for s in seen if s] == [["arm"], [3], [3], [4], [2]]


def test_a_closed_terminal_ends_the_samples():
    typist, operator = keyboard()
    typist.gone = True
    assert operator.read(DT_S) is None
    assert operator.closed


@pytest.mark.parametrize("name", ["speed_m_s", "turn_rad_s", "hold_s"])
def test_keyboard_settings_out_of_range_are_refused_by_name(name):
    with pytest.raises(UserError, match=f"{name} is 9.0; expected a number from"):
        KeyboardConfig(**{name: 9.0})


@pytest.fixture
def terminal():
    """The two ends of a terminal: what a person types into, and the stream that a program reads."""
    person, program = pty.openpty()
    with os.fdopen(program) as stream:
        yield person, stream
    try:
        os.close(person)
    except OSError:
        pass


def local_modes(stream) -> int:
    return termios.tcgetattr(stream.fileno())[3]


def test_keys_are_read_as_typed_without_echo_and_escape_sequences_are_one_key(terminal):
    person, stream = terminal
    with Terminal(stream) as keys:
        assert not local_modes(stream) & (termios.ECHO | termios.ICANON)
        assert keys.read_keys() == []
        os.write(person, b"wW\x1b[A\x1b[1;5C\x1bOD 1")
        assert keys.read_keys() == ["w", "W", "\x1b[A", "\x1b[1;5C", "\x1bOD", " ", "1"]


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_an_escape_sequence_that_comes_in_two_parts_is_one_key(terminal, cut: int):
    person, stream = terminal
    with Terminal(stream) as keys:
        os.write(person, b"w\x1b[1;5C"[: 1 + cut])
        read = keys.read_keys()
        os.write(person, b"w\x1b[1;5C"[1 + cut :])
        assert read + keys.read_keys() == ["w", "\x1b[1;5C"]


def test_the_terminal_is_as_before_also_after_an_error(terminal):
    _, stream = terminal
    before = termios.tcgetattr(stream.fileno())
    with pytest.raises(RuntimeError), Terminal(stream):
        raise RuntimeError
    assert termios.tcgetattr(stream.fileno()) == before


def test_a_terminal_that_is_closed_says_so(terminal):
    person, stream = terminal
    with Terminal(stream) as keys:
        os.close(person)
        with pytest.raises(TerminalClosedError):
            keys.read_keys()


def test_without_a_terminal_there_is_one_clear_line():
    with open(os.devnull) as stream, pytest.raises(UserError, match="needs a terminal of its own.*ros2 run"):
        Terminal(stream)


class Pad:
    """A gamepad with an Xbox controller's eight axes and eleven buttons, and a clock."""

    def __init__(self, config: GamepadConfig | None = None) -> None:
        self.now_s = 10.0
        self.operator = GamepadOperator(config or GamepadConfig(), clock=lambda: self.now_s)
        self.axes = [0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0]
        self.buttons = [0] * 11

    def read(self):
        self.operator.observe(self.axes, self.buttons)
        return self.operator.read(DT_S)


def test_sticks_move_the_hand_while_the_dead_man_s_button_is_held():
    pad = Pad()
    pad.axes[1] = 1.0
    assert pad.read().pose.position[0] == 0.0
    pad.buttons[4] = 1
    sample = pad.read()
    assert sample.clutch
    np.testing.assert_allclose(sample.pose.position, [0.2 * DT_S, 0.0, 0.0])


def test_each_stick_has_its_direction_and_flipped_ones_the_other():
    for number, axis in ((1, 0), (0, 1), (4, 2)):
        for flipped in ((), (number,)):
            pad = Pad(GamepadConfig(flipped=flipped))
            pad.buttons[4], pad.axes[number] = 1, 1.0
            assert np.sign(pad.read().pose.position[axis]) == (-1 if flipped else 1)
    for number, axis in ((6, 0), (7, 1), (3, 2)):
        pad = Pad()
        pad.buttons[4], pad.axes[number] = 1, -1.0
        angles = np.zeros(3)
        angles[axis] = -0.8 * DT_S
        np.testing.assert_allclose(pad.read().pose.rotation, euler_to_matrix(angles), atol=1e-12)


@given(st.floats(-1.5, 1.5))
def test_the_dead_zone_is_still_and_speed_grows_from_its_edge(value):
    pad = Pad(GamepadConfig(dead_zone=0.2, speed_m_s=0.3))
    pad.buttons[4], pad.axes[1] = 1, value
    expected = 0.3 * DT_S * math.copysign(max(0.0, (min(1.0, abs(value)) - 0.2) / 0.8), value)
    assert pad.read().pose.position[0] == pytest.approx(expected, abs=1e-12)


def test_the_trigger_goes_from_released_to_pulled():
    pad = Pad()
    for value, trigger in ((1.0, 0.0), (0.0, 0.5), (-1.0, 1.0), (-1.2, 1.0)):
        pad.axes[5] = value
        assert pad.read().trigger == pytest.approx(trigger)


def test_buttons_have_their_meanings_and_unused_ones_none():
    pad = Pad(GamepadConfig(failure_button=-1))
    pad.buttons = [1] * 11
    sample = pad.read()
    assert (sample.arm, sample.disarm, sample.success, sample.failure) == (True, True, True, False)


def test_a_silent_gamepad_gives_no_samples():
    pad = Pad()
    assert pad.operator.read(DT_S) is None
    pad.read()
    pad.now_s += 0.31
    assert pad.operator.read(DT_S) is None


@pytest.mark.parametrize(
    ("axes", "buttons", "complaint"),
    [
        ([0.0] * 4, [0] * 11, "the gamepad has no axis 7, only 4 of them"),
        ([0.0] * 8, [0] * 4, "the gamepad has no button 7, only 4 of them"),
        ([math.nan] * 8, [0] * 11, "an axis that is not finite"),
    ],
)
def test_another_gamepad_than_configured_is_refused(axes, buttons, complaint):
    pad = Pad()
    assert pad.read() is not None
    with pytest.raises(UserError, match=complaint):
        pad.operator.observe(axes, buttons)
    assert pad.operator.read(DT_S) is None, "the sticks before it must not go on moving the hand"
    assert pad.read() is not None


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ({"dead_zone": 1.0}, "dead_zone is 1.0; expected a number from 0 to 0.9"),
        ({"axes": (0, 1, 2)}, "expected six numbers"),
        ({"clutch_button": -1}, "trigger_axis and clutch_button must be used"),
        ({"trigger_pulled": 1.0}, "trigger_released and trigger_pulled"),
    ],
)
def test_gamepad_settings_that_make_no_sense_are_refused(setting, complaint):
    with pytest.raises(UserError, match=complaint):
        GamepadConfig(**setting)


def test_a_press_is_a_change_from_released_to_pressed():
    presses = Presses()
    assert presses.new([1, 0]) == []  # held from the start
    assert presses.new([1, 1]) == [1]
    assert presses.new([0, 1]) == []
    assert presses.new([1, 1, 1]) == [0, 2]
    presses.forget()
    assert presses.new([1, 1, 1]) == []
