"""``diwa bag info`` and ``diwa bag repair``."""

from pathlib import Path

import numpy as np
import pytest

from diwa_bringup.bag import BagInfo, BagRepair
from diwa_conventions import topics
from diwa_conventions.bags.definitions import connection, typestore
from diwa_conventions.bags.reader import Bag
from diwa_conventions.bags.writer import BagWriter
from diwa_conventions.errors import UserError

START_NS = 1_700_000_000_000_000_000


def header(seconds: float) -> object:
    types = typestore().types
    stamp_ns = START_NS + int(seconds * 1e9)
    time = types["builtin_interfaces/msg/Time"](stamp_ns // 10**9, stamp_ns % 10**9)
    return types["std_msgs/msg/Header"](time, "")


def cdr(kind: str, *fields: object) -> bytes:
    return bytes(typestore().serialize_cdr(typestore().types[kind](*fields), kind))


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    """Two seconds of commands at 10 Hz and a failure marked after 1.5 s."""
    writer = BagWriter(tmp_path / "play", custom={"tags": "lab, monday", "namespace": "/diwa"})
    writer.note("parameters", {"/diwa/recorder": "compression: none\n"})
    action, mark = (writer.add(connection(topic, "diwa")) for topic in (topics.ACTION, topics.ANNOTATION))
    zero = np.zeros(3)
    for frame in range(21):
        data = cdr(topics.ACTION.type, header(frame / 10), "teleop", frame, 0.1, zero, zero, 1.0)
        writer.write(action, START_NS + frame * 10**8, data)
    note = cdr(topics.ANNOTATION.type, header(1.5), "open-drawer", False, "handle slipped")
    writer.write(mark, START_NS + 2 * 10**9, note)
    writer.close()
    return tmp_path / "play"


def test_info_says_duration_topics_rates_tags_and_annotations(bag: Path, capsys: pytest.CaptureFixture[str]):
    assert BagInfo(bag).run() == 0
    out = capsys.readouterr().out
    assert "play: 2.0 s from 2023-11-1" in out and "22 messages" in out
    (line,) = [line.split() for line in out.splitlines() if "/diwa/action" in line]
    assert line == ["/diwa/action", "diwa_msgs/msg/DeltaAction", "21", "10.5"]
    assert "1.5 s  open-drawer: failure (handle slipped)" in out
    assert "tags: lab, monday" in out and "parameters: /diwa/recorder" in out


def test_info_of_a_bag_that_was_cut_off_names_the_command_that_mends_it(bag: Path):
    file = bag / "play_0.mcap"
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(UserError, match=f"diwa bag repair {bag}"):
        BagInfo(bag).run()


def test_repair_says_what_was_kept_and_what_was_lost(bag: Path, capsys: pytest.CaptureFixture[str]):
    file = bag / "play_0.mcap"
    content = file.read_bytes()
    last = content.index(b"handle slipped")
    file.write_bytes(content[:last])
    assert BagRepair(bag).run() == 0
    out = capsys.readouterr().out
    assert f"{bag}_repaired: repaired play_0.mcap, metadata.yaml; kept 21 messages" in out and "2.0 s" in out
    assert "      21  /diwa/action" in out and "lost: " in out
    assert Bag(bag.with_name("play_repaired")).topics["/diwa/action"].messages == 21
    assert file.read_bytes() == content[:last], "the original stays as it is"


def test_repair_in_place_and_elsewhere(bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = bag / "play_0.mcap"
    file.write_bytes(file.read_bytes()[:-200])
    assert BagRepair(bag, out=tmp_path / "other").run() == 0
    assert BagRepair(bag, in_place=True).run() == 0
    assert Bag(bag).topics == Bag(tmp_path / "other").topics
    assert f"{bag}: repaired" in capsys.readouterr().out


def test_info_says_when_the_clock_was_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    writer = BagWriter(tmp_path / "play")
    mark = writer.add(connection(topics.ANNOTATION, "diwa"))
    for seconds in (0.0, 0.5, 1.0, -3599.0, -3598.5):
        note = cdr(topics.ANNOTATION.type, header(seconds), "open-drawer", True, "")
        writer.write(mark, START_NS + int(seconds * 1e9), note)
    writer.close()
    assert BagInfo(tmp_path / "play").run() == 0
    out = capsys.readouterr().out
    assert "play: 1.5 s from" in out and "clock: set back by 3600.000 s at 1.000 s" in out
    assert "     1.5 s  open-drawer: success" in out


def test_repair_of_a_good_bag_says_so(bag: Path, capsys: pytest.CaptureFixture[str]):
    assert BagRepair(bag).run() == 0
    assert "nothing to repair; 22 messages" in capsys.readouterr().out
