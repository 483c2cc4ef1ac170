"""How a pipeline goes through its stages; the stages themselves are a stand-in (pipeline_samples.py)."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pipeline_samples import FakeDiwa

from diwa_bringup import main as main_module
from diwa_bringup.pipeline import costs
from diwa_bringup.pipeline import run as run_module
from diwa_bringup.pipeline.command import Pipeline
from diwa_bringup.pipeline.config import STAGES
from diwa_bringup.pipeline.run import summary
from diwa_conventions.errors import UserError

DEADLINE_S = 60.0
NO_ROS = "play.ros_seconds=0", "evaluation.ros=false"
SHORT = (*NO_ROS, "play.attempts=0", "skip=[inspect_play,inspect_demos,world_model_evaluation]")
VERBS = ["simulate", "simulate", "import", "import", "train", "pretrain", "reward", "finetune", "evaluate", "report"]


@pytest.fixture
def diwa(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDiwa:
    fake = FakeDiwa(tmp_path)
    for name, value in fake.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(main_module, "VERBS", {**main_module.VERBS, "report": None})
    return fake


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def own_bags(tmp_path: Path) -> Path:
    bags = tmp_path / "own"
    bags.mkdir()
    (bags / "bag.mcap").write_text("play of a lab")
    return bags


def pipeline(out: Path, *words: str, **options: object) -> int:
    """The stages that make something, and none over ROS."""
    return Pipeline(out, set=(*SHORT, *words), **options).run()  # type: ignore[arg-type]


def state(out: Path) -> dict[str, dict]:
    return {record["name"]: record for record in json.loads((out / "pipeline.json").read_text())["stages"]}


def test_all_stages_run_in_order_and_leave_what_they_made(diwa: FakeDiwa, out: Path, capsys):
    assert Pipeline(out, set=NO_ROS).run() == 0
    assert diwa.verbs() == [
        *("simulate", "simulate", "simulate", "import", "inspect", "import", "inspect", "train", "evaluate"),
        *("pretrain", "reward", "finetune", "evaluate", "report"),
    ]
    assert [name for name in STAGES if not name.endswith("_ros")] == list(state(out))
    assert {record["state"] for record in state(out).values()} == {"done"}
    assert state(out)["base"]["outputs"] == ["base/metadata.json"]
    assert state(out)["base"]["command"].startswith(f"diwa pretrain {out}/world_model/world_model {out}/data/demos")
    assert state(out)["base"]["summary"] == "pretrain is done"
    assert "pretrain is done" in (out / "logs/base.log").read_text()
    printed = capsys.readouterr().out
    assert "base: imitate the demonstrations, about 0:20" in printed
    assert f"page: {out}/report.html" in printed


def test_success_table_has_base_chosen_and_last(diwa: FakeDiwa, out: Path, capsys):
    pipeline(out)
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[1]: " ".join(line.split()) for line in lines if "[40, 100]" in line}
    assert list(rows) == ["base", "chosen", "last"]
    assert "90.0 [40, 100] (7 of 10)" in rows["chosen"]
    assert state(out)["evaluation"]["summary"] == "base 50%, chosen 90%, last 80%"


def test_nothing_is_done_twice(diwa: FakeDiwa, out: Path, capsys):
    pipeline(out)
    diwa.verbs()
    before = state(out)["base"]
    for _ in range(2):
        assert pipeline(out) == 0
        assert diwa.verbs() == []
        assert state(out)["base"] == {**before, "state": "skipped"}
        assert "all stages are done" in capsys.readouterr().out


def test_folder_alone_is_enough_to_go_on(diwa: FakeDiwa, out: Path):
    pipeline(out, "play.frames=500")
    diwa.verbs()
    assert Pipeline(out).run() == 0
    assert diwa.verbs() == []


def test_missing_output_is_made_again(diwa: FakeDiwa, out: Path):
    pipeline(out)
    diwa.verbs()
    (out / "report.html").unlink()
    assert pipeline(out) == 0
    assert diwa.verbs() == ["report"]


def test_changed_bag_of_ones_own_is_imported_anew_with_all_that_follows(diwa: FakeDiwa, out: Path, own_bags: Path):
    pipeline(out, play=(own_bags,))
    assert diwa.verbs() == ["import", "train", "pretrain", "reward", "finetune", "report"]
    (own_bags / "bag.mcap").write_text("other play of a lab")
    assert pipeline(out, play=(own_bags,)) == 0
    assert diwa.verbs() == ["import", "train", "pretrain", "reward", "finetune", "report"]


def test_same_data_imported_anew_are_not_learned_from_anew(diwa: FakeDiwa, out: Path, own_bags: Path):
    pipeline(out, play=(own_bags,))
    diwa.verbs()
    os.utime(own_bags / "bag.mcap", (0, 0))
    assert pipeline(out, play=(own_bags,)) == 0
    assert diwa.verbs() == ["import"]


def test_failed_stage_is_one_line_and_what_it_left_is_removed(diwa: FakeDiwa, out: Path, monkeypatch, capsys):
    monkeypatch.setenv("FAKE_FAIL", "pretrain")
    assert pipeline(out) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "stage 'base' ended with exit code 2: the cat sits on it" in line
    assert f"{out}/logs/base.log" in line and f"diwa pipeline --out {out}" in line
    assert state(out)["base"]["state"] == "failed" and state(out)["reward"]["state"] == "waiting"
    monkeypatch.delenv("FAKE_FAIL")
    diwa.verbs()
    assert pipeline(out) == 0
    assert diwa.verbs() == VERBS[5:]
    assert not (out / "base/partial").exists()


def test_recording_over_ros_that_cannot_be_imported_is_recorded_anew(diwa: FakeDiwa, out: Path, monkeypatch):
    monkeypatch.setenv("FAKE_FAIL", "import")
    over_ros = ("play.ros_seconds=5", "evaluation.ros=false", *SHORT[2:])
    assert Pipeline(out, set=over_ros).run() == 1
    assert state(out)["play_ros"]["state"] == "waiting" and state(out)["play"]["state"] == "done"
    monkeypatch.setenv("FAKE_FAIL", "train")
    diwa.verbs()
    assert Pipeline(out, set=over_ros).run() == 1
    assert diwa.verbs()[:2] == ["record", "import"]


def test_summary_of_a_stage_that_only_says_where_its_page_is(tmp_path: Path):
    log = tmp_path / "log"
    log.write_text("report: run/report.html (0.7 MB)\n")
    assert summary(log) == "report: run/report.html (0.7 MB)"
    log.write_text("97 frames\nreport: run/report.html\nnext: diwa train\n")
    assert summary(log) == "97 frames"


def test_stage_that_resumes_keeps_what_it_left(diwa: FakeDiwa, out: Path, monkeypatch):
    monkeypatch.setenv("FAKE_FAIL", "train")
    assert pipeline(out) == 1
    monkeypatch.delenv("FAKE_FAIL")
    assert pipeline(out) == 0
    assert (out / "world_model/partial").exists()


def test_stage_that_resumes_begins_anew_with_another_command(diwa: FakeDiwa, out: Path, monkeypatch):
    monkeypatch.setenv("FAKE_FAIL", "train")
    assert pipeline(out) == 1
    monkeypatch.delenv("FAKE_FAIL")
    assert pipeline(out, "world_model=[training.steps=7]", change=True) == 0
    assert not (out / "world_model/partial").exists()


def test_ctrl_c_stops_the_stage_in_order_and_says_how_to_go_on(diwa: FakeDiwa, out: Path):
    code = (
        "import sys; from diwa_bringup import main; main.VERBS = {**main.VERBS, 'report': None}; "
        "from pathlib import Path; from diwa_bringup.pipeline.command import Pipeline; "
        f"sys.exit(Pipeline(Path({str(out)!r}), set={SHORT!r}).run())"
    )
    environment = {**os.environ, "FAKE_HANG": "import"}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True)
    deadline_s = time.monotonic() + DEADLINE_S
    while not diwa.hangs and process.poll() is None and time.monotonic() < deadline_s:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130
    assert f"to go on: diwa pipeline --out {out}" in said and "Traceback" not in said
    assert "stopped in order" in (out / "logs/import_play.log").read_text()
    assert state(out)["import_play"]["state"] == "waiting"
    diwa.verbs()
    assert pipeline(out) == 0
    assert diwa.verbs() == VERBS[2:]


def test_another_config_in_a_run_folder_is_refused_with_the_key(diwa: FakeDiwa, out: Path):
    pipeline(out)
    diwa.verbs()
    with pytest.raises(UserError, match=r"begun with seed=0, and now it is 1; .*another --out, or add --change"):
        pipeline(out, seed=1)
    assert diwa.verbs() == []


def test_changed_config_makes_anew_what_depends_on_it(diwa: FakeDiwa, out: Path):
    pipeline(out)
    diwa.verbs()
    assert pipeline(out, "reward=[reward.epochs=3]", change=True) == 0
    assert diwa.verbs() == ["reward", "finetune", "evaluate", "report"]


def test_dry_run_tells_the_cost_and_touches_nothing(diwa: FakeDiwa, out: Path, capsys, monkeypatch):
    monkeypatch.setattr(costs, "cores", lambda: 2)
    assert pipeline(out, dry_run=True) == 0
    printed = capsys.readouterr().out
    assert "train the world model" in printed and "about 10:17" in printed
    assert not out.exists() and diwa.verbs() == []


def test_folder_of_somebody_elses_stays(diwa: FakeDiwa, out: Path):
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"was not made by diwa pipeline \(found: thesis.txt\)"):
        pipeline(out)
    assert (out / "thesis.txt").read_text() == "mine"


def test_two_pipelines_in_one_folder_are_refused(diwa: FakeDiwa, out: Path):
    pipeline(out)
    with run_module._alone_in(out), pytest.raises(UserError, match="another diwa pipeline works in"):
        pipeline(out)


def test_full_disk_is_refused_before_anything_runs(diwa: FakeDiwa, out: Path, monkeypatch):
    monkeypatch.setattr(run_module, "needed_bytes", lambda config: 10**16)
    with pytest.raises(UserError, match=r"needs about 10000000.0 GB more, and .* GB are free; make room"):
        pipeline(out)
    assert diwa.verbs() == []


def test_stage_whose_verb_is_not_built_is_named(diwa: FakeDiwa, out: Path, monkeypatch):
    verbs = {name: verb for name, verb in main_module.VERBS.items() if name != "reward"}
    monkeypatch.setattr(main_module, "VERBS", verbs)
    with pytest.raises(UserError, match=r"stage 'reward' needs diwa reward, .*--set skip=\[reward\]"):
        pipeline(out)


def test_stage_that_needs_what_is_left_out_is_named(diwa: FakeDiwa, out: Path):
    with pytest.raises(UserError, match="stage 'base' needs .*world_model/world_model, which is not there"):
        pipeline(out, "skip=[world_model,world_model_evaluation]")
