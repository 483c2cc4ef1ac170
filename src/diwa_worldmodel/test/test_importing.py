"""``diwa import``: several sources, one of them bad; interruptions; the same again."""

import errno
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from bag_factory import changed, items, write_bag
from test_calvin import make_split

from diwa_conventions import topics
from diwa_conventions.errors import UserError
from diwa_worldmodel.dataset import importing
from diwa_worldmodel.dataset.importing import Import, find_sources, import_all, parse_remap
from diwa_worldmodel.dataset.recording_writer import PARTIAL_PREFIX, RecordingWriter
from diwa_worldmodel.dataset.store import open_data_set

DEADLINE_S = 60.0


@pytest.fixture
def bags(tmp_path):
    """A folder of three bags."""
    for i in range(3):
        made = changed(items(1.0 + i), topics.STATIC_IMAGE, lambda number, item: item)
        write_bag(tmp_path / "bags" / f"play_{i}", made)
    return tmp_path / "bags"


def chunks(path) -> dict[str, bytes]:
    """All files of arrays by name."""
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("c/**/*") if file.is_file()}


def test_a_folder_of_bags_a_file_and_a_calvin_folder_become_one_data_set(bags, tmp_path, capsys):
    split = make_split(tmp_path / "lab" / "training")
    file = next((bags / "play_0").glob("*.mcap"))
    out = tmp_path / "out"
    assert Import((bags, file, split), out, image_size=16, workers=1).run() == 0
    data_set = open_data_set(out)
    assert [recording.frames for recording in data_set.recordings] == [9, 8, 15, 23]
    said = capsys.readouterr()
    assert "4 recordings, 55 frames" in said.out
    line = "play_1: imported, 15 frames, 1 episode, 0 annotations, 0.0% of steps saturated, left out: nothing"
    assert line in said.out


def test_one_bad_bag_costs_no_other_and_is_told_at_the_end(bags, tmp_path, capsys):
    next((bags / "play_1").glob("*.mcap")).write_bytes(b"")
    out = tmp_path / "out"
    assert Import((bags,), out, image_size=16, workers=2).run() == 2
    assert [recording.frames for recording in open_data_set(out).recordings] == [8, 23]
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith(f"diwa: {bags / 'play_1'} was not imported: ")


def test_the_same_again_is_skipped_and_new_sources_are_added(bags, tmp_path, capsys):
    out = tmp_path / "out"
    assert Import((bags / "play_0", bags / "play_1"), out, image_size=16, workers=1).run() == 0
    before = chunks(out)
    capsys.readouterr()
    assert Import((bags,), out, image_size=16, workers=1).run() == 0
    said = capsys.readouterr().out
    assert said.count("already imported") == 2
    assert said.count(": imported") == 1
    after = chunks(out)
    assert before.items() <= after.items()
    assert len(open_data_set(out).recordings) == 3


def test_two_imports_of_the_same_bags_are_byte_equal(bags, tmp_path):
    for name, workers in (("a", 1), ("b", 2)):
        assert Import((bags,), tmp_path / name, image_size=16, workers=workers).run() == 0
    first, second = chunks(tmp_path / "a"), chunks(tmp_path / "b")
    assert len(first) == 15
    assert first == second
    assert open_data_set(tmp_path / "a").hash() == open_data_set(tmp_path / "b").hash()


def test_a_copy_of_a_bag_is_known_by_its_content(bags, tmp_path):
    os.rename(bags / "play_0", bags / "renamed")
    out = tmp_path / "out"
    assert Import((bags / "renamed",), out, image_size=16).run() == 0
    os.rename(bags / "renamed", bags / "play_0")
    assert Import((bags / "play_0",), out, image_size=16).run() == 0
    assert len(open_data_set(out).recordings) == 1


def test_other_options_than_the_data_set_has_are_refused(bags, tmp_path):
    Import((bags / "play_0",), tmp_path / "out", image_size=16).run()
    with pytest.raises(UserError, match="was made with image_size_px 16, not 64"):
        Import((bags,), tmp_path / "out").run()


KILLED = """
import sys
from pathlib import Path
from diwa_worldmodel.dataset import recording_writer
from diwa_worldmodel.dataset.importing import Import

def stall(self, *arguments, **more):
    if self._source.name == "play_1":
        print("stalled", flush=True)
        sys.stdin.read()
    return append(self, *arguments, **more)

append, recording_writer.RecordingWriter.append = recording_writer.RecordingWriter.append, stall
Import((Path(sys.argv[1]),), Path(sys.argv[2]), image_size=16, workers=1).run()
"""


def test_after_a_kill_the_same_command_imports_only_the_rest(bags, tmp_path, capsys):
    out = tmp_path / "out"
    words = [sys.executable, "-c", KILLED, str(bags), str(out)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == b"stalled\n"
        killed.send_signal(signal.SIGKILL)
        killed.wait(DEADLINE_S)
    left = [path.name for path in (out / "recordings").iterdir() if path.is_dir()]
    assert len(left) == 2
    assert sum(name.startswith(PARTIAL_PREFIX) for name in left) == 1
    assert Import((bags,), out, image_size=16, workers=1).run() == 0
    said = capsys.readouterr().out
    assert said.count("already imported") == 1
    assert said.count(": imported") == 2
    whole = tmp_path / "whole"
    assert Import((bags,), whole, image_size=16, workers=1).run() == 0
    assert chunks(out) == chunks(whole)


TWO_WORKERS = """
import sys
from pathlib import Path
from diwa_worldmodel.dataset.importing import Import

if __name__ == "__main__":
    Import((Path(sys.argv[1]),), Path(sys.argv[2]), image_size=16, workers=2).run()
"""


def test_workers_end_with_a_parent_that_is_killed(bags, tmp_path):
    code = "from pathlib import Path; import sys; from diwa_worldmodel.dataset.importing import Import\\n"
    code += "if __name__ == '__main__': Import((Path(sys.argv[1]),), Path(sys.argv[2]), image_size=16, workers=2).run()"
    script = tmp_path / "run.py"
    script.write_text(code.replace("\\n", "\n"))
    parent = subprocess.Popen(
        [sys.executable, str(script), str(bags), str(tmp_path / "out")],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    children = wait_for(lambda: children_of(parent.pid))
    parent.kill()
    parent.wait(DEADLINE_S)
    wait_for(lambda: not any(is_running(child) for child in children))


def wait_for(condition):
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


def children_of(pid: int) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as stream:
            return [int(word) for word in stream.read().split()]
    except OSError:
        return []


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_full_disk_is_one_clear_line(bags, tmp_path, monkeypatch):
    def full(self, *arguments, **more):
        raise OSError(errno.ENOSPC, "No space left on device")

    out = tmp_path / "out"
    assert Import((bags / "play_0",), out, image_size=16).run() == 0
    monkeypatch.setattr(RecordingWriter, "append", full)
    (line,) = import_all([bags / "play_1"], out, quiet=True)
    told = f"the disk of {out} is full; make room and import again: what was complete is kept"
    assert line == f"{bags / 'play_1'}: {told}"
    assert not list((out / "recordings").glob(f"{PARTIAL_PREFIX}*"))
    assert len(open_data_set(out).recordings) == 1


def test_a_worker_that_dies_is_told_and_not_waited_for(tmp_path, monkeypatch):
    class Broken:
        def result(self):
            raise importing.BrokenProcessPool

    outcome = importing._outcome(Broken(), tmp_path)
    assert outcome.status == "failed"
    assert "out of memory" in outcome.line


def test_sources_are_told_apart_and_taken_once(bags, tmp_path):
    split = make_split(tmp_path / "calvin" / "training", segments=((0, 4),), windows=())
    (tmp_path / "lerobot" / "meta").mkdir(parents=True)
    (tmp_path / "lerobot" / "meta" / "info.json").write_text("{}")
    found = find_sources([bags, bags / "play_1", tmp_path / "calvin", tmp_path / "lerobot"])
    assert found == [
        (bags / "play_0", "bag"),
        (bags / "play_1", "bag"),
        (bags / "play_2", "bag"),
        (split, "calvin"),
        (tmp_path / "lerobot", "lerobot"),
    ]


def test_folders_without_anything_to_import_are_refused_with_what_they_hold(bags, tmp_path):
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "photo.jpg").touch()
    with pytest.raises(UserError, match="holiday holds no bag, CALVIN or LeRobot folder .found: photo.jpg"):
        find_sources([tmp_path / "holiday"])
    with pytest.raises(UserError, match="there is no .*nowhere"):
        find_sources([tmp_path / "nowhere"])
    Import((bags / "play_0",), tmp_path / "out", image_size=16).run()
    with pytest.raises(UserError, match="is a data set already"):
        find_sources([tmp_path / "out"])


def test_a_fault_of_ours_costs_one_source_and_says_so(bags, tmp_path, monkeypatch, capsys):
    def fail(path, data_set, options, progress):
        if path.name == "play_1":
            raise KeyError("axis")
        return imported(path, data_set, options, progress)

    imported = importing._import
    monkeypatch.setattr(importing, "_import", fail)
    assert Import((bags,), tmp_path / "out", image_size=16, workers=1).run() == 2
    assert [recording.frames for recording in open_data_set(tmp_path / "out").recordings] == [8, 23]
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.endswith("KeyError: 'axis' (a fault of diwa; DIWA_TRACEBACK=1 shows where)")


def test_a_data_set_among_its_bags_is_passed_over(bags, capsys):
    for _ in range(2):
        assert Import((bags,), bags / "data", image_size=16, workers=1).run() == 0
    assert capsys.readouterr().out.count("already imported") == 3
    with pytest.raises(UserError, match="is a data set already"):
        find_sources([bags / "data"])


def test_remap_words_become_a_table():
    assert parse_remap(["static_camera/image_raw=/a/b", "/current_pose=c"]) == {
        "static_camera/image_raw": "/a/b",
        "current_pose": "/c",
    }
    with pytest.raises(UserError, match="--remap 'x'; expected OUR/TOPIC="):
        parse_remap(["x"])


def test_images_and_numbers_of_a_recording_are_as_long_as_its_episodes(bags, tmp_path):
    Import((bags,), tmp_path / "out", image_size=16, workers=1).run()
    for recording in open_data_set(tmp_path / "out").recordings:
        for name in ("static", "gripper", "proprio", "action", "stamp_ns"):
            assert np.asarray(getattr(recording, name)[:]).shape[0] == recording.frames
