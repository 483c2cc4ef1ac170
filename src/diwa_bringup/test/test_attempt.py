import subprocess
from pathlib import Path

import pytest

from diwa_bringup.attempt import LATE_FACTOR, Attempt, Report
from diwa_bringup.graph import NodeSpec
from diwa_bringup.start import executable

FRAME_S = 1.0 / 30.0


def attempt() -> Attempt:
    return Attempt(task="open-drawer", frames=360, startup_s=10.0, began_s=100.0)


def feed(attempt: Attempt, count: int, begin_s: float, episode: int = 0, task: str = "open-drawer") -> float:
    """``count`` states without success; the moment after them."""
    for index in range(count):
        attempt.scene(task, False, episode, begin_s + index * FRAME_S)
    return begin_s + count * FRAME_S


def test_success_ends_the_attempt_after_the_linger():
    a = attempt()
    now_s = feed(a, 59, 101.0)
    a.scene("open-drawer", True, 0, now_s)
    assert a.over(now_s) and not a.over(now_s + 0.9, linger_s=1.0) and a.over(now_s + 1.1, linger_s=1.0)
    assert a.report() == Report("open-drawer", True, 2.0, "done", ())


def test_seconds_count_from_the_last_reset():
    a = attempt()
    feed(a, 100, 101.0, episode=0)
    feed(a, 29, 105.0, episode=1)
    a.scene("open-drawer", True, 1, 106.0)
    assert a.report().seconds == pytest.approx(1.0)


def test_success_at_another_task_counts_for_nothing():
    a = attempt()
    a.scene("close-drawer", True, 0, 101.0)
    assert not a.success and a.first_state_s is None


def test_success_after_the_last_frame_counts_for_nothing():
    a = attempt()
    now_s = feed(a, 360, 101.0)
    a.scene("open-drawer", True, 0, now_s)
    assert not a.success


def test_an_episode_that_was_begun_by_a_reset_is_over_after_its_frames():
    a = attempt()
    feed(a, 5, 101.0, episode=0)
    now_s = feed(a, 360, 102.0, episode=1)
    assert not a.over(now_s)
    feed(a, 1, now_s, episode=1)
    assert a.over(now_s)
    assert a.report().why == "not done within 360 frames"


def test_waiting_for_the_operator_does_not_count_as_an_attempt():
    a = attempt()
    assert not a.over(feed(a, 400, 101.0))


def test_no_state_at_all_is_over_after_the_start_up_time():
    a = attempt()
    assert not a.over(109.9) and a.over(110.1)
    assert a.report().why == "no scene_state with task open-drawer within 10 s"


def test_an_operator_that_never_begins_is_over_after_the_time_of_a_slow_episode():
    a = attempt()
    feed(a, 1, 101.0)
    limit_s = 110.0 + LATE_FACTOR * 12.0
    assert not a.over(limit_s - 0.1) and a.over(limit_s + 0.1)


def test_image_rate_is_from_first_to_last_arrival():
    a = attempt()
    for index in range(31):
        a.image("static_camera/image_raw", 101.0 + index * FRAME_S)
    a.image("gripper_camera/image_raw", 101.0)
    rates = {image.topic: (image.received, image.rate_hz) for image in a.report().images}
    assert rates == {"static_camera/image_raw": (31, 30.0), "gripper_camera/image_raw": (1, 0.0)}


def test_report_survives_its_file():
    a = attempt()
    feed(a, 3, 101.0)
    a.image("static_camera/image_raw", 101.0)
    assert Report.from_json(a.report_json()) == a.report()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-p", "report:=r.json"], "unknown task ''"),
        (["-p", "report:=r.json", "-p", "task:=fly"], "unknown task 'fly'"),
        (["-p", "task:=open-drawer"], "parameter report is empty"),
        (["-p", "task:=open-drawer", "-p", "report:=/proc/none/r.json"], "/proc/none/r.json"),
        (["-p", "task:=open-drawer", "-p", "report:=r.json", "-p", "frames:=many"], "frames"),
    ],
)
def test_bad_parameter_ends_the_watcher_with_one_line(tmp_path: Path, arguments: list[str], words: str):
    program = executable(NodeSpec("diwa_bringup", "task_watcher", "task_watcher", "/diwa"))
    command = [str(program), "--ros-args", *arguments]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("task_watcher: ") and words in line


def test_watcher_that_sees_nothing_reports_that(tmp_path: Path):
    program = executable(NodeSpec("diwa_bringup", "task_watcher", "task_watcher", "/diwa"))
    report = tmp_path / "report.json"
    parameters = ["task:=open-drawer", f"report:={report}", "startup_s:=0.5"]
    command = [str(program), "--ros-args", *(word for p in parameters for word in ("-p", p))]
    subprocess.run(command, check=True, timeout=30)
    assert Report.from_json(report.read_text()).why == "no scene_state with task open-drawer within 0.5 s"
