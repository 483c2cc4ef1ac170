"""Raw subscriptions on releases whose rclpy tells callbacks about a message, and on Humble, whose does not."""

import pytest

from diwa_conventions import qos

SOME = {"publication_sequence_number": 7}


class Node:
    """Calls back as rclpy does: Humble's with the message alone."""

    def __init__(self, numbers_messages: bool) -> None:
        self.numbers_messages = numbers_messages

    def create_subscription(self, kind, name, callback, quality, raw):
        assert raw
        return callback(b"data", SOME) if self.numbers_messages else callback(b"data")


@pytest.mark.parametrize(("numbers_messages", "expected"), [(True, SOME), (False, {})])
def test_the_callback_gets_bytes_and_what_the_release_tells(monkeypatch, numbers_messages, expected):
    monkeypatch.setattr(qos, "NUMBERS_MESSAGES", numbers_messages)
    heard = []
    qos.subscribe_raw(Node(numbers_messages), object, "/topic", lambda *words: heard.append(words), object())
    assert heard == [(b"data", expected)]
